"""Instructions in compiled code give what the functions give that they stand for."""

from __future__ import annotations

from typing import Any

import numpy as np

from daskreg.runtime.compiled import jit
from daskreg.runtime.intrinsics import empty, greatest, least, zeros


@jit
def chosen(a: Any, b: Any, n: Any, small: Any) -> Any:
    return least(a, b), greatest(a, b), least(n, 1), greatest(n, -3), greatest(small, np.uint8(200))


def test_the_less_and_the_greater_of_two() -> None:
    numbers = (1.5, -2.25, 0.0, -0.0, np.inf, np.nan)
    for a in numbers:
        for b in numbers:
            found = chosen(a, b, 7, np.uint8(250))
            np.testing.assert_array_equal(found[:2], (min(a, b), max(a, b)))
            assert np.signbit(found[:2]).tolist() == np.signbit((min(a, b), max(a, b))).tolist()
            assert found[2:] == (1, 7, 250)


@jit
def made(n: Any, m: Any) -> Any:
    line, block = empty(n, np.int32), empty((2, n, m), np.float32)
    line[:], block[:] = 3, 1
    return line, block, zeros((n, m), np.float64)


def test_arrays() -> None:
    expected = np.full(3, 3, np.int32), np.ones((2, 3, 5), np.float32), np.zeros((3, 5))
    for array, like in zip(made(3, 5), expected, strict=True):
        np.testing.assert_array_equal(array, like)
        assert (array.dtype, array.flags.c_contiguous) == (like.dtype, True)
