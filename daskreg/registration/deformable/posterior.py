"""How certain a fitted field is: the covariance of its coefficients, given the images and the prior."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from daskreg.errors import ShapeMismatchError
from daskreg.fields import Composite
from daskreg.registration.deformable.layers import Layers
from daskreg.registration.deformable.system import System
from daskreg.sampling.spline_weights import cubic_weights

Floats = NDArray[np.float64]

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
class Posterior:
    """Of the coefficients of the last layer: (data H + weight K)^-1, which is what noise and prior leave open.

    The earlier layers are taken as they are: any small displacement is one of the last layer.
    """

    layers: Layers
    system: System

    def covariances(self, points: ArrayLike) -> Floats:
        """(N, D, D) of `moving_from_fixed` at (N, D) world points of the fixed image; NaN outside of it.

        D linear systems are solved for each point.
        """
        control = self.layers.control
        p = checked_points(points, control.ndim)
        place = control.grid.index(p)
        image = control.image.index(p)
        inside = np.all((image >= -0.5) & (image <= np.asarray(control.image.shape) - 0.5), axis=1)
        found = np.full((len(p), control.ndim, control.ndim), np.nan)
        for k in np.flatnonzero(inside):
            found[k] = self._covariance(place[k])
        turned = self._derivatives(p[inside]) @ control.image.direction_matrix
        found[inside] = turned @ found[inside] @ turned.swapaxes(1, 2)
        return found

    def _covariance(self, place: Floats) -> Floats:
        """(D, D) of the displacement at a place among the control points, along the axes of the fixed image."""
        control = self.layers.control
        cell = np.clip(np.floor(place).astype(int), 1, np.asarray(control.shape) - 3)
        weights, _ = cubic_weights(place - cell)
        basis = weights[0]
        for w in weights[1:]:
            basis = np.multiply.outer(basis, w)
        around = tuple(slice(c - 1, c + 3) for c in cell)
        covariance = np.empty((control.ndim, control.ndim))
        for a in range(control.ndim):
            right = np.zeros((control.ndim, *control.shape))
            right[a][around] = basis
            solution = self.system.solve(right, tolerance=0.02)
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
