"""coordinateTransformations of OME-NGFF as matrices: forward, in array order.

Versions 0.4 and 0.5 know identity, scale and translation, one after the other in a list; 0.6 adds sequence, affine,
rotation, mapAxis, byDimension and bijection, and numbers in an array beside the metadata (`path`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import InvalidTransformError, ShapeMismatchError
from daskreg.geometry.transform import checked_matrices

Floats = NDArray[np.float64]
Parameters = Callable[[str], Any]
"""The numbers that are stored in the array at a path."""

_WITH_NUMBERS = ("scale", "translation", "affine", "rotation", "mapAxis")
TYPES = ("identity", *_WITH_NUMBERS, "sequence", "byDimension", "bijection")


def end_name(end: Any) -> str:
    """The coordinate system, or the path of the array, that is the input or output of a transformation.

    Up to version 0.6.dev3 that is a text, then a mapping with `name` and `path`.
    """
    if isinstance(end, Mapping):
        end = end.get("name") or end.get("path") or ""
    return "" if end is None else str(end)


def forward_matrix(
    m: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    ndim: int | None = None,
    *,
    parameters: Parameters | None = None,
    axes: tuple[Sequence[str], Sequence[str]] = ((), ()),
) -> Floats | None:
    """(D+1, D+1) matrix of a transformation, or of a list that is applied from first to last.

    Args:
        ndim: dimension of an identity, which has no numbers that tell it.
        parameters: reads numbers that the metadata name by the path of an array.
        axes: names of the axes of input and output, which byDimension may use.

    Returns: None for an identity of unknown dimension.
    Raises: InvalidTransformError for a type that is not affine, or where the numbers are not in
        the metadata; ShapeMismatchError where parts differ in dimension.
    """
    if not isinstance(m, Mapping):
        return _sequence(m, ndim, parameters)
    kind = m.get("type")
    if kind == "sequence":
        return _sequence(m.get("transformations", ()), ndim, parameters)
    if kind == "identity":
        return None if ndim is None else np.eye(ndim + 1)
    if kind == "bijection":
        return forward_matrix(m["forward"], ndim, parameters=parameters, axes=axes)
    if kind == "byDimension":
        return _by_dimension(m, ndim, parameters, axes)
    if kind not in TYPES:
        raise InvalidTransformError(f"a coordinateTransformation of type {kind!r} is none of {', '.join(TYPES)}")
    values = m.get(str(kind))
    if values is None and "path" in m and parameters is not None:
        values = parameters(str(m["path"]))
    if values is None:
        raise InvalidTransformError(f"the {kind} transformation does not hold its numbers (only {', '.join(m)})")
    try:
        return _matrix(str(kind), np.asarray(values, dtype=np.float64))
    except InvalidTransformError:
        raise
    except (IndexError, TypeError, ValueError) as error:
        raise InvalidTransformError(f"the {kind} transformation is damaged: {values!r}") from error


def _sequence(parts: Sequence[Mapping[str, Any]], ndim: int | None, parameters: Parameters | None) -> Floats | None:
    found = (forward_matrix(part, ndim, parameters=parameters) for part in parts)
    matrices = [m for m in found if m is not None]
    if len({len(m) for m in matrices}) > 1:
        raise ShapeMismatchError(f"transformations of {[len(m) - 1 for m in matrices]} dimensions are in one sequence")
    result = None if ndim is None else np.eye(ndim + 1)
    for m in matrices:
        result = m if result is None else m @ result
    return result


def _by_dimension(
    m: Mapping[str, Any],
    ndim: int | None,
    parameters: Parameters | None,
    axes: tuple[Sequence[str], Sequence[str]],
) -> Floats:
    """Each part maps some axes of the input to some of the output, by number or by name; every output has one part."""
    entries = m["transformations"]
    numbers = [[_numbers(entry[f"{side}_axes"], names) for side, names in zip(("input", "output"), axes, strict=True)]
               for entry in entries]  # fmt: skip
    count = sum(len(outputs) for _, outputs in numbers)
    wanted = list(range(ndim or count))
    if sorted(k for _, outputs in numbers for k in outputs) != wanted:
        raise InvalidTransformError(f"byDimension does not give each of {len(wanted)} output axes once")
    matrix = np.zeros((len(wanted) + 1, len(wanted) + 1))
    matrix[-1, -1] = 1
    for entry, (inputs, outputs) in zip(entries, numbers, strict=True):
        part = forward_matrix(entry.get("transformation", entry), len(inputs), parameters=parameters)
        if part is None or len(part) != len(inputs) + 1 or len(inputs) != len(outputs) or max(inputs) >= len(wanted):
            raise InvalidTransformError(f"a part of byDimension does not map axes {inputs} to {outputs}")
        matrix[np.ix_(outputs, inputs)] = part[:-1, :-1]
        matrix[outputs, -1] = part[:-1, -1]
    return checked_matrices(matrix, 2)


def _numbers(given: Sequence[Any], names: Sequence[str]) -> list[int]:
    """Numbers of axes that are given by number or by name."""
    unknown = [a for a in given if not isinstance(a, int) and a not in names]
    if unknown:
        raise InvalidTransformError(f"byDimension names the axis {unknown[0]!r}, which is not among {', '.join(names)}")
    return [a if isinstance(a, int) else list(names).index(a) for a in given]


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
