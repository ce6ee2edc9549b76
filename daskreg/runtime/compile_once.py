"""Kernels are compiled by one process of a host at a time, which stores them for the others.

numba keeps compiled code in a folder, by processor, by its own version and by the source; but processes that
start together, such as the workers of a host, would each compile all of it. Here the others wait for the first, and
then read what it stored.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import multiprocessing
import os
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from daskreg.runtime.memory import without_collector
from daskreg.runtime.progress import at_stage

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

WAIT_AT_MOST = 120.0
"""Seconds that a process waits for another one that compiles the same kernel; then it compiles it itself."""

SAY_AFTER = 1.0
"""Seconds of compiling, all kernels together, after which a line says so."""

READ_WITHIN = 0.2
"""Seconds after which it is clear whether numba has found a kernel in its folder."""


def share_compilation(kernel: Any) -> Any:
    """The same numba function, which first waits for another process of this host that compiles it just now."""
    from numba.core.compiler_lock import global_compiler_lock

    compile_here: Callable[[Any], Any] = kernel.compile

    def compile_once(signature: Any) -> Any:
        # The stage outside of all locks, as it calls functions of the user. Then numba's own lock: a thread that has it
        # may need the file that another thread holds.
        with (
            at_stage("compiling"),
            global_compiler_lock,
            _lock_of_host(_lock_name(kernel)),
            _NOTICE.while_compiling(kernel),
            without_collector(once=True),
        ):
            known = _compiled(kernel)
            made = compile_here(signature)
            if _compiled(kernel) > known and kernel.stats.cache_path:
                waiting = _WHEN_COMPILED.copy()
                _WHEN_COMPILED.clear()
                for begin in waiting:
                    begin()
            return made

    kernel.compile = compile_once
    return kernel


def _name(kernel: Any) -> str:
    return f"{kernel.py_func.__module__}.{kernel.py_func.__qualname__}"


def _lock_name(kernel: Any) -> str:
    """Where compiled code is kept is part of it: a process would wait in vain for what is kept elsewhere."""
    folder = hashlib.sha256(str(kernel.stats.cache_path).encode()).hexdigest()[:12]
    return f"{_name(kernel)}-{folder}"


def kept(kernel: Any) -> bool:
    """Whether numba's folder has a version of a kernel; it may be of other types, or of an earlier source."""
    module, _, name = _name(kernel).rpartition(".")
    folder = kernel.stats.cache_path
    return bool(folder) and any(Path(folder).glob(f"{module.rpartition('.')[2]}.{name}-*.nbi"))


def seems_kept(source: Path, name: str) -> bool | None:
    """The same of a kernel in a file, without importing numba: a guess at the folder that numba uses. None: there is
    no such folder, so that nothing can be kept."""
    given = os.environ.get("NUMBA_CACHE_DIR")
    if not given and os.access(source.parent, os.W_OK):
        folders = [source.parent / "__pycache__"]
    else:
        try:
            root = Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "numba")
            root.mkdir(parents=True, exist_ok=True)
        except (OSError, RuntimeError):  # RuntimeError: this user has no home
            return None
        folders = list(root.glob(f"{source.parent.name}_*"))
    return any(any(folder.glob(f"{source.stem}.{name}-*.nbi")) for folder in folders)


_WHEN_COMPILED: list[Callable[[], Any]] = []


@contextlib.contextmanager
def call_when_compiled(function: Callable[[], Any]) -> Iterator[None]:
    """Call it once when the next kernel is compiled, not read, and kept in a folder, while this block runs."""
    _WHEN_COMPILED.append(function)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            _WHEN_COMPILED.remove(function)


class _Notice:
    """The line that is written once in a process."""

    def __init__(self) -> None:
        self._spent = 0.0
        self._running = self._said = False

    @contextlib.contextmanager
    def while_compiling(self, kernel: Any) -> Iterator[None]:
        if self._running or self._said:
            yield
            return
        began, known, self._running = time.monotonic(), _compiled(kernel), True
        timer = threading.Timer(max(READ_WITHIN, SAY_AFTER - self._spent), self._say, [kernel, known])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            self._running = False
            if _compiled(kernel) > known:  # else it was read from the folder
                self._spent += time.monotonic() - began

    def _say(self, kernel: Any, known: int) -> None:
        if _compiled(kernel) <= known:
            return
        self._said = True
        folder = kernel.stats.cache_path
        kept = f"kept in {folder} for later runs" if folder else "for this run only: set NUMBA_CACHE_DIR to a folder"
        # A worker's lines would be as many as there are workers.
        level = logging.WARNING if multiprocessing.parent_process() is None else logging.INFO
        log.log(level, "compiling for this processor, which takes some seconds (%s; see `daskreg warm-up`)", kept)


def _compiled(kernel: Any) -> int:
    """How many versions of a kernel this process has compiled, or begun to."""
    return sum(kernel.stats.cache_misses.values())


_NOTICE = _Notice()


@contextlib.contextmanager
def _lock_of_host(name: str) -> Iterator[None]:
    """Hold the lock of a kernel on this host, where there are locks; after WAIT_AT_MOST, go on without."""
    descriptor = _open_lock(name)
    if descriptor is None:
        yield
        return
    try:
        deadline = time.monotonic() + WAIT_AT_MOST
        while not _taken(descriptor) and time.monotonic() < deadline:
            time.sleep(0.02)
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # a process that was forked meanwhile has the file, too
        os.close(descriptor)


def compiled_elsewhere(kernel: Any) -> bool:
    """Whether another process of this host is compiling a kernel just now."""
    descriptor = _open_lock(_lock_name(kernel))
    if descriptor is None:
        return False
    taken = _taken(descriptor)
    if taken:
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # as above
    os.close(descriptor)
    return not taken


def first_on_host(name: str) -> bool:
    """Whether this process is the first one of this host and user to ask; the others may when it has ended.

    False where there are no locks.
    """
    descriptor = _open_lock(name)
    if descriptor is None:
        return False
    if _taken(descriptor):  # and held, as the file stays open
        return True
    os.close(descriptor)
    return False


def _open_lock(name: str) -> int | None:
    """A file of this user and host to lock; None where there are no locks."""
    folder = _own_folder()
    if fcntl is None or folder is None:
        return None
    try:
        return os.open(folder / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError:
        return None


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # no locks here
        return True
    return True


def _own_folder() -> Path | None:
    """A folder of this user and host that no other user can write to; None where there is none."""
    if not hasattr(os, "getuid"):
        return None
    path = Path(tempfile.gettempdir()) / f"daskreg-compile-{os.getuid()}"
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        found = path.lstat()
    except OSError:
        return None
    own = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022
    return path if own else None
