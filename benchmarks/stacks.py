"""Stack alignment side by side with pystackreg: time, and the residual of a known drift.

    python benchmarks/stacks.py [--size 512] [--slices 50] [--repeats 3] [--out stacks.json]
    python benchmarks/stacks.py --real          # stacks that are in DASKREG_DATA
    python benchmarks/stacks.py --all           # these, and 200 slices from Zarr
    python benchmarks/stacks.py --large 2000    # from Zarr, 1024 x 1024, in bounded memory

The slices are those of the MNI152 template that nilearn ships, moved by a rigid random walk.
Three stacks: one slice repeated (the estimator's own error), different slices (anatomy that
changes along the stack cannot be separated from slow drift), and different slices without
drift (any motion found is false). A fourth has independent jitter, noise, and outlier slices that must be found.
The tools run in turn, and the median of their times is reported.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from oracles import (
    aligned_correlation,
    neighbour_correlation,
    pull_stack,
    pystackreg_stack,
    random_walk,
    residuals,
    rigid_2d,
)

Floats = NDArray[Any]

BLANK, COPIES = (7, 20, 33), {14: 13, 40: 41}
NOISE = 0.03
LARGE = 1024


def template() -> Floats:
    """The volume that nilearn ships, z y x."""
    import nibabel

    found = importlib.util.find_spec("nilearn")
    if found is None or not found.submodule_search_locations:
        sys.exit("nilearn is needed for its template: pip install 'daskreg[bench]'")
    folder = Path(found.submodule_search_locations[0]) / "datasets" / "data"
    image: Any = nibabel.load(next(folder.glob("mni_icbm152_t1_tal_nlin_sym_09a*.nii.gz")))
    return np.asarray(image.dataobj, dtype=np.float32).transpose(2, 1, 0)


def brain(size: int, slices: int) -> Floats:
    """Central slices of the template, which fill most of a field of `size` x `size`."""
    volume = template()
    first, last = 0.3 * len(volume), 0.6 * len(volume)
    factor = size / 1.25 / max(volume.shape[1:])
    out = np.zeros((slices, size, size), np.float32)
    for i, z in enumerate(np.linspace(first, last, slices)):
        low = int(z)
        plane = (1 - (z - low)) * volume[low] + (z - low) * volume[low + 1]
        big = scipy.ndimage.zoom(plane, factor, order=1)
        start = [(size - n) // 2 for n in big.shape]
        out[i, start[0] : start[0] + big.shape[0], start[1] : start[1] + big.shape[1]] = big
    return out


def drifted(slices: Floats, drift: Floats) -> Floats:
    pulls = np.linalg.inv(drift)
    return np.stack(
        [scipy.ndimage.affine_transform(s, m[:2, :2], m[:2, 2], order=3) for s, m in zip(slices, pulls, strict=True)]
    )


def daskreg_stack(stack: Floats) -> Floats:
    import daskreg

    return daskreg.align_stack(stack).raw_from_aligned.matrices


TOOLS: dict[str, Callable[[Floats], Floats]] = {"daskreg": daskreg_stack, "pystackreg": pystackreg_stack}


def measured(stack: Floats, truth: Floats, repeats: int) -> dict[str, dict[str, float]]:
    """Each tool in turn, `repeats` times: median seconds and residuals."""
    times: dict[str, list[float]] = {name: [] for name in TOOLS}
    residual = {}
    for _ in range(repeats):
        for name, tool in TOOLS.items():
            began = time.perf_counter()
            found = tool(stack)
            times[name].append(time.perf_counter() - began)
            residual[name] = residuals(found, truth, stack.shape[1:])
    return {name: {"seconds": statistics.median(times[name]), **residual[name]} for name in TOOLS}


def controls(options: argparse.Namespace) -> dict[str, Any]:
    """Drifted slices, one slice repeated, and slices without drift."""
    clean = brain(options.size, options.slices)
    drift = random_walk(options.slices, clean.shape[1:], step=options.size / 256, turn=0.5, seed=options.seed)
    still = np.tile(np.eye(3), (options.slices, 1, 1))
    middle = np.repeat(clean[options.slices // 2][None], options.slices, axis=0)
    cases = {
        "one slice repeated, drifted": (drifted(middle, drift), drift),
        "different slices, drifted": (drifted(clean, drift), drift),
        "different slices, no drift": (clean, still),
    }
    daskreg_stack(clean[:3])  # compiled code is loaded once
    print(f"{options.slices} slices of {options.size} x {options.size}, {os.cpu_count()} cores, {platform.machine()}")
    print(f"drift before: {residuals(still, drift, clean.shape[1:])['all']:.2f} px")
    results: dict[str, Any] = {}
    for case, (stack, truth) in cases.items():
        results[case] = measured(stack, truth, options.repeats)
        print(case)
        for name, row in results[case].items():
            print(
                f"  {name:<11} {row['seconds']:7.2f} s   residual {row['all']:7.3f} px   "
                f"faster than 15 slices {row['fast']:6.4f} px   slow part {row['slow']:7.3f} px"
            )
        rows = results[case]
        print(f"  times faster: {rows['pystackreg']['seconds'] / rows['daskreg']['seconds']:.1f}", flush=True)
    return results


def jitter(options: argparse.Namespace) -> dict[str, Any]:
    """Independent jitter, noise, blank slices and copies: the residual, and the outliers that are found."""
    import daskreg

    clean = brain(512, 50)
    results: dict[str, Any] = {}
    for seed in range(options.seed, options.seed + 3):
        rng = np.random.default_rng(seed)
        truth = np.stack(
            [rigid_2d(np.radians(3) * a, 5 * b, 5 * c, (255.5, 255.5)) for a, b, c in rng.normal(size=(50, 3))]
        )
        stack = drifted(clean, truth) + rng.normal(size=clean.shape).astype("f4") * NOISE * np.ptp(clean)
        stack[BLANK[0]], stack[BLANK[1]] = 0, stack[BLANK[1]].mean()
        stack[BLANK[2]] = rng.normal(size=stack.shape[1:]) * NOISE * np.ptp(clean)
        for copy, original in COPIES.items():
            stack[copy] = stack[original]
        fit = daskreg.align_stack(stack)
        good = np.setdiff1d(np.arange(50), [*BLANK, *COPIES])
        residual = residuals(fit.raw_from_aligned.matrices[good], truth[good], stack.shape[1:])
        fast = fast_of_slices(fit.raw_from_aligned.matrices[good], truth[good], stack.shape[1:])
        right = fit.kinds == dict.fromkeys(BLANK, "blank") | dict.fromkeys(COPIES, "duplicated")
        print(
            f"jitter 5 px, 3 deg, noise 3 %, seed {seed}: median of the fast part {fast:.3f} px, slow part "
            f"{residual['slow']:.2f} px, outliers {fit.kinds}: {'right' if right else 'WRONG'}"
        )
        results[f"seed {seed}"] = {"median fast": fast, **residual, "kinds": {str(k): v for k, v in fit.kinds.items()}}
    return results


def fast_of_slices(found: Floats, truth: Floats, shape: tuple[int, ...]) -> float:
    """Median over the slices of the part of the residual faster than 15 slices."""
    from oracles import low_pass

    points = np.stack(np.meshgrid(*[np.linspace(0, n - 1, 9) for n in shape], indexing="ij"), -1).reshape(-1, 2)
    maps = np.linalg.inv(truth) @ found
    places = np.einsum("nij,pj->npi", maps[:, :2, :2], points) + maps[:, None, :2, 2]
    error = places - places.mean(axis=0)
    return float(np.median(np.linalg.norm(error - low_pass(error, 15), axis=-1).mean(axis=1)))


def real(_: argparse.Namespace) -> dict[str, Any]:
    """Stacks of the folder of real data: neighbour correlation over the valid overlap."""
    import matplotlib.image
    import mrcfile
    import tifffile

    import daskreg

    folder = Path(os.environ.get("DASKREG_DATA", ""))
    if not (folder / "stacks").is_dir():
        sys.exit("DASKREG_DATA does not name the folder of real data")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the file has no map id
        with mrcfile.open(folder / "tomography" / "haadf" / "HAADF.mrc", permissive=True) as file:
            haadf = np.array(file.data)
    files = sorted((folder / "stacks" / "lung_sem").glob("*.png"))
    lung = np.stack([i if i.ndim == 2 else i[..., 0] for i in map(matplotlib.image.imread, files)])
    pc12 = tifffile.imread(folder / "stacks" / "pc12" / "pc12-unreg.tif")
    results: dict[str, Any] = {}

    def compare(name: str, stack: Floats, model: str, theirs: Floats) -> None:
        fit = daskreg.align_stack(stack, model=model)
        mine, other = (aligned_correlation(stack, m) for m in (fit.raw_from_aligned.matrices, theirs))
        results[f"{name}, {model}"] = {
            "daskreg": mine.mean(), "worst": mine.min(), "pystackreg": other.mean(), "cycle": fit.cycle,
        }  # fmt: skip
        print(
            f"{name}, {model}: neighbour correlation {mine.mean():.5f} (worst {mine.min():.4f}), pystackreg "
            f"{other.mean():.5f} (worst {other.min():.4f}); cycles close to {fit.cycle:.3f} px, outliers {fit.kinds}"
        )
        if name == "haadf":
            apart = fit.raw_from_aligned.matrices[:, :2, 2] - theirs[:, :2, 2]
            print(f"  shifts from pystackreg's: at most {np.abs(apart - apart[0]).max():.3f} px")

    compare("haadf", haadf, "translation", pystackreg_stack(haadf, "translation"))
    for model in ("rigid", "affine"):
        compare("lung_sem", lung, model, pystackreg_stack(lung, model))
    for model, name in (("translation", "translation"), ("rigid", "rigid-body")):
        theirs = pystackreg_stack(pc12, model)
        compare("pc12", pc12, model, theirs)
        shipped = tifffile.imread(folder / "stacks" / "pc12" / f"pc12-reg-{name}.tif")
        print(f"  StackReg's images: {neighbour_correlation(shipped, pull_stack(pc12, theirs)[1]).mean():.5f}")
    return results


def large(options: argparse.Namespace) -> dict[str, Any]:
    """Thousands of slices from Zarr: daskreg in a process of its own, pystackreg on the first of them.

    pystackreg fits one pair after the other, so its time for a slice is that of any number of them.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.zarr"
        truth = store_large(path, options.large, options.seed)
        np.save(Path(folder) / "truth.npy", truth)
        command = [sys.executable, __file__, "--child", str(path), "--peers", str(options.peers)]
        print(f"{options.large} slices of {LARGE} x {LARGE} uint8, Zarr, {os.cpu_count()} cores")
        found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    mine, theirs = found["daskreg"], found["pystackreg"]
    print(
        f"  daskreg     {mine['seconds']:7.1f} s, {1e3 * mine['seconds'] / options.large:6.1f} ms a slice, peak "
        f"{mine['peak'] / 2**30:.2f} GiB, residual {mine['all']:.3f} px, fast {mine['fast']:.4f} px\n"
        f"  the first {options.peers}: residual {found['first']['all']:.3f} px, fast {found['first']['fast']:.4f} px\n"
        f"  pystackreg  {1e3 * theirs['seconds'] / options.peers:.0f} ms a slice (the first {options.peers}): residual "
        f"{theirs['all']:.3f} px, fast {theirs['fast']:.4f} px\n"
        f"  times faster, a slice: {theirs['seconds'] / options.peers * options.large / mine['seconds']:.1f}"
    )
    return dict(found)


