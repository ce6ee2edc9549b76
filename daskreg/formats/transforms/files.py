"""Transform files as text and bytes, and `load`, which finds the reader of a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

from daskreg.errors import DaskregError, InputError, InvalidTransformError, OptionError
from daskreg.geometry import Grid, Transform, as_transform
from daskreg.geometry.registry import reader_of
from daskreg.runtime.atomic import replace_text
from daskreg.runtime.messages import reason
from daskreg.runtime.paths import local_path, shown, unusable

SIZE_CAP = 256 * 2**20

_COMMENTS = ("#", "%", "//")


@dataclass(frozen=True, eq=False)
class TransformFile:
    """A file that may hold a transform, read once, when a reader first asks for it.

    Args:
        parents: files that named this one.
        options: of `load`, for files that this one names.
    """

    path: Path
    parents: tuple[Path, ...] = ()
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def name(self) -> str:
        """Its name in lower case."""
        return self.path.name.lower()

    @cached_property
    def head(self) -> bytes:
        """Its first bytes; none of a Zarr group, nor of a prefix of ANTs' files."""
        if not self.path.is_file():
            if (self.path / "zarr.json").is_file() or beside(self.path, "1Warp.nii.gz").is_file():
                return b""
            raise InputError(f"there is no file {self.path}")
        with self.path.open("rb") as file:
            return file.read(64)

    @cached_property
    def data(self) -> bytes:
        return read_bytes(self.path)

    @cached_property
    def text(self) -> str:
        """Its text; empty where it is binary, and of a Zarr group."""
        if b"\x00" in self.head or not self.head:
            return ""
        try:
            return self.data.decode("utf-8-sig")
        except UnicodeDecodeError:
            return ""

    @cached_property
    def rows(self) -> list[list[float]]:
        """Its numbers line by line, without comments and empty lines; empty where it holds anything else."""
        lines = [line.replace(",", " ").split() for line in self.text.splitlines() if not _is_comment(line)]
        try:
            return [[float(word) for word in words] for words in lines if words]
        except ValueError:
            return []

    @property
    def widths(self) -> set[int]:
        """How many numbers its rows hold."""
        return {len(row) for row in self.rows}

    @property
    def comments(self) -> str:
        """Its lines of comment."""
        return "\n".join(line for line in self.text.splitlines() if _is_comment(line))

    def linked(self, path: Path) -> Transform:
        """The transform of a file that this one names."""
        return _load(TransformFile(path, (*self.parents, self.path.resolve()), self.options), None)


def save(thing: Any, path: str | PathLike[str], **options: Any) -> None:
    """Write a fit, a transform, or a matrix, as its own method `save` does; `load` reads it.

    Args:
        thing: a matrix is (D+1, D+1), or (N, D+1, D+1) with one for each slice, world units, array order.
        options: of `Transform.save`: format, and the grids `fixed` and `moving`.
    """
    own = getattr(thing, "save", None)
    (own if callable(own) else as_transform(thing).save)(path, **options)


def load(
    path: str | PathLike[str],
    *,
    format: str | None = None,
    fixed: Grid | None = None,
    moving: Grid | None = None,
    view: int | tuple[int, int] | None = None,
) -> Transform:
    """Read a transform file of daskreg or of another tool, recognised by its content and name.

    Maps of other tools are returned as `moving_from_fixed` (a pull) in array order, and without a unit where the
    tool has none. Exceptions are OME-NGFF, which gives `output_from_input`, and daskreg's own files, which give what
    was saved. `docs/transforms.md` lists the formats, their directions, and the Grids that they need.

    Args:
        format: the tool, such as "FSL", where the content does not say it.
        fixed, moving: grids of the two images, for formats that count in voxels: `daskreg.grid(image)`.
        view: of BigDataViewer: the setup, or (time point, setup).

    Raises: InputError where there is no such file or it is larger than any transform;
        InvalidTransformError where it holds no transform that can be read;
        OptionError where the format needs a Grid; MissingExtraError for HDF5 without h5py.
    """
    if why := unusable(path):
        raise InputError(f"{shown(path)} cannot be read: {why}")
    for name, grid in (("fixed", fixed), ("moving", moving)):
        if grid is not None and not isinstance(grid, Grid):
            raise OptionError(f"{name} must be a Grid, not {type(grid).__name__}: `daskreg.grid(array)` gives it")
    options = {"fixed": fixed, "moving": moving, "view": view}
    try:
        return _load(TransformFile(Path(path), (), tuple(options.items())), format)
    except (DaskregError, Warning):
        raise
    except Exception as error:
        # Numbers that are missing, too large or no numbers, in whatever format.
        message = f"{path} is damaged, or no transform ({type(error).__name__}: {reason(error)})"
        raise InvalidTransformError(message) from error


def _load(file: TransformFile, tool: str | None) -> Transform:
    if file.path.resolve() in file.parents:
        raise InvalidTransformError(f"{file.path} refers to itself")
    options: Mapping[str, Any] = dict(file.options)
    reader, taken = reader_of(file, tool, options)
    return reader.read(file, **taken)


def read_bytes(path: str | PathLike[str]) -> bytes:
    """The content of a file up to the size cap."""
    file = local_path(path)
    if not file.is_file():
        raise InputError(f"there is no file {file}")
    size = file.stat().st_size
    if size > SIZE_CAP:
        raise InputError(f"{file} has {size} bytes; a transform file has at most {SIZE_CAP}")
    return file.read_bytes()


def write_text(text: str, path: str | PathLike[str]) -> None:
    """Write a text file that appears whole or not at all."""
    replace_text(local_path(path), text, sync=True)


def numbers(values: Any, separator: str = " ") -> str:
    """Numbers as text that reads back as the same float64."""
    return separator.join(repr(float(value)) for value in values)


def beside(path: Path, ending: str) -> Path:
    """The file whose name is that of `path` and then `ending`."""
    return Path(f"{path}{ending}")


def _is_comment(line: str) -> bool:
    return line.lstrip().startswith(_COMMENTS)
