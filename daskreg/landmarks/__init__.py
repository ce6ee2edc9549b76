"""The motion between paired points (landmarks): closed forms, how well they are determined, and files of them.

fitting     the entry: `fit_points`
fit         `PointsFit`, which it returns
models      the motions of least squares, in closed form
consensus   pairs that agree with one motion, where others are wrong (RANSAC)
certainty   covariance, and motions that are not determined
outliers    pairs that contradict the others
plausible   whether the points are mirrored, or paired at random
pairs       pairs of landmarks from files
move        points moved with an image
"""

from daskreg.landmarks.fit import PointsFit, PointsStatus
from daskreg.landmarks.fitting import fit_points
from daskreg.landmarks.move import move_points
from daskreg.landmarks.pairs import LandmarkPairs, read_pairs

__all__ = ["LandmarkPairs", "PointsFit", "PointsStatus", "fit_points", "move_points", "read_pairs"]
