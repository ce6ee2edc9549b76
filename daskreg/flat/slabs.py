"""Slabs of a volume: their shape within the memory, and their voxels, from threads or from the workers of a client."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any

import dask
import numpy as np
from numpy.typing import NDArray

from daskreg.blocks.in_flight import ANSWER_WITHIN, NO_WORKER_ERRORS, RETRIES
from daskreg.blocks.job import BlockStats, Job
from daskreg.blocks.reversed import Reversed, job_of
from daskreg.cluster.capacity import Capacity
from daskreg.errors import BlocksFailedError, MemoryBudgetError, NoWorkersError, SchedulerLostError
from daskreg.flat.ledger import SlabEntry
from daskreg.geometry import Box
from daskreg.runtime.private_apis import cancel
from daskreg.runtime.threads import in_threads
from daskreg.sources.storage.counters import count_events

SLAB_BYTES = 64 * 2**20
"""Voxels of a slab, at most: enough that a disk writes them at its speed."""

FETCH_WITHIN = 5.0
"""Seconds that the voxels of a slab may take to come at first. Then they are asked for again, with twice the time: a
worker that died is not waited for, and a slow network has the time that it needs."""

Task = Job | Reversed
Slab = tuple[int, Box]


@dataclass(frozen=True, eq=False)
class MadeSlab:
    """The voxels of a slab, what the ledger notes of it, and counts."""

    box: Box
    pixels: NDArray[Any]
    entry: SlabEntry
    stats: BlockStats
    retries: int


def slab_shape(task: Task, limit: int, at_once: int) -> tuple[int, ...]:
    """Whole rows of the volume: as many planes as the chunks of the source are deep, and as many rows, as fit.

    Raises: MemoryBudgetError where not even one row fits.
    """
    shape, space = list(task.shape), task.grid.ndim
    lead = len(shape) - space
    slab = [1] * lead + shape[lead:]
    budget = limit // max(1, at_once)
    # Voxels in memory are not decoded chunk by chunk.
    chunked = len(task.source.chunks) == len(shape) and not isinstance(task.source.array, np.ndarray)
    for axis in range(lead, len(shape) - 1):
        unit = min(shape[axis], task.source.chunks[axis]) if chunked else 1
        # The first axis keeps whole chunks while what is left of the others can still be cut.
        least = unit if axis < len(shape) - 2 else 1
        while slab[axis] > least and not _fits(task, slab, budget):
            half = slab[axis] // 2
            slab[axis] = max(least, half // unit * unit or half)
    for axis in range(lead, len(shape) - 1):
        while slab[axis] > 1 and not _fits(task, slab, budget):
            slab[axis] //= 2
    slabs_at_once(task, slab, limit, at_once, least=at_once)
    return tuple(slab)


def slabs_at_once(task: Task, slab: list[int] | tuple[int, ...], limit: int, at_once: int, *, least: int = 1) -> int:
    """How many slabs of a shape fit the memory at once, at most `at_once`.

    Raises: MemoryBudgetError where fewer than `least` fit.
    """
    need = slab_bytes(task, list(slab))
    fit = min(at_once, limit // need)
    if fit < least:
        raise MemoryBudgetError(
            f"{least} slabs of {' x '.join(map(str, slab))} voxels at a time take {least * need} bytes, more than "
            f"memory={limit}: allow more"
        )
    return fit


def _fits(task: Task, slab: list[int], budget: int) -> bool:
    voxels = int(np.prod(slab, dtype=np.int64)) * task.dtype.itemsize
    return voxels <= SLAB_BYTES and slab_bytes(task, slab) <= budget


def slab_bytes(task: Task, slab: list[int]) -> int:
    """Bytes of the most demanding of the first, middle and last slab, while another one waits to be written."""
    boxes = []
    for part in (0.0, 0.5, 1.0):
        start = [int(part * (n - s)) for n, s in zip(task.shape, slab, strict=True)]
        boxes.append(Box(tuple(start), tuple(a + s for a, s in zip(start, slab, strict=True))))
    waiting = boxes[0].size * task.dtype.itemsize
    return (max(task.working_bytes(box, box, slab) for box in boxes) + waiting) * 9 // 8


def compute_slab(task: Task, slab: Slab) -> MadeSlab:
    """The voxels of a slab. Runs on a worker."""
    (number, box), stats = slab, BlockStats()
    with count_events() as seen:
        # Before anything is read: a change that comes later is then seen.
        made_of = task.source.state(task.read_box(box))
        pixels = next(iter(task.run([[box]], stats)))
    entry = SlabEntry(number, len(seen.missing), tuple(sorted(seen.damaged)), made_of)
    return MadeSlab(box, pixels, entry, stats, seen.retries)


def from_threads(task: Task, slabs: list[Slab], at_once: int) -> Iterator[MadeSlab]:
    """Slabs as threads of this process make them."""

    def compute(slab: Slab) -> MadeSlab:
        return compute_slab(task.restrict(slab[1]), slab)

    with closing(in_threads(at_once, compute, slabs)) as made:
        yield from made


def from_workers(client: Any, task: Task, slabs: list[Slab], per_thread: float) -> Iterator[MadeSlab]:
    """Slabs as the workers of a client make them, in order, a few ahead of what is written.

    Args:
        per_thread: slabs in flight for each thread of all workers.

    Raises: NoWorkersError, SchedulerLostError; BlocksFailedError where a slab ends its workers; errors of the source.
    """
    job = job_of(task)
    capacity = Capacity(client, "GPU" if job is not None and job.device.startswith("cuda") else None)
    waiting, running = deque(slabs), deque[tuple[Slab, Any]]()
    try:
        while waiting or running:
            capacity.refresh()
            while waiting and len(running) < max(1, int(per_thread * capacity.threads)):
                slab = waiting.popleft()
                resources = {capacity.resource: 1} if capacity.resource else None
                part = task.restrict(slab[1])
                # dask warns of large graphs. Here that is intended: voxels that are in memory travel with the slabs.
                with dask.config.set({"distributed.admin.large-graph-warning-threshold": sys.maxsize}):
                    future = client.submit(compute_slab, part, slab, pure=False, retries=RETRIES, resources=resources)
                running.append((slab, future))
            slab, future = running[0]
            made = _fetched(future, slab, capacity)
            running.popleft()
            future.release()
            yield made
    finally:
        with suppress(Exception):
            cancel(client, [future for _, future in running], timeout=ANSWER_WITHIN)


def _fetched(future: Any, slab: Slab, capacity: Capacity) -> MadeSlab:
    """The result of a future. It is waited for as long as there are workers, or some may come."""
    from distributed import CancelledError, wait
    from distributed import TimeoutError as NotYet

    not_yet = (NotYet, TimeoutError, CancelledError)  # a cancelled future is seen by its status

    seconds = FETCH_WITHIN
    while True:
        if not future.done():
            with suppress(*not_yet):
                wait([future], timeout=1.0)
        elif future.status == "error":
            raise _failed(future.exception(), slab)
        elif future.status != "finished":
            raise SchedulerLostError(
                "the scheduler was lost, or the work was cancelled: finished slabs are kept; run the same command "
                "again to resume"
            )
        else:
            with suppress(*not_yet):  # its worker may be gone: it is then made again
                made: MadeSlab = future.result(timeout=seconds)
                return made
            seconds *= 2
        capacity.refresh()


def _failed(error: BaseException, slab: Slab) -> BaseException:
    name = type(error).__name__
    if name in NO_WORKER_ERRORS:
        return NoWorkersError(f"{error}: finished slabs are kept; run the same command again to resume")
    if name == "KilledWorker":
        return BlocksFailedError(
            f"the workers that made slab {slab[0]} ended ({error}), as when their memory is used up: finished slabs "
            "are kept; give the workers more memory and run the same command again to resume"
        )
    return error
