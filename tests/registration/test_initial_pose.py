"""Initial poses far from identity, and which of them is chosen."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from phantoms import blobs
from scipy import ndimage

from daskreg.geometry import Affine, Grid
from daskreg.registration.initial_candidates import correlate, moments
from daskreg.registration.initial_pose import all_rotations, candidates, choose, near_rotations
from daskreg.registration.pose import Pose
from daskreg.registration.problem import Problem, half_extent
from daskreg.registration.pyramids.masked_pyramids import masked_pyramids
from daskreg.registration.pyramids.pyramid import image_batch


def pyramids_of(fixed, moving, grid, other=None):
    f = image_batch(torch.tensor(fixed, dtype=torch.float32)[None], grid)
    m = image_batch(torch.tensor(moving, dtype=torch.float32)[None], other or grid)
    return masked_pyramids(f, m, "ncc", levels="auto", smoothing=0.7)


def moved(image, grid, motion, other=None):
    index = grid.inverse_matrix @ motion.inverse().matrix @ (other or grid).matrix
    return ndimage.affine_transform(
        image, index[:-1, :-1], index[:-1, -1], output_shape=(other or grid).shape, order=1, mode="constant"
    )


def displacement(found, truth, grid):
    """Of the middle and of a point half way to a corner, in voxels."""
    points = grid.centre + np.outer([0, 0.5], half_extent(grid))
    return np.linalg.norm(Affine(found)(points) - truth(points), axis=1).max() / min(grid.spacing)


@pytest.mark.parametrize("ndim", [2, 3])
def test_rotations_are_covered(ndim):
    turns = np.array(all_rotations(ndim))
    np.testing.assert_allclose(turns @ turns.transpose(0, 2, 1), np.broadcast_to(np.eye(ndim), turns.shape), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(turns), 1)
    rng = np.random.default_rng(0)
    for _ in range(50):
        q, r = np.linalg.qr(rng.standard_normal((ndim, ndim)))
        q = q * np.sign(np.diag(r))
        q[:, 0] *= np.linalg.det(q)
        cosine = (np.einsum("kij,ij->k", turns, q) - (ndim - 2)) / 2
        assert np.degrees(np.arccos(np.clip(cosine.max(), -1, 1))) < (4 if ndim == 2 else 35)


def test_near_rotations_stay_near():
    assert len(near_rotations(2)) == 13
    assert len(near_rotations(3)) == 7


@pytest.mark.parametrize("turned", [0, 90, 170])
def test_correlation_finds_shift_and_turn_between_grids(turned):
    grid = Grid((90, 110), spacing=(1.0, 1.0), origin=(5, -20))
    other = Grid((120, 100), spacing=(1.2, 0.9), origin=(300, 40))
    truth = Affine(
        Affine.from_parameters(ty=10, tx=-6).matrix
        @ Affine.from_parameters(ty=other.centre[0] - grid.centre[0], tx=other.centre[1] - grid.centre[1]).matrix
        @ Affine.rotation(np.radians(turned), centre=grid.centre).matrix
    )
    image = blobs(grid.shape, seed=1)
    level = pyramids_of(image, moved(image, grid, truth, other), grid, other).levels[0]
    best = correlate(level, all_rotations(2))[0]
    assert displacement(best, truth, grid) < 8


def test_moments_find_a_large_motion_of_an_object():
    grid = Grid((36, 40, 44))
    truth = Affine.from_parameters(rx=0.6, ry=-0.4, rz=0.7, tx=3, ty=-2, tz=1, centre=grid.centre)
    image = blobs(grid.shape, seed=2, margin=0.35)
    level = pyramids_of(image, moved(image, grid, truth), grid).levels[-1]
    errors = [displacement(m, truth, grid) for m in moments(level.fixed, level.moving)]
    assert min(errors) < 2


@pytest.mark.parametrize("kind", ["auto", "moments", "phase", "search"])
def test_the_best_candidate_is_chosen(kind):
    turn = 2.4 if kind == "search" else 0.5 if kind in ("auto", "moments") else 0.05
    grid = Grid((96, 80))
    truth = Affine.from_parameters(theta=turn, tx=9, ty=-7, centre=grid.centre)
    image = blobs(grid.shape, seed=4)
    pyramids = pyramids_of(image, moved(image, grid, truth), grid)
    problem = Problem(Pose.of("rigid", 2), grid.centre, "ncc")
    starts = problem.parameters_of(candidates(pyramids, kind), grid)
    found = problem.pose.motions(choose(problem, pyramids.levels, starts)[0], grid.centre)[0][0]
    assert displacement(found, truth, grid) < 1


def test_of_equal_candidates_the_smallest_motion_is_chosen():
    y, x = np.mgrid[-1:1:65j, -1:1:65j]
    cross = ((np.abs(x) < 0.1) | (np.abs(y) < 0.1)) & (x * x + y * y < 0.5)
    image = ndimage.gaussian_filter(cross.astype(float), 1)
    grid = Grid(image.shape)
    truth = Affine.rotation(0.35, centre=grid.centre)
    pyramids = pyramids_of(image, moved(image, grid, truth), grid)
    problem = Problem(Pose.of("rigid", 2), grid.centre, "ncc")
    far = [Affine.rotation(0.35 + k * np.pi / 2, centre=grid.centre).matrix for k in (1, 2, 3)]
    starts = problem.parameters_of([*far, np.eye(3)], grid)
    assert choose(problem, pyramids.levels, starts)[0][0, 0].item() == pytest.approx(0.35, abs=0.02)
