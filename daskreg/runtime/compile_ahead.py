"""A second process that compiles kernels, while this one imports libraries and then compiles others.

numba compiles one function at a time in a process. The second process begins as soon as one of a module's kernels
is not found in numba's folder, or when a kernel was compiled here and not read. Both go through one list of kernels and
leave out what the other one is compiling. What it compiles is read from numba's folder, and `compile_once` has this
process wait for the kernel that the other one is compiling. When this process ends, the second one has ten seconds.

A process that misses a kernel can do small work without (`torch_instead`): to wait would take longer.

A module with such a list has a function `kernels(ndim)` of pairs (kernel, types), those that take longest first.
"""

from __future__ import annotations

import importlib
import logging
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from daskreg.runtime.compile_once import call_when_compiled, compiled_elsewhere, first_on_host, kept
from daskreg.runtime.device import cores

log = logging.getLogger(__name__)

_CODE = """\
import sys
sys.path[:] = sys.argv[4:]
from daskreg.runtime.compile_ahead import compile_kernels
compile_kernels(*sys.argv[1:4])
"""

_PYTHON = re.compile(r"(python|pypy)w?[\d.]*t?(\.exe)?", re.IGNORECASE)

LINGER = 10.0
"""Seconds that the second process goes on after this one: short programs would otherwise never have a kernel compiled.
"""

_begun: set[tuple[str, int]] = set()
_looking = threading.Lock()
_looked: set[tuple[str, int]] = set()
_shared: set[tuple[str, int]] = set()
_missed: set[tuple[str, int]] = set()


@contextmanager
def expected(module: str, ndim: int) -> Iterator[None]:
    """In this block kernels will be called: `kernels(ndim)` of a module are also compiled by a second process.

    Nothing is done where no kernel has to be compiled, where compiled code is not kept, where there is one core, in a
    program that embeds Python, and in a process of `multiprocessing`, such as a worker of a cluster: its host compiles
    before the work is submitted.
    """
    if (module, ndim) in _begun:
        yield
        return
    with call_when_compiled(lambda: _begin(module, ndim)):
        yield


def missed(module: str, ndim: int) -> bool:
    """Whether one of a module's kernels was not kept when this process first asked.

    That stays as it is when the kernels are compiled, so that a process computes the same from the same input. Workers
    miss nothing: they compute the same as each other, whatever they find.
    """
    with _looking:
        if (module, ndim) not in _looked:
            kernels = importlib.import_module(module).kernels(ndim)
            if multiprocessing.parent_process() is None and not all(kept(kernel) for kernel, _ in kernels):
                _missed.add((module, ndim))
            _looked.add((module, ndim))
        return (module, ndim) in _missed


def begin(module: str, ndim: int) -> None:
    """Start the second process now, where kernels were missed and compiled code is kept; see `expected`."""
    if missed(module, ndim):
        first, _ = importlib.import_module(module).kernels(ndim)[0]
        if first.stats.cache_path:
            _begin(module, ndim)


def take_part(module: str, ndim: int) -> None:
    """Compile the kernels that the second process, where there is one, is not compiling just now."""
    if (module, ndim) in _shared:
        _shared.discard((module, ndim))
        _compile_all(module, ndim)


def _begin(module: str, ndim: int) -> None:
    if (module, ndim) in _begun:
        return
    _begun.add((module, ndim))
    # In a program that embeds Python, sys.executable is that program.
    python = _PYTHON.fullmatch(Path(sys.executable or "").name) and not getattr(sys, "frozen", False)
    if not python or cores() < 2 or multiprocessing.parent_process() is not None:
        return
    if first_on_host(f"ahead-{module}-{ndim}"):
        try:
            start(module, ndim)
            _shared.add((module, ndim))
        except (OSError, RuntimeError) as error:  # a limit of processes or threads: this process compiles all
            log.debug("no second process compiles kernels: %s", error)


def start(module: str, ndim: int, *, linger: float = LINGER) -> subprocess.Popen[bytes]:
    """The process; it ends soon after its input, and so after this one, in whatever way this one ends.

    Args:
        linger: seconds that it goes on.
    """
    command = [sys.executable, "-c", _CODE, module, str(ndim), str(linger), *sys.path]
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    # In a session of its own, so that Ctrl-C does not reach it.
    process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True, **quiet)
    threading.Thread(target=_wait_for, args=(process,), daemon=True).start()
    return process


def _wait_for(process: subprocess.Popen[bytes]) -> None:
    process.wait()
    if process.stdin is not None:  # or Python warns of a file that was not closed
        process.stdin.close()


def compile_kernels(module: str, ndim: str, linger: str) -> None:
    """What the second process does."""
    threading.Thread(target=_end_after_input, args=(float(linger),), daemon=True).start()
    _compile_all(module, int(ndim))


def _compile_all(module: str, ndim: int) -> None:
    for kernel, types in importlib.import_module(module).kernels(ndim):
        if not compiled_elsewhere(kernel):
            kernel.compile(types)


def _end_after_input(linger: float) -> None:
    os.read(0, 1)  # not through sys.stdin, whose lock the end of Python would wait for
    time.sleep(linger)
    # Not SIGTERM, which is ignored here if the process that started this one ignores it.
    os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
