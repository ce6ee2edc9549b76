"""Projections that do not fit the memory: rows in a file, by blocks, are as good as the whole; and their sums."""

from __future__ import annotations

import errno
import re
from contextlib import nullcontext

import dask.array as da
import numpy as np
import pytest
import zarr
from distributed import Client
from ellipsoids import Ellipsoids

import daskreg
from daskreg.errors import InputError, LayoutMismatchError, NoWorkersError, OptionError, StorageFullError
from daskreg.tomography import TiltFit, TiltStatus, align_projections, row_blocks
from daskreg.tomography.descent import Evaluation, Step, descend
from daskreg.tomography.estimate import Solution
from daskreg.tomography.matching import Problem, linearised, without_images
from daskreg.tomography.normal_equations import Coupling
from daskreg.tomography.poses import Fixed, Level, increments
from daskreg.tomography.row_file import RowFile, RowPlace
from daskreg.tomography.series import bytes_of_a_row, columns_of_levels

ANGLES = np.linspace(0, np.pi, 34, endpoint=False)
ROWS, COLUMNS = 130, 37
MEMORY = 13 * 2**20


@pytest.fixture(scope="module")
def scan():
    rng = np.random.default_rng(3)
    shifts = rng.uniform(-1.2, 1.2, (len(ANGLES), 2))
    clean = Ellipsoids(COLUMNS, seed=4, count=8).project(ANGLES, (ROWS, COLUMNS), shifts=shifts, samples=1)
    projections = (clean + 0.02 * clean.max() * rng.normal(size=clean.shape)).astype(np.float32)
    projections[5, 60:63, 0:3] = np.nan
    projections[12] = 0.4
    return projections


def problem_of(projections):
    data = np.nan_to_num(projections)
    data = data / data.std()
    level, used = Level(data.shape[1:], (1, 1)), np.arange(len(data)) != 12
    return Problem(data, np.isfinite(projections), ANGLES, level, ("ty", "tx"), ("theta",), used)


@pytest.mark.slow
def test_blocks_of_rows_are_the_whole(scan, tmp_path, monkeypatch):
    """The level, the poses and their sigmas; and a run that was interrupted goes on where it was."""
    options = {"axis_angle": 0.0, "level": 0}
    whole = align_projections(scan, ANGLES, **options)
    assert bytes_of_a_row(len(ANGLES), COLUMNS) * ROWS > MEMORY
    assert (whole.binning, whole.blocks) == (1, 0)
    checkpoint, done, summed = tmp_path / "tilt.checkpoint", [], row_blocks.sums_of

    def interrupted(block):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(block.number)
        return summed(block)

    monkeypatch.setattr(row_blocks, "sums_of", interrupted)
    with pytest.raises(KeyboardInterrupt):
        align_projections(scan, ANGLES, memory=MEMORY, checkpoint=checkpoint, **options)
    assert (tmp_path / "tilt.checkpoint.rows").stat().st_size == scan.size * 4
    again = []
    monkeypatch.setattr(row_blocks, "sums_of", lambda block: (again.append(block.number), summed(block))[1])
    fit = align_projections(scan, ANGLES, memory=MEMORY, checkpoint=checkpoint, **options)
    assert fit.ok
    assert fit.blocks > 3
    assert len(again) < fit.blocks * fit.steps
    assert fit.binning == 1
    assert fit.kinds == whole.kinds == {12: "blank"}
    np.testing.assert_allclose(fit.transform.matrices, whole.transform.matrices, atol=0.02)
    for name in ("ty", "tx"):
        # By how much noise is amplified is that of the level before.
        np.testing.assert_allclose(fit.sigma[name], whole.sigma[name], rtol=0.5)
    np.testing.assert_allclose(fit.residuals, whole.residuals, rtol=0.02)
    assert fit.noise == pytest.approx(whole.noise, rel=0.1)
    assert list(tmp_path.iterdir()) == [checkpoint]
    fit.save(tmp_path / "fit.json")
    assert TiltFit.load(tmp_path / "fit.json").blocks == fit.blocks
    with pytest.raises(LayoutMismatchError, match="other"):
        align_projections(scan * 2, ANGLES, memory=MEMORY, checkpoint=checkpoint, **options)


def test_a_checkpoint_is_of_one_axis(tmp_path):
    """On a square detector, rows along the other axis have the same shape."""
    projections = np.random.default_rng(0).normal(size=(9, 64, 64)).astype(np.float32)
    angles = np.linspace(0, np.pi, 9, endpoint=False)
    options = {"memory": "6.2 MiB", "checkpoint": tmp_path / "tilt.checkpoint", "level": 0, "progress": _interrupt}
    for axis_angle in (0.0, -0.0):
        with pytest.raises(KeyboardInterrupt):
            align_projections(projections, angles, axis="y", axis_angle=axis_angle, **options)
    with pytest.raises(LayoutMismatchError, match="other"):
        align_projections(projections, angles, axis="x", axis_angle=0.0, **options)


