"""The transform while it is estimated: an affine map, finished layers, and the layer that is being estimated.

`moving_from_fixed` = base . layer 1 . layer 2 ... . current: the current layer is applied first, so that its
coefficients belong to the voxels of the fixed image, and everything before it stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from daskreg.fields import Composite
from daskreg.geometry import Affine, Transform
from daskreg.registration.deformable.splines.control_grid import ControlGrid
from daskreg.registration.deformable.splines.one_to_one import is_one_to_one, room_at_border, share_of_step, within_room

Floats = NDArray[np.float64]


def limits_of(control: ControlGrid) -> Floats:
    """(D, 1, ...) the largest component of a coefficient of a layer that never folds."""
    return control.limits.reshape(-1, *[1] * control.ndim)


@dataclass(frozen=True, kw_only=True)
class CoefficientLayers:
    """Layers of one field, or of those of all slices.

    control: grid of the current layer. current: (..., D, *nodes) its coefficients. before: (..., D, *nodes) the sum of
    the finished layers on the grid of the current one, for the bending energy of all together. finished: layers that
    are kept, each with its grid.
    """

    control: ControlGrid
    current: Floats
    before: Floats
    finished: tuple[tuple[ControlGrid, Floats], ...] = ()

    @property
    def total(self) -> Floats:
        """The coefficients of all layers together, as far as they add."""
        return self.before + self.current

    @property
    def count(self) -> int:
        """How many layers move anything."""
        return len(self.finished) + bool(np.any(self.current))

    def at(self, current: Floats) -> Self:
        """With other coefficients of the current layer."""
        return replace(self, current=current)

    def finish(self) -> Self:
        """The current layer is kept as it is, and a new one is begun."""
        zero = np.zeros_like(self.current)
        return replace(self, current=zero, before=self.total, finished=(*self.finished, (self.control, self.current)))

    def refined(self, control: ControlGrid) -> Self:
        """On a finer grid. A layer that is not known to be one to one there is finished before."""
        fine = control.refined(self.control, self.current)
        kept = self if self._one_to_one(control, fine) else self.finish()
        before = control.refined(kept.control, kept.before)
        current = fine if kept is self else np.zeros_like(before)
        return replace(kept, control=control, current=current, before=before)

    def _one_to_one(self, control: ControlGrid, coefficients: Floats) -> bool:
        """Whether a layer with these coefficients may go on; by their size alone."""
        return bool(np.all(np.abs(coefficients) <= limits_of(control)))


@dataclass(frozen=True, kw_only=True)
class Layers(CoefficientLayers):
    """Of one pair. base: an affine map, or what the caller passed."""

    base: Transform

    @classmethod
    def start(cls, base: Transform, control: ControlGrid) -> Layers:
        zero = np.zeros((control.ndim, *control.shape))
        return cls(base=base, control=control, current=zero, before=zero)

    def rebased(self) -> Layers:
        """The same transform, with the affine part of the field in the base.

        The prior holds fields to the base. An affine map of images that are bent depends on the resolution, and on
        which regions were left out; that which is nearest to all layers together at the control points does not. The
        layer beside the base, the first that was finished, gives it away: splines reproduce affine maps, so nothing
        else changes within its control points. Beyond them its field is zero: there the base alone has moved. After an
        affine map a layer is still one to one, whatever its coefficients; but the current one, which goes on, has to be
        known to be, and stays where it would not. So does a base that is not affine.
        """
        if not isinstance(self.base, Affine):
            return self
        moved = _affine_part(self.control, self.total, self.base.unit)
        base, back = self.base @ moved, moved.inverse()
        if self.finished:
            (grid, coefficients), *others = self.finished
            first = _then(grid, coefficients, back)
            before = self.before + self.control.refined(grid, first - coefficients)
            return replace(self, base=base, before=before, finished=((grid, first), *others))
        current = _then(self.control, self.current, back)
        if not self._one_to_one(self.control, current):
            return self
        return replace(self, base=base, current=current)

    def _one_to_one(self, control: ControlGrid, coefficients: Floats) -> bool:
        return is_one_to_one(control, coefficients)

    def allowed(self, step: Floats) -> tuple[Floats, float]:
        """A step of the current layer after which all layers are one to one, and which share that is of the step.

        What would lead over the border is not made, and is not counted.
        """
        room = room_at_border(self.control, self.finished)
        inside = within_room(self.current + step, room) - self.current
        share = share_of_step(self.control, self.current, inside)
        return share * inside, share

    def clipped(self, coefficients: Floats) -> Layers:
        """With the nearest coefficients of the current layer that are so small that no layer folds, nor leads over the
        border."""
        limits = limits_of(self.control)
        room = room_at_border(self.control, self.finished)
        return self.at(within_room(np.clip(coefficients, -limits, limits), room))

    @property
    def transform(self) -> Transform:
        """`moving_from_fixed`, always with at least one field."""
        parts = [control.field(c) for control, c in self.finished]
        if np.any(self.current) or not parts:
            parts.append(self.control.field(self.current))
        return Composite.of(self.base, *parts)


def _affine_part(control: ControlGrid, coefficients: Floats, unit: str | None) -> Affine:
    """The affine map that is nearest to a layer at its control points, but those beside the image."""
    points, there = _moved_nodes(control, coefficients)
    inner, ndim = control.inner[1:], control.ndim
    columns = np.concatenate([points, np.ones((*points.shape[:-1], 1))], axis=-1)[inner].reshape(-1, ndim + 1)
    matrix = np.eye(ndim + 1)
    matrix[:-1] = np.linalg.lstsq(columns, there[inner].reshape(-1, ndim), rcond=None)[0].T
    return Affine(matrix, unit=unit)


def _then(control: ControlGrid, coefficients: Floats, affine: Affine) -> Floats:
    """The coefficients of a layer with an affine map after it."""
    points, there = _moved_nodes(control, coefficients)
    left = affine(there.reshape(-1, control.ndim)).reshape(there.shape) - points
    turn = control.image.direction_matrix.T
    return np.ascontiguousarray(np.tensordot(turn, np.moveaxis(left, -1, 0), axes=1))


def _moved_nodes(control: ControlGrid, coefficients: Floats) -> tuple[Floats, Floats]:
    """(*nodes, D) control points in the world, and the same displaced by their coefficients."""
    nodes = np.moveaxis(np.indices(control.shape), 0, -1)
    points = control.grid.world(nodes.reshape(-1, control.ndim)).reshape(nodes.shape)
    turned = np.tensordot(control.image.direction_matrix, coefficients, axes=1)
    return points, points + np.moveaxis(turned, 0, -1)
