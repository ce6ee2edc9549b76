"""Grid <-> coordinates, and which dims are space."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from strategies import grids, ndims

from daskreg.errors import GridError, PixelUnitWarning, UnitError
from daskreg.geometry import Box, Grid
from daskreg.sources.coordinates import (
    block_factor,
    coordinates,
    default_dims,
    direction_attrs,
    grid_from,
    grid_of_level,
    split_dims,
)


def round_trip(grid, slices=None):
    coords = coordinates(grid)
    for name, s in zip(grid.names, slices or [slice(None)] * grid.ndim, strict=True):
        coords[name] = (coords[name][0][s], coords[name][1])
    shape = [len(coords[n][0]) for n in grid.names]
    return grid_from(grid.names, shape, coords, direction=direction_attrs(grid).get("direction"))


@given(ndims.flatmap(grids))
def test_a_grid_comes_back_from_its_coordinates(grid):
    back = round_trip(grid)
    assert back.same(grid, tolerance=1e-9)
    assert back.unit == grid.unit
    np.testing.assert_allclose(back.spacing, grid.spacing, rtol=1e-12)


def test_a_plain_grid_comes_back_exactly():
    grid = Grid((7, 8, 9), (0.1, 0.3, 0.7), (1.1, -2.2, 1e4), unit="um")
    assert round_trip(grid) == grid
    flipped = Grid((7, 8, 9), (0.1, 0.3, 0.7), (1.1, -2.2, 1e4), np.diag([1, -1, -1]), "um")
    assert round_trip(flipped) == flipped
    assert coordinates(flipped)["y"][0][:2] == pytest.approx([-2.2, -2.5])


TURNED = Grid((5, 6, 7), (2, 1, 0.5), (10, -3, 4), np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0], "mm")


@pytest.mark.parametrize("grid", [Grid((5, 6, 7), (2, 1, 0.5), (10, -3, 4)), TURNED], ids=["straight", "turned"])
def test_slicing_coordinates_crops_the_grid(grid):
    cropped = round_trip(grid, (slice(1, 4), slice(2, 3), slice(0, 7)))
    assert cropped.same(grid.crop(Box((1, 2, 0), (4, 3, 7))))
    flipped = round_trip(grid, (slice(None), slice(None, None, -1), slice(None, None, 3)))
    index = np.array([2, 1, 1])
    np.testing.assert_allclose(flipped.world(index), grid.world([2, 4, 3]), atol=1e-9)


def test_one_voxel_keeps_its_spacing_and_direction():
    grid = Grid((1, 1, 3), (2.5, 0.5, 1), (7, 1, 0), np.diag([1, -1, 1]), "um")
    assert round_trip(grid) == grid
    assert grid_from("yx", (1, 1), {"y": (np.array([3.0]), {})}).spacing == (1, 1)


@pytest.mark.parametrize("dtype", ["f8", "f4", "i4", "u2"])
def test_rounded_coordinates_are_regular(dtype):
    values = (1000 + 3 * np.arange(50)).astype(dtype)
    grid = grid_from("x", (50,), {"x": (values, {})})
    assert grid.spacing == (3.0,)
    third = np.round(np.arange(50) / 3, 3)
    assert grid_from("x", (50,), {"x": (third, {})}).spacing == pytest.approx((1 / 3,), rel=1e-3)
    far = (1e6 + 0.1 * np.arange(50)).astype("f4")
    assert grid_from("x", (50,), {"x": (far, {})}).spacing == pytest.approx((0.1,), rel=0.1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0, 1, 2, 4, 5, 6], "axis y .* from index 2 to 3 the step is 2, elsewhere 1"),
        ([0, 1, 1, 2, 3, 4], "axis y .* from index 1 to 2 the step is 0"),
        ([0, 0, 0, 0, 0, 0], "axis y .* from index 0 to 1 the step is 0"),
        ([0, 1, 2, np.nan, 4, 5], "axis y .* from index 2 to 3 the step is nan"),
        ([0, 1, 2, 3, 4, np.inf], "axis y .* from index 4 to 5"),
        ([0, 1, 2, 2.5, 2, 1], "axis y .* not regular"),
        (["a", "b", "c", "d", "e", "f"], "axis y are .*, not numbers"),
        (np.arange(6).astype("M8[s]"), "axis y are .*, not numbers"),
    ],
)
def test_irregular_coordinates_name_the_axis_and_the_step(values, message):
    with pytest.raises(GridError, match=message):
        grid_from("yx", (6, 2), {"y": (np.asarray(values), {})}, what="array 'it'")


def test_units():
    x = np.arange(3.0)
    assert grid_from("yx", (3, 3), {"y": (x, {"units": "um"}), "x": (x, {"units": "µm"})}).unit == "micrometer"
    mixed = grid_from("yx", (3, 3), {"y": (x + 2, {"units": "um"}), "x": (x, {"units": "nm"})})
    assert mixed == Grid((3, 3), (1000, 1), (2000, 0), unit="nm", axes="yx")
    with pytest.raises(UnitError, match="second and nanometer"):
        grid_from("yx", (3, 3), {"y": (x, {"units": "s"}), "x": (x, {"units": "nm"})})
    with pytest.raises(UnitError, match="furlong"):
        grid_from("x", (3,), {"x": (x, {"units": "furlong"})})
    with pytest.warns(PixelUnitWarning):
        assert grid_from("yx", (3, 3), {"x": (x, {"units": "nm"})}).unit == "nanometer"


def test_a_direction_that_lost_a_dimension_is_refused():
    with pytest.raises(GridError, match="cannot lose a dimension"):
        grid_from("yx", (3, 3), {}, direction=np.eye(3).tolist())
    with pytest.raises(GridError, match="orthonormal"):
        grid_from("yx", (3, 3), {}, direction=[[1, 0.5], [0, 1]])
    assert grid_from("yx", (3, 3), {}, direction="north") == Grid((3, 3))


@pytest.mark.parametrize(
    ("dims", "lead", "space"),
    [
        ("z y x", "", "z y x"),
        ("y x", "", "y x"),
        ("x", "", "x"),
        ("t c z y x", "t c", "z y x"),
        ("y x c", "c", "y x"),
        ("x y z", "", "z y x"),
        ("c t y x", "t c", "y x"),
        ("slice y x", "", "slice y x"),
        ("time band lat lon", "time band", "lat lon"),
        ("tile z y x", "tile", "z y x"),
        ("z y x tile", "tile", "z y x"),
        ("a b c d", "c", "a b d"),
        ("a b e d", "a", "b e d"),
        ("Time Z Y X", "Time", "Z Y X"),
    ],
)
def test_split_dims(dims, lead, space):
    assert split_dims(dims.split()) == (tuple(lead.split()), tuple(space.split()))


def test_default_dims():
    assert default_dims(3) == ("z", "y", "x")
    assert default_dims(5) == ("t", "c", "z", "y", "x")
    assert default_dims(6) == ("d0", "t", "c", "z", "y", "x")


@pytest.mark.parametrize(
    ("fine", "coarse", "factor"),
    [(513, 257, 2), (513, 256, 2), (1001, 63, 16), (1001, 62, 16), (5, 2, 2), (7, 7, 1), (100, 1, 100), (9, 6, 1.5),
     (1000, 300, 10 / 3)],
)  # fmt: skip
def test_factors_between_levels(fine, coarse, factor):
    assert block_factor(fine, coarse) == pytest.approx(factor, rel=1e-15)


def test_factors_over_several_levels_are_those_from_level_to_level():
    """1000 voxels that are halved six times, rounded down, are 15, and 1000 / 15 is nearly 67."""
    assert block_factor(1000, 500, 250, 125, 62, 31, 15) == 64
    finest = Grid((1000, 90), (0.5, 2), (3, 4), ((-1, 0), (0, 1)))
    level = grid_of_level(finest, [(1000, 90), (500, 90), (250, 45)])
    assert level == Grid((250, 45), (2, 4), (3 - 0.75, 5), ((-1, 0), (0, 1)))
