"""Warps through displacement fields beside affine warps of the same kind, Zarr to Zarr, in one interleaved run.

    python benchmarks/fields.py                # 2 GiB of uint16
    python benchmarks/fields.py --size 0.25    # GiB
    python benchmarks/fields.py --dense 8      # memory with a field of 8 GiB in a store

The volume is that of `out_of_core.py`; fields have a node every 8 voxels, and vectors of up to 6 voxels. Each round
runs every kind once; times are medians, "x affine" is the ratio to the affine warp of the same kind, in the same
rounds.

    3D affine, 3D field       the tilt of `out_of_core.py`, which mixes all axes; the same after a linear field
    3D bspline                the same with cubic B-splines
    2D affine, 2D field       a rotation of every slice; the same after a field of every slice
    itk                       the 3D field by SimpleITK, block by block, in as many processes
    ngff                      the 3D field alone by ngff-zarr's `resample`, which takes no chain, in as many threads

`--peers` runs the last two, once each round as well; what is not installed is left out.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import zarr
from out_of_core import CHUNKS, MIB, SIDE, make_stack, tilt
from scipy.ndimage import gaussian_filter

import daskreg as dr
from daskreg.geometry import Box, tile
from daskreg.runtime.memory_watch import MemoryWatch

STEP, LARGEST = 8, 6.0


@cache
def field_of(shape: tuple[int, ...], seed: int) -> tuple[np.ndarray, dr.Grid]:
    """Smooth vectors at nodes that reach beyond the volume."""
    nodes = dr.Grid([n // STEP + 3 for n in shape], STEP, -STEP)
    raw = np.random.default_rng(seed).normal(size=(len(shape), *nodes.shape)).astype(np.float32)
    smooth = gaussian_filter(raw, (0, *(4,) * len(shape)))
    return smooth * (LARGEST / np.abs(smooth).max()), nodes


def transforms(shape: tuple[int, ...]) -> dict[str, object]:
    centre = [(n - 1) / 2 for n in shape]
    turn = tilt(shape[0])
    plane = dr.Affine.rotation(np.radians(1), centre=centre[1:])
    vectors, nodes = field_of(shape, 0)
    flat, flat_nodes = field_of(shape[1:], 1)
    fields = np.stack([np.roll(flat, k, axis=2) for k in range(shape[0])])
    return {
        "3D affine": turn,
        "3D field": turn @ dr.DisplacementField(vectors, nodes),
        "3D bspline": turn @ dr.DisplacementField(vectors, nodes, order=3),
        "2D affine": dr.SliceAffines(np.broadcast_to(plane.matrix, (shape[0], 3, 3)).copy()),
        "2D field": dr.SliceAffines(np.broadcast_to(plane.matrix, (shape[0], 3, 3)).copy())
        @ dr.SliceDisplacements(fields, flat_nodes),
    }


def daskreg_run(pull: object) -> Callable[[Path, Path], None]:
    def run(source: Path, target: Path) -> None:
        warped = dr.warp(dr.open(source), pull=pull)
        dr.write(warped, target, chunks=CHUNKS, levels=1, shards=None, progress=False)

    return run


def itk_block(task: tuple[str, str, Box]) -> None:
    """One block by SimpleITK: read what it may need, resample, write."""
    import SimpleITK as sitk  # noqa: N813

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    source, target, box = zarr.open_array(task[0], mode="r"), zarr.open_array(task[1]), task[2]
    vectors, _ = field_of(source.shape, 0)
    turn = tilt(source.shape[0])
    corners = turn(np.array(np.meshgrid(*zip(box.start, box.stop, strict=True))).reshape(3, -1).T)
    low, high = np.floor(corners.min(0) - LARGEST - 1).astype(int), np.ceil(corners.max(0) + LARGEST + 2).astype(int)
    read = Box(tuple(low), tuple(high)).clip(source.shape)
    if read.empty:
        return
    image = sitk.GetImageFromArray(source[read.slices])
    image.SetOrigin([float(a) for a in read.start[::-1]])
    displacement = sitk.GetImageFromArray(np.moveaxis(vectors[::-1], 0, -1).astype(np.float64), isVector=True)
    displacement.SetSpacing([float(STEP)] * 3)
    displacement.SetOrigin([float(-STEP)] * 3)
    affine = sitk.AffineTransform(3)
    affine.SetMatrix(turn.linear[::-1, ::-1].ravel().tolist())
    affine.SetTranslation(turn.offset[::-1].tolist())
    chain = sitk.CompositeTransform(3)
    chain.AddTransform(affine)
    chain.AddTransform(sitk.DisplacementFieldTransform(displacement))
    size, origin = box.shape[::-1], [float(a) for a in box.start[::-1]]
    out = sitk.Resample(image, size, chain, sitk.sitkLinear, origin, [1.0] * 3, [1, 0, 0, 0, 1, 0, 0, 0, 1], 0.0)
    target[box.slices] = sitk.GetArrayFromImage(out)


def itk_run(source: Path, target: Path) -> None:
    array = zarr.open_array(source, mode="r")
    zarr.create_array(target, shape=array.shape, chunks=array.chunks, dtype=array.dtype)
    tasks = [(str(source), str(target), box) for _, box in tile(array.shape, (CHUNKS[0] * 4, 512, 512))]
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(itk_block, tasks))


def ngff_run(source: Path, target: Path) -> None:
    import dask
    import dask.array as da
    from ngff_zarr import NgffImage, resample
    from ngff_zarr.v06.zarr_metadata import Displacements

    volume = da.from_zarr(source)
    vectors, _ = field_of(volume.shape, 0)
    axes = ("z", "y", "x")
    whole = NgffImage(volume, axes, dict.fromkeys(axes, 1.0), dict.fromkeys(axes, 0.0))
    steps = {"c": 1.0} | dict.fromkeys(axes, float(STEP)), {"c": 0.0} | dict.fromkeys(axes, float(-STEP))
    field = NgffImage(da.from_array(vectors), ("c", *axes), *steps, axes_types={"c": "displacement"})
    array = zarr.create_array(target, shape=volume.shape, chunks=CHUNKS, dtype=volume.dtype)
    with dask.config.set(scheduler="threads", num_workers=len(os.sched_getaffinity(0))):
        da.store(resample(Displacements(path="field"), whole, whole, fields={"field": field}).data, array, lock=False)


def peers() -> dict[str, Callable[[Path, Path], None]]:
    """Those that are installed."""
    known = {"itk": ("SimpleITK", itk_run), "ngff": ("ngff_zarr", ngff_run)}
    return {name: run for name, (module, run) in known.items() if find_spec(module)}


def compare(folder: Path, gib: float, rounds: int, others: dict[str, Callable[[Path, Path], None]]) -> None:
    slices = max(CHUNKS[0], round(gib * 1024 * MIB / (2 * SIDE * SIDE)))
    source = folder / "source.zarr"
    make_stack(source, slices)
    shape = (slices, SIDE, SIDE)
    runs = {name: daskreg_run(pull) for name, pull in transforms(shape).items()} | others
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            if name in others and number == 0:
                continue  # nothing of them is compiled
            target = folder / "target.zarr"
            start = time.perf_counter()
            run(source, target)
            if number:  # the first round compiles
                times[name].append(time.perf_counter() - start)
            for path in (target, Path(f"{target}.daskreg")):
                shutil.rmtree(path, ignore_errors=True)
    print(f"\n{shape} uint16, {2 * np.prod(shape) / MIB:.0f} MiB, {rounds} rounds")
    print(f"{'':12} {'median s':>9} {'MiB/s':>7} {'x affine':>9}")
    for name, found in times.items():
        median = statistics.median(found)
        affine = statistics.median(times["2D affine" if name.startswith("2D") else "3D affine"])
        print(f"{name:12} {median:9.2f} {2 * np.prod(shape) / MIB / median:7.0f} {median / affine:9.2f}")


def dense(folder: Path, gib: float) -> None:
    """Peak memory of workers with a field of so many GiB in a store, a vector for each voxel."""
    side = round((gib * 2**30 / 12) ** (1 / 3) / 64) * 64
    chunks = (64, 64, 64)
    volume = zarr.create_array(folder / "volume.zarr", shape=(side,) * 3, chunks=chunks, dtype="u2")
    vectors = zarr.create_array(folder / "vectors.zarr", shape=(3, *(side,) * 3), chunks=(3, *chunks), dtype="f4")
    rng = np.random.default_rng(0)
    part = (rng.random(chunks) * 1000).astype("u2")
    wave = np.sin(np.linspace(0, 2 * np.pi, 64, endpoint=False)).astype("f4") * 3
    for _, box in tile((side,) * 3, chunks):
        volume[box.slices] = part
        vectors[(slice(None), *box.slices)] = np.stack(np.broadcast_arrays(wave[:, None, None], wave[:, None], wave))
    field = dr.DisplacementField(vectors, dr.Grid((side,) * 3))
    with dr.connect() as client:
        small = dr.warp(np.ones((70, 70, 70), np.uint16), pull=field_of_small())
        warm = dr.warp(dr.open(small), pull=field_of_small())
        dr.write(warm, folder / "warm.zarr", chunks=(32, 32, 32), levels=1, progress=False)
        watch = MemoryWatch.workers(client)
        start = time.perf_counter()
        with watch:
            warped = dr.warp(dr.open(folder / "volume.zarr"), pull=field)
            dr.write(warped, folder / "out.zarr", chunks=chunks, levels=1, progress=False)
        count = len(client.scheduler_info()["workers"])
        seconds, peak = time.perf_counter() - start, watch.above_idle / MIB / count
    print(f"\nfield of {12 * side**3 / 2**30:.1f} GiB, {side}^3: {seconds:.0f} s, {peak:.0f} MiB a worker above idle")


def field_of_small() -> dr.DisplacementField:
    vectors, nodes = field_of((70, 70, 70), 2)
    return dr.DisplacementField(vectors, nodes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=float, default=2.0, help="GiB of the volume")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", action="store_true", help="SimpleITK and ngff-zarr block by block, too")
    parser.add_argument("--dense", type=float, help="GiB of a field in a store: memory instead of times")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.dense:
            dense(Path(folder), arguments.dense)
        else:
            compare(Path(folder), arguments.size, arguments.rounds, peers() if arguments.peers else {})


if __name__ == "__main__":
    sys.exit(main())
