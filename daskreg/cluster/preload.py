"""Loaded by each local worker as it starts.

Ctrl-C reaches every process of a terminal. The process that started the workers ends them;
without this each would print a traceback of its own, and a warning for each task that it drops.

It also sets how many threads numba uses: a variable of numba's own would be seen by the process that starts the
worker, which may be compiling at that moment.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from typing import Any

NUMBA_THREADS = "DASKREG_NUMBA_THREADS"
"""The variable by which a local worker learns NUMBA_NUM_THREADS, which it sets for itself."""

if NUMBA_THREADS in os.environ:
    os.environ["NUMBA_NUM_THREADS"] = os.environ[NUMBA_THREADS]


def dask_setup(worker: Any) -> None:
    """Called by distributed, in the worker's main thread."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.getLogger("distributed.worker.state_machine").setLevel(logging.ERROR)
    if multiprocessing.parent_process() is not None:
        # Python takes seconds to tear down what a worker has loaded, and its nanny kills it after four, with a warning.
        from daskreg.runtime.private_apis import end_without_teardown

        end_without_teardown()
