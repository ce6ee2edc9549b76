"""The Python that a fit prints makes that fit again, or says that it does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from scipy.ndimage import gaussian_filter

import daskreg as dr
from daskreg.reporting.recipe import recipe
from daskreg.stacks.verdict.stack_status import StackStatus
from daskreg.tomography import align_projections


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two images of two channels, of which only the second moves, as TIFF and as a pyramid."""
    path = tmp_path_factory.mktemp("recipes")
    rng = np.random.default_rng(4)
    still, scene = (gaussian_filter(rng.normal(size=(83, 101)), 2).astype(np.float32) for _ in range(2))
    for name, moved in (("fixed", scene), ("moving", np.roll(scene, (3, -2), (0, 1)))):
        both = np.stack([still, moved])
        tifffile.imwrite(path / f"{name}.tif", both, imagej=True, metadata={"axes": "CYX"})
        dr.write(dr.open(path / f"{name}.tif"), path / f"{name}.ome.zarr", levels=2, progress=False)
    return path


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        ("tif", {"channel": 1, "spacing": (0.5, 0.25), "unit": "um"}),
        ("tif", {"channel": 1, "spacing": {"y": 2.0}, "unit": "nm", "missing": "error"}),
        ("ome.zarr", {"channel": 1, "level": 1, "spacing": np.array([3.0, 3.0])}),
    ],
)
def test_options_of_open_are_written(folder: Path, suffix: str, options: dict[str, Any]) -> None:
    images = [dr.open(folder / f"{name}.{suffix}", **options) for name in ("fixed", "moving")]
    fit = dr.register(images[0], images[1], model="translation")
    found: dict[str, Any] = {}
    exec(fit.recipe, found)  # what a user would paste
    np.testing.assert_array_equal(found["fit"].matrix, fit.matrix)
    assert found["fit"].moving_from_fixed.unit == fit.moving_from_fixed.unit
    assert "#" not in fit.recipe


def test_what_differs_is_said(folder: Path) -> None:
    image = dr.open(folder / "fixed.tif", channel=0)

    def opened(value: Any) -> str:
        return recipe(dr.register, {}, {"fixed": value}).splitlines()[2]

    call = f"fixed = dr.open({str(folder / 'fixed.tif')!r}, channel=0)"
    assert opened(image) == call
    assert opened(image.data) == f"{call}.data"
    placed = image.assign_coords(x=image.x + 7)
    assert opened(placed) == f"{call}  # and then given other coordinates or names of axes"
    assert "in memory" in opened(image * 2)
    assert opened(dr.open([folder / "fixed.tif", folder / "moving.tif"])).count(".tif'") == 2
    url = "s3://bucket/a.tif?token=abc"
    assert "abc" not in opened(url)


def test_only_options_that_differ_are_written(folder: Path) -> None:
    """A whole number is the same as a float, and no anchors are none; masks and transforms are written out."""
    given = {"anchors": {}, "smooth": 15.0, "trend": "keep", "neighbors": True}
    assert recipe(dr.align_stack, given, {}).endswith("fit = dr.align_stack(trend='keep', neighbors=True)")
    image = dr.open(folder / "fixed.tif", channel=0)
    shift = dr.Affine.translation(y=1.5, x=0.1 + 0.2, unit="um")
    given = {"fixed_mask": image, "moving_mask": image * 2, "init": shift, "metric": np.hypot}
    line = recipe(dr.register, given, {}).splitlines()[-1]
    assert f"fixed_mask=dr.open({str(folder / 'fixed.tif')!r}, channel=0), moving_mask=..., init=" in line
    assert recipe(align_projections, {}, {}, within="dr.tomography").endswith("fit = dr.tomography.align_projections()")
    points = np.random.default_rng(0).normal(size=(8, 2))
    fit = dr.fit_points(points, points + 1, "translation")
    assert "fit = dr.fit_points(fixed, moving, model='translation')" in fit.recipe
    assert eval(line.partition("init=")[2].partition(", metric=hypot)")[0], {"dr": dr}) == shift


def test_what_is_written_is_whole_and_runs() -> None:
    """Numbers as Python's; what is too long, or no expression, is left to the reader as a whole."""

    def written(value: Any) -> str:
        return recipe(dr.align_stack, {"some": value}, {}).partition("some=")[2][:-1]

    shift = dr.Affine.translation(y=1.5, x=2)
    anchors = {np.int64(i): shift for i in range(4)}
    assert eval(written(anchors), {"dr": dr}) == anchors
    assert written(dict.fromkeys(range(9), shift)) == "..."
    assert written(dict.fromkeys(range(9), 0.5)) == str(dict.fromkeys(range(9), 0.5))
    for value in (np.float64(0.1), np.float32(0.5), [np.int8(3), (np.bool_(True),)], {"a": np.str_("b")}, ()):
        assert eval(written(value)) == value
        assert "np." not in written(value)
    assert written((np.nan, -np.inf)) == '(float("nan"), float("-inf"))'
    for value in (lambda: 0, [lambda: 0], {1: object()}, (np.zeros(3),), StackStatus.BROKEN, np.longdouble(1)):
        assert written(value) == "..."
    assert written(["https://host/a?token=it's secret"]) == "['https://host/a?token=***']"
    assert recipe(dr.align_stack, {"neighbors": np.int64(2)}, {}).endswith("dr.align_stack()")


def test_a_path_is_shown_where_the_folder_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert "fixed = dr.open('a.tif')" in recipe(dr.register, {}, {"fixed": "a.tif"})
    assert "fixed = dr.open('s3://b/a?t=***')" in recipe(dr.register, {}, {"fixed": "s3://b/a?t=a'b c"})
