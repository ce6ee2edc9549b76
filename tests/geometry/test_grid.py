"""Grids compared with their formula, coordinate-valued images and dense evaluation."""

from __future__ import annotations

import itertools
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from phantoms import block_mean, coordinates, indices
from strategies import affines, boxes, grids, ndims, vectors

from daskreg.errors import EmptyArrayError, GridError, InvalidSpacingError, ShapeMismatchError, UnitError
from daskreg.geometry import Box, Grid, default_axes, index_matrix, touched_box

any_grid = ndims.flatmap(grids)
TURNED = [[0.6, -0.8], [0.8, 0.6]]


def tolerance(grid: Grid) -> float:
    """World distances below which differences are rounding."""
    return 1e-12 * (1 + float(np.abs(coordinates_of_corners(grid)).max()))


def coordinates_of_corners(grid: Grid) -> np.ndarray[Any, Any]:
    corners = itertools.product(*((0, n - 1) for n in grid.shape))
    return grid.world(np.array(list(corners), float))


@given(any_grid)
def test_world_is_the_formula(grid: Grid) -> None:
    index = indices(grid.shape)
    turned = np.einsum("ij,...j->...i", grid.direction_matrix, index * np.asarray(grid.spacing))
    np.testing.assert_allclose(grid.world(index), grid.origin + turned, rtol=0, atol=tolerance(grid))
    np.testing.assert_array_equal(grid.world(np.zeros(grid.ndim)), grid.origin)


@pytest.mark.slow
@given(ndims.flatmap(lambda n: st.tuples(grids(n), vectors(n, -50, 50))))
def test_index_and_world_are_inverse(case: tuple[Grid, np.ndarray[Any, Any]]) -> None:
    grid, point = case
    np.testing.assert_allclose(grid.index(grid.world(point)), point, rtol=0, atol=1e-9)
    one = np.append(point, 1)
    np.testing.assert_allclose((grid.matrix @ one)[:-1], grid.world(point), atol=1e-9)
    np.testing.assert_allclose((grid.inverse_matrix @ grid.matrix @ one)[:-1], point, atol=1e-9)


@given(ndims.flatmap(lambda n: st.tuples(grids(n), boxes(n, empty=False))))
def test_crop_keeps_voxels_in_their_place(case: tuple[Grid, Box]) -> None:
    grid, box = case
    cropped = grid.crop(box)
    assert cropped.shape == box.shape
    np.testing.assert_array_equal(cropped.world(np.zeros(grid.ndim)), grid.world(box.start))
    last = np.asarray(box.shape) - 1
    np.testing.assert_allclose(cropped.world(last), grid.world(np.asarray(box.stop) - 1), atol=1e-9)


def test_crop_of_a_crop_and_of_everything() -> None:
    grid = Grid((9, 8), (0.5, 2), (3, 4), TURNED, "um")
    assert grid.crop(grid.box) == grid
    inner = grid.crop(Box((2, 3), (8, 8))).crop(Box((1, 1), (3, 4)))
    assert inner.same(grid.crop(Box((3, 4), (5, 7))), tolerance=1e-12)


