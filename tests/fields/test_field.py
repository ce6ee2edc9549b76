"""Displacement fields against ITK and SciPy: points, inverses, determinants, and the values that make no field."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from deformations import RNG, affine_of, itk_affine, itk_field, itk_points, oblique_nodes, smooth_vectors
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

import daskreg as dr
from daskreg.errors import InvalidTransformError, OptionError, ShapeMismatchError, UnitError


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("order", [1, 3])
def test_points_move_as_in_itk(ndim: int, order: int) -> None:
    nodes = oblique_nodes(ndim)
    vectors = smooth_vectors(nodes, 6)
    field, affine = dr.DisplacementField(vectors, nodes, order=order), affine_of(ndim)
    chain = sitk.CompositeTransform(ndim)
    chain.AddTransform(itk_affine(affine))
    chain.AddTransform(itk_field(vectors, nodes, order))
    # Inside, at the border, and far outside, where the displacement is zero.
    points = nodes.world(RNG.uniform(-3, 13, (400, ndim)))
    assert np.abs((affine @ field)(points) - itk_points(chain, points)).max() < 1e-9
    assert np.any(np.all(field(points) == points, axis=1))


@pytest.mark.parametrize("ndim", [2, 3])
def test_an_affine_map_after_a_field_along_the_axes(ndim: int) -> None:
    nodes = dr.Grid((8, 9, 10)[-ndim:], (14.0, 9.0, 12.0)[-ndim:], unit="mm")
    field, affine = dr.DisplacementField(smooth_vectors(nodes, 4), nodes), affine_of(ndim)
    points = nodes.world(RNG.uniform(0, 7, (50, ndim)))
    assert np.abs((affine @ field)(points) - affine(field(points))).max() < 1e-9
    expected = np.linalg.det(affine.linear) * field.determinants(points)
    assert np.abs((affine @ field).determinants(points) - expected).max() < 1e-9


@pytest.mark.parametrize("ndim", [2, 3])
def test_a_chain_of_several_fields_is_that_of_its_parts(ndim: int) -> None:
    nodes = oblique_nodes(ndim)
    one = dr.DisplacementField(smooth_vectors(nodes, 3), nodes, order=3)
    two = dr.DisplacementField(smooth_vectors(nodes, 2).astype(np.float32), nodes)
    affine = affine_of(ndim)
    chain = one @ affine @ two @ affine.inverse()
    assert isinstance(chain, dr.Composite)
    assert len(chain.parts) == 4
    points = nodes.world(RNG.uniform(0, 8, (50, ndim)))
    expected = one(affine(two(affine.inverse()(points))))
    assert np.abs(chain(points) - expected).max() < 1e-9
    assert np.abs(chain.inverse()(chain(points)) - points)[inside(points, nodes)].max() < 1e-3


def inside(points: np.ndarray, nodes: dr.Grid) -> np.ndarray:
    index = nodes.index(points)
    return np.all((index > 2) & (index < np.asarray(nodes.shape) - 3), axis=1)


def test_affine_maps_beside_each_other_collapse() -> None:
    nodes = oblique_nodes(3)
    field = dr.DisplacementField(smooth_vectors(nodes, 2), nodes)
    a, b = affine_of(3), dr.Affine.translation(x=3, z=1, unit="mm")
    chain = (a @ field) @ a @ b @ (b @ field)
    assert [type(part) for part in chain.parts] == [dr.Affine, dr.DisplacementField, dr.Affine, dr.DisplacementField]
    assert np.allclose(chain.parts[2].matrix, (a @ b @ b).matrix)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([1, 3]), st.sampled_from([2, 3]))
def test_the_inverse_brings_points_back(seed: int, order: int, ndim: int) -> None:
    rng = np.random.default_rng(seed)
    nodes = oblique_nodes(ndim)
    # No component differs by more than a third of the spacing from node to node: no fold.
    vectors = rng.uniform(-0.15, 0.15, (ndim, *nodes.shape)) * min(nodes.spacing)
    field = dr.DisplacementField(vectors, nodes, order=order)
    points = nodes.world(rng.uniform(2, np.asarray(nodes.shape) - 3, (40, ndim)))
    assert np.abs(field.inverse()(field(points)) - points).max() < 1e-6
    assert np.abs(field(field.inverse()(points)) - points).max() < 1e-6
    assert np.array_equal(field.inverse().inverse()(points), field(points))


@pytest.mark.parametrize("order", [1, 3])
def test_the_inverse_holds_where_the_field_nearly_folds(order: int) -> None:
    nodes = dr.Grid((9, 10, 11), (14.0, 9.0, 12.0), (2.0, -9.0, -3.0), unit="mm")
    index = np.moveaxis(np.indices(nodes.shape), 0, -1)
    # Alone 1 + du/dx decides the determinant.
    vectors = np.zeros((3, *nodes.shape))
    vectors[2] = 12 * np.where(index[..., 2] % 3 == 1, 0.75, 0.0)
    vectors[1] = 2 * np.sin(index[..., 0])
    field = dr.DisplacementField(vectors, nodes, order=order)
    points = nodes.world(RNG.uniform(2, 6, (400, 3)))
    assert 0.2 < field.determinants(points).min() < 0.6
    assert np.abs(field.inverse()(field(points)) - points).max() < 1e-6


@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize("ndim", [2, 3])
def test_determinants_are_those_of_differences(order: int, ndim: int) -> None:
    nodes = oblique_nodes(ndim)
    chain = affine_of(ndim) @ dr.DisplacementField(smooth_vectors(nodes, 4), nodes, order=order)
    grid = dr.Grid((11, 12, 13)[-ndim:], 4.3, nodes.world(np.full(ndim, 2.3)), unit="mm")
    points, step = grid.world(np.moveaxis(np.indices(grid.shape), 0, -1)), 1e-5
    columns = [(chain(points + step * e) - chain(points - step * e)) / (2 * step) for e in np.eye(ndim)]
    expected = np.linalg.det(np.stack(columns, -1))
    found = chain.jacobian(grid)
    assert dr.grid(found).same(grid)
    inner = inside(points.reshape(-1, ndim), nodes)  # at the border of the field there is a step
    assert inner.mean() > 0.2
    assert np.abs(found.values.ravel() - expected.ravel())[inner].max() < 1e-4
    back = chain.inverse().determinants(chain(points.reshape(-1, ndim)[inner]))
    assert np.abs(back * expected.ravel()[inner] - 1).max() < 1e-4


@pytest.mark.parametrize("ndim", [2, 3])
def test_determinants_along_the_axes_of_the_nodes_are_those_of_single_points(
    ndim: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The layer that is applied first is evaluated axis by axis, for all voxels of a part at once."""
    monkeypatch.setattr("daskreg.sampling.stretch._AT_ONCE", 150)
    rng, turn = np.random.default_rng(3), oblique_nodes(ndim).direction_matrix
    nodes = dr.Grid((9, 12, 10)[-ndim:], (4.0, 3.0, 5.0)[-ndim:], 2.0, turn, unit="mm")
    layers = [dr.DisplacementField(rng.uniform(-1, 1, (ndim, *nodes.shape)), nodes, order=3) for _ in range(2)]
    shape, inside, beyond = (17, 19, 23)[-ndim:], np.full(ndim, 1.2), np.full(ndim, -0.93)
    for chain in (layers[0], affine_of(ndim) @ layers[1] @ layers[0], layers[0] @ affine_of(ndim) @ layers[1]):
        for first in (inside, beyond):  # where the field is known, and also around it
            grid = dr.Grid(shape, (0.9, 0.6, 1.1)[-ndim:], nodes.world(first), turn, unit="mm")
            points = grid.world(np.moveaxis(np.indices(shape), 0, -1).reshape(-1, ndim))
            found = chain.jacobian(grid).values.ravel()
            np.testing.assert_allclose(found, chain.determinants(points), rtol=1e-6, atol=1e-6)


