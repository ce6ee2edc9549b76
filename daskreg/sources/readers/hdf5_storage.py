"""Where the voxels of an HDF5 dataset are stored, and which of them are not there.

A dataset may be in other files: through a link, as external raw data, or as a virtual dataset that is put together
out of others. HDF5 reads voxels that are nowhere, of chunks that were never written or of virtual sources that are
gone, as the fill value and says nothing.
"""

from __future__ import annotations

import glob
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from threading import Lock
from typing import Any

from daskreg.geometry import Box

_DEEPEST = 4
"""Virtual datasets of virtual datasets that are followed."""

_MOST_OPEN = 32


@dataclass(frozen=True)
class VirtualPart:
    """A part of a virtual dataset.

    Args:
        box: its bounds in the virtual dataset.
        exact: whether the part is the whole of its bounds.
        file, name: of the source dataset.
        source: the bounds in the source; None for all of it.
    """

    box: Box
    exact: bool
    file: str
    name: str
    source: Box | None


def files_of(dataset: Any, path: str, depth: int = 0) -> list[str]:
    """The files that hold voxels of a dataset, also those that are missing, beside `path`, which is left out."""
    own = os.path.realpath(dataset.file.filename)
    found = [] if own == os.path.realpath(path) else [own]
    found += [_external_file(name, own) for name, _, _ in dataset.external or ()]
    for part in virtual_parts(dataset):
        names = sorted(glob.glob(part.file.replace("%b", "*"))) if "%b" in part.file else [part.file]
        found += names
        for name in names if depth < _DEEPEST else ():
            with _opened(name, part.name) as source:
                if source is not None and (source.is_virtual or source.external):
                    found += files_of(source, name, depth + 1)
    return [file for file in dict.fromkeys(found) if os.path.realpath(file) != os.path.realpath(path)]


def virtual_parts(dataset: Any) -> list[VirtualPart]:
    """The parts of a virtual dataset; none of others."""
    return [_part(one, dataset.file.filename) for one in dataset.virtual_sources()] if dataset.is_virtual else []


@dataclass
class Storage:
    """Finds out what of a dataset is not there; safe among threads."""

    dataset: Any
    parts: list[VirtualPart] = field(default_factory=list)
    _open: dict[tuple[str, str], _opened] = field(default_factory=dict)
    _lock: Any = field(default_factory=Lock)

    @classmethod
    def of(cls, dataset: Any) -> Storage:
        return cls(dataset, virtual_parts(dataset))

    def absent(self, box: Box) -> Iterator[str]:
        """Names of chunks, files or virtual sources behind a box that are not there."""
        with self._lock:
            yield from self._absent(self.dataset, self.parts, box, 0)

    def _absent(self, dataset: Any, parts: list[VirtualPart], box: Box, depth: int) -> Iterator[str]:
        if parts:
            yield from self._absent_parts(parts, box, depth)
        elif dataset.chunks:
            yield from _absent_chunks(dataset, box)
        elif dataset.external:
            yield from _short_files(dataset, box)
        elif dataset.id.get_storage_size() == 0:
            yield "voxels that were never written"

    def _absent_parts(self, parts: list[VirtualPart], box: Box, depth: int) -> Iterator[str]:
        covered = 0
        for part in parts:
            common = part.box & box
            if common.empty:
                continue
            covered += common.size if part.exact else box.size
            if "%b" in part.file:
                continue
            source = self._source(part)
            if source is None:
                yield f"{part.file}::/{part.name}"
            elif depth < _DEEPEST:
                whole = part.source or Box.of(source.shape)
                same = whole.shape == part.box.shape
                inside = common.within(part.box).shift(whole.start) if same else whole
                yield from self._absent(source, virtual_parts(source), inside, depth + 1)
        if covered < box.size:
            yield f"voxels of {box} without a virtual source"

    def _source(self, part: VirtualPart) -> Any:
        key = part.file, part.name
        if key not in self._open:
            while len(self._open) >= _MOST_OPEN:
                self._open.pop(next(iter(self._open))).__exit__()
            self._open[key] = _opened(part.file, part.name)
            self._open[key].__enter__()
        return self._open[key].dataset


class _opened:  # noqa: N801 (a context manager)
    """A dataset of a file, opened; None where it is not there."""

    def __init__(self, file: str, name: str) -> None:
        self._path, self._name = file, name
        self._file: Any = None
        self.dataset: Any = None

    def __enter__(self) -> Any:
        import h5py

        try:
            self._file = h5py.File(self._path, "r")
            found = self._file.get(self._name)
            self.dataset = found if isinstance(found, h5py.Dataset) else None
        except OSError:
            self.dataset = None
        return self.dataset

    def __exit__(self, *_: object) -> None:
        self.dataset = None
        if self._file is not None:
            self._file.close()


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


def _short_files(dataset: Any, box: Box) -> Iterator[str]:
    """Files of external raw data that end before the voxels of a box. (HDF5 itself says where one is missing.)"""
    strides = [math.prod(dataset.shape[k + 1 :]) for k in range(dataset.ndim)]
    last = sum((b - 1) * s for b, s in zip(box.stop, strides, strict=True)) + 1
    first = sum(a * s for a, s in zip(box.start, strides, strict=True))
    wanted, end, begin = first * dataset.dtype.itemsize, last * dataset.dtype.itemsize, 0
    for name, offset, size in dataset.external:
        stop = min(end, begin + size)
        file = _external_file(name, dataset.file.filename)
        if begin < end and wanted < stop and os.path.exists(file) and os.path.getsize(file) < offset + stop - begin:
            yield name
        begin += size


def _part(mapping: Any, path: str) -> VirtualPart:
    low, high = mapping.vspace.get_select_bounds()
    box = Box(tuple(map(int, low)), tuple(int(n) + 1 for n in high))
    exact = int(mapping.vspace.get_select_npoints()) == box.size
    source = None
    if mapping.src_space.get_select_type() == 2:  # hyperslabs; else all
        low, high = mapping.src_space.get_select_bounds()
        source = Box(tuple(map(int, low)), tuple(int(n) + 1 for n in high))
    file = path if mapping.file_name == "." else _beside(mapping.file_name, path)
    return VirtualPart(box, exact, file, mapping.dset_name, source)


def _beside(name: str, path: str) -> str:
    """A file that is named relative to another one, or to the working directory."""
    beside, here = os.path.join(os.path.dirname(os.path.abspath(path)), name), os.path.abspath(name)
    return here if os.path.exists(here) and not os.path.exists(beside) else beside


def _external_file(name: str, path: str) -> str:
    """A file of raw data: HDF5 takes its name relative to HDF5_EXTFILE_PREFIX, else to the working directory."""
    prefix = os.environ.get("HDF5_EXTFILE_PREFIX", "")
    folder = prefix.replace("${ORIGIN}", os.path.dirname(os.path.abspath(path)))
    return os.path.abspath(os.path.join(folder, name))
