"""The bending energy of a field of cubic B-splines, as a quadratic form of the coefficients.

The integral of the squares of all second derivatives, in world units, is taken from differences of the coefficients
between neighbouring control points (P-splines, Eilers & Marx 1996). These tend to the derivatives for smooth fields,
and unlike the integral they hold the outermost coefficients, which hardly reach into the image. The form is a sum of
products of matrices along single axes, so that it is applied axis by axis.

The bending energy alone would leave affine displacements free, though an affine map was estimated before. So slopes and
displacements count as well, as in |k|^4 -> (|k|^2 + 1 / l^2)^2 for a wave k, with l the wave of half a period along the
longest side: nothing is expected to move more than the smoothest bend of the image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from daskreg.registration.deformable.control_grid import ControlGrid

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class BendingEnergy:
    """c^T K c of the coefficients c (D, *nodes) of a grid."""

    control: ControlGrid

    @cached_property
    def _terms(self) -> list[tuple[float, dict[int, Floats]]]:
        """Factor, and a matrix for each of some axes: curvatures along one axis, slopes along two (both orders)."""
        ndim, volume = self.control.ndim, math.prod(self.control.spacing)
        pairs = list(zip(self.control.shape, self.control.spacing, strict=True))
        once, twice = ([_squared_differences(n, h, order) for n, h in pairs] for order in (1, 2))
        least = (math.pi / max(n * h for n, h in zip(self.control.cells, self.control.spacing, strict=True))) ** 2
        bends: list[tuple[float, dict[int, Floats]]] = [(volume, {axis: twice[axis]}) for axis in range(ndim)]
        bends += [(2 * volume, {a: once[a], b: once[b]}) for a, b in combinations(range(ndim), 2)]
        return [*bends, *((2 * least * volume, {axis: once[axis]}) for axis in range(ndim)), (least**2 * volume, {})]

    def __call__(self, coefficients: Floats) -> Floats:
        """K c, for (..., *nodes)."""
        total = np.zeros_like(coefficients)
        lead = coefficients.ndim - self.control.ndim
        for factor, matrices in self._terms:
            part = coefficients
            for axis, matrix in matrices.items():
                part = _along(matrix, part, axis + lead)
            total += factor * part
        return total

    def noise(self, rng: np.random.Generator, lead: tuple[int, ...]) -> Floats:
        """(*lead, *nodes) Gaussian noise of the covariance K."""
        total = np.zeros((*lead, *self.control.shape))
        for factor, matrices in self._terms:
            part = np.sqrt(factor) * rng.normal(size=total.shape)
            for axis, matrix in matrices.items():
                values, vectors = np.linalg.eigh(matrix)
                part = _along((vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T, part, axis + len(lead))
            total += part
        return total

    @cached_property
    def diagonal(self) -> Floats:
        """(*nodes) the diagonal of K, the same for each component."""
        total = np.zeros(self.control.shape)
        for factor, matrices in self._terms:
            part = np.array(factor)
            for axis, n in enumerate(self.control.shape):
                part = np.multiply.outer(part, np.diag(matrices[axis]) if axis in matrices else np.ones(n))
            total += part
        return total


def _squared_differences(n: int, spacing: float, order: int) -> Floats:
    """(n, n) D^T D of the differences D of an order, divided by the spacing for each."""
    differences = np.diff(np.eye(n), order, axis=0) / spacing**order
    return np.asarray(differences.T @ differences)


def _along(matrix: Floats, values: Floats, axis: int) -> Floats:
    """The matrix applied along an axis."""
    shape = values.shape
    if axis == len(shape) - 1:
        return np.asarray(values @ matrix.T)
    flat = values.reshape(math.prod(shape[:axis]), shape[axis], -1)
    return np.asarray((matrix @ flat).reshape(shape))
