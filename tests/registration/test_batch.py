"""Many pairs at once are what they are one by one."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from phantoms import blobs

import daskreg as dr
from daskreg import errors
from daskreg.geometry import Affine, Grid


def pairs(count, shape, *, far=()):
    grid = Grid(shape)
    rng = np.random.default_rng(5)
    fixed, moving, truth = [], [], []
    for k in range(count):
        turn = 0.5 if k in far else rng.uniform(-0.05, 0.05)
        shift = 12 if k in far else rng.uniform(-2, 2)
        t = Affine.from_parameters(theta=turn, tx=shift, ty=1, sx=1.02, centre=grid.centre)
        image = blobs(shape, seed=k)
        fixed.append(image)
        moving.append(dr.warp(image, push=t, order=3, fill=np.nan))
        truth.append(t)
    return np.stack(fixed), np.stack(moving), truth, grid


def apart(a, b, grid):
    ends = np.array([[0, 0], [0, grid.shape[1] - 1], [grid.shape[0] - 1, 0], [n - 1 for n in grid.shape]])
    return np.linalg.norm(a(ends) - b(ends), axis=1).max()


@pytest.mark.slow
def test_each_pair_as_alone():
    fixed, moving, truth, grid = pairs(5, (90, 110), far=(3,))
    done = []
    fits = dr.register_many(fixed, moving, progress=lambda k, n: done.append((k, n)))
    assert done[-1] == (5, 5)
    for f, m, t, fit in zip(fixed, moving, truth, fits, strict=True):
        assert fit.ok
        assert apart(fit.moving_from_fixed, t, grid) < 0.05
        alone = dr.register(f, m)
        assert apart(fit.moving_from_fixed, alone.moving_from_fixed, grid) < 0.02
        np.testing.assert_allclose(np.diag(fit.covariance), np.diag(alone.covariance), rtol=0.2)


def test_one_fixed_image_for_all_and_sequences_of_arrays():
    grid = Grid((64, 72))
    image = blobs(grid.shape, seed=1)
    truth = [Affine.translation(x=k, y=-k) for k in range(3)]
    moving = [dr.warp(image, push=t, fill=np.nan) for t in truth]
    for fixed in (image, [image], xr.DataArray(image, dims=("y", "x"))):
        fits = dr.register_many(fixed, moving, model="translation", init="identity")
        for fit, t in zip(fits, truth, strict=True):
            assert apart(fit.moving_from_fixed, t, grid) < 0.02


def test_bad_batches():
    image = blobs((40, 44))
    with pytest.raises(errors.ShapeMismatchError, match="2 fixed"):
        dr.register_many([image] * 2, [image] * 3)
    with pytest.raises(errors.ShapeMismatchError, match="moving 1"):
        dr.register_many(image, [image, image[:-1]])
    with pytest.raises(errors.ShapeMismatchError, match="no moving"):
        dr.register_many(image, [])
    with pytest.raises(errors.DegenerateImageError, match="moving 1"):
        dr.register_many(image, [image, image * 0])
    with pytest.raises(errors.OptionError, match="register for each pair"):
        dr.register_many(image, [image], metric="mi")
