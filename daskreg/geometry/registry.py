"""Transforms by name: kinds of transforms, and readers and writers of their files.

A class of transforms is registered when it is defined. Readers and writers are registered by the modules of
`formats`, which are built on geometry and so are imported here by name, when the first file is saved.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from daskreg.errors import InvalidTransformError, OptionError

if TYPE_CHECKING:
    from daskreg.geometry.transform import Transform

_FORMATS = "daskreg.formats.transforms"
_FIELDS = "daskreg.fields.files"

_NO_TEXTS = ((".zarr",), (".h5",), (".nii", ".gz", ".mha", ".nrrd"), (".npy",))
"""Suffixes of folders and binary files, sort by sort, which a text must not have."""

_kinds: dict[str, type[Transform]] = {}
_writers: dict[str, list[FileWriter]] = {}
_readers: list[FileReader] = []
_last_readers: list[FileReader] = []


@dataclass(frozen=True)
class FileWriter:
    """Writes transforms of one class to files.

    Args:
        tool: whose format it is, such as "ITK".
        holds: the class of transforms that the format can hold.
        limit: what it cannot hold, for the error message.
        write: (transform, path, **options) -> None, with those of the options `takes` that were given.
        takes: options that it uses, such as "fixed" and "moving", the grids of the two images.
        needs: those of them without which it cannot write.
    """

    tool: str
    holds: type[Any] | tuple[type[Any], ...]
    limit: str
    write: Callable[..., None]
    takes: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class FileReader:
    """Reads the transforms of one tool.

    Args:
        tool: whose format it is, such as "ITK".
        claims: whether a file (a `TransformFile`) is of this format, by its content and name.
        read: (file, **options) -> transform, with those of the options `takes` that were given.
        takes, needs: as of a `FileWriter`.
    """

    tool: str
    claims: Callable[[Any], bool]
    read: Callable[..., Transform]
    takes: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()


_Format = TypeVar("_Format", FileReader, FileWriter)


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
    """Let `transform.save` write files with these suffixes (lower case, with the dot), or names such as "a*.txt"."""
    for suffix in suffixes:
        _writers.setdefault(suffix, []).append(writer)


def register_reader(reader: FileReader, *, last: bool = False) -> None:
    """Let `load` read files of a format; with `last` only those that no other reader claims."""
    (_last_readers if last else _readers).append(reader)


def reader_of(file: Any, tool: str | None, options: Mapping[str, Any]) -> tuple[FileReader, dict[str, Any]]:
    """The reader of a file (a `TransformFile`), and the options that it takes.

    Args:
        tool: the name of the tool; None: the first reader that claims the file.

    Raises: InvalidTransformError where no reader claims it; OptionError for an unknown tool, or where an option is
        missing that the reader needs.
    """
    known = [*_readers, *_last_readers]
    if tool is None:
        reader = next((r for r in known if r.claims(file)), None)
        if reader is None:
            importlib.import_module(_FIELDS)
            reader = next((r for r in [*_readers, *_last_readers] if r.claims(file)), None)
        if reader is None:
            raise InvalidTransformError(f"{file.path} is not a transform file that is known: {_listed(known)}")
    else:
        readers = _of_tool(known, tool)
        reader = next((r for r in readers if r.claims(file)), readers[0])
    return reader, _taken(reader, file.path, options)


def save(transform: Transform, path: Path, tool: str | None, options: Mapping[str, Any]) -> None:
    """Write a transform in the format that the suffix names, or in that of a tool.

    Raises: OptionError for a suffix or tool that is not known or not the only one, a format that cannot hold the
        transform, or where an option is missing that the format needs.
    """
    importlib.import_module(_FORMATS)
    if path.suffix.lower() == ".zarr":
        importlib.import_module(_FIELDS)
    known = [writer for writers in _writers.values() for writer in writers]
    if tool is not None:
        matching = _of_tool_and_suffix(_of_tool(known, tool), path)
    else:
        patterns = [p for p in _writers if fnmatch(path.name.lower(), p if "*" in p else f"*{p}")]
        matching = [w for p in sorted(patterns, key=len)[-1:] for w in _writers[p]]
    writers = [w for w in matching if isinstance(transform, w.holds)]
    if len({w.tool for w in writers}) > 1:
        names = " or ".join(w.tool for w in writers)
        first = writers[0].tool
        raise OptionError(f"{path.name} may be a file of {names}: say which, with format={first!r} (--to {first})")
    if writers:
        writers[0].write(transform, path, **_taken(writers[0], path, options))
        return
    if matching:
        raise OptionError(f"{path.name}: {matching[0].limit}: save as .json")
    by_tool: dict[str, list[str]] = {}
    for suffix, some in _writers.items():
        for writer in some:
            by_tool.setdefault(writer.tool, []).append(suffix)
    others = "; ".join(f"for {tool} as {', '.join(names)}" for tool, names in by_tool.items() if tool != "daskreg")
    raise OptionError(f"{path.name}: transforms are saved as .json, or {others}")


def _of_tool_and_suffix(writers: Sequence[FileWriter], path: Path) -> list[FileWriter]:
    """Those of a tool's writers whose files end as a path does; all where none does, since text may have any name.

    Raises: OptionError where the path ends as a folder or a binary file, and the tool has none of that sort.
    """
    ending = path.suffix.lower()
    of_tool = {p: [w for w in some if w in writers] for p, some in _writers.items()}
    sort = next((sort for sort in _NO_TEXTS if ending in sort), (ending,))
    found = [
        [w for p, some in of_tool.items() if Path(f"a{p}").suffix in ends for w in some] for ends in ((ending,), sort)
    ]
    if not any(found) and ending in (known for sort in _NO_TEXTS for known in sort):
        names = ", ".join(p for p, some in of_tool.items() if some)
        raise OptionError(f"{path.name}: {ending} is no suffix of {writers[0].tool}'s files: name it {names}")
    return found[0] or found[1] or list(writers)


def _of_tool(formats: Iterable[_Format], tool: str) -> list[_Format]:
    found = [f for f in formats if f.tool.lower() == str(tool).lower()]
    if not found:
        raise OptionError(f"format {tool!r} is unknown: use one of {_listed(formats)}")
    return found


def _listed(formats: Iterable[FileReader | FileWriter]) -> str:
    return ", ".join(dict.fromkeys(f.tool for f in formats))


def _taken(known: FileReader | FileWriter, path: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that a format takes; those it does not use are left out."""
    missing = [name for name in known.needs if options.get(name) is None]
    if missing:
        words = " and ".join(f"{name}=" for name in missing)
        raise OptionError(
            f"{path}: a file of {known.tool} counts in the voxels of its images: give {words} (a Grid of each, or, on "
            "the command line, the image)"
        )
    return {name: options[name] for name in known.takes if options.get(name) is not None}
