"""A buffer that moves along gives the voxels of one that holds all, and no chunk is decoded twice for that."""

from __future__ import annotations

import math
from collections import Counter
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import zarr

import daskreg as dr
from daskreg.blocks import source_buffer
from daskreg.blocks.job import BlockStats, Job, run_block
from daskreg.blocks.source_buffer import ScratchBuffer, buffer_layout, slabs, thread_scratch
from daskreg.geometry import Box, tile
from daskreg.runtime.memory import pages
from daskreg.sources.registry import recall
from daskreg.sources.storage.direct_chunks import DirectChunks

pytestmark = pytest.mark.slow

SHAPE, CHUNKS = (37, 50, 41), (4, 16, 16)
MIDDLE = (18.0, 24.5, 20.0)


def job_of(tmp_path: Path, pull: Any, **options: Any) -> Job:
    array = zarr.create_array(tmp_path / "in.zarr", shape=SHAPE, chunks=CHUNKS, dtype="u2")
    array[:] = np.random.default_rng(0).integers(0, 1000, SHAPE)
    warped = dr.warp(dr.open(tmp_path / "in.zarr"), pull=pull, **options)
    found = recall(warped.data.name)
    assert isinstance(found, Job)
    return found


def turned(**named: float) -> dr.Affine:
    return dr.Affine.from_parameters(named, ndim=3, centre=MIDDLE)


def drift() -> dr.SliceAffines:
    rng = np.random.default_rng(1)
    maps = [dr.Affine.from_parameters(theta=t, tx=5 * t, centre=MIDDLE[1:]) for t in rng.normal(0, 0.1, SHAPE[0])]
    return dr.SliceAffines(np.stack([one.matrix for one in maps]))


PULLS = {
    "tilt": turned(rx=0.2, ry=-0.1, rz=0.1),
    "upside down": turned(rx=math.pi - 0.1, rz=0.05),
    "on its side": turned(rx=math.pi / 2 + 0.05),
    "a far part": turned(rx=0.1) @ dr.Affine.translation(z=-25.0, y=3.0, x=0.0),
    "drift": drift(),
}


@pytest.mark.parametrize("name", PULLS)
@pytest.mark.parametrize("options", [{}, {"order": 3}, {"dtype": "float32", "order": 0}], ids=str)
@pytest.mark.parametrize("target", [1, 30_000])
def test_slabs_have_the_voxels_of_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, options: dict[str, Any], target: int
) -> None:
    job = job_of(tmp_path, PULLS[name], allow_empty=True, **options)
    whole = Box.of(job.shape)
    expected = run_block(job, whole)
    monkeypatch.setattr(source_buffer, "BUFFER_TARGET", target)
    for block in (whole, Box((8, 16, 0), (37, 50, 32))):
        parts = [[p.shift(s.start) for _, p in tile(s.shape, CHUNKS)] for s in slabs(block, CHUNKS)]
        found = np.empty(job.shape, job.dtype)
        for part, pixels in zip(chain.from_iterable(parts), job.run(parts, BlockStats()), strict=True):
            found[part.slices] = pixels
        if options.get("order") == 3:  # a spline depends, a little, on where its source is cut
            np.testing.assert_allclose(found[block.slices].astype(float), expected[block.slices], atol=1)
        else:
            np.testing.assert_array_equal(found[block.slices], expected[block.slices])


@pytest.mark.parametrize("name", ["tilt", "upside down"])
def test_no_chunk_is_decoded_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(source_buffer, "BUFFER_TARGET", 1)
    job = job_of(tmp_path, PULLS[name])
    decoded: Counter[Box] = Counter()
    place = DirectChunks._decode_part

    def counted(self: DirectChunks, data: bytes | None, chunk: Box, box: Box, out: Any) -> None:
        decoded[chunk] += 1
        place(self, data, chunk, box, out)

    monkeypatch.setattr(DirectChunks, "_decode_part", counted)
    cut = slabs(Box.of(job.shape), CHUNKS)
    layout = job.buffer_layout(cut)
    assert layout.axis == 0
    assert layout.capacity < SHAPE[0]
    for _ in job.run([[slab] for slab in cut], BlockStats()):
        pass
    assert set(decoded.values()) == {1}


def test_the_buffer_moves_along_the_axis_that_takes_least_memory() -> None:
    needs = [Box((0, 8 * k, 0), (64, 8 * k + 12, 64)) for k in range(7)]
    found = buffer_layout(needs, (8, 8, 8), 2 * source_buffer.BUFFER_TARGET)
    assert (found.axis, found.shape) == (1, (64, 16, 64))
    assert buffer_layout(needs, (8, 8, 8), 1).spans == ((0, 64),) * 7


def test_memory_of_a_thread_is_used_again_but_never_by_two() -> None:
    with thread_scratch() as first:
        first.array((1000,), np.dtype("u2"))
        with thread_scratch() as second:
            assert second is not first
    with thread_scratch() as again:
        assert again in (first, second)
    scratch = ScratchBuffer()
    assert scratch.array((3, 4), np.dtype("f4")).shape == (3, 4)
    assert scratch.array((2,), np.dtype("u1")).base is not None
    assert scratch.nbytes == 48


def test_pages_are_zero_and_go_back_when_they_are_deleted() -> None:
    before = psutil.Process().memory_info().rss
    memory = pages(48 << 20)
    assert not memory.any()
    memory[:] = 1
    assert psutil.Process().memory_info().rss - before > 40 << 20
    del memory
    assert psutil.Process().memory_info().rss - before < 16 << 20
    assert pages(0).shape == (0,)
