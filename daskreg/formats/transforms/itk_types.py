"""The transforms of ITK as matrices.

ITK's maps take points of the fixed image to the moving image, in x, y, z order, as
x' = M (x - c) + c + t about a centre c. The meaning of each type's parameters follows the
classes of ITK's Transform module.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import matmul

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import InvalidTransformError
from daskreg.geometry import Affine, SliceAffines, Transform
from daskreg.geometry.rotations import plane_rotation, scaled_rotation_from_quaternion
from daskreg.geometry.transform import reversed_axes

Floats = NDArray[np.float64]
Parts = tuple[Floats, Floats, Floats]


@dataclass(frozen=True)
class TransformRecord:
    """One transform of a file, such as ("AffineTransform_double_3_3", parameters, fixed)."""

    type: str
    parameters: Sequence[float] | Floats = ()
    fixed: Sequence[float] | Floats = ()

    @property
    def name(self) -> str:
        return self.type.split("_")[0]

    @property
    def ndim(self) -> int:
        try:
            into, out = (int(n) for n in self.type.split("_")[-2:])
        except ValueError as error:
            raise InvalidTransformError(f"{self.type!r} is not the name of an ITK transform") from error
        if into != out or not 2 <= into <= 8:
            raise InvalidTransformError(f"{self.type} does not map a space onto itself")
        return into


def to_matrix(name: str, parameters: Sequence[float] | Floats, fixed: Sequence[float] | Floats, ndim: int) -> Floats:
    """(D+1, D+1) matrix in x, y, z order of an ITK type without its suffix.

    Raises: InvalidTransformError for a type that is not affine, or too few parameters.
    """
    key = name if name in _TYPES else f"{name}/{ndim}"
    if key not in _TYPES:
        raise InvalidTransformError(f"{name} in {ndim}D is not an affine map that daskreg reads")
    p, f = np.asarray(parameters, dtype=np.float64), np.asarray(fixed, dtype=np.float64)
    try:
        linear, shift, centre = _TYPES[key](p, np.concatenate([f, np.zeros(max(0, ndim - len(f)))]), ndim)
        m = np.eye(ndim + 1)
        m[:-1, :-1] = linear.reshape(ndim, ndim)
        m[:-1, -1] = (shift + centre - linear @ centre).reshape(ndim)
    except (IndexError, TypeError, ValueError) as error:
        raise InvalidTransformError(f"{name} in {ndim}D does not have {len(p)} parameters") from error
    return m


def _versor(x: float, y: float, z: float) -> Floats:
    """Rotation of a unit quaternion whose w, not negative, is left out."""
    return scaled_rotation_from_quaternion(x, y, z, float(np.sqrt(max(0.0, 1 - x * x - y * y - z * z))))


def _euler(angles: Floats, *, zyx: bool) -> Floats:
    """Rz . Rx . Ry of angles about x, y, z, or Rz . Ry . Rx where the file says so."""
    x, y, z = angles
    rx, ry, rz = plane_rotation(x, 1, 2, 3), plane_rotation(y, 2, 0, 3), plane_rotation(z, 0, 1, 3)
    return rz @ ry @ rx if zyx else rz @ rx @ ry


def _square(p: Floats, n: int) -> Floats:
    return p[: n * n].reshape(n, n)


def _off_diagonal(skews: Floats) -> Floats:
    m = np.zeros((3, 3))
    m[~np.eye(3, dtype=bool)] = skews
    return m


def _upper(skews: Floats) -> Floats:
    m = np.eye(3)
    m[np.triu_indices(3, 1)] = skews
    return m


# Each is (parameters, fixed parameters, ndim) -> (linear, translation, centre).
_TYPES: dict[str, Callable[[Floats, Floats, int], Parts]] = {
    "IdentityTransform": lambda p, f, n: (np.eye(n), np.zeros(n), np.zeros(n)),
    "TranslationTransform": lambda p, f, n: (np.eye(n), p[:n], np.zeros(n)),
    "CenteredAffineTransform": lambda p, f, n: (_square(p, n), p[n * n + n : n * n + 2 * n], p[n * n : n * n + n]),
    "ScaleTransform": lambda p, f, n: (np.diag(p[:n]), np.zeros(n), f[:n]),
    "ScaleLogarithmicTransform": lambda p, f, n: (np.diag(np.exp(p[:n])), np.zeros(n), f[:n]),
    "Euler2DTransform/2": lambda p, f, n: (plane_rotation(p[0]), p[1:3], f[:2]),
    "CenteredRigid2DTransform/2": lambda p, f, n: (plane_rotation(p[0]), p[3:5], p[1:3]),
    "Similarity2DTransform/2": lambda p, f, n: (p[0] * plane_rotation(p[1]), p[2:4], f[:2]),
    "CenteredSimilarity2DTransform/2": lambda p, f, n: (p[0] * plane_rotation(p[1]), p[4:6], p[2:4]),
    "Euler3DTransform/3": lambda p, f, n: (_euler(p[:3], zyx=bool(f[3:].any())), p[3:6], f[:3]),
    "CenteredEuler3DTransform/3": lambda p, f, n: (_euler(p[:3], zyx=bool(f[3:].any())), p[6:9], p[3:6]),
    "QuaternionRigidTransform/3": lambda p, f, n: (scaled_rotation_from_quaternion(*p[:4]), p[4:7], f[:3]),
    "VersorTransform/3": lambda p, f, n: (_versor(*p[:3]), np.zeros(3), f[:3]),
    "VersorRigid3DTransform/3": lambda p, f, n: (_versor(*p[:3]), p[3:6], f[:3]),
    "Similarity3DTransform/3": lambda p, f, n: (p[6] * _versor(*p[:3]), p[3:6], f[:3]),
    "ScaleVersor3DTransform/3": lambda p, f, n: (_versor(*p[:3]) + np.diag(p[6:9] - 1), p[3:6], f[:3]),
    "ScaleSkewVersor3DTransform/3": lambda p, f, n: (
        _versor(*p[:3]) + np.diag(p[6:9] - 1) + _off_diagonal(p[9:15]),
        p[3:6],
        f[:3],
    ),
    "ComposeScaleSkewVersor3DTransform/3": lambda p, f, n: (
        _versor(*p[:3]) @ np.diag(p[6:9]) @ _upper(p[9:12]),
        p[3:6],
        f[:3],
    ),
}
_TYPES |= dict.fromkeys(
    ("AffineTransform", "MatrixOffsetTransformBase", "FixedCenterOfRotationAffineTransform", "ScalableAffineTransform"),
    lambda p, f, n: (_square(p, n), p[n * n : n * n + n], f[:n]),
)
_TYPES["Rigid2DTransform/2"] = _TYPES["Euler2DTransform/2"]
_MOST_PARAMETERS = 1000
_FIELDS: dict[str, Callable[[TransformRecord], Transform]] = {}


def register_type(name: str, make: Callable[[TransformRecord], Transform]) -> None:
    """Let files hold an ITK type of transform that is no affine map."""
    _FIELDS[name] = make


def check_types(records: Sequence[TransformRecord], name: str) -> None:
    """Raise InvalidTransformError where the transforms of a file are not maps of one space that daskreg reads."""
    if not records:
        raise InvalidTransformError(f"{name} holds no transform")
    for record in records[1:] if records[0].name == "CompositeTransform" else records:
        if not _is_affine(record) and _field_type(record.name) is None:
            raise InvalidTransformError(f"{name}: {record.type} is not a map that daskreg reads")
    if len({record.ndim for record in records}) != 1:
        raise InvalidTransformError(f"{name}: its transforms are of different dimensions")


def from_records(records: Sequence[TransformRecord]) -> Transform:
    """The map of a file: of a composite the product, in which ITK applies the last first, and of a series SliceAffines.

    A series of 3D maps is one of volumes, along "t"; a series of 2D maps is one of slices, along the first axis.

    Raises: InvalidTransformError for a series of fields.
    """
    composite = records[0].name == "CompositeTransform"
    parts = records[1:] if composite else records
    made = [_transform_of(record) for record in parts]
    if composite and not made:
        return Affine.identity(records[0].ndim)
    if composite or len(made) == 1:
        return reduce(matmul, made)
    if not all(isinstance(part, Affine) for part in made):
        raise InvalidTransformError(
            "a file of several transforms with displacement fields must be a CompositeTransform"
        )
    return series(np.stack([part.to_matrices() for part in made]))


def _is_affine(record: TransformRecord) -> bool:
    return record.name in _TYPES or f"{record.name}/{record.ndim}" in _TYPES


def _field_type(name: str) -> Callable[[TransformRecord], Transform] | None:
    """What makes a field of a type; the module that registers it is built on this one, and is imported by name."""
    if name not in _FIELDS and not _FIELDS:
        importlib.import_module("daskreg.fields.files")
    return _FIELDS.get(name)


def _transform_of(record: TransformRecord) -> Transform:
    make = None if _is_affine(record) else _field_type(record.name)
    if make is not None:
        return make(record)
    if len(record.parameters) > _MOST_PARAMETERS:
        raise InvalidTransformError(f"{len(record.parameters)} parameters are too many for an affine map")
    return Affine(reversed_axes(to_matrix(record.name, record.parameters, record.fixed, record.ndim)))


def series(matrices: Floats, unit: str | None = None) -> SliceAffines:
    """Of volumes (3D maps) along "t", of slices (2D maps) along the first axis."""
    return SliceAffines(matrices, axis="t" if matrices.shape[-1] == 4 else 0, unit=unit)


def to_records(transform: Transform) -> list[TransformRecord]:
    """AffineTransforms about the origin: one, or one for each slice."""
    n = transform.ndim
    matrices = reversed_axes(transform.to_matrices().reshape(-1, n + 1, n + 1))
    return [
        TransformRecord(
            f"AffineTransform_double_{n}_{n}", [*m[:-1, :-1].ravel().tolist(), *m[:-1, -1].tolist()], [0.0] * n
        )
        for m in matrices
    ]
