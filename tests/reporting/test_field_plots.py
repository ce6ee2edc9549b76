"""Figures of fields show the map that they are of, in the unit of the grid, without reading more than a preview."""

from __future__ import annotations

import re

import numpy as np
import pytest

import daskreg as dr
from daskreg.errors import GridError, OptionError, ShapeMismatchError, UnitError
from daskreg.reporting.field_plots import field_figure

pytestmark = pytest.mark.slow


def linear_field(matrix, shape=(31, 47), spacing=2.5, **options):
    """p -> p + matrix . p between the nodes, whatever the spacing."""
    nodes = dr.Grid([n + 2 for n in shape], spacing, -spacing, **options)
    points = nodes.world(np.moveaxis(np.indices(nodes.shape), 0, -1))
    return dr.DisplacementField(np.moveaxis(points @ np.asarray(matrix).T, -1, 0), nodes)


def shown(ax):
    """The numbers of the image in one part of a figure."""
    return np.ma.asarray(ax.get_images()[0].get_array())


def texts(figure):
    """All words of a figure."""
    from matplotlib.text import Text

    return " ".join(text.get_text() for text in figure.findobj(Text))


def test_lengths_and_stretch_are_those_of_the_map():
    matrix = np.array([[0.2, 0.0], [0.1, -0.3]])
    grid = dr.Grid((31, 47), 2.5, unit="um")
    figure = linear_field(matrix, unit="um").plot(grid)
    lines, arrows, stretch = figure.axes[:3]
    length = shown(arrows)
    y, x = np.meshgrid(*(np.linspace(0, (n - 1) * 2.5, m) for n, m in zip(grid.shape, length.shape, strict=True)),
                       indexing="ij")  # fmt: skip
    assert np.allclose(length, np.hypot(0.2 * y, 0.1 * y - 0.3 * x))
    assert np.allclose(2 ** shown(stretch).astype(float), 1.2 * 0.7)
    last = lines.get_lines()[-2].get_xydata()  # the last line along y, at the greatest x
    assert np.allclose(last[-1], (0.7 * 46 * 2.5 + 0.1 * 30 * 2.5, 1.2 * 30 * 2.5))
    words = texts(figure)
    assert "µm" in words
    assert "no folds seen" in words


@pytest.mark.slow
def test_a_notebook_shows_a_field_with_its_figure():
    page = linear_field(np.diag([0.2, -0.3]), unit="um")._repr_html_()
    assert page.count("data:image/png") == 1
    assert "<pre>" in page


@pytest.mark.slow
def test_the_page_of_a_field_says_how_far_and_whether_it_folds(tmp_path):
    nodes = dr.Grid((9, 13), (2.0, 3.0), unit="um")
    vectors = np.zeros((2, 9, 13))
    vectors[1, :, 6] = 3.3  # points of x = 18 pass those of x = 21
    field = dr.DisplacementField(vectors, nodes)
    page = field.report(tmp_path / "field.html").read_text()
    length, unit = re.search(r"Longest displacement</th><td>(.*?)<", page)[1].split()
    assert unit == "µm"
    assert float(length) == pytest.approx(3.3, rel=0.05), "at samples, which lie beside the nodes"
    found = re.search(r"change by factors of</th><td>(.*?) to (.*?)<", page).groups()
    assert [float(v) for v in found] == pytest.approx([1 - 3.3 / 3, 1 + 3.3 / 3], abs=5e-3)
    share = float(re.search(r"The field folds in (.*?) %", page)[1]) / 100
    assert share == pytest.approx(1 / 12, abs=0.02), "between two of thirteen nodes"
    assert page.count("data:image/png") == 1


def test_folds_are_marked_and_named():
    nodes = dr.Grid((5, 9), 10)
    vectors = np.zeros((2, 5, 9))
    vectors[1, :, 4] = 15  # beyond the next node
    figure = field_figure(dr.DisplacementField(vectors, nodes), dr.Grid((41, 81)))
    folded = np.ma.getmaskarray(shown(figure.axes[2]))
    assert abs(folded.mean() - 1 / 8) < 0.02, "det J = 1 - 15 / 10 between two of nine nodes"
    assert "folds (hatched)" in texts(figure)


def test_a_chain_shows_what_is_not_affine():
    grid = dr.Grid((20, 30, 25), (3, 1, 1))
    shear = linear_field(np.diag([0.1, 0.0, 0.0]) + 0.05, (25, 25, 25), 4)
    figure = field_figure(dr.Affine.rotation(rz=0.3, centre=(0, 9, 9)) @ shear, grid)
    assert len(figure.axes) == 3 * 5, "three planes, each with two colour bars"
    for row in range(3):
        assert shown(figure.axes[3 * row + 1]).max() < 1e-9, "a linear field is affine"


def test_every_slice_has_its_own_row_and_images_a_checkerboard():
    vectors = np.zeros((5, 2, 6, 8))
    vectors[:, 1] = np.arange(5)[:, None, None]
    stack = np.random.default_rng(0).random((5, 40, 56))
    moved = np.stack([np.roll(image, k, axis=1) for k, image in enumerate(stack)])
    pull = dr.SliceDisplacements(vectors, dr.Grid((6, 8), 8))
    figure = field_figure(pull, dr.Grid(stack.shape), fixed=stack, moving=moved, slices=(1, 4))
    assert np.allclose([shown(figure.axes[4 * row + 1]).max() for row in (0, 1)], [1, 4])
    with pytest.raises(ShapeMismatchError, match="4 axes"):
        field_figure(pull, dr.Grid((2, 5, 40, 56)))


