"""How long a run will take, measured on a few chunks of it. Nothing else reads pixels before a run."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import zarr
from zarr.storage import MemoryStore

from daskreg.blocks.job import BlockStats
from daskreg.blocks.plan import LevelPlan, Plan
from daskreg.blocks.source_buffer import slabs
from daskreg.formats.ome import codecs
from daskreg.geometry import Box, tile
from daskreg.runtime.compile_ahead import compile_first

MOST_PARTS = 4
"""Chunks of a block that are computed and encoded; the others are assumed to take as long."""


def probed(plan: Plan) -> Plan:
    """The plan with an estimate of the seconds it will take, from one block of its first level.

    The block in the middle is read, some of its chunks are computed and encoded, in this
    process; nothing is written. The estimate is too low where the disk is slower than the codecs, and does not
    know the GPU of a worker.

    Raises: ChunkReadError where that block cannot be read.
    """
    compile_first()  # as the run will, of which this is a small part
    level = plan.levels[0]
    seconds = _block_seconds(level) * level.block_count / (plan.threads * plan.workers)
    later = sum(p.layout.nbytes for p in plan.levels) / max(1, level.layout.nbytes)
    return replace(plan, seconds=seconds * later)


def _block_seconds(level: LevelPlan) -> float:
    layout = level.layout
    start = tuple(n // 2 // b * b for n, b in zip(layout.shape, level.block_shape, strict=True))
    box = Box(start, tuple(a + b for a, b in zip(start, level.block_shape, strict=True))).clip(layout.shape)
    cut = slabs(box, layout.unit)
    slab = cut[len(cut) // 2]
    parts = [part.shift(slab.start) for _, part in tile(slab.shape, layout.chunks)]
    picked = parts[:: max(1, len(parts) // MOST_PARTS)][:MOST_PARTS]
    task = level.task.restrict(box)
    middle = tuple((a + b) // 2 for a, b in zip(box.start, box.stop, strict=True))
    voxel = Box(middle, tuple(a + 1 for a in middle))
    next(iter(task.run([[voxel]], BlockStats())))  # compiles; at the corners of a block there may be only fill
    encoded = zarr.create_array(
        MemoryStore(), shape=layout.chunks, chunks=layout.chunks, dtype=layout.dtype, compressors=codecs(layout.dtype)
    )
    whole = np.zeros(layout.chunks, layout.dtype)
    encoded[...] = whole  # starts zarr's threads
    began = time.perf_counter()
    blocks = task.run([picked], BlockStats())
    whole[Box.of(picked[0].shape).slices] = next(blocks)
    read_and_first = time.perf_counter() - began
    began = time.perf_counter()
    for pixels in blocks:
        whole[Box.of(pixels.shape).slices] = pixels
    more = (time.perf_counter() - began) / max(1, len(picked) - 1)
    began = time.perf_counter()
    encoded[...] = whole
    encode = time.perf_counter() - began
    return len(cut) * (read_and_first + (len(parts) - 1) * more + len(parts) * encode)
