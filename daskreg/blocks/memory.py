"""How much memory a block takes, and how much there is."""

from __future__ import annotations

import ctypes
import math
import os
import platform
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from dask.utils import parse_bytes

from daskreg.blocks.job import Task
from daskreg.blocks.source_buffer import release_scratch
from daskreg.errors import OptionError
from daskreg.geometry import Box
from daskreg.runtime.device import cores
from daskreg.runtime.memory import available_memory
from daskreg.sources.storage.access import is_object_url
from daskreg.sources.storage.direct_chunks import ONE_REQUEST
from daskreg.sources.storage.look_ahead import AHEAD

CODEC_CONCURRENCY = 10
"""Chunks that zarr decodes or encodes at once (its `async.concurrency`)."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h

IDLE_WORKER = 400 * 2**20
"""Resident size of a worker that has imported everything and done nothing."""


@dataclass(frozen=True)
class Processes:
    """The processes that make blocks.

    Args:
        workers: how many there are.
        threads: blocks that each works on at a time.
        limit: bytes that each may use above idle.
    """

    workers: int
    threads: int
    limit: int

    @classmethod
    def of(cls, client: Any | None, memory: str | int | None) -> Processes:
        """The workers of a client, or this process where there is none.

        Args:
            memory: the limit, in place of what the workers or this machine have.

        Raises: OptionError.
        """
        known = {} if client is None else client.scheduler_info(n_workers=-1)["workers"]
        return cls(max(1, len(known)), threads_per_process(client), memory_limit(memory, client))

    @classmethod
    def of_size(cls, workers: int, threads: int, size: int) -> Processes:
        """Workers that may have `size` bytes each, and are not there yet."""
        return cls(workers, threads, usable(size))


def usable(size: int) -> int:
    """Bytes that blocks may use in a worker whose limit is `size`."""
    return max(size - IDLE_WORKER, size // 4)


def projected_bytes(
    task: Task, box: Box, chunk: tuple[int, ...], shard: tuple[int, ...] | None = None, *, as_objects: bool = False
) -> int:
    """Peak bytes of working memory of the block `box`, above an idle worker.

    The sum of: the source buffer, one chunk of output, and what the codecs work on. Reading, that is
    decoded chunks; writing, it is a whole chunk, its encoding twice, and all encoded chunks of a shard,
    which is written at once; of an object store, also those of the one before, which is still under way.
    """
    part = Box(box.start, tuple(a + c for a, c in zip(box.start, chunk, strict=True))) & box
    source_item, chunk_out = task.source.dtype.itemsize, math.prod(chunk) * task.dtype.itemsize
    chunk_in = math.prod(map(min, task.source.chunks, task.source.shape)) * source_item
    chunks_in = task.read_box(box).align(task.source.chunks).size * source_item // max(1, chunk_in)
    # Chunks on a local disk are decoded one at a time (`sources.storage.direct_chunks`).
    local = task.source.decodes_in_thread
    decoding = 2 * chunk_in if local else min(CODEC_CONCURRENCY, chunks_in) * chunk_in
    if is_object_url(task.source.path):  # requests that are under way (`sources.storage.look_ahead`)
        decoding = 2 * chunk_in + min(chunks_in * chunk_in, (AHEAD + 1) * max(chunk_in, ONE_REQUEST))
    file_out = math.prod(shard) * task.dtype.itemsize if shard else 0
    encoding = 3 * chunk_out + file_out + ((file_out or chunk_out) if as_objects else 0)
    kept = chunk_in if local else 0  # the scratch chunk to decode into, which a thread keeps
    total = task.working_bytes(box, part, shard or chunk) + max(decoding, kept + encoding)
    return total + total // 8  # freed memory that the allocator has not given back


@lru_cache(maxsize=1)
def keep_freed_memory() -> None:
    """Let this process reuse freed buffers, where it is a Dask worker on glibc.

    Dask starts workers with MALLOC_TRIM_THRESHOLD_ set. That also turns off glibc's rule to raise its thresholds
    when buffers of some MiB are freed often, so each buffer is mapped anew, and the fresh pages of a block that is
    decoded, sampled and encoded cost more than the sampling.
    """
    if "MALLOC_TRIM_THRESHOLD_" in os.environ and platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, 32 * 2**20)
        mallopt(_M_TRIM_THRESHOLD, 64 * 2**20)


def release_memory() -> None:
    """Free what the blocks of a run have left in this process, for what comes next.

    The projection of a run is of memory above that of an idle worker, and knows nothing of earlier runs.
    """
    release_scratch()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def memory_limit(memory: str | int | None, client: Any | None) -> int:
    """Bytes that one process may use: `memory`, else the worker's limit, else half of the memory that is available.

    Raises: OptionError for a text that is not a size.
    """
    if memory is not None:
        try:
            if isinstance(memory, bool):
                raise ValueError(memory)
            limit = int(parse_bytes(memory))
        except (ValueError, OverflowError, AttributeError, TypeError) as error:
            raise OptionError(f"memory={memory!r}: give bytes or a size such as '2 GiB'") from error
        if limit <= 0:
            raise OptionError(f"memory={memory!r}: must be positive")
        return limit
    if client is not None:
        limits = [w["memory_limit"] for w in client.scheduler_info(n_workers=-1)["workers"].values()]
        known = [int(limit) for limit in limits if limit]
        if known:
            return usable(min(known))
    return available_memory() // 2


def threads_per_process(client: Any | None) -> int:
    """Blocks that one process works on at a time."""
    if client is None:
        return cores()
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    return max((int(w["nthreads"]) for w in workers), default=1)
