"""Pages of fits and outputs: what they say, what they show, and how large they get."""

from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib.image
import numpy as np
import pytest
import scipy.ndimage
from browser import chromium, needs_chromium
from skimage import data

import daskreg as dr
from daskreg.errors import ShapeMismatchError
from daskreg.output_page import report_output
from daskreg.reporting.cloud_section import points_section
from daskreg.reporting.page import report
from daskreg.reporting.stack_section import stack_section
from daskreg.stacks.verdict.stack_status import StackStatus
from daskreg.tomography.fit import TiltFit, TiltStatus
from daskreg.volumes import to_dataarray

pytestmark = pytest.mark.slow


def text_of(page: Path) -> str:
    """What is read on a page: without tags, pictures, and the raw facts."""
    shown = page.read_text(encoding="utf-8").partition("Raw facts")[0]
    return re.sub(r"\s+", " ", re.sub(r"<style.*?</style>|<[^>]*>", " ", shown, flags=re.DOTALL))


def picture_of(uri: str) -> np.ndarray:
    """The (H, W, 3) bytes of an embedded picture."""
    image = matplotlib.image.imread(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
    return np.asarray(np.rint(image[..., :3] * 255), np.uint8)


@pytest.fixture(scope="module")
def stack() -> Any:
    """A photograph that drifts, with a blank slice and a copy; anisotropic, in micrometers."""
    scene = scipy.ndimage.gaussian_filter(data.gravel()[:270:2, :330:2].astype(float), 1)
    shifts = np.random.default_rng(8).uniform(-4, 4, (9, 2))
    rng = np.random.default_rng(9)
    volume = np.stack([scipy.ndimage.shift(scene, s, mode="reflect") + rng.normal(0, 2, scene.shape) for s in shifts])
    volume[3] = 0
    volume[6] = volume[5]
    grid = dr.Grid(volume.shape, spacing=(4, 0.5, 0.5), unit="um")
    return to_dataarray(volume.astype(np.float32), grid)


@pytest.fixture(scope="module")
def fit(stack: Any) -> dr.StackFit:
    return dr.align_stack(stack, model="translation")


def test_a_stack_says_what_to_do_and_shows_its_worst_slices(stack: Any, fit: dr.StackFit, tmp_path: Path) -> None:
    page = fit.report(tmp_path / "fit.html", stack=stack, command="daskreg align 'my stack.tif'")
    told = text_of(page)
    assert "8 slices of 9 are aligned; 1 slice could not be fitted" in told
    assert "What to do: Look at slices 3, 6 below" in told
    assert "Slice 3: blank; beside slice 2" in told
    assert "Slice 6: duplicated; beside slice 5" in told
    assert "Neighbours that agree least" in told
    assert "shift (µm)" in told
    assert "x → z ↑, y = 67" in told
    assert "daskreg align &#39;my stack.tif&#39;" in told
    assert "dr.align_stack(stack, model=&#39;translation&#39;)" in told
    assert re.search(r"Largest shift along y -?\d+\.\d+ ± 0\.\d+ µm", told)
    for raw in ("bridged", "half_extent", "{", "disagreement"):
        assert raw not in told.partition("daskreg align")[0], raw
    assert json.loads((tmp_path / "fit.report.json").read_text())["entries"][0]["bridged"] == [3]


def test_only_the_stack_of_the_fit_is_shown(stack: Any, fit: dr.StackFit, tmp_path: Path) -> None:
    """Another unit, number of slices, or size would give pictures that say nothing of the fit; a coarse level is it."""
    pixels = stack.values
    with pytest.warns(dr.errors.PixelUnitWarning):
        fit.section(stack=pixels)
    with pytest.raises(dr.errors.UnitError):
        fit.section(stack=to_dataarray(pixels, dr.Grid(pixels.shape, spacing=(4, 0.5, 0.5), unit="mm")))
    for other in (stack[:-1], stack[:, :-9], dr.open(stack, spacing=0.25)):
        with pytest.raises(dr.errors.ShapeMismatchError, match="the fit is of"):
            fit.report(tmp_path / "fit.html", stack=other)
    half = stack[:, :134, :164].coarsen(y=2, x=2).mean()
    assert len(fit.section(stack=half).comparisons) == 1


def test_a_stack_that_failed_names_the_remedy(fit: dr.StackFit, tmp_path: Path) -> None:
    from dataclasses import replace

    broken = replace(fit, status=StackStatus.BROKEN, breaks=(5,))
    told = text_of(broken.report(tmp_path / "fit.html"))
    assert "Do not use this result as it is. At some places no fit joins neighbouring slices" in told
    assert "What to do: Look at the breaks below." in told
    assert "Slices: break 5" in told
    assert "fit.report(path, stack=stack)" in told, "how to get pictures"


def test_ten_thousand_slices_are_less_than_five_megabytes(fit: dr.StackFit, tmp_path: Path) -> None:
    many, count = np.random.default_rng(0), 10_000
    matrices = np.tile(np.eye(3), (count, 1, 1))
    matrices[:, :2, 2] = np.cumsum(many.normal(size=(count, 2)), axis=0)
    values = many.random(count)
    large = replace(
        fit, raw_from_aligned=dr.SliceAffines(matrices, "z", unit="um"), scores=values, cycles=values,
        sigma={"tx": values, "ty": values}, kinds=dict.fromkeys(range(0, count, 3), "torn"), bridged=(), breaks=(),
        pairs=None, features=None,
    )  # fmt: skip
    page = large.report(tmp_path / "fit.html")
    assert page.stat().st_size < 5e6
    assert "10,000 slices" in text_of(page)
    assert "1000 of 10000 rows" in text_of(page)
    assert len(json.loads((tmp_path / "fit.report.json").read_text())["entries"][0]["scores"]) == count


def test_a_pair_that_failed_and_one_without_images(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    smooth = [scipy.ndimage.gaussian_filter(rng.normal(size=(70, 80)), 2) for _ in range(2)]
    fit = dr.register(*smooth, model="translation")
    assert not fit.ok
    told = text_of(fit.report(tmp_path / "fit.html"))
    assert "Do not use this result as it is." in told
    assert "What to do:" in told
    fit.save(tmp_path / "fit.json")
    loaded = dr.PairFit.load(tmp_path / "fit.json")
    assert "pass them: fit.report(path, fixed=fixed, moving=moving)" in text_of(loaded.report(tmp_path / "a.html"))
    shown = loaded.section(fixed=smooth[0].astype(np.float32), moving=smooth[1].astype(np.float32))
    assert shown.comparisons == fit.section().comparisons


def test_projections_in_words(tmp_path: Path) -> None:
    count, shifts = 60, np.random.default_rng(5).normal(0, 2, (60, 2))
    maps = np.tile(np.eye(3), (count, 1, 1))
    maps[:, :2, 2] = shifts
    fit = TiltFit(
        dr.SliceAffines(maps, unit="um"), np.linspace(0, np.pi, count, endpoint=False), "y", axis=1e-3, centre=22.7,
        sigma={"tx": np.full(count, 0.2), "ty": np.full(count, 0.3), "axis": 1e-4, "centre": 0.02},
        residuals=np.full(count, 0.0115), kinds={7: "blank"}, status=TiltStatus.CONVERGED, agreement=0.98, noise=1.0,
        disagreement=1.0, model="translation", middle=(10.0, 10.0), binning=2, steps=7, seconds=8.0,
    )  # fmt: skip
    told = text_of(fit.report(tmp_path / "tilt.html"))
    assert "59 of 60 projections are aligned, and the volume explains them; 1 projection was not used." in told
    assert "The axis of rotation is at column 22.700 ± 0.020" in told
    assert "Turn of the axis in the detector 0.0573 ± 0.0057°" in told
    assert "Not explained by the volume, median 1.15 %" in told
    assert "projection angle (°) shift x (µm) shift y (µm)" in told
    assert "shift, less its median (µm)" in told
    failed = replace(fit, status=TiltStatus.INCONSISTENT)
    assert "What to do: Check the angles" in text_of(failed.report(tmp_path / "failed.html"))


def test_landmarks_are_joined_in_pairs() -> None:
    """A line between two marks, orange where the pair contradicts the others; lengths along both axes are alike."""
    fixed = np.array([[0.0, 0.0], [0.0, 40.0], [3.0, 0.0], [3.0, 40.0]])
    fit = SimpleNamespace(
        moving_from_fixed=dr.Affine.translation(y=0.0, x=0.0), sigma={}, parameters={}, rmse=1.0, free=(), ok=True,
        inliers=np.ones(4, bool), outliers=np.array([3]), model="rigid",
    )  # fmt: skip
    shown = points_section(fit, fixed, fixed + np.array([0.0, 10.0])).comparisons[0]
    assert "orange" in shown.caption
    assert [(v.title, v.note, v.bar_label) for v in shown.views] == [("x → y ↓", "", "10 px")]
    picture = picture_of(shown.views[0].pictures[0])
    colours = {tuple(c) for c in picture.reshape(-1, 3)}
    assert len(colours) == 5, "paper, two marks, and lines of two colours"


def test_an_output_is_compared_with_its_source(stack: Any, fit: dr.StackFit, tmp_path: Path) -> None:
    aligned = dr.warp(stack, pull=fit.raw_from_aligned)
    written = dr.write(aligned, tmp_path / "a.ome.zarr", progress=False)
    page = report_output(written, tmp_path / "run.html", before=stack)
    told = text_of(page)
    assert "The volume is complete" in told
    assert "z 9 × y 135 × x 165 voxels of 4 × 0.5 × 0.5 µm" in told
    assert page.read_text().count('href="data:image/png') == 6, "three planes before and after"
    alone = report_output(tmp_path / "a.ome.zarr", tmp_path / "alone.html")
    assert alone.read_text().count('href="data:image/png') == 3
    assert 'type="range"' not in alone.read_text()
    assert report_output(f"file://{tmp_path}/a.ome.zarr", tmp_path / "again.html").exists()
    with pytest.raises(dr.errors.OptionError, match="s3://bucket/a.ome.zarr cannot be used: it is a URL"):
        report_output("s3://bucket/a.ome.zarr", tmp_path / "b.html")
    with pytest.raises(dr.errors.InputError, match="no ledger"):
        report_output(tmp_path / "b.zarr", tmp_path / "b.html")


@needs_chromium
def test_pages_of_all_kinds_in_a_browser(stack: Any, fit: dr.StackFit, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    cloud = rng.normal(size=(500, 3)) * (1, 2, 3)
    marks = rng.normal(size=(9, 3))
    kinds = {'<img src=x onerror="boom()">': 4}
    shown = ("raw_from_aligned", "centre", "sigma", "status", "scores", "cycles", "model", "metric", "reference",
             "trend", "smooth", "neighbors", "cycle", "disagreement", "rival", "bad_voxels", "seconds", "parameters",
             "common_line", "slow")  # fmt: skip
    odd = SimpleNamespace(
        **{name: getattr(fit, name) for name in shown},
        ok=True, outliers=(4,), kinds={i: kind for kind, i in kinds.items()}, bridged=(), breaks=(), rows=fit.rows,
    )  # fmt: skip
    pages = [
        fit.report(tmp_path / "stack.html", stack=stack),
        report({}, tmp_path / "odd.html", sections=[stack_section(odd)]),
        dr.icp(cloud + 0.1, cloud).report(tmp_path / "cloud.html"),
        dr.fit_points(marks, marks + rng.normal(0, 0.1, marks.shape)).report(tmp_path / "points.html"),
    ]
    with chromium(tmp_path / "profile") as page:
        for path in pages:
            page.open(path)
            assert page.evaluate("document.querySelectorAll('img').length") == 0
            assert page.evaluate("document.querySelectorAll('svg').length") > 0
            wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert wide <= 0, path
            assert page.logged == [], path
        page.call("Emulation.setDeviceMetricsOverride", width=320, height=800, deviceScaleFactor=1, mobile=True)
        page.open(dr.DisplacementField(np.ones((2, 9, 9)), dr.Grid((9, 9))).report(tmp_path / "field.html"))
        assert page.evaluate("document.documentElement.scrollWidth") <= 320
        assert page.evaluate("document.querySelector('img').getBoundingClientRect().width") > 600, "it can be scrolled"
        assert page.logged == []
        page.call("Emulation.clearDeviceMetricsOverride")
        page.open(pages[1])
        titles = page.evaluate("[...document.querySelectorAll('.sign title')].map(t => t.textContent)")
        assert f"slice 4: {next(iter(kinds))}" in titles


def test_a_volume_of_another_shape_is_refused(tmp_path: Path) -> None:
    volume = np.random.default_rng(1).normal(size=(5, 31, 42)).astype(np.float32)
    written = dr.write(volume, tmp_path / "out.ome.zarr", progress=False, client=False)
    for other in (volume[:4], volume[0], volume[:, :, 1:]):
        with pytest.raises(ShapeMismatchError, match="same shape"):
            report_output(written, tmp_path / "page.html", before=other)
    assert not (tmp_path / "page.html").exists()
