"""The bending energy of a field of cubic B-splines, as a quadratic form of the coefficients.

The integral of the squares of all second derivatives, in world units, is taken from differences of the coefficients
between neighbouring control points (P-splines, Eilers & Marx 1996). These tend to the derivatives for smooth fields,
and unlike the integral they hold the outermost coefficients, which hardly reach into the image. The form is a sum of
products of matrices along single axes, so that it is applied axis by axis.

The bending energy alone would leave affine displacements free, though an affine map was estimated before. So slopes and
displacements count as well, as in |k|^4 -> (|k|^2 + 1 / l^2)^2 for a wave k, with l the wave of half a period along the
longest side: nothing is expected to move more than the smoothest bend of the image.

The weight of the energy follows from what a step found: the next weight is the one for which the energy is what the
number of determined coefficients lets expect (the evidence procedure, MacKay 1992). Where fields have no energy yet and
the residual is all taken for noise, that has no limit: a field of zero explains itself. Hence the bounds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.registration.deformable.splines.control_grid import ControlGrid

Floats = NDArray[np.float64]

# The most by which the weight changes at once.
_CHANGE = 10.0


@dataclass(frozen=True)
class BendingEnergy:
    """c^T K c of the coefficients c (D, *nodes) of a grid."""

    control: ControlGrid

    @cached_property
    def _terms(self) -> list[tuple[float, dict[int, Floats]]]:
        """Factor, and a matrix for each of some axes: curvatures along one axis, slopes along two (both orders)."""
        ndim, volume, least = self.control.ndim, math.prod(self.control.spacing), self._least
        once, twice = self._once, self._twice
        bends: list[tuple[float, dict[int, Floats]]] = [(volume, {axis: twice[axis]}) for axis in range(ndim)]
        bends += [(2 * volume, {a: once[a], b: once[b]}) for a, b in combinations(range(ndim), 2)]
        return [*bends, *((2 * least * volume, {axis: once[axis]}) for axis in range(ndim)), (least**2 * volume, {})]

    @cached_property
    def _least(self) -> float:
        return (math.pi / max(n * h for n, h in zip(self.control.cells, self.control.spacing, strict=True))) ** 2

    @cached_property
    def _once(self) -> list[Floats]:
        return [_squared_differences(n, h, 1) for n, h in zip(self.control.shape, self.control.spacing, strict=True)]

    @cached_property
    def _twice(self) -> list[Floats]:
        return [_squared_differences(n, h, 2) for n, h in zip(self.control.shape, self.control.spacing, strict=True)]

    @cached_property
    def _single(self) -> list[Floats]:
        """All terms of a single axis together."""
        return [b + 2 * self._least * a for a, b in zip(self._once, self._twice, strict=True)]

    def __call__(self, coefficients: Floats) -> Floats:
        """K c, for (..., *nodes): the sum of `_terms`, with the products that several of them share made once."""
        lead = coefficients.ndim - self.control.ndim
        total, later = self._least**2 * coefficients, None
        for axis in reversed(range(self.control.ndim)):
            total += along(self._single[axis], coefficients, axis + lead)
            if later is not None:
                total += 2 * along(self._once[axis], later, axis + lead)
            if axis:
                slope = along(self._once[axis], coefficients, axis + lead)
                later = slope if later is None else later + slope
        return math.prod(self.control.spacing) * total

    def noise(self, rng: np.random.Generator, lead: tuple[int, ...]) -> Floats:
        """(*lead, *nodes) Gaussian noise of the covariance K."""
        total = np.zeros((*lead, *self.control.shape))
        for factor, matrices in self._terms:
            part = np.sqrt(factor) * rng.normal(size=total.shape)
            for axis, matrix in matrices.items():
                values, vectors = np.linalg.eigh(matrix)
                part = along((vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T, part, axis + len(lead))
            total += part
        return total

    @cached_property
    def diagonal(self) -> Floats:
        """(*nodes) the diagonal of K, the same for each component."""
        return self.diagonal_among([np.eye(n) for n in self.control.shape])

    def diagonal_among(self, basis: Sequence[Floats]) -> Floats:
        """(*m) the diagonal of K among products of the columns of a basis (n, m) of each axis."""
        total = np.zeros([b.shape[1] for b in basis])
        for factor, matrices in self._terms:
            part = np.array(factor)
            for axis, b in enumerate(basis):
                part = np.multiply.outer(part, (b * (matrices[axis] @ b if axis in matrices else b)).sum(0))
            total += part
        return total


def _squared_differences(n: int, spacing: float, order: int) -> Floats:
    """(n, n) D^T D of the differences D of an order, divided by the spacing for each."""
    differences = np.diff(np.eye(n), order, axis=0) / spacing**order
    return np.asarray(differences.T @ differences)


def along(matrix: NDArray[Any], values: NDArray[Any], axis: int) -> NDArray[Any]:
    """The matrix applied along an axis."""
    shape = values.shape
    if axis == len(shape) - 1:
        return np.asarray(values @ matrix.T)
    flat = values.reshape(math.prod(shape[:axis]), shape[axis], -1)
    return np.asarray((matrix @ flat).reshape(*shape[:axis], len(matrix), *shape[axis + 1 :]))


def next_weight(weight: float, *, determined: float, energy: float, affine: int, most: float = np.inf) -> float:
    """The weight after one with which fields of this energy were found.

    Args:
        weight: with which the fields were found; greater than 0.
        determined: how many coefficients the images determine.
        energy: c^T K c of all coefficients c.
        affine: coefficients of affine motions, which have no bending energy. Where images determine no more than
            these, they do not say how smooth the others are, and the weight does not grow, lest finer levels could no
            longer show them.
        most: the largest weight.
    """
    if not energy > 0:
        return min(weight, most)
    wanted = max(determined, 1.0) / energy
    if determined < affine:
        wanted = min(wanted, weight)
    return min(float(np.clip(wanted, weight / _CHANGE, weight * _CHANGE)), most)


def weight_of_deviation(deviation: float, stiffness: float) -> float:
    """The weight with which a coefficient has this standard deviation, the others being given.

    Args:
        deviation: world units. stiffness: the mean of the diagonal of K.
    """
    return 1 / (deviation**2 * stiffness)
