"""The maps of all slices while they are estimated: an affine map each, finished layers, and the current layer.

    raw_from_aligned = base . layer 1 . layer 2 ... . current,   for each slice.

The current layer is applied first, so that the control points of all slices lie at the same places of the aligned
stack. All slices begin a new layer together.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from daskreg.fields import Composite
from daskreg.geometry import Affine, Transform
from daskreg.registration.deformable.control_grid import ControlGrid
from daskreg.registration.deformable.layers import CoefficientLayers, limits_of

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


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

    @property
    def layers(self) -> list[tuple[ControlGrid, Floats]]:
        """All layers, at least one, in the order of the product."""
        rest = [(self.control, self.current)] if np.any(self.current) or not self.finished else []
        return [*self.finished, *rest]

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

    @property
    def inner(self) -> tuple[slice, ...]:
        """Of coefficients, without those beside the image, which hardly reach into it."""
        return (slice(None), slice(None), *(slice(2, -2),) * self.control.ndim)


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