def test_a_checkpoint_is_not_of_projections_that_were_written_again(tmp_path):
    """Nor of others that flats or a mask were read from."""
    shape = (9, 64, 64)
    values = {
        "projections": np.random.default_rng(0).uniform(0.2, 0.8, shape).astype(np.float32),
        "flats": np.ones((2, *shape[1:]), np.float32),
        "mask": np.ones(shape, np.uint8),
    }
    for name, array in values.items():
        zarr.create_array(str(tmp_path / name), data=array, chunks=(2, 64, 64) if name == "flats" else (3, 64, 64))
    options = {"memory": "6.2 MiB", "level": 0, "axis_angle": 0.0, "progress": _interrupt}

    def call(file):
        given = {name: daskreg.open(tmp_path / name) for name in values}
        angles = np.linspace(0, np.pi, 9, endpoint=False)
        align_projections(given.pop("projections"), angles, checkpoint=tmp_path / f"{file}.jsonl", **given, **options)

    for name in values:
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                call(name)
    for name, array in values.items():
        zarr.open_array(str(tmp_path / name), mode="r+")[:1] = array[:1]
        with pytest.raises(LayoutMismatchError, match=rf"{name}\.jsonl is of other images"):
            call(name)


def test_rows_half_written_are_written_again(tmp_path):
    """Though the checkpoint says that they were written: by an earlier run, whose file has been removed."""
    level, written = Level((6, 5), (1, 1)), []
    values = np.random.default_rng(1).normal(size=(4, 6, 5)).astype(np.float32)

    def write(first, last, *, end, then=lambda: None):
        with RowPlace.opened(tmp_path / "tilt.checkpoint", "key", None) as place:
            file = place.rows(level, len(values))
            written.append(place.written)
            for k in () if place.written else range(first, last):
                file.write(k, 0, values[k : k + 1])
            if not end:
                raise KeyboardInterrupt
            file = place.end_writing(file)
            np.testing.assert_array_equal(file.read(0, 6), values)
            then()

    write(0, 4, end=True)
    for ended in (False, True):
        with pytest.raises(KeyboardInterrupt) if not ended else nullcontext():
            write(0, 4 if ended else 2, end=ended)
    assert written == [False, False, False]
    with pytest.raises(KeyboardInterrupt):
        write(0, 4, end=True, then=_interrupt)
    write(0, 0, end=True)
    assert written[-1]


@pytest.mark.parametrize("when", ["written", "half written"])
def test_rows_stay_only_after_an_interruption(when, tmp_path, monkeypatch):
    """In the folder of the checkpoint, wherever one is by then."""
    monkeypatch.chdir(tmp_path)
    left = []
    for error in (NoWorkersError("gone"), KeyboardInterrupt(), InputError("an image is wrong")):
        with pytest.raises(type(error)), RowPlace.opened("tilt.checkpoint", "key", None) as place:
            _begin(place, when, error)
        left.append([path.name for path in tmp_path.iterdir() if ".rows" in path.name])
    assert len(left[0]) == 1
    assert left == [left[0], left[0], []]


def _begin(place, when, error):
    file = place.rows(Level((6, 5), (1, 1)), 4)
    assert file.path.is_absolute()
    if when == "written":
        place.end_writing(file)
    raise error


def test_a_full_disk_is_told(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    file = RowFile(tmp_path / "rows", (6, 4, 5))
    file.create()
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageFullError, match="no space for 480 "):
        file.flush()


def _interrupt(*_):
    raise KeyboardInterrupt


def test_too_little_memory_is_told(scan):
    for memory in (2**20, "1 KiB", 0):
        with pytest.raises(OptionError, match="memory"):
            align_projections(scan, ANGLES, memory=memory, axis_angle=0.0, level=0)


