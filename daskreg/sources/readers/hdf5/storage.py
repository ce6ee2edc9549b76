"""Where the voxels of an HDF5 dataset are stored, and which of them are not there.

A dataset may be in other files: through a link, as external raw data, or as a virtual dataset that is put together
out of others, which may be virtual themselves. HDF5 goes to all of these files without a question, and reads voxels
that are nowhere (chunks that were never written, virtual sources that are gone) as the fill value without a word. So
the files are found and checked before HDF5 reads, and `absent` says what is missing behind a box.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from threading import Lock
from typing import Any

from daskreg.errors import NotAVolumeError
from daskreg.geometry import Box
from daskreg.runtime.regular_files import check_beside
from daskreg.sources.readers.hdf5.links import candidates, member

_DEEPEST = 16
"""Virtual datasets of virtual datasets that are followed."""

_MOST_SOURCES = 10_000
"""Datasets out of which one may be put together, in all."""

_MOST_OPEN = 32


@dataclass(frozen=True)
class StoredDataset:
    """A dataset and what it is made of.

    Args:
        file, name: where it is.
        raw: external files of raw data: path, offset, bytes.
        parts: of a virtual dataset.
    """

    file: str
    name: str
    shape: tuple[int, ...]
    raw: tuple[tuple[str, int, int], ...] = ()
    parts: tuple[VirtualPart, ...] = ()

    def files(self) -> Iterator[str]:
        """The files that hold its voxels, also those that are missing; some more than once."""
        yield self.file
        yield from (path for path, _, _ in self.raw)
        for part in self.parts:
            if not part.sources and not part.numbered:
                yield part.file
            for source in part.sources:
                yield from source.files()


@dataclass(frozen=True)
class VirtualPart:
    """A part of a virtual dataset.

    Args:
        box: its bounds in the virtual dataset.
        exact: whether the part is the whole of its bounds.
        file, name: of the source dataset.
        source_box: the bounds in the source; None for all of it.
        sources: the datasets that were found there: none, one, or as many as the name has numbers.
    """

    box: Box
    exact: bool
    file: str
    name: str
    source_box: Box | None
    sources: tuple[StoredDataset, ...]

    @property
    def numbered(self) -> bool:
        """Whether `%b` in the file's name stands for a number."""
        return "%b" in self.file


@dataclass
class Storage:
    """The storage of an opened dataset; safe among threads."""

    dataset: Any
    stored: StoredDataset
    _open: dict[tuple[str, str], tuple[Any, Any]] = field(default_factory=dict)
    _lock: Any = field(default_factory=Lock)

    @classmethod
    def of(cls, dataset: Any) -> Storage:
        """Finds and checks every file that holds voxels of a dataset.

        Raises: OutsideError for one outside the folder of the file that names it; InputError for a FIFO or a device;
            NotAVolumeError for sources that do not end, or too many.
        """
        return cls(dataset, _Walk().dataset(dataset, 0))

    def files(self, path: str) -> tuple[str, ...]:
        """`path` and the other files that hold voxels, also those that are missing."""
        own = os.path.realpath(path)
        others = dict.fromkeys(f for f in self.stored.files() if os.path.realpath(f) != own)
        return (path, *others)

    def absent(self, box: Box) -> Iterator[str]:
        """Names of chunks, files or virtual sources behind a box that are not there."""
        with self._lock:
            yield from self._absent(self.dataset, self.stored, box)

    def _absent(self, dataset: Any, stored: StoredDataset, box: Box) -> Iterator[str]:
        if stored.parts:
            yield from self._absent_parts(stored.parts, box)
        elif dataset is None:
            yield f"{stored.file}::/{stored.name}"
        elif dataset.chunks:
            yield from _absent_chunks(dataset, box)
        elif stored.raw:
            yield from _short_files(stored, dataset.dtype.itemsize, box)
        elif dataset.id.get_storage_size() == 0:
            yield "voxels that were never written"

    def _absent_parts(self, parts: tuple[VirtualPart, ...], box: Box) -> Iterator[str]:
        covered = 0
        for part in parts:
            common = part.box & box
            if common.empty:
                continue
            covered += common.size if part.exact else box.size
            if part.numbered:
                continue
            if not part.sources:
                yield f"{part.file}::/{part.name}"
                continue
            source = part.sources[0]
            whole = part.source_box or Box.of(source.shape)
            same = whole.shape == part.box.shape
            inside = common.within(part.box).shift(whole.start) if same else whole
            yield from self._absent(None if source.parts else self._opened(source), source, inside)
        if covered < box.size:
            yield f"voxels of {box} without a virtual source"

    def _opened(self, stored: StoredDataset) -> Any:
        """A source, opened; None where it has gone."""
        key = stored.file, stored.name
        if key not in self._open:
            while len(self._open) >= _MOST_OPEN:
                _close(self._open.pop(next(iter(self._open)))[0])
            self._open[key] = _open_source(*key)
        return self._open[key][1]