def test_folds_are_counted() -> None:
    grid = dr.Grid((20, 30), 1)
    vectors = np.zeros((2, 20, 30))
    vectors[1, :, 15:] = -3.0  # columns from 15 on are pulled over those before
    count, share = dr.DisplacementField(vectors, grid).folds(grid)
    assert count == 20  # between columns 14 and 15
    assert share == count / 600
    assert dr.DisplacementField(np.zeros((2, 20, 30)), grid).folds(grid) == (0, 0.0)
    flat = dr.DisplacementField(-np.indices((20, 30), float), grid)  # all points to one
    assert np.isinf(flat.inverse().jacobian(grid).values).any()
    turn = dr.Affine.rotation(0.4)
    assert turn.folds(grid) == (0, 0.0)
    assert np.allclose(dr.Affine(np.diag([2.0, -1, 1])).jacobian(grid).values, -2)


def test_slices_have_fields_of_their_own() -> None:
    nodes = oblique_nodes(2)
    vectors = smooth_vectors(nodes, 3, 5)
    slices = dr.SliceDisplacements(vectors, nodes)
    affines = dr.SliceAffines([dr.Affine.translation(x=k, y=-k).matrix for k in range(5)])
    chain = slices @ affines
    points, index = nodes.world(RNG.uniform(0, 7, (30, 2))), RNG.integers(0, 5, 30)
    single = [dr.DisplacementField(vectors[k], nodes) for k in range(5)]
    expected = np.array([single[k](affines[k](p)) for p, k in zip(points, index, strict=True)])
    assert np.abs(chain(points, index) - expected).max() < 1e-12
    with pytest.raises(OptionError, match="index="):
        chain(points)
    with pytest.raises(IndexError, match="not all among 0..4"):
        chain(points, index + 1)
    with pytest.raises(ShapeMismatchError, match="some slices"):
        _ = slices @ affines.restrict(1, 4)
    with pytest.raises(ShapeMismatchError, match="5 slices, the grid 6"):
        chain.jacobian(dr.Grid((6, 20, 20), unit="mm"))
    with pytest.raises(UnitError):
        chain.jacobian(dr.Grid((5, 20, 20), unit="um"))
    stretched = dr.SliceAffines([np.diag([1.0 + k, 1.0, 1.0]) for k in range(4)], axis=1)
    assert np.allclose(stretched.jacobian(dr.Grid((3, 4, 5))).values, np.array([1, 2, 3, 4])[:, None])
    with pytest.raises(ShapeMismatchError, match="4 slices .* and 5 slices|5 slices .* and 4 slices"):
        _ = dr.SliceDisplacements(vectors[:4], nodes) @ affines


