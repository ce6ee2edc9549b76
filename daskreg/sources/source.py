"""`Source`: a description of voxels, without handles, that can read a box of them anywhere."""

from __future__ import annotations

import hashlib
import os
import sys
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from dask.base import tokenize
from numpy.typing import NDArray

from daskreg.errors import ChunkReadError, ShapeMismatchError
from daskreg.geometry import Box, Grid, tile
from daskreg.sources.graphs import culled
from daskreg.sources.handles import opened, reader_of
from daskreg.sources.storage.counters import note_damaged, tallied
from daskreg.sources.storage.redact import redact

IN_MEMORY = ("array", "dask")

# How the path of a Zarr array in a MemoryStore starts.
MEMORY = "memory::"


class _MissingChunkError(ChunkReadError):
    """A chunk that is not stored, which `missing="error"` refuses."""


@dataclass(frozen=True, eq=False, repr=False)
class Source:
    """Where voxels come from. Cheap to pickle; opened where it is read, through a small cache.

    Args:
        kind: "array" (numpy), "dask", or the name of a reader ("zarr", "tiff").
        path: of the stored array; for arrays in memory, a name for messages.
        array: the array itself where it is in memory, else None.
        selection: one entry for each axis of the *stored* array: an integer takes one index
            and drops the axis, `slice(None)` keeps it; () keeps all.
        dims: names of the axes that are left, lead dims (t, c) first, the grid's last.
        shape: length of each of `dims`.
        dtype: in which voxels are read (native byte order).
        chunks: stored chunks along `dims`.
        grid: where the last `grid.ndim` dims lie in the world.
        start: index, along `dims`, of the first voxel that `array` holds; () is 0.
        order: stored axes (those that are left) in the order of `dims`; () is their own.
        stamp: changes when the stored array is replaced (metadata, size, time of change).
        missing: "fill" reads a chunk that is not stored as the fill value, "error" refuses it.
        corrupt: "error" refuses a chunk that cannot be decoded, "fill" reads it as the fill value.

    In-memory arrays are compared by identity, never by value.
    """

    kind: str
    path: str
    array: Any
    selection: tuple[int | slice, ...]
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunks: tuple[int, ...]
    grid: Grid
    start: tuple[int, ...] = ()
    order: tuple[int, ...] = ()
    stamp: str = ""
    missing: str = "fill"
    corrupt: str = "error"

    @property
    def ndim(self) -> int:
        return len(self.dims)

    @property
    def lead(self) -> tuple[str, ...]:
        """The dims in front that are not the grid's: times, channels."""
        return self.dims[: self.ndim - self.grid.ndim]

    @property
    def held(self) -> Box:
        """The box, along `dims`, that can be read: all, or what `restrict` left."""
        if not self.start:
            return Box.of(self.shape)
        shape = tuple(self.array.shape[k] for k in self._kept_axes)
        shape = tuple(shape[k] for k in self.order) if self.order else shape
        return Box.of(shape).shift(self.start)

    @property
    def location(self) -> str | None:
        """The local file or folder that is read, as far as that is known; None for memory and URLs."""
        outer = self.path.partition("::/")[0]
        return outer if self.kind != "array" and os.path.isabs(outer) else None

    def read(self, box: Box) -> NDArray[Any]:
        """The voxels of `box`, which is in absolute indices along `dims`.

        The result may be a view of an array in memory: it is for reading.

        Raises: ChunkReadError naming the array and the chunk that could not be read;
            ShapeMismatchError for a box that reaches outside.
        """
        if box.empty:
            return np.empty(box.shape, self.dtype)
        if box not in self.held:
            raise ShapeMismatchError(f"{box} is not inside {self.held}, which is what {self} holds")
        if self.kind == "dask":
            return self._ordered(_computed(self.array[self._index(box)]))
        if self.kind == "array":
            return self._ordered(self.array[self._index(box)])
        return self._from_file(box, None)

    def read_into(self, box: Box, out: NDArray[Any]) -> None:
        """Put the voxels of `box` into an array of its shape; as `read` does, without an array of its own if it can."""
        if box.empty:
            return
        if self.kind == "zarr" and box in self.held:
            found = self._from_file(box, out)
            if found is out:
                return
        else:
            found = self.read(box)
        out[...] = found

    def _from_file(self, box: Box, out: NDArray[Any] | None) -> NDArray[Any]:
        """The voxels of a box; `out` itself where they went there (zarr only)."""
        with tallied(opening=True):
            handle = opened(self.kind, self.path, self.array, self.stamp)
        self._check(handle)
        try:
            return self._stored(handle, box, out)
        except ChunkReadError as error:
            if self.corrupt != "fill" or isinstance(error, _MissingChunkError):
                raise
            return self._patched(handle, box)

    def _stored(self, handle: Any, box: Box, out: NDArray[Any] | None = None) -> NDArray[Any]:
        with tallied() as seen:
            reader = reader_of(self.kind)
            if out is None or not reader.read_into(handle, self._index(box), self, self._as_stored(out)):
                block = self._ordered(reader.read(handle, self._index(box), self))
            else:
                block = out
        if seen.missing and self.missing == "error":
            raise _MissingChunkError(
                f"chunk {min(seen.missing)} of {redact(self.path)} is missing, which is refused: restore that file, "
                "or let it be read as the fill value with missing='fill'"
            )
        return block

    def _patched(self, handle: Any, box: Box) -> NDArray[Any]:
        """The box chunk by chunk, with the fill value where one cannot be read."""
        out = np.full(box.shape, getattr(handle, "fill_value", 0) or 0, self.dtype)
        whole = box.align(self.chunks)
        for _, tiled in tile(whole.shape, self.chunks):
            part = tiled.shift(whole.start) & box
            try:
                out[part.within(box).slices] = self._stored(handle, part)
            except _MissingChunkError:
                raise
            except ChunkReadError as error:
                note_damaged(f"{redact(self.path)} {part}", str(error))
        return out

    def _ordered(self, block: Any) -> NDArray[Any]:
        block = np.asarray(block)
        ordered: NDArray[Any] = block.transpose(self.order) if self.order else block
        return ordered.astype(self.dtype, copy=False)

    def _as_stored(self, out: NDArray[Any]) -> NDArray[Any]:
        """A view of an array along `dims` with the stored axes, those that were dropped included."""
        stored = out.transpose(tuple(np.argsort(self.order))) if self.order else out
        return np.expand_dims(stored, tuple(k for k, s in enumerate(self.selection) if not isinstance(s, slice)))

    def written_at(self, box: Box) -> float:
        """When the newest stored chunk in `box` was written, in seconds since the epoch; 0 where nothing says so.

        A chunk that was replaced does not change the fingerprint, which is of the whole array.
        """
        if self.kind != "zarr" or self.array is not None or box.empty:
            return 0.0
        handle = opened(self.kind, self.path, self.array, self.stamp)
        return float(reader_of(self.kind).written_at(handle, self._index(box), self))

    def restrict(self, box: Box) -> Source:
        """The same source, carrying only what reading inside `box` needs.

        NumPy arrays are cut, dask graphs are sliced and culled; stored ones carry nothing.
        """
        if self.kind not in IN_MEMORY:
            return self
        box = box & self.held
        cut = self._cut(box)
        return replace(self, array=culled(cut) if self.kind == "dask" else cut, start=box.start, selection=(), order=())

    def view(self) -> Any:
        """The array in memory along `dims`, not copied: NumPy, or dask for kind "dask"."""
        return self._cut(self.held)

    def _cut(self, box: Box) -> Any:
        cut = self.array[self._index(box)]
        return cut.transpose(self.order) if self.order else cut

    def pick(self, dim: str, index: int) -> Source:
        """The same source at one index of the lead dim `dim`, which is dropped."""
        at = self.dims.index(dim)
        order = self.order or tuple(range(self.ndim))
        axes = self._kept_axes
        selection = list(self.selection or (slice(None),) * self.ndim)
        selection[axes[order[at]]] = index - (self.start[at] if self.start else 0)

        def without(values: tuple[Any, ...]) -> tuple[Any, ...]:
            return values[:at] + values[at + 1 :]

        left = tuple(k - (k > order[at]) for k in without(order))
        return replace(
            self,
            selection=tuple(selection),
            dims=without(self.dims),
            shape=without(self.shape),
            chunks=without(self.chunks),
            start=without(self.start),
            order=() if left == tuple(range(len(left))) else left,
        )

    def fingerprint(self) -> str:
        """A short hash that changes when the voxels' identity does.

        Stored arrays: path, metadata and time of change. NumPy arrays, and Zarr arrays in
        memory: their values. Dask arrays: their name.
        """
        g = self.grid  # its repr is rounded
        exact = (g.shape, g.spacing, g.origin, g.direction, g.unit, g.names)
        digest = hashlib.sha256(repr((*self._plain, exact, redact(self.path), self.stamp)).encode())
        if self.kind == "dask":
            digest.update(str(self.array.name).encode())
        elif self.kind == "array" or self.path.startswith(MEMORY):
            digest.update(str(tokenize(self.view())).encode())
        return digest.hexdigest()[:32]

    @property
    def _plain(self) -> tuple[Any, ...]:
        """The fields that are plain values, hashable (slices are not before Python 3.12)."""
        selection = tuple((s.start, s.stop, s.step) if isinstance(s, slice) else s for s in self.selection)
        return (
            self.kind,
            selection,
            self.dims,
            self.shape,
            self.dtype.str,
            self.chunks,
            self.grid,
            self.start,
            self.order,
        )

    @property
    def _kept_axes(self) -> tuple[int, ...]:
        """Numbers of the stored axes that the selection keeps."""
        if not self.selection:
            return tuple(range(self.ndim))
        return tuple(k for k, s in enumerate(self.selection) if isinstance(s, slice))

    def _index(self, box: Box) -> tuple[int | slice, ...]:
        """The box as an index into the stored array."""
        local = box.within(Box(self.start, self.start)) if self.start else box
        slices: list[slice] = [slice(None)] * self.ndim
        for k, s in zip(self.order or range(self.ndim), local.slices, strict=True):
            slices[k] = s
        index: list[int | slice] = list(self.selection) or list(slices)
        for axis, s in zip(self._kept_axes, slices, strict=True):
            index[axis] = s
        return tuple(index)

    def _check(self, handle: Any) -> None:
        """Refuse a stored array that was replaced by one of another shape since the spec was made."""
        kept = [n for k, n in enumerate(handle.shape) if not self.selection or k in self._kept_axes]
        shape = tuple(kept[k] for k in self.order) if self.order else tuple(kept)
        if shape != self.shape:
            raise ChunkReadError(
                f"{redact(self.path)} has the shape {shape} now, not {self.shape}: it was replaced; open it again"
            )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Source):
            return NotImplemented
        mine, theirs = ((*s._plain, s.path, s.stamp, s.policy) for s in (self, other))
        return self.array is other.array and mine == theirs

    def __hash__(self) -> int:
        return hash((*self._plain, self.path, self.stamp, self.policy, id(self.array)))

    @property
    def policy(self) -> tuple[str, str]:
        """What becomes of missing and of damaged chunks; no part of the fingerprint, since sound ones do not change."""
        return self.missing, self.corrupt

    def __repr__(self) -> str:
        size = " x ".join(f"{d} {n}" for d, n in zip(self.dims, self.shape, strict=True))
        return f"Source({self.kind} {redact(self.path)!r}, {size}, {self.dtype}, chunks {self.chunks})"


def read_block(source: Source, step: tuple[int, ...], block_id: tuple[int, ...]) -> NDArray[Any]:
    """One block of the dask array that `open` makes; `step` is its chunk size."""
    start = tuple(i * s for i, s in zip(block_id, step, strict=True))
    return source.read(Box(start, tuple(a + s for a, s in zip(start, step, strict=True))).clip(source.shape))


def _computed(array: Any) -> Any:
    """A dask array's values, in this thread: the caller is a task already.

    Only the client of a cluster can tell what persisted pieces hold, so those go through it.
    """
    small = culled(array)
    # Where another thread is importing distributed just now, there is no client yet.
    futures_of = getattr(sys.modules.get("distributed"), "futures_of", None)
    if futures_of is not None and futures_of(small):
        return small.compute()
    return small.compute(scheduler="synchronous")
