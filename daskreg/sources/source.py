"""`Source`: a description of voxels, without open files, that can read a box of them anywhere.

Its kinds are `ArraySource` and `GraphSource` (`sources.in_memory`) of NumPy and dask arrays, and `StoredSource`
(`sources.stored`) of arrays in files and stores.
"""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import ShapeMismatchError
from daskreg.geometry import Box, Grid
from daskreg.geometry.grid import checked_names
from daskreg.sources.storage.redact import redact

ArrayIndex = tuple[int | slice, ...]


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Source(ABC):
    """Voxels that can be read in boxes. A frozen value, cheap to pickle; files are opened where they are read.

    Args:
        path: of the stored array; for arrays in memory, a name for messages.
        dims: names of the axes of what is read, lead axes (t, c) first, the grid's last.
        shape: length of each of `dims`.
        dtype: in which voxels are read (native byte order).
        chunks: stored chunks along `dims`.
        grid: position in the world of the last `grid.ndim` dims.
        array: the array itself where it is in memory, else None.
        selection: one entry for each axis of the *stored* array: an integer takes one index
            and drops the axis, `slice(None)` keeps it; () keeps all.
        order: stored axes (those that are not dropped) in the order of `dims`; () is their own.
        start: index, along `dims`, of the first voxel that `array` holds; () is 0.
        stamp: changes when the stored array is replaced (metadata, size, time of change).

    Arrays in memory are compared by identity, never by value.
    """

    path: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunks: tuple[int, ...]
    grid: Grid
    array: Any = None
    selection: ArrayIndex = ()
    order: tuple[int, ...] = ()
    start: tuple[int, ...] = ()
    stamp: str = ""

    def __post_init__(self) -> None:
        checked_names(self.dims)

    @property
    @abstractmethod
    def kind(self) -> str:
        """One word for messages and fingerprints: "array", "dask", or the name of a format."""

    @property
    def in_memory(self) -> bool:
        """Whether the voxels themselves are in this object."""
        return False

    @property
    def is_graph(self) -> bool:
        """Whether the voxels are computed by a dask graph that is in this object."""
        return False

    @property
    def carries_data(self) -> bool:
        """Whether voxels, or the graph that makes them, travel with this object; `restrict` then cuts them."""
        return self.in_memory or self.is_graph

    @property
    def reads_into_buffers(self) -> bool:
        """Whether `read_into` may decode straight into the caller's array, without an array of its own."""
        return False

    @property
    def decodes_in_thread(self) -> bool:
        """Whether chunks are decoded one at a time in the thread that reads."""
        return False

    @property
    def policy(self) -> tuple[str, ...]:
        """What missing and damaged chunks become; no part of the fingerprint, since intact chunks do not change."""
        return ()

    def with_policy(self, *, missing: str, corrupt: str) -> Source:
        """The same source with another policy, where it has chunks that can be missing or damaged."""
        del missing, corrupt
        return self

    @property
    def ndim(self) -> int:
        """How many axes there are, those of times and channels included."""
        return len(self.dims)

    @property
    def lead(self) -> tuple[str, ...]:
        """The dims in front that are not the grid's: times, channels."""
        return self.dims[: self.ndim - self.grid.ndim]

    @property
    def readable(self) -> Box:
        """The box, along `dims`, that can be read: all, or what `restrict` left."""
        if not self.start:
            return Box.of(self.shape)
        shape = tuple(self.array.shape[k] for k in self._remaining_axes)
        shape = tuple(shape[k] for k in self.order) if self.order else shape
        return Box.of(shape).shift(self.start)

    @property
    def location(self) -> str | None:
        """The local file or folder that is read, as far as it is known; None for memory and URLs."""
        outer = self.path.partition("::/")[0]
        return outer if os.path.isabs(outer) else None

    def read(self, box: Box) -> NDArray[Any]:
        """The voxels of `box`, which is in absolute indices along `dims`.

        The result may be a view of an array in memory: do not write to it.

        Raises: ChunkReadError naming the array and the chunk that could not be read;
            ShapeMismatchError for a box that reaches outside.
        """
        if box.empty:
            return np.empty(box.shape, self.dtype)
        self._check_inside(box)
        return self._read(box)

    def read_into(self, box: Box, out: NDArray[Any]) -> None:
        """Put the voxels of `box` into an array of its shape; raises as `read`."""
        if not box.empty:
            out[...] = self.read(box)

    @abstractmethod
    def _read(self, box: Box) -> NDArray[Any]:
        """The voxels of a box that is not empty and inside."""

    def restrict(self, box: Box) -> Source:
        """The same source, carrying only what reading inside `box` needs.

        NumPy arrays are cut, dask graphs are sliced and culled; stored ones carry nothing.
        """
        del box
        return self

    def state(self, box: Box) -> str:
        """A text that changes when a stored chunk in `box` is written again, comes or goes; "" where that is not known.

        A chunk that was replaced does not change the fingerprint, which is of the whole array.
        """
        del box
        return ""

    def current_stamp(self) -> str:
        """What `stamp` would be now; "" where that is not known.

        Raises: SourceLostError where the stored array is not there any more.
        """
        return ""

    def view(self) -> Any:
        """The array in memory along `dims`, not copied: NumPy, or dask for a graph."""
        return self._cut(self.readable)

    def pick(self, dim: str, index: int) -> Source:
        """The same source at one index of the lead axis `dim`, which is dropped."""
        at = self.dims.index(dim)
        order = self.order or tuple(range(self.ndim))
        axes = self._remaining_axes
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
        digest = hashlib.sha256(repr((*self._fields, exact, redact(self.path), self.stamp)).encode())
        digest.update(self._content_key().encode())
        return digest.hexdigest()[:32]

    @abstractmethod
    def _content_key(self) -> str:
        """What identifies voxels in memory; "" where path and stamp do."""

    @property
    def _fields(self) -> tuple[Any, ...]:
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
    def _remaining_axes(self) -> tuple[int, ...]:
        """Numbers of the stored axes that the selection keeps."""
        if not self.selection:
            return tuple(range(self.ndim))
        return tuple(k for k, s in enumerate(self.selection) if isinstance(s, slice))

    def _index(self, box: Box) -> ArrayIndex:
        """The box as an index into the stored array."""
        local = box.within(Box(self.start, self.start)) if self.start else box
        slices: list[slice] = [slice(None)] * self.ndim
        for k, s in zip(self.order or range(self.ndim), local.slices, strict=True):
            slices[k] = s
        index: list[int | slice] = list(self.selection) or list(slices)
        for axis, s in zip(self._remaining_axes, slices, strict=True):
            index[axis] = s
        return tuple(index)

    def _cut(self, box: Box) -> Any:
        cut = self.array[self._index(box)]
        return cut.transpose(self.order) if self.order else cut

    def _ordered(self, block: Any) -> NDArray[Any]:
        """What was read of the stored array, with the axes of `dims` and of the right type."""
        block = np.asarray(block)
        ordered: NDArray[Any] = block.transpose(self.order) if self.order else block
        return ordered.astype(self.dtype, copy=False)

    def _check_inside(self, box: Box) -> None:
        if box not in self.readable:
            raise ShapeMismatchError(f"{box} is not inside {self.readable}, which is what {self} holds")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Source):
            return NotImplemented
        one, two = ((*s._fields, s.path, s.stamp, s.policy) for s in (self, other))
        return self.array is other.array and one == two

    def __hash__(self) -> int:
        return hash((*self._fields, self.path, self.stamp, self.policy, id(self.array)))

    def __repr__(self) -> str:
        size = " x ".join(f"{d} {n}" for d, n in zip(self.dims, self.shape, strict=True))
        return f"Source({self.kind} {redact(self.path)!r}, {size}, {self.dtype}, chunks {self.chunks})"


def read_block(source: Source, step: tuple[int, ...], block_id: tuple[int, ...]) -> NDArray[Any]:
    """One block of the dask array that `open` makes; `step` is its chunk size."""
    start = tuple(i * s for i, s in zip(block_id, step, strict=True))
    return source.read(Box(start, tuple(a + s for a, s in zip(start, step, strict=True))).clip(source.shape))
