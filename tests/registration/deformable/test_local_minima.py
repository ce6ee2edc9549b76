"""Motions that are larger than the structures: regions that steps bring to other structures are found again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates

import daskreg as dr
from daskreg.registration.verdicts import FitStatus

Floats = NDArray[np.float64]
SHAPE = (600, 701)


def waves(most: float, length: float, seed: int) -> Callable[[Floats], Floats]:
    """(N, 2) displacements by two waves along each axis, of `most` voxels together."""
    rng = np.random.default_rng(seed + 100)
    phases, directions = rng.uniform(0, 2 * np.pi, (2, 2)), rng.normal(size=(2, 2, 2))
    directions *= 2 * np.pi / length / np.linalg.norm(directions, axis=2, keepdims=True)

    def moved(points: Floats) -> Floats:
        along = [np.sin(points @ directions[k].T + phases[k]).mean(-1) for k in range(2)]
        return np.asarray(most * np.stack(along, -1))

    return moved


def pair_of(field: Callable[[Floats], Floats], seed: int) -> tuple[Any, Any]:
    """A texture of structures of about ten voxels, displaced, and itself, both with a tenth of noise."""
    rng = np.random.default_rng(seed)
    moving = gaussian_filter(rng.normal(size=SHAPE), 4)
    points = np.moveaxis(np.indices(SHAPE), 0, -1).reshape(-1, 2).astype(float)
    fixed = map_coordinates(moving, (points + field(points)).T, order=3, mode="mirror").reshape(SHAPE)
    deviation = 0.1 * moving.std()
    noisy = [(x + deviation * rng.normal(size=SHAPE)).astype(np.float32) for x in (fixed, moving)]
    return noisy[0], noisy[1]


def errors(fit: Any, field: Callable[[Floats], Floats]) -> Floats:
    """At points whose true place is in the moving image."""
    points = np.stack(np.meshgrid(*(np.arange(20.0, n - 20, 10) for n in SHAPE), indexing="ij"), -1).reshape(-1, 2)
    there = points + field(points)
    inside = np.all((there >= 0) & (there <= np.array(SHAPE) - 1), axis=1)
    return np.asarray(np.linalg.norm(fit.moving_from_fixed(points[inside]) - there[inside], axis=1))


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["ncc", "lncc"])
@pytest.mark.parametrize("seed", [0, 1])
def test_no_region_is_left_at_other_structures(metric: str, seed: int) -> None:
    field = waves(18.0, 190.0 + 20 * seed, seed)
    fit = dr.register(*pair_of(field, seed), model="bspline", metric=metric, spacing=40)
    left = errors(fit, field)
    assert fit.status is FitStatus.CONVERGED, repr(fit)
    assert np.median(left) < 0.08
    assert left.max() < 0.5


@pytest.mark.slow
def test_a_region_that_shows_something_else_is_left_out_as_before() -> None:
    field = waves(6.0, 300.0, 0)
    fixed, moving = pair_of(field, 0)
    fixed[200:300, 300:420] = gaussian_filter(np.random.default_rng(9).normal(size=(100, 120)), 4)
    fit = dr.register(fixed, moving, model="bspline", metric="ncc", spacing=40)
    assert fit.status is FitStatus.CONVERGED, repr(fit)
    assert 0.01 < fit.rejected < 0.05
    assert np.quantile(errors(fit, field), 0.9) < 0.1
