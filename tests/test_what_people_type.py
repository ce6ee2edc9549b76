"""What a user types first: apply, matrix, save and load, degrees, pull or push, one call, progress, notebooks."""

from __future__ import annotations

import json
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask.array as da
import numpy as np
import pytest
import scipy.ndimage
from scipy.spatial.transform import Rotation
from skimage import data

import daskreg as dr
from daskreg.errors import InvalidTransformError, OptionError, ShapeMismatchError
from daskreg.volumes import to_dataarray

pytestmark = pytest.mark.slow


class Checked(HTMLParser):
    """HTML whose tags are closed; `text` is what is read."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        assert tag != "script"
        if tag not in ("img", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None: ...

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data + " "


@pytest.fixture(scope="module")
def pair() -> tuple[Any, Any, dr.PairFit]:
    scene = data.moon()[100:361:2, 90:391:2].astype(np.float32)
    grid = dr.Grid(scene.shape, spacing=0.5, unit="mm")
    moving = scipy.ndimage.shift(scene, (3, -4), order=1, mode="nearest")
    fixed = to_dataarray(scene, grid)[5:-5, 8:]
    return fixed, to_dataarray(moving, grid), dr.register(fixed, to_dataarray(moving, grid), model="translation")


@pytest.fixture(scope="module")
def stack() -> tuple[np.ndarray, dr.StackFit]:
    scene = data.gravel()[:240:2, :280:2].astype(np.float32)
    volume = np.stack([np.roll(scene, (k, -2 * k), (0, 1)) for k in (0, 1, 0, 2, 1)])
    return volume, dr.align_stack(volume, model="translation")


def test_a_fit_is_applied_to_the_image_and_to_its_points(pair: Any) -> None:
    fixed, moving, fit = pair
    registered = fit.apply(moving)
    assert dr.grid(registered).same(dr.grid(fixed))
    inside = (slice(8, -8), slice(8, -8))
    assert np.corrcoef(registered.values[inside].ravel(), fixed.values[inside].ravel())[0, 1] > 0.999
    points = np.array([[10.0, 20.0], [30.5, 11.0], [3, 4]])
    np.testing.assert_allclose(fit.apply(points), points - (1.5, -2.0), atol=0.01)
    np.testing.assert_allclose(fit.inverse()(fit.moving_from_fixed(points)), points, atol=1e-9)
    assert fit.matrix.shape == (3, 3)
    with pytest.raises(OptionError, match="order: points are moved"):
        fit.apply(points, order=0)


def test_an_image_in_colour_is_registered_and_warped_alike() -> None:
    """(rows, columns, 3) of scikit-image: the same axes come back."""
    photograph = data.astronaut()[100:180, 150:251]
    moving = np.roll(photograph, (3, -2), (0, 1))
    fit = dr.register(photograph, moving, channel=1, model="translation")
    for found in (fit.apply(moving), dr.warp(da.from_array(moving), pull=dr.Affine.translation(y=3, x=-2))):
        assert found.shape == photograph.shape
        np.testing.assert_array_equal(np.asarray(found)[5:-5, 5:-5], photograph[5:-5, 5:-5])


def test_a_fit_of_a_stack_and_of_clouds_is_applied(stack: Any) -> None:
    volume, fit = stack
    aligned = fit.apply(volume)
    np.testing.assert_array_equal(aligned, dr.warp(volume, pull=fit.raw_from_aligned))
    np.testing.assert_array_equal(dr.register_transform_stack(volume, model="translation"), aligned)
    assert fit.matrix.shape == (5, 3, 3)
    seen = fit.apply(np.array([[3.0, 40.0, 50.0]]))
    expected = fit.raw_from_aligned.inverse()[3]([40.0, 50.0])
    np.testing.assert_allclose(seen[0], [3, *expected])
    turn = Rotation.from_euler("z", 0.3).as_matrix()
    source = np.random.default_rng(2).normal(size=(400, 3)) * (1, 2, 3)
    found = dr.icp(source @ turn.T + (0.1, 0.2, 0.3), source)
    np.testing.assert_allclose(found.apply(source), source @ turn.T + (0.1, 0.2, 0.3), atol=1e-6)


def test_saved_fits_are_loaded_whole(pair: Any, tmp_path: Path) -> None:
    fit = pair[2]
    dr.save(fit, tmp_path / "fit.json")
    loaded = dr.PairFit.load(tmp_path / "fit.json")
    assert repr(loaded) == repr(fit)
    assert loaded.sigma == fit.sigma
    assert loaded.fixed_grid is None
    assert loaded.recipe == fit.recipe
    assert "model='translation'" in fit.recipe
    np.testing.assert_array_equal(loaded.losses, fit.losses)
    dr.save(fit.matrix, tmp_path / "matrix.json")
    np.testing.assert_array_equal(dr.load(tmp_path / "matrix.json").to_matrices(), fit.matrix)
    dr.save(dr.Affine.translation((1, 2)), tmp_path / "shift.json")
    with pytest.raises(dr.errors.InvalidTransformError, match="not the fit of a pair"):
        dr.PairFit.load(tmp_path / "shift.json")


def test_the_recipe_runs(pair: Any, tmp_path: Path) -> None:
    import tifffile

    fixed, moving, _ = pair
    for name, image in (("fixed", fixed), ("moving", moving)):
        tifffile.imwrite(tmp_path / f"{name}.tif", image.values)
    images = [dr.open(tmp_path / f"{name}.tif") for name in ("fixed", "moving")]
    fit = dr.register(images[0], images[1], model=("translation",), metric="mse", smoothing=0.7)
    found: dict[str, Any] = {}
    exec(fit.recipe, found)  # what a user would paste
    np.testing.assert_array_equal(found["fit"].matrix, fit.matrix)


def test_degrees_and_arrays() -> None:
    np.testing.assert_allclose(dr.Affine.rotation(30, degrees=True).matrix, dr.Affine.rotation(np.pi / 6).matrix)
    turned = dr.Affine.rotation(rz=20, rx=-5, degrees=True)
    expected = Rotation.from_euler("xyz", [-5, 0, 20], degrees=True).as_matrix()
    np.testing.assert_allclose(turned.linear[::-1, ::-1], expected, atol=1e-12)
    assert dr.Affine.translation((1, 2)) == dr.Affine.translation(y=1, x=2)
    assert dr.Affine.translation((1, 2, 3), unit="um").unit == "micrometer"
    with pytest.raises(OptionError, match="not both"):
        dr.Affine.translation((1, 2), x=3)
    with pytest.raises(ShapeMismatchError):
        dr.Affine.translation([[1, 2]])


def test_which_way_is_asked(stack: Any) -> None:
    volume, fit = stack
    with pytest.raises(OptionError, match=r"pull=fit.*push=transform"):
        dr.warp(volume, fit)


@pytest.mark.parametrize("asked", [True, False, None, "function"])
def test_progress_is_a_bar_or_a_function_or_nothing(asked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from daskreg.runtime import progress

    shown: list[str] = []
    heard: list[tuple[int, int]] = []
    monkeypatch.setattr(progress, "_in_notebook", lambda: True)
    handle = SimpleNamespace(update=lambda page: shown.append(page.data))
    display = SimpleNamespace(
        HTML=lambda text: SimpleNamespace(data=text),
        display=lambda page, display_id: shown.append(page.data) or handle,
    )
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    option = (lambda done, total: heard.append((done, total))) if asked == "function" else asked
    scene = data.moon()[:200:2, :220:2].astype(np.float32)
    volume = np.stack([scene, np.roll(scene, 2, 0), scene])
    cloud = np.random.default_rng(3).normal(size=(300, 3)) * (1, 2, 3)
    dr.register(scene, volume[1], model="translation", progress=option)
    dr.register_many([scene], [volume[1]], model="translation", progress=option)
    dr.align_stack(volume, model="translation", progress=option)
    dr.icp(cloud, cloud + 0.01, init="identity", progress=option)
    names = ("registering", "registering", "aligning", "registering points")
    # Not those that name a stage, such as compiling, and the same page again after it.
    plain = [page for page in shown if ": " not in page.partition("</b>")[0]]
    shown = [page for page, before in zip(plain, ["", *plain], strict=False) if page != before]
    firsts = [page for page in shown if 'value="0.0000"' in page]
    assert len(firsts) == (4 if asked is True else 0)
    assert all(f"<b>{name}</b>" in page for name, page in zip(names, firsts, strict=False))
    assert len([page for page in shown if 'value="1.0000"' in page]) == (4 if asked is True else 0)
    assert bool(heard) == (asked == "function")
    assert all(done <= total for done, total in heard)


def test_what_a_notebook_shows(pair: Any, stack: Any, tmp_path: Path) -> None:
    volume, fit = stack
    plan = dr.plan(volume, tmp_path / "a.zarr")
    written = dr.write(volume, tmp_path / "a.zarr", progress=False)
    landmarks = np.random.default_rng(4).normal(size=(9, 2))
    things: dict[str, Any] = {
        "shift x": fit.raw_from_aligned,
        "Shift along x": pair[2],
        "All 5 slices": fit,
        "millimeter": dr.grid(pair[0]),
        "from x": dr.Affine.rotation(0.1),
        "memory": plan,
        "blocks": written,
        "pairs": dr.fit_points(landmarks, landmarks + 0.1 * np.random.default_rng(5).normal(size=(9, 2))),
    }
    for expected, thing in things.items():
        page = Checked(thing._repr_html_())
        if expected != "shift x":
            assert expected in page.text, page.text
    assert pair[2]._repr_html_().count("data:image/png") == 1
    assert "probe=True" in repr(plan)
    assert "a process above idle" in repr(plan)


@pytest.mark.parametrize("ndim", [2, 3])
def test_fits_of_points_are_loaded_as_they_were_saved(ndim: int, tmp_path: Path) -> None:
    """All their facts, also those that are infinite, for points on a line; without the points."""
    rng = np.random.default_rng(ndim)
    points = rng.normal(size=(90, ndim)) * (3, 2, 1)[:ndim]
    moved = dr.Affine.from_parameters({"theta" if ndim == 2 else "rx": 0.2}, ndim=ndim)(points) + 0.3
    line = np.outer(np.linspace(0, 9, 60), (1, 2, 0)[:ndim])
    for fit, kind, given in (
        (dr.icp(moved, points, init="identity"), dr.CloudFit, (moved, points)),
        (dr.icp(line, line + 0.1, init="identity"), dr.CloudFit, (line, line + 0.1)),
        (dr.fit_points(points, moved, model="similarity"), dr.PointsFit, (points, moved)),
        (dr.fit_points(points[: ndim + 1], moved[: ndim + 1], model="affine"), dr.PointsFit, (points, moved)),
    ):
        dr.save(fit, tmp_path / "fit.json")
        found = kind.load(tmp_path / "fit.json")
        assert found.to_dict() == fit.to_dict()
        assert repr(found) == repr(fit)
        assert found.ok == fit.ok
        assert "fit" in found._repr_html_().lower()
        with pytest.raises(OptionError, match="loaded"):
            found.plot()
        if kind is dr.CloudFit:
            assert found.plot(*given) is not None
        with pytest.raises(InvalidTransformError, match="is not the fit"):
            dr.PairFit.load(tmp_path / "fit.json")


@pytest.mark.parametrize("kind", ["CloudFit", "PointsFit"])
def test_what_is_no_such_fit_is_said(kind: str, tmp_path: Path) -> None:
    dr.save(dr.Affine.translation(x=1, y=2), tmp_path / "plain.json")
    with pytest.raises(InvalidTransformError, match="is not the fit"):
        getattr(dr, kind).load(tmp_path / "plain.json")
    points = np.random.default_rng(0).normal(size=(30, 2))
    fit = dr.icp(points, points) if kind == "CloudFit" else dr.fit_points(points, points)
    broken = fit.to_dict()
    del broken["rmse"]
    (tmp_path / "broken.json").write_text(json.dumps(broken))
    with pytest.raises(InvalidTransformError, match="damaged"):
        getattr(dr, kind).load(tmp_path / "broken.json")
