"""Block reduction against plain loops, ragged ends included."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from daskreg.errors import OptionError
from daskreg.sampling.downsample import METHODS, block_reduce, reduce_scratch


def by_loops(array: np.ndarray, factors: tuple[int, ...], reduce) -> np.ndarray:
    shape = [-(-n // f) for n, f in zip(array.shape, factors, strict=True)]
    out = np.empty(shape, np.float64)
    for index in np.ndindex(*shape):
        block = array[tuple(slice(i * f, (i + 1) * f) for i, f in zip(index, factors, strict=True))]
        out[index] = reduce(block)
    return out


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32", "float64"])
@pytest.mark.parametrize("factors", [(2, 2, 2), (1, 2, 3), (1, 1, 1), (4, 1, 2)])
def test_means(dtype: str, factors: tuple[int, ...]) -> None:
    array = (np.random.default_rng(0).random((5, 9, 7)) * 250).astype(dtype)
    got = block_reduce(array, factors, "mean")
    expected = by_loops(array, factors, lambda b: b.astype(float).mean())
    assert got.dtype == array.dtype
    if array.dtype.kind in "ui":
        expected = np.rint(expected)
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_means_do_not_overflow_and_round_half_to_even() -> None:
    assert block_reduce(np.full((4, 4), 65535, np.uint16), (2, 2), "mean").tolist() == [[65535] * 2] * 2
    assert block_reduce(np.array([[0, 1, 1, 2]], np.uint8), (1, 2), "mean").tolist() == [[0, 2]]


def test_mode_counts_only_voxels_that_exist() -> None:
    labels = np.random.default_rng(1).integers(0, 3, (7, 9)).astype(np.uint8)

    def most_frequent(block: np.ndarray) -> int:
        return int(np.bincount(block.ravel()).argmax())

    np.testing.assert_array_equal(block_reduce(labels, (2, 2), "mode"), by_loops(labels, (2, 2), most_frequent))
    assert block_reduce(np.array([[True, True, False]]), (1, 2), "mode").tolist() == [[True, False]]


def test_nearest_takes_the_middle() -> None:
    row = np.arange(8)[None]
    assert block_reduce(row, (1, 3), "nearest").tolist() == [[1, 4, 6]]


def test_unknown_methods_are_named() -> None:
    with pytest.raises(OptionError, match="downsample='max'"):
        block_reduce(np.zeros((2, 2)), (1, 1), "max")


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", ["?", "u1", "u2", "i8", "f4"])
def test_working_memory_is_as_stated(method: str, dtype: str) -> None:
    array = (np.random.default_rng(0).random((70, 128, 96)) * 5).astype(dtype)
    expected = block_reduce(array, (2, 2, 2), method)
    tracemalloc.start()
    result = block_reduce(array, (2, 2, 2), method)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak - result.nbytes <= reduce_scratch(array.shape, (2, 2, 2)) + 2**16
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("method", METHODS)
def test_slabs_make_no_difference(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    array = np.random.default_rng(0).integers(0, 9, (1, 31, 18, 5), dtype=np.uint8)
    whole = block_reduce(array, (1, 2, 2, 2), method)
    monkeypatch.setattr("daskreg.sampling.downsample.SLAB", 100)
    np.testing.assert_array_equal(block_reduce(array, (1, 2, 2, 2), method), whole)
