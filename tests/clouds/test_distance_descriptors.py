"""Clouds that have only a part of their points in common, with outliers: matched by distances to neighbours."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

import daskreg as dr
from daskreg.clouds.cloud import Cloud
from daskreg.clouds.distance_descriptors import motions_by_distances
from daskreg.clouds.icp import homogeneous, transform_points
from daskreg.clouds.register import CloudStatus

pytestmark = pytest.mark.slow

Floats = NDArray[np.float64]


def shared(ndim: int, seed: int, *, count: int = 400, overlap: float, outliers: float) -> tuple[Floats, Floats, Floats]:
    """Target, source and the motion between them, of clouds that fill a box and have some points in common."""
    rng = np.random.default_rng(seed)
    everything = rng.random((round(count * (2 - overlap)), ndim)) * [1, 0.8, 0.5][:ndim]
    everything = everything[np.argsort(everything @ rng.normal(size=ndim))]
    source = rng.permutation(everything[-count:])
    wrong = round(outliers * count)
    source[:wrong] = rng.random((wrong, ndim)) * 2 - 0.5
    source += 0.02 * count ** (-1 / ndim) * rng.normal(size=source.shape)
    linear = Rotation.from_rotvec(rng.normal(size=3) * (2 if ndim == 3 else [0, 0, 2])).as_matrix()[:ndim, :ndim]
    motion = homogeneous(linear, rng.normal(size=ndim))
    return everything[:count], rng.permutation(transform_points(np.linalg.inv(motion), source)), motion


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize(("overlap", "outliers"), [(0.4, 0.0), (0.7, 0.3), (1.0, 0.5), (0.55, 0.5)])
def test_clouds_that_share_a_part(ndim: int, overlap: float, outliers: float) -> None:
    for seed, init in enumerate(("auto", "global")):
        target, source, motion = shared(ndim, seed, overlap=overlap, outliers=outliers)
        fit = dr.icp(target, source, init=init)
        assert fit.ok, fit
        np.testing.assert_allclose(fit.target_from_source.matrix, motion, atol=0.01)
        assert fit.fitness == pytest.approx(overlap * (1 - outliers), abs=0.12)


@pytest.mark.parametrize("ndim", [2, 3])
def test_candidate_motions(ndim: int) -> None:
    target, source, motion = shared(ndim, 5, overlap=0.6, outliers=0.3)
    found = motions_by_distances(Cloud(target), Cloud(source / 3), scale=3.0)
    motion[:-1, :-1] *= 3
    assert np.abs(found - motion).max(axis=(1, 2)).min() < 0.1
    assert motions_by_distances(Cloud(target), Cloud(source[:3])).shape == (0, ndim + 1, ndim + 1)


def test_a_lattice_fits_itself_in_many_ways() -> None:
    grid = np.stack(np.meshgrid(*[np.arange(8.0)] * 2), axis=-1).reshape(-1, 2)
    fit = dr.icp(grid, grid + 20, init="global")
    assert fit.status is CloudStatus.AMBIGUOUS


@pytest.mark.parametrize("count", [8, 12, 20, 35])
def test_few_points_that_have_nothing_to_do_with_each_other(count: int) -> None:
    for seed in range(8):
        rng = np.random.default_rng(1000 * count + seed)
        fit = dr.icp(*rng.random((2, count, 2)), init="global", method="point_to_point")
        assert not fit.ok, fit
