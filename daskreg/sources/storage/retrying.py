"""`RetryingStore`: a Zarr store that tries each call again when it fails for a moment."""

from __future__ import annotations

import asyncio
import errno
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from threading import Lock
from typing import TypeVar

from zarr.abc.buffer import Buffer, BufferPrototype
from zarr.abc.store import ByteRequest

from daskreg.errors import StoreError
from daskreg.runtime.private_apis import StoreWrapper
from daskreg.sources.storage.counters import count_missing, count_retry

_T = TypeVar("_T")

ATTEMPTS = 6
FIRST_DELAY = 0.05
LONGEST_DELAY = 2.0

# Errors that another attempt cannot avoid.
_FINAL_TYPES = (
    FileNotFoundError,
    FileExistsError,
    PermissionError,
    IsADirectoryError,
    NotADirectoryError,
    StoreError,  # it has been tried again (`storage.object_bytes`)
)
_FINAL_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENAMETOOLONG, errno.EFBIG}

_lock = Lock()
_retries = 0


def retries() -> int:
    """How many store calls were tried again so far, in this process."""
    return _retries


class EmptyValueError(OSError):
    """A stored value of zero bytes: no chunk, shard or metadata file is that short."""


class RetryingStore(StoreWrapper):
    """Wraps a store: each call that raises an OSError is tried again, up to 6 times.

    Waits grow exponentially from 0.05 s to 2 s, with full jitter, so that many workers do not
    try again at the same time. Missing files, permissions and a full disk are raised at once. A value
    of zero bytes raises `EmptyValueError`; zarr would read it as the fill value.
    """

    passes_through = True  # keys and values are those of the store inside

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        value = await _again(lambda: self.inner.get(key, prototype, byte_range))
        return _checked(key, value)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        ranges = list(key_ranges)
        values = await _again(lambda: self.inner.get_partial_values(prototype, ranges))
        return [_checked(key, value) for (key, _), value in zip(ranges, values, strict=True)]

    async def exists(self, key: str) -> bool:
        return await _again(lambda: self.inner.exists(key))

    async def is_empty(self, prefix: str) -> bool:
        return await _again(lambda: self.inner.is_empty(prefix))

    async def getsize(self, key: str) -> int:
        return await _again(lambda: self.inner.getsize(key))

    async def set(self, key: str, value: Buffer) -> None:
        await _again(lambda: self.inner.set(key, value))

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        await _again(lambda: self.inner.set_if_not_exists(key, value))

    async def delete(self, key: str) -> None:
        await _again(lambda: self.inner.delete(key))

    async def delete_dir(self, prefix: str) -> None:
        await _again(lambda: self.inner.delete_dir(prefix))

    def list(self) -> AsyncIterator[str]:
        return _listed(self.inner.list)

    def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        return _listed(lambda: self.inner.list_prefix(prefix))

    def list_dir(self, prefix: str) -> AsyncIterator[str]:
        return _listed(lambda: self.inner.list_dir(prefix))

    def __repr__(self) -> str:
        return f"RetryingStore({self.inner!r})"


async def _again(call: Callable[[], Awaitable[_T]]) -> _T:
    attempt = 0
    while True:
        try:
            return await call()
        except OSError as error:
            await asyncio.sleep(_pause(attempt, error))
            attempt += 1


def again(call: Callable[[], _T]) -> _T:
    """What `call` returns, tried again like the calls of a `RetryingStore`."""
    attempt = 0
    while True:
        try:
            return call()
        except OSError as error:
            time.sleep(_pause(attempt, error))
            attempt += 1


def _pause(attempt: int, error: OSError) -> float:
    """Seconds to wait until the next attempt.

    Raises: the error, where there is no further attempt.
    """
    if attempt >= ATTEMPTS or isinstance(error, _FINAL_TYPES) or error.errno in _FINAL_ERRNOS:
        raise error
    count_attempt()
    return random.uniform(0, min(FIRST_DELAY * 2**attempt, LONGEST_DELAY))  # noqa: S311 (jitter, not a secret)


async def _listed(call: Callable[[], AsyncIterator[str]]) -> AsyncIterator[str]:
    """The keys of a listing. It is started again as a whole: half a listing cannot be continued."""

    async def collect() -> list[str]:
        return [key async for key in call()]

    for key in await _again(collect):
        yield key


def _checked(key: str, value: Buffer | None) -> Buffer | None:
    if value is None:
        count_missing(key)
    elif len(value) == 0:
        raise EmptyValueError(f"{key} is empty (0 bytes)")
    return value


def count_attempt() -> None:
    """Count a call that is tried again."""
    global _retries  # noqa: PLW0603
    with _lock:
        _retries += 1
    count_retry()
