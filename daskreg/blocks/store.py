"""A store that remembers the checksum and size of what is written through it."""

from __future__ import annotations

import errno
import zlib
from collections.abc import Iterable
from typing import Any

from zarr.abc.store import Store
from zarr.core.buffer import Buffer
from zarr.storage import WrapperStore

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)


class RecordingStore(WrapperStore[Store]):
    """Passes everything on, and keeps (crc32, bytes) of each value set, until taken."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._written: dict[str, tuple[int, int]] = {}

    def _with_store(self, store: Store) -> RecordingStore:
        return RecordingStore(store)

    async def set(self, key: str, value: Buffer) -> None:
        await self._store.set(key, value)
        array: Any = value.as_numpy_array()
        data = memoryview(array)
        self._written[key] = (zlib.crc32(data), data.nbytes)

    def take(self, keys: Iterable[str]) -> dict[str, tuple[int, int]]:
        """What is known of these keys; forgets it."""
        found = {key: self._written.pop(key, None) for key in keys}
        return {key: value for key, value in found.items() if value is not None}
