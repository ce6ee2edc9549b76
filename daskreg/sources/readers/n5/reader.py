"""N5 folders: an array, or a pyramid whose levels are named s0, s1, ... A path goes on inside: `a.n5/volumes/raw`."""

from __future__ import annotations

import os
import re
from typing import Any

from numpy.typing import NDArray

from daskreg.errors import NotAVolumeError, OptionError
from daskreg.runtime.regular_files import check_beside
from daskreg.sources.description import Description, OpenOptions
from daskreg.sources.locate import INSIDE, StoreLocation
from daskreg.sources.reader import Reader, box_of
from daskreg.sources.readers.file_array import FileArray
from daskreg.sources.readers.n5.array import ATTRIBUTES, N5Array, attributes
from daskreg.sources.readers.n5.placement import axis_names, grid_of
from daskreg.sources.source import ArrayIndex, Source

_MOST_LEVELS = 32


class N5Reader(Reader):
    """Decodes blocks, each in a file, in the calling thread."""

    def claims(self, path: str) -> bool:
        return os.path.isfile(os.path.join(path, ATTRIBUTES)) or path.lower().endswith(".n5") or bool(_levels(path))

    def describe(self, location: StoreLocation, options: OpenOptions) -> Description:
        """The array at a location, or a level of the pyramid there.

        Raises: NotAVolumeError naming the arrays of a group that is neither; OptionError for a level that is not there.
        """
        folder = location.root
        if location.inner:
            folder = os.path.join(folder, location.inner)
            check_beside(folder, location.root)
        if not os.path.isdir(folder):
            raise NotAVolumeError(f"{folder} does not exist{_told(location.root)}")
        group: dict[str, Any] = {}
        level = 0
        stated = attributes(folder, location.root)
        if "dimensions" not in stated:
            count = _levels(folder)
            if not count:
                raise NotAVolumeError(f"{folder} is no N5 array{_told(folder)}")
            if not -count <= options.level < count:
                raise OptionError(f"level={options.level} is not in {folder}, which has {count} (0 is the finest)")
            group, level = stated, options.level % count
            folder = os.path.join(folder, f"s{level}")
            check_beside(folder, location.root)
            stated = attributes(folder, location.root)
        elif options.level not in (0, -1):
            raise OptionError(f"level={options.level} was asked for, but {folder} is one array")
        elif (number := _number(folder)) is not None:
            above = os.path.dirname(folder)
            group, level = attributes(above, above), number
        array = N5Array.of(folder, location.root)
        names = axis_names(stated, group, len(array.shape))
        grid = options.apply(grid_of(names, array.shape, stated, group, level=level, options=options, what=folder))
        below = os.path.relpath(folder, location.root)
        path = location.root if below == "." else f"{location.root}{INSIDE}{below}"
        described = FileArray("n5", path, names, array.shape, array.dtype, self.stamp(path), array.chunks)
        name = os.path.basename(location.root if not location.inner else location.inner).removesuffix(".n5")
        return described.describe(grid, OpenOptions(), name=name)

    def open(self, path: str) -> N5Array:
        root, _, below = path.partition(INSIDE)
        return N5Array.of(os.path.join(root, below) if below else root, root)

    def files(self, path: str) -> tuple[str, ...]:
        root, _, below = path.partition(INSIDE)
        return (os.path.join(root, below, ATTRIBUTES),)

    def is_there(self, path: str) -> bool:
        return os.path.exists(self.files(path)[0])

    def read(self, handle: N5Array, index: ArrayIndex, source: Source) -> NDArray[Any]:
        voxels = handle.read(box_of(index))
        return voxels[tuple(slice(None) if isinstance(s, slice) else 0 for s in index)]


READER = N5Reader()


def _levels(folder: str) -> int:
    """How many levels, s0, s1, ..., a folder holds."""
    for level in range(_MOST_LEVELS):
        if not os.path.isfile(os.path.join(folder, f"s{level}", ATTRIBUTES)):
            return level
    return _MOST_LEVELS


def _number(folder: str) -> int | None:
    """Which level of the pyramid around it a folder is, by its name; None where it is none."""
    name = os.path.basename(folder)
    if not re.fullmatch(r"s\d{1,2}", name) or int(name[1:]) >= _levels(os.path.dirname(folder)):
        return None
    return int(name[1:])


def _told(folder: str) -> str:
    """For a message: what a folder holds."""
    with os.scandir(folder) as entries:
        names = sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))[:8]
    return f"; {folder} holds {', '.join(names)}" if names else ""
