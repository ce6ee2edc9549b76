"""Registration of a pair at full resolution, block by block: error, reads, memory and time, beside the coarse fit.

    python benchmarks/register_full.py                 # a pair of 1 GiB
    python benchmarks/register_full.py --gib 8 --folder /scratch
    python benchmarks/register_full.py --model bspline --workers 2

Both images are sums of plane waves, which are known wherever a motion brings them, with white noise, as
uint16 in a Zarr array with chunks of 64 x 64 x 64, not compressed. `register` runs in this process, as if images of
more than 128^3 voxels did not fit its memory. Errors are those of the worst corner, in voxels; for B-splines the
motion is also bent, and the error is the median. "decoded" is the number
of voxels in the chunks that were decoded over the number of voxels of the pair. Memory is the peak of the resident size
above that of this process when everything had been imported and compiled. With `--workers`, blocks are summed by that
many local workers of Dask; memory is the mean over these, and voxels that they decode are not counted.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

import daskreg as dr
from daskreg.blocks.memory import release_memory
from daskreg.geometry import Affine, Box, Grid, tile
from daskreg.registration import images
from daskreg.registration.blockwise import work
from daskreg.reporting.fit import Fit
from daskreg.runtime.memory_watch import MemoryWatch
from daskreg.sources.stored import StoredSource

Floats = NDArray[np.float64]

CHUNK, BLOCK, WAVES = 64, 128, 48
NOISE = 0.1
BEND = 4.0
"""Voxels by which a bent image is displaced along each axis, besides the affine motion."""


@dataclass(frozen=True)
class Motion:
    """Where the points of the fixed image are in the moving one.

    affine: first. bend: amplitude, voxels, of what is done after it: along each axis points are moved so that y comes
    from y + bend sin(2 pi y / length + axis). So waves stay products over the axes.
    """

    affine: Affine
    bend: float = 0.0
    length: float = 1.0

    def before_bend(self, y: Floats, axis: int) -> Floats:
        """(n,) indices along an axis of the moving image, where they were before they were bent."""
        return y + self.bend * np.sin(2 * np.pi * y / self.length + axis)

    def __call__(self, points: Floats) -> Floats:
        """(N, 3) points of the moving image."""
        goal = self.affine(points)
        found = goal
        for _ in range(60):  # the bend is a contraction
            moved = [self.before_bend(found[:, k], k) - found[:, k] for k in range(3)]
            found = goal - np.stack(moved, -1)
        return found


def block_of_waves(box: Box, motion: Motion, *, seed: int) -> NDArray[np.uint16]:
    """The waves in a box after a motion, with noise; a wave is a product over the axes."""
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(WAVES, 3))
    lengths = np.exp(rng.uniform(np.log(7), np.log(300), WAVES))
    vectors = 2 * np.pi * directions / np.linalg.norm(directions, axis=1, keepdims=True) / lengths[:, None]
    pull = motion.affine.inverse().matrix
    phase = rng.uniform(0, 2 * np.pi, WAVES) + vectors @ pull[:3, 3]
    vectors = vectors @ pull[:3, :3]
    z, y, x = (
        np.exp(1j * np.outer(vectors[:, k], motion.before_bend(np.arange(box.start[k], box.stop[k]) * 1.0, k))).astype(
            np.complex64
        )
        for k in range(3)
    )
    lead = (np.exp(1j * phase)[:, None, None] * z[:, :, None] * y[:, None, :]).astype(np.complex64)
    lead = lead.reshape(WAVES, -1).T
    values = np.ascontiguousarray(lead.real) @ x.real - np.ascontiguousarray(lead.imag) @ x.imag
    spread = np.sqrt(WAVES / 2)
    noise = np.random.default_rng((seed, *box.start)).normal(scale=NOISE * spread, size=values.shape)
    return np.asarray(20000 + 2000 / spread * (values + noise)).reshape(box.shape).astype(np.uint16)


def stored(path: Path, shape: tuple[int, ...], motion: Motion, *, seed: int) -> Any:
    """A Zarr array of the waves, opened."""
    array = zarr.create_array(str(path), shape=shape, chunks=(CHUNK,) * 3, dtype="uint16", compressors=None)
    for _, box in tile(shape, (BLOCK,) * 3):
        array[box.slices] = block_of_waves(box, motion, seed=seed)
    return dr.open(path, chunks=CHUNK)


class Reads:
    """Voxels of the chunks that are decoded, in each stage of the work."""

    def __init__(self) -> None:
        self.voxels: dict[str, int] = {}
        self.stage = "before"

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count in this block."""
        read, run = StoredSource._read_or_fill, work.Work.each

        def reading(source: StoredSource, box: Box, out: Any) -> Any:
            decoded = box.align(source.chunks).clip(source.shape).size
            self.voxels[self.stage] = self.voxels.get(self.stage, 0) + decoded
            return read(source, box, out)

        def running(one: work.Work, *args: Any, **options: Any) -> Any:
            self.stage = options["label"]
            return run(one, *args, **options)

        StoredSource._read_or_fill, work.Work.each = reading, running  # type: ignore[method-assign]
        try:
            yield
        finally:
            StoredSource._read_or_fill, work.Work.each = read, run  # type: ignore[method-assign]


