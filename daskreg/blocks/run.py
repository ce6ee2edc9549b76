"""Run blocks: compute each where a worker is, write its shard, record it, in a bounded window.

`write_block` is the only task. What travels to a worker is a small description; what comes
back is a handful of numbers. Two tasks never write one file, so a retry is an overwrite.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice, product
from typing import Any

import zarr

from daskreg.blocks.job import BlockStats, Task
from daskreg.blocks.ledger import Ledger, entry_now
from daskreg.blocks.memory import local_threads
from daskreg.blocks.store import NO_SPACE, NOT_ALLOWED, RecordingStore
from daskreg.errors import NoWorkersError, OutputError, StorageFullError
from daskreg.geometry import Box
from daskreg.sources.store import open_store

log = logging.getLogger(__name__)

RETRIES = 3
NO_WORKERS_TIMEOUT = 60.0
"""Seconds without any worker after which a run gives up."""

FATAL = (StorageFullError, OutputError)
"""What ends a run at once, since every block would meet it."""

Index = tuple[int, ...]
Progress = Callable[[int, int, int], None]
"""Called with (blocks done, blocks in all, bytes written so far)."""


@dataclass(frozen=True, eq=False)
class WriteBlock:
    """All that a worker needs to make one block of one level."""

    task: Task
    output: str
    run_id: str
    level: int
    index: Index
    box: Box
    fingerprint: str


@dataclass(frozen=True)
class BlockDone:
    """What a finished block reports."""

    index: Index
    bytes_read: int
    bytes_written: int
    stored: int
    clipped: int


@dataclass(frozen=True)
class Failure:
    """A block that could not be made."""

    level: int
    index: Index
    error: BaseException

    def __str__(self) -> str:
        return f"level {self.level}, block {self.index}: {type(self.error).__name__}: {self.error}"


def write_block(item: WriteBlock) -> BlockDone:
    """Compute one block, write its shards, and append it to the ledger. Runs on a worker.

    Raises: StorageFullError when the disk is full, OutputError where writing is not allowed.
    """
    array, store = _target(item.output, item.run_id, item.level)
    stats = BlockStats()
    pixels = item.task.run(item.box, stats)
    try:
        array[item.box.slices] = pixels
        files = store.take(_keys(array, item.box))
        entry = entry_now(item.level, item.index, item.fingerprint, files, stats.clipped)
        Ledger(item.output).append(entry)
    except OSError as error:
        if error.errno in NO_SPACE:
            raise StorageFullError(
                error.errno,
                f"no space left while writing {item.output}: finished blocks are kept; make room and run the same "
                "command again to resume",
            ) from error
        if error.errno in NOT_ALLOWED:
            raise OutputError(
                f"{item.output} cannot be written ({error}): give the workers permission and run the same command again"
            ) from error
        raise
    stored = sum(size for _, size in files.values())
    return BlockDone(item.index, stats.bytes_read, pixels.nbytes, stored, stats.clipped)


def run_blocks(
    items: Iterator[WriteBlock],
    *,
    client: Any | None,
    on_done: Callable[[BlockDone], None],
) -> list[Failure]:
    """Run all items, a bounded number at a time, on `client` or in local threads.

    A failing block does not stop the others; a full disk, or one that may not be written, does.
    On Ctrl-C what runs is left to
    end or is cancelled, and the ledger knows what was finished.

    Returns: the failures, empty when all went well.
    Raises: NoWorkersError when the cluster has had no worker for a minute.
    """
    if client is None:
        return _run_threads(items, on_done)
    return _run_client(items, client, on_done)


def _run_threads(items: Iterator[WriteBlock], on_done: Callable[[BlockDone], None]) -> list[Failure]:
    threads = local_threads()
    failures: list[Failure] = []
    pool = ThreadPoolExecutor(threads, thread_name_prefix="daskreg")
    running: dict[Future[BlockDone], WriteBlock] = {}
    try:
        while True:
            for item in islice(items, 2 * threads - len(running)):
                running[pool.submit(write_block, item)] = item
            if not running:
                return failures
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                item = running.pop(future)
                error = future.exception()
                if error is None:
                    on_done(future.result())
                    continue
                failures.append(Failure(item.level, item.index, error))
                if isinstance(error, FATAL):
                    return failures
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _run_client(items: Iterator[WriteBlock], client: Any, on_done: Callable[[BlockDone], None]) -> list[Failure]:
    from distributed import wait as wait_for

    failures: list[Failure] = []
    running: dict[Any, WriteBlock] = {}
    patience = _Patience(client)
    try:
        while True:
            room = 2 * patience.threads() + 2 - len(running)
            for item in islice(items, max(0, room)):
                running[_submit(client, item)] = item
            if not running:
                return failures
            try:
                done = wait_for(list(running), timeout=5, return_when="FIRST_COMPLETED").done
            except TimeoutError:
                patience.check()
                continue
            for future in done:
                item = running.pop(future)
                # Futures that are held are computed again when their worker dies.
                error = future.exception() if future.status == "error" else None
                if error is None and future.status == "finished":
                    on_done(future.result())
                else:
                    failure = error or RuntimeError(f"the task was {future.status}")
                    failures.append(Failure(item.level, item.index, failure))
                future.release()
                if isinstance(error, FATAL):
                    return failures
    finally:
        if running:
            client.cancel(list(running), force=True)


def _submit(client: Any, item: WriteBlock) -> Any:
    index = "_".join(map(str, item.index))
    key = f"daskreg-write-{item.run_id}-L{item.level}-{index}"
    return client.submit(write_block, item, key=key, retries=RETRIES, pure=False)


class _Patience:
    """Counts the threads of a cluster, and the time that it has been without any."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._asked = 0.0
        self._threads = 0
        self._seen = time.monotonic()

    def threads(self) -> int:
        """Threads of all workers, asked for at most once a second."""
        now = time.monotonic()
        if now - self._asked > 1:
            self._threads = sum(self._client.nthreads().values())
            self._asked = now
            if self._threads:
                self._seen = now
        return self._threads

    def check(self) -> None:
        if self.threads() == 0 and time.monotonic() - self._seen > NO_WORKERS_TIMEOUT:
            raise NoWorkersError(
                f"the cluster at {self._client.scheduler.address} has had no worker for {NO_WORKERS_TIMEOUT:.0f} s: "
                "start workers and run the same command again to resume"
            )


@lru_cache(maxsize=8)
def _target(output: str, run_id: str, level: int) -> tuple[zarr.Array[Any], RecordingStore]:
    """The open output array of a level in this process; `run_id` tells runs at one path apart."""
    store = RecordingStore(open_store(output, mode="r+"))
    return zarr.open_array(store, path=str(level), mode="r+"), store


def _keys(array: zarr.Array[Any], box: Box) -> list[str]:
    """Keys of the files (shards or chunks) that hold `box`."""
    unit = array.shards or array.chunks
    first = [a // u for a, u in zip(box.start, unit, strict=True)]
    counts = [-(-b // u) - f for b, u, f in zip(box.stop, unit, first, strict=True)]
    prefix = array.path + "/" if array.path else ""
    inside = Box(tuple(first), tuple(f + n for f, n in zip(first, counts, strict=True)))
    return [prefix + array.metadata.encode_chunk_key(index) for index in _indices(inside)]


def _indices(box: Box) -> Iterator[Index]:
    return product(*(range(a, b) for a, b in zip(box.start, box.stop, strict=True)))
