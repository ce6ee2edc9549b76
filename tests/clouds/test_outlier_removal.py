"""Surfaces with outliers strewn around them."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

import daskreg as dr
from daskreg.clouds.outlier_removal import remove_outliers

pytestmark = pytest.mark.slow

Floats = NDArray[np.float64]


def bumpy(count: int, seed: int) -> Floats:
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(count, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    bumps = 1 + 0.2 * np.sin(3 * points[:, :1]) + 0.15 * np.cos(4 * points[:, 1:2] + 1)
    return points * bumps * [1.0, 0.8, 0.6] + 0.003 * rng.normal(size=points.shape)


def with_outliers(points: Floats, share: float, seed: int) -> Floats:
    count = round(len(points) * share / (1 - share))
    return np.r_[points, np.random.default_rng(seed).uniform(-1.5, 1.5, (count, 3))]


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
@pytest.mark.parametrize("count", [2000, 20_000])
def test_outliers_around_surfaces(share: float, count: int) -> None:
    rotation = Rotation.from_rotvec([1.0, 2.0, -0.5]).as_matrix()
    target, source = (with_outliers(bumpy(count, seed), share, seed + 9) for seed in (0, 1))
    fit = dr.icp(target, source @ rotation + 2, init="global")
    assert fit.ok, fit
    assert fit.method == "generalized"
    assert np.degrees(Rotation.from_matrix(fit.rotation @ rotation.T).magnitude()) < 0.5


def test_one_kind_of_points_is_left_alone() -> None:
    rng = np.random.default_rng(0)
    for points in (rng.random((3000, 3)), rng.random((3000, 2)), bumpy(3000, 1), rng.random((10, 3))):
        assert remove_outliers(points) is points


def test_the_sparser_kind_is_left_out() -> None:
    clean = bumpy(3000, 1)
    found = remove_outliers(with_outliers(clean, 0.4, 3))
    members = {tuple(p) for p in clean}
    assert sum(tuple(p) in members for p in found) > 0.98 * len(clean)
    assert len(found) < 1.1 * len(clean)
