"""Error bars hold for noise of several kinds, the last step removes the bias of interpolation, and sums agree."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from phantoms import plane_waves
from scipy import ndimage

import daskreg as dr
from daskreg.geometry import Affine, Grid
from daskreg.registration.covariance import _CELLS, _score_variance
from daskreg.registration.normal_equations.edge_weights import scaling
from daskreg.registration.pyramids.pyramid import PyramidLevel, image_batch
from daskreg.registration.score_sums import by_torch, score_sums

SHAPE = (131, 113)


def waves(seed, count=80, shortest=4.5):
    """A texture of plane waves, longer ones with more amplitude, as a function of a matrix from indices to points."""
    rng = np.random.default_rng(seed)
    length = shortest * 2 ** rng.uniform(0, 4, count)
    angle, phase = rng.uniform(0, 2 * np.pi, (2, count))
    vectors = 2 * np.pi / length[:, None] * np.stack([np.sin(angle), np.cos(angle)], 1)
    return lambda matrix: plane_waves(SHAPE, matrix, vectors, phase, np.sqrt(length))


def pair(seed, model):
    """Both images are values of one function, so neither is interpolated; standard deviation about 1."""
    rng = np.random.default_rng([seed, 1])
    grid, texture = Grid(SHAPE), waves(seed)
    named = {"tx": rng.uniform(-2, 2), "ty": rng.uniform(-2, 2)}
    if model == "rigid":
        named["theta"] = rng.uniform(-0.03, 0.03)
    truth = Affine.from_parameters(named, ndim=2, centre=grid.centre)
    images = [texture(matrix) for matrix in (np.eye(3), truth.inverse().matrix)]
    return *(i / images[0].std() for i in images), named, rng


def white(image, rng):
    return image + 0.5 * rng.standard_normal(image.shape)


def blotches(image, rng):
    """Noise that is correlated over five voxels, and stronger on one side."""
    noise = ndimage.uniform_filter(rng.standard_normal(image.shape), 5, mode="wrap") * 5
    return image + 0.3 * noise * np.linspace(0.3, 1.7, image.shape[1])


def rows(image, rng):
    return image + 0.05 * rng.standard_normal(image.shape) + 0.3 * rng.standard_normal((image.shape[0], 1))


def vignette(image, rng):
    """A gain that falls from some place outwards; brightness from zero."""
    y, x = np.indices(image.shape) / image.shape[0] - rng.uniform(0, 0.8, (2, 1, 1))
    return (image - image.min()) * (1 - 0.3 * (x * x + y * y)) + 0.01 * rng.standard_normal(image.shape)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("add", "model", "metric"),
    [(white, "rigid", "mse"), (blotches, "rigid", "ncc"), (rows, "translation", "ncc"), (vignette, "rigid", "ncc")],
)
def test_errors_are_as_large_as_sigma(add, model, metric):
    """About the truth, so that bias counts; a factor of 1.5, and 20 % as 48 numbers leave a tenth uncertain."""
    ratios = []
    for seed in range(24):
        fixed, moving, named, rng = pair(seed, model)
        fit = dr.register(add(fixed, rng), add(moving, rng), model=model, metric=metric)
        ratios.append([(fit.parameters[name] - named[name]) / fit.sigma[name] for name in named])
    rms = np.sqrt(np.mean(np.square(ratios)))
    assert 1 / 1.8 < rms < 1.8, rms


@pytest.mark.slow
def test_interpolation_does_not_bias():
    """Linear interpolation of these waves moves them by up to 0.01 voxels."""
    errors = []
    for seed in range(6):
        fixed, moving, named, _ = pair(seed, "translation")
        fit = dr.register(fixed, moving, model="translation")
        errors.append([fit.parameters[name] - named[name] for name in named])
    assert np.abs(errors).max() < 0.002


def level_of(shapes, *, masked):
    generator = torch.Generator().manual_seed(2)
    images = []
    for shape in shapes:
        mask = torch.rand((3, *shape), generator=generator) > 0.01 if masked else None
        images.append(image_batch(torch.randn((3, *shape), generator=generator), Grid(shape), mask))
    ndim = len(shapes[0])
    maps = torch.eye(ndim + 1, dtype=torch.float64)[:ndim].repeat(3, 1, 1)
    maps = maps + 0.1 * torch.randn(maps.shape, generator=generator, dtype=torch.float64)
    return PyramidLevel(*images, 1.0), maps.numpy()


@pytest.mark.parametrize("shapes", [((41, 50), (44, 31)), ((10, 13, 14), (12, 9, 20)), ((1, 9, 8), (2, 9, 8))])
@pytest.mark.parametrize("masked", [False, True])
def test_compiled_and_torch_agree(shapes, masked):
    level, from_index = level_of(shapes, masked=masked)
    cell = tuple(min(3, n) for n in shapes[0])
    sums = score_sums(level, from_index @ scaling(shapes[0]), cell)
    cells, cross, slopes = by_torch(level, from_index, cell)
    for found, expected in ((sums.scalars, cells[..., :6]), (sums.cross, cross), (sums.slopes, slopes)):
        np.testing.assert_allclose(found.ravel(), expected.ravel(), atol=1e-5 * np.abs(expected).max())
    ones = sums.linear[..., -1].reshape(3, -1, 3 * len(cell))
    np.testing.assert_allclose(ones, cells[..., 6:], atol=1e-5 * np.abs(ones).max())


@pytest.mark.parametrize("shape", [(37, 41), (12, 13, 15)])
def test_sums_are_those_of_a_cubic_polynomial(shape):
    """Lagrange's polynomial is exact for a cubic along each axis, of which the values and slopes are known."""
    points = np.indices(shape).astype(np.float64) / 10
    shift = np.array([0.3, -0.4, 0.25])[: len(shape)].reshape(-1, *[1] * len(shape)) / 10
    moving, moved = ((p**3 - 2 * p).sum(0) for p in (points, points + shift))
    level = PyramidLevel(*(image_batch(torch.tensor(i[None]), Grid(shape)) for i in (moving, moving)), 1.0)
    maps = np.concatenate([np.eye(len(shape)), 10 * shift.reshape(-1, 1)], 1)[None]
    sums = score_sums(level, maps @ scaling(shape), (1,) * len(shape))
    inside = (0, *(slice(3, n - 4) for n in shape))
    np.testing.assert_allclose(sums.scalars[inside][..., 2], moved[inside[1:]], atol=1e-4)


