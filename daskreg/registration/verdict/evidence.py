"""Whether two images agree more than unrelated ones would at the best of all poses that a search compares.

For correlations r_b over n_b independent samples in bands b, the logarithm of the likelihood ratio of "related with
these correlations" against "unrelated" is L = -1/2 sum n_b log(1 - r_b^2) (Gaussian images). Unrelated ones exceed L
at one pose with a probability of about exp(-L) (Wilks 1938), and at the best of N independent poses of about N
exp(-L) (Bonferroni).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from daskreg.geometry import Grid
from daskreg.registration.verdict.aligned import Aligned
from daskreg.registration.verdict.bands import Bands

Floats = NDArray[np.float64]

# The probability of taking unrelated images for related ones.
_ERROR = 1e-3
# Voxels by which poses differ that are independent in the finest band.
_APART = 2.0
# How far the optimisation may scale or shear, either way.
_STRETCH = 0.25
# So that the logarithm stays finite for equal images.
_MOST_CORRELATED = 1 - 1e-6


def evidence(bands: Bands) -> float:
    """L of the pose, in nats; negative correlations do not count."""
    return float(log_likelihood(bands.ncc, bands.samples).sum())


def log_likelihood(ncc: Floats, samples: Floats) -> Floats:
    """-n/2 log(1 - r^2) of positive correlations r, else 0."""
    r = np.clip(ncc, 0.0, _MOST_CORRELATED)
    return np.asarray(-0.5 * samples * np.log1p(-r * r))


def needed(pair: Aligned) -> float:
    """The evidence that unrelated images exceed with a probability of a thousandth: log(N / 0.001)."""
    return needed_by(pair.names, pair.fixed, pair.moving, pair.step)


def needed_by(names: tuple[str, ...], fixed: Grid, moving: Grid, step: float) -> float:
    """log(N / 0.001) for images on these grids, compared at voxels of size `step`.

    N counts the poses of the model that differ by more than the finest band resolves: all shifts at which the images
    overlap, all rotations, and scales and shears up to a quarter.
    """
    sides = np.array(fixed.shape) * fixed.spacing + np.array(moving.shape) * moving.spacing
    radius = float(np.linalg.norm(np.array(fixed.shape) * fixed.spacing)) / 2
    poses = -math.log(_ERROR)
    for name in names:
        if name in ("tx", "ty", "tz"):
            reach = sides[fixed.ndim - 1 - "xyz".index(name[1])]
        else:
            reach = radius * (2 * math.pi if name in ("theta", "rx", "ry", "rz") else 2 * _STRETCH)
        poses += math.log(max(1.0, reach / step / _APART))
    return poses
