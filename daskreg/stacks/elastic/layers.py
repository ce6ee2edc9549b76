"""The maps of all slices while they are estimated: an affine map each, finished layers, and the current layer.

    raw_from_aligned = base . layer 1 . layer 2 ... . current,   for each slice.

The current layer is applied first, so that the control points of all slices lie at the same places of the aligned
stack. All slices begin a new layer together.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from daskreg.fields import Composite
from daskreg.geometry import Affine, Transform
from daskreg.registration.deformable.control_grid import ControlGrid

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class StackLayers:
    """bases: raw_from_aligned of each slice before. control: grid of the current layer. current: (N, D, *nodes) its
    coefficients. before: (N, D, *nodes) the sums of the finished layers on that grid, for the bending energy. finished:
    layers that are kept, each with its grid.
    """

    bases: tuple[Affine, ...]
    control: ControlGrid
    current: Floats
    before: Floats
    finished: tuple[tuple[ControlGrid, Floats], ...] = ()

    @classmethod
    def start(cls, bases: tuple[Affine, ...], control: ControlGrid) -> StackLayers:
        zero = np.zeros((len(bases), control.ndim, *control.shape))
        return cls(bases, control, zero, zero)

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
    def total(self) -> Floats:
        """(N, D, *nodes) the coefficients of all layers together, as far as they add."""
        return self.before + self.current

    @property
    def limits(self) -> Floats:
        """(D, 1, ...) the largest component of a coefficient."""
        return self.control.limits.reshape(-1, *[1] * self.control.ndim)

    def at(self, current: Floats) -> StackLayers:
        """With other coefficients of the current layer."""
        return replace(self, current=current)

    def finish(self) -> StackLayers:
        """The current layer is kept as it is, and a new one is begun."""
        zero = np.zeros_like(self.current)
        return replace(self, current=zero, before=self.total, finished=(*self.finished, (self.control, self.current)))

    def refined(self, control: ControlGrid) -> StackLayers:
        """On a finer grid. A layer that exceeds the limits there is finished before."""
        fine = _refined(control, self.control, self.current)
        limits = control.limits.reshape(-1, *[1] * control.ndim)
        kept = self if np.all(np.abs(fine) <= limits) else self.finish()
        before = _refined(control, kept.control, kept.before)
        return replace(kept, control=control, current=fine if kept is self else np.zeros_like(before), before=before)


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


def _refined(control: ControlGrid, coarser: ControlGrid, coefficients: Floats) -> Floats:
    if control is coarser:
        return coefficients
    return np.stack([control.refined(coarser, c) for c in coefficients])
