"""A pattern that stays with the detector while the specimen moves."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from skimage import data

import daskreg as dr
from daskreg.registration.verdicts import FitStatus

Floats = NDArray[np.float64]
SHAPE = (180, 210)


def fit_of(pattern: float, *, metric: str, seed: int = 0, moved: float = 4.0) -> tuple[dr.DeformableFit, float]:
    """A fit of a photograph that moved, with this part of its contrast as a pattern in both images; and the median
    error."""
    rng = np.random.default_rng(seed)
    scene, at = data.camera() / 70.0, np.indices(SHAPE).astype(float)
    motion = np.stack([2 * np.sin(at[1] / 16) + moved, 2 * np.cos(at[0] / 14) - moved])
    images = [ndimage.map_coordinates(scene, at + 150 + move, order=3) for move in (motion, 0 * motion)]
    dirt = ndimage.gaussian_filter(rng.normal(size=SHAPE), 0.7)
    dirt *= pattern * images[0].std() / dirt.std()
    fixed, moving = (one + dirt + 0.05 * rng.normal(size=SHAPE) for one in images)
    fit = dr.register(fixed, moving, model="bspline", metric=metric)
    points = np.argwhere(np.ones(SHAPE))[::97].astype(float)
    inside = np.all((points > 12) & (points < np.array(SHAPE) - 13), axis=1)
    truth = motion.reshape(2, -1).T[::97][inside]
    left = fit.moving_from_fixed(points[inside]) - points[inside] - truth
    return fit, float(np.median(np.linalg.norm(left, axis=1)))


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["ncc", "lncc", "mi"])
def test_a_pattern_that_draws_the_motion_is_named(metric: str) -> None:
    fit, error = fit_of(0.4, metric=metric)
    assert error > 0.3
    assert not fit.ok
    if metric != "mi":
        assert fit.status is FitStatus.FIXED_PATTERN


@pytest.mark.slow
@pytest.mark.parametrize("pattern", [0.0, 0.05])
@pytest.mark.parametrize("metric", ["ncc", "lncc"])
def test_without_one_that_matters_a_fit_is_ok(metric: str, pattern: float) -> None:
    fit, error = fit_of(pattern, metric=metric)
    assert error < 0.2
    assert fit.ok, repr(fit)