def error_of(fit: Fit, truth: Motion, grid: Grid) -> float:
    """Voxels: of an affine map that of the worst corner, of a field the median of those of points that both have."""
    points = grid.corners()
    if truth.bend:
        points = np.random.default_rng(0).uniform(0, np.asarray(grid.shape) - 1, (20_000, 3))
        there = truth(points)
        points = points[np.all((there >= 0) & (there <= np.asarray(grid.shape) - 1), axis=1)]
    away = np.linalg.norm(fit.pull(points) - truth(points), axis=1)
    return float(np.median(away) if truth.bend else away.max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gib", type=float, default=1.0, help="size of both images together")
    parser.add_argument("--folder", type=Path, default=None, help="where the images are made; they are removed again")
    parser.add_argument("--model", default="affine")
    parser.add_argument("--workers", type=int, default=0, help="workers of a local cluster; 0: threads of this process")
    arguments = parser.parse_args()
    with dr.connect(workers=arguments.workers) if arguments.workers else nullcontext() as client:
        measure(arguments, client)


def measure(arguments: argparse.Namespace, client: Any) -> None:
    side = round((arguments.gib * 2**30 / 4) ** (1 / 3))
    shape = (side, side + 7, side - 5)
    grid = Grid(shape)
    affine = Affine.from_parameters(rx=0.01, ry=-0.006, rz=0.013, tx=5.3, ty=-7.1, tz=3.7, sx=1.004, sz=0.997)
    truth = Motion(affine, 0.0 if arguments.model == "affine" else BEND, side)
    still = Motion(Affine.identity(3))
    folder = Path(tempfile.mkdtemp(dir=arguments.folder))
    images._voxel_budget = lambda: 1 << 21  # type: ignore[assignment]
    warnings.simplefilter("ignore")
    try:
        warm = [stored(folder / f"warm{k}.zarr", (140, 130, 135), still, seed=k) for k in range(2)]
        for _ in range(max(1, 2 * arguments.workers)):  # every worker compiles
            dr.register(*warm, model=arguments.model, resolution="full", client=client or False)
        pair = [stored(folder / f"{k}.zarr", shape, motion, seed=k) for k, motion in enumerate((still, truth))]
        rough = dr.register(*pair, model=arguments.model, resolution="coarse")
        release_memory()  # what is left of the coarse fit would be taken for idle
        reads, began = Reads(), time.perf_counter()
        with MemoryWatch.workers(client) if client else MemoryWatch([os.getpid()]) as watch, reads.counted():
            fit = dr.register(*pair, model=arguments.model, resolution="full", client=client or False)
        seconds = time.perf_counter() - began
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    voxels = 2 * np.prod(shape, dtype=np.int64)
    print(f"pair of {2 * voxels / 2**30:.2f} GiB, {shape}, chunks of {CHUNK}^3, {arguments.model}")
    for name, count in reads.voxels.items():
        print(f"  {name:14s} decoded {count / voxels:.2f} times")
    before, after = (error_of(f, truth, grid) for f in (rough, fit))
    print(f"coarse: {rough.status.name.lower()}, error {before:.5f}")
    print(f"full:   {fit.status.name.lower()}, error {after:.5f}, {before / after:.0f} times nearer")
    peak = watch.above_idle / 2**20 / max(1, arguments.workers)
    print(f"        {seconds:.0f} s, peak above idle {peak:.0f} MiB{' a worker' if arguments.workers else ''}")


if __name__ == "__main__":
    main()
