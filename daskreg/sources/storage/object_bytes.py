"""`ObjectBytes`: objects below a URL of an object store, by key, through obstore.

Objects are put whole. There is no rename, no append and no lock; `create` (a put that fails where the key is there) is
what tells writers apart. Requests that fail for a moment are tried again here, and not in obstore, so that they
are counted.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, TypeVar

from daskreg.errors import OptionError, StoreError, StoreForbiddenError
from daskreg.sources.storage.access import READ_ONLY, endpoint_of, forget_store, object_store, obstore, split_url
from daskreg.sources.storage.byte_store import ByteStore
from daskreg.sources.storage.object_errors import BusyStoreError, is_missing, translated
from daskreg.sources.storage.retrying import EmptyValueError, count_attempt

_T = TypeVar("_T")

ATTEMPTS = 9
FIRST_DELAY = 0.1
LONGEST_DELAY = 10.0
"""Seconds. Stores ask for patience (429, 503) for some seconds when a run begins: the waits grow to about half a
minute in all."""

UNANSWERED = 6.0
"""Seconds after which a store that has answered nothing in this process is given up: its address may be wrong."""

WHOLE = 64 * 2**20
"""Bytes of an object that is put by one request. A larger one is sent in parts of `PART` bytes, `AT_ONCE` of them at a
time, and appears when all are there."""
PART = 32 * 2**20
AT_ONCE = 4

DELETED_AT_ONCE = 1000

_answered: set[str] = set()
"""Roots of stores from which an answer came, be it that a request is refused."""

_silent_since: dict[str, float] = {}
"""When the first request to a root failed that has not answered; opening an array makes several, one after another."""


@dataclass(frozen=True)
class ObjectBytes(ByteStore):
    """Objects below a URL. It holds the URL alone, so it may travel.

    Raises: OptionError for a URL that holds credentials.
    """

    remote: ClassVar[bool] = True
    url: str

    def __post_init__(self) -> None:
        split_url(self.url)

    @cached_property
    def _place(self) -> tuple[str, str]:
        root, path = split_url(self.url)
        return root, f"{path}/" if path else ""

    @property
    def _store(self) -> Any:
        return object_store(self._place[0])

    def get(self, key: str, start: int = 0, size: int | None = None) -> memoryview | None:
        library = obstore()
        path = self._place[1] + key

        def read() -> Any:
            if start == 0 and size is None:
                return library.get(self._store, path).bytes()
            if start >= 0 and size is not None:
                return library.get_range(self._store, path, start=start, length=size)
            return self._end(path, start, size)

        try:
            data = self._again(key, read)
        except FileNotFoundError:
            return None
        if not len(data):
            raise EmptyValueError(f"{key} is empty (0 bytes)")
        return memoryview(data)

    def put(self, key: str, parts: Sequence[Any], *, sync: bool = False) -> None:
        del sync  # an object that the store has confirmed stays
        self._check_writable()
        library = obstore()
        path = self._place[1] + key
        large = sum(len(part) for part in parts) > WHOLE
        options = {"use_multipart": large, "chunk_size": PART, "max_concurrency": AT_ONCE}
        self._again(key, lambda: library.put(self._store, path, iter(parts), **options))

    def create(self, key: str, data: bytes) -> bool:
        self._check_writable()
        library = obstore()
        path, tries = self._place[1] + key, 0

        def put() -> bool:
            nonlocal tries
            tries += 1
            try:
                library.put(self._store, path, data, mode="create", use_multipart=False)
            except (library.exceptions.AlreadyExistsError, library.exceptions.PreconditionError):
                # An earlier attempt may have been fulfilled, and its answer lost.
                return tries > 1 and bytes(self.get(key) or b"") == data
            return True

        return self._again(key, put)

    def listing(self, prefix: str = "") -> Iterator[str]:
        # A store lists what lies below `a/b/`, and not what begins with `a/b/c`.
        found = self._listed(prefix.rpartition("/")[0])
        keys = (item["path"].removeprefix(self._place[1]) for item in found)
        yield from (key for key in keys if key.startswith(prefix))

    def _listed(self, folder: str) -> list[Any]:
        """What obstore says of all objects below a folder."""
        library = obstore()
        path = (self._place[1] + folder).rstrip("/") or None
        return self._again(folder, lambda: [item for page in library.list(self._store, path) for item in page])

    def names(self, folder: str) -> list[str]:
        """The first parts of the keys below a folder, `a/b/`."""
        library = obstore()
        root = self._place[1] + folder

        def listed() -> list[str]:
            found = library.list_with_delimiter(self._store, root.rstrip("/") or None)
            paths = [*found["common_prefixes"], *(item["path"] for item in found["objects"])]
            return [path.removeprefix(root).strip("/") for path in paths]

        return self._again(folder, listed)

    def delete(self, keys: Iterable[str]) -> None:
        self._check_writable()
        library = obstore()
        paths = [self._place[1] + key for key in keys]

        def remove(some: list[str]) -> None:
            try:
                library.delete(self._store, some)
            except Exception as error:
                if not is_missing(error):
                    raise

        for start in range(0, len(paths), DELETED_AT_ONCE):
            some = paths[start : start + DELETED_AT_ONCE]
            self._again("", lambda some=some: remove(some))  # type: ignore[misc]

    def tag(self, key: str) -> str | None:
        """A text that changes when an object gets other content, its ETag and size; None where it is not there."""
        library = obstore()
        try:
            return _tag(self._again(key, lambda: library.head(self._store, self._place[1] + key)))
        except FileNotFoundError:
            return None

    def all_tags(self) -> dict[str, str]:
        """`tag` of every key below the URL: one request for each thousand."""
        return {item["path"].removeprefix(self._place[1]): _tag(item) for item in self._listed("")}

    def where(self, key: str = "") -> str:
        return f"{self.url.rstrip('/')}/{key}" if key else self.url

    def _end(self, path: str, start: int, size: int | None) -> Any:
        """The bytes from `start` on, which may count from the end."""
        library = obstore()
        wanted: Any = {"suffix": -start} if start < 0 else {"offset": start}
        try:
            data = library.get(self._store, path, options={"range": wanted}).bytes()
        except library.exceptions.NotSupportedError:  # Azure knows no ranges that count from the end
            total = library.head(self._store, path)["size"]
            data = library.get_range(self._store, path, start=max(0, total + start), end=total)
        return data if size is None else memoryview(data)[:size]

    def _check_writable(self) -> None:
        if self._place[0].startswith(READ_ONLY):
            raise OptionError(f"{self.url}: web servers are read only; write to s3://, gs://, az:// or a path")

    def _again(self, key: str, call: Callable[[], _T]) -> _T:
        """What a call returns, tried again while the store is busy.

        Raises: FileNotFoundError where there is no such key; StoreError and its kinds; StorageFullError.
        """
        attempt, root = 0, self._place[0]
        while True:
            try:
                result = call()
                _answered.add(root)
                return result
            except (StoreError, OptionError, EmptyValueError):
                raise
            except Exception as error:
                if is_missing(error):
                    _answered.add(root)
                    raise FileNotFoundError(key) from None
                if not _is_of_store(error):
                    raise
                problem = translated(error, self.where(key))
                if isinstance(problem, StoreForbiddenError):
                    forget_store(root)
                if not isinstance(problem, BusyStoreError):
                    raise problem from None
                attempt += 1
                if problem.answered:
                    _answered.add(root)
                silent = root not in _answered
                if attempt >= ATTEMPTS or (silent and _silence(root) > UNANSWERED):
                    nobody = f"nothing answers at {endpoint_of(root)}: look at the address and the network"
                    raise StoreError(
                        f"{self.where(key)}: {nobody if silent else 'the store does not answer, or is busy'} "
                        f"({problem.strerror}), after {attempt} tries: finished blocks are kept; run the same "
                        "command again to resume"
                    ) from None
            count_attempt()
            longest = 1.0 if silent else LONGEST_DELAY
            time.sleep(random.uniform(0, min(FIRST_DELAY * 2**attempt, longest)))  # noqa: S311 (jitter)


def _silence(root: str) -> float:
    """Seconds since the first of the requests to a root that failed; a minute later it is another attempt."""
    now = time.monotonic()
    if now - _silent_since.setdefault(root, now) > 10 * UNANSWERED:
        _silent_since[root] = now
    return now - _silent_since[root]


def _tag(found: Any) -> str:
    """Of what obstore says of an object; a store without ETags has its time."""
    return f"{found['e_tag'] or found['last_modified']} {found['size']}"


def _is_of_store(error: Exception) -> bool:
    return isinstance(error, OSError) or type(error).__module__.startswith("obstore")
