"""The level that is subtracted before voxels become float32."""

from __future__ import annotations

import numpy as np
import pytest

from daskreg.geometry import Box
from daskreg.sources.level import level_of


def level(values):
    return level_of(lambda box: values[box.slices], Box.of(values.shape), values.dtype)


@pytest.mark.parametrize("shape", [(40, 51), (7, 30, 41), (1, 1), (2, 3, 5), (300,)])
def test_it_is_near_the_voxels(shape):
    values = 1e9 + np.random.default_rng(0).random(shape)
    assert 1e9 <= level(values) <= 1e9 + 1


def test_what_float32_holds_has_none():
    for dtype in ("u1", "i2", "f2", "f4", "?"):
        assert level(np.ones((9, 8), dtype)) == 0


def test_gaps_and_nan_do_not_set_it():
    counts = np.full((60, 60), 100, np.uint32)
    counts[25:35] = 2**32 - 1
    assert level(counts) == 100
    numbers = np.full((60, 60), 5e9)
    numbers[:, 20:40] = np.nan
    assert level(numbers) == 5e9
    assert level(np.full((6, 6), np.nan)) == 0
