"""Memory is a contract: workers stay under the projection, which is no more than twice what they take."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr
from distributed import Client

import daskreg as dr
from daskreg.cluster.watch import MemoryWatch

pytestmark = pytest.mark.slow

MIB = 2**20
PLANE = (1024, 1024)
WORKERS = 2


def stack(path: Path, slices: int) -> Path:
    rng = np.random.default_rng(0)
    array = zarr.create_array(path, shape=(slices, *PLANE), chunks=(8, 256, 256), dtype="u2")
    texture = rng.integers(0, 2000, (8, *PLANE), dtype=np.uint16)
    for start in range(0, slices, 8):
        array[start : start + 8] = texture[: slices - start]
    return path


def drift(slices: int) -> dr.SliceAffines:
    rng = np.random.default_rng(1)
    maps = [
        dr.Affine.from_parameters(theta=t, tx=x, ty=y, centre=(512, 512)).matrix
        for t, x, y in zip(rng.normal(0, 0.02, slices), *rng.normal(0, 8, (2, slices)), strict=True)
    ]
    return dr.SliceAffines(np.stack(maps))


def warm_up(client: Client, folder: Path) -> int:
    """Import and compile all on the workers; their resident size then."""
    tiny = zarr.create_array(folder / "tiny.zarr", shape=(16, 64, 64), chunks=(1, 64, 64), dtype="u2")
    tiny[:] = np.broadcast_to(np.arange(64, dtype="u2"), tiny.shape)
    warped = dr.warp(dr.open(folder / "tiny.zarr"), pull=drift(16), allow_empty=True)
    for _ in range(2):
        dr.write(warped, folder / "warm.zarr", chunks=(1, 64, 64), levels=1, overwrite=True, progress=False)
    return MemoryWatch.workers(client).idle


def peak(client: Client, folder: Path, slices: int) -> tuple[int, int]:
    """Measured and projected bytes, of all workers together; the projected ones above idle."""
    volume = dr.open(stack(folder / f"in{slices}.zarr", slices))
    warped = dr.warp(volume, pull=drift(slices))
    path = folder / f"out{slices}.zarr"
    with MemoryWatch.workers(client) as watch:
        dr.write(warped, path, levels=1, progress=False)
    return watch.peak, dr.plan(warped, path, levels=1).memory * WORKERS


@pytest.mark.slow
def test_memory_is_flat_and_under_the_projection(tmp_path: Path) -> None:
    with dr.connect(workers=WORKERS) as client:
        idle = warm_up(client, tmp_path)
        small, _ = peak(client, tmp_path, 32)
        large, projected = peak(client, tmp_path, 128)
    small, large = small - idle, large - idle
    print(f"64 MiB: {small / MIB:.0f} MiB; 256 MiB: {large / MIB:.0f} MiB; projected {projected / MIB:.0f} MiB")
    assert projected / 2 <= large <= projected
    # Four times the volume may not even cost half of one more block.
    assert large - small < projected / WORKERS / 2
