"""Displacement fields in transform files of ITK, and in images of vectors.

ITK's worlds and vectors are in x, y, z order; the coefficients of a BSplineTransform are one image for each component.
The fixed parameters of both types are the size, origin, spacing and direction (row by row) of the nodes.
"""

from __future__ import annotations

import gzip
import math
import tempfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from daskreg.errors import InvalidTransformError, MissingExtraError, NotAVolumeError
from daskreg.fields.composite import Composite
from daskreg.fields.field import ANY_UNIT, DisplacementField
from daskreg.fields.transform import FieldTransform
from daskreg.formats.transforms.itk_types import TransformRecord, to_records
from daskreg.geometry import Grid, Transform
from daskreg.runtime.atomic import replacing

_MOST_NUMBERS = 2**27
_PART = 2**20
_WIDEST, _LONGEST_HEADER = 8, 2**20  # bytes of a number, and of what is in front of them


def linear_field(record: TransformRecord) -> DisplacementField:
    """The field of a DisplacementFieldTransform."""
    grid = _grid(record)
    vectors = _sized(record, grid).reshape(*grid.shape, grid.ndim)
    return DisplacementField(np.moveaxis(vectors, -1, 0)[::-1], grid, unit=ANY_UNIT)


def spline_field(record: TransformRecord) -> DisplacementField:
    """The field of a BSplineTransform of order 3."""
    if record.type.endswith(("_1", "_2")) and len(record.type.split("_")) > 4:
        raise InvalidTransformError(f"{record.type}: only cubic B-splines are read")
    grid = _grid(record)
    vectors = _sized(record, grid).reshape(grid.ndim, *grid.shape)
    return DisplacementField(vectors[::-1], grid, order=3, unit=ANY_UNIT)


def records_of(transform: Transform) -> list[TransformRecord]:
    """The transforms of a file that holds a field or a chain.

    Raises: InvalidTransformError for the inverse of a field, and for maps of single slices.
    """
    n = transform.ndim
    if isinstance(transform, FieldTransform) and transform.slices is not None:
        raise InvalidTransformError(f"ITK files hold no maps of single slices: save {transform!r} as .zarr")
    if isinstance(transform, Composite):
        parts = [record for part in transform.parts for record in records_of(part)]
        return [TransformRecord(f"CompositeTransform_double_{n}_{n}"), *parts]
    if not isinstance(transform, FieldTransform):
        return to_records(transform)
    if not isinstance(transform, DisplacementField) or transform.inverted:
        raise InvalidTransformError(
            f"ITK files hold no {transform!r}: save it as .zarr, or invert the whole chain where it is applied"
        )
    grid, vectors = transform.grid, _vectors(transform)[::-1]
    direction = grid.direction_matrix[::-1, ::-1].ravel()
    fixed = [*map(float, grid.shape[::-1]), *grid.origin[::-1], *grid.spacing[::-1], *direction.tolist()]
    if transform.order == 3:
        return [TransformRecord(f"BSplineTransform_double_{n}_{n}", vectors.ravel(), fixed)]
    return [TransformRecord(f"DisplacementFieldTransform_double_{n}_{n}", np.moveaxis(vectors, 0, -1).ravel(), fixed)]


def to_sitk(transform: Transform) -> Any:
    """A field or chain as a SimpleITK.Transform. The vectors are read.

    Raises: see `records_of`.
    """
    records = records_of(transform)
    if records[0].name != "CompositeTransform":
        return _sitk_transform(records[0])
    chain = _sitk().CompositeTransform(transform.ndim)
    for record in records[1:]:
        chain.AddTransform(_sitk_transform(record))
    return chain


def _sitk_transform(record: TransformRecord) -> Any:
    sitk, n = _sitk(), record.ndim
    if record.name == "DisplacementFieldTransform":
        grid = _grid(record)
        vectors = np.reshape(record.parameters, (*grid.shape, n))
        return sitk.DisplacementFieldTransform(_image(vectors, grid))
    made = sitk.BSplineTransform(n, 3) if record.name == "BSplineTransform" else sitk.AffineTransform(n)
    made.SetFixedParameters([float(v) for v in record.fixed])
    made.SetParameters([float(v) for v in record.parameters])
    return made


def _image(vectors: Any, grid: Grid) -> Any:
    """An image of vectors (*nodes, D) in x, y, z order."""
    image = _sitk().GetImageFromArray(np.ascontiguousarray(vectors), isVector=True)
    image.SetSpacing(grid.spacing[::-1])
    image.SetOrigin(grid.origin[::-1])
    image.SetDirection(grid.direction_matrix[::-1, ::-1].ravel().tolist())
    return image


