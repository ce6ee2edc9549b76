"""Deformable fits of specimens in empty space, which most voxels show nothing of."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

import daskreg as dr
from daskreg.geometry import Affine, Grid
from daskreg.registration.deformable import noise_model
from daskreg.registration.deformable.level_images import LevelImages, slopes_of
from daskreg.registration.deformable.noise_model import informative_box
from daskreg.registration.deformable.solve_level import solve_level
from daskreg.registration.deformable.splines.control_grid import control_grids
from daskreg.registration.deformable.splines.layers import Layers

Floats = NDArray[np.float64]


def specimen(
    inside: Floats, *, period: float, most: float, noise: float, seed: int = 0, brightness: float = 2.0
) -> tuple[Floats, Floats, Floats]:
    """Texture where `inside` is 1 and nothing where it is 0, the same moved by waves, and (D, *shape) the motion."""
    rng, shape = np.random.default_rng(seed), inside.shape
    texture = ndimage.gaussian_filter(rng.normal(size=shape), 2)
    moving = (brightness + texture / texture.std()) * inside
    at = np.indices(shape).astype(float)
    motion = np.stack([most * np.sin(2 * np.pi * np.roll(at, -1, 0)[k] / period + k) for k in range(len(shape))])
    fixed = ndimage.map_coordinates(moving, at + motion, order=5, mode="nearest")
    return (*(one + noise * rng.normal(size=shape) for one in (fixed, moving)), motion)


def radius(shape: tuple[int, ...]) -> Floats:
    return np.asarray(np.linalg.norm(np.indices(shape) - np.reshape(shape, (-1, *[1] * len(shape))) / 2, axis=0))


def ball(shape: tuple[int, ...], r: float) -> Floats:
    return np.asarray(1 / (1 + np.exp((radius(shape) - r) / 1.5)))


def errors(fit: dr.DeformableFit, motion: Floats, where: NDArray[np.bool_]) -> Floats:
    points = np.argwhere(where).astype(float)
    truth = motion[(slice(None), *np.nonzero(where))].T
    return np.asarray(np.linalg.norm(fit.moving_from_fixed(points) - points - truth, axis=1))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "r", "period", "most", "noise"),
    [((300, 320), 48, 60, 3.0, 0.03), ((400, 420), 100, 100, 4.0, 0.3), ((72, 76, 70), 18, 50, 2.0, 0.1)],
)
def test_a_specimen_in_empty_space_is_found_and_trusted(
    shape: tuple[int, ...], r: float, period: float, most: float, noise: float
) -> None:
    fixed, moving, motion = specimen(ball(shape, r), period=period, most=most, noise=noise)
    fit = dr.register(fixed, moving, model="bspline")
    assert np.median(errors(fit, motion, radius(shape) < r - 4)) < 0.2
    assert fit.ok, repr(fit)


@pytest.mark.slow
def test_a_specimen_that_contradicts_is_not_left_out() -> None:
    """Not more than a tenth of the overlap, but all that there is to see."""
    shape = (400, 420)
    fixed, moving, motion = specimen(ball(shape, 60), period=40, most=1.2, noise=0.03, seed=1)
    fit = dr.register(fixed, moving, model="bspline")
    assert fit.rejected < 0.02
    assert np.median(errors(fit, motion, radius(shape) < 56)) < 0.5


@pytest.mark.slow
def test_what_a_hollow_specimen_shows_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The middle, whose noise would be that of all voxels, is empty."""
    shape = (160, 160)
    hollow = 1 - ball(shape, 50)
    fixed, moving, motion = specimen(hollow, period=113, most=2.5, noise=0.05, brightness=0.0)
    ring = (radius(shape) > 58) & (radius(shape) < 74)
    fits = []
    for enough in (2000, 1 << 19):
        monkeypatch.setattr(noise_model, "_ENOUGH", enough)
        fits.append(dr.register(fixed, moving, model="bspline", spacing=12, metric="ncc"))
    some, every = fits
    assert some.determined == pytest.approx(every.determined, rel=0.2)
    assert np.median(errors(some, motion, ring)) < 1.2 * np.median(errors(every, motion, ring))


def test_noise_is_that_of_where_structures_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise_model, "_ENOUGH", 1 << 12)
    shape = (40, 44, 52)
    rng, weight = np.random.default_rng(0), np.ones(shape, np.float32)
    image = rng.normal(size=shape).astype(np.float32)
    middle = informative_box(weight, slopes_of(image, (1, 1, 1)), shape)
    assert all(abs(s.start + s.stop - n) <= 1 for s, n in zip(middle, shape, strict=True))
    image[:, :, 16:] = 0
    aside = informative_box(weight, slopes_of(image, (1, 1, 1)), shape)
    assert aside[2].stop <= 26
    # Coarse images say it for fine ones, in the voxels of these.
    fine = informative_box(weight, slopes_of(image, (1, 1, 1)), (80, 88, 104))
    assert fine[2].stop <= 52
    weight[:, :, 8:] = 0  # voxels that do not overlap are not asked
    weight[:26] = 0
    assert informative_box(weight, slopes_of(image, (1, 1, 1)), shape)[0].stop > 30


def test_steps_that_only_make_it_worse_are_not_made() -> None:
    image = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(64, 70)), 2).astype(np.float32)
    image /= image.std()
    grid, weight = Grid(image.shape), np.ones_like(image)
    uphill: Any = -slopes_of(image, (1, 1))
    images = LevelImages(image, weight, uphill, np.roll(image, 2, 1), grid, grid, True, 1.0)
    layers = Layers.start(Affine.identity(2, unit=grid.unit), control_grids(grid, (8.0, 8.0))[-1])
    found = solve_level(images, layers, 0.0, tolerance=0.01, max_iterations=50)
    assert found.iterations < 5
    np.testing.assert_array_equal(found.layers.current, layers.current)