def store_large(path: Path, count: int, seed: int) -> Floats:
    """Write slices of the template with slow and fast drift and noise, out of core. Returns: raw_from_clean."""
    import dask.array as da

    import daskreg
    from daskreg.geometry import Grid
    from daskreg.volumes import to_dataarray

    volume, rng = template(), np.random.default_rng(seed)
    steps = rng.normal(size=(count, 3)) * [np.radians(0.3), 3, 3]
    for i in range(1, count):  # a random walk that returns to zero
        steps[i] += 0.97 * steps[i - 1]
    centre = ((LARGE - 1) / 2,) * 2
    truth = np.stack([rigid_2d(*row, centre) for row in steps])
    scale = 1.25 * max(volume.shape[1:]) / LARGE
    to_native = np.diag([scale, scale, 1.0])
    to_native[:2, 2] = [(n - 1) / 2 - (LARGE - 1) / 2 * scale for n in volume.shape[1:]]
    depth = np.linspace(0.3 * len(volume), 0.6 * len(volume), count)
    low, part = depth.astype(int), (depth % 1).astype("f4")[:, None, None]
    slices = volume[low] * (1 - part) + volume[low + 1] * part
    array = to_dataarray(da.from_array(slices, chunks=(16, -1, -1)), Grid(slices.shape))
    pull = daskreg.SliceAffines(to_native @ np.linalg.inv(truth), axis="z")
    warped = daskreg.warp(
        array, pull=pull, grid=Grid((count, LARGE, LARGE)), dtype="float32", chunks=(16, LARGE, LARGE)
    )
    noise = da.random.default_rng(seed).normal(0, NOISE * 255, size=warped.shape, chunks=warped.chunks)
    level = 200 / float(volume.max())
    pixels = da.clip(da.rint(warped.data * level + noise + 20), 0, 255).astype(np.uint8)
    out = to_dataarray(pixels, Grid((count, LARGE, LARGE)))
    daskreg.write(out, path, chunks=(8, LARGE, LARGE), levels=1, progress=False)
    return truth