class _Walk:
    """Goes through a dataset's sources once, each of them once."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], StoredDataset | None] = {}
        self._count = 0

    def dataset(self, dataset: Any, depth: int) -> StoredDataset:
        """See `Storage.of`."""
        owner, name = os.path.abspath(dataset.file.filename), str(dataset.name)
        mappings = dataset.virtual_sources() if dataset.is_virtual else []
        self._count += len(mappings)
        if self._count > _MOST_SOURCES or depth > _DEEPEST:
            message = f"{owner}: {name} is spread over {self._count} sources, {depth} levels deep"
            raise NotAVolumeError(f"{message}; at most {_MOST_SOURCES} and {_DEEPEST} are read")
        for file in {n for n, _, _ in dataset.external or ()} | {m.file_name for m in mappings if m.file_name != "."}:
            for candidate in candidates(file, owner):
                check_beside(candidate, owner)
        raw = tuple((_external_file(n, owner), int(at), int(size)) for n, at, size in dataset.external or ())
        shape = tuple(map(int, dataset.shape))
        parts = tuple(self._part(mapping, shape, owner, name, depth) for mapping in mappings)
        return StoredDataset(owner, name, shape, raw, parts)

    def _part(self, mapping: Any, shape: tuple[int, ...], owner: str, name: str, depth: int) -> VirtualPart:
        bounds = _bounds(mapping.vspace)
        exact = bounds is not None and int(mapping.vspace.get_select_npoints()) == bounds.size
        hyperslabs = mapping.src_space.get_select_type() == 2  # else all
        source_box = _bounds(mapping.src_space) if hyperslabs else None
        inner = mapping.dset_name
        named = [owner] if mapping.file_name == "." else candidates(mapping.file_name, owner)
        # Which candidate HDF5 takes depends on its settings: all are walked, the nearest one counts.
        sources = [s for file in named if (s := self._source(file, inner, owner, name, depth)) is not None]
        file = owner if mapping.file_name == "." else os.path.join(os.path.dirname(owner), mapping.file_name)
        return VirtualPart(bounds or Box.of(shape), exact, file, inner, source_box, tuple(sources))

    def _source(self, file: str, inner: str, owner: str, name: str, depth: int) -> StoredDataset | None:
        if os.path.realpath(file) == os.path.realpath(owner) and inner.strip("/") == name.strip("/"):
            return None
        key = os.path.realpath(file), inner
        if key not in self._found:
            opened, dataset = _open_source(file, inner)
            try:
                self._found[key] = None if dataset is None else self.dataset(dataset, depth + 1)
            finally:
                dataset = None
                _close(opened)
        return self._found[key]


def _open_source(file: str, inner: str) -> tuple[Any, Any]:
    """A file and its dataset of a name; None where it is not there, or cannot be read."""
    import h5py

    opened = None
    try:
        opened = h5py.File(file, "r")
        found = member(opened, inner)
    except OSError:
        found = None
    return opened, found if isinstance(found, h5py.Dataset) else None


def _close(file: Any) -> None:
    if file is not None:
        file.close()


def _bounds(space: Any) -> Box | None:
    """The bounds of a selection; None for one without an end, which grows with its dataset."""
    try:
        low, high = space.get_select_bounds()
    except RuntimeError:
        return None
    return Box(tuple(map(int, low)), tuple(int(n) + 1 for n in high))


def _absent_chunks(dataset: Any, box: Box) -> Iterator[str]:
    """Chunks that were never written, by their numbers along the axes."""
    total = math.prod(-(-n // c) for n, c in zip(dataset.shape, dataset.chunks, strict=True))
    if dataset.id.get_num_chunks() >= total:
        return
    whole = box.align(dataset.chunks)
    ranges = [range(a, b, c) for a, b, c in zip(whole.start, whole.stop, dataset.chunks, strict=True)]
    for offset in product(*ranges):
        if dataset.id.get_chunk_info_by_coord(offset).byte_offset is None:
            yield "/".join(str(a // c) for a, c in zip(offset, dataset.chunks, strict=True))


def _short_files(stored: StoredDataset, itemsize: int, box: Box) -> Iterator[str]:
    """Files of external raw data that end before the voxels of a box. (HDF5 itself says where one is missing.)"""
    strides = [math.prod(stored.shape[k + 1 :]) for k in range(len(stored.shape))]
    last = sum((b - 1) * s for b, s in zip(box.stop, strides, strict=True)) + 1
    first = sum(a * s for a, s in zip(box.start, strides, strict=True))
    wanted, end, begin = first * itemsize, last * itemsize, 0
    for file, offset, size in stored.raw:
        stop = min(end, begin + size)
        if begin < end and wanted < stop and os.path.exists(file) and os.path.getsize(file) < offset + stop - begin:
            yield file
        begin += size


def _external_file(name: str, path: str) -> str:
    """A file of raw data: HDF5 takes its name relative to HDF5_EXTFILE_PREFIX, else to the working directory."""
    prefix = os.environ.get("HDF5_EXTFILE_PREFIX", "")
    folder = prefix.replace("${ORIGIN}", os.path.dirname(os.path.abspath(path)))
    return os.path.abspath(os.path.join(folder, name))
