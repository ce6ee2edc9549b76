"""Block sizes: whole stored chunks, 64 to 128 MiB."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daskreg.errors import OptionError
from daskreg.sources.chunking import LARGE, SMALL, read_block_shape, sizes_per_axis


@given(
    st.lists(st.tuples(st.integers(1, 5000), st.integers(1, 300)), min_size=1, max_size=5), st.sampled_from([1, 2, 8])
)
def test_read_block_shapes_are_whole_chunks_of_a_sensible_size(axes, itemsize):
    shape, unit = [n for n, _ in axes], [c for _, c in axes]
    lead = max(0, len(axes) - 3)
    block = read_block_shape(shape, unit, itemsize, lead)
    for n, c, b in zip(shape, unit, block, strict=True):
        assert b == n or b % c == 0
        assert 1 <= b <= n
    size = math.prod(block) * itemsize
    smallest = math.prod(map(min, shape, unit)) * itemsize
    assert size < LARGE or size == smallest
    assert size >= SMALL or all(b == n for b, n in list(zip(block, shape, strict=True))[lead:])


@pytest.mark.parametrize(
    ("chunks", "block"),
    [
        ("auto", (1, 8, 9)),
        (4, (4, 4, 4)),
        (-1, (10, 20, 30)),
        (None, (10, 20, 30)),
        ((2, -1, 64), (2, 20, 30)),
        ({"y": 5}, (1, 5, 9)),
    ],
)
def test_given_blocks(chunks, block):
    assert sizes_per_axis(chunks, "zyx", (10, 20, 30), auto=(1, 8, 9), whole=True) == block


@pytest.mark.parametrize("chunks", [0, -2, 1.5, "big", (1, 2), {"w": 1}, ((5, 5), 20, 30)])
def test_wrong_chunks_are_named(chunks):
    with pytest.raises(OptionError, match="chunks"):
        sizes_per_axis(chunks, "zyx", (10, 20, 30), auto=(1, 8, 9), whole=True)
