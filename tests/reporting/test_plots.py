"""Figures hold what they say they show, and need no display."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import daskreg as dr
from daskreg.errors import MissingExtraError, OptionError, PixelUnitWarning, ShapeMismatchError, UnitError
from daskreg.geometry import Affine, Grid, SliceAffines
from daskreg.reporting import figures, plots
from daskreg.stacks.verdict.stack_status import StackStatus
from daskreg.volumes import to_dataarray

pytestmark = pytest.mark.slow

PNG = b"\x89PNG\r\n"


@pytest.fixture
def images():
    y, x = np.mgrid[:40, :60]
    fixed = np.exp(-((y - 18.0) ** 2 + (x - 25.0) ** 2) / 20)
    return fixed, np.roll(fixed, (2, 5), (0, 1))


def pair_fit(matrix, losses=((0.5, 0.2), (0.1, 0.05))):
    return SimpleNamespace(moving_from_fixed=Affine(matrix), losses=losses, status="converged")


def stack_fit(n=6):
    matrices = np.stack([Affine.from_parameters(tx=i, ty=-i, theta=0.01 * i).matrix for i in range(n)])
    return SimpleNamespace(
        raw_from_aligned=SliceAffines(matrices, axis="z", unit="um"),
        centre=(0.0, 0.0),
        sigma={"tx": np.full(n, 0.1), "theta": np.full(n, 0.01)},
        outliers=(3,),
        scores=np.linspace(0.8, 0.9, n),
        status="converged",
    )


def images_shown(figure):
    return [np.asarray(ax.get_images()[0].get_array()) for ax in figure.axes if ax.get_images()]


def test_a_pair_shows_the_moving_image_on_the_fixed_grid(images):
    fixed, moving = images
    figure = plots.pair(pair_fit(Affine.translation(x=5, y=2).matrix), fixed, moving)
    target, registered, before, after, board, left = images_shown(figure)
    assert np.corrcoef(target[..., 0].ravel(), fixed.ravel())[0, 1] > 0.98
    assert np.allclose(registered[:38, :55], target[:38, :55], atol=0.03)
    assert np.ptp(before, axis=-1).max() > 0.5, "what does not agree is coloured"
    assert np.ptp(after, axis=-1).max() < 0.03, "what agrees is grey"
    assert np.abs(board[:38, :55] - target[:38, :55]).max() < 0.03, "no seams"
    assert np.ptp(left[:38, :55]) < 0.06, "no difference is left"
    assert plots.png(figure).startswith(PNG)


def test_a_pair_of_volumes_shows_three_planes():
    volume = np.random.default_rng(0).random((9, 20, 30))
    grid = Grid(volume.shape, (3, 1, 1), unit="um")
    figure = plots.pair(pair_fit(np.eye(4), losses=(0.4, 0.3)), volume, volume, fixed_grid=grid, moving_grid=grid)
    shown = images_shown(figure)
    assert [p.shape[:2] for p in shown[::6]] == [(20, 30), (9, 30), (9, 20)]
    assert np.corrcoef(shown[0][..., 0].ravel(), volume[4].ravel())[0, 1] > 0.999
    slices, side = figure.axes[0], figure.axes[6]
    assert (slices.get_aspect(), side.get_aspect()) == (1, 3)
    assert slices.yaxis_inverted(), "rows of an image point down"
    assert not side.yaxis_inverted(), "z points up"
    assert "µm" in slices.texts[0].get_text()


def test_a_pair_without_images_says_so():
    with pytest.raises(OptionError, match="does not hold its images"):
        plots.pair(pair_fit(np.eye(3), losses=()))


def test_drift_draws_each_parameter_and_the_truth_in_the_fits_frame():
    fit = stack_fit()
    frame = Affine.rotation(0.3).matrix
    truth = fit.raw_from_aligned.matrices @ frame
    figure = plots.drift(fit, truth=truth)
    lines = {line.get_label(): line.get_ydata() for ax in figure.axes for line in ax.get_lines()}
    assert np.allclose(lines["along x"], range(6))
    assert np.allclose(lines["rotation"], np.degrees(0.01 * np.arange(6)))
    assert np.allclose(lines["along x, truth"], lines["along x"])
    assert np.allclose(lines["rotation, truth"], lines["rotation"])
    assert all(float(t).is_integer() for t in figure.axes[-1].get_xticks()), "there is no slice 2.5"
    assert plots.png(figure).startswith(PNG)
    with pytest.raises(ShapeMismatchError, match="truth"):
        plots.drift(fit, truth=truth[:3])


def test_titles_are_words():
    fit = stack_fit()
    fit.title, fit.status = "a stack, aligned", StackStatus.BRIDGED
    title = plots.drift(fit).get_suptitle()
    assert title == "A stack, aligned\nSome slices could not be fitted and are interpolated from their neighbours."
    fit.status = StackStatus.CONVERGED
    assert plots.drift(fit).get_suptitle() == "A stack, aligned"


def test_drift_of_volumes_in_a_series():
    matrices = np.stack([Affine.from_parameters(tz=i, rz=0.1).matrix for i in range(3)])
    fit = SimpleNamespace(raw_from_aligned=SliceAffines(matrices, axis="t"), centre=(0, 0, 0), status="converged")
    labels = [line.get_label() for ax in plots.drift(fit).axes for line in ax.get_lines()]
    assert {f"{how} {axis}" for how in ("along", "about") for axis in "xyz"} <= set(labels)


@pytest.mark.parametrize("ndim", [2, 3])
def test_clouds_come_closer(ndim):
    points = np.random.default_rng(1).random((500, ndim))
    shift = Affine.translation(x=0.2, ndim=ndim)
    fit = SimpleNamespace(target_from_source=shift, status="converged")
    figure = plots.cloud(fit, points, shift.inverse()(points))
    titles = [ax.get_title() for ax in figure.axes]
    assert titles[-1] == f"after: median {0:.4g}" or float(titles[-1].split()[-1]) < 1e-12
    assert plots.png(figure).startswith(PNG)


def test_constant_and_nan_images_can_be_drawn():
    figure = plots.pair(pair_fit(np.eye(3)), np.full((8, 8), np.nan), np.zeros((8, 8)))
    assert plots.png(figure).startswith(PNG)


def test_pyplot_is_not_needed_and_notebooks_show_the_figure():
    code = (
        "import sys; import numpy as np; from types import SimpleNamespace; from daskreg.reporting import plots\n"
        "assert 'matplotlib' not in sys.modules\n"
        "from daskreg.geometry import Affine\n"
        "fit = SimpleNamespace(target_from_source=Affine.identity(2), status='converged')\n"
        "f = plots.cloud(fit, np.eye(5)[:, :2], np.eye(5)[:, :2])\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
        "assert f._repr_png_().startswith(b'\\x89PNG')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    figures.figure_class.cache_clear()
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"daskreg\[report\]"):
        plots.drift(stack_fit())


def test_a_loaded_fit_is_drawn_where_its_images_lie(tmp_path):
    """In the world of the images that are passed, and with the check of units that `warp` makes."""
    y, x = np.mgrid[:41, :58]
    blob = np.exp(-((y - 18.0) ** 2 + (x - 25.0) ** 2) / 20)
    grid = Grid(blob.shape, (3, 2), unit="nm")
    fixed, moving = (to_dataarray(image, grid) for image in (blob, np.roll(blob, (2, 5), (0, 1))))
    dr.register(fixed, moving, model="translation").save(tmp_path / "fit.json")
    fit = dr.PairFit.load(tmp_path / "fit.json")
    target, registered = images_shown(fit.plot(fixed, moving))[:2]
    assert np.allclose(registered[:38, :52], target[:38, :52], atol=0.05)
    with pytest.warns(PixelUnitWarning):
        fit.plot(blob, blob)
    inches = to_dataarray(blob, Grid(blob.shape, unit="inch"))
    with pytest.raises(UnitError):
        fit.plot(inches, inches)
    with pytest.raises(UnitError):
        plots.pair(fit, blob, blob, fixed_grid=Grid(blob.shape, unit="inch"))
    with pytest.raises(OptionError, match="does not hold its images"):
        fit.plot(fixed)


def test_equal_distances_can_be_drawn():
    y, x = np.mgrid[:6, :7] * 10.0
    points = np.stack([y.ravel(), x.ravel()], -1)
    shift = Affine.translation(x=0.3, y=0.1)
    fit = SimpleNamespace(target_from_source=shift, status="converged")
    figure = plots.cloud(fit, points + np.array((1e5, 0.3)), points + np.array((1e5, 0.0)))
    assert plots.png(figure).startswith(PNG)
    even = np.full((len(points), 2), 0.1) + np.arange(len(points))[:, None] % 3 * 1e-17
    marks = SimpleNamespace(
        moving_from_fixed=shift, residuals=even + 1e-16, inliers=np.ones(len(points), bool), status="converged"
    )
    assert plots.png(plots.landmarks(marks, points, points + 0.1)).startswith(PNG)
    none = SimpleNamespace(**{**vars(marks), "inliers": np.zeros(len(points), bool)})
    assert plots.png(plots.landmarks(none, points, points + 0.1)).startswith(PNG)
