"""Boxes compared with sets of indices."""

from __future__ import annotations

import pickle
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import boxes, ndims, shapes

from daskreg.errors import ShapeMismatchError
from daskreg.geometry import Box, tile

pairs = ndims.flatmap(lambda n: st.tuples(boxes(n), boxes(n)))


def members(box: Box) -> set[tuple[int, ...]]:
    return set(product(*(range(a, b) for a, b in zip(box.start, box.stop, strict=True))))


@given(pairs)
def test_intersection_holds_what_both_hold(pair: tuple[Box, Box]) -> None:
    a, b = pair
    assert members(a & b) == members(a) & members(b)


@given(pairs)
def test_union_is_the_smallest_box_around_both(pair: tuple[Box, Box]) -> None:
    a, b = pair
    union = a | b
    assert a in union
    assert b in union
    points = np.array(sorted(members(a) | members(b)))
    if len(points):
        assert union.start == tuple(points.min(axis=0))
        assert union.stop == tuple(points.max(axis=0) + 1)
    else:
        assert union.empty


@given(pairs)
def test_contains_is_subset(pair: tuple[Box, Box]) -> None:
    a, b = pair
    assert (a in b) == (members(a) <= members(b))


@given(ndims.flatmap(lambda n: st.tuples(boxes(n), shapes(n, largest=9))))
def test_align_grows_to_whole_chunks(case: tuple[Box, tuple[int, ...]]) -> None:
    box, chunks = case
    whole = box.align(chunks)
    assert box in whole
    for a, b, start, stop, chunk in zip(whole.start, whole.stop, box.start, box.stop, chunks, strict=True):
        assert a % chunk == 0
        assert b % chunk == 0
        assert start - a < chunk
        assert b - stop < chunk


@given(ndims.flatmap(lambda n: st.tuples(boxes(n), boxes(n))))
def test_within_and_shift_are_inverse(pair: tuple[Box, Box]) -> None:
    inner, outer = pair
    assert inner.within(outer).shift(outer.start) == inner


@given(ndims.flatmap(lambda n: st.tuples(shapes(n, largest=12), shapes(n, largest=5))))
def test_tiles_cover_every_voxel_once(case: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    shape, block = case
    count = np.zeros(shape, int)
    previous = None
    for index, box in tile(shape, block):
        assert previous is None or index > previous  # C order
        assert box.start == tuple(i * b for i, b in zip(index, block, strict=True))
        count[box.slices] += 1
        previous = index
    assert np.all(count == 1)


def test_slices_cut_what_shape_says() -> None:
    array = np.zeros((6, 7, 8))
    box = Box((1, 2, 3), (4, 4, 8))
    assert array[box.slices].shape == box.shape == (3, 2, 5)
    assert box.size == 30
    assert Box.from_slices(box.slices) == box
    assert Box.of(array.shape).shape == array.shape
    assert box.take((2, 0)) == Box((3, 1), (8, 4))


@pytest.mark.parametrize("margin", [2, np.int64(2), (2, 2), np.array([2, 2])])
def test_grow_takes_one_margin_or_several(margin: object) -> None:
    assert Box((0, 3), (4, 8)).grow(margin) == Box((-2, 1), (6, 10))  # type: ignore[arg-type]


def test_grow_and_clip() -> None:
    box = Box((0, 3), (4, 8))
    assert box.grow((1, 0)) == Box((-1, 3), (5, 8))
    assert box.grow(-3).empty
    assert box.grow(2).clip((5, 9)) == Box((0, 1), (5, 9))
    assert Box((7, 7), (9, 9)).clip((5, 5)).empty


def test_an_inverted_box_is_empty() -> None:
    box = Box((5, 5), (2, 9))
    assert box.empty
    assert box.shape == (0, 4)
    assert box.size == 0


def test_numpy_integers_become_integers() -> None:
    box = Box(tuple(np.array([1, 2])), tuple(np.array([3, 4])))
    assert all(type(i) is int for i in (*box.start, *box.stop, *box.shape))


def test_hash_pickle_repr() -> None:
    box = Box((1, 2), (3, 4))
    assert {box: 1}[Box((1, 2), (3, 4))] == 1
    assert pickle.loads(pickle.dumps(box)) == box
    assert repr(box) == "Box[1:3, 2:4]"


def test_dimensions_must_agree() -> None:
    with pytest.raises(ShapeMismatchError, match="2 and 3 dimensions"):
        Box((0, 0), (1, 1)) & Box((0, 0, 0), (1, 1, 1))
    with pytest.raises(ShapeMismatchError, match="2 and 3 dimensions"):
        Box((0, 0), (1, 1)) | Box((0, 0, 0), (1, 1, 1))
    with pytest.raises(ShapeMismatchError, match="as many starts as stops"):
        Box((0,), (1, 2))
