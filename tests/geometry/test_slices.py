"""SliceAffines compared with one Affine for each slice."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import affines, slice_affines, vectors

from daskreg.errors import InvalidTransformError, OptionError, ShapeMismatchError, UnitError
from daskreg.geometry import Affine, SliceAffines

Floats = np.ndarray[Any, np.dtype[np.float64]]


def three_shifts(**options: Any) -> SliceAffines:
    return SliceAffines([Affine.translation(x=i, y=-i).matrix for i in (1.0, 2.0, 3.0)], **options)


@pytest.mark.slow
@given(st.tuples(slice_affines(), vectors(2)))
def test_each_slice_is_its_own_affine(case: tuple[SliceAffines, Floats]) -> None:
    stack, point = case
    index = np.arange(stack.start, stack.stop)
    assert len(stack) == len(list(stack)) == len(index)
    for k, one in zip(index, stack, strict=True):
        assert stack[int(k)] == one
        np.testing.assert_allclose(stack(point, k), one(point), rtol=0, atol=1e-10)
    points = np.stack([point + i for i in range(len(index))])
    expected = np.stack([one(p) for one, p in zip(stack, points, strict=True)])
    np.testing.assert_allclose(stack(points, index), expected, rtol=0, atol=1e-10)
    np.testing.assert_allclose(stack(point, index[:, None])[:, 0], [one(point) for one in stack], atol=1e-10)


@pytest.mark.slow
@given(st.tuples(slice_affines(), affines(2)))
def test_composition_and_inverse_are_slice_by_slice(case: tuple[SliceAffines, Affine]) -> None:
    stack, one = case
    inverse = stack.inverse()
    after, before, both = stack @ one, one @ stack, stack @ inverse
    assert isinstance(before, SliceAffines)
    for i in range(stack.start, stack.stop):
        np.testing.assert_array_equal(after[i].matrix, (stack[i] @ one).matrix)
        np.testing.assert_array_equal(before[i].matrix, (one @ stack[i]).matrix)
        np.testing.assert_allclose(inverse[i].matrix, stack[i].inverse().matrix, rtol=0, atol=1e-12)
        np.testing.assert_allclose(both[i].matrix, np.eye(3), rtol=0, atol=1e-9)
    assert (after.start, after.axis) == (stack.start, stack.axis)


@pytest.mark.slow
@given(st.tuples(slice_affines(), st.data()))
def test_restrict_keeps_the_indices(case: tuple[SliceAffines, st.DataObject]) -> None:
    stack, data = case
    a = data.draw(st.integers(stack.start, stack.stop - 1))
    b = data.draw(st.integers(a + 1, stack.stop))
    part = stack.restrict(a, b)
    assert (part.start, part.stop) == (a, b)
    assert all(part[i] == stack[i] for i in range(a, b))
    assert stack.restrict(stack.start, stack.stop) == stack


@pytest.mark.slow
@given(slice_affines(unit="um"))
def test_dict_pickle_and_hash(stack: SliceAffines) -> None:
    for again in (SliceAffines.from_dict(stack.to_dict()), pickle.loads(pickle.dumps(stack))):
        assert again == stack
        assert hash(again) == hash(stack)


def test_what_makes_them_different() -> None:
    stack = three_shifts()
    assert stack != three_shifts(axis=1)
    assert stack != three_shifts(unit="um")
    assert stack != three_shifts(start=1)
    assert stack != "stack"
    assert stack.inverse() != stack
    assert three_shifts(axis="z").axis == "z"


def test_matrices_are_a_copy_and_read_only() -> None:
    m = np.stack([np.eye(3)] * 2)
    stack = SliceAffines(m[:, :2])
    m[0, 0, 2] = 5
    assert stack.matrices[0, 0, 2] == 0
    assert stack.matrices.shape == (2, 3, 3)
    with pytest.raises(ValueError, match="read-only"):
        stack.matrices[0, 0, 2] = 5


def test_indices_outside_are_refused() -> None:
    stack = three_shifts(start=4)
    for i in (3, 7, -1):
        with pytest.raises(IndexError, match=r"4\.\.6"):
            stack[i]
        with pytest.raises(IndexError, match=r"4\.\.6"):
            stack((0.0, 0.0), i)
    with pytest.raises(ShapeMismatchError, match=r"3\.\.5 are not among 4\.\.6"):
        stack.restrict(3, 6)
    with pytest.raises(ShapeMismatchError, match=r"not among 4\.\.6"):
        stack.restrict(5, 5)


def test_units_and_axes_meet() -> None:
    stack = three_shifts(unit="um")
    assert (stack @ Affine.identity(2)).unit == (Affine.identity(2) @ stack).unit == "micrometer"
    with pytest.raises(UnitError, match="units differ"):
        stack @ three_shifts(unit="mm")
    with pytest.raises(ShapeMismatchError, match="do not compose"):
        three_shifts(axes=("y", "x")) @ three_shifts(axes=("z", "x"))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (three_shifts(start=1), "from 1 along 0"),
        (three_shifts(axis=1), "along 1"),
        (three_shifts().restrict(0, 2), "2 from 0"),
        (Affine.identity(3), "2D slices and a 3D"),
        (SliceAffines(np.stack([np.eye(4)] * 3)), "2D slices and a 3D"),
    ],
)
def test_what_does_not_compose(other: Affine | SliceAffines, message: str) -> None:
    with pytest.raises(ShapeMismatchError, match=message):
        three_shifts() @ other


@pytest.mark.parametrize(
    ("matrices", "message"),
    [
        (np.eye(3), r"shape \(N, D\+1, D\+1\)"),
        (np.zeros((0, 3, 3)), "is needed"),
        (np.stack([np.eye(3), np.diag([1.0, 0, 1])]), "matrix 1 of 2 is singular"),
        (np.stack([np.eye(3), np.eye(3), np.eye(3) * np.nan]), "matrix 2 of 3 holds NaN"),
        ([np.eye(3), np.eye(4)], "numbers"),
    ],
)
def test_bad_matrices(matrices: Any, message: str) -> None:
    with pytest.raises(InvalidTransformError, match=message):
        SliceAffines(matrices)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"axis": 0.5}, "axis must be a whole number"),
        ({"axis": -1}, "axis must not be negative"),
        ({"start": -2}, "start"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidTransformError, match=message):
        three_shifts(**options)


def test_bad_calls() -> None:
    with pytest.raises(ShapeMismatchError, match=r"\(N, 2\)"):
        three_shifts()((1, 2, 3), 0)
    with pytest.raises(OptionError, match="index="):
        three_shifts()((1, 2))
    with pytest.raises(TypeError):
        three_shifts() @ np.eye(3)


def test_repr() -> None:
    assert repr(three_shifts(unit="um")) == "SliceAffines(3 slices along 0, 2D, micrometer, offsets up to 3)"
