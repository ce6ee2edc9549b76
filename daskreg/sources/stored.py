"""`StoredSource`: voxels in a file or store, read by the reader of its format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from dask.base import tokenize
from numpy.typing import NDArray

from daskreg.errors import ChunkReadError, DaskregError, MissingExtraError, SourceChangedError
from daskreg.geometry import Box, Grid, tile
from daskreg.runtime.messages import reason
from daskreg.runtime.regular_files import allowing_outside
from daskreg.sources.description import ordered
from daskreg.sources.handles import Opened, opened
from daskreg.sources.reader import Reader, index_text, reader_of
from daskreg.sources.source import ArrayIndex, Source
from daskreg.sources.stamps import lost
from daskreg.sources.storage.counters import count_damaged, count_events
from daskreg.sources.storage.redact import is_url, redact

MEMORY = "memory::"
"""How the path of a Zarr array in a MemoryStore starts."""


class _MissingChunkError(ChunkReadError):
    """A chunk that is not stored, which `missing="error"` refuses."""


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class StoredSource(Source):
    """An array in a file or store.

    Args:
        format: name of the reader ("zarr", "tiff").
        array: the opened array, only where no path leads to it (a Zarr array in a MemoryStore).
        missing: "fill" reads a chunk that is not stored as the fill value, "error" refuses it.
        corrupt: "error" refuses a chunk that cannot be decoded, "fill" reads it as the fill value.
        allow_outside: whether files of the array may lie outside its folder.
    """

    format: str
    missing: str = "fill"
    corrupt: str = "error"
    allow_outside: bool = False

    @property
    def kind(self) -> str:
        return self.format

    @property
    def reads_into_buffers(self) -> bool:
        return self._reader.reads_into_buffers

    @property
    def decodes_in_thread(self) -> bool:
        return self._reader.decodes_in_thread and self.location is not None

    @property
    def policy(self) -> tuple[str, ...]:
        return self.missing, self.corrupt, *(("outside",) if self.allow_outside else ())

    def with_policy(self, *, missing: str, corrupt: str) -> Source:
        return replace(self, missing=missing, corrupt=corrupt)

    def read_into(self, box: Box, out: NDArray[Any]) -> None:
        if box.empty:
            return
        self._check_inside(box)
        block = self._read_or_fill(box, out if self.reads_into_buffers else None)
        if block is not out:
            out[...] = block

    def state(self, box: Box) -> str:
        if not self._reader.knows_chunk_states or self.array is not None or box.empty:
            return ""
        with allowing_outside(self.allow_outside):
            return self._reader.state(self._opened().handle, self._index(box), self)

    def files(self) -> tuple[str, ...]:
        """The local files behind it, as its reader lists them (`Reader.files`). Raises: any error."""
        with allowing_outside(self.allow_outside):
            return self._reader.files(self.path)

    def current_stamp(self) -> str:
        if self.array is not None:
            return ""
        try:
            with count_events(opening=True), allowing_outside(self.allow_outside):
                return self._reader.stamp(self.path)
        except MissingExtraError:
            raise
        except Exception as error:
            if self._reader.is_there(self.path):
                return f"{type(error).__name__}"  # it is another one, which cannot be read
            raise lost(redact(self.path), redact(str(error))) from (None if is_url(self.path) else error)

    def _read(self, box: Box) -> NDArray[Any]:
        return self._read_or_fill(box, None)

    @property
    def _reader(self) -> Reader:
        return reader_of(self.format)

    def _opened(self) -> Opened:
        if self.array is not None:
            return Opened(self.array)
        with count_events(opening=True):
            return opened(self.format, self.path, self.stamp, self.allow_outside)

    def _read_or_fill(self, box: Box, out: NDArray[Any] | None) -> NDArray[Any]:
        """The voxels of a box; `out` itself where they were put there."""
        volume = self._opened()
        self._check_shape(volume.handle)
        try:
            return self._read_box(volume, box, out)
        except ChunkReadError as error:
            if self.corrupt != "fill" or isinstance(error, _MissingChunkError):
                raise
            return self._read_by_chunk(volume, box)

    def _read_box(self, volume: Opened, box: Box, out: NDArray[Any] | None = None) -> NDArray[Any]:
        reader, index, handle = self._reader, self._index(box), volume.handle
        try:
            with count_events() as events, allowing_outside(self.allow_outside):
                if out is not None and reader.read_into(handle, index, self, self._with_stored_axes(out)):
                    block = out
                else:
                    block = self._ordered(self._read_index(handle, index))
        except ChunkReadError as error:
            self._check_there(volume, error)
            raise
        if events.missing:
            self._check_there(volume, f"chunk {min(events.missing)} is not found")
        volume.watch.check(redact(self.path))
        if events.missing and self.missing == "error":
            raise _MissingChunkError(
                f"chunk {min(events.missing)} of {redact(self.path)} is missing, which is refused: restore that file, "
                "or let it be read as the fill value with missing='fill'"
            )
        return block

    def _check_there(self, volume: Opened, why: object) -> None:
        """Look whether the array itself is there, where a chunk of it could not be read.

        Raises: SourceLostError, SourceChangedError.
        """
        if self.array is None and not self._reader.is_there(self.path):
            raise lost(redact(self.path), why)
        volume.watch.check(redact(self.path))

    def _read_index(self, handle: Any, index: ArrayIndex) -> NDArray[Any]:
        try:
            return self._reader.read(handle, index, self)
        except (DaskregError, MemoryError, Warning):
            raise
        except Exception as error:
            message = (
                f"cannot read [{index_text(index)}] of {redact(self.path)} ({type(error).__name__}: {reason(error)})"
            )
            raise ChunkReadError(message) from (None if is_url(self.path) else error)

    def _read_by_chunk(self, volume: Opened, box: Box) -> NDArray[Any]:
        """The box chunk by chunk, with the fill value where one cannot be read."""
        out = np.full(box.shape, getattr(volume.handle, "fill_value", 0) or 0, self.dtype)
        whole = box.align(self.chunks)
        for _, tiled in tile(whole.shape, self.chunks):
            part = tiled.shift(whole.start) & box
            try:
                out[part.within(box).slices] = self._read_box(volume, part)
            except _MissingChunkError:
                raise
            except ChunkReadError as error:
                count_damaged(f"{redact(self.path)} {part}", str(error))
        return out

    def _with_stored_axes(self, out: NDArray[Any]) -> NDArray[Any]:
        """A view of an array along `dims` with the stored axes, those that were dropped included."""
        stored = out.transpose(tuple(np.argsort(self.order))) if self.order else out
        return np.expand_dims(stored, tuple(k for k, s in enumerate(self.selection) if not isinstance(s, slice)))

    def _check_shape(self, handle: Any) -> None:
        """Refuse an array that was replaced by one of another shape since the source was made."""
        left = [n for k, n in enumerate(handle.shape) if not self.selection or k in self._remaining_axes]
        shape = tuple(left[k] for k in self.order) if self.order else tuple(left)
        if shape != self.shape:
            raise SourceChangedError(
                f"{redact(self.path)} has the shape {shape} now, not {self.shape}: it was replaced; open it again"
            )

    def _content_key(self) -> str:
        return str(tokenize(self.view())) if self.path.startswith(MEMORY) else ""


def stored_source(
    names: Sequence[str],
    shape: Sequence[int],
    *,
    format: str,
    path: str,
    dtype: np.dtype[Any],
    chunks: Sequence[int],
    lead: Sequence[str],
    grid: Grid,
    stamp: str,
    array: Any = None,
) -> StoredSource:
    """The source of a stored array, handed out with its lead axes first and the grid's last.

    Args:
        names: of the stored axes; "" for one of length 1 that is dropped.
        shape, chunks: along the stored axes.
        lead: names of the axes that are not the grid's, in the order in which they are handed out.
    """
    dims, remaining = (*lead, *grid.names), [n for n in names if n]
    order = tuple(remaining.index(d) for d in dims)
    return StoredSource(
        format=format,
        path=path,
        array=array,
        selection=() if len(remaining) == len(names) else tuple(slice(None) if n else 0 for n in names),
        dims=dims,
        shape=ordered(names, shape, dims),
        dtype=dtype,
        chunks=ordered(names, chunks, dims),
        grid=grid,
        order=() if order == tuple(range(len(order))) else order,
        stamp=stamp,
    )
