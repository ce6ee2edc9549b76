"""coordinateTransformations of OME-NGFF as matrices: forward, in array order.

Versions 0.4 and 0.5 know identity, scale and translation, one after the other in a list;
0.6 adds sequence, affine, rotation and mapAxis.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import InvalidTransformError, ShapeMismatchError
from daskreg.geometry.transform import checked_matrices

Floats = NDArray[np.float64]

TYPES = ("identity", "scale", "translation", "affine", "rotation", "mapAxis", "sequence")


def forward_matrix(m: Mapping[str, Any] | Sequence[Mapping[str, Any]], ndim: int | None = None) -> Floats | None:
    """(D+1, D+1) matrix of a transformation, or of a list that is applied from first to last.

    Args:
        ndim: dimension of an identity, which has no numbers that tell it.

    Returns: None for an identity of unknown dimension.
    Raises: InvalidTransformError for a type that is not affine, or where the numbers are not in
        the metadata; ShapeMismatchError where parts differ in dimension.
    """
    if not isinstance(m, Mapping):
        return _sequence(m, ndim)
    kind = m.get("type")
    if kind == "sequence":
        return _sequence(m.get("transformations", ()), ndim)
    if kind == "identity":
        return None if ndim is None else np.eye(ndim + 1)
    if kind not in TYPES:
        raise InvalidTransformError(f"a coordinateTransformation of type {kind!r} is none of {', '.join(TYPES)}")
    if kind not in m:
        raise InvalidTransformError(f"the {kind} transformation does not hold its numbers (only {', '.join(m)})")
    try:
        return _matrix(str(kind), np.asarray(m[kind], dtype=np.float64))
    except InvalidTransformError:
        raise
    except (IndexError, TypeError, ValueError) as error:
        raise InvalidTransformError(f"the {kind} transformation is damaged: {m[kind]!r}") from error


def _sequence(parts: Sequence[Mapping[str, Any]], ndim: int | None) -> Floats | None:
    matrices = [m for m in (forward_matrix(part, ndim) for part in parts) if m is not None]
    if len({len(m) for m in matrices}) > 1:
        raise ShapeMismatchError(f"transformations of {[len(m) - 1 for m in matrices]} dimensions are in one sequence")
    result = None if ndim is None else np.eye(ndim + 1)
    for m in matrices:
        result = m if result is None else m @ result
    return result


def _matrix(kind: str, values: Floats) -> Floats:
    if kind == "affine":
        return checked_matrices(values, 2)
    n = len(values)
    matrix = np.eye(n + 1)
    if kind == "translation":
        matrix[:-1, -1] = values
    elif kind == "scale":
        matrix[:-1, :-1] = np.diag(values)
    elif kind == "mapAxis":  # output axis i is input axis values[i]
        matrix[:-1, :-1] = np.eye(n)[values.astype(int)]
    else:
        matrix[:-1, :-1] = values
    return checked_matrices(matrix, 2)
