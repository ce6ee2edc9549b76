"""A second process that compiles kernels, while this one imports libraries and then compiles others.

numba compiles one function at a time in a process. The second process begins as soon as one of a module's kernels
is not found in numba's folder, or when a kernel was compiled here and not read. Both go through one list of kernels and
leave out what the other one is compiling. What it compiles is read from numba's folder, and `compile_once` has this
process wait for the kernel that the other one is compiling. When this process ends, the second one has ten seconds.

A process that misses a kernel can do small work without (`torch_instead`, `sampling.arrays_numpy`): to wait would take
longer. `compile_first` and workers rule that out.

A module with such a list has a function `kernels(*case)` of pairs (kernel, types), those that take longest first. A
case is the number of axes, and what else the kernels depend on.
"""

from __future__ import annotations

import importlib
import json
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
sys.path[:] = sys.argv[3:]
from daskreg.runtime.compile_ahead import compile_kernels
compile_kernels(*sys.argv[1:3])
"""

Case = int | str

_PYTHON = re.compile(r"(python|pypy)w?[\d.]*t?(\.exe)?", re.IGNORECASE)

LINGER = 10.0
"""Seconds that the second process goes on after this one: short programs would otherwise never have a kernel compiled.
"""

_AT_ONCE = 2
"""Second processes that run at the same time, at most."""

_compiles_first = threading.Event()
_running: list[subprocess.Popen[bytes]] = []
_begun: set[tuple[Case, ...]] = set()
_looking = threading.Lock()
_looked: set[tuple[Case, ...]] = set()
_shared: set[tuple[Case, ...]] = set()
_missed: set[tuple[Case, ...]] = set()


def compile_first() -> None:
    """From now on this process does nothing without compiled code: it runs in order to compile, or to measure."""
    _compiles_first.set()


def may_do_without() -> bool:
    """Whether this process may do small work without compiled code.

    Workers may not: their host compiles before the work is submitted.
    """
    return multiprocessing.parent_process() is None and not _compiles_first.is_set()


@contextmanager
def expected(module: str, *case: Case) -> Iterator[None]:
    """In this block kernels will be called: `kernels(*case)` of a module are also compiled by a second process.

    Nothing is done where no kernel has to be compiled, where compiled code is not kept, where there is one core, in a
    program that embeds Python, and in a process of `multiprocessing`, such as a worker of a cluster: its host compiles
    before the work is submitted.
    """
    if (module, *case) in _begun:
        yield
        return
    with call_when_compiled(lambda: begin_unasked(module, *case)):
        yield


def missed(module: str, *case: Case) -> bool:
    """Whether one of a module's kernels was not kept when this process first asked.

    That stays as it is when the kernels are compiled, so that a process computes the same from the same input. Workers
    miss nothing: they compute the same as each other, whatever they find.
    """
    with _looking:
        if (module, *case) not in _looked:
            if may_do_without():
                kernels = importlib.import_module(module).kernels(*case)
                if not all(kept(kernel) for kernel, _ in kernels):
                    _missed.add((module, *case))
            _looked.add((module, *case))
        return (module, *case) in _missed


def begin(module: str, *case: Case) -> None:
    """Start the second process now, where kernels were missed and compiled code is kept; see `expected`."""
    if missed(module, *case):
        first, _ = importlib.import_module(module).kernels(*case)[0]
        if first.stats.cache_path:
            begin_unasked(module, *case)


def take_part(module: str, *case: Case) -> None:
    """Compile the kernels that the second process, where there is one, is not compiling just now."""
    if (module, *case) in _shared:
        _shared.discard((module, *case))
        _compile_all(module, *case)


def begin_unasked(module: str, *case: Case) -> None:
    """Start the second process, where there may be one, without looking what is kept: this process imports no numba."""
    if (module, *case) in _begun or len(_running) >= _AT_ONCE:
        return
    _begun.add((module, *case))
    # In a program that embeds Python, sys.executable is that program.
    python = _PYTHON.fullmatch(Path(sys.executable or "").name) and not getattr(sys, "frozen", False)
    if not python or cores() < 2 or multiprocessing.parent_process() is not None:
        return
    if first_on_host("-".join(map(str, ("ahead", module, *case)))):
        try:
            start(module, *case)
            _shared.add((module, *case))
        except (OSError, RuntimeError) as error:  # a limit of processes or threads: this process compiles all
            log.debug("no second process compiles kernels: %s", error)


def start(module: str, *case: Case, linger: float = LINGER) -> subprocess.Popen[bytes]:
    """The process; it ends soon after its input, and so after this one, in whatever way this one ends.

    Args:
        linger: seconds that it goes on.
    """
    command = [sys.executable, "-c", _CODE, json.dumps([module, *case]), str(linger), *sys.path]
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    # In a session of its own, so that Ctrl-C does not reach it.
    process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True, **quiet)
    _running.append(process)
    threading.Thread(target=_wait_for, args=(process,), daemon=True).start()
    return process


def _wait_for(process: subprocess.Popen[bytes]) -> None:
    process.wait()
    _running.remove(process)
    if process.stdin is not None:  # or Python warns of a file that was not closed
        process.stdin.close()


def compile_kernels(asked: str, linger: str) -> None:
    """What the second process does."""
    threading.Thread(target=_end_after_input, args=(float(linger),), daemon=True).start()
    for kernel, types in _compile_all(*json.loads(asked)):
        kernel.compile(types)  # it is read, unless it was compiled for other types


def _compile_all(module: str, *case: Case) -> list[tuple[Any, Any]]:
    """Compile what no other process is compiling, and return what was left out."""
    left = []
    for kernel, types in importlib.import_module(module).kernels(*case):
        if compiled_elsewhere(kernel):
            left.append((kernel, types))
        else:
            kernel.compile(types)
    return left


def _end_after_input(linger: float) -> None:
    os.read(0, 1)  # not through sys.stdin, whose lock the end of Python would wait for
    time.sleep(linger)
    # Not SIGTERM, which is ignored here if the process that started this one ignores it.
    os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
