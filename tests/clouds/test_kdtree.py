"""The k-d tree beside SciPy's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import cKDTree

from daskreg.clouds.cloud import Floats
from daskreg.clouds.kdtree import KDTree


def clouds(ndim: int) -> dict[str, Floats]:
    rng = np.random.default_rng(ndim)
    filled = rng.normal(size=(3001, ndim))
    line = np.outer(rng.random(500), np.arange(1, ndim + 1))
    lattice = np.stack(np.meshgrid(*[np.arange(7.0)] * ndim, indexing="ij"), axis=-1).reshape(-1, ndim)
    return {"filled": filled, "line": line, "lattice": lattice, "twice": np.repeat(filled[:300], 3, axis=0)}


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("shape", ["filled", "line", "lattice", "twice"])
@pytest.mark.parametrize("count", [1, 2, 14])
def test_it_finds_what_scipy_finds(ndim: int, shape: str, count: int) -> None:
    points = clouds(ndim)[shape]
    random = 1.5 * np.random.default_rng(9).normal(size=(500, ndim))
    queries = np.concatenate([random, points[:100], [[1e6] * ndim]])
    distances, rows = KDTree.of(points).query(queries, count)
    expected, _ = cKDTree(points).query(queries, k=[*range(1, count + 1)])
    np.testing.assert_allclose(distances, expected, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(
        np.linalg.norm(points[rows] - queries[:, None], axis=2), expected, rtol=1e-12, atol=1e-14
    )
    assert all(len(set(row)) == count for row in rows.tolist())


@pytest.mark.parametrize("ndim", [2, 3])
def test_its_own_points_come_in_their_order(ndim: int) -> None:
    points = clouds(ndim)["filled"]
    distances, rows = KDTree.of(points).query_self(5)
    expected, others = cKDTree(points).query(points, k=5)
    np.testing.assert_array_equal(rows, others)
    np.testing.assert_allclose(distances, expected, rtol=1e-12)


def test_missing_neighbours_are_infinitely_far() -> None:
    points = clouds(3)["filled"]
    distances, rows = KDTree.of(points).query(points[:200], 20, limit=0.3)
    expected, others = cKDTree(points).query(points[:200], k=20, distance_upper_bound=0.3)
    np.testing.assert_array_equal(rows, others)
    np.testing.assert_array_equal(np.isinf(distances), np.isinf(expected))
    distances, rows = KDTree.of(points[:3]).query(points[:4], 5)
    assert np.isinf(distances[:, 3:]).all()
    assert (rows[:, 3:] == 3).all()
    assert np.isfinite(distances[:, :3]).all()
