"""The pipeline from given poses: batched Gauss-Newton on known motions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from daskreg.errors import OptionError
from daskreg.geometry import Affine, Grid
from daskreg.registration.initial_pose import GivenPoses
from daskreg.registration.pipeline import estimate
from daskreg.registration.pose import Pose
from daskreg.registration.problem import Problem, SolverOptions, check_metric
from daskreg.registration.pyramids.pyramid import image_batch
from daskreg.runtime.torch_instead import torch_instead


def texture(shape, seed=0, scale=3.0):
    """Smooth random structure at several scales."""
    rng = np.random.default_rng(seed)
    return sum(ndimage.gaussian_filter(rng.standard_normal(shape), s) * s for s in (scale, 2 * scale, 4 * scale))


def moved(image, grid, motion, other=None):
    """`image` on `grid` moved by `motion`, on the grid `other`; NaN where it is unknown."""
    other = other or grid
    index = grid.inverse_matrix @ motion.inverse().matrix @ other.matrix
    out = ndimage.affine_transform(
        image, index[:-1, :-1], index[:-1, -1], output_shape=other.shape, order=3, mode="constant", cval=np.nan
    )
    return out.astype(np.float32)


def batch(*images):
    return torch.tensor(np.stack(images), dtype=torch.float32)


def registered(fixed, moving, start=None, *, grids=None, model="rigid", metric="ncc", masks=(None, None)):
    """`estimate` of tensors (B, *shape) from (D+1, D+1) or (B, D+1, D+1) motions, identity by default."""
    grids = grids or [Grid(values.shape[1:]) for values in (fixed, moving)]
    batches = [image_batch(*args) for args in zip((fixed, moving), grids, masks, strict=True)]
    problem = Problem(Pose.of(model, grids[0].ndim), grids[0].centre, metric)
    options = SolverOptions(smoothing=0.7, max_iterations=50)
    return estimate(problem, options, *batches, GivenPoses(np.eye(grids[0].ndim + 1) if start is None else start))


def corner_error(found, truth, grid):
    ends = np.array(np.meshgrid(*[(0, n - 1) for n in grid.shape], indexing="ij")).reshape(grid.ndim, -1).T
    points = grid.world(ends)
    return np.linalg.norm(Affine(found)(points) - truth(points), axis=1).max() / min(grid.spacing)


CASES = {
    "square": (Grid((96, 96)), {"theta": 0.1, "tx": 4, "ty": -3}),
    "long": (Grid((60, 150)), {"theta": -0.08, "tx": 5, "ty": 2}),
    "anisotropic": (Grid((96, 80), spacing=(0.5, 1.0), origin=(10, -40)), {"theta": 0.1, "tx": 3, "ty": 1}),
    "volume": (Grid((32, 40, 36)), {"rx": 0.1, "ry": -0.05, "rz": 0.1, "tx": 2, "ty": 1, "tz": -1}),
}


@pytest.mark.parametrize("metric", ["ncc", "mse"])
@pytest.mark.parametrize("case", CASES)
def test_a_known_motion_is_found(case, metric):
    grid, motion = CASES[case]
    truth = Affine.from_parameters(motion, ndim=grid.ndim, centre=grid.centre)
    fixed = texture(grid.shape)
    moving = moved(fixed, grid, truth)
    if metric == "ncc":
        moving = 3 * moving - 7
    fit = registered(batch(fixed), batch(moving), grids=(grid, grid), metric=metric)
    assert fit.converged.all()
    assert corner_error(fit.matrices[0], truth, grid) < 0.05
    assert fit.after[0] > fit.before[0] if metric == "ncc" else fit.after[0] < fit.before[0]


def test_grids_of_different_shape_spacing_and_origin():
    grid, other = Grid((90, 100)), Grid((70, 64), spacing=(1.5, 1.7), origin=(-5, -3))
    truth = Affine.from_parameters(theta=0.1, tx=2, ty=-3, sx=1.05, shx=0.05, centre=grid.centre)
    fixed = texture(grid.shape)
    fit = registered(batch(fixed), batch(moved(fixed, grid, truth, other)), grids=(grid, other), model="affine")
    assert corner_error(fit.matrices[0], truth, grid) < 0.1


def test_a_batch_equals_the_loop():
    grid = Grid((64, 72))
    motions = [Affine.from_parameters(theta=0.05 * k, tx=k, ty=-k, centre=grid.centre) for k in range(-2, 3)]
    fixed = texture(grid.shape)
    moving = batch(*[moved(fixed, grid, m) for m in motions])
    together = registered(batch(fixed), moving, model="rigid")
    for k, motion in enumerate(motions):
        alone = registered(batch(fixed), moving[k : k + 1], model="rigid")
        np.testing.assert_allclose(together.matrices[k], alone.matrices[0], atol=1e-5)
        assert corner_error(together.matrices[k], motion, grid) < 0.03


def test_locked_groups_stay_locked():
    grid = Grid((80, 80))
    truth = Affine.from_parameters(theta=0.1, tx=3, ty=1, sx=1.05, sy=0.97, centre=grid.centre)
    fixed = texture(grid.shape)
    moving = batch(moved(fixed, grid, truth))
    rigid = registered(batch(fixed), moving, model="rigid")
    linear = rigid.matrices[0][:2, :2]
    np.testing.assert_allclose(linear @ linear.T, np.eye(2), atol=1e-12)
    similar = registered(batch(fixed), moving, model="similarity")
    linear = similar.matrices[0][:2, :2]
    np.testing.assert_allclose(linear @ linear.T, np.eye(2) * np.linalg.det(linear), atol=1e-12)
    free = registered(batch(fixed), moving, model=("rotation", "translation", "scale"))
    assert corner_error(free.matrices[0], truth, grid) < 0.03


def test_masks_hide_what_would_mislead():
    grid = Grid((96, 96))
    truth = Affine.from_parameters(theta=0.06, tx=3, ty=-2, centre=grid.centre)
    fixed = texture(grid.shape)
    moving = moved(fixed, grid, truth)
    fixed_mask, moving_mask = np.ones(grid.shape, bool), np.ones(grid.shape, bool)
    fixed_mask[:25, :40] = moving_mask[60:, 50:] = False
    rng = np.random.default_rng(1)
    broken, other = fixed.copy(), moving.copy()
    broken[~fixed_mask] = 30 * rng.standard_normal((~fixed_mask).sum())
    other[~moving_mask] = 30 * rng.standard_normal((~moving_mask).sum())
    masks = torch.tensor(fixed_mask)[None], torch.tensor(moving_mask)[None]
    fit = registered(batch(broken), batch(other), masks=masks)
    assert corner_error(fit.matrices[0], truth, grid) < 0.03


def test_never_worse_than_the_start_and_unknown_metrics_refused():
    rng = np.random.default_rng(0)
    fit = registered(batch(rng.random((40, 40))), batch(rng.random((40, 40))), model="affine")
    assert fit.after[0] >= fit.before[0]
    with pytest.raises(OptionError, match="ncc"):
        check_metric("sharpness")


def test_torch_alone_gives_the_same():
    """What runs on other devices: sums and filters by torch."""
    grid = Grid((70, 64))
    truth = Affine.from_parameters(theta=0.1, tx=4, ty=-3, sx=1.03, centre=grid.centre)
    fixed = texture(grid.shape)
    moving = batch(moved(fixed, grid, truth))
    compiled = registered(batch(fixed), moving, model="affine")
    with torch_instead(True):
        by_torch = registered(batch(fixed), moving, model="affine")
    np.testing.assert_allclose(by_torch.matrices, compiled.matrices, atol=1e-4)
    np.testing.assert_allclose(by_torch.covariance, compiled.covariance, rtol=1e-2)


def test_a_flat_border_is_left_out_only_where_it_was_filled():
    grid = Grid((128, 128))
    truth = Affine.from_parameters(theta=0.15, tx=8, ty=-6, centre=grid.centre)
    fixed = texture(grid.shape, scale=1.5) + 30
    filled = np.nan_to_num(moved(fixed, grid, truth))
    fit = registered(batch(fixed), batch(filled), truth.matrix, model="affine")
    assert corner_error(fit.matrices[0], truth, grid) < 0.05
    # An object on a flat background: its edge is what there is to match.
    y, x = np.mgrid[:128, :128] - 63.5
    disc = (y**2 + (x / 1.2) ** 2 < 40**2).astype(np.float32)
    shown = np.nan_to_num(moved(disc, grid, truth))
    fit = registered(batch(disc), batch(shown), model="rigid")
    assert corner_error(fit.matrices[0], truth, grid) < 0.3
