"""`Reader`: what a format implements; and the reader of a format by its name.

A further format is one module in `sources/readers/` whose `READER` is a `Reader`, and one line in
`sources/file_formats.py`.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from functools import cache
from typing import Any, ClassVar

from numpy.typing import NDArray

from daskreg.sources.description import Description, OpenOptions
from daskreg.sources.locate import StoreLocation
from daskreg.sources.source import ArrayIndex, Source


class Reader(ABC):
    """Reads one format. It has no state: what is open is a handle, which `sources.handles` keeps.

    `describe` runs where a volume is opened; the rest runs on the workers.
    """

    reads_into_buffers: ClassVar[bool] = False
    """Whether `read_into` can put voxels straight into an array of the caller."""

    decodes_in_thread: ClassVar[bool] = False
    """Whether chunks on a local disk are decoded one at a time in the calling thread."""

    knows_write_times: ClassVar[bool] = False
    """Whether `written_at` knows when chunks were written."""

    @abstractmethod
    def describe(self, location: StoreLocation, options: OpenOptions) -> Description:
        """The volume at a location, from metadata alone: no voxel is read.

        The source is a `StoredSource` that names this format and the path that `open_handle` takes.

        Raises: NotAVolumeError for what is no volume, and the other input errors; MissingExtraError where the
            format's library is not installed.
        """

    @abstractmethod
    def open_handle(self, path: str) -> Any:
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

    def written_at(self, handle: Any, index: ArrayIndex, source: Source) -> float:
        """When the newest chunk behind `handle[index]` was written, in seconds since the epoch; 0 where unknown."""
        del handle, index, source
        return 0.0


def index_text(index: ArrayIndex) -> str:
    """An index as it is typed, for messages: "0:4, 3"."""
    return ", ".join(f"{s.start}:{s.stop}" if isinstance(s, slice) else str(s) for s in index)


@cache
def reader_of(name: str) -> Reader:
    """The reader of a format, by its name in `file_formats.FORMATS`; its module is imported by the first call."""
    reader: Reader = importlib.import_module(f"daskreg.sources.readers.{name}").READER
    return reader
