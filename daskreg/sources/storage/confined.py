"""`ConfinedStore`: a Zarr store in a folder, none of whose files lies elsewhere."""

from __future__ import annotations

from collections.abc import Iterable

from zarr.abc.buffer import Buffer, BufferPrototype
from zarr.abc.store import ByteRequest
from zarr.storage import LocalStore

from daskreg.runtime.regular_files import check_beside


class ConfinedStore(LocalStore):
    """A LocalStore that reads regular files below its root only, also where symbolic links lead out of it.

    Reading another file raises OutsideError, and a FIFO or a device InputError.
    """

    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        check_beside(self.root / key, self.root)
        return await super().get(key, prototype, byte_range)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        ranges = list(key_ranges)
        for key, _ in ranges:
            check_beside(self.root / key, self.root)
        return await super().get_partial_values(prototype, ranges)
