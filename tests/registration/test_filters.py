"""Filters of whole images: compiled code and torch give the same, and what SciPy gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from daskreg.registration.pyramids import filters
from daskreg.runtime.threads import use_threads
from daskreg.runtime.torch_instead import torch_instead

SHAPES = [(3, 37, 50), (2, 13, 41, 30), (1, 1, 70, 33), (2, 300, 257)]


@pytest.fixture(params=["compiled", "torch"], autouse=True)
def implementation(request):
    """Also what runs on other devices."""
    with torch_instead(request.param == "torch"):
        yield


@pytest.fixture(params=SHAPES, ids=str)
def images(request):
    rng = np.random.default_rng(3)
    values = (50 + rng.standard_normal(request.param)).astype(np.float32)
    weight = np.clip(rng.standard_normal(request.param) + 0.7, 0, 1).astype(np.float32)
    weight[:, ..., :12] = 0
    return torch.from_numpy(values), torch.from_numpy(weight)


@pytest.fixture(params=["unmasked", "masked", "one mask"])
def pair(images, request):
    values, weight = images
    return values, {"unmasked": None, "masked": weight, "one mask": weight[:1].contiguous()}[request.param]


def wide(weight, values):
    return np.ones(values.shape) if weight is None else np.broadcast_to(weight.numpy().astype(np.float64), values.shape)


def test_mean_and_variance_are_numpys(pair):
    values, weight = pair
    w, v = wide(weight, values).reshape(len(values), -1), values.numpy().astype(np.float64).reshape(len(values), -1)
    mean = (w * v).sum(1) / w.sum(1)
    found = filters.mean_and_variance(values, weight)
    np.testing.assert_allclose(found[0], mean, rtol=1e-6)
    np.testing.assert_allclose(found[1], (w * (v - mean[:, None]) ** 2).sum(1) / w.sum(1), rtol=2e-5)


def test_a_large_offset_costs_no_digits():
    values = 1e4 + torch.randn((2, 64, 64), generator=torch.Generator().manual_seed(0))
    expected = values.double().flatten(1).var(1, correction=0)  # float32 holds 1e4 to 1e-3
    np.testing.assert_allclose(filters.mean_and_variance(values, None)[1], expected, rtol=1e-3)


def test_scaling_is_what_it_says(pair):
    values, weight = pair
    mean, scale = torch.linspace(40, 60, len(values)).double(), torch.linspace(0.5, 2, len(values)).double()
    one = (-1, *[1] * (values.ndim - 1))
    expected = (values.double() - mean.reshape(one)) * scale.reshape(one) * torch.from_numpy(wide(weight, values) > 0)
    np.testing.assert_allclose(filters.scaled(values, weight, mean, scale), expected, atol=1e-4)


@pytest.mark.parametrize("factor", [2, 3])
def test_block_means_are_numpys(pair, factor):
    values, weight = pair
    ndim = values.ndim - 1
    factors = [1 if n == 1 else factor + (axis == 0) for axis, n in enumerate(values.shape[1:])]
    w, v = wide(weight, values), values.numpy().astype(np.float64)

    def mean(x):
        x = x[(slice(None), *(slice(n // f * f) for n, f in zip(values.shape[1:], factors, strict=True)))]
        split = [k for n, f in zip(x.shape[1:], factors, strict=True) for k in (n // f, f)]
        return x.reshape(len(x), *split).mean(tuple(range(2, 2 * ndim + 1, 2)))

    found, left = filters.block_means(values, weight, factors)
    np.testing.assert_allclose(found, mean(w * v) / np.maximum(mean(w), 1e-6), rtol=1e-5, atol=1e-4)
    assert (left is None) == (weight is None)
    if left is not None:
        np.testing.assert_allclose(left, mean(w)[: len(left)], atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("sigma", [0.5, 0.7, 3.0])
def test_smoothing_is_scipys_normalised_convolution(pair, sigma):
    values, weight = pair
    sigmas = [0.0 if n == 1 else sigma * (1 + 0.3 * axis) for axis, n in enumerate(values.shape[1:])]
    w, v = wide(weight, values), values.numpy().astype(np.float64)

    def gaussian(x):
        radius = [int(np.ceil(3.5 * s)) for s in sigmas]
        return np.stack([ndimage.gaussian_filter(one, sigmas, mode="constant", radius=radius) for one in x])

    found, left = filters.smoothed(values, weight, sigmas)
    there = gaussian(w) > 0.01  # elsewhere rounding decides
    np.testing.assert_allclose(found[there], gaussian(w * v)[there] / gaussian(w)[there], rtol=2e-5)
    assert (left is None) == (weight is None)
    if left is not None:
        near = gaussian(w)[: len(left)]
        sure = np.abs(near - 1e-3) > 1e-5
        np.testing.assert_allclose(left[sure], (w[: len(left)] * (near > 1e-3))[sure], atol=1e-6)


@pytest.mark.parametrize("radius", [1, 6])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_dilation_is_scipys(shape, radius):
    mask = np.random.default_rng(1).random(shape) < 3e-3
    cube = np.ones((2 * radius + 1,) * (len(shape) - 1))
    expected = np.stack([ndimage.binary_dilation(one, cube) for one in mask])
    np.testing.assert_array_equal(filters.dilated(torch.from_numpy(mask), radius), expected)


def test_threads_change_no_bit(images):
    values, weight = images

    def everything():
        mean, variance = filters.mean_and_variance(values, weight)
        found = [mean, variance, filters.scaled(values, weight, mean, variance)]
        found += filters.block_means(values, weight, [1, *[2] * (values.ndim - 2)])
        found += filters.smoothed(values, weight, [0.7] * (values.ndim - 1))
        return [*found, filters.dilated(weight > 0.9, 2)]

    each = []
    for threads in (1, 2, 3):
        with use_threads(threads):
            each.append(everything())
    for other in each[1:]:
        for a, b in zip(each[0], other, strict=True):
            assert torch.equal(a, b)


def test_squares_of_slopes_are_numpys(pair):
    values, weight = pair
    for every in (1, 3):
        expected = np.zeros(len(values))
        w, v = wide(weight, values), values.numpy().astype(np.float64)
        for axis, n in enumerate(values.shape[1:], start=1):
            if n > 2:
                low, mid, high = (
                    np.take(x, range(k, n - 2 + k), axis)[:, ::every] for x, k in ((v, 0), (w, 1), (v, 2))
                )
                expected += ((high - low) ** 2 / 4 * mid).reshape(len(v), -1).sum(1) / mid.reshape(len(v), -1).sum(1)
        np.testing.assert_allclose(filters.mean_square_gradient(values, weight, every), expected, rtol=1e-4)


@pytest.mark.parametrize("shape", [(2, 40, 31), (40, 2, 31), (1, 30, 2), (2, 50), (50, 1)])
def test_local_means_of_thin_images(shape):
    values = np.random.default_rng(3).normal(size=(2, *shape)).astype(np.float32)
    expected = ndimage.uniform_filter(values, (1, *[3] * len(shape)), mode="constant")
    np.testing.assert_allclose(filters.local_means(torch.from_numpy(values), 1), expected, atol=1e-6)
