"""How much of an image is noise, from how well another one explains it: also where that is little."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from phantoms import plane_waves

from daskreg.geometry import Grid
from daskreg.registration.levenberg_marquardt import LevelObjective
from daskreg.registration.noise import noise_share, with_best_smoothing
from daskreg.registration.pose import Pose
from daskreg.registration.problem import Problem
from daskreg.registration.pyramids.pyramid import ImageBatch, image_batch, pyramid, smooth

SHAPE, ANGLE = (211, 237), 0.1
GRID = Grid(SHAPE)


def scene(matrix):
    """Waves of 8 to 40 voxels, of variance 1, at the points that a matrix makes of indices."""
    rng = np.random.default_rng(7)
    waves = rng.uniform(-1, 1, (40, 2)) * 2 * np.pi / rng.uniform(8, 40, (40, 1))
    return plane_waves(SHAPE, matrix, waves, rng.uniform(0, 6.28, 40)) / np.sqrt(20)


@pytest.mark.parametrize(("metric", "size"), [("ncc", 0.5), ("ncc", 3.0), ("mse", 3.0)])
def test_the_share_of_noise_is_right_at_any_correlation(metric, size):
    rng = np.random.default_rng(3)
    problem = Problem(Pose.of("rigid", 2), GRID.centre, metric)
    p = np.zeros((1, 3))
    p[0, problem.pose.names.index("theta")] = ANGLE
    motion = problem.pose.motions(p, problem.centre)[0][0]
    back = np.linalg.inv(np.vstack([motion[:2], [0, 0, 1]]))
    noise = rng.normal(0, size, SHAPE)
    images = [scene(np.eye(3)) + noise, scene(back) + rng.normal(0, size, SHAPE)]
    fixed, moving = (image_batch(torch.from_numpy(image)[None], GRID) for image in images)
    level = pyramid(fixed, moving, levels=1, smoothing=0.5)[-1]
    found = LevelObjective(problem, level).evaluate(p)
    share = noise_share(level, found.noise, found.correlation(metric))[0]
    alone = ImageBatch(torch.from_numpy(noise.astype(np.float32))[None], None, GRID)
    true = _mean_square_gradient(smooth(alone, level.sigmas[0])) / _mean_square_gradient(level.fixed)
    assert share == pytest.approx(min(true, 0.95), abs=0.03)
    better = with_best_smoothing(level, found.noise, found.correlation(metric))
    assert better is not None
    assert (better.sigmas[0][0] > 1.4) is (size > 1)


def _mean_square_gradient(image):
    return sum(np.mean(np.gradient(image.values[0].numpy(), axis=axis) ** 2) for axis in (0, 1))