def test_masked_values_are_not_read():
    level, from_index = level_of(((31, 40), (34, 29)), masked=True)
    weight = level.moving.weight
    other = replace(level, moving=replace(level.moving, values=level.moving.values + 100 * (weight == 0)))
    near = torch.nn.functional.max_pool2d((weight == 0).float(), 3, 1, 1) > 0
    assert near.any()
    # Linear interpolation at the border of a mask reads masked voxels, with a weight below 1: leave those out as well.
    level, other = (replace(one, moving=replace(one.moving, weight=(~near).float() * weight)) for one in (level, other))
    found = [score_sums(one, from_index @ scaling((31, 40)), (4, 4)) for one in (level, other)]
    for name in ("scalars", "linear", "cross", "slopes"):
        first, second = (getattr(f, name) for f in found)
        np.testing.assert_allclose(first, second, atol=1e-4 * np.abs(first).max())


@pytest.mark.parametrize("kind", ["white", "correlated", "rows"])
def test_variance_of_scores(kind):
    """The mean estimate is the variance of the sum over many draws, within a quarter of it."""
    rng = np.random.default_rng(0)
    share, estimates, totals = np.full((60, 52, 1), 1 / (60 * 52)), [], []
    for _ in range(60):
        scores = rng.standard_normal((60, 52, 2))
        if kind == "correlated":
            scores = ndimage.uniform_filter(scores, (3, 3, 0), mode="wrap")
        if kind == "rows":
            scores[..., 1] += 0.5 * rng.standard_normal((60, 1))
        total = scores.sum((0, 1))
        totals.append(total)
        estimates.append(_score_variance((scores - share * total)[None], _CELLS)[0])
    expected = {"white": [1, 1], "correlated": [1, 1], "rows": [1, 1 + 0.25 * 52]}[kind]
    found = np.diag(np.mean(estimates, axis=0)) / (60 * 52)
    np.testing.assert_allclose(found, expected, rtol=0.3)
    np.testing.assert_allclose(np.var(totals, axis=0) / (60 * 52), expected, rtol=0.5)