def test_the_checkerboard_is_made_of_the_warped_image():
    y, x = np.mgrid[:48, :64]
    fixed = np.sin(y / 5.0) + np.cos(x / 7.0)
    moving = np.sin(y / 5.0) + np.cos((x - 3) / 7.0)
    field = dr.DisplacementField(np.stack([np.zeros((8, 10)), np.full((8, 10), 3.0)]), dr.Grid((8, 10), 8))
    grid = dr.Grid(fixed.shape)
    board = shown(field_figure(field, grid, fixed=fixed, moving=moving).axes[3])
    alone = shown(field_figure(field, grid, fixed=fixed, moving=fixed + 0 * moving).axes[3])
    low, high = np.percentile(fixed, (0.5, 99.5))
    rows, columns = (np.linspace(0, n - 1, m) for n, m in zip(fixed.shape, board.shape, strict=True))
    truth = np.sin(np.rint(rows)[:, None] / 5) + np.cos(np.rint(columns) / 7)
    wrong = [np.abs(b - np.clip((truth - low) / (high - low), 0, 1))[:, :-12].mean() for b in (board, alone)]
    assert wrong[0] < 0.03 < wrong[1]


def test_a_grid_of_any_size_takes_the_same_few_samples_of_a_stored_field(tmp_path):
    import zarr

    nodes = dr.Grid((300, 400), 250, (1000, -2000))
    array = zarr.create_array(tmp_path / "vectors.zarr", shape=(2, 300, 400), chunks=(2, 50, 50), dtype="f4")
    array[:] = 1.0
    figure = field_figure(dr.DisplacementField(array, nodes), dr.Grid((70_000, 90_000), 1, (1000, -2000)))
    assert max(shown(figure.axes[1]).shape) <= 160
    for ax in figure.axes[:3]:
        middle = [np.mean(limits) for limits in (ax.get_ylim(), ax.get_xlim())]
        assert np.allclose(middle, (1000 + 35_000, -2000 + 45_000), rtol=0.01), "world coordinates"


def test_what_does_not_fit_is_an_error():
    field = linear_field(np.zeros((2, 2)), unit="um")
    with pytest.raises(ShapeMismatchError, match="2D"):
        field_figure(field, dr.Grid((3, 4, 5), unit="um"))
    with pytest.raises(UnitError):
        field_figure(field, dr.Grid((4, 5), unit="mm"))


@pytest.mark.parametrize("axis", [0, 1, -1, "z", "y"])
def test_fields_of_slices_on_the_grid_of_a_slice(axis):
    """The same pictures as on the grid of the stack."""
    position = "zyx".index(axis) if isinstance(axis, str) else axis % 3
    shape = [37, 52]
    shape.insert(position, 4)
    whole = dr.Grid(shape)
    slice_grid = whole.take([k for k in range(3) if k != position])
    vectors = np.random.default_rng(3).normal(size=(4, 2, 6, 8))
    pull = dr.SliceDisplacements(vectors, dr.Grid((6, 8), 8, axes=slice_grid.names), axis)
    images = np.random.default_rng(4).random((2, *shape))
    figures = [field_figure(pull, g, fixed=images[0], moving=images[1], slices=(3,)) for g in (whole, slice_grid)]
    for one, other in zip(*([shown(ax) for ax in figure.axes[1:4]] for figure in figures), strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_is_not_there_is_a_typed_error():
    pull = dr.SliceDisplacements(np.zeros((5, 2, 6, 8)), dr.Grid((6, 8), 8), "z")
    grid = dr.Grid((5, 40, 56))
    for slices in ((), (5,), (-1,), 3, (1.5,), ("a",)):
        with pytest.raises(OptionError, match="slices="):
            field_figure(pull, grid, slices=slices)
    for other in (dr.Grid((5, 40, 56), axes=("t", "y", "x")), dr.Grid((40, 56), axes=("z", "x"))):
        with pytest.raises(GridError, match="'z'"):
            field_figure(pull, other)
    with pytest.raises(GridError, match="axis 3"):
        field_figure(dr.SliceDisplacements(np.zeros((5, 2, 6, 8)), dr.Grid((6, 8), 8), 3), grid)
    right, wrong = np.zeros(grid.shape), np.zeros((5, 40, 55))
    for fixed, moving in ((wrong, right), (right, wrong), (right[0], right[0])):
        for shown_on in (grid, dr.Grid((40, 56))):
            with pytest.raises(ShapeMismatchError, match="has shape"):
                field_figure(pull, shown_on, fixed=fixed, moving=moving)
    with pytest.raises(ShapeMismatchError, match="6 slices"):
        field_figure(pull, dr.Grid((6, 40, 56)), fixed=np.zeros((6, 40, 56)), moving=np.zeros((6, 40, 56)))
    field, plane = linear_field(np.zeros((2, 2))), dr.Grid((31, 47), 2.5)
    with pytest.raises(ShapeMismatchError, match="moving has shape"):
        field_figure(field, plane, fixed=np.zeros((31, 47)), moving=np.zeros((31, 46)))
    with pytest.raises(ShapeMismatchError, match="moving_grid"):
        field_figure(field, plane, fixed=np.zeros((31, 47)), moving=right, moving_grid=grid)