@pytest.mark.parametrize("rows", [1, 4, 130])
def test_what_a_block_needs_is_told_before_anything_is_read(rows):
    """No more than all rows at once, with which the level is not divided; and with so much it goes."""
    reads = []
    lazy = da.zeros((60, rows, 64), chunks=-1).map_blocks(
        lambda block: (reads.append(1), block)[1], dtype=np.float64, meta=np.empty((0, 0, 0))
    )
    level, whole = Level((rows, 64), (1, 1)), rows * bytes_of_a_row(60, 64)
    with pytest.raises(OptionError, match="means of 1 columns need") as told:
        align_projections(lazy, np.linspace(0, np.pi, 60), memory=int(whole * min(0.6, 40 / rows)), level=0)
    assert not reads
    need = float(re.search(r"([0-9.]+) MiB", str(told.value)).group(1)) * 2**20 * 1.001
    assert need <= 1.002 * whole
    assert need >= whole or row_blocks.rows_of_a_block(level, 60, int(need)) > 0


def test_levels_of_a_budget():
    """A level that does not fit is kept, after the finest one that does."""
    shape, angles = (180, 256, 256), np.linspace(0, np.pi, 180)
    assert columns_of_levels(shape, angles, 0, None) == [4, 1]
    assert columns_of_levels(shape, angles, 0, 2**40) == [4, 1]
    assert columns_of_levels(shape, angles, 0, 300 * 2**20) == [4, 2, 1]
    assert columns_of_levels(shape, angles, 2, 60 * 2**20) == [5, 4]


def test_sums_of_blocks_add_up(scan, tmp_path):
    """To those of all rows, but for what the ends of a block change in its splines."""
    problem = problem_of(scan)
    poses = increments(np.random.default_rng(0).uniform(-1, 1, (len(ANGLES), 2)), ("ty", "tx"))
    at = linearised(problem, poses)
    whole = at.sums(-at.residual)
    file = RowFile(tmp_path / "rows", (ROWS, len(ANGLES), COLUMNS))
    file.create()
    values = np.where(problem.valid, problem.data * 3 + 5, np.nan)
    for first in range(0, len(ANGLES), 8):
        file.write(first, 0, values[first : first + 8])
    level = row_blocks.RowLevel(file, problem.level, problem.data.mean(axis=(1, 2)), 5.0, 3.0, MEMORY)
    blocks = level.blocks(poses, problem, coupled=True)
    parts = [row_blocks.sums_of(block) for block in blocks]
    total = sum((part.sums for part in parts[1:]), parts[0].sums)
    assert len(blocks) > 2
    assert total.pixels == whole.pixels
    for name in ("own", "common", "score", "shared", "left", "power"):
        expected = getattr(whole, name)
        np.testing.assert_allclose(getattr(total, name), expected, atol=2e-3 * np.abs(expected).max())


