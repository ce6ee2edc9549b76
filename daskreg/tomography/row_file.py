"""Rows of a level that does not fit the memory, in a file: written by batches of projections, read by blocks."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from dask.base import is_dask_collection, tokenize
from dask.utils import format_bytes
from numpy.typing import NDArray

from daskreg.blocks.disk_errors import disk_errors
from daskreg.blocks.source_state import identity
from daskreg.cluster.client import chosen_client
from daskreg.errors import NoWorkersError, RunCancelledError, RunInterruptedError, SchedulerLostError
from daskreg.registration.blockwise.checkpoint import Checkpoint
from daskreg.registration.blockwise.work import Work
from daskreg.runtime.paths import shown
from daskreg.tomography.poses import Level
from daskreg.volumes import volume_of

Array = NDArray[Any]

_WRITTEN = "rows are written"


@dataclass(frozen=True)
class RowFile:
    """A file of float32 (rows, projections, columns), NaN where a pixel does not count.

    The rows come first, so that a block of them lies together, which in files of projections it does not.
    """

    path: Path
    shape: tuple[int, int, int]

    @property
    def bytes(self) -> int:
        return 4 * int(np.prod(self.shape, dtype=np.int64))

    def create(self) -> None:
        with self._errors(), self.path.open("wb") as file:
            file.truncate(self.bytes)

    def write(self, first: int, top: int, values: Array) -> None:
        """(B, R, columns) of the projections from `first` on, and of the rows from `top` on."""
        _, count, columns = self.shape
        rows_first = np.ascontiguousarray(values.swapaxes(0, 1), np.float32)
        with self._errors(), self.path.open("r+b") as file:
            for row, part in enumerate(rows_first, top):
                file.seek(4 * columns * (row * count + first))
                file.write(part.data)

    def read(self, start: int, stop: int) -> Array:
        """(projections, stop - start, columns)."""
        _, count, columns = self.shape
        size = (stop - start) * count * columns
        with self.path.open("rb") as file:
            values = np.fromfile(file, np.float32, size, offset=4 * start * count * columns)
        return values.reshape(stop - start, count, columns).swapaxes(0, 1)

    def flush(self) -> None:
        """All that was written is on the disk when this returns."""
        with self._errors(), self.path.open("r+b") as file:
            os.fsync(file.fileno())

    def _errors(self) -> AbstractContextManager[None]:
        where = f"{format_bytes(self.bytes)} of rows of projections in {shown(self.path.parent)}"
        return disk_errors(
            full=f"no space for {where}; checkpoint= says in which folder they are, without one TMPDIR does",
            failed=lambda error: f"cannot write {where}: {error}",
        )


@dataclass
class RowPlace:
    """Where the rows of a level, and the results of their blocks, are kept.

    Args:
        path: of the file once all rows are in it; until then they are in another one, so that a file that was
            interrupted is never taken for a whole one.
        written: whether an earlier run has written all rows.
    """

    path: Path
    work: Work
    written: bool

    @classmethod
    @contextmanager
    def opened(cls, checkpoint: str | os.PathLike[str] | None, key: str, client: Any) -> Iterator[RowPlace]:
        """In a temporary folder, or beside the checkpoint, where rows stay only after an interruption."""
        if checkpoint is None:
            with tempfile.TemporaryDirectory(prefix="daskreg-") as folder:
                yield cls(Path(folder) / "rows", Work(None), False)
            return
        file = Checkpoint(checkpoint, key)
        path = Path(f"{os.path.abspath(checkpoint)}.rows")  # workers may be in other folders
        place = cls(path, Work(chosen_client(client) if client else None, file), file.load(_WRITTEN, 0) is not None)
        try:
            yield place
        except (NoWorkersError, SchedulerLostError, RunCancelledError, RunInterruptedError):
            raise
        except Exception:
            place.remove()
            raise
        place.remove()

    def remove(self) -> None:
        for path in (self.path, self._partial):
            path.unlink(missing_ok=True)

    def rows(self, level: Level, count: int) -> RowFile:
        """The file of all rows, or an empty one to be written."""
        rows, columns = level.binned_shape
        file = RowFile(self.path, (rows, count, columns))
        self.written = self.written and self.path.is_file() and self.path.stat().st_size == file.bytes
        if self.written:
            return file
        file = replace(file, path=self._partial)
        file.create()
        return file

    def end_writing(self, file: RowFile) -> RowFile:
        """Note that all rows are on the disk. Returns the file as it is called from now on."""
        if self.written:
            return file
        file.flush()
        os.replace(file.path, self.path)
        if self.work.checkpoint is not None:
            self.work.checkpoint.append(_WRITTEN, 0, {"shape": np.array(file.shape)})
        return replace(file, path=self.path)

    @property
    def _partial(self) -> Path:
        return self.path.with_name(f"{self.path.name}.partial")


def key_of(projections: Any, others: tuple[Any, ...], asked: tuple[Any, ...]) -> str:
    """A hash of the projections and of what else is read, as they are stored now, and of the options.

    Raises: SourceLostError.
    """
    lazy = [identity(volume_of(other).source) for other in others if is_dask_collection(other)]
    parts = (identity(volume_of(projections).source), tokenize(*others), *lazy, asked)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]
