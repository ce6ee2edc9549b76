"""The readers of a process: the built-in ones, and those of installed packages; and which of them claims a path.

A package names its reader by an entry point of the group "daskreg.readers", as `dm = "my_package:READER"`; the entry
point's name is that of the format. They are looked up in every process, so a worker finds the reader that a source
names. Only what is needed is imported: all of them where a path is opened that no built-in format claims, and one on a
worker.
"""

from __future__ import annotations

import importlib
import socket
import sys
import warnings
from functools import cache, lru_cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from daskreg.errors import MetadataWarning, UnfitWorkerError
from daskreg.runtime.messages import reason
from daskreg.sources.file_formats import BUILT_IN, FORMATS, Format, format_of

GROUP = "daskreg.readers"
"""The group of the entry points."""


def reader_named(name: str) -> Any:
    """The reader of a format.

    Raises: UnfitWorkerError where no package of this machine has it, or it cannot be imported.
    """
    if name in BUILT_IN:
        return importlib.import_module(f"daskreg.sources.readers.{name}").READER
    point = _points(tuple(sys.path)).get(name)
    if point is None:
        _points.cache_clear()  # it may be installed later
        raise UnfitWorkerError(
            f"no package on {socket.gethostname()} reads the format {name!r} (by an entry point of the group "
            f"{GROUP!r}): install the one that is there where the volume was opened"
        )
    try:
        return _loaded(point)
    except Exception as error:
        raise UnfitWorkerError(
            f"{point.value}, which reads the format {name!r}, cannot be imported on {socket.gethostname()} "
            f"({type(error).__name__}: {reason(error)})"
        ) from error


def claimant(path: Path) -> Format | None:
    """The format of a file, or of a folder that is no Zarr store: the built-in one with its suffix, or which claims the
    folder; then the first of a package, in the order of their names, that claims it. None where there is none.
    """
    if path.is_dir():
        built_in = (one for one in FORMATS if one.folders and reader_named(one.name).claims(str(path)))
        found = next(built_in, None)
    else:
        found = format_of(path.suffixes)
    return found or _claimed_by_package(str(path))


def _claimed_by_package(path: str) -> Format | None:
    for name, point in sorted(_points(tuple(sys.path)).items()):
        try:
            reader = _loaded(point)
            claimed = reader.claims(path)
        except Exception as error:
            message = f"the reader {name!r} ({point.value}) is left out ({type(error).__name__}: {reason(error)})"
            warnings.warn(message, MetadataWarning, stacklevel=2)
            continue
        if claimed:
            return Format(name, name, tuple(reader.suffixes), has_paths=reader.has_paths)
    return None


@lru_cache(1)
def _points(_places: tuple[str, ...]) -> dict[str, EntryPoint]:
    """By name; none has that of a built-in format. They are looked up again where packages come from other places."""
    return {point.name: point for point in entry_points(group=GROUP) if point.name not in BUILT_IN}


@cache
def _loaded(point: EntryPoint) -> Any:
    loaded = point.load()
    return loaded() if isinstance(loaded, type) else loaded
