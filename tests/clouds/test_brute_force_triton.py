"""Nearest points by Triton beside SciPy's tree: on a GPU, or on a CPU with TRITON_INTERPRET=1 set from the start."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from on_triton import NEEDS_TRITON, ON
from scipy.spatial import cKDTree

from daskreg.clouds import brute_force_triton
from daskreg.clouds.brute_force import nearest_brute_force

pytestmark = NEEDS_TRITON


@pytest.fixture(autouse=True)
def triton_even_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(brute_force_triton, "ready", lambda device: True)


def found(cloud: np.ndarray, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return nearest_brute_force(torch.from_numpy(cloud).to(ON), queries)


def all_squared(cloud: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """One axis after the other, as the trees do."""
    total = np.zeros((len(queries), len(cloud)))
    for axis in range(cloud.shape[1]):
        total += np.subtract.outer(queries[:, axis], cloud[:, axis]) ** 2
    return total


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize(("many", "number"), [(1, 1), (63, 40), (64, 32), (65, 33), (1500, 70), (700, 1)])
def test_nearest_points_are_those_of_a_tree(many: int, number: int, ndim: int) -> None:
    rng = np.random.default_rng(many)
    cloud, queries = rng.normal(size=(many, ndim)), rng.normal(size=(number, ndim))
    distances, rows = found(cloud, queries)
    expected, where = cKDTree(cloud).query(queries)
    np.testing.assert_array_equal(rows, where)
    np.testing.assert_allclose(distances, expected, rtol=1e-15)
    assert rows.dtype == np.int64


def test_the_digits_of_maps() -> None:
    """Micrometres apart, millions from the origin: what float32 takes for one point."""
    rng = np.random.default_rng(0)
    middle = np.array([5.4e6, 3.2e5, 1.1e3])
    cloud = middle + 1e-5 * rng.normal(size=(300, 3))
    queries = middle + 1e-5 * rng.normal(size=(50, 3))
    distances, rows = found(cloud, queries)
    squared = all_squared(cloud, queries)
    np.testing.assert_array_equal(rows, squared.argmin(1))
    np.testing.assert_array_equal(distances, np.sqrt(squared.min(1)))


@pytest.mark.parametrize("number", [20, 1])
def test_ties_go_to_the_lowest_row(number: int) -> None:
    """Queries between the points of a lattice, each of which is there several times, in rows far apart."""
    lattice = np.stack(np.meshgrid(*[np.arange(4.0)] * 3, indexing="ij"), -1).reshape(-1, 3)
    cloud = np.concatenate([np.random.default_rng(k).permutation(lattice) for k in range(30)])
    queries = np.random.default_rng(0).integers(0, 7, (number, 3)) / 2
    distances, rows = found(cloud, queries)
    squared = all_squared(cloud, queries)
    np.testing.assert_array_equal(rows, squared.argmin(1))
    np.testing.assert_array_equal(distances, np.sqrt(squared.min(1)))


def test_any_strides_and_no_queries() -> None:
    rng = np.random.default_rng(0)
    cloud, queries = torch.from_numpy(rng.random((100, 3))).to(ON), torch.from_numpy(rng.random((40, 3))).to(ON)
    plain = brute_force_triton.nearest(cloud, queries)
    for turned in (cloud.T.contiguous().T, torch.cat([cloud, cloud], 1)[:, :3]):
        for got, expected in zip(brute_force_triton.nearest(turned, queries), plain, strict=True):
            assert torch.equal(got, expected)
    assert [len(part) for part in brute_force_triton.nearest(cloud, queries[:0])] == [0, 0]
