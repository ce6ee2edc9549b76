"""Levels keep voxels where they are, and masks keep values in."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from daskreg.geometry import Grid
from daskreg.registration.images import factors_within
from daskreg.registration.pyramids.pyramid import ImageBatch, image_batch, pyramid, shrink, smooth


def ramp(grid: Grid) -> ImageBatch:
    """An image whose values are a linear function of the world."""
    points = grid.world(np.indices(grid.shape).reshape(grid.ndim, -1).T)
    values = (points @ np.arange(1, grid.ndim + 1)).reshape(1, *grid.shape)
    return image_batch(torch.tensor(values), grid)


@pytest.mark.parametrize("shape", [(37, 52), (23, 34, 41)])
def test_every_level_is_in_its_place(shape):
    grid = Grid(shape, spacing=np.linspace(1, 1.3, len(shape)), origin=np.arange(len(shape)) * 7.0 - 3)
    for level in pyramid(ramp(grid), ramp(grid), levels=5 - len(shape), smoothing=0):
        inner = (slice(None), *(slice(3, -3) for _ in shape))  # smoothing knows one side at the ends
        expected = ramp(level.fixed.grid).values[inner]
        np.testing.assert_allclose(level.fixed.values[inner], expected, atol=1e-3)


@pytest.mark.slow
def test_axes_that_are_coarse_already_are_halved_later():
    thick, fine = Grid((20, 256, 256), spacing=(5, 1, 1)), Grid((300, 300, 300), spacing=0.5)
    levels = pyramid(image_batch(torch.zeros(1, 20, 256, 256), thick), image_batch(torch.zeros(1, 300, 300, 300), fine))
    assert [level.fixed.grid.shape for level in levels] == [(10, 32, 32), (20, 64, 64), (20, 128, 128), (20, 256, 256)]
    assert levels[-1].moving.grid.shape == (150, 150, 150)
    assert [level.step for level in levels] == [8, 4, 2, 1]


def test_masked_values_stay_in():
    values = torch.randn((1, 40, 44), generator=torch.Generator().manual_seed(0))
    mask = torch.ones(1, 40, 44, dtype=torch.bool)
    mask[:, 10:20, 10:30] = False
    grid = Grid((40, 44))
    other = torch.where(mask, values, torch.tensor(1e6))
    for change in (lambda p: smooth(p, (1, 1)), lambda p: shrink(p, (3, 2))):
        a, b = change(image_batch(values, grid, mask)), change(image_batch(other, grid, mask))
        assert torch.equal(a.weight, b.weight)
        np.testing.assert_allclose((a.values * (a.weight > 0)), (b.values * (b.weight > 0)), atol=1e-5)


def test_not_finite_is_masked():
    values = torch.ones(1, 10, 10)
    values[0, 2, 3], values[0, 5, 5] = torch.nan, torch.inf
    p = image_batch(values, Grid((10, 10)))
    assert p.weight is not None
    assert p.weight.sum() == 98
    assert torch.isfinite(p.values).all()


@pytest.mark.parametrize("shape", [(30, 41), (12, 17, 20), (3, 60, 5)])
def test_smoothing_is_a_gaussian_of_what_is_there(shape):
    values = np.random.default_rng(0).standard_normal((2, *shape)).astype(np.float32)
    sigmas = [1.0, 0.7, 1.4][: len(shape)]
    sigmas = [s if n > 7 else 0.0 for s, n in zip(sigmas, shape, strict=True)]
    found = smooth(image_batch(torch.tensor(values), Grid(shape)), sigmas).values

    def blur(image):
        for axis, s in enumerate(sigmas):
            if s:
                radius = min(int(np.ceil(3.5 * s)), image.shape[axis] - 1)
                image = ndimage.gaussian_filter1d(image, s, axis, mode="constant", radius=radius)
        return image

    expected = np.stack([blur(v.astype(float)) / blur(np.ones(shape)) for v in values])
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_means_are_not_taken_along_thin_axes() -> None:
    """Blocks are about as long along each axis, but a few planes are kept."""
    assert factors_within(10_000, Grid((3, 600, 620))) == (1, 16, 16)
    assert factors_within(2**19, Grid((5, 480, 400))) == (1, 2, 2)
    assert factors_within(100, Grid((9, 8, 7))) == (2, 2, 2)
    assert factors_within(2**19, Grid((90, 901, 703), (2.0, 1.0, 1.0))) == (4, 8, 8)
