"""Poses from pairs whose errors are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from daskreg.geometry import Grid
from daskreg.registration.pose import Pose
from daskreg.stacks.model import StackModel
from daskreg.stacks.pair_table import PairTable, field_count
from daskreg.stacks.pairing import better_of
from daskreg.stacks.pose_solve import solve_poses

N, SHAPE = 30, (60, 80)
GRID = Grid(SHAPE)
MODEL = StackModel(Pose.of("translation", 2), GRID.centre, GRID, "ncc")


def pairs(truth, sigma, bias, seed=0):
    """Pairs one, two and three slices apart, with noise, and with a common bias of 1, 4 and 9 times `bias`."""
    edges = np.array([(a, b) for b in range(N) for a in range(max(0, b - 3), b)])
    gap = np.diff(edges, axis=1)
    noise = np.random.default_rng(seed).normal(size=(len(edges), 2)) * sigma
    matrices = np.tile(np.eye(3), (len(edges), 1, 1))
    matrices[:, :2, 2] = truth[edges[:, 1]] - truth[edges[:, 0]] + noise + gap**2 * bias
    one, fields = np.ones(len(edges)), np.full((len(edges), field_count(2) ** 2), np.nan, np.float32)
    covariance, unknown = np.tile(np.eye(2) * sigma**2, (len(edges), 1, 1)), np.full(len(edges), np.nan)
    return PairTable(edges, matrices, covariance, one, one, one, fields, unknown)


def drift(table, truth):
    """The error of the last slice relative to the first, the fast part of the error, and the solution."""
    solution = solve_poses(table, np.zeros(N, bool), MODEL)
    error = solution.poses[:, :2, 2] - truth
    return np.linalg.norm(error[-1] - error[0]), np.diff(error, axis=0).std(), solution


@pytest.fixture(scope="module")
def truth():
    return np.cumsum(np.random.default_rng(1).normal(size=(N, 2)), axis=0)


def test_far_pairs_biased_by_a_changing_specimen_have_a_small_weight(truth):
    """Direct neighbours have an error of 0.1 each; with equal weights for all, the drift would be 2.5 times that."""
    off, _, solution = drift(pairs(truth, 0.02, 0.1), truth)
    near = 0.1 * np.sqrt(2) * (N - 1)
    assert near < off < 1.5 * near
    assert np.isfinite(solution.covariance).all()


def test_far_pairs_without_bias_reduce_the_error(truth):
    """With noise alone they have their full weight: the error of each step is smaller than from neighbours alone."""
    table = pairs(truth, 0.2, 0.0)
    alone = table.take(np.diff(table.edges, axis=1)[:, 0] == 1)
    assert drift(table, truth)[1] < 0.75 * drift(alone, truth)[1]


@pytest.mark.parametrize(("metric", "kept"), [("ncc", [0.9, 0.8, 0.3]), ("mse", [0.5, 0.2, 0.3])])
def test_the_better_of_two_fits_of_a_pair_is_kept(metric: str, kept: list[float]) -> None:
    """A high correlation is good, and so is a low mean squared difference; a fit that failed is neither."""
    some = pairs(np.zeros((N, 2)), 0.1, 0.0).take(slice(0, 3))
    old = replace(some, scores=np.array([0.9, 0.2, np.nan]))
    new = replace(some, scores=np.array([0.5, 0.8, 0.3]))
    assert better_of(old, new, metric, 10_000).scores.tolist() == kept
    assert better_of(new, old, metric, 10_000).edges.tolist() == some.edges.tolist()
