"""Pictures that do not mislead: contrast without fill, colours of what agrees, scale bars, planes, and their files."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import matplotlib.image
import numpy as np
import pytest
import scipy.ndimage
from skimage import data

from daskreg.geometry import Affine, Grid
from daskreg.reporting import composites, views
from daskreg.reporting.chart import Line, chart, ticks
from daskreg.reporting.contrast import Window, common_windows
from daskreg.reporting.planes import indices_with_content, pair_planes, places
from daskreg.reporting.png_image import encoded


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return data.brick()[:301:2, :419:2].astype(np.float32)


def test_a_window_is_of_what_was_measured() -> None:
    values = np.linspace(10, 20, 1000)
    padded = np.concatenate([values, np.full(4000, np.nan)])
    assert Window.of(padded) == Window.of(values)
    assert Window.of(padded).low == pytest.approx(np.percentile(values, 0.5))
    assert Window.of(np.full(9, np.nan)) == Window(0, 1)
    spots = np.zeros(1000)
    spots[3] = 7
    assert Window.of(spots) == Window(0, 7), "a few bright voxels are all the contrast there is"
    assert np.isnan(Window(0, 1).scaled(np.array([np.nan, 3.0]))).tolist() == [True, False]


@pytest.mark.parametrize("angle", [0.1, 0.6])
def test_what_agrees_is_grey_also_beside_fill(photo: np.ndarray, angle: float) -> None:
    """The corners that a turn leaves empty, and another gain and offset, change no colour elsewhere."""
    turn = Affine.rotation(angle, centre=(75, 100))
    grid = Grid(photo.shape)
    larger = Grid((260, 340), origin=(-50, -60))
    found = scipy.ndimage.affine_transform(photo, turn.inverse().linear, turn.inverse().offset, order=3, cval=np.nan)
    (plane,) = pair_planes(photo, 40 - 3 * found, turn.matrix, grid, grid)
    left = composites.overlay(plane.fixed, 40 - plane.after)
    both = np.isfinite(plane.after)
    assert both.mean() < 0.97
    assert np.median(np.ptp(left, axis=-1)[both]) < 0.05
    board = composites.checkerboard(plane.fixed, 40 - plane.after)[both]
    assert np.median(np.abs(board - composites.checkerboard(plane.fixed, plane.fixed)[both])) < 0.05
    alone = composites.overlay(plane.fixed, plane.after)[~both]
    assert np.ptp(alone, axis=-1).max() == 0, "where there is one image, there is no colour"
    assert alone.max() <= composites.DIM
    (wide,) = pair_planes(np.full(larger.shape, np.nan), photo, np.eye(3), larger, grid)
    assert np.isfinite(wide.after).sum() == photo.size


def test_differences_have_a_sign() -> None:
    ramp = np.tile(np.linspace(0, 100, 50), (40, 1))
    other = ramp.copy()
    other[:10, 20:30] += 60
    other[30:, 20:30] -= 60
    picture = composites.difference(ramp, other)
    more, less, same = picture[5, 25], picture[35, 25], picture[20, 25]
    assert more[0] > more[2] + 0.4
    assert less[2] > less[0] + 0.4
    assert np.ptp(same) < 0.02
    assert same.min() > 0.9


def test_common_windows_leave_out_what_one_image_lacks() -> None:
    a, b = np.linspace(0, 1, 100), np.linspace(0, 1, 100)
    b[:50] = np.nan
    first, second = common_windows(a, b)
    assert first == second
    assert first.low > 0.5


BARS = [
    (100, "micrometer", "20 µm"),
    (7, "pixel", "2 px"),
    (0.004, "millimeter", "0.001 mm"),
    (60, "nanometer", "10 nm"),
]


@pytest.mark.parametrize(("width", "unit", "label"), BARS)
def test_scale_bars_are_round(width: float, unit: str, label: str) -> None:
    bar = views.scale_bar(width, unit)
    assert bar.label == label
    assert 0.1 * width < bar.length <= 0.3 * width


def test_planes_keep_names_spacing_and_the_way_up() -> None:
    grid = Grid((10, 20, 2000), (5, 1, 0.5), unit="nm", axes=("s", "v", "u"))
    found = places(grid)
    assert [p.name for p in found] == ["uv", "us", "vs"]
    assert [p.upward for p in found] == [False, True, True]
    assert found[1].spacing == (5, 2), "of 2000 voxels every fourth is drawn"
    assert found[1].at == "v = 10"
    volume = np.zeros((10, 4, 4), np.float32)
    volume[9] = 1
    side = places(Grid(volume.shape))[1]
    shown = views.view(side, [np.repeat(volume[:, 2, :, None], 3, -1)], "")
    assert shown.height / shown.width == pytest.approx(views.TALLEST)
    assert "z drawn" in shown.note
    assert side.drawn(volume[:, 2])[0].all(), "the last slice is drawn at the top"


def test_a_view_that_is_drawn_as_it_is_has_no_note() -> None:
    for times, note in ((1.0, ""), (1.04, ""), (1 / 1.04, ""), (2.0, "2 times as flat"), (0.5, "2 times as high")):
        side = replace(places(Grid((100, 100)))[0], spacing=(views.TALLEST * times, 1.0))
        side = side if times >= 1 else replace(side, spacing=(views.FLATTEST * times, 1.0))
        shown = views.view(side, [np.zeros((100, 100, 3), np.float32)], "")
        assert shown.note == (note and f"y drawn {note}"), times


def test_of_blank_planes_another_one_is_shown() -> None:
    """Padding, and slices that are lost: what is not in the middle is looked for; of blank volumes it is the middle."""
    volume = np.full((16, 24, 20), 7, np.float32)
    volume[3:7, 13:, 2:18] = np.random.default_rng(0).random((4, 11, 16))
    assert indices_with_content(volume, (1, 1, 1)) == (6, 15, 10)
    volume[:7, :, :] = np.nan
    volume[12:] = 9
    assert indices_with_content(volume, (1, 1, 1))[0] == 8
    grid = Grid(volume.shape, unit="um")
    volume[2] = np.arange(20)
    pairs = pair_planes(volume, volume, np.eye(4), grid, grid)
    assert pairs[0].place.at == "z = 2"
    np.testing.assert_array_equal(pairs[0].after, volume[2])


@pytest.mark.parametrize("shape", [(31, 50), (7, 3, 3), (1, 1), (1, 200, 3)])
def test_png_files_are_read_by_another_library(shape: tuple[int, ...]) -> None:
    colours = np.random.default_rng(sum(shape)).random(shape)
    found = matplotlib.image.imread(io.BytesIO(encoded(colours)))
    expected = colours if found.ndim == colours.ndim else np.repeat(colours[..., None], 3, -1)
    assert np.abs(found[..., :3] - expected).max() <= 0.5 / 255 + 1e-6 if found.ndim == 3 else True
    assert np.abs(found - colours).max() <= 0.5 / 255 + 1e-6 if found.shape == shape else found.ndim == 3


def test_ticks_of_slices_are_whole() -> None:
    assert ticks(-0.5, 2.5, 10, whole=True) == [0, 1, 2]
    assert ticks(-0.5, 9999.5, 10, whole=True)[1] == 1000
    assert ticks(0.13, 0.87, 4) == pytest.approx([0.2, 0.4, 0.6, 0.8])


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.999955, 0.999964, ["0.999955", "0.99996"]),
        (0.99951, 0.99963, ["0.99955", "0.9996"]),
        (-12, 9, ["-10", "0", "10"]),
    ],
)
def test_labels_of_an_axis_tell_its_levels_apart(low: float, high: float, expected: list[str]) -> None:
    drawn = chart([Line("a", np.array([low, high]))], label="a", along="z")
    assert re.findall(r'text-anchor="end">([-0-9.]+)<', drawn) == expected


def test_a_chart_of_many_slices_is_small_and_keeps_its_extremes() -> None:
    values = np.sin(np.arange(10_000) / 500)
    values[4321], values[77] = 9, np.nan
    marks = {"<blank>": list(range(0, 10_000, 10))}
    svg = chart([Line("a&b", values, np.full(10_000, 0.1))], label="x", along="z", marks=marks)
    assert len(svg) < 120_000
    assert "a&amp;b" in svg
    assert "&lt;blank&gt;" in svg
    assert "<blank>" not in svg
    path = next(
        part for part in svg.split("<path") if 'class="line c0" d="M64' in part or 'class="line c0" d="M6' in part
    )
    heights = [float(p.split(",")[1]) for p in path.split('d="')[1].split('"')[0][1:].replace("M", "L").split("L") if p]
    assert min(heights) < 35, "the one slice that stands out is drawn"
