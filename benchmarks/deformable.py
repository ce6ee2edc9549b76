"""Deformable registration: a known field, landmarks, and a pair of light-sheet rounds.

    python benchmarks/deformable.py --data $DASKREG_DATA
    python benchmarks/deformable.py --data $DASKREG_DATA --only brain --spacing 10
    python benchmarks/deformable.py --data $DASKREG_DATA --only histology he prospc --peers greedy ants elastix

brain: MNI152 at 2 mm, deformed by analytic cubic B-splines (scipy, order 5) of at most 8 voxels, with 3 % white noise
in both images; the median error in the head. histology: a pair of stains with 78 landmarks, 733 x 890 pixels; the
median distance after the map, and its quartiles. he, prospc: both stains of one section of that pair, told apart by
their colours, one of them deformed by a field of at most 12 pixels; the median error, from the identity on. fish: two
rounds of one expanded sample, 149 x 241 x 456; the mean correlation over blocks of 32^3 voxels with tissue.
fish-half: the same from means of 2^3 voxels, with control points as far apart as by default for all voxels. Each
prints folds, seconds, and processor time, which counts on a busy machine. The metric is "mi" for stains,
and the default for the others, unless given.

`--peers` runs other tools after that, each in a process of its own, from the affine map that our layers begin from
(`pip install picsl-greedy antspyx itk-elastix SimpleITK`; their settings are in `deformable_peer.py`). What is not
installed is left out.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from deformable_peer import PEERS, installed
from scipy import ndimage

import daskreg as dr

Case = tuple[tuple[Any, Any], Callable[[Any], str]]
"""Fixed and moving image, and the text of the error of a transform."""


def measured(
    name: str, images: tuple[Any, Any], score: Callable[[Any], str], options: dict[str, Any], peers: Sequence[str]
) -> None:
    """Register, and print scores of the affine map alone, of the result, and of other tools."""
    fixed, moving = images
    grid = dr.grid(fixed)
    wall, processor = time.perf_counter(), time.process_time()
    fit = dr.register(fixed, moving, model="bspline", **options)
    affine = options.get("init") or fit.affine.moving_from_fixed
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    folds = fit.moving_from_fixed.folds(grid)[0]
    took = f"{wall:.1f} s, {processor:.1f} s of processor"
    print(f"{name}: affine {score(affine)}, layers {score(fit.moving_from_fixed)}, folds {folds}, {took}")
    print(f"  {fit}", flush=True)
    for peer in peers:
        if installed(peer):
            transform, took = by_peer(peer, fixed, dr.warp(moving, pull=affine, like=fixed), grid)
            transform = affine @ transform
            print(f"  {peer}: {score(transform)}, folds {transform.folds(grid)[0]}, {took}", flush=True)


def by_peer(name: str, fixed: Any, moving: Any, grid: dr.Grid) -> tuple[dr.DisplacementField, str]:
    """What another tool finds between images on one grid, and how long it took."""
    with tempfile.TemporaryDirectory() as folder:
        case, out = Path(folder, "case.npz"), Path(folder, "map.npy")
        values = {"fixed": np.asarray(fixed, np.float32), "moving": np.asarray(moving, np.float32)}
        np.savez(case, spacing=np.asarray(grid.spacing), **values)
        command = [sys.executable, str(Path(__file__).with_name("deformable_peer.py")), name, str(case), str(out)]
        took = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]
        where = np.load(out)
    index = np.moveaxis(where - np.indices(grid.shape), 0, -1) * np.asarray(grid.spacing)
    vectors = np.moveaxis(index @ grid.direction_matrix.T, -1, 0)
    return dr.DisplacementField(vectors.astype(np.float32), grid, unit=grid.unit), took


def smooth_field(shape: tuple[int, ...], most: float, distance: float, rng: np.random.Generator) -> Any:
    """(D, *shape) displacements by analytic cubic B-splines with control points so far apart, of at most `most`."""
    nodes = [int(np.ceil(n / distance)) + 3 for n in shape]
    c, at = rng.uniform(-1, 1, (len(shape), *nodes)), np.indices(shape) / distance + 1
    u = np.stack([ndimage.map_coordinates(one, at, order=3, prefilter=False) for one in c])
    return u * most / np.sqrt((u**2).sum(0)).max()


def brain(data: Path, *, most: float = 8, distance: float = 28, noise: float = 0.03) -> Case:
    import nibabel

    path = next((data / "volumes3d/mni152").glob("*.nii*"))
    volume = np.asarray(nibabel.load(path).dataobj, dtype=float)[:196, :232, :188].T
    volume = volume.reshape(94, 2, 116, 2, 98, 2).mean((1, 3, 5))
    rng, index = np.random.default_rng(0), np.indices(volume.shape).astype(float)
    u = smooth_field(volume.shape, most, distance, rng)
    fixed, sigma = ndimage.map_coordinates(volume, index + u, order=5), noise * volume.max()
    points = np.argwhere(fixed > 0.1 * volume.max())[::11]
    truth = points + u[(slice(None), *points.T)].T
    fixed, moving = (image + sigma * rng.normal(size=volume.shape) for image in (fixed, volume))

    def score(transform: Any) -> str:
        return f"{np.median(np.linalg.norm(transform(points) - truth, axis=1)):.3f} voxels"

    return (fixed, moving), score


SECTION = "images2d/histology/lesions_/scale-5pc/Izd2-29-041-w35_"


def stains(data: Path, section: str, *, most: float = 12, distance: float = 120) -> Case:
    from skimage import color, io

    # Haematoxylin, and eosin or the brown of the antibody.
    found = color.rgb2hed(io.imread(f"{data / SECTION}{section}.jpg"))
    fixed, moving = found[..., 0], found[..., 1 if section == "HE" else 2]
    u, index = smooth_field(fixed.shape, most, distance, np.random.default_rng(0)), np.indices(fixed.shape)
    fixed = ndimage.map_coordinates(fixed, index + u, order=3, mode="mirror")
    points = np.moveaxis(index, 0, -1)[20:-20, 20:-20].reshape(-1, 2)[::97]
    truth = points + u[(slice(None), *points.T)].T

    def score(transform: Any) -> str:
        return f"{np.median(np.linalg.norm(transform(points) - truth, axis=1)):.2f} px"

    return (fixed, moving), score


def histology(data: Path) -> Case:
    from skimage import color, io

    stem = data / SECTION
    images, landmarks = [], []
    for stain in ("HE", "proSPC"):
        images.append(1 - color.rgb2gray(io.imread(f"{stem}{stain}.jpg")))
        with open(f"{stem}{stain}.csv") as file:
            landmarks.append(np.array([[float(row[2]), float(row[1])] for row in list(csv.reader(file))[1:]]))

    def score(transform: Any) -> str:
        away = np.linalg.norm(transform(landmarks[0]) - landmarks[1], axis=1)
        low, middle, high = np.quantile(away, (0.25, 0.5, 0.75))
        return f"{middle:.2f} px (quartiles {low:.1f}, {high:.1f})"

    return (images[0], images[1]), score


def fish(data: Path, *, means: int = 1) -> Case:
    fixed, moving = (dr.open(data / f"volumes3d/easi_fish/{name}.ome.zarr") for name in ("fixed", "moving"))
    values = fixed.values.astype(np.float32)
    limit = np.percentile(values, 60)

    def score(transform: Any) -> str:
        warped = dr.warp(moving.astype(np.float32), pull=transform, like=fixed, fill=np.nan).values
        found = []
        for start in np.ndindex(*(n // 32 for n in values.shape)):
            box = tuple(slice(32 * k, 32 * k + 32) for k in start)
            f, w = values[box], warped[box]
            known = np.isfinite(w)
            if np.median(f) > limit and known.mean() > 0.5:
                found.append(np.corrcoef(f[known], w[known])[0, 1])
        return f"{np.nanmean(found):.3f} ({len(found)} blocks)"

    fixed_means, moving_means = (
        image.astype(np.float32).coarsen(dict.fromkeys(image.dims, means), boundary="trim").mean()
        for image in (fixed, moving)
    )
    return ((fixed, moving) if means == 1 else (fixed_means, moving_means)), score


IDENTITY = dr.Affine.identity(2)
CASES: dict[str, tuple[Callable[[Path], Case], dict[str, Any]]] = {
    "brain": (brain, {}),
    "histology": (histology, {"metric": "mi"}),
    "he": (partial(stains, section="HE"), {"metric": "mi", "init": IDENTITY}),
    "prospc": (partial(stains, section="proSPC"), {"metric": "mi", "init": IDENTITY}),
    "he-far": (partial(stains, section="HE", most=20, distance=60), {"metric": "mi", "init": IDENTITY}),
    "prospc-far": (partial(stains, section="proSPC", most=20, distance=60), {"metric": "mi", "init": IDENTITY}),
    "fish": (fish, {}),
    "fish-half": (partial(fish, means=2), {"spacing": 16}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--only", choices=CASES, nargs="*", default=list(CASES))
    parser.add_argument("--metric", help="in place of that of the case")
    parser.add_argument("--spacing", type=float, help="of the finest control points, world units")
    parser.add_argument("--peers", choices=PEERS, nargs="*", default=[])
    arguments = parser.parse_args()
    for name in arguments.only:
        case, options = CASES[name]
        images, score = case(arguments.data)
        if arguments.spacing:
            options = {**options, "spacing": arguments.spacing}
        if arguments.metric:
            options["metric"] = arguments.metric
        measured(name, images, score, options, arguments.peers)


if __name__ == "__main__":
    main()
