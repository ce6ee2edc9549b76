"""What every transform can do; the rest of the package is written against this."""

from __future__ import annotations

from abc import ABC, abstractmethod
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import InvalidTransformError

Floats = NDArray[np.float64]

_MAX_CONDITION = 1e8


class Transform(ABC):
    """A map of points that knows its inverse and which source box an output box needs.

    Matrices are homogeneous, in array order (z, y, x), and act on world coordinates.
    """

    unit: str | None
    axes: tuple[str, ...] | None

    # A bare array does not say whether it is a matrix or points: `t @ array` is an error.
    __array_ufunc__ = None

    @abstractmethod
    def inverse(self) -> Transform:
        """The map the other way."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and strings, for JSON."""

    def save(self, path: str | PathLike[str]) -> None:
        """Write to a file: JSON, or by suffix ITK `.tfm`/`.txt`/`.h5` (affine maps).

        Raises: OptionError for a format that cannot hold this transform.
        """
        # The one import that points upwards: files know transforms, and `t.save()` is
        # what people type.
        from daskreg.formats.transforms import save

        save(self, path)


def checked_matrices(value: Any, ndim: int) -> Floats:
    """(..., D+1, D+1) float64, affine, finite, invertible, read-only.

    `ndim` is the number of array dimensions wanted: 2 for one matrix, 3 for a stack.
    Matrices without the last row, (..., D, D+1), get it.

    Raises: InvalidTransformError with the expected shape, or the condition number.
    """
    try:
        given = np.asarray(value)
        m = np.array(given.astype(np.float64, casting="same_kind"))
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidTransformError(f"a matrix of numbers is needed, not {type(value).__name__} ({error})") from error
    if m.ndim == ndim and m.shape[-1] == m.shape[-2] + 1:
        row = np.zeros((*m.shape[:-2], 1, m.shape[-1]))
        row[..., -1] = 1
        m = np.concatenate([m, row], axis=-2)
    if m.ndim != ndim or m.shape[-1] != m.shape[-2] or m.shape[-1] < 2 or 0 in m.shape:
        wanted = "(D+1, D+1)" if ndim == 2 else "(N, D+1, D+1)"
        raise InvalidTransformError(f"a matrix of shape {wanted} is needed, in array order, not {m.shape}")
    if not np.all(np.isfinite(m)):
        raise InvalidTransformError(
            f"{_which(~np.isfinite(m).all(axis=(-1, -2), keepdims=True).ravel())} holds NaN or infinity"
        )
    last = np.eye(m.shape[-1])[-1]
    if not np.allclose(m[..., -1, :], last, rtol=0, atol=1e-9):
        raise InvalidTransformError(f"the last row must be {last.tolist()}; projective maps are not supported")
    m[..., -1, :] = last
    condition = np.atleast_1d(np.linalg.cond(m[..., :-1, :-1]))
    singular = ~(condition < _MAX_CONDITION)
    if np.any(singular):
        worst = float(np.max(condition))
        raise InvalidTransformError(f"{_which(singular)} is singular (condition number {worst:.3g})")
    m += 0.0  # no negative zeros: what is equal has equal bytes
    m.flags.writeable = False
    return m


def _which(bad: NDArray[np.bool_]) -> str:
    return "the matrix" if len(bad) == 1 else f"matrix {int(np.flatnonzero(bad)[0])} of {len(bad)}"


def reversed_axes(matrices: Floats) -> Floats:
    """(..., D+1, D+1) matrices between array order (z, y, x) and x, y, z, either way."""
    ndim = matrices.shape[-1] - 1
    order = [*range(ndim - 1, -1, -1), ndim]
    return np.ascontiguousarray(matrices[..., order, :][..., order])


def checked_axes(axes: Any, ndim: int) -> tuple[str, ...] | None:
    """Axis names, as many as there are dimensions, or None."""
    if axes is None:
        return None
    names = tuple(str(a) for a in axes)
    if len(names) != ndim:
        raise InvalidTransformError(f"{ndim} axis names are needed, not {names}")
    return names
