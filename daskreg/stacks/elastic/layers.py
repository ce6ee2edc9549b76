"""The maps of all slices while they are estimated: an affine map each, finished layers, and the current layer.

    raw_from_aligned = base . layer 1 . layer 2 ... . current,   for each slice.

The current layer is applied first, so that the control points of all slices lie at the same places of the aligned
stack. All slices begin a new layer together.

No layer folds, for no coefficient exceeds its limit. But the field of a layer ends beside the image, and points that
those before it move over the border must not come to where it does: they would jump. So layers are as wide as these can
move points (`reaching`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from daskreg.fields import Composite
from daskreg.geometry import Affine, Transform
from daskreg.registration.deformable.splines.control_grid import BEYOND, ControlGrid
from daskreg.registration.deformable.splines.layers import CoefficientLayers, limits_of

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Layer = tuple[ControlGrid, Floats]
"""With its coefficients, (N, D, *nodes)."""


@dataclass(frozen=True, kw_only=True)
class StackLayers(CoefficientLayers):
    """Of all slices, (N, D, *nodes). bases: raw_from_aligned of each slice before."""

    bases: tuple[Affine, ...]

    @classmethod
    def start(cls, bases: tuple[Affine, ...], control: ControlGrid) -> StackLayers:
        zero = np.zeros((len(bases), control.ndim, *control.shape))
        return cls(bases=bases, control=control, current=zero, before=zero)

    def __len__(self) -> int:
        return len(self.bases)

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """All layers, at least one, in the order of the product; each reaches as far as the others move points."""
        rest = [(self.control, self.current)] if np.any(self.current) or not self.finished else []
        return reaching([*self.finished, *rest])

    def of_slice(self, number: int) -> Transform:
        """raw_from_aligned of a slice."""
        return Composite.of(self.bases[number], *(grid.field(c[number]) for grid, c in self.layers))

    @property
    def limits(self) -> Floats:
        """(D, 1, ...) the largest component of a coefficient."""
        return limits_of(self.control)

    def held(self, force: Floats) -> Bools:
        """(N, D, *nodes) which coefficients are as large as they may be, and would become larger by a force."""
        return np.asarray(self.current * np.sign(force) >= self.limits)


def reaching(layers: Sequence[Layer], away: float | Floats = 0.0) -> tuple[Layer, ...]:
    """The same layers, each with as many control points beside the image as the others may move points over its border
    before: those after it in the order of the product.

    The outermost coefficients are repeated there, so that no layer has larger ones than before.

    Args:
        away: (D,) by how much points are moved along each axis before all layers, world units.
    """
    found: list[Layer] = []
    for control, coefficients in reversed(layers):
        found.insert(0, _widened(control, coefficients, away))
        away = away + largest_motion(coefficients)
    return tuple(found)


def largest_motion(coefficients: Floats) -> Floats:
    """(D,) no component of a displacement by (N, D, *nodes) coefficients is larger."""
    return np.asarray(np.abs(coefficients).max(axis=(0, *range(2, coefficients.ndim))))


def _widened(control: ControlGrid, coefficients: Floats, away: float | Floats) -> Layer:
    """A layer whose field reaches so far beyond the image."""
    spacing, image = np.asarray(control.spacing), control.image
    over = np.multiply(image.shape, image.spacing) / spacing  # cells of the image
    reach = (control.cells - over + BEYOND - 3) / 2
    more = np.maximum(np.ceil(away / spacing - reach - 1e-6), 0).astype(int).tolist()
    if not any(more):
        return control, coefficients
    # The middle of a grid is that of the image, however many cells it has.
    wide = replace(control, cells=tuple(n + 2 * k for n, k in zip(control.cells, more, strict=True)))
    return wide, np.pad(coefficients, [(0, 0), (0, 0), *((k, k) for k in more)], mode="edge")


def values_at_nodes(coefficients: Floats) -> Floats:
    """(..., *nodes) of the last two or three axes: the spline at its control points."""
    found = coefficients
    for axis in range(1, coefficients.ndim):
        moved = np.moveaxis(found, axis, 0)
        out = moved * (4 / 6)
        out[1:] += moved[:-1] / 6
        out[:-1] += moved[1:] / 6
        found = np.moveaxis(out, 0, axis)
    return found
