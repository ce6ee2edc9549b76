"""NRRD, MetaImage and whatever else ITK reads, through SimpleITK: ITK's world, z, y, x.

ITK reads boxes of uncompressed MetaImage files; uncompressed NRRD is mapped, and gzip NRRD
unpacked (see `mapped`). Any other file, such as compressed MetaImage, is read whole once in each
process, which needs the memory for it, and moved to a temporary file. VTK files are not read: ITK's reader
of them sets the locale of the whole process to "C", and other files are then read as ASCII.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import ChunkReadError, MissingExtraError, NotAVolumeError
from daskreg.geometry import PIXEL, Grid
from daskreg.runtime.regular_files import allowing_outside
from daskreg.sources.channels import named_colours
from daskreg.sources.coordinates import SPACE
from daskreg.sources.description import Description, OpenOptions
from daskreg.sources.locate import StoreLocation
from daskreg.sources.reader import Reader, index_text
from daskreg.sources.readers import metaimage_header, nifti, nrrd, nrrd_header
from daskreg.sources.readers.bmp_header import check_bmp
from daskreg.sources.readers.file_array import FileArray
from daskreg.sources.readers.mapped import MappedArray, check_memory, check_size, moved_to_disk
from daskreg.sources.readers.physical import grid_of_header
from daskreg.sources.readers.png_header import check_png
from daskreg.sources.source import ArrayIndex, Source

# The resolution that these files state (mostly 72 dpi) is not that of the specimen.
_PICTURES = (".png", ".jpg", ".jpeg", ".bmp")
_NRRD = (".nrrd", ".nhdr")
_METAIMAGE = (".mha", ".mhd")
_PACKINGS = {
    ".png": "gzip",
    ".gipl": "",
    ".gipl.gz": "gzip",
    ".nii": "",
    ".nii.gz": "gzip",
    ".jpg": "other",
    ".jpeg": "other",
    ".dcm": "other",
}


@dataclass(frozen=True)
class StreamedImage:
    """A file of which ITK reads boxes; axes (t,) z, y, x (, c)."""

    path: str
    shape: tuple[int, ...]
    components: int

    def read(self, index: ArrayIndex, dtype: np.dtype[Any]) -> NDArray[Any]:
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


class ItkReader(Reader):
    """Reads boxes by ITK, or maps the voxels into memory; see the module."""

    def describe(self, location: StoreLocation, options: OpenOptions) -> Description:
        """The image in a file that ITK reads: dims t, c, z, y, x as far as they are there.

        Raises: NotAVolumeError, GridError; MissingExtraError without SimpleITK.
        """
        path, what = location.root, str(location)
        reader = image_information(path)
        ndim, shape = reader.GetDimension(), _shape(reader)
        spatial = min(ndim, 3)
        names = ["t"] * (ndim - spatial) + list(SPACE[-spatial:]) + ["c"] * (reader.GetNumberOfComponents() > 1)
        if ndim > 4:
            raise NotAVolumeError(f"{what} has {ndim} dimensions; up to x, y, z, t are read")
        grid, attrs = _grid(reader, shape[ndim - spatial : ndim], what, options)
        coords = named_colours(reader.GetNumberOfComponents()) if _is_picture(what) else {}
        if ndim == 4 and (reader.GetSpacing()[3], reader.GetOrigin()[3]) != (1.0, 0.0):
            coords["t"] = (reader.GetOrigin()[3] + reader.GetSpacing()[3] * np.arange(shape[0]), {})
        array = FileArray("itk", path, names, shape, _dtype(reader), self.stamp(path))
        return array.describe(grid, options, name=Path(path).stem, attrs=attrs, coords=coords)

    def files(self, path: str) -> tuple[str, ...]:
        suffix = Path(path).suffix.lower()
        if suffix not in (*_NRRD, *_METAIMAGE):
            return (path,)
        header = nrrd_header if suffix in _NRRD else metaimage_header
        try:
            with allowing_outside(True):  # whether they may be read is asked before ITK reads them
                return (path, *header.read_header(path).data_files)
        except NotAVolumeError:
            return (path,)

    def open(self, path: str) -> MappedArray | StreamedImage:
        """The voxels of a file, mapped into memory where possible, else the file itself, of which ITK reads boxes."""
        reader = image_information(path)
        shape = _shape(reader)
        if Path(path).suffix.lower() in _NRRD:
            data = nrrd.voxels(path, _dtype(reader), shape)
            if data is not None:
                return MappedArray(data)
        if _streams(path):
            return StreamedImage(path, shape, reader.GetNumberOfComponents())
        image = whole_image(path)  # the view below does not keep it alive
        return MappedArray(moved_to_disk(_sitk().GetArrayViewFromImage(image), path))

    def read(self, handle: MappedArray | StreamedImage, index: ArrayIndex, source: Source) -> NDArray[Any]:
        try:
            return handle.read(index, source.dtype)
        except RuntimeError as error:
            raise ChunkReadError(f"cannot read [{index_text(index)}] of {source.path}: {_last_line(error)}") from error


READER = ItkReader()


def _is_picture(what: str) -> bool:
    return Path(what).suffix.lower() in _PICTURES


def _grid(reader: Any, shape: tuple[int, ...], what: str, options: OpenOptions) -> tuple[Grid, dict[str, Any]]:
    ndim, suffix = reader.GetDimension(), Path(what).suffix.lower()
    if _is_picture(what):
        return Grid(shape, unit=options.common_unit(PIXEL, what), axes=SPACE[-len(shape) :]), {}
    stated = nrrd.units(what, len(shape)) if suffix in _NRRD else []
    stated = stated if any(stated) else ["millimeter"] * len(shape)
    names = SPACE[::-1][: len(shape)]  # x first, as in the header
    unit, factors = options.units_of_axes(dict(reversed([*zip(names, stated, strict=True)])), what)
    turn = np.asarray(reader.GetDirection()).reshape(ndim, ndim)
    d = len(shape)
    matrix = np.eye(d + 1)
    matrix[:d, :d] = (turn * np.asarray(reader.GetSpacing()))[:d, :d]
    matrix[:d, d] = np.asarray(reader.GetOrigin())[:d]
    matrix[:d] *= np.asarray([factors[name] for name in names])[:, None]
    return grid_of_header(matrix, shape, unit, what=what)


def _sitk() -> Any:
    try:
        import SimpleITK as sitk  # noqa: N813
    except ImportError as error:
        raise MissingExtraError("SimpleITK", "formats") from error
    return sitk


def whole_image(path: str) -> Any:
    """The SimpleITK.Image in a file.

    Raises: see `image_information`; MemoryBudgetError where there is not enough memory for it.
    """
    reader = image_information(path)
    check_memory(math.prod(_shape(reader)) * _dtype(reader).itemsize, path)
    try:
        return _sitk().ReadImage(path)
    except RuntimeError as error:
        raise NotAVolumeError(f"{path} cannot be read by ITK: {_last_line(error)}") from error


def image_information(path: str) -> Any:
    """The SimpleITK.ImageFileReader of a file, with its header, which ITK sees only where it is sound.

    Raises: NotAVolumeError, OutsideError; MissingExtraError without SimpleITK.
    """
    sitk = _sitk()
    _check_header(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(path)
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise NotAVolumeError(f"{path} cannot be read by ITK: {_last_line(error)}") from error
    name = path.lower()
    for suffix, packing in _PACKINGS.items():
        if name.endswith(suffix):
            # ITK makes 8 bits of each of the pixels that PNG stores in one.
            size = math.prod(_shape(reader)) * _dtype(reader).itemsize // (8 if suffix == ".png" else 1)
            check_size(size, (path,), packing, path)
    return reader


def _check_header(path: str) -> None:
    """Refuse what ITK's parsers must not see: damaged headers, voxels outside the folder, and sizes that cannot be.

    Raises: NotAVolumeError, OutsideError.
    """
    suffix = Path(path).suffix.lower()
    if suffix in _NRRD:
        nrrd_stated = nrrd_header.read_header(path)
        packing = nrrd.PACKINGS.get(nrrd_stated.fields["encoding"].lower(), "text")
        check_size(nrrd_stated.nbytes, nrrd_stated.data_files or (path,), packing, path)
    elif suffix in _METAIMAGE:
        stated = metaimage_header.read_header(path)
        check_size(stated.nbytes, stated.data_files or (path,), "" if stated.plain else "gzip", path)
    elif path.lower().endswith((".nii", ".nii.gz")):
        nifti.check_header(path)
    elif suffix == ".bmp":
        check_bmp(path)
    elif suffix == ".png":
        check_png(path)


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
    return Path(path).suffix.lower() in _METAIMAGE and metaimage_header.read_header(path).plain


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if lines and lines[-1].startswith("Reason: "):  # of a call of the system before, which had nothing to do with it
        return "it holds less than its header states: copy it again"
    return lines[-1] if lines else type(error).__name__
