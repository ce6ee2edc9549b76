"""A second process that compiles kernels that are needed late, while this one compiles those that are needed first.

numba compiles one function at a time in a process. The second process begins when the first kernel was compiled here
and not read, and it ends with this one. What it compiles is read from numba's folder, and
`compile_once` has this process wait for the kernel that the other one is compiling.
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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from daskreg.runtime.compile_once import call_when_compiled, first_on_host
from daskreg.runtime.device import cores

log = logging.getLogger(__name__)

_CODE = """\
import sys
sys.path[:] = sys.argv[3:]
from daskreg.runtime.compile_ahead import compile_late_kernels
compile_late_kernels(*sys.argv[1:3])
"""

_PYTHON = re.compile(r"(python|pypy)w?[\d.]*t?(\.exe)?", re.IGNORECASE)

_begun: set[tuple[str, int]] = set()


@contextmanager
def expected(module: str, ndim: int) -> Iterator[None]:
    """In this block kernels will be called: `late_kernels(ndim)` of a module are compiled by a second process.

    Nothing is done where no kernel has to be compiled, where compiled code is not kept, where there is one core, in a
    program that embeds Python, and in a process of `multiprocessing`, such as a worker of a cluster: its host compiles
    before the work is submitted.
    """
    if (module, ndim) in _begun:
        yield
        return
    with call_when_compiled(lambda: _begin(module, ndim)):
        yield


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
        except (OSError, RuntimeError) as error:  # a limit of processes or threads: this process compiles all
            log.debug("no second process compiles kernels: %s", error)


def start(module: str, ndim: int) -> subprocess.Popen[bytes]:
    """The process; it ends when its input does, and so with this one, in whatever way this one ends."""
    command = [sys.executable, "-c", _CODE, module, str(ndim), *sys.path]
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    # In a session of its own, so that Ctrl-C does not reach it.
    process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True, **quiet)
    threading.Thread(target=_wait_for, args=(process,), daemon=True).start()
    return process


def _wait_for(process: subprocess.Popen[bytes]) -> None:
    process.wait()
    if process.stdin is not None:  # or Python warns of a file that was not closed
        process.stdin.close()


def compile_late_kernels(module: str, ndim: str) -> None:
    """What the second process does."""
    threading.Thread(target=_end_with_input, daemon=True).start()
    for kernel, types in importlib.import_module(module).late_kernels(int(ndim)):
        kernel.compile(types)


def _end_with_input() -> None:
    os.read(0, 1)  # not through sys.stdin, whose lock the end of Python would wait for
    # Not SIGTERM, which is ignored here if the process that started this one ignores it.
    os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
