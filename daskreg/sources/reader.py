"""`Reader`: what a format implements; and the reader of a format by its name.

A further format is one module in `sources/readers/` whose `READER` is a `Reader`, and one line in
`sources/file_formats.py`; or a package of its own with an entry point of the group "daskreg.readers", whose name is the
format's and which names a `Reader`.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from functools import cache
from typing import Any, ClassVar

from numpy.typing import NDArray

from daskreg.geometry import Box
from daskreg.sources.available_readers import reader_named
from daskreg.sources.description import Description, OpenOptions
from daskreg.sources.locate import INSIDE, StoreLocation
from daskreg.sources.source import ArrayIndex, Source
from daskreg.sources.stamps import stamp_of
from daskreg.sources.storage.redact import is_url


class Reader(ABC):
    """Reads one format. It has no state: what is open is a handle, which `sources.handles` keeps.

    `claims` and `describe` run where a volume is opened; the rest runs on the workers.
    """

    suffixes: ClassVar[tuple[str, ...]] = ()
    """Of the files that are claimed, in lower case; those of built-in readers are in `file_formats`."""

    has_paths: ClassVar[bool] = False
    """Whether a path inside the file names one of several arrays (`file.dm4::/1`)."""

    reads_into_buffers: ClassVar[bool] = False
    """Whether `read_into` can put voxels straight into an array of the caller."""

    decodes_in_thread: ClassVar[bool] = False
    """Whether chunks on a local disk are decoded one at a time in the calling thread."""

    knows_chunk_states: ClassVar[bool] = False
    """Whether `state` knows times and sizes of single chunks; else a source is replaced as a whole."""

    def claims(self, path: str) -> bool:
        """Whether a file or folder is of this format; by its suffix unless a reader knows better.

        It is asked only for what no built-in format has by its suffix.
        """
        return path.lower().endswith(self.suffixes) if self.suffixes else False

    @abstractmethod
    def describe(self, location: StoreLocation, options: OpenOptions) -> Description:
        """The volume at a location, from metadata alone: no voxel is read.

        The source is a `StoredSource` that names this format and the path that `open` takes.

        Raises: NotAVolumeError for what is no volume, and the other input errors; MissingExtraError where the
            format's library is not installed.
        """

    @abstractmethod
    def open(self, path: str) -> Any:
        """What boxes are read from: an object with the attribute `shape` (of the stored array), safe among threads.

        An attribute `fill_value`, where there is one, stands for voxels that cannot be read (`corrupt="fill"`).

        Args:
            path: as in `Source.path`.

        Raises: any error; it is reported as a ChunkReadError.
        """

    @abstractmethod
    def read(self, handle: Any, index: ArrayIndex, source: Source) -> NDArray[Any]:
        """`handle[index]`: the voxels of a box, in the order of the stored axes; integers drop their axis.

        Raises: ChunkReadError naming the array and what could not be read.
        """

    def read_into(self, handle: Any, index: ArrayIndex, source: Source, out: NDArray[Any]) -> bool:
        """Put `handle[index]` into `out`, which has all stored axes, those of integers with length 1.

        Returns: False where this array has to be read by `read`; nothing was then written.
        Raises: as `read`.
        """
        del handle, index, source, out
        return False

    def files(self, path: str) -> tuple[str, ...]:
        """The local files that hold the metadata and the voxels of a volume, that of `path` first.

        They are looked at after each box that is read, so that none is taken from a file that was cut or replaced. ()
        for formats whose chunks are files of their own, or that are not on a local disk. The first file alone by
        default; a reader of formats that spread over files names all, also those that are missing now.

        Raises: any error.
        """
        file = path.partition(INSIDE)[0]
        return () if is_url(file) else (file,)

    def stamp(self, path: str) -> str:
        """A text that changes when the stored array is replaced, as it is now; see `Source.stamp`.

        Raises: any error.
        """
        return stamp_of(self.files(path))

    def is_there(self, path: str) -> bool:
        """Whether the volume itself is there, so that a chunk which is not found is missing."""
        file = path.partition(INSIDE)[0]
        return is_url(file) or os.path.exists(file)

    def state(self, handle: Any, index: ArrayIndex, source: Source) -> str:
        """A text that changes when a chunk behind `handle[index]` is written again, comes or goes; "" where unknown."""
        del handle, index, source
        return ""


def index_text(index: ArrayIndex) -> str:
    """An index as it is typed, for messages: "0:4, 3"."""
    return ", ".join(f"{s.start}:{s.stop}" if isinstance(s, slice) else str(s) for s in index)


def box_of(index: ArrayIndex) -> Box:
    """An index as a box of all stored axes."""
    return Box(
        tuple(s.start if isinstance(s, slice) else s for s in index),
        tuple(s.stop if isinstance(s, slice) else s + 1 for s in index),
    )


@cache
def reader_of(name: str) -> Reader:
    """The reader of a format, built in or of an installed package; its module is imported by the first call.

    Raises: UnfitWorkerError where no package here has it.
    """
    reader: Reader = reader_named(name)
    return reader
