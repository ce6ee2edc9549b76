"""The model of a stack's poses, and where it acts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from daskreg.geometry import Grid
from daskreg.geometry.lie import Algebra
from daskreg.registration.pose import Pose
from daskreg.stacks.trajectory import Frame

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Model:
    """The model of the poses, where it acts, and how scores are judged.

    vertical: the only axis (of a slice) along which shifts are free, or None.
    """

    pose: Pose
    centre: Floats
    grid: Grid
    metric: str
    axis: int | None = None

    @property
    def frame(self) -> Frame:
        half = np.maximum((np.asarray(self.grid.shape) - 1) / 2, 0.5) * np.asarray(self.grid.spacing)
        return Frame(self.pose, self.centre, half)

    @property
    def algebra(self) -> Algebra:
        reach = float(np.sqrt(np.mean(self.frame.reach**2)))
        whole = Algebra.of(self.pose.groups, self.centre, reach, common_scale=self.pose.common_scale)
        if self.axis is None:
            return whole
        return Algebra(whole.basis[[self.axis]], whole.rigid[[self.axis]], self.centre, reach)
