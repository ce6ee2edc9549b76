"""Pairs are reused: after an interruption, and when a stack has grown; and workers read the voxels themselves."""

from __future__ import annotations

import json
import shutil

import dask.array as da
import numpy as np
import pytest
import scipy.ndimage
import xarray as xr
import zarr
from oracles import pull, random_walk, residuals

import daskreg as dr
from daskreg.errors import InputError, LayoutMismatchError, OptionError
from daskreg.geometry import Grid
from daskreg.stacks import pairing, spans
from daskreg.volumes import to_dataarray

pytestmark = pytest.mark.slow

SHAPE, N = (72, 88), 14


@pytest.fixture(scope="module")
def drift():
    return random_walk(N, SHAPE, step=1.5, turn=1, seed=1)


@pytest.fixture(scope="module")
def stack(drift):
    rng = np.random.default_rng(0)
    images = scipy.ndimage.gaussian_filter(rng.normal(size=(N, *SHAPE)), (4, 2, 2)) * 20
    return np.stack([pull(s, m, order=3)[0] for s, m in zip(images, np.linalg.inv(drift), strict=True)]).astype("f4")


@pytest.fixture(scope="module")
def stored(stack, tmp_path_factory):
    path = tmp_path_factory.mktemp("stored") / "stack.zarr"
    dr.write(to_dataarray(stack, Grid(stack.shape)), path, chunks=(4, 72, 88), levels=1, progress=False)
    return path


@pytest.fixture
def counted(monkeypatch):
    """Spans that were fitted here, as (start, stop)."""
    seen = []

    def fit(span):
        seen.append((span.start, span.stop))
        return spans.fit_span(span)

    monkeypatch.setattr(pairing, "fit_span", fit)
    monkeypatch.setattr(spans, "LONGEST", 4)
    return seen


def matrices(fit):
    return fit.raw_from_aligned.matrices


def test_the_spans_do_not_change_the_result(stack, monkeypatch):
    whole = dr.align_stack(stack)
    for longest in (1, 3, 5):
        monkeypatch.setattr(spans, "LONGEST", longest)
        cut = dr.align_stack(stack)
        assert np.allclose(matrices(cut), matrices(whole), atol=1e-9)
        assert np.array_equal(cut.pairs.edges, whole.pairs.edges)


def test_pairs_across_blank_slices_and_spans(stack, monkeypatch):
    gap = stack.copy()
    gap[3:7] = 0
    whole = dr.align_stack(gap)
    assert (2, 7) in map(tuple, whole.pairs.edges.tolist())
    monkeypatch.setattr(spans, "LONGEST", 2)
    assert np.allclose(matrices(dr.align_stack(gap)), matrices(whole), atol=1e-9)


def test_an_interrupted_estimate_is_continued(stored, counted, tmp_path, drift):
    path = tmp_path / "pairs.jsonl"
    expected = dr.align_stack(dr.open(stored))
    counted.clear()

    class InterruptedEstimateError(Exception):
        pass

    def stop(done, total):
        if done >= 8:
            raise InterruptedEstimateError

    with pytest.raises(InterruptedEstimateError):
        dr.align_stack(dr.open(stored), checkpoint=path, progress=stop)
    finished = [json.loads(line) for line in path.read_text().splitlines()[1:]]
    assert finished
    with path.open("a") as file:
        file.write('{"start": 0, "st')  # an incomplete line, as after a kill
    counted.clear()
    fit = dr.align_stack(dr.open(stored), checkpoint=path)
    done = {i for f in finished for i in range(f["start"], f["stop"])}
    assert {i for a, b in counted for i in range(a, b)} == set(range(N)) - done
    assert np.array_equal(matrices(fit), matrices(expected))
    counted.clear()
    again = dr.align_stack(dr.open(stored), checkpoint=path)
    assert counted == []
    assert np.array_equal(matrices(again), matrices(expected))


def test_a_checkpoint_of_another_stack_or_model_is_refused(stack, tmp_path):
    path = tmp_path / "pairs.jsonl"
    dr.align_stack(stack, checkpoint=path)
    for other, options in ((stack[:-1], {}), (stack, {"model": "translation"}), (stack, {"neighbors": 3})):
        with pytest.raises(LayoutMismatchError, match=r"pairs\.jsonl"):
            dr.align_stack(other, checkpoint=path, **options)
    dr.align_stack(stack, checkpoint=path, trend="keep", anchors=None)
    path.write_text("slice,tx\n")
    with pytest.raises(InputError, match="not a checkpoint"):
        dr.align_stack(stack, checkpoint=path)
    with pytest.raises(OptionError, match="checkpoint="):
        dr.align_stack(stack, checkpoint=path, reference="first")


def slices_of(fitted):
    return sorted({i for a, b in fitted for i in range(a, b)})


