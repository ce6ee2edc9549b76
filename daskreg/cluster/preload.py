"""Loaded by each local worker as it starts.

Ctrl-C reaches every process of a terminal. The process that started the workers ends them;
without this each would print a traceback of its own, and a warning for each task that it drops.
"""

from __future__ import annotations

import logging
import signal
import threading
from typing import Any


def dask_setup(worker: Any) -> None:
    """Called by distributed, in the worker's main thread."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.getLogger("distributed.worker.state_machine").setLevel(logging.ERROR)
