"""Poses from pairs whose errors are known."""

from __future__ import annotations

import numpy as np
import pytest

from daskreg.geometry import Grid
from daskreg.registration.pose import Pose
from daskreg.stacks.model import Model
from daskreg.stacks.pair_table import PairTable, field_count
from daskreg.stacks.pose_solve import place

N, SHAPE = 30, (60, 80)
GRID = Grid(SHAPE)
MODEL = Model(Pose.of("translation", 2), GRID.centre, GRID, "ncc")


def pairs(truth, sigma, misled, seed=0):
    """Pairs one, two and three slices apart: noise in all, and `misled` by 1, 4 and 9 times as much, all alike."""
    edges = np.array([(a, b) for b in range(N) for a in range(max(0, b - 3), b)])
    gap = np.diff(edges, axis=1)
    noise = np.random.default_rng(seed).normal(size=(len(edges), 2)) * sigma
    matrices = np.tile(np.eye(3), (len(edges), 1, 1))
    matrices[:, :2, 2] = truth[edges[:, 1]] - truth[edges[:, 0]] + noise + gap**2 * misled
    one, fields = np.ones(len(edges)), np.full((len(edges), field_count(2) ** 2), np.nan, np.float32)
    return PairTable(edges, matrices, np.tile(np.eye(2) * sigma**2, (len(edges), 1, 1)), one, one, one, fields)


def drift(table, truth):
    """By how much the last slice is off from the first, and the fast part of what is left."""
    placed = place(table, np.zeros(N, bool), MODEL)
    error = placed.poses[:, :2, 2] - truth
    return np.linalg.norm(error[-1] - error[0]), np.diff(error, axis=0).std(), placed


@pytest.fixture(scope="module")
def truth():
    return np.cumsum(np.random.default_rng(1).normal(size=(N, 2)), axis=0)


def test_far_pairs_that_a_changing_specimen_misleads_have_less_to_say(truth):
    """Direct neighbours err by 0.1 each step; with an equal say for all, the drift would be 2.5 times that."""
    off, _, placed = drift(pairs(truth, 0.02, 0.1), truth)
    near = 0.1 * np.sqrt(2) * (N - 1)
    assert near < off < 1.5 * near
    assert np.isfinite(placed.covariance).all()


def test_far_pairs_as_good_as_near_ones_help(truth):
    """Where noise is all there is, they count in full: a smaller error of each step than from neighbours alone."""
    table = pairs(truth, 0.2, 0.0)
    alone = table.take(np.diff(table.edges, axis=1)[:, 0] == 1)
    assert drift(table, truth)[1] < 0.75 * drift(alone, truth)[1]
