"""`Frames`: an image that a library gives frame by frame, each of them whole; `FrameReader`: reads files of them."""

from __future__ import annotations

import weakref
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from itertools import product
from threading import Lock
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import ChunkReadError, MissingExtraError, NotAVolumeError
from daskreg.runtime.messages import reason
from daskreg.sources.locate import INSIDE
from daskreg.sources.reader import Reader, box_of
from daskreg.sources.source import ArrayIndex, Source


@dataclass(frozen=True, eq=False)
class Frames:
    """An image of an opened file; safe among threads.

    Args:
        shape, dtype: of the stored array.
        outer: number of its first axes, of which an index of each chooses a frame.
        frame: (index of the outer axes) -> a frame, of the shape of the other axes.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    outer: int
    frame: Callable[[tuple[int, ...]], NDArray[Any]]
    _lock: Any = field(default_factory=Lock, repr=False)

    def read(self, index: ArrayIndex) -> NDArray[Any]:
        """`image[index]`.

        Raises: ChunkReadError for a frame of another size than the file states.
        """
        box = box_of(index)
        out = np.empty(box.shape, self.dtype)
        inner, size = box.slices[self.outer :], self.shape[self.outer :]
        for place in product(*(range(n) for n in box.shape[: self.outer])):
            at = tuple(a + k for a, k in zip(box.start, place, strict=False))
            with self._lock:
                frame = self.frame(at)
            if frame.size != np.prod(size) or frame.dtype.itemsize != self.dtype.itemsize:
                raise ChunkReadError(f"frame {at} has {frame.size} voxels of {frame.dtype}, and {size} are stated")
            out[place] = frame.reshape(size)[inner]
        return out[tuple(slice(None) if isinstance(s, slice) else 0 for s in index)]


class FrameReader(Reader):
    """A reader of files that a library opens."""

    title: ClassVar[str]
    """What messages call the format."""

    library: ClassVar[str]
    extra: ClassVar[str]
    """The library, and the extra of daskreg that installs it."""

    @abstractmethod
    def open_by(self, library: Any, path: str) -> Any:
        """A file, opened by the library; it has `close`, and is a context."""

    @abstractmethod
    def frames(self, file: Any, path: str, inner: str) -> Frames:
        """The image at a path inside of an opened file."""

    def opened(self, path: str) -> Any:
        """A file, opened by the library.

        Raises: MissingExtraError; NotAVolumeError where the library cannot open it.
        """
        try:
            library = import_module(self.library)
        except ImportError as error:
            raise MissingExtraError(self.library, self.extra) from error
        try:
            return self.open_by(library, path)
        except Exception as error:
            raise self.damaged(path, error) from error

    def damaged(self, path: str, error: Exception) -> NotAVolumeError:
        """What to raise for an error of the library."""
        return NotAVolumeError(f"{path} cannot be read as {self.title} ({type(error).__name__}: {reason(error)})")

    def open(self, path: str) -> Frames:
        """The frames, with which the file is closed."""
        path, _, inner = path.partition(INSIDE)
        file = self.opened(path)
        try:
            frames = self.frames(file, path, inner)
        except BaseException:
            file.close()
            raise
        weakref.finalize(frames, file.close)
        return frames

    def read(self, handle: Frames, index: ArrayIndex, source: Source) -> NDArray[Any]:
        return handle.read(index)


def frame_chunks(shape: tuple[int, ...], outer: int) -> tuple[int, ...]:
    """The chunks of such an image: whole frames."""
    return (1,) * outer + shape[outer:]
