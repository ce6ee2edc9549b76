"""ITK transform files, text and HDF5: from a type's parameters to a matrix.

ITK's maps take points of the fixed image to the moving image, in x, y, z order, as
x' = M (x - c) + c + t about a centre c. The meaning of each type's parameters follows the
classes of ITK's Transform module.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import InvalidTransformError, MissingExtraError
from daskreg.geometry import Affine
from daskreg.geometry.rotations import plane_rotation, scaled_rotation_from_quaternion
from daskreg.geometry.transform import reversed_axes

Floats = NDArray[np.float64]
Parts = tuple[Floats, Floats, Floats]

HEADER = "#Insight Transform File V1.0"

_MOST_PARAMETERS = 1000


@dataclass(frozen=True)
class TransformRecord:
    """One transform of a file, such as ("AffineTransform_double_3_3", parameters, fixed)."""

    type: str
    parameters: Sequence[float] = ()
    fixed: Sequence[float] = ()

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


def read_text(text: str, name: str) -> Affine:
    """The map in a text file (`.tfm`, `.txt`). A composite becomes one matrix."""
    fields: list[dict[str, str]] = []
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if line.startswith("#") or not colon:
            continue
        if key.strip() == "Transform":
            fields.append({})
        if fields:
            fields[-1][key.strip()] = value.strip()
    # Types first: a deformation field is refused by its type, before its numbers are parsed.
    types = [TransformRecord(f["Transform"]) for f in fields]
    _check_types(types, name)
    try:
        records = [
            TransformRecord(f["Transform"], _numbers(f, "Parameters"), _numbers(f, "FixedParameters")) for f in fields
        ]
    except ValueError as error:
        raise InvalidTransformError(f"{name}: {error}") from error
    return _composed(records, name)


def write_text(transform: Affine) -> str:
    """An AffineTransform about the origin."""
    record = _record(transform)
    parameters, fixed = (" ".join(map(repr, values)) for values in (record.parameters, record.fixed))
    lines = [HEADER, "#Transform 0", f"Transform: {record.type}"]
    return "\n".join([*lines, f"Parameters: {parameters}", f"FixedParameters: {fixed}", ""])


def read_hdf5(path: Path) -> Affine:
    """The map in an HDF5 file (`.h5`), as ITK and ANTs write composites.

    Raises: MissingExtraError without h5py.
    """
    h5py = _h5py()
    try:
        with h5py.File(path, "r") as file:
            return _read_group(file["TransformGroup"], str(path))
    except (OSError, KeyError, TypeError) as error:
        raise InvalidTransformError(f"{path} is not an HDF5 file of an ITK transform: {error}") from error


def write_hdf5(transform: Affine, path: Path) -> None:
    """An AffineTransform about the origin.

    Raises: MissingExtraError without h5py.
    """
    h5py = _h5py()
    record = _record(transform)
    with h5py.File(path, "w") as file:
        text = h5py.string_dtype("ascii")
        file.create_dataset("ITKVersion", data=["5.0.0"], dtype=text)
        file.create_dataset("HDFVersion", data=[h5py.version.hdf5_version], dtype=text)
        group = file.create_group("TransformGroup/0")
        group.create_dataset("TransformType", data=[record.type], dtype=text)
        group.create_dataset("TransformParameters", data=np.asarray(record.parameters, dtype=np.float64))
        group.create_dataset("TransformFixedParameters", data=np.asarray(record.fixed, dtype=np.float64))


def to_matrix(name: str, parameters: Sequence[float], fixed: Sequence[float], ndim: int) -> Floats:
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


def _check_types(records: Sequence[TransformRecord], name: str) -> None:
    if not records:
        raise InvalidTransformError(f"{name} holds no transform")
    composite = records[0].name == "CompositeTransform"
    parts = records[1:] if composite else records
    for record in parts:
        if record.name not in _TYPES and f"{record.name}/{record.ndim}" not in _TYPES:
            raise InvalidTransformError(f"{name}: {record.type} is not an affine map that daskreg reads")
    if len({record.ndim for record in records}) != 1:
        raise InvalidTransformError(f"{name}: its transforms are of different dimensions")
    if len(parts) > 1 and not composite:
        raise InvalidTransformError(
            f"{name} holds {len(parts)} transforms and does not say whether they are a chain or a series; "
            "save them one by one, or as a CompositeTransform"
        )


def _composed(records: Sequence[TransformRecord], name: str) -> Affine:
    """The product; ITK's composite applies the last of its transforms first."""
    ndim = records[0].ndim
    m = np.eye(ndim + 1)
    for record in records:
        if record.name != "CompositeTransform":
            m = m @ to_matrix(record.name, record.parameters, record.fixed, ndim)
    return Affine(reversed_axes(m))


def _record(transform: Affine) -> TransformRecord:
    m, n = reversed_axes(transform.matrix), transform.ndim
    return TransformRecord(
        f"AffineTransform_double_{n}_{n}", [*m[:-1, :-1].ravel().tolist(), *m[:-1, -1].tolist()], [0.0] * n
    )


def _read_group(group: Any, name: str) -> Affine:
    members = [group[k] for k in sorted((k for k in group if k.isdigit()), key=int)]
    types = [_text(member["TransformType"][0]) for member in members]
    _check_types([TransformRecord(t) for t in types], name)
    records = [
        TransformRecord(t, _values(m, "Parameters"), _values(m, "FixedParameters"))
        for t, m in zip(types, members, strict=True)
    ]
    return _composed(records, name)


def _numbers(fields: dict[str, str], key: str) -> list[float]:
    return [float(v) for v in fields.get(key, "").split()]


def _values(member: Any, key: str) -> list[float]:
    # ITK 4 writes the names without the "s" of "Transform".
    numbers = member.get(f"Transform{key}", member.get(f"Tranform{key}"))
    if numbers is None:
        return []
    if numbers.size > _MOST_PARAMETERS:
        raise InvalidTransformError(f"{numbers.size} parameters are too many for an affine map")
    return [float(v) for v in numbers[()]]


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _h5py() -> Any:
    try:
        import h5py
    except ImportError as error:
        raise MissingExtraError("h5py", "formats") from error
    return h5py
