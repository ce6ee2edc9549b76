"""The transform while it is estimated: an affine map, finished layers, and the layer that is being estimated.

`moving_from_fixed` = base . layer 1 . layer 2 ... . current: the current layer is applied first, so that its
coefficients belong to the voxels of the fixed image, and everything before it stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from daskreg.fields import Composite
from daskreg.geometry import Transform
from daskreg.registration.deformable.control_grid import ControlGrid

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Layers:
    """base: an affine map, or what the caller passed. finished: layers that are kept, each with its grid.

    control: grid of the current layer. current: (D, *nodes) its coefficients. before: (D, *nodes) the sum of the
    finished layers on the grid of the current one, for the bending energy of all together.
    """

    base: Transform
    control: ControlGrid
    current: Floats
    before: Floats
    finished: tuple[tuple[ControlGrid, Floats], ...] = ()

    @classmethod
    def start(cls, base: Transform, control: ControlGrid) -> Layers:
        zero = np.zeros((control.ndim, *control.shape))
        return cls(base, control, zero, zero)

    @property
    def transform(self) -> Transform:
        """`moving_from_fixed`, always with at least one field."""
        parts = [control.field(c) for control, c in self.finished]
        if np.any(self.current) or not parts:
            parts.append(self.control.field(self.current))
        return Composite.of(self.base, *parts)

    @property
    def total(self) -> Floats:
        """(D, *nodes) the coefficients of all layers together, as far as they add."""
        return self.before + self.current

    def at(self, current: Floats) -> Layers:
        """With other coefficients of the current layer."""
        return replace(self, current=current)

    def finish(self) -> Layers:
        """The current layer is kept as it is, and a new one is begun."""
        zero = np.zeros_like(self.current)
        return replace(self, current=zero, before=self.total, finished=(*self.finished, (self.control, self.current)))

    def refined(self, control: ControlGrid) -> Layers:
        """On a finer grid. A layer that exceeds the limits there is finished before."""
        limits = control.limits.reshape(-1, *[1] * control.ndim)
        fine = control.refined(self.control, self.current)
        kept = self if np.all(np.abs(fine) <= limits) else self.finish()
        before = control.refined(kept.control, kept.before)
        current = fine if kept is self else np.zeros_like(before)
        return replace(kept, control=control, current=current, before=before)
