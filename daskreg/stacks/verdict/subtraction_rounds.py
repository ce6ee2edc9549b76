"""How far rounds that subtract a pattern of the detector and fit the stack again still move the slices, and what they
leave.

A round finds the finer parts of the pattern, which the motion tells from the specimen, almost whole, and of the
coarser ones the less the coarser they are. So the error is a sum of parts that shrink by factors between 0 and 1 each
round. Where all factors are equally frequent, the sum after n rounds is as 1 / (n + 1), the mean of f^n. Its last step
is 1 / n - 1 / (n + 1), so the error that is left is n times the last step. (One factor for all parts would leave less:
the ratio of the last steps, taken for it, gives a fifth of the errors of simulated stacks.)
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from daskreg.geometry import Grid
from daskreg.stacks.model import StackModel
from daskreg.stacks.pose_solve import PoseSolution

Floats = NDArray[np.float64]


def displacement(before: PoseSolution, after: PoseSolution, grid: Grid) -> float:
    """The largest displacement of a corner of a fitted slice, in voxels, without what all slices share."""
    corners = np.concatenate([grid.corners().T, np.ones((1, 2**grid.ndim))])
    change = ((after.poses - before.poses) @ corners)[before.fitted & after.fitted, :-1]
    change = change - np.median(change, axis=0)
    return float(np.linalg.norm(change, axis=1).max(initial=0.0) / min(grid.spacing))


def left_by_rounds(before: Floats, after: Floats, rounds: int, model: StackModel) -> Floats:
    """(N, P, P) to be added to the covariances of the parameters: the squared errors that so many rounds leave.

    Args:
        before, after: (N, D+1, D+1) poses before and after the last round.
    """
    half = model.projection.half_extent
    old, new = (model.pose.from_matrices(poses, model.centre, half).numpy() for poses in (before, after))
    left = rounds * (new - old)
    return np.asarray(left[:, :, None] * left[:, None, :], np.float64)