def child(options: argparse.Namespace) -> None:
    """One process that aligns a stored stack; its peak memory is its own."""
    import daskreg

    path = Path(options.child)
    truth = np.load(path.with_name("truth.npy"))
    stack = daskreg.open(path)
    daskreg.align_stack(stack[:4])
    fit = daskreg.align_stack(stack)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    found = fit.raw_from_aligned.matrices
    first = slice(0, options.peers)
    some = np.asarray(stack[first])
    began = time.perf_counter()
    theirs = pystackreg_stack(some)
    seconds = time.perf_counter() - began
    shape = stack.shape[1:]
    print(json.dumps({
        "daskreg": {"seconds": fit.seconds, "peak": peak, **residuals(found, truth, shape)},
        "first": residuals(found[first], truth[first], shape),
        "pystackreg": {"seconds": seconds, **residuals(theirs, truth[first], shape)},
    }))  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--slices", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--real", action="store_true", help="the stacks of DASKREG_DATA")
    parser.add_argument("--all", action="store_true", help="everything, with --large 200 unless given")
    parser.add_argument("--large", type=int, metavar="SLICES", help="a stack in Zarr of so many slices")
    parser.add_argument("--peers", type=int, default=40, help="slices of --large that pystackreg gets")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.child:
        child(options)
        return
    if options.all and not options.large:
        options.large = 200
    results: dict[str, Any] = {}
    if options.all or not (options.real or options.large):
        results |= controls(options) | {"jitter": jitter(options)}
    if options.all or options.real:
        results |= real(options)
    if options.all or options.large:
        results |= large(options)
    if options.out:
        options.out.write_text(json.dumps({"options": vars(options) | {"out": None}, "results": results}, indent=1))


if __name__ == "__main__":
    main()
