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
from daskreg.geometry import Transform
from daskreg.registration.deformable.control_grid import ControlGrid

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

    def at(self, current: Floats) -> Self:
        """With other coefficients of the current layer."""
        return replace(self, current=current)

    def finish(self) -> Self:
        """The current layer is kept as it is, and a new one is begun."""
        zero = np.zeros_like(self.current)
        return replace(self, current=zero, before=self.total, finished=(*self.finished, (self.control, self.current)))

    def refined(self, control: ControlGrid) -> Self:
        """On a finer grid. A layer that exceeds the limits there is finished before."""
        fine = control.refined(self.control, self.current)
        kept = self if np.all(np.abs(fine) <= limits_of(control)) else self.finish()
        before = control.refined(kept.control, kept.before)
        current = fine if kept is self else np.zeros_like(before)
        return replace(kept, control=control, current=current, before=before)


@dataclass(frozen=True, kw_only=True)
class Layers(CoefficientLayers):
    """Of one pair. base: an affine map, or what the caller passed."""

    base: Transform

    @classmethod
    def start(cls, base: Transform, control: ControlGrid) -> Layers:
        zero = np.zeros((control.ndim, *control.shape))
        return cls(base=base, control=control, current=zero, before=zero)

    @property
    def transform(self) -> Transform:
        """`moving_from_fixed`, always with at least one field."""
        parts = [control.field(c) for control, c in self.finished]
        if np.any(self.current) or not parts:
            parts.append(self.control.field(self.current))
        return Composite.of(self.base, *parts)
