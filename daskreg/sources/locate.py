"""What a path or URL points at, checked before anything is opened: its format, and the location in a store."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import zarr
from zarr.abc.store import Store

from daskreg.errors import (
    MissingExtraError,
    NotAVolumeError,
    OptionError,
    OutsideError,
    StoreError,
    UnsupportedDTypeError,
)
from daskreg.runtime.messages import reason
from daskreg.runtime.paths import shown, unusable
from daskreg.runtime.regular_files import check_beside
from daskreg.sources.available_readers import claimant
from daskreg.sources.file_formats import READABLE, ZARR, advice
from daskreg.sources.stamps import file_stamp
from daskreg.sources.storage.access import READ_ONLY, is_object_url
from daskreg.sources.storage.object_bytes import ObjectBytes
from daskreg.sources.storage.redact import is_url, redact
from daskreg.sources.storage.stores import open_store

INSIDE = "::/"
"""What separates the path of a store that is one file, or a URL, from the path inside it."""

STORE_FILES = ("zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata")
"""Names of the metadata files of which a Zarr node has one or more."""


@dataclass(frozen=True)
class StoreLocation:
    """The location of a node in a Zarr store, or of an array in a file of another format.

    Args:
        root: the directory, file or URL.
        inner: the path inside a zip file, a URL, an opened store or an HDF5 file; "" for directories, whose root is
            the path of the node itself.
        store: the opened store, where no path leads to it.
    """

    root: str
    inner: str = ""
    store: Store | None = None

    @property
    def path(self) -> str:
        """The path in one text, as in `Source.path`."""
        return f"{self.root}{INSIDE}{self.inner}" if self.inner else self.root

    def __str__(self) -> str:
        return redact(self.path)

    @property
    def name(self) -> str:
        """The last part, without the suffixes of formats."""
        last = PurePosixPath(self.inner or self.root.split("?", 1)[0]).name
        while (stem := last.removesuffix(".zarr").removesuffix(".ome").removesuffix(".zip")) not in (last, ""):
            last = stem
        return last

    @property
    def _descends(self) -> bool:
        """Whether nodes further down are directories."""
        return self.store is None and not is_url(self.root) and Path(self.root).is_dir()

    def child(self, path: str) -> StoreLocation:
        """A node further down.

        Raises: NotAVolumeError for an absolute path or one with `..`: metadata must not lead
            out of its store. OutsideError where a symbolic link leads out of it.
        """
        check_inner(path, self)
        if self._descends:
            below = str(Path(self.root) / path)
            check_beside(below, self.root)
            return replace(self, root=below)
        return replace(self, inner=f"{self.inner}/{path}".strip("/"))

    def parents(self, levels: int = 2) -> Iterator[tuple[StoreLocation, str]]:
        """The nodes above, nearest first, each with the path from there to here."""
        up, down = self, ""
        for _ in range(levels):
            if up.inner:
                head, _, last = up.inner.rpartition("/")
                up = replace(up, inner=head)
            elif up._descends and any((Path(up.root).parent / f).is_file() for f in STORE_FILES):
                last, up = Path(up.root).name, replace(up, root=str(Path(up.root).parent))
            elif up.store is None and (above := _url_above(up.root)):
                last, up = up.root.rpartition("/")[2], replace(up, root=above)
            else:
                return
            down = f"{last}/{down}".rstrip("/")
            yield up, down

    def open(self) -> zarr.Array[Any] | zarr.Group:
        """The array or group here; only metadata is read.

        Raises: NotAVolumeError, UnsupportedDTypeError, MissingExtraError.
        """
        cause: Exception
        try:
            return self._node()
        except (MissingExtraError, OptionError, OutsideError, StoreError):
            raise
        except FileNotFoundError as error:
            cause, message = error, f"{self} holds no Zarr array or group; {READABLE}"
        except Exception as error:
            if "data type" in str(error):
                raise UnsupportedDTypeError(f"{self}: {reason(error)}; images are bool, integer or float") from None
            cause, message = (
                error,
                f"{self}: the metadata cannot be read ({type(error).__name__}: {reason(error)})",
            )
        # The error of a remote store may hold its URL with the credentials.
        raise NotAVolumeError(message) from (None if is_url(self.root) else cause)

    def group(self) -> zarr.Group | None:
        """The group here; None where there is none that can be read. Its members are not read."""
        try:
            return zarr.open_group(self._opened_store, path=self.inner, mode="r", use_consolidated=False)
        except Exception:
            return None

    @property
    def _objects(self) -> ObjectBytes | None:
        """The objects of a node in an object store; None elsewhere."""
        return objects_at(self.path) if self.store is None else None

    @property
    def _opened_store(self) -> Store:
        return self.store or open_store(self.root)

    def _node(self) -> zarr.Array[Any] | zarr.Group:
        store = self._opened_store
        try:
            return zarr.open(store, path=self.inner, mode="r")
        except FileNotFoundError:
            raise
        except Exception:
            # Consolidated metadata fails as a whole where one array in it does.
            if self.group() is None:
                raise
            return zarr.open_group(store, path=self.inner, mode="r", use_consolidated=False)

    def stamp_files(self) -> tuple[str, ...]:
        """Of an array, the name, time of change and size of its metadata file, in an object store its ETag; () where
        that is not known."""
        if self._descends:
            for name in ("zarr.json", ".zarray"):
                file = Path(self.root) / name
                if file.is_file():
                    state = file.stat()
                    return name, str(state.st_mtime_ns), str(state.st_size)
        elif (objects := self._objects) is not None:
            return next(((name, tag) for name in ("zarr.json", ".zarray") if (tag := objects.tag(name))), ())
        elif self.store is None and Path(self.root).is_file():
            return (file_stamp(self.root),)
        return ()


def _url_above(root: str) -> str:
    """The URL of the folder in which a URL is; "" for other paths, and where a query or the host alone remains."""
    above = root.rpartition("/")[0]
    return above if is_url(root) and "?" not in root and above.count("/") >= 3 else ""


def locate(source: str | os.PathLike[str]) -> tuple[str, StoreLocation]:
    """The name of the format that a path or URL has, and its location.

    Raises: NotAVolumeError for a path that does not exist, a format that is not read, and
        `..` inside a store.
    """
    text = os.fspath(source)
    if is_url(text):
        root, inner = _split_url(text)
        location = StoreLocation(root)
        return ZARR.name, location.child(inner) if inner else location
    text = text.removeprefix("file://")
    if reason := unusable(text):
        raise NotAVolumeError(f"{shown(text)} cannot be read: {reason}")
    text, _, inner = text.partition(INSIDE)
    _check_parents(Path(text))
    path = Path(os.path.abspath(Path(text).expanduser()))
    # The path may go on inside a zip file, which the file system cannot follow.
    outer = path
    while not os.path.lexists(outer) and outer != outer.parent:
        outer = outer.parent
    rest = "/".join([*path.parts[len(outer.parts) :], *([inner] if inner else [])])
    if outer.is_file():
        return _locate_in_file(outer, rest)
    location = StoreLocation(str(outer))
    whole_folder = outer == path and outer.is_dir() and not any((outer / f).is_file() for f in STORE_FILES)
    if whole_folder and (form := claimant(outer)):
        check_inner(inner, outer)
        return form.name, StoreLocation(str(outer), inner.strip("/"))
    if rest:
        missing = f"{path}{INSIDE}{inner}" if inner else str(path)
        if inner and outer == path:
            return ZARR.name, location.child(inner)
        raise NotAVolumeError(f"{missing} does not exist{_listed_members(outer)}")
    if not any((outer / f).is_file() for f in STORE_FILES):
        raise NotAVolumeError(f"{outer} is not a Zarr array or group (no zarr.json, .zarray or .zgroup); {READABLE}")
    return ZARR.name, location


def _split_url(url: str) -> tuple[str, str]:
    """The URL of a store, which ends with the first name in `.zarr`, and the path inside it."""
    root, _, inner = url.partition(INSIDE)
    names = root.rstrip("/").split("/")
    first = next((k for k, name in enumerate(names) if k > 2 and name.endswith(".zarr")), len(names) - 1)
    return "/".join(names[: first + 1]), "/".join([*names[first + 1 :], *([inner] if inner else [])])


def objects_at(path: str) -> ObjectBytes | None:
    """The objects below the path of a source (`Source.path`); None for what is in no object store."""
    root, _, inner = path.partition(INSIDE)
    if not is_object_url(root) or root.startswith(READ_ONLY):
        return None
    return ObjectBytes(f"{root}/{inner}" if inner else root)


def check_inner(path: str, owner: object) -> None:
    """Refuse a path inside a store that is absolute or leads out of the store.

    Raises: NotAVolumeError.
    """
    if path.startswith(("/", "\\")) or ".." in path.replace("\\", "/").split("/") or PureWindowsPath(path).drive:
        raise NotAVolumeError(f"{owner}: the path {path!r} leads out of the store, which is not allowed")


def _locate_in_file(path: Path, inner: str) -> tuple[str, StoreLocation]:
    form = claimant(path)
    if form is None:
        ending = path.suffix.lower() or path.name
        raise NotAVolumeError(f"{path}: files ending in {ending!r} are not read{advice(ending)}; {READABLE}")
    if form == ZARR:
        location = StoreLocation(str(path))
        return form.name, location.child(inner) if inner else location
    if inner and not form.has_paths:
        raise NotAVolumeError(f"{path} is a file and holds nothing at {inner!r}")
    return form.name, StoreLocation(str(path), inner.strip("/"))


def _check_parents(path: Path) -> None:
    """Refuse `..` inside a store; on the way to a store it is allowed."""
    for k, part in enumerate(path.parts):
        before = Path(*path.parts[:k]) if k else Path()
        if part == ".." and any((p / f).is_file() for p in (before, *before.parents) for f in STORE_FILES):
            raise NotAVolumeError(f"{path}: '..' inside a store is not allowed; name the other store itself")


def _listed_members(folder: Path) -> str:
    """For a message: what a Zarr store holds; "" for other folders."""
    if not any((folder / f).is_file() for f in STORE_FILES):
        return ""
    names = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))[:8]
    return f"; {folder} is a Zarr store" + (f" that holds {', '.join(names)}" if names else "")