def test_scipy_agrees_beyond_the_outermost_nodes() -> None:
    nodes = dr.Grid((6, 7), 2.0)
    vectors = smooth_vectors(nodes, 1)
    field = dr.DisplacementField(vectors, nodes)
    index = np.stack([np.full(50, 2.5), np.linspace(-1, 7, 50)], -1)
    known = (index[:, 1] >= -0.5) & (index[:, 1] < 6.5)
    expected = np.stack([map_coordinates(v, index.T, order=1, mode="nearest") for v in vectors], -1) * known[:, None]
    assert np.abs(field(2 * index) - 2 * index - expected).max() < 1e-12


GRID = dr.Grid((4, 5), 2.0, unit="um")


@pytest.mark.parametrize(
    ("vectors", "options", "error", "words"),
    [
        (np.zeros((2, 5, 4)), {}, ShapeMismatchError, r"\(2, 4, 5\) are needed.*not \(2, 5, 4\)"),
        (np.zeros((4, 5, 2)), {}, ShapeMismatchError, "2 components"),
        (np.where(np.arange(40).reshape(2, 4, 5) < 27, 0, np.nan), {}, InvalidTransformError, r"index \(1, 1, 2\)"),
        (np.full((2, 4, 5), np.inf), {}, InvalidTransformError, "NaN or infinity"),
        (np.zeros((2, 4, 5), complex), {}, InvalidTransformError, "real numbers"),
        (np.zeros((2, 4, 5)), {"order": 2}, OptionError, "use 1 .* or 3"),
        (np.zeros((2, 4, 5)), {"unit": "mm"}, UnitError, "millimeter.*micrometer"),
        (dr.DisplacementField(np.zeros((2, 5, 5)), dr.Grid((5, 5))).vectors, {}, ShapeMismatchError, "are needed"),
        ("field.nii", {}, InvalidTransformError, "array of numbers"),
    ],
)
def test_what_makes_no_field_is_said(
    vectors: object, options: dict[str, object], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        dr.DisplacementField(vectors, GRID, **options)


def test_a_field_of_another_unit_is_refused() -> None:
    field = dr.DisplacementField(np.zeros((2, 4, 5)), GRID)
    with pytest.raises(UnitError):
        _ = field @ dr.Affine.translation(x=1, unit="mm")
    volume = dr.open(np.zeros((6, 7)), spacing=1, unit="mm")
    with pytest.raises(UnitError):
        dr.warp(volume, pull=field)
    with pytest.raises(InvalidTransformError, match="finite"):
        field([(np.nan, 1.0)])


def test_its_repr_says_what_it_is() -> None:
    field = dr.DisplacementField(np.ones((2, 4, 5), np.float32), GRID)
    assert repr(field) == ("DisplacementField(4 x 5 nodes 2 x 2 micrometer apart, linear, up to 1 along an axis)")
    assert repr(field.inverse()).startswith("inverse of a DisplacementField(")


def test_what_is_no_grid_is_said() -> None:
    field = dr.DisplacementField(np.zeros((2, 4, 5)), GRID)
    for ask in (field.jacobian, field.folds, dr.Affine.rotation(0.1).folds):
        with pytest.raises(OptionError, match="must be a Grid"):
            ask((4, 5))
    with pytest.raises(InvalidTransformError, match=r"axis must be a whole number, not 1\.5"):
        dr.SliceDisplacements(np.zeros((3, 2, 4, 5)), GRID, axis=1.5)