@pytest.mark.slow
def test_workers_of_a_cluster_sum_the_same(scan, tmp_path):
    """The blocks go to the client that is passed, and come back through the checkpoint."""
    problem = problem_of(scan)
    poses = np.tile(np.eye(3), (len(ANGLES), 1, 1))
    file = RowFile(tmp_path / "rows", (ROWS, len(ANGLES), COLUMNS))
    file.create()
    file.write(0, 0, scan)
    level = row_blocks.RowLevel(file, problem.level, problem.data.mean(axis=(1, 2)), 0.0, 1.0, MEMORY)
    start = Solution(poses, without_images(problem), 0, False)
    found = []
    with Client(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0") as client:
        for name, one in (("alone", None), ("workers", client)):
            with RowPlace.opened(tmp_path / name, "key", one) as place:
                fixed = Fixed(0.0, None, COLUMNS)
                found.append(row_blocks.refined(level, start, fixed, most=1, work=place.work))
        seen = client.run_on_scheduler(lambda dask_scheduler: set(dask_scheduler.task_prefixes))
    assert any("rows-of-projections" in name for name in seen)
    alone, workers = found
    assert workers.totals.blocks == alone.totals.blocks > 2
    np.testing.assert_allclose(workers.descent.poses, alone.descent.poses, atol=1e-9)
    for name in ("own", "score", "left"):
        np.testing.assert_allclose(getattr(workers.totals.sums, name), getattr(alone.totals.sums, name), rtol=1e-6)


@pytest.mark.slow
def test_rows_that_do_not_fit_together_are_inconsistent(scan, monkeypatch):
    """Though the level before them is consistent: the rows of each projection are in another order."""
    read, options = RowFile.read, {"axis_angle": 0.0, "level": 0, "memory": MEMORY, "max_steps": 2}
    assert align_projections(scan, ANGLES, **options).status != TiltStatus.INCONSISTENT

    def shuffled(file, start, stop):
        rng = np.random.default_rng(start)
        return np.stack([image[rng.permutation(len(image))] for image in read(file, start, stop)])

    monkeypatch.setattr(RowFile, "read", shuffled)
    assert align_projections(scan, ANGLES, **options).status == TiltStatus.INCONSISTENT
    monkeypatch.setattr(RowFile, "read", lambda *ends: np.full_like(read(*ends), np.nan))
    with np.errstate(all="ignore"):
        assert align_projections(scan, ANGLES, **options).status == TiltStatus.INCONSISTENT


@pytest.mark.slow
def test_steps_that_diverge_are_not_settled(scan, monkeypatch):
    """They are shortened where projections move by more rows than the memory allows, and end before them."""
    poses_after = Step.poses

    def diverging(step, share=1.0):
        poses = poses_after(step, share)
        if len(step.problem.data[0]):  # a level in memory
            return poses
        return poses @ increments(np.linspace(-800, 800, len(poses))[:, None], ("ty",))

    monkeypatch.setattr(Step, "poses", diverging)
    fit = align_projections(scan, ANGLES, axis_angle=0.0, level=0, memory=MEMORY)
    assert fit.status == TiltStatus.UNSETTLED
    assert fit.steps == 1


@pytest.mark.parametrize(("most", "backwards"), [(1, False), (1, True), (3, True)])
def test_the_last_step_is_judged_too(scan, most, backwards, monkeypatch):
    """However few they are: one that leads away from the projections is not taken."""
    problem, poses_after, misfits = problem_of(scan[:, 50:70]), Step.poses, []
    if backwards:
        monkeypatch.setattr(Step, "poses", lambda step, share=1.0: poses_after(step, -4 * share))
    start = np.tile(np.eye(3), (len(ANGLES), 1, 1))

    def evaluated(poses):
        at = linearised(problem, poses)
        found = Evaluation(at.sums(-at.residual), at.coupling, poses)
        misfits.append(found.sums.misfit)
        return found

    descent = descend(problem, start, Fixed(None, None, COLUMNS), most, evaluated)
    assert not descent.settled
    assert descent.steps == 1
    np.testing.assert_array_equal(descent.at, descent.poses)
    assert (descent.poses == start).all() == backwards
    assert len(misfits) == (5 if backwards else 2)
    assert (min(misfits[1:]) > misfits[0]) == backwards


def test_a_problem_without_images_keeps_none(scan):
    problem = problem_of(scan)
    empty = without_images(problem).data
    assert empty.shape == (len(ANGLES), 0, COLUMNS)
    assert not np.may_share_memory(empty, problem.data)
    assert empty.base is None


@pytest.mark.parametrize("most", [1, 5, 60])
def test_the_coupling_has_as_many_rows_of_any_blocks(most, scan, tmp_path, monkeypatch):
    """Blocks that are asked for a row of it are spread evenly, and stand for the others."""
    monkeypatch.setattr(row_blocks, "rows_of_a_block", lambda *_: most)
    problem, file = problem_of(scan), RowFile(tmp_path / "rows", (ROWS, len(ANGLES), COLUMNS))
    level = row_blocks.RowLevel(file, problem.level, np.zeros(len(ANGLES)), 0.0, 1.0, MEMORY)
    blocks = level.blocks(np.tile(np.eye(3), (len(ANGLES), 1, 1)), problem, coupled=True)
    asked = [block.number for block in blocks if block.sampled]
    assert 8 < sum(block.sampled for block in blocks) <= 16
    assert np.ptp(np.diff(asked)) <= 1
    assert asked[0] + asked[-1] in (len(blocks) - 1, len(blocks))
    assert not any(block.sampled for block in level.blocks(blocks[0].poses, problem, coupled=False))


def test_a_coupling_of_some_blocks_stands_for_all(scan):
    problem = problem_of(scan)
    part = linearised(problem, np.tile(np.eye(3), (len(ANGLES), 1, 1))).coupling
    one, six = (Coupling.together([part, part], number).sums(np.zeros_like(part.weight[:, :, :1])) for number in (2, 6))
    np.testing.assert_allclose(six.own, 3 * one.own, rtol=1e-4)


def test_a_sample_of_rows_has_the_sums_of_all(scan):
    """On average over samples, of which one is drawn here: within a few percent."""
    problem = problem_of(scan)
    at = linearised(problem, np.tile(np.eye(3), (len(ANGLES), 1, 1)))
    sample = at.coupling.sums(np.zeros_like(at.coupling.weight))
    every = at.every.sums(np.zeros_like(at.weight))
    assert at.coupling.weight.shape[2] == 16 < ROWS
    ratio = np.einsum("app->ap", sample.own).sum(axis=0) / np.einsum("app->ap", every.own).sum(axis=0)
    np.testing.assert_allclose(ratio, 1, atol=0.15)
    few = Coupling.of(at.basis[..., :9], at.weight[..., :9], 2)
    assert few.weight.shape[2] == 9
