"""Files of ANTs by the prefix of their names: an affine map, and the field that is applied before it.

`antsRegistration -o out_` writes `out_0GenericAffine.mat`, `out_1Warp.nii.gz` and `out_1InverseWarp.nii.gz`. Points of
the fixed image go through the warp first: moving_from_fixed = affine @ warp; and the other way, fixed_from_moving =
inverse warp @ affine.inverse().
"""

from __future__ import annotations

from pathlib import Path

from daskreg.errors import InvalidTransformError
from daskreg.fields.composite import Composite
from daskreg.fields.field import DisplacementField
from daskreg.fields.itk import read_image, write_image
from daskreg.formats.transforms.files import TransformFile, beside
from daskreg.geometry import Affine, Transform

AFFINE, WARP = "0GenericAffine.mat", "1Warp.nii.gz"
_IMAGES = (".nii", ".nii.gz", ".mha", ".mhd", ".nrrd")


def is_prefix(path: Path) -> bool:
    """Whether this is the beginning of the names of ANTs' files."""
    return not path.exists() and beside(path, AFFINE).is_file() and beside(path, WARP).is_file()


def read_prefix(file: TransformFile) -> Transform:
    """moving_from_fixed of the files whose names begin so.

    Raises: InvalidTransformError where they are damaged.
    """
    return file.linked(beside(file.path, AFFINE)) @ read_image(beside(file.path, WARP))


def write_warp(field: Transform, path: Path) -> None:
    """A linear field as an image of vectors; `path` is its name, or the prefix of ANTs' files.

    Raises: InvalidTransformError for B-splines and inverses.
    """
    write_image(field, path if path.name.lower().endswith(_IMAGES) else beside(path, WARP))


def write_prefix(transform: Transform, path: Path) -> None:
    """An affine map after a linear field as ANTs' two files; `path` is their prefix, or the name of the warp.

    The files have ANTs' own names, by which they are found, also where `path` has other cases of letters.

    Raises: InvalidTransformError for other chains.
    """
    prefix = path.with_name(path.name[: -len(WARP)]) if path.name.lower().endswith(WARP.lower()) else path
    parts = transform.parts if isinstance(transform, Composite) else ()
    if len(parts) != 2 or not isinstance(parts[0], Affine) or not isinstance(parts[1], DisplacementField):
        raise InvalidTransformError(
            f"files of ANTs hold an affine map after a linear field, not {transform!r}: save it as .h5 or .zarr"
        )
    write_image(parts[1], beside(prefix, WARP))  # first, since it says what it cannot hold
    parts[0].save(beside(prefix, AFFINE))
