"""Gain and offset that vary over the image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage

import daskreg as dr
from daskreg.registration.deformable.level_images import LevelImages
from daskreg.registration.deformable.metric_choice import left_by_other_blocks
from daskreg.registration.local_contrast.match import local_match
from daskreg.registration.local_contrast.windows import Windows
from daskreg.registration.pyramids.pyramid import PyramidLevel, image_batch


def texture(shape: tuple[int, ...], seed: int) -> NDArray[np.float32]:
    found = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.5)
    return np.asarray(found / found.std(), np.float32)


def test_gain_and_offset_are_those_that_were_applied() -> None:
    shape = (25, 31, 38)
    warped, (z, y, x) = texture(shape, 0), np.indices(shape)
    gain, offset = 1 + 0.4 * np.sin(x / 10), np.cos((y + z) / 12)
    fixed = gain * warped + offset + 0.1 * np.random.default_rng(1).normal(size=shape)
    weight = np.ones(shape, np.float32)
    weight[:6] = 0
    fixed[:6] = 100  # does not count
    found = local_match(fixed.astype(np.float32), warped, weight, Windows.of(shape, (5, 5, 5)))
    inside = (slice(9, -3), slice(3, -3), slice(3, -3))
    np.testing.assert_allclose(found.gain[inside], gain[inside], atol=0.12)
    assert np.abs(found.gain - gain)[inside].mean() < 0.03
    assert np.abs(found.offset - offset)[inside].mean() < 0.03
    assert abs(found.residual[inside].std() - 0.1) < 0.01
    assert 0 < found.left < 0.1


def test_what_is_left_of_aligned_images_is_their_noise() -> None:
    """Not what gain and offset vary within a window."""
    shape = (25, 31, 38)
    warped, (z, y, _) = texture(shape, 0), np.indices(shape)
    noise = 0.05 * np.random.default_rng(1).normal(size=shape)
    fixed = (warped + 3) * np.exp(0.8 * np.sin(z / 12) + y / 40) + noise
    found = local_match(fixed.astype(np.float32), warped, np.ones(shape, np.float32), Windows.of(shape, (5, 5, 5)))
    assert found.misfit < 0.02
    assert found.left > 10 * found.misfit


def test_the_choice_is_for_fields() -> None:
    y, x = np.indices((20, 22))
    image = texture((20, 22), 0)
    assert dr.register(image, image * (3 + y + x), model="translation").metric == "ncc"


@pytest.mark.slow
def test_a_bias_that_hides_the_affine_map_does_no_harm() -> None:
    shape, rng = (110, 130), np.random.default_rng(1)
    y, x = np.indices(shape)
    turned = dr.Affine.from_parameters(theta=0.06, tx=3, ty=-2, centre=(55, 65))
    points = np.stack([y, x], -1).reshape(-1, 2).astype(float)
    image = ndimage.gaussian_filter(rng.normal(size=(140, 160)), 2.0)
    image /= image.std()
    fixed = ndimage.map_coordinates(image, turned(points).T.reshape(2, *shape) + 15, order=5)
    bias = 5 * np.exp(-((y - 20) ** 2 + (x - 100) ** 2) / 40**2)
    moving = (image[15:-15, 15:-15] + 4) * (1 + 0.5 * np.sin(x / 40) * np.cos(y / 35)) + bias
    fixed, moving = (v + 0.1 * rng.normal(size=shape) for v in (fixed, moving))
    assert not dr.register(fixed, moving, model="affine").ok
    fit = dr.register(fixed, moving, model="bspline")
    assert fit.ok, repr(fit)
    assert fit.metric == "lncc"
    away = np.linalg.norm(fit.moving_from_fixed(points) - turned(points), axis=1)
    assert np.median(away) < 0.1


def left(fixed: NDArray[np.float64], warped: NDArray[np.float32]) -> float:
    """`left_by_other_blocks` of two images."""
    pair = (torch.from_numpy(np.asarray(v, np.float32)[None]) for v in (fixed, warped))
    f, m = (image_batch(v, dr.Grid(fixed.shape)) for v in pair)
    images = LevelImages.of(PyramidLevel(f, m, 1.0), "ncc")
    return left_by_other_blocks(images, images.compare(warped))


def test_only_gains_that_vary_say_more_of_other_blocks() -> None:
    shape = (60, 66)
    warped, y, x = texture(shape, 2), *np.indices(shape) / 60
    noise = 0.2 * np.random.default_rng(3).normal(size=shape)
    found = []
    for gain in (1.0, 0.6 + 0.5 * y + 0.4 * x):
        fixed = ndimage.shift(gain * (3 + warped), 0.4, order=3, mode="mirror") + noise  # not quite aligned
        found.append(left(fixed, warped))
    assert found[0] > 0.95
    assert found[1] < 0.5
    fixed = warped + noise
    warped[:20, :25] = 8 * texture((20, 25), 5)  # contradicts
    assert left(fixed, warped) > 0.9
    assert left(fixed, texture(shape, 7)) == 1  # is not aligned
