"""`FolderBytes`: the files below a folder, by key."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from daskreg.runtime.atomic import replace_file
from daskreg.runtime.regular_files import open_inside
from daskreg.sources.storage.byte_store import ByteStore
from daskreg.sources.storage.retrying import EmptyValueError, again


@dataclass(frozen=True)
class FolderBytes(ByteStore):
    """The files below a folder.

    Args:
        confined_to: the folder in which all files that are read have to lie, symbolic links followed; None: anywhere.
    """

    remote: ClassVar[bool] = False
    folder: Path
    confined_to: str | None = None

    def get(self, key: str, start: int = 0, size: int | None = None) -> bytes | None:
        return again(partial(self._read, key, start, size))

    def put(self, key: str, parts: Sequence[Any], *, sync: bool = False) -> None:
        again(partial(replace_file, self.folder / key, parts, **({"sync": True} if sync else {})))

    def create(self, key: str, data: bytes) -> bool:
        try:
            descriptor = os.open(self.folder / key, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return False
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        return True

    def listing(self, prefix: str = "") -> Iterator[str]:
        """Regular files only; symbolic links to folders are not followed."""
        top = self.folder / prefix.rpartition("/")[0]
        for folder, _, names in os.walk(top):
            for name in names:
                key = os.path.relpath(os.path.join(folder, name), self.folder).replace(os.sep, "/")
                if key.startswith(prefix):
                    yield key

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            (self.folder / key).unlink(missing_ok=True)

    def where(self, key: str = "") -> str:
        return str(self.folder / key)

    def prefetch(self, keys: Iterable[str]) -> None:
        """Ask the system to fetch files, while the first of them are decoded."""
        if not hasattr(os, "posix_fadvise"):
            return
        for key in keys:
            try:
                file = os.open(self.folder / key, os.O_RDONLY | os.O_NONBLOCK)  # not to wait at a FIFO
            except OSError:
                continue
            try:
                os.posix_fadvise(file, 0, 0, os.POSIX_FADV_WILLNEED)
            except OSError:
                pass
            finally:
                os.close(file)

    def _read(self, key: str, start: int, size: int | None) -> bytes | None:
        path = self.folder / key
        try:
            with open_inside(path, self.confined_to) as file:
                total = os.fstat(file.fileno()).st_size if start < 0 or size is None else 0
                if start:
                    file.seek(start if start > 0 else max(0, total + start))
                data = file.read(total if size is None else size)
        except FileNotFoundError:
            return None
        if not data:
            raise EmptyValueError(f"{path.name} is empty (0 bytes)")
        return data