@pytest.mark.parametrize("depth", [1, 4])
def test_pairs_of_slices_that_were_written_again_are_redone(stack, counted, tmp_path, depth):
    """And of no others; chunks of several slices change together."""
    path, other = tmp_path / "st.ome.zarr", stack.copy()
    dr.write(to_dataarray(stack, Grid(stack.shape)), path, chunks=(depth, 40, 88), levels=1, progress=False)
    options = {"model": "rigid", "checkpoint": tmp_path / "pairs.jsonl", "client": False}
    before = dr.align_stack(dr.open(path), **options)
    counted.clear()
    again = dr.align_stack(dr.open(path), **options)
    assert counted == []
    assert np.array_equal(matrices(again), matrices(before))
    for number, redone in ((6, {1: [6, 7, 8], 4: [4, 5, 6, 7, 8, 9]}), (12, {1: [12, 13], 4: [12, 13]})):
        other[number] = scipy.ndimage.shift(other[number], (2, -3), order=1, mode="nearest")
        zarr.open_array(str(path / "0"), mode="r+")[number, :40] = other[number, :40]  # a row of its chunks
        zarr.open_array(str(path / "0"), mode="r+")[number, 40:] = other[number, 40:]
        counted.clear()
        fit = dr.align_stack(dr.open(path), **options)
        assert slices_of(counted) == redone[depth]
        fresh = dr.align_stack(other, model="rigid", client=False)
        assert np.allclose(matrices(fit), matrices(fresh), atol=1e-6)
        assert not np.allclose(matrices(fit), matrices(before), atol=0.1)
        counted.clear()
        assert np.array_equal(matrices(dr.align_stack(dr.open(path), **options)), matrices(fit))
        assert counted == []


def test_an_interrupted_estimate_goes_on_with_the_slices_as_they_are_now(stack, stored, counted, tmp_path):
    path, other = tmp_path / "st.zarr", stack.copy()
    shutil.copytree(stored, path)
    options = {"checkpoint": tmp_path / "pairs.jsonl", "client": False}

    def stop(done, total):
        if done >= 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dr.align_stack(dr.open(path), progress=stop, **options)
    other[1, :, :30] = 0
    zarr.open_array(str(path / "0"), mode="r+")[1, :, :30] = 0
    fit = dr.align_stack(dr.open(path), **options)
    assert np.allclose(matrices(fit), matrices(dr.align_stack(other, client=False)), atol=1e-6)


def test_fields_follow_slices_that_were_written_again(stack, counted, tmp_path):
    path = tmp_path / "st.zarr"
    zarr.create_array(str(path), data=stack, chunks=(1, 72, 88))
    options = {"model": "bspline", "checkpoint": tmp_path / "pairs.jsonl", "client": False}
    before = dr.align_stack(dr.open(path), **options)
    zarr.open_array(str(path), mode="r+")[6] = scipy.ndimage.shift(stack[6], (2, -3), order=1, mode="nearest")
    counted.clear()
    fit = dr.align_stack(dr.open(path), **options)
    assert slices_of(counted) == [6, 7, 8]
    moved = matrices(fit.affine)[6, :, -1] - matrices(before.affine)[6, :, -1]
    assert np.abs(moved).max() > 1


def test_a_checkpoint_of_slices_or_a_mask_behind_a_graph_is_of_their_chunks(stack, tmp_path):
    path, mask = tmp_path / "st.zarr", tmp_path / "mask.zarr"
    zarr.create_array(str(path), data=stack, chunks=(1, 72, 88))
    zarr.create_array(str(mask), data=np.ones(stack.shape, "u1"), chunks=(1, 72, 88))
    file = tmp_path / "pairs.jsonl"

    def graph():
        dr.align_stack(dr.open(path) * 2, checkpoint=file, client=False)

    def masked():
        dr.align_stack(stack, mask=dr.open(mask), checkpoint=tmp_path / "masked.jsonl", client=False)

    for call, changed in ((graph, path), (masked, mask)):
        call()
        call()
        zarr.open_array(str(changed), mode="r+")[6, :40] = 0
        with pytest.raises(LayoutMismatchError, match=r"\.jsonl holds pairs of another stack"):
            call()


def test_lines_of_earlier_versions_do_not_say_of_which_chunks_they_are(stored, counted, tmp_path):
    path = tmp_path / "pairs.jsonl"
    expected = dr.align_stack(dr.open(stored), checkpoint=path, client=False)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({k: v for k, v in e.items() if k != "chunks"}) + "\n" for e in lines))
    counted.clear()
    fit = dr.align_stack(dr.open(stored), checkpoint=path, client=False)
    assert slices_of(counted) == list(range(N))
    assert np.array_equal(matrices(fit), matrices(expected))


