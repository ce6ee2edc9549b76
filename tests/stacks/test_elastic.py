"""`align_stack(model="bspline")` on slices that were bent by analytic fields and sampled by scipy."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from scipy import ndimage
from skimage import data

import daskreg as dr
from daskreg.cli import run
from daskreg.errors import DaskregWarning, InputError, OptionError
from daskreg.fields import Composite, DisplacementField
from daskreg.registration.deformable.splines.bending import next_weight
from daskreg.reporting.stack_section import elastic_verdict, stack_verdict
from daskreg.stacks.align import from_table
from daskreg.stacks.elastic import request as elastic
from daskreg.stacks.elastic.fit import ElasticStackFit, load_fit
from daskreg.stacks.elastic.robust import robust_weights
from daskreg.stacks.elastic.task import run as run_task
from daskreg.stacks.figures import Slices
from daskreg.stacks.slice_reader import SliceReader
from daskreg.stacks.verdict.stack_status import StackStatus
from daskreg.volumes import volume_of

pytestmark = pytest.mark.slow
Floats = NDArray[np.float64]
SHAPE = (97, 118)
TORN, LOST = 2, 5


def planes(count: int, seed: int = 1) -> Floats:
    """(count, *SHAPE) a photograph, with structures that change from plane to plane."""
    photograph = data.camera()[40:428, 30:502].astype(float).reshape(97, 4, 118, 4).mean((1, 3)) / 60
    rng = np.random.default_rng(seed)
    other = [ndimage.gaussian_filter(rng.normal(size=SHAPE), 2.5) * 2 for _ in range(2)]
    turns = 0.3 * np.arange(count)
    return np.stack([photograph + np.cos(t) * other[0] + np.sin(t) * other[1] for t in turns])


class Waves:
    """p -> p + waves along both axes: of an amplitude and about a wavelength in pixels, the same in every call."""

    def __init__(self, seed: int, amplitude: float, wavelength: float) -> None:
        rng = np.random.default_rng(seed)
        angle, phase = rng.uniform(0, 2 * np.pi, (2, 2))
        self.wave = 2 * np.pi / wavelength * np.stack([np.cos(angle), np.sin(angle)])
        self.phase, self.amplitude = phase, amplitude

    def __call__(self, points: Floats) -> Floats:
        return points + self.amplitude * np.sin(points @ self.wave + self.phase)


def bent(count: int, *, amplitude: float = 3.0, wavelength: float = 55.0) -> tuple[NDArray[np.float32], list[Waves]]:
    """Slices raw(p) = plane(w(p)) with noise of their own, and the w."""
    grid = np.moveaxis(np.indices(SHAPE), 0, -1).astype(float)
    rng = np.random.default_rng(7)
    images, waves = [], []
    for i, plane in enumerate(planes(count)):
        waves.append(Waves(i, amplitude, wavelength))
        at, shown = waves[-1](grid), plane
        if count > LOST and i == TORN:  # the right part is folded over
            shown = np.where(grid[..., 1] > 84, plane[::-1, ::-1], plane)
        image = ndimage.map_coordinates(shown, np.moveaxis(at, -1, 0), order=3, mode="mirror")
        images.append(image + 0.03 * rng.normal(size=SHAPE))
    return np.stack(images).astype(np.float32), waves


def raw_points(fit: ElasticStackFit, points: Floats) -> Floats:
    """(N, *shape, 2) where points of the aligned slices are in the raw ones, layer by layer."""
    assert isinstance(fit.raw_from_aligned, Composite)
    poses, *layers = fit.raw_from_aligned.parts
    found = []
    for i, pose in enumerate(poses.matrices):
        at = points.reshape(-1, 2)
        for layer in layers[::-1]:
            vectors = np.asarray(layer.vectors.source.read(layer.vectors.source.readable))[i]
            one = DisplacementField(vectors, layer.grid, order=3)
            at = (one.inverse() if layer.inverted else one)(at)
        found.append((at @ pose[:2, :2].T + pose[:2, 2]).reshape(points.shape))
    return np.stack(found)


@pytest.fixture(scope="module")
def found() -> tuple[NDArray[np.float32], list[Waves], ElasticStackFit]:
    stack, waves = bent(7)
    rng = np.random.default_rng(3)
    stack[LOST] = 2 * ndimage.gaussian_filter(rng.normal(size=SHAPE), 1.5) / 0.2 + 2
    fit = dr.align_stack(stack, model="bspline", spacing=16)
    return stack, waves, fit


def test_fields_bring_bent_slices_together(found) -> None:
    stack, waves, fit = found
    inner = np.moveaxis(np.indices((65, 80)), 0, -1) + 16.0
    clean = np.stack([w(p) for w, p in zip(waves, raw_points(fit, inner), strict=True)])
    good = [i for i in range(len(stack)) if i not in (TORN, LOST)]
    left = np.linalg.norm(clean[good] - clean[good].mean(0), axis=-1)  # the common field is free
    assert np.median(left) < 0.5
    assert np.median(left, axis=(1, 2)).max() < 0.8
    # The part of the torn slice that is whole is brought there, too.
    torn = np.linalg.norm(clean[TORN] - clean[good].mean(0), axis=-1)
    assert np.median(torn[:, :50]) < 0.8


def test_slices_are_named(found) -> None:
    _, _, fit = found
    assert isinstance(fit, ElasticStackFit)
    assert fit.kinds[LOST] == "unlike"
    assert LOST in fit.bridged
    assert fit.kinds.get(TORN) == "torn"
    assert fit.rejected[TORN] > 0.08
    assert fit.ok, fit
    assert np.all(fit.jacobian[:, 0] > 0)
    poses = fit.affine.raw_from_aligned.matrices
    np.testing.assert_allclose(poses[LOST], (poses[LOST - 1] + poses[LOST + 1]) / 2, atol=0.02)
    assert np.isnan(fit.sigma[LOST]).all()


def test_errors_are_as_large_as_sigma_says(found) -> None:
    _, waves, fit = found
    nodes = np.moveaxis(np.indices(fit.nodes.shape), 0, -1)[3:-3, 3:-3]
    places = fit.nodes.world(nodes.reshape(-1, 2)).reshape(nodes.shape)
    clean = np.stack([w(p) for w, p in zip(waves, raw_points(fit, places), strict=True)])
    good = [i for i in range(len(clean)) if i not in (TORN, LOST)]
    error = clean[good] - clean[good].mean(0)
    sigma = np.moveaxis(fit.sigma[good][:, :, 3:-3, 3:-3], 1, -1)
    ratio = np.sqrt(np.median((error / sigma) ** 2) / 0.455)  # 0.455: the median of chi squared of one
    assert 0.3 < ratio < 3


def test_sigma_is_about_the_mean_of_the_slices() -> None:
    """Of waves that are long beside the distance of the control points, so that splines follow them."""
    grid, rng, count = np.moveaxis(np.indices(SHAPE), 0, -1).astype(float), np.random.default_rng(11), 4
    waves = [Waves(20 + i, 3.0, 110.0) for i in range(count)]
    plane = planes(1)[0]
    stack = [ndimage.map_coordinates(plane, np.moveaxis(w(grid), -1, 0), order=3, mode="mirror") for w in waves]
    noisy = np.stack(stack) + 0.2 * rng.normal(size=(count, *SHAPE))
    fit = dr.align_stack(noisy.astype(np.float32), model="bspline", spacing=16)
    nodes = np.moveaxis(np.indices(fit.nodes.shape), 0, -1)[3:-3, 3:-3]
    places = fit.nodes.world(nodes.reshape(-1, 2)).reshape(nodes.shape)
    clean = np.stack([w(p) for w, p in zip(waves, raw_points(fit, places), strict=True)])
    error = clean - clean.mean(0)
    sigma = np.moveaxis(fit.sigma[:, :, 3:-3, 3:-3], 1, -1)
    assert 1 / 1.5 < np.sqrt(np.median((error / sigma) ** 2) / 0.455) < 1.5
    assert np.median(sigma) < 0.12  # 0.19 with the common field


def test_the_fit_is_applied_saved_and_loaded(found, tmp_path) -> None:
    stack, _, fit = found
    aligned = np.asarray(dr.warp(stack, pull=fit.raw_from_aligned, order=1))

    def alike(images: NDArray[np.float32]) -> float:
        some = [images[i, 16:81, 16:96].ravel() for i in (0, 1, 3, 4, 6)]
        return float(np.mean([np.corrcoef(a, b)[0, 1] for a, b in itertools.pairwise(some)]))

    assert alike(aligned) > alike(stack) + 0.1
    fit.save(tmp_path / "fit.json")
    again = load_fit(tmp_path / "fit.json")
    assert isinstance(again, ElasticStackFit)
    assert again.kinds == fit.kinds
    assert repr(again) == repr(fit)
    np.testing.assert_allclose(again.sigma, fit.sigma, rtol=1e-5)
    np.testing.assert_array_equal(np.asarray(dr.warp(stack, pull=dr.load(tmp_path / "fit.json"), order=1)), aligned)
    whole = dr.warp(stack, pull=fit.raw_from_aligned, order=1, fill=np.nan, edge="clamp", dtype="float32")
    slices = Slices(SliceReader.of(volume_of(stack).source, 0), again.raw_from_aligned)
    for i in (1, TORN, 6):
        np.testing.assert_array_equal(slices.raw_and_aligned(i)[0], stack[i])
        np.testing.assert_array_equal(slices.raw_and_aligned(i)[1], np.asarray(whole)[i])
    section = again.section(stack=stack)
    assert section.comparisons[0].names == ("before", "after")
    assert len(section.comparisons[0].views) == 3
    assert [name for name, _ in section.thumbnails] == ["Slices that stand out"], "pairs are not in the file"
    fit.save_table(tmp_path / "slices.csv")
    assert "rejected" in (tmp_path / "slices.csv").read_text()
    for rows in (tmp_path / "slices.csv", fit.rows()):
        with pytest.raises(InputError, match="does not hold its displacement fields: remove .* or align again with"):
            from_table(stack, rows)
    plain = [{name: value for name, value in row.items() if name != "least_determinant"} for row in fit.rows()]
    poses = from_table(stack, plain).raw_from_aligned.matrices
    np.testing.assert_allclose(poses, fit.affine.raw_from_aligned.matrices, atol=1e-9)


def test_the_verdict_names_slices_whose_areas_change_much(found) -> None:
    fit = found[2]
    bent = np.tile((0.3, 1.0, 3.0), (len(fit.scores), 1))
    said = elastic_verdict(dataclasses.replace(fit, jacobian=bent))
    assert said == stack_verdict(fit)
    bent[3, 0], bent[5, 2] = 1 / 30, 6.25
    strong = elastic_verdict(dataclasses.replace(fit, jacobian=bent))
    assert strong.ok
    assert strong.sentence == f"{said.sentence} Areas change by up to 30 times."
    more = "Look at the fields of slices 3, 5: specimens seldom stretch that much."
    assert strong.remedy == f"{said.remedy} {more}"
    bent[3, 0] = -0.1
    folded = dataclasses.replace(fit, jacobian=bent)
    assert elastic_verdict(folded) == stack_verdict(folded)
    assert not folded.ok


def test_anchored_slices_keep_their_pose() -> None:
    stack, _ = bent(4, amplitude=1.5)
    fit = dr.align_stack(stack, model="bspline", spacing=24, anchors={0: np.eye(3)})
    at = np.array([[30.0, 40.0], [60.0, 90.0]])
    np.testing.assert_allclose(raw_points(fit, at)[0], at, atol=1e-9)


def test_slow_change_is_kept_where_asked() -> None:
    stack, _ = bent(5, amplitude=0.0)
    grid = np.indices(SHAPE).astype(float)
    for i in range(5):  # the specimen grows wider along the stack, evenly
        at = grid.copy()
        at[1] += 0.6 * (i - 2) * np.sin(2 * np.pi * grid[1] / 90)
        stack[i] = ndimage.map_coordinates(stack[i], at, order=3, mode="mirror")
    inner = np.moveaxis(np.indices((57, 78)), 0, -1) + 20.0
    moved = {}
    for trend in ("remove", "keep"):
        fit = dr.align_stack(stack, model="bspline", spacing=24, trend=trend, smooth=4)
        moved[trend] = np.sqrt(np.mean((raw_points(fit, inner) - inner)[..., 1] ** 2))
    assert moved["remove"] > 0.3
    assert moved["keep"] < 0.35 * moved["remove"]


def test_a_place_that_agrees_with_no_neighbour_loses_its_weight() -> None:
    agreement = np.full((9, 4, 5), 0.8) + 0.02 * np.random.default_rng(0).normal(size=(9, 4, 5))
    agreement[3:5, 1, 2] = 0.05
    agreement[:, 3, 3] = 0.1  # here the specimen shows little in all pairs
    weights = robust_weights(agreement, np.stack([np.arange(9), np.arange(1, 10)], axis=1))
    assert weights[3:5, 1, 2].max() < 0.05
    assert np.delete(weights, [3, 4], axis=0).min() > 0.5
    assert weights[:, 3, 3].min() > 0.5


def test_what_fields_do_not_take() -> None:
    stack, _ = bent(3)
    for options, words in (
        ({"model": "bspline", "reference": "first"}, "reference"),
        ({"model": "bspline", "spacing": (1.0, 20.0)}, "spacing"),
        ({"model": "rigid", "spacing": 20.0}, "spacing"),
    ):
        with pytest.raises(OptionError, match=words):
            dr.align_stack(stack, **options)


def test_the_command_line(tmp_path) -> None:
    stack, _ = bent(3, amplitude=1.0)
    tifffile.imwrite(tmp_path / "stack.tif", stack, photometric="minisblack")
    arguments = [str(tmp_path / "stack.tif"), "-o", str(tmp_path / "fit.json"), "--model", "bspline"]
    assert run(["align", *arguments, "--control-spacing", "30", "--report", str(tmp_path / "fit.html")]) == 0
    fit = load_fit(tmp_path / "fit.json")
    assert isinstance(fit, ElasticStackFit)
    assert fit.spacing[0] == pytest.approx(30, rel=0.2)
    page = (tmp_path / "fit.html").read_text()
    assert page.count("<image") >= 6, "a slice and side views, before and after"
    assert "daskreg align" in page


def test_slices_of_fine_texture_far_from_each_other_are_brought_together() -> None:
    """At first hardly anything agrees, and a prior that takes this for noise would leave fields of zero."""
    rng = np.random.default_rng(5)
    texture = 10 * ndimage.gaussian_filter(rng.normal(size=(75, 94)), 1.8)
    grid, stack = np.moveaxis(np.indices(texture.shape), 0, -1).astype(float), []
    for i in range(4):
        at = np.moveaxis(Waves(10 + i, 2.5, 50.0)(grid), -1, 0)
        stack.append(ndimage.map_coordinates(texture, at, order=3, mode="mirror") + 0.03 * rng.normal(size=at[0].shape))
    fit = dr.align_stack(np.stack(stack).astype(np.float32), model="bspline", spacing=16)
    assert fit.ok
    aligned = np.asarray(dr.warp(np.stack(stack), pull=fit.raw_from_aligned, order=1))[:, 14:-14, 14:-14]
    assert min(np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in itertools.pairwise(aligned)) > 0.97


def test_slices_that_do_not_differ_are_not_known_without_error() -> None:
    fit = dr.align_stack(np.stack([planes(1)[0].astype(np.float32)] * 3), model="bspline", spacing=30)
    assert 1e-3 < np.median(fit.sigma) < 0.5


def test_the_weight_of_the_prior_has_bounds() -> None:
    assert next_weight(1.0, determined=30.0, energy=6.0, affine=12) == pytest.approx(5.0)
    assert next_weight(1.0, determined=30.0, energy=6.0, affine=60) == 1.0
    assert next_weight(1.0, determined=30.0, energy=1e-20, affine=12) == 10.0
    assert next_weight(1.0, determined=30.0, energy=1e-20, affine=12, most=3.0) == 3.0
    assert next_weight(1.0, determined=30.0, energy=0.0, affine=12) == 1.0


def test_fields_do_not_hide_that_poses_are_ambiguous() -> None:
    y, x = np.indices((74, 90)).astype(float)
    rng = np.random.default_rng(2)
    stack = [np.sin(2 * np.pi * (x + 3 * i) / 12) * np.sin(2 * np.pi * y / 14) for i in range(5)]
    stack = np.stack(stack) + 0.05 * rng.normal(size=(5, 74, 90))
    fit = dr.align_stack(stack.astype(np.float32), model="bspline", spacing=30)
    assert (fit.affine.status, fit.status, fit.ok) == (StackStatus.AMBIGUOUS, StackStatus.AMBIGUOUS, False)


def test_fields_whose_steps_ended_too_early_are_not_ok() -> None:
    stack, _ = bent(4, amplitude=4.0)
    early = dr.align_stack(stack, model="bspline", spacing=16, max_iterations=1)
    assert (early.status, early.ok) == (StackStatus.MAX_ITERATIONS, False)
    assert "max_iterations" in stack_verdict(early).remedy
    fit = dr.align_stack(stack, model="bspline", spacing=16)
    assert (fit.status, fit.ok) == (StackStatus.CONVERGED, True)
    assert fit.iterations < 40, "70 where coefficients beside the image, at their limits, count as if they moved on"


def test_steps_do_not_go_back_and_forth() -> None:
    """Of waves that are short beside the distance of the control points, many of which come to their limits."""
    stack, _ = bent(4)
    fit = dr.align_stack(stack, model="bspline", spacing=30)
    assert fit.status is StackStatus.CONVERGED
    assert fit.iterations < 50, "68 with whole steps"


def test_fields_are_estimated_from_the_voxels_that_the_poses_were(monkeypatch) -> None:
    stack, _ = bent(4, amplitude=1.0)
    stack[:, :, 40:43], stack[:, 30] = 0, 9
    tasks = []
    monkeypatch.setattr(elastic, "run", lambda task, execution: tasks.append(task) or run_task(task, execution))
    with pytest.warns(DaskregWarning, match="dead"):
        fit = dr.align_stack(stack, model="bspline", spacing=30)
    assert fit.bad_voxels == fit.affine.bad_voxels == tasks[0].spec.bad.count > 300


def test_mirrored_and_blank_slices_are_left_out() -> None:
    stack, _ = bent(6, amplitude=0.5)
    stack[2], stack[5] = 0, stack[5, :, ::-1]
    fit = dr.align_stack(stack, model="bspline", spacing=30)
    assert fit.kinds == {2: "blank", 5: "mirrored"}
    assert fit.bridged == (2, 5)
    assert np.isnan(fit.sigma[[2, 5]]).all()
    assert np.isfinite(np.delete(fit.sigma, [2, 5], axis=0)).all()
    poses = fit.affine.raw_from_aligned.matrices
    np.testing.assert_allclose(poses[2], (poses[1] + poses[3]) / 2, atol=0.02)
    np.testing.assert_allclose(poses[5], poses[4])


def test_a_slice_alone_has_no_field() -> None:
    stack, _ = bent(1)
    with pytest.warns(DaskregWarning, match="one slice"):
        fit = dr.align_stack(stack, model="bspline", spacing=30)
    assert fit.status is fit.affine.status
    at = np.array([[30.0, 40.0]])
    np.testing.assert_allclose(raw_points(fit, at)[0], at, atol=1e-9)


def test_determinants_are_those_of_the_transform_that_is_returned() -> None:
    stack, _ = bent(4, amplitude=2.0)
    fit = dr.align_stack(stack, model="bspline", spacing=24, trend="keep", smooth=3)
    at = raw_points(fit, np.moveaxis(np.indices(SHAPE), 0, -1).astype(float))
    for i in (0, 3):
        rows, columns = (np.gradient(at[i, ..., k], edge_order=2) for k in (0, 1))
        found = rows[0] * columns[1] - rows[1] * columns[0]
        np.testing.assert_allclose(fit.jacobian[i, [0, 2]], [found.min(), found.max()], atol=0.015)


def test_poses_of_fields_are_named_for_what_goes_on_from_them(found) -> None:
    stack, _, fit = found
    with pytest.raises(OptionError, match=r"fit\.affine"):
        dr.align_stack(stack, previous=fit)
