"""`UnfinishedFile`: `OUT.partial`, which has its whole size from the beginning and gets the name `OUT` at the end."""

from __future__ import annotations

import ctypes
import errno
import math
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.blocks.disk_errors import NO_SPACE, disk_errors
from daskreg.errors import LayoutMismatchError, OutputExistsError
from daskreg.flat.ledger import SlabEntry, SlabLedger
from daskreg.geometry import Box

ENDINGS = (".partial", ".partial.slabs", ".partial.new")
"""What is added to the name of the output: the unfinished file, its ledger, and the file while its header is made."""


def record_of(path: Path) -> Path:
    """The ledger of the unfinished file of an output, which is also what a run locks."""
    return path.with_name(path.name + ENDINGS[1])


class UnfinishedFile:
    """The unfinished file of an output, with the ledger of its slabs. All methods need the lock on `record`.

    Args:
        path: of the output.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.partial, self.record, self._new = (path.with_name(path.name + end) for end in ENDINGS)
        self.ledger = SlabLedger(self.record)
        self._found = self.ledger.facts() if self.partial.is_file() else None
        self._offset = 0

    def slab(self, shape: tuple[int, ...]) -> tuple[int, ...] | None:
        """The shape of a slab in the file that is there, if slabs of a volume of a shape can have it."""
        found = (self._found or {}).get("slab")
        if not isinstance(found, list) or len(found) != len(shape):
            return None
        fits = all(isinstance(n, int) and 1 <= n <= most for n, most in zip(found, shape, strict=True))
        return tuple(found) if fits else None

    def resumes(self, facts: dict[str, Any], *, overwrite: bool, resume: bool | str) -> bool:
        """Whether the file that is there is one with these facts, and is taken up again.

        Raises: OutputExistsError where there is one that is not to be resumed; LayoutMismatchError where it is
        another's.
        """
        found = self._found
        if overwrite:
            return False
        if found is None:
            if self.partial.exists() and self.partial.stat().st_size:
                raise OutputExistsError(
                    f"{self.partial} exists and its list of slabs does not: remove it, or pass overwrite=True"
                )
            return False
        if resume is False:
            raise OutputExistsError(
                f"{self.partial} is unfinished; resume=True takes it up, overwrite=True starts again"
            )
        differs = next((key for key in facts if found.get(key) != facts[key]), None)
        if differs is not None and resume != "changed":
            raise LayoutMismatchError(
                f"{self.partial}: {differs} is {found.get(differs)} in the unfinished file and {facts[differs]} now; "
                "use the same options to resume, or overwrite=True to start again"
            )
        if differs is not None or self.partial.stat().st_size != found.get("size"):
            return False
        self._offset = int(found["offset"])
        return True

    def begin(self, facts: dict[str, Any], create: Callable[[Path], int]) -> None:
        """Make the file. Whenever this process is killed, no ledger lists slabs that the file beside it lacks."""
        with file_errors(self.path):
            self.ledger.clear()
            self.partial.unlink(missing_ok=True)
            try:
                self._new.unlink(missing_ok=True)
                self._offset = create(self._new)
                _allocate(self._new)
                self.ledger.begin({**facts, "offset": self._offset, "size": self._new.stat().st_size})
                self._new.replace(self.partial)
            except BaseException:
                self._new.unlink(missing_ok=True)
                self.ledger.clear()
                raise

    def put(self, box: Box, pixels: NDArray[Any], shape: tuple[int, ...], entry: SlabEntry) -> None:
        """Write the voxels of a box of a volume of a shape, and note them once they are on the disk.

        They are written, not mapped: a full disk is then an error, where a map ends the process (SIGBUS).
        """
        data = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("<"))
        with file_errors(self.path), self.partial.open("rb+", buffering=0) as file:
            for start, run in _runs(box, data, shape):
                file.seek(self._offset + start)
                rest = run.view(np.uint8).data
                while rest:
                    rest = rest[file.write(rest) :]
            getattr(os, "fdatasync", os.fsync)(file.fileno())
            self.ledger.add(entry)

    def finish(self, *, overwrite: bool) -> None:
        """Give the file its name.

        Raises: OutputExistsError where another file has got it meanwhile.
        """
        with file_errors(self.path):
            with self.partial.open("rb+") as file:
                os.fsync(file.fileno())
            if not overwrite and os.path.lexists(self.path):
                raise OutputExistsError(
                    f"{self.path} was made by another process meanwhile; {self.partial} is complete: remove the former "
                    "and run the same command again"
                )
            self.partial.replace(self.path)
            self.record.unlink(missing_ok=True)

    def tidy(self) -> None:
        """Remove the ledger where no file is begun."""
        if not self.partial.exists():
            self.record.unlink(missing_ok=True)


def file_errors(path: Path) -> AbstractContextManager[None]:
    """Errors of the file system as errors of an output.

    Raises: StorageFullError, OutputError.
    """
    return disk_errors(
        full=f"no space left for {path}: make room and run the same command again",
        failed=lambda error: (
            f"the output {path} cannot be written ({error}): look after its disk and the permissions of "
            f"{path.parent}, and run the same command again"
        ),
    )


def _runs(box: Box, data: NDArray[Any], shape: tuple[int, ...]) -> Iterator[tuple[int, NDArray[Any]]]:
    """The voxels of a box as runs that lie together in the file, each with the byte at which it begins."""
    axis = len(shape) - 1  # a run spans the indices of this axis, and all of those behind it
    while axis > 0 and data.shape[axis] == shape[axis]:
        axis -= 1
    strides = [math.prod(shape[k + 1 :]) * data.itemsize for k in range(len(shape))]
    first = sum(a * s for a, s in zip(box.start, strides, strict=True))
    for index in product(*map(range, data.shape[:axis])):
        yield first + sum(i * s for i, s in zip(index, strides, strict=False)), data[index].reshape(-1)


def _allocate(path: Path) -> None:
    """Let the file system reserve the blocks of a sparse file, where it can: a full disk is then known at once.

    Not `os.posix_fallocate`: where a file system cannot, as NFS, that writes into every block.

    Raises: OSError where there is no room.
    """
    if platform.system() != "Linux" or ctypes.sizeof(ctypes.c_long) != 8:
        return
    with suppress(AttributeError), path.open("rb+") as file:
        reserve = ctypes.CDLL(None, use_errno=True).fallocate
        size = ctypes.c_long(path.stat().st_size)
        if reserve(file.fileno(), 0, ctypes.c_long(0), size) and ctypes.get_errno() in (*NO_SPACE, errno.EFBIG):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
