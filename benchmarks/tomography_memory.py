"""Memory of `align_projections(memory=)` and of `write(reconstruct(...))`, of projections in a Zarr array.

    python benchmarks/tomography_memory.py                              # 2 GiB with memory="256 MiB"
    python benchmarks/tomography_memory.py --gib 8 --memory "1 GiB" --folder /scratch --interrupt 5

The projections are those of ellipsoids, each pixel repeated 8 x 8 times, with shifts and noise; means of 8 columns are
aligned. The peak is of the resident size, above that of this process when everything had been imported and compiled.
With --interrupt, the alignment is first begun by another process, which is killed; what is timed then goes on.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import zarr

import daskreg as dr
from daskreg.runtime.memory_watch import MemoryWatch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from ellipsoids import Ellipsoids

ANGLES, COLUMNS, REPEATED, BATCH = 256, 1024, 8, 16


def stored(path: Path, rows: int, shifts: np.ndarray, angles: np.ndarray) -> None:
    """(angles, rows, columns) float32."""
    body = Ellipsoids(COLUMNS // REPEATED, count=8, seed=1)
    array = zarr.create_array(
        str(path), shape=(ANGLES, rows, COLUMNS), chunks=(BATCH, 128, COLUMNS), dtype="float32", compressors=None
    )
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((rows, COLUMNS), dtype=np.float32)
    for first in range(0, ANGLES, BATCH):
        chosen = slice(first, first + BATCH)
        small = body.project(angles[chosen], (rows // REPEATED, COLUMNS // REPEATED), shifts=shifts[chosen], samples=1)
        scale = np.float32(0.1 * small.max())
        large = small.astype(np.float32).repeat(REPEATED, axis=1).repeat(REPEATED, axis=2)
        for k in range(len(large)):
            large[k] += scale * np.roll(noise, rng.integers(0, noise.size))  # that of another projection, elsewhere
        array[chosen] = large


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gib", type=float, default=2)
    parser.add_argument("--memory", default="256 MiB")
    parser.add_argument("--folder", default=None)
    parser.add_argument(
        "--interrupt", type=int, help="results in the checkpoint, after which a first alignment is killed"
    )
    options = parser.parse_args()
    angles = np.linspace(0, np.pi, ANGLES, endpoint=False)
    shifts = np.random.default_rng(1).uniform(-1.2, 1.2, (ANGLES, 2))
    folder = Path(tempfile.mkdtemp(prefix="daskreg-", dir=options.folder))
    try:
        rows = int(options.gib * 2**30) // (4 * ANGLES * COLUMNS) // 128 * 128
        stored(folder / "projections.zarr", rows, shifts, angles)
        projections = dr.open(folder / "projections.zarr")
        compile_all(folder, angles)
        if options.interrupt is not None:
            interrupted(folder, options.memory, options.interrupt)
        with MemoryWatch([os.getpid()]) as watch:
            begin, cpu = time.perf_counter(), time.process_time()
            fit = aligned(folder, options.memory)
        told("align_projections", watch, begin, cpu)
        found = fit.parameters["tx"] / REPEATED
        basis = np.column_stack([np.ones(ANGLES), np.cos(angles), np.sin(angles)])
        off = found - shifts[:, 1]
        off -= basis @ np.linalg.lstsq(basis, off, rcond=None)[0]
        print(f"{fit}; {fit.blocks} blocks, {fit.steps} steps; median error {REPEATED * np.median(abs(off)):.3f} px")
        with MemoryWatch([os.getpid()]) as watch:
            begin, cpu = time.perf_counter(), time.process_time()
            volume = dr.tomography.reconstruct(projections, fit=fit, size=COLUMNS // 8)
            dr.write(volume, folder / "volume.ome.zarr", memory=options.memory, progress=False)
        told("reconstruct and write", watch, begin, cpu)
    finally:
        shutil.rmtree(folder)


def aligned(folder: Path, memory: str) -> dr.tomography.TiltFit:
    angles = np.linspace(0, np.pi, ANGLES, endpoint=False)
    projections = dr.open(folder / "projections.zarr")
    return dr.tomography.align_projections(
        projections, angles, level=3, memory=memory, checkpoint=folder / "checkpoint", axis_angle=0.0
    )


def interrupted(folder: Path, memory: str, results: int) -> None:
    """An alignment that is killed once its checkpoint has grown so many times."""
    begun = multiprocessing.get_context("spawn").Process(target=aligned, args=(folder, memory))
    begin, sizes = time.perf_counter(), set[int]()
    begun.start()
    while begun.is_alive() and len(sizes) < results:
        if (folder / "checkpoint").is_file():
            sizes.add((folder / "checkpoint").stat().st_size)
        begun.join(0.1)
    begun.kill()
    begun.join()
    print(f"killed after {time.perf_counter() - begin:.0f} s, sizes of the checkpoint: {sorted(sizes)}", flush=True)


def compile_all(folder: Path, angles: np.ndarray) -> None:
    small = Ellipsoids(32, count=3).project(angles[::8], (64, 32)).astype(np.float32)
    fit = dr.tomography.align_projections(small, angles[::8], max_steps=1)
    dr.write(dr.tomography.reconstruct(small, fit=fit), folder / "small.ome.zarr", progress=False)


def told(name: str, watch: MemoryWatch, begin: float, cpu: float) -> None:
    print(
        f"{name}: peak {watch.above_idle / 2**20:.0f} MiB above idle, {time.perf_counter() - begin:.0f} s, "
        f"processor {time.process_time() - cpu:.0f} s", flush=True,
    )  # fmt: skip


if __name__ == "__main__":
    main()
