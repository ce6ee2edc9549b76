"""Writes the files of one level, and keeps the checksum and size of each."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from itertools import product
from typing import Any

import xxhash
import zarr
from numpy.typing import NDArray
from zarr.abc.buffer import Buffer
from zarr.abc.store import Store

from daskreg.blocks.record.ledger import Ledger
from daskreg.blocks.record.own_files import metadata_files
from daskreg.blocks.source_buffer import slabs
from daskreg.errors import OutputError
from daskreg.geometry import Box
from daskreg.runtime.private_apis import StoreWrapper
from daskreg.sources.storage.direct_chunks import direct_chunks
from daskreg.sources.storage.stores import open_store

NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)


class RecordingStore(StoreWrapper):
    """A store that notes (checksum, bytes) of each value it is given, until they are taken."""

    passes_through = True

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._written: dict[str, tuple[int, int]] = {}

    async def set(self, key: str, value: Buffer) -> None:
        await self.inner.set(key, value)
        array: Any = value.as_numpy_array()
        self._written[key] = (xxhash.xxh3_64_intdigest(array), array.nbytes)

    def take(self, keys: Iterable[str]) -> dict[str, tuple[int, int]]:
        """What was noted of these keys, which is then forgotten. Keys that were not set are left out."""
        found = {key: self._written.pop(key, None) for key in keys}
        return {key: value for key, value in found.items() if value is not None}


class LevelWriter:
    """The array of one level, open for writing: chunk by chunk where that can be, else by zarr."""

    def __init__(self, output: str, level: int) -> None:
        self._ledger = Ledger(output)
        self._metadata = next(name for name in metadata_files(self._ledger.facts()) if name.startswith(f"{level}/"))
        self.check_there()
        self._store = RecordingStore(open_store(output, mode="r+"))
        self._array: zarr.Array[Any] = zarr.open_array(self._store, path=str(level), mode="r+")
        self._direct = direct_chunks(self._array)

    def check_there(self) -> None:
        """Look whether the array is still there, on a disk: a folder that was renamed would be made again.

        Raises: OutputError.
        """
        if not self._ledger.remote and not self._ledger.metadata(self._metadata):
            raise OutputError(
                f"{self._ledger.image.where(self._metadata)} is gone: the output was removed or renamed while it was "
                "written; put it back, if it was renamed, and run the same command again"
            )

    def parts(self, box: Box) -> list[list[Box]]:
        """The boxes whose pixels `write` takes, in order: the chunks of each slab of whole shards, or all of `box`."""
        if self._direct is None:
            return [[box]]
        return [list(self._direct.parts(slab)) for slab in slabs(box, self._direct.unit)]

    def write(self, box: Box, pixels: Iterator[NDArray[Any]]) -> dict[str, tuple[int, int]]:
        """Write whole units, from the pixels of each of `parts(box)`, slab after slab.

        Returns: (checksum, bytes) of each file by its key.
        Raises: OSError.
        """
        prefix = self._array.path + "/" if self._array.path else ""
        if self._direct is not None:
            return {prefix + key: value for key, value in self._direct.write(box, pixels).items()}
        self._array[box.slices] = next(pixels)
        unit = self._array.shards or self._array.chunks
        units = product(*(range(a // u, -(-b // u)) for a, b, u in zip(box.start, box.stop, unit, strict=True)))
        return self._store.take(prefix + self._array.metadata.encode_chunk_key(index) for index in units)
