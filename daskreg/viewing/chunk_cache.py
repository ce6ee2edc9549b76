"""`ChunkCache`: voxels of chunks that were computed lately, each by one thread, for which others wait."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from threading import Lock
from typing import Any

from numpy.typing import NDArray


class CacheClosedError(Exception):
    """What was asked for is not made any more."""


Voxels = NDArray[Any]


class ChunkCache:
    """Arrays by key, up to `most` bytes together: those that were asked for last. Safe among threads."""

    def __init__(self, most: int) -> None:
        self.most, self._size, self._closed = most, 0, False
        self._lock = Lock()
        self._held: OrderedDict[Hashable, Voxels] = OrderedDict()
        self._making: dict[Hashable, Future[Voxels]] = {}

    def get(self, key: Hashable, make: Callable[[], Voxels]) -> Voxels:
        """The array of a key, which nobody must write to: the one that is held, or what `make` gives.

        Raises: CacheClosedError after `close`.
        """
        with self._lock:
            if self._closed:
                raise CacheClosedError
            if key in self._held:
                self._held.move_to_end(key)
                return self._held[key]
            waited = self._making.get(key)
            if waited is None:
                mine = self._making[key] = Future()
        if waited is not None:
            return waited.result()
        try:
            made = make()
        except BaseException as error:
            with self._lock:
                del self._making[key]
            mine.set_exception(error)
            raise
        made.setflags(write=False)
        with self._lock:
            del self._making[key]
            self._keep(key, made)
        mine.set_result(made)
        return made

    def close(self) -> None:
        """Forget what is held, and make nothing more: what is being made of many arrays ends at the next one."""
        with self._lock:
            self._closed = True
            self._held.clear()
            self._size = 0

    def _keep(self, key: Hashable, made: Voxels) -> None:
        if self._closed:
            return
        self._held[key] = made
        self._size += made.nbytes
        while self._size > self.most:
            _, dropped = self._held.popitem(last=False)
            self._size -= dropped.nbytes
