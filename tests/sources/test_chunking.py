"""Block sizes: whole stored chunks, 64 to 128 MiB."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import daskreg as dr
from daskreg.errors import OptionError
from daskreg.sources.chunking import LARGE, SMALL, entries_per_axis, read_block_shape, sizes_per_axis


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


def test_lead_axes_are_one_or_left_out():
    dims, shape = ("t", "c", "y", "x"), (5, 3, 40, 50)
    auto = (1, 1, 20, 25)
    assert sizes_per_axis(8, dims, shape, auto=auto) == (5, 3, 8, 8)
    assert sizes_per_axis(8, dims, shape, auto=auto, space=2) == (1, 1, 8, 8)
    assert sizes_per_axis((8, 9), dims, shape, auto=auto, optional=2) == (1, 1, 8, 9)
    assert sizes_per_axis(np.array([2, 2, 8, 9]), dims, shape, auto=auto) == (2, 2, 8, 9)
    assert sizes_per_axis({"x": 7}, dims, shape, auto=auto, unnamed=(1, 1, 40, 50)) == (1, 1, 40, 7)
    assert sizes_per_axis(64, dims, shape, auto=auto, space=2, clip=False) == (1, 1, 64, 64)
    assert entries_per_axis("64 MiB", dims, shape, auto=auto) == ("64 MiB",) * 4
    for wrong in ((8,), (8, 9), True, -1, None):
        with pytest.raises(OptionError, match="shards=.* does not fit the axes {'t': 5, 'c': 3, 'y': 40, 'x': 50}"):
            sizes_per_axis(wrong, dims, shape, auto=auto, what="shards")


def test_open_warp_and_write_say_the_same_of_wrong_chunks(tmp_path):
    volume = dr.open(np.zeros((6, 7, 8), "u1"))
    for wrong in ("big", (1, 2, 3, 4), 0, {"w": 1}):
        said = set()
        for use in (
            lambda wrong=wrong: dr.open(volume, chunks=wrong),
            lambda wrong=wrong: dr.warp(volume, pull=dr.Affine.identity(3), chunks=wrong),
            lambda wrong=wrong: dr.write(volume, tmp_path / "a.zarr", chunks=wrong, progress=False),
        ):
            with pytest.raises(OptionError, match="chunks") as caught:
                use()
            said.add(str(caught.value))
        assert len(said) == 1
