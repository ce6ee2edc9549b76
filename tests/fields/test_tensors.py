"""Tensors through displacement fields: the voxels of the compiled kernels, and gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from deformations import RNG, smooth_vectors
from scipy.ndimage import gaussian_filter

import daskreg as dr
from daskreg.errors import OptionError
from daskreg.geometry import Box
from daskreg.sampling.displacements import Displaced, Displacement
from daskreg.sampling.sample import sample
from daskreg.sampling.tensors import sample_tensor


def path_of(ndim: int, order: int, *, inverse: bool, vectors: object = None) -> Displaced:
    grid = dr.Grid((7, 9, 11)[-ndim:], (6.0, 5.0, 4.0)[-ndim:], -2.0)
    values = smooth_vectors(grid, 2.0) if vectors is None else vectors
    eye, tilt = np.eye(ndim + 1), np.eye(ndim + 1)
    tilt[0, -2] = 0.03
    limits = np.stack([np.full(ndim, -3.0), np.full(ndim, 3.0)])
    parts = (tilt, grid.inverse_matrix, eye, values, (0,) * ndim, grid.shape, order)
    return Displaced((Displacement(*parts, inverse=inverse, limits=limits),))


@pytest.mark.slow
@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("image_order", [0, 1, 3])
def test_tensors_give_the_voxels_of_arrays(ndim: int, order: int, inverse: bool, image_order: int) -> None:
    shape = (19, 33, 37)[-ndim:]
    image = gaussian_filter(RNG.normal(size=shape), 1)
    path = path_of(ndim, order, inverse=inverse)
    out = Box((2,) * ndim, tuple(n + 3 for n in shape))
    expected = sample(image, Box.of(shape), path, out, order=image_order, fill=0.5)
    found = sample_tensor(torch.from_numpy(image), Box.of(shape), path, out, order=image_order, fill=0.5)
    assert np.abs(found.numpy() - expected).max() < 1e-6
    assert np.ptp(expected) > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("order", [1, 3])
def test_gradients_in_the_vectors_are_those_of_differences(ndim: int, order: int) -> None:
    shape = (8, 9, 10)[-ndim:]
    image = torch.from_numpy(gaussian_filter(RNG.normal(size=shape), 1.5))
    nodes = (4, 5, 4)[-ndim:]

    def warped(vectors: torch.Tensor) -> torch.Tensor:
        eye, scale = np.eye(ndim + 1), np.eye(ndim + 1)
        scale[:-1, :-1] *= 0.31
        scale[:-1, -1] = 0.13
        step = Displacement(eye, scale, eye, vectors, (0,) * ndim, nodes, order)
        return sample(image, Box.of(shape), Displaced((step,)), Box.of(shape), order=1)

    vectors = torch.from_numpy(RNG.uniform(-0.3, 0.3, (ndim, *nodes)) + 0.17).requires_grad_()
    # Along random directions, so that a difference counts for all vectors at once.
    assert torch.autograd.gradcheck(warped, (vectors,), eps=1e-7, atol=1e-5, fast_mode=True)


def test_an_inverse_has_no_gradient() -> None:
    vectors = torch.zeros((2, 9, 11), requires_grad=True)
    path = path_of(2, 1, inverse=True, vectors=vectors)
    with pytest.raises(OptionError, match="no gradient"):
        sample(torch.ones((20, 30)), Box.of((20, 30)), path, Box.of((20, 30)))


def test_a_warped_tensor_stays_a_tensor() -> None:
    image = gaussian_filter(RNG.normal(size=(2, 40, 50)), (0, 2, 2))
    grid = dr.Grid((6, 7), 8.0)
    field = dr.DisplacementField(smooth_vectors(grid, 2), grid)
    found = dr.warp(torch.from_numpy(image), pull=field)
    assert isinstance(found, torch.Tensor)
    assert np.abs(found.numpy() - dr.warp(image, pull=field)).max() < 1e-9
