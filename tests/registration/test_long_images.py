"""Images with one long axis: positions along it must not be rounded, whatever the length, the axis and the estimator.

Lengths are odd: half of a power of two happens to be exact in float32.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

import daskreg as dr
from daskreg.geometry import Box, Grid
from daskreg.kernels import sample
from daskreg.registration.normal_equations.edge_weights import scaling
from daskreg.registration.normal_equations.equations import NormalEquationsNumba
from daskreg.registration.normal_equations.equations_torch import NormalEquationsTorch, NormalEquationsTriton
from daskreg.registration.pose import Pose
from daskreg.registration.pyramids.pyramid import PyramidLevel, image_batch
from daskreg.stacks.neighbor_registration import ImageSequence
from daskreg.stacks.pair_registration import PairOptions

SHAPES = [(5, 2999), (5, 29999), (29999, 5), (3, 4, 14999), (3, 14999, 4), (14999, 3, 4)]
# Of one voxel of the long axis, at a margin that keeps all samples inside.
STRETCH, MARGIN = 1 + 1e-5, 2


def texture(shape, sigma=1.5, seed=0):
    image = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), sigma)
    return (image / image.std()).astype(np.float32)


def sampled_pair(shape):
    """Moving, fixed sampled from it in float64 by SciPy, and the (1, D, D+1) map from fixed to moving indices."""
    ndim = len(shape)
    moving = texture([n + 2 * MARGIN for n in shape])
    index_map = np.eye(ndim + 1)[:-1] + 0.0
    long = int(np.argmax(shape))
    index_map[long, long] = STRETCH
    index_map[:, -1] = np.linspace(0.3, 1.6, ndim)
    exact = ndimage.affine_transform(
        moving.astype(np.float64), index_map[:, :-1], index_map[:, -1], output_shape=shape, order=1
    )
    return moving, exact.astype(np.float32), index_map[None]


def equations_of(moving, fixed, kind):
    fixed, moving = (image_batch(torch.from_numpy(v)[None], Grid(v.shape), find_borders=False) for v in (fixed, moving))
    return kind(PyramidLevel(fixed, moving, 1.0))


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", [NormalEquationsNumba, NormalEquationsTorch])
def test_no_residual_at_the_right_map(shape, kind):
    moving, fixed, index_map = sampled_pair(shape)
    sums = equations_of(moving, fixed, kind)(index_map @ scaling(shape))
    n, _, _, dd, _, ww = sums.scalars[0]
    assert n > 0.2 * np.prod(shape)
    assert dd < 1e-8 * ww


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
@pytest.mark.parametrize("shape", SHAPES)
def test_no_residual_on_a_gpu(shape):
    moving, fixed, index_map = sampled_pair(shape)
    f, m = (image_batch(torch.from_numpy(v)[None].cuda(), Grid(v.shape), find_borders=False) for v in (fixed, moving))
    for kind in (NormalEquationsTorch, NormalEquationsTriton):
        scalars = kind(PyramidLevel(f, m, 1.0))(index_map @ scaling(shape)).scalars[0]
        assert scalars[3] < 1e-8 * scalars[5]


@pytest.mark.parametrize("shape", [(5, 29999), (29999, 5)])
@pytest.mark.parametrize("order", [1, 3])
def test_samples_of_tensors_with_a_gradient(shape, order):
    moving, _, index_map = sampled_pair(shape)
    matrix = np.eye(3)
    matrix[:-1] = index_map[0]
    expected = sample(moving.astype(np.float64), Box.of(moving.shape), matrix, Box.of(shape), order=order)
    there = torch.from_numpy(matrix).requires_grad_()
    found = sample(torch.from_numpy(moving), Box.of(moving.shape), there, Box.of(shape), order=order)
    np.testing.assert_allclose(found.detach().numpy(), expected, atol=1e-5)


def shifted_pair(shape, shift):
    scene = texture([n + 2 * abs(s) for n, s in zip(shape, shift, strict=True)])
    return [
        scene[tuple(slice(abs(s) + k * s, abs(s) + k * s + n) for n, s in zip(shape, shift, strict=True))]
        for k in (0, 1)
    ]


def shift_error(matrix, shape, shift, axes=slice(None)):
    """Voxels by which a corner misses an exact shift at most, along some axes."""
    ends = np.array(np.meshgrid(*[(0, n - 1) for n in shape], indexing="ij")).reshape(len(shape), -1).T
    moved = ends @ (matrix[:-1, :-1] - np.eye(len(shape))).T + matrix[:-1, -1] + np.array(shift)
    return np.abs(moved)[:, axes].max()


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(33, 1999), (33, 29999), (8191, 35)])
@pytest.mark.parametrize(
    "options",
    [
        {"model": "translation"},
        {"model": "rigid", "init": "phase"},
        {"model": "rigid", "init": "search", "metric": "mse"},
        {"model": "affine"},
    ],
)
def test_pairs(shape, options):
    shift = (3, 7)
    fit = dr.register(*shifted_pair(shape, shift), **options)
    assert fit.ok
    assert shift_error(fit.moving_from_fixed.matrix, shape, shift) < 0.01


@pytest.mark.slow
def test_a_metric_by_autograd():
    shape, shift = (19, 9999), (3, 7)
    fit = dr.register(*shifted_pair(shape, shift), model="translation", metric="mae", init="identity")
    assert fit.ok
    assert shift_error(fit.moving_from_fixed.matrix, shape, shift) < 0.01


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(11, 13, 2999), (11, 2999, 13), (2999, 11, 13)])
def test_volumes(shape):
    shift = (1, -1, 2)
    fit = dr.register(*shifted_pair(shape, shift), model="translation")
    assert fit.ok
    # Along axes of a dozen voxels, most voxels are near an edge: what smoothing does there is not what is tested.
    assert shift_error(fit.moving_from_fixed.matrix, shape, shift, axes=int(np.argmax(shape))) < 0.001


@pytest.mark.slow
def test_many_pairs_and_stacks():
    shape, shift = (33, 5999), (2, 6)
    fixed, moving = shifted_pair(shape, shift)
    for fit, by in zip(
        dr.register_many(np.stack([fixed] * 2), np.stack([moving, fixed]), model="rigid"), (shift, (0, 0)), strict=True
    ):
        assert shift_error(fit.moving_from_fixed.matrix, shape, by) < 0.01
    images = torch.from_numpy(np.stack([fixed, moving]))
    sequence = ImageSequence(images, np.zeros(2, bool), Grid(shape), PairOptions(Pose.of("rigid", 2), "ncc"))
    assert shift_error(sequence.register(np.array([[0, 1]])).matrices[0], shape, shift) < 0.01
    narrow = (33, 1999)  # is read in full
    stack = dr.align_stack(np.stack(shifted_pair(narrow, shift)), model="rigid")
    first, second = stack.raw_from_aligned.matrices
    assert shift_error(second @ np.linalg.inv(first), narrow, shift) < 0.01
