"""Write a volume as one file, slab after slab in bounded memory; the same call resumes an interrupted one.

The file is made of its whole size as `OUT.partial`, with a ledger of finished slabs beside it, and renamed to `OUT` at
the end. Slabs are computed on the workers of a client or in threads of this process, which writes them.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.blocks.job import BlockStats, Job
from daskreg.blocks.level_writer import NO_SPACE
from daskreg.blocks.memory import memory_limit, threads_per_process
from daskreg.blocks.record.lock import locked
from daskreg.blocks.reversed import Reversed
from daskreg.blocks.source_watch import SourceWatch
from daskreg.errors import LayoutMismatchError, MemoryBudgetError, OutputBusyError, OutputExistsError, StorageFullError
from daskreg.flat.image import FlatFormat, FlatImage
from daskreg.flat.ledger import SlabLedger
from daskreg.geometry import Box, tile
from daskreg.runs.written import Written
from daskreg.runtime.device import cores
from daskreg.runtime.progress import ByteProgress
from daskreg.runtime.threads import in_threads

SLAB_BYTES = 64 * 2**20
"""Voxels of a slab, at most: enough that a disk writes them at its speed."""

Task = Job | Reversed
Slab = tuple[int, Box]
Made = tuple[Slab, NDArray[Any], BlockStats]


@dataclass(frozen=True)
class FlatOptions:
    """The options of `daskreg.write` that concern a single file."""

    overwrite: bool = False
    resume: bool | str = True
    memory: str | int | None = None


def write_flat(
    task: Task,
    image: FlatImage,
    kind: FlatFormat,
    path: Path,
    options: FlatOptions,
    *,
    client: Any | None = None,
    progress: ByteProgress | None = None,
) -> Written:
    """Write the voxels of a task into a file.

    Raises: as `FlatFormat.check`; OutputExistsError, OutputBusyError, LayoutMismatchError, MemoryBudgetError;
    StorageFullError and errors of the source, after which the same call resumes.
    """
    kind.check(image)
    if path.exists() and not (options.overwrite and path.is_file()):
        raise OutputExistsError(f"{path} exists; overwrite=True replaces it")
    started = time.monotonic()
    at_once = threads_per_process(client) if client is not None else cores()
    shape = slab_shape(task, memory_limit(options.memory, client), at_once)
    slabs = [(number, box) for number, (_, box) in enumerate(tile(image.shape, shape))]
    partial, record = (path.with_name(f"{path.name}.{end}") for end in ("partial", "partial.slabs"))
    ledger = SlabLedger(record, len(slabs))
    try:
        with locked(record) as free:
            if not free:
                raise OutputBusyError(f"another run is writing {path}: wait until it is done, or end it")
            facts = _facts(task, image, kind, shape)
            offset = _begun(ledger, partial, facts, lambda: kind.create(partial, image), options)
            voxels = np.memmap(partial, image.dtype.newbyteorder("<"), "r+", offset, image.shape)
            watch = SourceWatch(task.source)
            skipped = int(ledger.done.sum())
            todo = [slab for slab in slabs if not ledger.done[slab[0]]]
            made = _in_threads(task, todo, at_once) if client is None else _on_workers(client, task, todo, 2 * at_once)
            stats = _put(made, voxels, ledger, progress)
            watch.check()
            voxels.flush()
            del voxels
            _sync(partial)
            partial.replace(path)
            record.unlink(missing_ok=True)
    except OSError as error:
        if error.errno in NO_SPACE:
            text = f"no space left for {path}: make room and run the same command again"
            raise StorageFullError(error.errno, text) from error
        raise
    seconds = time.monotonic() - started
    written = sum(box.size for number, box in slabs) * image.dtype.itemsize
    size = path.stat().st_size
    return Written(str(path), (image.shape,), len(slabs) - skipped, skipped, 0, seconds, stats.bytes_read, written,
                   size, stats.clipped)  # fmt: skip


def slab_shape(task: Task, limit: int, at_once: int) -> tuple[int, ...]:
    """Whole rows of the volume: as many planes as the chunks of the source are deep, and as many rows, as fit.

    Raises: MemoryBudgetError where not even one row fits.
    """
    shape, space = list(task.shape), task.grid.ndim
    lead = len(shape) - space
    slab = [1] * lead + shape[lead:]
    budget = limit // max(1, at_once)
    for axis in range(lead, len(shape) - 1):
        unit = min(shape[axis], task.source.chunks[axis]) if len(task.source.chunks) == len(shape) else 1
        # The first axis keeps whole chunks while what is left of the others can still be cut.
        least = unit if axis < len(shape) - 2 else 1
        while slab[axis] > least and not _fits(task, slab, budget):
            slab[axis] = max(least, slab[axis] // 2 // unit * unit)
    for axis in range(lead, len(shape) - 1):
        while slab[axis] > 1 and not _fits(task, slab, budget):
            slab[axis] //= 2
    if _need(task, slab) > budget:
        raise MemoryBudgetError(
            f"{at_once} rows of {slab[-1]} voxels at a time take {at_once * _need(task, slab)} bytes, more than "
            f"memory={limit}: allow more"
        )
    return tuple(slab)


def _fits(task: Task, slab: list[int], budget: int) -> bool:
    voxels = int(np.prod(slab, dtype=np.int64)) * task.dtype.itemsize
    return voxels <= SLAB_BYTES and _need(task, slab) <= budget


def _need(task: Task, slab: list[int]) -> int:
    """Bytes of the most demanding of the first, middle and last slab."""
    boxes = []
    for part in (0.0, 0.5, 1.0):
        start = [int(part * (n - s)) for n, s in zip(task.shape, slab, strict=True)]
        boxes.append(Box(tuple(start), tuple(a + s for a, s in zip(start, slab, strict=True))))
    return max(task.working_bytes(box, box, slab) for box in boxes) * 9 // 8


def _facts(task: Task, image: FlatImage, kind: FlatFormat, slab: tuple[int, ...]) -> dict[str, Any]:
    made_of = hashlib.sha256(repr((image.grid, image.lead, image.dims, image.name)).encode()).hexdigest()[:16]
    return {
        "format": kind.title,
        "shape": list(image.shape),
        "dtype": image.dtype.name,
        "metadata": made_of,
        "source and transform": task.fingerprint(Box.of(image.shape)),
        "slab": list(slab),
    }


def _begun(ledger: SlabLedger, partial: Path, facts: dict[str, Any], create: Any, options: FlatOptions) -> int:
    """Make the unfinished file, or take it up again; gives the byte at which its voxels begin.

    Raises: OutputExistsError where there is one that is not to be resumed; LayoutMismatchError where it is another's.
    """
    found = ledger.facts() if partial.is_file() else None
    known = {k: v for k, v in (found or {}).items() if k not in ("offset", "size")}
    if found is not None and not options.overwrite:
        if options.resume is False:
            raise OutputExistsError(f"{partial} is unfinished; resume=True takes it up, overwrite=True starts again")
        differs = next((key for key in facts if known.get(key) != facts[key]), None)
        if differs is None and partial.stat().st_size == found.get("size"):
            return int(found["offset"])
        if differs is not None and options.resume != "changed":
            raise LayoutMismatchError(
                f"{partial}: {differs} is {known.get(differs)} in the unfinished file and {facts[differs]} now; use "
                "the same options to resume, or overwrite=True to start again"
            )
    elif found is None and partial.exists() and partial.stat().st_size and not options.overwrite:
        raise OutputExistsError(f"{partial} exists and its list of slabs does not: remove it, or pass overwrite=True")
    partial.unlink(missing_ok=True)
    offset = int(create())
    ledger.begin({**facts, "offset": offset, "size": partial.stat().st_size})
    return offset


def _put(made: Iterator[Made], voxels: NDArray[Any], ledger: SlabLedger, progress: ByteProgress | None) -> BlockStats:
    """Write slabs as they come."""
    total, nbytes = BlockStats(), 0
    for (number, box), pixels, stats in made:
        voxels[box.slices] = pixels
        ledger.add(number)
        nbytes += pixels.nbytes
        total.bytes_read += stats.bytes_read
        total.clipped += stats.clipped
        if progress is not None:
            progress(int(ledger.done.sum()), len(ledger.done), nbytes)
    return total


def compute_slab(task: Task, box: Box) -> tuple[NDArray[Any], BlockStats]:
    """The voxels of a slab. Runs on a worker."""
    stats = BlockStats()
    return next(iter(task.run([[box]], stats))), stats


def _in_threads(task: Task, slabs: list[Slab], at_once: int) -> Iterator[Made]:
    def compute(slab: Slab) -> Made:
        return slab, *compute_slab(task.restrict(slab[1]), slab[1])

    with closing(in_threads(at_once, compute, slabs)) as made:
        yield from made


def _on_workers(client: Any, task: Task, slabs: list[Slab], ahead: int) -> Iterator[Made]:
    """The same on the workers of a client, a few slabs ahead of what is written."""
    waiting = list(reversed(slabs))
    running: list[tuple[Slab, Any]] = []
    try:
        while waiting or running:
            while waiting and len(running) < ahead:
                slab = waiting.pop()
                part = task.restrict(slab[1])
                running.append((slab, client.submit(compute_slab, part, slab[1], pure=False)))
            slab, future = running.pop(0)
            yield slab, *future.result()
            future.release()
    finally:
        client.cancel([future for _, future in running])


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
