"""Rows of projections in a file, where they do not fit the memory: written by batches of projections, read by blocks.

`RowPlace` is of a level of `align_projections`, `ReadOnce` of what `reconstruct` reads.
"""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import tempfile
import threading
import warnings
import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
from dask.base import tokenize
from dask.utils import format_bytes
from numpy.typing import NDArray

from daskreg.blocks.disk_errors import disk_errors
from daskreg.cluster.client import chosen_client
from daskreg.errors import DaskregWarning, NoWorkersError, RunCancelledError, RunInterruptedError, SchedulerLostError
from daskreg.geometry import Box
from daskreg.registration.blockwise.checkpoint import Checkpoint
from daskreg.registration.blockwise.work import Work
from daskreg.runtime.paths import shown
from daskreg.sources.source import Source
from daskreg.tomography.poses import Level
from daskreg.volumes import volume_of

Array = NDArray[Any]

_WRITTEN = "rows are written"
_BATCH_BYTES = 64 * 2**20
_writing = threading.Lock()


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

    def write(self, first: int, values: Array) -> None:
        """(B, rows, columns) of the projections from `first` on."""
        _, count, columns = self.shape
        rows_first = np.ascontiguousarray(values.swapaxes(0, 1), np.float32)
        with self._errors(), self.path.open("r+b") as file:
            for row, part in enumerate(rows_first):
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
            full=f"no space for {where}; TMPDIR, or checkpoint= of align_projections, says in which folder they are",
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
    """A hash of the projections, of what else is read, and of the options."""
    parts = (volume_of(projections).source.fingerprint(), tokenize(*others), asked)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


@dataclass(frozen=True, eq=False)
class ReadOnce:
    """Projections of a source whose chunks are whole images, read once, and then by rows from a file.

    The file is written when the first rows are asked for, by each process that has none. Where it is not to be had (on
    another machine), rows are read from the source.

    Args:
        source: of (..., angles, rows, columns).
        transposed: whether the rows of the file are columns of the source.
        folder: where the file is; see `read_once`.
    """

    source: Source
    transposed: bool
    folder: Path

    @property
    def file(self) -> RowFile:
        *lead, count, rows, columns = self.source.shape
        if self.transposed:
            rows, columns = columns, rows
        return RowFile(self.folder / "rows", (rows, math.prod(lead) * count, columns))

    def block(self, block_info: Any = None) -> Array:
        """A block of all angles, as float32."""
        place = block_info[None]["array-location"]
        if not self._is_written():
            corners = Box(tuple(a for a, _ in place), tuple(b for _, b in place))
            return np.asarray(self.source.read(corners), np.float32)
        *lead, _, _, _ = place
        first = int(np.ravel_multi_index([a for a, _ in lead], self.source.shape[: len(lead)])) if lead else 0
        count = self.source.shape[-3]
        start, stop = place[-1 if self.transposed else -2]
        images = self.file.read(start, stop)[first * count : (first + 1) * count]
        images = images.swapaxes(1, 2) if self.transposed else images
        return images.reshape(*(1,) * len(lead), *images.shape)

    def _is_written(self) -> bool:
        file = self.file
        with _writing:
            if file.path.is_file():
                return True
            if not self.folder.is_dir() or not _has_space(file):
                return False
            partial = replace(file, path=self.folder / f"partial-{os.getpid()}")
            try:
                partial.create()
                for first, images in self._images():
                    partial.write(first, images)
                os.replace(partial.path, file.path)
            finally:
                partial.path.unlink(missing_ok=True)
        return True

    def _images(self) -> Iterator[tuple[int, Array]]:
        """The first number, and (B, rows, columns) images, in the order of the file."""
        *lead, count, rows, columns = self.source.shape
        chunk = self.source.chunks[-3]
        most = max(1, _BATCH_BYTES // (4 * rows * columns))
        step = max(most // chunk * chunk, min(most, chunk))
        for number, place in enumerate(product(*(range(n) for n in lead))):
            for start in range(0, count, step):
                stop = min(start + step, count)
                box = Box((*place, start, 0, 0), (*(k + 1 for k in place), stop, rows, columns))
                images = np.asarray(self.source.read(box)).reshape(stop - start, rows, columns)
                yield number * count + start, images.swapaxes(1, 2) if self.transposed else images


def read_once(source: Source, *, transposed: bool, rows: int) -> da.Array | None:
    """The projections of a source in blocks of so many rows; None where they can be read by rows already."""
    along = -1 if transposed else -2
    if source.carries_data or min(source.chunks[along], source.shape[along]) <= rows:
        return None
    folder = Path(tempfile.mkdtemp(prefix="daskreg-"))
    once = ReadOnce(source, transposed, folder)
    weakref.finalize(once, shutil.rmtree, folder, ignore_errors=True)
    chunks = [*((1,) * n for n in source.shape[:-3]), *((n,) for n in source.shape[-3:])]
    whole, rest = divmod(source.shape[along], rows)
    chunks[along] = (rows,) * whole + ((rest,) if rest else ())
    meta = np.empty((0,) * source.ndim, np.float32)
    name = f"rows-{tokenize(source.fingerprint(), transposed, rows)}"
    made: da.Array = da.map_blocks(once.block, chunks=tuple(chunks), dtype=np.float32, meta=meta, name=name)
    return made


def _has_space(file: RowFile) -> bool:
    free = shutil.disk_usage(file.path.parent).free
    if free < file.bytes:
        warnings.warn(
            f"{format_bytes(free)} are free in {shown(file.path.parent)}, {format_bytes(file.bytes)} are needed to "
            "read projections once: each is read again for each block of rows; TMPDIR names the folder",
            DaskregWarning,
            stacklevel=2,
        )
    return free >= file.bytes
