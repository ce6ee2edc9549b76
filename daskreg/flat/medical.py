"""NIfTI, NRRD and MetaImage: lengths in millimetres, the world of ITK (LPS), which NIfTI turns into RAS."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np

from daskreg.errors import MissingExtraError
from daskreg.flat.image import FlatFormat, FlatImage, preallocated, xyz_matrix
from daskreg.geometry import PIXEL

_LONGEST_NIFTI1 = 32767
_INTEGERS = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64")
_NRRD_TYPES = {"float32": "float", "float64": "double"}
_META_TYPES = {
    "uint8": "MET_UCHAR", "int8": "MET_CHAR", "uint16": "MET_USHORT", "int16": "MET_SHORT", "uint32": "MET_UINT",
    "int32": "MET_INT", "uint64": "MET_ULONG_LONG", "int64": "MET_LONG_LONG", "float32": "MET_FLOAT",
    "float64": "MET_DOUBLE",
}  # fmt: skip


def _create_nifti(path: Path, image: FlatImage) -> int:
    try:
        import nibabel
    except ImportError as error:
        raise MissingExtraError("nibabel", "formats") from error
    shape = list(image.shape[::-1])
    if "t" in image.dims and image.grid.ndim == 2:
        shape.insert(2, 1)
    kind = nibabel.Nifti2Header if max(shape) > _LONGEST_NIFTI1 else nibabel.Nifti1Header
    header: Any = kind(endianness="<")
    header.set_data_dtype(image.dtype)
    header.set_data_shape(shape)
    ras = np.diag([-1.0, -1, 1, 1]) @ xyz_matrix(image.grid, image.ratio("millimeter"))
    header.set_qform(ras, code="scanner")
    header.set_sform(ras, code="scanner")
    times = image.lead[image.dims.index("t")] if "t" in image.dims else None
    seconds = times is not None and times.unit == "second"
    if times is not None:
        header["pixdim"][4] = times.scale
        header["toffset"] = times.start
    header.set_xyzt_units("unknown" if image.grid.unit == PIXEL else "mm", "sec" if seconds else "unknown")
    start = 352 if kind is nibabel.Nifti1Header else 544
    header.set_data_offset(start)
    text = io.BytesIO()
    header.write_to(text)
    return preallocated(path, text.getvalue().ljust(start, b"\0"), _nbytes(image))


def _create_nrrd(path: Path, image: FlatImage) -> int:
    ndim = image.grid.ndim
    matrix = xyz_matrix(image.grid, image.ratio("millimeter"))

    def vector(values: Any) -> str:
        return "(" + ",".join(repr(float(v)) for v in values) + ")"

    lines = [
        "NRRD0004",
        f"type: {_NRRD_TYPES.get(image.dtype.name, image.dtype.name)}",
        f"dimension: {ndim}",
        "space: left-posterior-superior" if ndim == 3 else "space dimension: 2",
        f"sizes: {' '.join(map(str, image.shape[::-1]))}",
        f"space directions: {' '.join(vector(matrix[:ndim, k]) for k in range(ndim))}",
        f"kinds: {' '.join(['domain'] * ndim)}",
        "endian: little",
        "encoding: raw",
        f"space origin: {vector(matrix[:ndim, 3])}",
    ]
    if image.grid.unit != PIXEL:
        lines.insert(5, "space units:" + ' "mm"' * ndim)
    return preallocated(path, ("\n".join(lines) + "\n\n").encode(), _nbytes(image))


def _create_metaimage(path: Path, image: FlatImage) -> int:
    ndim, ratio = image.grid.ndim, image.ratio("millimeter")
    matrix = xyz_matrix(image.grid, ratio)
    spacing = np.asarray(image.grid.spacing[::-1]) * ratio
    directions = (matrix[:ndim, :ndim] / spacing).T  # the direction of one axis after another

    def row(values: Any) -> str:
        return " ".join(repr(float(v)) for v in np.ravel(values))

    lines = [
        "ObjectType = Image",
        f"NDims = {ndim}",
        "BinaryData = True",
        "BinaryDataByteOrderMSB = False",
        "CompressedData = False",
        f"TransformMatrix = {row(directions)}",
        f"Offset = {row(matrix[:ndim, 3])}",
        f"CenterOfRotation = {row(np.zeros(ndim))}",
        f"ElementSpacing = {row(spacing)}",
        f"DimSize = {' '.join(map(str, image.shape[::-1]))}",
        f"ElementType = {_META_TYPES[image.dtype.name]}",
        "ElementDataFile = LOCAL",
    ]
    return preallocated(path, ("\n".join(lines) + "\n").encode(), _nbytes(image))


def _nbytes(image: FlatImage) -> int:
    return math.prod(image.shape) * image.dtype.itemsize


def _in_millimetres(image: FlatImage) -> float:
    return image.ratio("millimeter")


_FLOATS = ("float32", "float64")
MEDICAL = (
    FlatFormat("NIfTI", (".nii",), (*_INTEGERS, *_FLOATS), _create_nifti, ("t",), True, check_units=_in_millimetres),
    FlatFormat("NRRD", (".nrrd",), (*_INTEGERS, *_FLOATS), _create_nrrd, turned=True, check_units=_in_millimetres),
    FlatFormat("MetaImage", (".mha",), tuple(_META_TYPES), _create_metaimage, turned=True, check_units=_in_millimetres),
)
