"""Transforms by name: kinds of transforms for reading, and writers of files by suffix.

A class of transforms is registered when it is defined. Writers are registered by the modules of
`formats`, which are built on geometry and so are imported here by name, when the first file is saved.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daskreg.errors import OptionError

if TYPE_CHECKING:
    from daskreg.geometry.transform import Transform

_FORMATS = "daskreg.formats.transforms"

_kinds: dict[str, type[Transform]] = {}
_writers: dict[str, list[FileWriter]] = {}


@dataclass(frozen=True)
class FileWriter:
    """Writes transforms of one class to files.

    Args:
        tool: whose format it is, such as "ITK".
        holds: the class of transforms that the format can hold.
        limit: what it cannot hold, for the error message.
        write: (transform, path) -> None.
    """

    tool: str
    holds: type[Any]
    limit: str
    write: Callable[[Any, Path], None]


def register_kind(kind: str, transform: type[Transform]) -> None:
    """Let files name a class of transforms by `kind`.

    Raises: ValueError where another class has that name.
    """
    known = _kinds.setdefault(kind, transform)
    if (known.__module__, known.__qualname__) != (transform.__module__, transform.__qualname__):
        raise ValueError(f"transforms of kind {kind!r} are {known.__qualname__} already")
    _kinds[kind] = transform


def kinds() -> dict[str, type[Transform]]:
    """The classes of transforms by the `type` in their files."""
    return dict(_kinds)


def register_writer(suffixes: Sequence[str], writer: FileWriter) -> None:
    """Let `transform.save` write files with these suffixes (lower case, with the dot)."""
    for suffix in suffixes:
        _writers.setdefault(suffix, []).append(writer)


def save(transform: Transform, path: Path) -> None:
    """Write a transform in the format that the suffix names.

    Raises: OptionError for a suffix that is not known, or a format that cannot hold the transform.
    """
    importlib.import_module(_FORMATS)
    writers = _writers.get(path.suffix.lower(), [])
    for writer in writers:
        if isinstance(transform, writer.holds):
            writer.write(transform, path)
            return
    if writers:
        raise OptionError(f"{path.name}: {writers[0].limit}: save as .json")
    by_tool: dict[str, list[str]] = {}
    for suffix, known in _writers.items():
        for writer in known:
            by_tool.setdefault(writer.tool, []).append(suffix)
    others = "; ".join(f"for {tool} as {', '.join(names)}" for tool, names in by_tool.items() if tool != "daskreg")
    raise OptionError(f"{path.name}: transforms are saved as .json, or {others}")
