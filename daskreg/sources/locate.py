"""Paths, and places inside stores: what a string points at, checked before anything is opened."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import zarr
from zarr.abc.store import Store

from daskreg.errors import MissingExtraError, NotAVolumeError, UnsupportedDTypeError
from daskreg.sources.storage.redact import is_url, redact
from daskreg.sources.storage.retrying import open_store

# Between the path of a store that is one file, or a URL, and the path inside it.
INSIDE = "::/"

READABLE = (
    "Zarr (v2, v3, OME-Zarr, xarray's; a directory, a .zip or a URL), TIFF, HDF5/NeXus, NIfTI, NRRD, MetaImage and "
    "MRC files are read"
)
_BY_KIND = {
    "tiff": ".tif .tiff .btf .tf8",
    "nifti": ".nii .nii.gz .nii.bz2 .hdr .img .hdr.gz .img.gz",
    "itk": ".nrrd .nhdr .mha .mhd .gipl .gipl.gz .dcm .png .jpg .jpeg .bmp",
    "mrc": ".mrc .mrcs .map .rec .st .ali .preali .mrc.gz .map.gz .mrc.bz2 .map.bz2",
    "hdf5": ".h5 .hdf5 .hdf .he5 .nxs .nx5 .nex .nc",
}
SUFFIXES = {suffix: kind for kind, suffixes in _BY_KIND.items() for suffix in suffixes.split()}

STORE_FILES = ("zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata")


@dataclass(frozen=True)
class Place:
    """A node of a Zarr hierarchy: a directory; a path inside a zip file, URL or open store.

    `root` is the directory, file or URL, `inner` the path inside ("" for directories, whose
    root goes all the way down), and `store` the store itself where no path leads to it.
    """

    root: str
    inner: str = ""
    store: Store | None = None

    @property
    def path(self) -> str:
        """As `Source.path` has it."""
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
        """Whether a path further down is a directory of its own."""
        return self.store is None and not is_url(self.root) and Path(self.root).is_dir()

    def child(self, path: str) -> Place:
        """A node further down.

        Raises: NotAVolumeError for an absolute path or one with `..`: metadata must not lead
            out of its store.
        """
        check_inner(path, self)
        if self._descends:
            return replace(self, root=str(Path(self.root) / path))
        return replace(self, inner=f"{self.inner}/{path}".strip("/"))

    def parents(self, levels: int = 2) -> Iterator[tuple[Place, str]]:
        """Nodes further up, nearest first, each with the path from there to here."""
        up, down = self, ""
        for _ in range(levels):
            if up.inner:
                head, _, last = up.inner.rpartition("/")
                up = replace(up, inner=head)
            elif up._descends and any((Path(up.root).parent / f).is_file() for f in STORE_FILES):
                last, up = Path(up.root).name, replace(up, root=str(Path(up.root).parent))
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
        except MissingExtraError:
            raise
        except FileNotFoundError as error:
            cause, message = error, f"{self} holds no Zarr array or group; {READABLE}"
        except Exception as error:
            if "data type" in str(error):
                raise UnsupportedDTypeError(
                    f"{self}: {redact(str(error))}; images are bool, integer or float"
                ) from None
            cause, message = (
                error,
                f"{self}: the metadata cannot be read ({type(error).__name__}: {redact(str(error))})",
            )
        # The error of a remote store may hold its URL with the credentials.
        raise NotAVolumeError(message) from (None if is_url(self.root) else cause)

    def group(self) -> zarr.Group | None:
        """The group here, if there is one that can be read; nothing is asked of its members."""
        try:
            return zarr.open_group(self._opened_store, path=self.inner, mode="r", use_consolidated=False)
        except Exception:
            return None

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
        """For a local array: state of its metadata file (name, time of change, size)."""
        if self._descends:
            for name in ("zarr.json", ".zarray"):
                file = Path(self.root) / name
                if file.is_file():
                    state = file.stat()
                    return name, str(state.st_mtime_ns), str(state.st_size)
        elif self.store is None and Path(self.root).is_file():
            return (file_stamp(self.root),)
        return ()


def locate(source: str | os.PathLike[str]) -> tuple[str, Place]:
    """Which kind of reader a path or URL needs, and the place.

    Raises: NotAVolumeError for a path that does not exist, a format that is not read, and
        `..` inside a store.
    """
    text = os.fspath(source)
    if is_url(text):
        root, _, inner = text.partition(INSIDE)
        place = Place(root.rstrip("/"))
        return "zarr", place.child(inner) if inner else place
    text, _, inner = text.removeprefix("file://").partition(INSIDE)
    _check_climb(Path(text))
    path = Path(os.path.abspath(Path(text).expanduser()))
    # The path may go on inside a zip file, which the file system cannot follow.
    outer = path
    while not os.path.lexists(outer) and outer != outer.parent:
        outer = outer.parent
    rest = "/".join([*path.parts[len(outer.parts) :], *([inner] if inner else [])])
    if outer.is_file():
        return _file(outer, rest)
    place = Place(str(outer))
    if rest:
        missing = f"{path}{INSIDE}{inner}" if inner else str(path)
        if inner and outer == path:
            return "zarr", place.child(inner)
        raise NotAVolumeError(f"{missing} does not exist{_held_by(outer)}")
    if not any((outer / f).is_file() for f in STORE_FILES):
        raise NotAVolumeError(f"{outer} is not a Zarr array or group (no zarr.json, .zarray or .zgroup); {READABLE}")
    return "zarr", place


def check_inner(path: str, where: object) -> None:
    """Refuse a path inside a store that is absolute or climbs out of it."""
    if path.startswith(("/", "\\")) or ".." in path.replace("\\", "/").split("/") or PureWindowsPath(path).drive:
        raise NotAVolumeError(f"{where}: the path {path!r} leads out of the store, which is not allowed")


def file_stamp(path: str) -> str:
    """Time of change and size of a file."""
    state = os.stat(path)
    return f"{state.st_mtime_ns}-{state.st_size}"


def _file(path: Path, inner: str) -> tuple[str, Place]:
    suffix = path.suffix.lower()
    if suffix == ".zip":
        place = Place(str(path))
        return "zarr", place.child(inner) if inner else place
    kind = SUFFIXES.get("".join(path.suffixes[-2:]).lower(), SUFFIXES.get(suffix))
    if kind is None:
        raise NotAVolumeError(f"{path}: files ending in {suffix or path.name!r} are not read; {READABLE}")
    if inner and kind != "hdf5":
        raise NotAVolumeError(f"{path} is a file and holds nothing at {inner!r}")
    return kind, Place(str(path), inner.strip("/"))


def _check_climb(path: Path) -> None:
    """`..` is fine on the way to a store, not inside it."""
    for k, part in enumerate(path.parts):
        before = Path(*path.parts[:k]) if k else Path()
        if part == ".." and any((p / f).is_file() for p in (before, *before.parents) for f in STORE_FILES):
            raise NotAVolumeError(f"{path}: '..' inside a store is not allowed; name the other store itself")


def _held_by(folder: Path) -> str:
    if not any((folder / f).is_file() for f in STORE_FILES):
        return ""
    names = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))[:8]
    return f"; {folder} is a Zarr store" + (f" that holds {', '.join(names)}" if names else "")