def test_a_growing_stack_is_continued(stack, drift, counted, tmp_path):
    first = dr.align_stack(stack[:9])
    first.save(tmp_path / "first.json")
    for previous in (first, tmp_path / "first.json"):
        counted.clear()
        fit = dr.align_stack(stack, previous=previous)
        assert min(a for a, _ in counted) == 9, "only new slices"
        assert residuals(matrices(fit), drift, SHAPE)["fast"] < 0.2
        at_once = dr.align_stack(stack)
        frame = np.linalg.inv(matrices(at_once)) @ matrices(fit)
        assert np.allclose(frame, frame[0], atol=1e-6), "as if fitted at once, except for the common motion"
        assert np.abs((matrices(fit)[:9] - matrices(first))[:, :2, 2]).max() < 0.3, "the old slices keep their poses"
    other = stack.copy()
    other[7:9] += np.random.default_rng(0).normal(size=(2, *SHAPE)).astype("f4")
    with pytest.raises(OptionError, match="slices 7 to 8"):
        dr.align_stack(other, previous=first)
    for options in ({"model": "affine"}, {"neighbors": 3}, {"reference": "previous"}):
        with pytest.raises(OptionError, match="previous="):
            dr.align_stack(stack, previous=first, **options)
    with pytest.raises(OptionError, match="fewer slices"):
        dr.align_stack(stack[:5], previous=first)


def test_a_saved_fit_is_loaded_unchanged(stack, tmp_path):
    bad = stack.copy()
    bad[3] = 0
    fit = dr.align_stack(bad)
    fit.save(tmp_path / "fit.json")
    back = dr.StackFit.load(tmp_path / "fit.json")
    assert back.rows()[5] == fit.rows()[5]
    assert back.raw_from_aligned == fit.raw_from_aligned
    assert (back.kinds, back.bridged, back.status, back.model) == (fit.kinds, fit.bridged, fit.status, fit.model)
    assert np.array_equal(back.pairs.edges, fit.pairs.edges)
    assert np.array_equal(back.residuals, fit.residuals, equal_nan=True)
    assert back.consistency() == fit.consistency()
    dr.register(stack[0], stack[1]).save(tmp_path / "pair.json")
    with pytest.raises(dr.errors.InvalidTransformError, match="not the fit of a stack"):
        dr.StackFit.load(tmp_path / "pair.json")


@pytest.fixture(scope="module")
def client(forked_workers):
    with dr.connect(workers=2) as client:
        yield client


def test_workers_read_the_voxels_and_give_the_same(stored, stack, client, monkeypatch):
    expected = dr.align_stack(dr.open(stored), client=False)
    seen = []
    with monkeypatch.context() as here:
        here.setattr(pairing, "fit_span", spans.fit_span)
        here.setattr(spans.StackSpec, "tensor", lambda *_: pytest.fail("voxels were read here"))
        fit = dr.align_stack(dr.open(stored), progress=lambda done, total: seen.append((done, total)))
    # Libraries sum in another order with other threads: the last digits of float32 may differ.
    assert np.allclose(matrices(fit), matrices(expected), atol=1e-6)
    assert seen[-1] == (N, N)
    for reference in ("first", "mean", 5):
        with monkeypatch.context() as here:
            here.setattr(spans.StackSpec, "tensor", lambda *_: pytest.fail("voxels were read here"))
            there = dr.align_stack(dr.open(stored), reference=reference)
        alone = dr.align_stack(dr.open(stored), reference=reference, client=False)
        assert np.allclose(matrices(there), matrices(alone), atol=1e-6)
    lazy = da.from_array(stack, chunks=(5, 40, 88)).persist()
    assert np.allclose(matrices(dr.align_stack(lazy)), matrices(expected), atol=1e-6)


def test_the_size_of_a_span(stored):
    """The pickled span and its pickled result do not grow with the voxels."""
    import pickle

    from daskreg.registration.pose import Pose
    from daskreg.stacks.pair_registration import PairOptions
    from daskreg.volumes import volume_of

    spec = spans.StackSpec(volume_of(dr.open(stored)).source, 0, None, PairOptions(Pose.of("rigid", 2)), 2)
    span = spans.spans(spec, np.ones(N, bool), 2)[0]
    assert spec.reader.count == N
    assert len(pickle.dumps(span)) < 3000
    done = spans.fit_span(span)
    assert len(pickle.dumps(done)) / (span.stop - span.start) < 2000


def test_a_4d_series_of_volumes_with_the_same_solver(client):
    rng = np.random.default_rng(3)
    volume = scipy.ndimage.gaussian_filter(rng.normal(size=(20, 36, 40)), 2)
    truth = np.stack(
        [
            dr.Affine.from_parameters(tx=1.5 * np.sin(i), tz=0.5 * i, rz=0.02 * i, centre=(9.5, 17.5, 19.5)).matrix
            for i in range(5)
        ]
    )
    series = np.stack([pull(volume, m, order=3)[0] for m in np.linalg.inv(truth)]).astype("f4")
    array = xr.DataArray(np.stack([series, series**2], axis=1), dims=("t", "c", "z", "y", "x"))
    fit = dr.align_stack(array, axis="t", channel=0)
    assert fit.reference == "neighbors"
    assert fit.raw_from_aligned.axis == "t"
    assert residuals(matrices(fit), truth, volume.shape)["all"] < 0.1
    aligned = dr.warp(array, pull=fit.raw_from_aligned)
    assert aligned.shape == array.shape
    inner = np.asarray(aligned[:, 1, 6:-6, 6:-6, 6:-6])
    assert np.abs(inner - inner[2]).max() < 0.2 * np.ptp(inner), "another channel is aligned by the same fit"
