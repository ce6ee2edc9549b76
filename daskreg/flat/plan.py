"""The plan of a single file: its slabs and what they will cost. No pixel is read."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from dask.utils import format_bytes, format_time

from daskreg.blocks.job import BlockStats
from daskreg.blocks.memory import Processes
from daskreg.blocks.plan import SAMPLED_BLOCKS, decoded_bytes, representative_boxes
from daskreg.flat.image import FlatFormat, FlatImage
from daskreg.flat.slabs import Task, compute_slab, slab_bytes, slab_shape
from daskreg.geometry import Box

Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class FlatPlan:
    """What `write` to a single file will do. Print it.

    Args:
        title: of the format.
        slab: shape of what is computed and written at once.
        bytes_read: decoded bytes of the source chunks that the slabs touch; `exact` where all slabs were looked at.
        memory: projected peak bytes of one process above idle.
        threads: slabs that a process works on at a time.
        workers: processes.
        seconds: how long it will take, where a slab was tried (`plan(..., probe=True)`).
    """

    path: str
    title: str
    dims: tuple[str, ...]
    shape: Shape
    dtype: np.dtype[Any]
    slab: Shape
    bytes_read: int
    exact: bool
    memory: int
    memory_limit: int
    threads: int
    workers: int = 1
    seconds: float | None = None

    @property
    def bytes_written(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def files(self) -> int:
        return 1

    @property
    def block_count(self) -> int:
        """Slabs."""
        return math.prod(-(-n // s) for n, s in zip(self.shape, self.slab, strict=True))

    def to_json(self) -> dict[str, Any]:
        """The plan in JSON's types; bytes, and seconds where a slab was tried."""
        counted = ("bytes_read", "bytes_written", "files", "memory", "memory_limit", "threads", "workers", "seconds")
        return {
            "type": "FlatPlan", "path": self.path, "format": self.title, "dims": self.dims, "dtype": str(self.dtype),
            "shape": self.shape, "block_shape": self.slab, "blocks": self.block_count, "exact": self.exact,
        } | {name: getattr(self, name) for name in counted}  # fmt: skip

    def __repr__(self) -> str:
        size = " x ".join(f"{d} {n}" for d, n in zip(self.dims, self.shape, strict=True))
        about = "" if self.exact else "about "
        lines = [
            f"Plan: {size}, {self.dtype} -> {self.path}",
            f"  file     one {self.title} file, uncompressed, without a pyramid",
            f"  blocks   {self.block_count} slabs of up to {self.slab}",
            f"  reads    {about}{format_bytes(self.bytes_read)}, writes {format_bytes(self.bytes_written)}",
            f"  memory   {format_bytes(self.memory)} a process above idle ({self.threads} at a time), "
            f"limit {format_bytes(self.memory_limit)}",
        ]
        if self.seconds is not None:
            lines.append(
                f"  time     about {format_time(self.seconds)} with {self.workers} x {self.threads} at a time, "
                "judging by one slab, and what the disk takes"
            )
        return "\n".join(lines)


def plan_flat(
    task: Task,
    image: FlatImage,
    kind: FlatFormat,
    path: Path,
    processes: Processes,
    *,
    probe: bool,
) -> FlatPlan:
    """The plan of a file; with `probe`, its middle slab is computed here.

    Raises: as `FlatFormat.check`; MemoryBudgetError where not even one row fits; ChunkReadError where the slab that is
    tried cannot be read.
    """
    kind.check(image)
    workers, at_once, limit = processes.workers, processes.threads, processes.limit
    slab = slab_shape(task, limit, at_once)
    boxes, share = representative_boxes(image.shape, slab, SAMPLED_BLOCKS)
    made = FlatPlan(
        str(path),
        kind.title,
        image.dims,
        image.shape,
        image.dtype,
        slab,
        round(sum(decoded_bytes(task, box) for box in boxes) * share),
        share == 1.0,
        slab_bytes(task, list(slab)) * at_once,
        limit,
        at_once,
        workers,
    )
    if not probe:
        return made
    middle = boxes[len(boxes) // 2]
    part = task.restrict(middle)
    voxel = Box(middle.start, tuple(a + 1 for a in middle.start))
    next(iter(part.run([[voxel]], BlockStats())))  # compiles
    began = time.perf_counter()
    compute_slab(part, (0, middle))
    seconds = (time.perf_counter() - began) * made.block_count / (at_once * workers)
    return replace(made, seconds=seconds)
