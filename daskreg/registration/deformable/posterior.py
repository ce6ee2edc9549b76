"""How certain a fitted field is: the covariance of its coefficients, given the images and the prior; and what small
windows of the images say is left to move."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from daskreg.errors import ShapeMismatchError
from daskreg.fields import Composite
from daskreg.geometry import Grid
from daskreg.registration.deformable.splines.layers import Layers
from daskreg.registration.deformable.system import System
from daskreg.registration.verdict.local_shifts import LocalShifts
from daskreg.sampling.spline_weights import cubic_weights

Floats = NDArray[np.float64]

# Coefficients of which the inverse of the system is known at once, and the steps of a solution that take as long as one
# of its columns.
_AT_ONCE, _STEPS = 3000, 20
# Of the fixed voxels, the distance over which the earlier layers are differentiated.
_SMALL = 1e-3


def checked_points(points: ArrayLike, ndim: int) -> Floats:
    """(N, D) float64 points.

    Raises: ShapeMismatchError for another shape.
    """
    p = np.asarray(points, dtype=np.float64)
    if p.ndim != 2 or p.shape[1] != ndim:
        raise ShapeMismatchError(f"points of shape (N, {ndim}) are needed, not {p.shape}")
    return p


@dataclass(frozen=True)
class FieldUncertainty:
    """The posterior of the last layer, of the covariance (data H + weight K)^-1, which is what noise and prior leave
    open; and the windows.

    The earlier layers are taken as they are: any small displacement is one of the last layer.

    system: None where the field was not found by steps that know of noise. shifts: by which small windows of the images
    on a grid fit better.
    """

    layers: Layers
    system: System | None
    shifts: LocalShifts
    grid: Grid

    def sigma_at(self, points: ArrayLike) -> Floats:
        """(N, D) one standard deviation along each axis of the world, at (N, D) world points of the fixed image; NaN
        outside of it, and everywhere without a system."""
        p = checked_points(points, self.layers.control.ndim)
        if self.system is None:
            return np.full(p.shape, np.nan)
        variances = np.diagonal(self._covariances(p, self.system), axis1=1, axis2=2)
        return np.sqrt(np.maximum(variances, 0) + self.shifts.deviations(self.grid, p) ** 2)

    def _covariances(self, points: Floats, system: System) -> Floats:
        """(N, D, D) of `moving_from_fixed`.

        For few points D linear systems are solved for each, for many all of them at once where there are not many
        coefficients.
        """
        control = self.layers.control
        place = control.grid.index(points)
        image = control.image.index(points)
        inside = np.all((image >= -0.5) & (image <= np.asarray(control.image.shape) - 0.5), axis=1)
        found = np.full((len(points), control.ndim, control.ndim), np.nan)
        size = self.layers.current.size
        at_once = size <= _AT_ONCE and size < _STEPS * control.ndim * np.count_nonzero(inside)
        inverse = system.inverse() if at_once else None
        for k in np.flatnonzero(inside):
            found[k] = self._covariance(place[k], system, inverse)
        turned = self._derivatives(points[inside]) @ control.image.direction_matrix
        found[inside] = turned @ found[inside] @ turned.swapaxes(1, 2)
        return found

    def _covariance(self, place: Floats, system: System, inverse: Floats | None) -> Floats:
        """(D, D) of the displacement at a place among the control points, along the axes of the fixed image.

        Args:
            inverse: of the system, where it is known.
        """
        control = self.layers.control
        cell = np.clip(np.floor(place).astype(int), 1, np.asarray(control.shape) - 3)
        weights, _ = cubic_weights(place - cell)
        basis = weights[0]
        for w in weights[1:]:
            basis = np.multiply.outer(basis, w)
        around = tuple(slice(c - 1, c + 3) for c in cell)
        if inverse is not None:
            numbers = np.arange(len(inverse)).reshape(control.ndim, *control.shape)[(slice(None), *around)]
            some = numbers.reshape(control.ndim, -1)
            part = inverse[some[:, :, None, None], some]
            return np.asarray(np.einsum("i,aibj,j->ab", basis.ravel(), part, basis.ravel()))
        covariance = np.empty((control.ndim, control.ndim))
        for a in range(control.ndim):
            right = np.zeros((control.ndim, *control.shape))
            right[a][around] = basis
            solution = system.solve(right, tolerance=0.02)
            covariance[a] = (solution[(slice(None), *around)] * basis).reshape(control.ndim, -1).sum(1)
        return (covariance + covariance.T) / 2

    def _derivatives(self, points: Floats) -> Floats:
        """(N, D, D) of base and finished layers, at where the last layer brings the points."""
        control, layers = self.layers.control, self.layers
        earlier = Composite.of(layers.base, *(c.field(values) for c, values in layers.finished))
        q = control.field(layers.current)(points)
        step = _SMALL * min(control.image.spacing)
        columns = [(earlier(q + step * axis) - earlier(q - step * axis)) / (2 * step) for axis in np.eye(control.ndim)]
        return np.stack(columns, -1)
