"""The model of a stack's poses: which motions are free, about which point, on which grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from daskreg.geometry import Grid
from daskreg.geometry.lie import Algebra
from daskreg.registration.pose import Pose
from daskreg.registration.verdict.evidence import needed_by
from daskreg.stacks.pair_registration import SMALL
from daskreg.stacks.trajectory import PoseProjection

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class StackModel:
    """What the poses of all slices share.

    pose: the free parameters. centre: (D,) world point about which they act. grid: of a slice.
    metric: by which pairs are scored. axis: the only axis of a slice along which shifts are free, or None.
    """

    pose: Pose
    centre: Floats
    grid: Grid
    metric: str
    axis: int | None = None

    @property
    def projection(self) -> PoseProjection:
        half = np.maximum((np.asarray(self.grid.shape) - 1) / 2, 0.5) * np.asarray(self.grid.spacing)
        return PoseProjection(self.pose, self.centre, half)

    @property
    def needed_evidence(self) -> float:
        """In nats: what unrelated slices exceed with a probability of a thousandth, at the best of all poses."""
        coarse = max(1, -(-max(self.grid.shape) // SMALL.get(self.grid.ndim, 64)))
        return needed_by(tuple(self.pose.names), self.grid, self.grid, coarse * min(self.grid.spacing))

    @property
    def algebra(self) -> Algebra:
        reach = float(np.sqrt(np.mean(self.projection.half_extent**2)))
        whole = Algebra.of(self.pose.groups, self.centre, reach, common_scale=self.pose.common_scale)
        if self.axis is None:
            return whole
        return Algebra(whole.basis[[self.axis]], whole.rigid[[self.axis]], self.centre, reach)
