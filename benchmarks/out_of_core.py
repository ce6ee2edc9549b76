"""Warp stacks of growing size Zarr to Zarr on a local cluster: throughput and peak memory.

    python benchmarks/out_of_core.py --sizes 0.5 2 --folder /scratch

Each slice of a uint16 stack of (n, 2048, 2048), chunks (16, 512, 512), gets its own rigid map.
Memory is the summed resident size of the worker processes above what it was when they had
imported everything and were idle. A plain copy with zarr-python on as many threads is timed
beside it, interleaved, and the ratio of the medians is printed.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import zarr
from scipy import ndimage as ndi

import daskreg as dr
from daskreg.cluster.watch import Watch
from daskreg.formats.ome import codecs
from daskreg.geometry import Box, tile

SIDE = 2048
CHUNKS = (16, 512, 512)


def make_stack(path: Path, slices: int) -> None:
    """Texture with noise in the low bits, so that it compresses about as a camera's images do."""
    rng = np.random.default_rng(0)
    coarse = ndi.zoom(rng.random((CHUNKS[0], SIDE // 16, SIDE // 16)), (1, 16, 16), order=1)
    shape, codec = (slices, SIDE, SIDE), codecs(np.dtype("u2"))
    array = zarr.create_array(path, shape=shape, chunks=CHUNKS, dtype="u2", compressors=codec)
    for start in range(0, slices, CHUNKS[0]):
        n = min(CHUNKS[0], slices - start)
        noise = rng.integers(0, 64, (n, SIDE, SIDE))
        array[start : start + n] = (coarse[:n] * 40_000 + noise).astype(np.uint16)


def drift(slices: int) -> dr.SliceAffines:
    rng = np.random.default_rng(1)
    centre = ((SIDE - 1) / 2,) * 2
    maps = [
        dr.Affine.from_parameters(theta=t, tx=x, ty=y, centre=centre).matrix
        for t, x, y in zip(rng.normal(0, 0.02, slices), *rng.normal(0, 10, (2, slices)), strict=True)
    ]
    return dr.SliceAffines(np.stack(maps))


def copy(source: Path, target: Path, threads: int) -> float:
    """A plain copy by zarr-python, a chunk layer a task, in threads. Seconds."""
    array = zarr.open_array(source, mode="r")
    out = zarr.create_array(
        target, shape=array.shape, chunks=array.chunks, dtype=array.dtype, compressors=codecs(np.dtype("u2"))
    )
    block = (CHUNKS[0], SIDE, SIDE)
    started = time.perf_counter()

    def one(box: Box) -> None:
        out[box.slices] = array[box.slices]

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(one, (box for _, box in tile(array.shape, block))))
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=float, nargs="+", default=[0.5, 2.0], help="GiB")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where to write; default: a temporary folder")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    try:
        with dr.connect(workers=options.workers) as client:
            run(client, folder, options)
    finally:
        shutil.rmtree(folder)


def run(client: object, folder: Path, options: argparse.Namespace) -> None:
    warm_up(folder)
    print(f"{'GiB':>5} {'warp MiB/s':>11} {'copy MiB/s':>11} {'warp/copy time':>15} {'peak above idle MiB':>20}")
    for size in options.sizes:
        slices = max(CHUNKS[0], round(size * 2**30 / (SIDE * SIDE * 2)))
        make_stack(folder / "in.zarr", slices)
        volume = dr.open(folder / "in.zarr")
        warped = dr.warp(volume, pull=drift(slices))
        print(dr.plan(warped, folder / "out.zarr", chunks=CHUNKS, levels=1))
        warps, copies, peaks = [], [], []
        for _ in range(options.repeats):
            with Watch.workers(client) as watch:
                started = time.perf_counter()
                dr.write(warped, folder / "out.zarr", chunks=CHUNKS, levels=1, overwrite=True, progress=False)
                warps.append(time.perf_counter() - started)
            peaks.append(watch.above_idle)
            copies.append(copy(folder / "in.zarr", folder / "copy.zarr", options.workers))
            shutil.rmtree(folder / "copy.zarr")
        mib = slices * SIDE * SIDE * 2 / 2**20
        warp_s, copy_s = statistics.median(warps), statistics.median(copies)
        print(
            f"{mib / 1024:5.2f} {mib / warp_s:11.0f} {mib / copy_s:11.0f} {warp_s / copy_s:15.2f} "
            f"{max(peaks) / 2**20:20.0f}"
        )
        shutil.rmtree(folder / "in.zarr")


def warm_up(folder: Path) -> None:
    """Import and compile everything on the workers, so that idle means ready."""
    small = np.zeros((4, 64, 64), np.uint16)
    stored = zarr.create_array(folder / "small.zarr", shape=small.shape, chunks=(1, 64, 64), dtype="u2")
    stored[:] = small
    dr.write(
        dr.warp(dr.open(folder / "small.zarr"), pull=drift(4), allow_empty=True),
        folder / "warm.zarr",
        chunks=(1, 64, 64),
        levels=1,
        progress=False,
    )


if __name__ == "__main__":
    main()
