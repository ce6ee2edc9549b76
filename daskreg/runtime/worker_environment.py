"""The environment of worker processes on this machine, set before they load any library.

distributed sets it in the process that starts them, and leaves it there when it starts the worker again that has died:
from then on that process, and what it starts, would use as few threads as a worker.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

NUMBA_THREADS = "DASKREG_NUMBA_THREADS"
"""The variable by which a local worker learns NUMBA_NUM_THREADS, which it sets for itself."""


@contextmanager
def worker_environment(values: Mapping[str, str]) -> Iterator[None]:
    """Workers that start in this block get `values` as environment; this process is left as it was.

    distributed prefers what it finds in this process to its configuration, so both are set.
    """
    import dask

    values = {"MALLOC_TRIM_THRESHOLD_": "65536", **values}
    # numba looks at its variables whenever it compiles, also in this process while a nanny starts a worker.
    values[NUMBA_THREADS] = values.pop("NUMBA_NUM_THREADS")
    with _environment_kept((*values, "PYTHONHASHSEED")):
        os.environ.update(values)
        with dask.config.set({"distributed.nanny.pre-spawn-environ": values}):
            yield


@cache
def nanny_type() -> type[Any]:
    """distributed's type of process that starts a worker, and starts it again; it leaves the environment as it was."""
    from distributed import Nanny

    class TidyNanny(Nanny):
        async def instantiate(self) -> Any:
            with _environment_kept(self.pre_spawn_env):
                return await super().instantiate()

    TidyNanny.__name__ = TidyNanny.__qualname__ = Nanny.__name__
    return TidyNanny


class _KeptEnvironment:
    """Variables that are put back as they were before the first block of several that overlap, when the last ends."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._before: dict[str, str | None] = {}
        self._blocks = 0

    @contextmanager
    def __call__(self, names: Iterable[str]) -> Iterator[None]:
        with self._lock:
            for name in names:
                self._before.setdefault(name, os.environ.get(name))
            self._blocks += 1
        try:
            yield
        finally:
            with self._lock:
                self._blocks -= 1
                if not self._blocks:
                    self._put_back()

    def _put_back(self) -> None:
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        self._before.clear()


_environment_kept = _KeptEnvironment()
