"""Images in files of their own: a folder, a pattern such as `slices/*.tif`, or a list of files, in natural order."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from daskreg.errors import InputError, NotAVolumeError
from daskreg.runtime.messages import reason
from daskreg.runtime.regular_files import check_regular
from daskreg.sources.file_formats import ZARR, format_of
from daskreg.sources.locate import STORE_FILES, StoreLocation

_BESIDE = {".raw", ".xml"}
"""Suffixes of files that lie beside those of other formats, and describe them or hold their voxels."""

_MAGIC = re.compile(r"[*?\[]")


def natural_key(name: str) -> list[tuple[int, int | str]]:
    """Sorts numbers in names by their values: `a2` before `a10`."""
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in re.split(r"(\d+)", name) if part]


def is_file_list(value: Any) -> bool:
    """Whether a value is a list of paths."""
    return isinstance(value, list | tuple) and len(value) > 0 and all(isinstance(v, str | os.PathLike) for v in value)


def is_dicom(path: str) -> bool:
    """Whether a file is DICOM, by the mark behind its first 128 bytes; files of that format often have no suffix."""
    try:
        check_regular(path)
        with open(path, "rb") as file:
            return file.read(132)[128:] == b"DICM"
    except (OSError, InputError):
        return False


def sequence_location(source: Any) -> StoreLocation | None:
    """Where a sequence is: its folder, and inside it a pattern, or names divided by "/"; None for anything else.

    Raises: NotAVolumeError for a folder of files of several formats, and for files that are not in one folder.
    """
    if is_file_list(source):
        return _of_list([os.path.abspath(os.path.expanduser(os.fspath(file))) for file in source])
    if not isinstance(source, str | os.PathLike) or "://" in os.fspath(source) or "::" in os.fspath(source):
        return None
    path = os.path.abspath(os.path.expanduser(os.fspath(source)))
    if os.path.isdir(path):
        return _of_folder(path)
    folder, name = os.path.split(path)
    if os.path.lexists(path) or not _MAGIC.search(path):
        return None
    if _MAGIC.search(folder) and not os.path.isdir(folder):
        raise NotAVolumeError(f"{path}: a pattern is taken in the last part of a path only")
    return StoreLocation(folder, name)


def files_of(folder: str, inner: str) -> list[str]:
    """The files of a sequence, in order.

    Args:
        inner: the pattern, or the names divided by "/".

    Raises: NotAVolumeError where there are none.
    """
    if "/" in inner or os.path.isfile(os.path.join(folder, inner)):
        return [os.path.join(folder, name) for name in inner.split("/")]
    try:
        names = [e.name for e in os.scandir(folder) if fnmatch.fnmatchcase(e.name, inner) and e.is_file()]
    except OSError as error:
        raise NotAVolumeError(f"{folder} holds no files {inner!r} that can be read: {reason(error)}") from error
    names = [name for name in names if not name.startswith(".")]
    if not names:
        raise NotAVolumeError(f"{folder} holds no files {inner!r}")
    return [os.path.join(folder, name) for name in sorted(names, key=natural_key)]


def _of_list(files: Sequence[str]) -> StoreLocation:
    folders = sorted({os.path.dirname(file) for file in files})
    if len(folders) > 1:
        raise NotAVolumeError(f"the files of a sequence are in one folder; these are in {', '.join(folders[:4])}")
    return StoreLocation(folders[0], "/".join(os.path.basename(file) for file in files))


def _of_folder(path: str) -> StoreLocation | None:
    """The files of a format that a folder holds, if it is no Zarr store and there are any."""
    if any(os.path.isfile(os.path.join(path, name)) for name in STORE_FILES):
        return None
    found: dict[str, list[str]] = {}
    for entry in os.scandir(path):
        suffixes = Path(entry.name).suffixes
        if not entry.name.startswith(".") and entry.is_file() and format_of(suffixes) not in (None, ZARR):
            found.setdefault(suffixes[-1], []).append(entry.name)
    for suffix in _BESIDE & found.keys():
        if len(found) > 1:
            del found[suffix]
    if len(found) > 1:
        kinds = ", ".join(f"{len(names)} {suffix}" for suffix, names in sorted(found.items()))
        example = os.path.join(path, f"*{min(found)}")
        raise NotAVolumeError(f"{path} holds files of several kinds ({kinds}): name one kind, such as {example!r}")
    return StoreLocation(path, f"*{next(iter(found))}") if found else None
