"""`ZarrObjects`: the objects below a URL as a store of zarr-python, for metadata and for codecs that only zarr knows.

Why not zarr's own ObjectStore: it keeps the store of obstore, with its credentials, in each array, and pickles them
with it. Its errors would not be tried again, nor counted.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextvars import copy_context
from typing import Any

from zarr.abc.buffer import Buffer, BufferPrototype
from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest

from daskreg.sources.storage.look_ahead import requests_pool
from daskreg.sources.storage.object_bytes import ObjectBytes


class ZarrObjects(Store):
    """A store of zarr-python at a URL. It holds the URL alone."""

    supports_writes = True
    supports_deletes = True
    supports_listing = True

    def __init__(self, url: str, *, read_only: bool = False) -> None:
        super().__init__(read_only=read_only)
        self.objects = ObjectBytes(url.rstrip("/"))

    def with_read_only(self, read_only: bool = False) -> ZarrObjects:
        return type(self)(self.objects.url, read_only=read_only)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ZarrObjects) and other.objects == self.objects

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"ZarrObjects({self.objects.url!r})"

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        start, size = 0, None
        if isinstance(byte_range, RangeByteRequest):
            start, size = byte_range.start, byte_range.end - byte_range.start
        elif isinstance(byte_range, OffsetByteRequest):
            start = byte_range.offset
        elif isinstance(byte_range, SuffixByteRequest):
            start = -byte_range.suffix
        data = await _in_thread(self.objects.get, key, start, size)
        return None if data is None else prototype.buffer.from_bytes(bytes(data))

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        return list(await asyncio.gather(*(self.get(key, prototype, request) for key, request in key_ranges)))

    async def exists(self, key: str) -> bool:
        return await _in_thread(self.objects.tag, key) is not None

    async def set(self, key: str, value: Buffer) -> None:
        self._check_writable()
        await _in_thread(self.objects.put, key, [value.to_bytes()])

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        self._check_writable()
        await _in_thread(self.objects.create, key, value.to_bytes())

    async def delete(self, key: str) -> None:
        self._check_writable()
        await _in_thread(self.objects.delete, [key])

    async def list(self) -> AsyncIterator[str]:
        async for key in self.list_prefix(""):
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        for key in await _in_thread(lambda: [*self.objects.listing(prefix)]):
            yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        folder = f"{prefix.rstrip('/')}/" if prefix else ""
        for name in await _in_thread(self.objects.names, folder):
            yield name


async def _in_thread(function: Any, *args: Any) -> Any:
    return await asyncio.get_running_loop().run_in_executor(requests_pool(), copy_context().run, function, *args)
