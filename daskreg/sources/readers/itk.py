"""NRRD, MetaImage and whatever else ITK reads, through SimpleITK: ITK's world, z, y, x.

ITK reads boxes of uncompressed MetaImage files; uncompressed NRRD is mapped, and
gzip NRRD unpacked (see `mapped`). Anything else, such as compressed MetaImage, is read whole
once a process, within its memory, and kept in a temporary file. VTK files are left out: ITK's reader
of them sets the locale of the whole process to "C", and other files are then read as ASCII.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import ChunkReadError, MissingExtraError, NotAVolumeError
from daskreg.geometry import PIXEL, Grid
from daskreg.sources.coordinates import SPACE
from daskreg.sources.found import Coord, Found, Wish
from daskreg.sources.locate import Place, file_stamp
from daskreg.sources.readers import nrrd
from daskreg.sources.readers.mapped import Mapped, check_memory, kept
from daskreg.sources.readers.physical import placed
from daskreg.sources.source import Source
from daskreg.sources.stored import Stored, found_of

# Resolutions of pictures (mostly 72 dpi) say nothing about the specimen.
_PICTURES = (".png", ".jpg", ".jpeg", ".bmp")
_NRRD = (".nrrd", ".nhdr")
_METAIMAGE = (".mha", ".mhd")


@dataclass(frozen=True)
class Streamed:
    """A file of which ITK reads boxes; axes (t,) z, y, x (, c)."""

    path: str
    shape: tuple[int, ...]
    components: int

    def read(self, index: tuple[int | slice, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """The box, of which integers drop their axis."""
        sitk = _sitk()
        space = self.shape[:-1] if self.components > 1 else self.shape
        spans = [s.indices(n) if isinstance(s, slice) else (s, s + 1, 1) for s, n in zip(index, space, strict=False)]
        reader = sitk.ImageFileReader()
        reader.SetFileName(self.path)
        reader.SetExtractIndex([a for a, _, _ in reversed(spans)])
        reader.SetExtractSize([b - a for a, b, _ in reversed(spans)])
        box = sitk.GetArrayFromImage(reader.Execute())
        rest = index[len(space) :]
        return np.asarray(box[(*(slice(None) if isinstance(s, slice) else 0 for s in index[: len(space)]), *rest)])


def open_handle(path: str) -> Mapped | Streamed:
    """What reads boxes of a file."""
    reader = _information(path)
    shape = _shape(reader)
    if Path(path).suffix.lower() in _NRRD:
        data = nrrd.voxels(path, _dtype(reader), shape)
        if data is not None:
            return Mapped(data)
    if _streams(path):
        return Streamed(path, shape, reader.GetNumberOfComponents())
    check_memory(int(np.prod(shape, dtype=np.int64)) * _dtype(reader).itemsize, path)
    image = _sitk().ReadImage(path)  # the view below does not keep it alive
    return Mapped(kept(_sitk().GetArrayViewFromImage(image), path))


def read(handle: Mapped | Streamed, index: tuple[int | slice, ...], source: Source) -> NDArray[Any]:
    """`handle[index]`.

    Raises: ChunkReadError naming the file and the voxels.
    """
    try:
        return handle.read(index, source.dtype)
    except RuntimeError as error:
        where = ", ".join(f"{s.start}:{s.stop}" if isinstance(s, slice) else str(s) for s in index)
        raise ChunkReadError(f"cannot read [{where}] of {source.path}: {_last_line(error)}") from error


def describe(place: Place, wish: Wish) -> Found:
    """The image in a file that ITK reads: dims t, c, z, y, x as far as they are there.

    Raises: NotAVolumeError, GridError; MissingExtraError without SimpleITK.
    """
    path, where = place.root, str(place)
    reader = _information(path)
    ndim, shape = reader.GetDimension(), _shape(reader)
    spatial = min(ndim, 3)
    names = ["t"] * (ndim - spatial) + list(SPACE[-spatial:]) + ["c"] * (reader.GetNumberOfComponents() > 1)
    if ndim > 4:
        raise NotAVolumeError(f"{where} has {ndim} dimensions; up to x, y, z, t are read")
    grid, attrs = _grid(reader, shape[ndim - spatial : ndim], where, wish)
    coords: dict[str, Coord] = {}
    if ndim == 4 and (reader.GetSpacing()[3], reader.GetOrigin()[3]) != (1.0, 0.0):
        coords["t"] = (reader.GetOrigin()[3] + reader.GetSpacing()[3] * np.arange(shape[0]), {})
    stored = Stored("itk", path, names, shape, _dtype(reader), _stamp(path))
    return found_of(stored, grid, wish, name=Path(path).stem, attrs=attrs, coords=coords)


def _grid(reader: Any, shape: tuple[int, ...], where: str, wish: Wish) -> tuple[Grid, dict[str, Any]]:
    ndim, suffix = reader.GetDimension(), Path(where).suffix.lower()
    unit = PIXEL if suffix in _PICTURES else "millimeter"
    if suffix in _NRRD:
        unit = nrrd.unit(where) or unit
    unit = wish.common({"x": unit}, where)
    if suffix in _PICTURES:
        return Grid(shape, unit=unit, axes=SPACE[-len(shape) :]), {}
    turn = np.asarray(reader.GetDirection()).reshape(ndim, ndim)
    d = len(shape)
    matrix = np.eye(d + 1)
    matrix[:d, :d] = (turn * np.asarray(reader.GetSpacing()))[:d, :d]
    matrix[:d, d] = np.asarray(reader.GetOrigin())[:d]
    return placed(matrix, shape, unit, where=where)


def _sitk() -> Any:
    try:
        import SimpleITK as sitk  # noqa: N813
    except ImportError as error:
        raise MissingExtraError("SimpleITK", "formats") from error
    return sitk


def _information(path: str) -> Any:
    reader = _sitk().ImageFileReader()
    reader.SetFileName(path)
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise NotAVolumeError(f"{path} cannot be read by ITK: {_last_line(error)}") from error
    return reader


def _shape(reader: Any) -> tuple[int, ...]:
    components = reader.GetNumberOfComponents()
    return (*reversed(reader.GetSize()), *([components] if components > 1 else []))


def _dtype(reader: Any) -> np.dtype[Any]:
    sitk = _sitk()
    components = reader.GetNumberOfComponents()
    one = sitk.Image([1, 1], reader.GetPixelID(), components if components > 1 else 0)
    dtype: np.dtype[Any] = sitk.GetArrayViewFromImage(one).dtype
    return dtype


def _streams(path: str) -> bool:
    """Whether ITK reads a box of this file without reading all of it."""
    if Path(path).suffix.lower() not in _METAIMAGE:
        return False
    with open(path, "rb") as file:
        head = file.read(2**14).partition(b"ElementDataFile")[0]
    lines = [line.replace(b" ", b"").lower() for line in head.splitlines()]
    return b"compresseddata=true" not in lines and b"binarydata=false" not in lines


def _stamp(path: str) -> str:
    """Of the file, and of those beside it that may hold its voxels (.mhd and .raw)."""
    own = file_stamp(path)
    if Path(path).suffix.lower() not in (".mhd", ".nhdr"):
        return own
    beside = sorted(p for p in Path(path).parent.glob(f"{Path(path).stem}.*") if p.is_file())
    return "-".join([own, *(file_stamp(os.fspath(p)) for p in beside)])


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
