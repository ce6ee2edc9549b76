"""`Part`: which voxels of a level its arrays hold, where a pair is summed part by part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from daskreg.geometry import Box
from daskreg.registration.normal_equations.edge_weights import axis_weights
from daskreg.registration.pyramids.pyramid import PyramidLevel


@dataclass(frozen=True)
class Part:
    """Boxes of voxels of a level. The arrays of the level hold these alone, while its grids are those of all voxels.

    fixed, moving: what the arrays hold of both images. inside: the voxels of the fixed image that are summed; `fixed`
    is wider by those that the gradients need.
    """

    fixed: Box
    moving: Box
    inside: Box

    @classmethod
    def whole(cls, level: PyramidLevel) -> Part:
        """All voxels."""
        fixed, moving = (Box.of(image.grid.shape) for image in (level.fixed, level.moving))
        return cls(fixed, moving, fixed)

    def axis_weights(self, shape: tuple[int, ...]) -> tuple[NDArray[np.float32], ...]:
        """The weights along each axis of the fixed image, of this shape; zero for voxels that are not summed."""
        found = []
        for axis, n in enumerate(shape):
            weights = np.zeros(self.fixed.shape[axis], np.float32)
            a, b, first = self.inside.start[axis], self.inside.stop[axis], self.fixed.start[axis]
            weights[a - first : b - first] = axis_weights(n, torch.device("cpu")).numpy()[a:b]
            found.append(weights)
        return tuple(found)

    def rows(self) -> NDArray[np.int64]:
        """Numbers of the rows of `fixed` that are summed."""
        lead = self.fixed.shape[:-1]
        local: Any = self.inside.within(self.fixed).slices[:-1]
        return np.asarray(np.arange(int(np.prod(lead))).reshape(lead)[local].ravel())