def read_image(path: Path) -> DisplacementField:
    """The field in an image of vectors (.nii, .nii.gz, .mha, .mhd, .nrrd), as ITK, ANTs and greedy write it.

    Raises: InvalidTransformError where the image has no vector of as many components as dimensions; NotAVolumeError
        where the file is damaged or too short; MissingExtraError without SimpleITK.
    """
    image = _read_whole(path)
    ndim, components = image.GetDimension(), image.GetNumberOfComponentsPerPixel()
    if components != ndim:
        raise InvalidTransformError(
            f"{path} has {components} components in {ndim}D: a displacement field has as many as dimensions"
        )
    direction = np.reshape(image.GetDirection(), (ndim, ndim))[::-1, ::-1]
    grid = Grid(image.GetSize()[::-1], image.GetSpacing()[::-1], image.GetOrigin()[::-1], direction)
    vectors = _sitk().GetArrayFromImage(image)
    return DisplacementField(np.moveaxis(vectors, -1, 0)[::-1], grid, unit=ANY_UNIT)


def _read_whole(path: Path) -> Any:
    """The SimpleITK.Image in a file. A gzip file is unpacked first: ITK reads zeros where one is cut short."""
    from daskreg.sources.readers.itk import image_information, whole_image  # zarr, as all readers

    if not path.name.lower().endswith(".gz"):
        return whole_image(str(path))
    header = image_information(str(path))
    most = math.prod(header.GetSize()) * header.GetNumberOfComponents() * _WIDEST + _LONGEST_HEADER
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder, path.name[: -len(".gz")])
        try:
            with gzip.open(path) as packed, plain.open("wb") as file:
                while part := packed.read(_PART):
                    if file.tell() > most:
                        raise InvalidTransformError(f"{path} holds more than its header states: it is damaged")
                    file.write(part)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise InvalidTransformError(f"{path} is cut short or damaged ({error}): copy it again") from error
        try:
            return whole_image(str(plain))
        except NotAVolumeError as error:
            raise NotAVolumeError(str(error).replace(str(plain), str(path))) from error


def write_image(field: Transform, path: Path) -> None:
    """A linear field as an image of vectors, float64.

    Raises: InvalidTransformError for B-splines and inverses.
    """
    if not isinstance(field, DisplacementField) or field.order != 1 or field.inverted:
        raise InvalidTransformError(f"{path.name} holds one linear field, not {field!r}: save it as .h5, .tfm or .zarr")
    sitk = _sitk()
    image = _image(np.moveaxis(_vectors(field)[::-1], 0, -1), field.grid)
    if path.name.lower().endswith((".nii", ".nii.gz")):
        image.SetMetaData("intent_code", "1007")
    suffix = ".nii.gz" if path.name.lower().endswith(".nii.gz") else path.suffix
    with replacing(path) as partial:
        named = Path(f"{partial}{suffix}")
        try:
            sitk.WriteImage(image, str(named), useCompression=path.suffix != ".nii")
            named.replace(partial)
        finally:
            named.unlink(missing_ok=True)


def is_vector_image(path: Path) -> bool:
    """Whether a file is an image whose header says that it has vectors.

    Raises: NotAVolumeError where it is an image whose header is damaged.
    """
    name = path.name.lower()
    if not name.endswith((".nii", ".nii.gz", ".mha", ".mhd", ".nrrd")) or not path.is_file():
        return False
    from daskreg.sources.readers.itk import image_information

    return bool(image_information(str(path)).GetNumberOfComponents() > 1)


def _vectors(field: DisplacementField) -> Any:
    return np.asarray(field.vectors.read(), np.float64)


def _grid(record: TransformRecord) -> Grid:
    n, fixed = record.ndim, np.asarray(record.fixed, np.float64)
    if len(fixed) != n * (3 + n):
        raise InvalidTransformError(f"{record.type} does not have {len(fixed)} fixed parameters")
    size, origin, spacing, direction = fixed[:n], fixed[n : 2 * n], fixed[2 * n : 3 * n], fixed[3 * n :]
    if not np.all(np.isfinite(fixed)) or np.any(size < 1) or np.prod(size) * n > _MOST_NUMBERS:
        raise InvalidTransformError(f"{record.type}: its grid of {size.tolist()} nodes makes no field")
    shape: Sequence[int] = size[::-1].astype(int).tolist()
    return Grid(shape, spacing[::-1], origin[::-1], direction.reshape(n, n)[::-1, ::-1])


def _sized(record: TransformRecord, grid: Grid) -> Any:
    numbers = np.asarray(record.parameters, np.float64)
    if numbers.size != grid.ndim * int(np.prod(grid.shape)):
        raise InvalidTransformError(
            f"{record.type}: {numbers.size} parameters do not fit {grid.ndim} for each of {grid.shape} nodes"
        )
    return numbers


def _sitk() -> Any:
    try:
        import SimpleITK
    except ImportError as error:
        raise MissingExtraError("SimpleITK", "formats") from error
    return SimpleITK
