"""`ByteStore`: bytes by key, below a folder or in an object store. Chunks, ledgers and claims are kept in one.

Its kinds are `FolderBytes` (`storage.folder_bytes`) and `ObjectBytes` (`storage.object_bytes`). Each call is tried
again when it fails for a moment.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar


class ByteStore(ABC):
    """Bytes by key: names with `/` between their parts. Safe among threads, cheap to make, keeps nothing open."""

    remote: ClassVar[bool]
    """Whether a call takes so long that several are better made at once."""

    @abstractmethod
    def get(self, key: str, start: int = 0, size: int | None = None) -> Any | None:
        """The bytes of a key, or `size` of them from `start` on, as bytes or a memoryview; None where it is not there.

        Args:
            start: a negative one counts from the end.

        Raises: EmptyValueError for a value of zero bytes, which zarr would take for a missing one; OSError.
        """

    @abstractmethod
    def put(self, key: str, parts: Sequence[Any], *, sync: bool = False) -> None:
        """Store some buffers, one after another, under a key, as a whole or not at all.

        Args:
            sync: wait until a power failure cannot undo it.

        Raises: OSError.
        """

    @abstractmethod
    def create(self, key: str, data: bytes) -> bool:
        """Store bytes under a key that is not there yet; gives whether it was not. Of several callers one has True.

        Raises: OSError.
        """

    @abstractmethod
    def listing(self, prefix: str = "") -> Iterator[str]:
        """The keys that begin with a prefix; for an object store one request for each thousand.

        Raises: OSError.
        """

    @abstractmethod
    def delete(self, keys: Iterable[str]) -> None:
        """Remove keys; those that are not there are no error.

        Raises: OSError.
        """

    @abstractmethod
    def where(self, key: str = "") -> str:
        """The path or URL of a key, for messages."""

    def prefetch(self, keys: Iterable[str]) -> None:
        """Ask for what will be read, where that costs nothing."""
        del keys
