"""Loaded by each worker that daskreg starts, as it starts.

Ctrl-C reaches every process of a terminal. The process that started the workers ends them;
without this each would print a traceback of its own, and a warning for each task that it drops.

It also sets how many threads numba uses: a variable of numba's own would be seen by the process that starts the
worker, which may be compiling at that moment.

If DASKREG_WARM_UP names cases of `daskreg warm-up`, or "all", the first worker of each host compiles them as it starts.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from typing import Any

from daskreg.runtime.worker_environment import NUMBA_THREADS

WARM_UP = "DASKREG_WARM_UP"
"""The variable that names what a host compiles when its first worker starts: cases of `daskreg warm-up`, or "all"."""

PRELOAD = "daskreg.cluster.preload"
"""The name of this module, by which workers load it."""

log = logging.getLogger(__name__)


def dask_setup(worker: Any) -> None:
    """Called by distributed, in the worker's main thread."""
    if NUMBA_THREADS in os.environ:
        os.environ["NUMBA_NUM_THREADS"] = os.environ[NUMBA_THREADS]
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.getLogger("distributed.worker.state_machine").setLevel(logging.ERROR)
    if multiprocessing.parent_process() is not None:
        # Python takes seconds to tear down what a worker has loaded, and its nanny kills it after four, with a warning.
        from daskreg.runtime.private_apis import end_without_teardown

        end_without_teardown()
    start_warm_up()


def warm_up_environment() -> dict[str, str]:
    """The part of this process's environment by which workers on other machines know what to compile."""
    cases = _cases()
    return {WARM_UP: ",".join(cases)} if cases else {}


def _cases() -> list[str]:
    return os.environ.get(WARM_UP, "").replace(",", " ").split()


def start_warm_up() -> threading.Thread | None:
    """Compile what WARM_UP names, in other processes, so that heartbeats go on; None where nothing is to be done."""
    cases = _cases()
    if not cases:
        return None
    from daskreg.runtime.compile_once import first_on_host

    if not first_on_host("warm-up"):
        return None
    thread = threading.Thread(target=_warm_up, args=([] if cases == ["all"] else cases,), daemon=True)
    thread.start()
    return thread


def _warm_up(cases: list[str]) -> None:
    code = "import sys; from daskreg.warm_up import warm_up; list(warm_up(sys.argv[1:]))"
    ended = subprocess.run([sys.executable, "-c", code, *cases], capture_output=True, text=True, check=False)
    if ended.returncode:  # what was not compiled here is compiled when it is used
        log.warning("%s: %s", WARM_UP, (ended.stderr.strip() or "no output").splitlines()[-1])