@pytest.mark.slow
@given(ndims.flatmap(lambda n: st.tuples(grids(n, largest=14), st.tuples(*[st.integers(1, 5)] * n))))
def test_downsample_is_where_block_means_lie(case: tuple[Grid, tuple[int, ...]]) -> None:
    grid, factors = case
    small = grid.downsample(factors)
    assert small.shape == tuple(-(-n // f) for n, f in zip(grid.shape, factors, strict=True))
    means = block_mean(coordinates(grid), factors)
    whole = tuple(slice(0, n // f) for n, f in zip(grid.shape, factors, strict=True))
    np.testing.assert_allclose(coordinates(small)[whole], means, rtol=0, atol=1e-9)
    np.testing.assert_allclose(
        small.world(np.zeros(grid.ndim)), grid.world((np.array(factors) - 1) / 2), rtol=0, atol=tolerance(grid)
    )


@pytest.mark.slow
@given(
    ndims.flatmap(lambda n: st.tuples(grids(n), *[st.tuples(*[st.integers(1, 4)] * n)] * 2)),
)
def test_downsampling_twice_is_downsampling_by_the_product(
    case: tuple[Grid, tuple[int, ...], tuple[int, ...]],
) -> None:
    grid, a, b = case
    twice = grid.downsample(a).downsample(b)
    once = grid.downsample(tuple(m * n for m, n in zip(a, b, strict=True)))
    assert twice.shape == once.shape
    assert twice.same(once)


@pytest.mark.slow
@given(ndims.flatmap(lambda n: st.tuples(grids(n, largest=14), st.tuples(*[st.integers(1, 5)] * n))))
def test_a_strided_pyramid_does_not_move(case: tuple[Grid, tuple[int, ...]]) -> None:
    grid, factors = case
    small = grid.downsample(factors, strided=True)
    kept = coordinates(grid)[tuple(slice(None, None, f) for f in factors)]
    assert kept.shape[:-1] == small.shape
    np.testing.assert_allclose(coordinates(small), kept, rtol=0, atol=1e-9)


def test_downsample_by_one_number_is_by_all() -> None:
    grid = Grid((9, 8), (0.5, 2), (3, 4), TURNED, "um")
    assert grid.downsample(2) == grid.downsample((2, 2)) == grid.downsample(np.int64(2))
    assert grid.downsample(1) == grid
    assert grid.downsample(2).unit == "micrometer"


@pytest.mark.slow
@given(any_grid)
def test_centre_extent_and_bounds(grid: Grid) -> None:
    lower, upper = grid.extent
    np.testing.assert_allclose(grid.centre, (lower + upper) / 2, atol=1e-9)
    faces = coordinates_of_corners(grid)
    assert np.all(lower < faces.min(axis=0))
    assert np.all(upper > faces.max(axis=0))
    if grid.separable:
        size = np.abs(grid.direction_matrix) @ (np.asarray(grid.shape) * grid.spacing)
        np.testing.assert_allclose(upper - lower, size, atol=1e-9)


def test_separable_means_axes_along_world_axes() -> None:
    assert Grid((4, 5)).separable
    assert Grid((4, 5), direction=[[1, 0], [0, -1]]).separable
    assert not Grid((4, 5), direction=[[0, 1], [1, 0]]).separable
    assert not Grid((4, 5), direction=TURNED).separable


@pytest.mark.slow
@given(ndims.flatmap(lambda n: st.tuples(grids(n), st.permutations(range(n)))))
def test_take_of_all_axes_reorders_the_world(case: tuple[Grid, list[int]]) -> None:
    grid, order = case
    taken = grid.take(order)
    point = np.arange(1.0, grid.ndim + 1)
    np.testing.assert_allclose(taken.world(point[order]), grid.world(point)[order], atol=1e-9)
    assert taken.names == tuple(grid.names[k] for k in order)


def test_take_refuses_to_part_axes_that_are_mixed() -> None:
    c, s = np.cos(0.3), np.sin(0.3)
    grid = Grid((4, 5, 6), 2, 1, [[1, 0, 0], [0, c, -s], [0, s, c]], "mm")
    assert grid.take((0,)) == Grid((4,), 2, 1, unit="mm", axes=("z",))
    assert grid.take((1, 2)).direction is not None
    with pytest.raises(GridError, match="axis z, y is oblique"):
        grid.take((2,))


@pytest.mark.slow
@given(ndims.flatmap(lambda n: st.tuples(affines(n), grids(n), grids(n), vectors(n, -20, 60))))
def test_index_matrix_is_world_map_between_grids(case: tuple[Any, Grid, Grid, np.ndarray[Any, Any]]) -> None:
    pull, out, source, point = case
    expected = source.index(pull(out.world(point)))
    got = (index_matrix(pull.matrix, out, source) @ np.append(point, 1))[:-1]
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-6)


@pytest.mark.slow
@given(ndims.flatmap(lambda n: st.tuples(grids(n), boxes(n, empty=False))))
def test_index_matrix_knows_identity_and_whole_shifts(case: tuple[Grid, Box]) -> None:
    grid, box = case
    eye = np.eye(grid.ndim + 1)
    np.testing.assert_array_equal(index_matrix(eye, grid, grid), eye)
    eye[:-1, -1] = box.start
    np.testing.assert_array_equal(index_matrix(np.eye(grid.ndim + 1), grid.crop(box), grid), eye)


def dense_touched(matrix: np.ndarray[Any, Any], out: Box, shape: tuple[int, ...]) -> Box:
    """The box of every source voxel that gets a weight, by brute force."""
    index = indices(out.shape).reshape(-1, out.ndim) + np.asarray(out.start)
    columns = []
    for k in range(out.ndim):
        x = matrix[k, 0] * index[:, 0]
        for j in range(1, out.ndim):
            x = x + matrix[k, j] * index[:, j]
        columns.append(x + matrix[k, out.ndim])
    x = np.stack(columns, axis=-1)
    low, high = np.floor(x), np.ceil(x)
    touched = np.concatenate([np.where(pick, high, low) for pick in itertools.product((0, 1), repeat=out.ndim)])
    touched = touched[np.all((touched >= 0) & (touched < shape), axis=1)].astype(int)
    if not len(touched):
        return Box((0,) * out.ndim, (0,) * out.ndim)
    return Box(tuple(touched.min(axis=0)), tuple(touched.max(axis=0) + 1))


@pytest.mark.slow
@given(ndims.flatmap(lambda n: st.tuples(affines(n), boxes(n, empty=False), st.tuples(*[st.integers(1, 40)] * n))))
def test_touched_box_holds_every_voxel_that_is_touched(case: tuple[Any, Box, tuple[int, ...]]) -> None:
    pull, out, shape = case
    box = touched_box(pull.matrix, out, shape)
    assert dense_touched(pull.matrix, out, shape) in box
    assert box in Box.of(shape)
    assert box in touched_box(pull.matrix, out, shape, margin=3)


@pytest.mark.slow
@given(ndims.flatmap(lambda n: st.tuples(affines(n), boxes(n, empty=False))))
def test_touched_box_is_tight_inside_the_source(case: tuple[Any, Box]) -> None:
    pull, out = case
    matrix = pull.matrix.copy()
    matrix[:-1, -1] += 1000.25  # well inside
    shape = (2000,) * pull.ndim
    assert touched_box(matrix, out, shape) == dense_touched(matrix, out, shape)


@given(ndims.flatmap(lambda n: st.tuples(boxes(n, low=0, high=15, empty=False), vectors(n, -20, 20))))
def test_a_whole_shift_reads_what_it_writes(case: tuple[Box, np.ndarray[Any, Any]]) -> None:
    out, shift = case
    matrix = np.eye(out.ndim + 1)
    matrix[:-1, -1] = np.rint(shift)
    expected = out.shift([int(s) for s in np.rint(shift)]).clip((40,) * out.ndim)
    got = touched_box(matrix, out, (40,) * out.ndim)
    assert got.shape == expected.shape
    assert got.empty or got == expected


def test_touched_box_far_away_is_empty_and_does_not_overflow() -> None:
    far = np.eye(3)
    far[:2, 2] = 1e30
    assert touched_box(far, Box.of((5, 5)), (10, 10)).empty
    assert touched_box(-far + 2 * np.eye(3), Box.of((5, 5)), (10, 10), margin=13).empty
    assert touched_box(np.eye(3), Box((0, 0), (0, 5)), (10, 10)).empty


def test_a_margin_reaches_into_the_source_from_outside() -> None:
    matrix = np.eye(2)
    matrix[0, 1] = 12.0
    assert touched_box(matrix, Box((0,), (3,)), (10,)).empty
    assert touched_box(matrix, Box((0,), (3,)), (10,), margin=4) == Box((8,), (10,))


@pytest.mark.slow
@given(any_grid)
def test_same_is_about_places_and_units(grid: Grid) -> None:
    assert grid.same(grid)
    assert not grid.same(replace(grid, shape=(grid.shape[0] + 1, *grid.shape[1:])))
    assert not grid.same(replace(grid, origin=np.asarray(grid.origin) + 0.01 * grid.spacing[0]))
    assert not grid.same(replace(grid, unit="meter"))
    assert pickle.loads(pickle.dumps(grid)) == grid
    assert hash(pickle.loads(pickle.dumps(grid))) == hash(grid)


@pytest.mark.slow
@given(ndims.flatmap(lambda n: grids(n, oblique=True)))
def test_rounded_directions_are_made_exact(grid: Grid) -> None:
    rounded = np.asarray(grid.direction_matrix, np.float32)
    again = Grid(grid.shape, grid.spacing, grid.origin, rounded, grid.unit)
    d = again.direction_matrix
    np.testing.assert_allclose(d @ d.T, np.eye(grid.ndim), rtol=0, atol=1e-14)
    np.testing.assert_allclose(d, grid.direction_matrix, rtol=0, atol=2e-7)
    far = np.full(grid.ndim, 1e5)
    np.testing.assert_allclose(again.index(again.world(far)), far, rtol=0, atol=1e-6)
    assert replace(again) == again  # and stay as they are


def test_a_direction_within_rounding_of_the_axes_is_one() -> None:
    assert Grid((4, 5), direction=[[1, 3e-8], [-3e-8, 1]]).direction is None
    flipped = Grid((4, 5), direction=[[-1, 3e-8], [3e-8, 1]])
    assert flipped.separable
    assert flipped.direction == ((-1.0, 0.0), (0.0, 1.0))


def test_defaults() -> None:
    grid = Grid((4, 5))
    assert (grid.spacing, grid.origin, grid.direction, grid.unit) == ((1.0, 1.0), (0.0, 0.0), None, "pixel")
    assert grid.names == ("y", "x")
    assert Grid((4, 5, 6)).names == ("z", "y", "x")
    assert default_axes(1) == ("x",)
    assert default_axes(5) == ("d0", "d1", "z", "y", "x")
    assert Grid((4, 5), 2).spacing == (2.0, 2.0) == Grid((4, 5), [2]).spacing
    assert Grid((4,), spacing=[3], origin=7).origin == (7.0,)
    assert repr(Grid((4, 5), 0.5, (1, 2), unit="um")) == (
        "Grid(y 4 x x 5; spacing (0.5, 0.5) micrometer, origin (1, 2))"
    )
    assert "turned" in repr(Grid((4, 5), direction=TURNED))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"shape": (4, 0)}, EmptyArrayError, "axis x has length 0"),
        ({"shape": ()}, GridError, "at least one axis"),
        ({"shape": 5}, GridError, "whole numbers"),
        ({"shape": (4.5, 3)}, GridError, "whole numbers"),
        ({"spacing": (1, 0)}, InvalidSpacingError, "spacing along x is 0.0"),
        ({"spacing": (-1, 1)}, InvalidSpacingError, "spacing along y is -1.0.*direction"),
        ({"spacing": np.nan}, InvalidSpacingError, "spacing along y is nan"),
        ({"spacing": (1, np.inf)}, InvalidSpacingError, "spacing along x is inf"),
        ({"spacing": (1, 2, 3)}, InvalidSpacingError, "one number or 2"),
        ({"spacing": "wide"}, InvalidSpacingError, "must be numbers"),
        ({"origin": (0, np.nan)}, GridError, "origin must be finite"),
        ({"origin": (0, 0, 0)}, GridError, "origin needs one number or 2"),
        ({"origin": [[0, 0]]}, GridError, "origin needs one number or 2"),
        ({"direction": np.eye(3)}, GridError, r"shape \(2, 2\)"),
        ({"direction": [[2, 0], [0, 1]]}, GridError, "orthonormal"),
        ({"direction": [[1, 0.1], [0, 1]]}, GridError, "orthonormal"),
        ({"direction": [[np.nan, 0], [0, 1]]}, GridError, "orthonormal"),
        ({"direction": "up"}, GridError, "must be numbers"),
        ({"unit": "furlong"}, UnitError, "furlong"),
        ({"axes": ("y",)}, GridError, "2 different axis names"),
        ({"axes": ("x", "x")}, GridError, "2 different axis names"),
    ],
)
def test_bad_grids(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Grid(**{"shape": (4, 5), **arguments})


def test_bad_calls() -> None:
    grid = Grid((4, 5))
    for factor in (0, (2, 0), (2, 2, 2), 1.5, (1.5, 2)):
        with pytest.raises(GridError, match="2 whole factors"):
            grid.downsample(factor)  # type: ignore[arg-type]
    with pytest.raises(ShapeMismatchError, match=r"\(\.\.\., 2\)"):
        grid.world((1, 2, 3))
    with pytest.raises(ShapeMismatchError):
        grid.index(3.0)
    with pytest.raises(EmptyArrayError):
        grid.crop(Box((1, 1), (1, 3)))


def test_touched_box_of_half_a_voxel() -> None:
    matrix = np.eye(3)
    matrix[1, 2] = 0.5
    assert touched_box(matrix, Box((2, 2), (4, 4)), (10, 10)) == Box((2, 2), (4, 5))


@pytest.mark.slow
@given(ndims.flatmap(grids))
def test_corners_bound_the_grid(grid: Grid) -> None:
    last = np.asarray(grid.shape) - 1
    centres, faces = grid.corners(), grid.corners(faces=True)
    assert centres.shape == faces.shape == (2**grid.ndim, grid.ndim)
    np.testing.assert_allclose(grid.index(centres[0]), np.zeros(grid.ndim), atol=1e-8)
    np.testing.assert_allclose(grid.index(centres[1]), [*np.zeros(grid.ndim - 1), last[-1]], atol=1e-8)
    np.testing.assert_allclose(grid.index(centres[-1]), last, atol=1e-8)
    np.testing.assert_array_equal((faces.min(axis=0), faces.max(axis=0)), grid.extent)


@pytest.mark.parametrize("axes", [("a\ud800", "b"), (0, 1)])
def test_axis_names_are_text_that_files_can_hold(axes: tuple[Any, ...]) -> None:
    with pytest.raises(GridError, match="axis names must be text"):
        Grid((3, 4), axes=axes)
