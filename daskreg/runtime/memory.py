"""How much memory this process may still take: of the machine, its control groups, and its limit as a Dask worker.

`pages` takes memory from the system; `without_collector` does not look for what can be given back.

Pages of files that the kernel keeps only until someone needs the memory count as available: a machine that has read
many files has few free pages and still all of its memory.
"""

from __future__ import annotations

import gc
import mmap
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

import numpy as np
import psutil
from numpy.typing import NDArray

_GROUPS, _MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
# Of version 2 and of version 1: files of the limit and of the bytes in use.
_FILES = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))
# Lines of memory.stat: pages of files, which the kernel can take back.
_FILE_PAGES = {"active_file", "inactive_file", "total_active_file", "total_inactive_file"}

_FROZEN_BY_PYTHON = 1000
"""Objects that Python, of some versions, keeps from its collector; there are fewer."""


def pages(nbytes: int) -> NDArray[np.uint8]:
    """(nbytes,) memory without values in pages of its own, which the system has back when the array is deleted.

    The heap of a thread keeps what was allocated from it, up to 64 MiB, and what lies behind it.
    """
    if sys.platform == "win32" or nbytes == 0:
        return np.empty(nbytes, np.uint8)
    private = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # of a kernel without them
            private.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(private, np.uint8)


def available_memory() -> int:
    """Bytes that this process may still take."""
    return max(0, min([int(psutil.virtual_memory().available), *_left_in_groups(), *_left_of_worker()]))


def _left_in_groups() -> Iterator[int]:
    """Bytes below the limit of each control group that this process is in, and of the groups around it."""
    for folder in group_folders("memory"):
        for limit, used in _FILES:
            most, now = _number(folder / limit), _number(folder / used)
            if most is not None and now is not None:
                yield most - now + _file_pages(folder / "memory.stat")


def group_folders(controller: str) -> Iterator[Path]:
    """The folders of the control groups of this process that limit what a controller ("memory", "cpu") counts.

    Inside a container, its own group is the root.
    """
    try:
        lines = _MEMBERSHIP.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root = _GROUPS / controller if controllers else _GROUPS
        inner = PurePosixPath(path.lstrip("/"))
        yield from (root / part for part in (inner, *inner.parents) if ".." not in part.parts)


def _number(path: Path) -> int | None:
    """The number in a file; None where there is none: no limit, no such file, no right to read it."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _file_pages(path: Path) -> int:
    try:
        lines = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return 0
    found = {words[0]: int(words[1]) for words in lines if len(words) == 2 and words[0] in _FILE_PAGES}
    # Version 1 has both the group's own pages and the total with those of inner groups.
    return max(
        sum(found.get(f"{prefix}{kind}", 0) for kind in ("active_file", "inactive_file")) for prefix in ("", "total_")
    )


def _left_of_worker() -> Iterator[int]:
    """Bytes below the limit of the Dask worker whose task is running, if it is one."""
    get_worker = getattr(sys.modules.get("distributed"), "get_worker", None)
    if get_worker is None:
        return
    try:
        limit = get_worker().memory_manager.memory_limit
    except ValueError:  # not in a task
        return
    if limit:
        yield int(limit) - int(psutil.Process().memory_info().rss)


@contextmanager
def without_collector(*, once: bool = False) -> Iterator[None]:
    """For what makes many objects and keeps them: looking for unused ones is a tenth of the time to compile, a quarter
    of that to import torch, and half of that to read a large ledger.

    Args:
        once: for what a process does once, such as imports. The objects then count as old, so that the collector looks
            at them when it looks at all. So do those of others, which it would never look at if this were repeated.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            if once and gc.get_freeze_count() < _FROZEN_BY_PYTHON:  # else the program has frozen others, which stay so
                gc.freeze()
                gc.unfreeze()  # into the oldest generation
            gc.enable()
