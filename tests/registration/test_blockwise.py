"""Images that do not fit the memory, registered at full resolution block by block: the same fit as in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import torch
import zarr
from distributed import Client, LocalCluster
from numpy.typing import NDArray
from phantoms import plane_waves
from scipy.ndimage import affine_transform

import daskreg as dr
from daskreg import errors
from daskreg.geometry import Affine, Grid, tile
from daskreg.registration import images
from daskreg.registration.blockwise import coarse, estimate, register, work
from daskreg.registration.blockwise.inputs import lazy_image
from daskreg.registration.blockwise.pair import LazyPair
from daskreg.registration.blockwise.sums import added
from daskreg.registration.fit import PairFit
from daskreg.registration.levenberg_marquardt import LevelObjective
from daskreg.registration.normal_equations.equations import NormalEquationsNumba, normal_equations_of
from daskreg.registration.normal_equations.part import Part
from daskreg.registration.pose import Pose
from daskreg.registration.problem import Problem
from daskreg.registration.pyramids.pyramid import ImageBatch, PyramidLevel
from daskreg.registration.score_sums import joined, score_sums, sums_of_part, together
from daskreg.registration.verdicts import FitStatus
from daskreg.volumes import to_dataarray

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("forked_workers")]

Floats = NDArray[np.float64]
NO_DASHBOARD = {"dashboard_address": "127.0.0.1:0", "host": "127.0.0.1"}


def limit(monkeypatch: pytest.MonkeyPatch, *, voxels: int = 1 << 16, block: int = 200_000) -> None:
    """A memory that holds coarse images of so many voxels, and of each image a block of so many bytes."""
    monkeypatch.setattr(images, "_voxel_budget", lambda: 40_000)
    for module in (coarse, register):
        monkeypatch.setattr(module, "COARSE_VOXELS", voxels)
    for module in (estimate, register):
        monkeypatch.setattr(module, "BLOCK_BYTES", block)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    limit(monkeypatch)
    return monkeypatch


def waves(grid: Grid, pull: Affine, *, seed: int = 0, count: int = 60) -> Floats:
    """A sum of plane waves of lengths from 9 to 60, at the voxels of a grid after an affine map."""
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(count, grid.ndim))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    lengths = np.exp(rng.uniform(np.log(9), np.log(60), count))
    vectors, phases = 2 * np.pi / lengths[:, None] * directions, rng.uniform(0, 2 * np.pi, count)
    return plane_waves(grid.shape, pull.matrix @ grid.matrix, vectors, phases)


def seen(grid: Grid, motion: Affine | None = None, *, noise: float = 0.05, seed: int = 1) -> NDArray[np.uint16]:
    """The waves on a grid, after a motion, with noise, as a camera gives them."""
    values = waves(grid, Affine.identity(grid.ndim, unit=grid.unit) if motion is None else motion.inverse())
    values = values + noise * np.random.default_rng(seed).normal(size=grid.shape) * values.std()
    return np.asarray(np.round(20000 + 300 * values)).astype(np.uint16)


def lazy(values: NDArray[Any], grid: Grid, chunks: Sequence[int]) -> Any:
    return to_dataarray(da.from_array(values, chunks=tuple(chunks)), grid)


def apart(one: Affine, other: Affine, grid: Grid) -> float:
    """Voxels by which the images of a corner differ at most."""
    return float((np.linalg.norm(one(grid.corners()) - other(grid.corners()), axis=1) / min(grid.spacing)).max())


def motion_of(ndim: int) -> Affine:
    if ndim == 2:
        return Affine.from_parameters(theta=0.02, tx=2.3, ty=-3.7, sx=1.01)
    return Affine.from_parameters(rx=0.015, rz=-0.02, tx=1.4, ty=-1.2, tz=0.8, sy=1.01)


GRIDS = {
    "2D": (Grid((301, 287)), Grid((290, 311))),
    "3D": (Grid((93, 71, 98)), Grid((88, 76, 91))),
    "anisotropic": (
        Grid((37, 84, 91), (2.0, 1.0, 1.0), (5.0, 0.0, -3.0), unit="um"),
        Grid((78, 83, 80), (1.0, 1.0, 1.0), unit="um"),
    ),
    "a finer moving image": (Grid((90, 101), 2.0), Grid((351, 377), 0.5)),
}


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("ndim", [2, 3])
def test_the_sums_of_parts_are_those_of_the_level(ndim: int, masked: bool) -> None:
    grid, other = Grid((91, 83, 37)[:ndim]), Grid((77, 94, 41)[:ndim])
    rng = np.random.default_rng(0)
    values = [torch.from_numpy(rng.normal(size=(1, *g.shape)).astype(np.float32)) for g in (grid, other)]
    weights = [(torch.rand((1, *g.shape)) > 0.02).float() if masked else None for g in (grid, other)]
    level = PyramidLevel(*map(ImageBatch, values, weights, (grid, other)), 1.0)
    maps = LevelObjective(Problem(Pose.of("affine", ndim), grid.centre), level).maps_of(motion_of(ndim).matrix[None])
    whole = {"normal": normal_equations_of(level)(maps), "scores": score_sums(level, maps, (9, 11, 8)[:ndim])}
    pair = LazyPair(*(lazy_image(np.zeros(g.shape), what="x", mask=None, channel=None) for g in (grid, other)), 1.0)
    normal, cells = [], []
    for _, inside in tile(grid.shape, (50, 29, 16)[:ndim]):
        fixed, moving = pair.around(inside), pair.moving_box(maps, pair.around(inside))
        images_of = [
            replace(image, values=image.values[:, *box.slices], weight=w if w is None else w[:, *box.slices])
            for image, w, box in zip((level.fixed, level.moving), weights, (fixed, moving), strict=True)
        ]
        part = PyramidLevel(images_of[0], images_of[1], 1.0), Part(fixed, moving, inside)
        normal.append(NormalEquationsNumba(*part)(maps))
        cells.append(sums_of_part(part[0], maps, (9, 11, 8)[:ndim], part[1]))
    joint: dict[str, Any] = {
        "normal": added(normal),
        "scores": joined([together(cells[:5]), together(cells[5:])], grid.shape, (9, 11, 8)[:ndim]),
    }
    for kind, sums in whole.items():
        for field in fields(sums):
            one, two = getattr(sums, field.name), getattr(joint[kind], field.name)
            np.testing.assert_allclose(two, one, rtol=1e-4, atol=1e-6 * np.abs(one).max(), err_msg=field.name)


@pytest.mark.parametrize(
    ("grids", "metric"),
    [("2D", "ncc"), ("2D", "mse"), ("3D", "ncc"), ("anisotropic", "mse"), ("a finer moving image", "ncc")],
)
def test_the_fit_is_that_of_the_images_in_memory(small: pytest.MonkeyPatch, grids: str, metric: str) -> None:
    fixed, moving = GRIDS[grids]
    truth = motion_of(fixed.ndim)
    truth = Affine(truth.matrix, unit=fixed.unit)
    values = seen(fixed), seen(moving, truth, seed=2)
    small.setattr(images, "_voxel_budget", lambda: 10**9)
    options: dict[str, Any] = {"metric": metric, "tolerance": 1e-6}
    in_memory = dr.register(*map(to_dataarray, values, (fixed, moving)), resolution="full", **options)
    limit(small, voxels=1 << 14 if fixed.ndim == 2 else 1 << 17, block=50_000 if fixed.ndim == 2 else 500_000)
    some = [lazy(v, g, [max(7, n // 3) for n in g.shape]) for v, g in zip(values, (fixed, moving), strict=True)]
    fit = dr.register(*some, resolution="full", **options)
    assert fit.ok
    assert fit.resolution == in_memory.resolution == "full"
    assert apart(fit.moving_from_fixed, in_memory.moving_from_fixed, fixed) < 1e-6
    assert apart(fit.moving_from_fixed, truth, fixed) < 0.02
    np.testing.assert_allclose(fit.covariance, in_memory.covariance, rtol=0.02, atol=1e-12)
    assert fit.overlap == pytest.approx(in_memory.overlap, abs=1e-5)
    if metric == "ncc":
        assert fit.losses[-1] == pytest.approx(in_memory.losses[-1], rel=1e-4)


def test_it_is_ten_times_nearer_to_the_truth_than_the_coarse_fit(small: pytest.MonkeyPatch) -> None:
    limit(small, voxels=1 << 12, block=50_000)
    small.setattr(images, "_voxel_budget", lambda: 1 << 13)
    grid = Grid((411, 397))
    truth = motion_of(2)
    some = [lazy(v, grid, (57, 61)) for v in (seen(grid, noise=0.02), seen(grid, truth, noise=0.02, seed=2))]
    with pytest.warns(errors.DaskregWarning, match="is read as means"):
        rough = dr.register(*some, resolution="coarse")
    fit = dr.register(*some, resolution="full")
    assert rough.resolution == "coarse"
    assert apart(fit.moving_from_fixed, truth, grid) < apart(rough.moving_from_fixed, truth, grid) / 10


def test_it_does_not_depend_on_the_blocks(small: pytest.MonkeyPatch) -> None:
    grid = Grid((63, 51, 58))
    values = seen(grid), seen(grid, motion_of(3), seed=2)
    fits = []
    for block, chunks in ((80_000, (20, 16, 21)), (160_000, (63, 51, 58)), (10**9, (48, 9, 9))):
        limit(small, voxels=1 << 15, block=block)
        fits.append(dr.register(*(lazy(v, grid, chunks) for v in values), resolution="full"))
    for fit in fits[1:]:
        assert apart(fit.moving_from_fixed, fits[0].moving_from_fixed, grid) < 1e-7
        sigma = np.sqrt(np.diag(fits[0].covariance))
        scale = np.outer(sigma, sigma)
        np.testing.assert_allclose(fit.covariance / scale, fits[0].covariance / scale, atol=1e-5)


@pytest.mark.parametrize("kind", ["dask", "zarr", "DataArray", "NumPy"])
def test_masks_gaps_and_codes(small: pytest.MonkeyPatch, tmp_path: Path, kind: str) -> None:
    """Where fixed is dirty its mask says so, and moving has NaN; both lie in blocks that nothing else touches."""
    grid = Grid((301, 287))
    truth = motion_of(2)
    limit(small, voxels=1 << 15, block=100_000)
    fixed, moving = seen(grid), seen(grid, truth, seed=2).astype(np.float32)
    mask = np.ones(grid.shape, bool)
    mask[40:90, 200:270] = False
    fixed[~mask] = np.random.default_rng(5).integers(0, 60000, (~mask).sum())
    moving[150:201, 30:99] = np.nan
    moving[-30:, -31:] = -1e9
    given: Any = {
        "dask": lambda: da.from_array(mask, chunks=(33, 100)),
        "zarr": lambda: zarr.create_array(str(tmp_path / "m.zarr"), data=mask.astype("u1"), chunks=(40, 41)),
        "DataArray": lambda: to_dataarray(da.from_array(mask, chunks=50), grid),
        "NumPy": lambda: mask,
    }[kind]()
    some = [lazy(v, grid, (45, 51)) for v in (fixed, moving)]
    fit = dr.register(*some, fixed_mask=given, resolution="full", tolerance=1e-6)
    small.setattr(images, "_voxel_budget", lambda: 10**9)
    in_memory = dr.register(fixed, moving, fixed_mask=mask, tolerance=1e-6)
    assert fit.ok
    assert apart(fit.moving_from_fixed, truth, grid) < 0.02
    # Which regions are left out besides is found on other levels.
    assert apart(fit.moving_from_fixed, in_memory.moving_from_fixed, grid) < 2e-3
    assert fit.masked == pytest.approx(in_memory.masked, abs=0.01)


def test_blocks_that_do_not_overlap_are_not_read(small: pytest.MonkeyPatch) -> None:
    fixed, moving = Grid((400, 120)), Grid((380, 130), 1.0, (240.0, 2.0))
    read: list[int] = []

    def block(values: NDArray[Any], block_info: Any = None) -> NDArray[Any]:
        if block_info and None in block_info:
            read.append(block_info[None]["array-location"][0][0])
        return values

    array = da.from_array(seen(fixed), chunks=(40, 60)).map_blocks(block, dtype=np.uint16)
    other = lazy(seen(moving, Affine.translation(x=1.3, y=-1.6), seed=2), moving, (60, 70))
    limit(small, block=8000)
    starts: dict[str, list[int]] = {}
    run = work.Work.each

    def watched(self: work.Work, name: str, *args: Any, **kwargs: Any) -> Any:
        read.clear()
        found = run(self, name, *args, **kwargs)
        starts[kwargs["label"]] = list(read)
        return found

    small.setattr(work.Work, "each", watched)
    fit = dr.register(to_dataarray(array, fixed), other, model="translation", resolution="full")
    assert fit.parameters["tx"] == pytest.approx(1.3, abs=0.02)
    assert fit.parameters["ty"] == pytest.approx(-1.6, abs=0.02)
    assert min(starts["coarse fixed"]) == 0
    assert min(starts["pass 1"]) >= 200
    assert max(int(name.split()[1]) for name in starts if name.startswith("pass")) <= 3


def test_images_apart_in_the_world(small: pytest.MonkeyPatch) -> None:
    one, other = Grid((250, 240)), Grid((250, 240), 1.0, (0.0, 500.0))
    with pytest.raises(errors.NoOverlapError, match="do not overlap"):
        dr.register(lazy(seen(one), one, (99, 99)), lazy(seen(other), other, (99, 99)), resolution="full")


def test_unrelated_images_cost_no_pass(small: pytest.MonkeyPatch) -> None:
    grid = Grid((350, 240))
    noise = [np.random.default_rng(k).normal(size=grid.shape) for k in range(2)]
    labels: list[str] = []
    run = work.Work.each
    small.setattr(work.Work, "each", lambda self, *a, **k: (labels.append(k["label"]), run(self, *a, **k))[1])
    fit = dr.register(*(lazy(n, grid, (70, 80)) for n in noise), resolution="full")
    assert fit.status in (FitStatus.CHANCE, FitStatus.NO_IMPROVEMENT)
    assert fit.resolution == "coarse"
    assert labels == ["coarse fixed", "coarse moving"]


def volumes_as_zarr(data: Path, folder: Path) -> tuple[Any, Any, Affine]:
    """A brain, and the same after a motion, by SciPy's splines, in stores with odd chunks."""
    source = dr.open(next((data / "volumes3d/mni152").glob("*.nii.gz")))
    values = np.asarray(source[::3, ::3, ::3], np.float64)
    rng = np.random.default_rng(0)
    truth = motion_of(3)
    pull = np.linalg.inv(truth.matrix)
    moved = affine_transform(values, pull[:3, :3], offset=pull[:3, 3], order=5, mode="constant")
    level = values.max() / 1000
    stored = []
    for name, array, chunks in (("fixed", values, (23, 31, 40)), ("moving", moved, (41, 29, 33))):
        noisy = array / level + 3 * rng.normal(size=array.shape) + 20
        path = folder / f"{name}.zarr"
        zarr.create_array(str(path), data=np.clip(noisy, 0, None).astype(np.uint16), chunks=chunks)
        stored.append(dr.open(path))
    return stored[0], stored[1], truth


def test_threads_and_workers_find_the_same(small: pytest.MonkeyPatch, data: Path, tmp_path: Path) -> None:
    limit(small, voxels=1 << 16, block=300_000)
    fixed, moving, truth = volumes_as_zarr(data, tmp_path)
    small.setattr(work, "_THREADS", 1)
    serial = dr.register(fixed, moving, resolution="full", client=False)
    assert apart(serial.moving_from_fixed, truth, dr.grid(fixed)) < 0.1
    small.setattr(work, "_THREADS", 2)
    threads = dr.register(fixed, moving, resolution="full", client=False)
    with LocalCluster(n_workers=2, threads_per_worker=1, **NO_DASHBOARD) as cluster, Client(cluster):
        distributed = dr.register(fixed, moving, resolution="full")
    for fit in (threads, distributed):
        np.testing.assert_array_equal(fit.moving_from_fixed.matrix, serial.moving_from_fixed.matrix)
        np.testing.assert_array_equal(fit.covariance, serial.covariance)
    in_memory = in_full_memory(small, fixed, moving)
    assert apart(serial.moving_from_fixed, in_memory.moving_from_fixed, dr.grid(fixed)) < 2e-3


def in_full_memory(small: pytest.MonkeyPatch, fixed: Any, moving: Any, **options: Any) -> PairFit:
    small.setattr(images, "_voxel_budget", lambda: 10**9)
    return dr.register(fixed, moving, resolution="full", **options)


class Killed(Exception):  # noqa: N818 (it stands for a signal)
    pass


def test_a_killed_run_is_continued_from_its_checkpoint(small: pytest.MonkeyPatch, tmp_path: Path) -> None:
    grid = Grid((301, 287))
    some = [lazy(v, grid, (70, 66)) for v in (seen(grid), seen(grid, motion_of(2), seed=2))]
    limit(small, block=30_000)
    file, counts = tmp_path / "fit.jsonl", []
    whole = dr.register(*some, resolution="full", progress=lambda done, total: counts.append((done, total)))
    assert [done for done, _ in counts[:-1]] == list(range(1, len(counts)))
    assert counts[-1][0] == counts[-1][1]
    for stop in (3, len(counts) // 2, len(counts) - 2):

        def until(done: int, total: int, stop: int = stop) -> None:
            if done >= stop:
                raise Killed

        with pytest.raises(Killed):
            dr.register(*some, resolution="full", checkpoint=file, progress=until)
        with file.open("ab") as torn:  # a line that was being written
            torn.write(b'{"pass": "sums-1')
    with pytest.raises(errors.LayoutMismatchError, match="of other images, or of another estimate"):
        dr.register(*some, resolution="full", checkpoint=file, model="rigid")
    with pytest.raises(errors.LayoutMismatchError):
        dr.register(some[0], some[1] + 1, resolution="full", checkpoint=file)
    began: list[int] = []
    resumed = dr.register(*some, resolution="full", checkpoint=file, progress=lambda done, _: began.append(done))
    assert len(began) < len(counts) / 2  # finished blocks are counted at once
    assert np.array_equal(resumed.moving_from_fixed.matrix, whole.moving_from_fixed.matrix)
    assert np.array_equal(resumed.covariance, whole.covariance)
    text = file.read_text().splitlines(keepends=True)  # damaged lines are worked on again
    text[2:4] = [
        text[2].replace('"data": "', '"data": "AAAA', 1),
        text[3].replace('"block": ', '"block": "x", "": ', 1),
    ]
    file.write_text("".join(text))
    again = dr.register(*some, resolution="full", checkpoint=file)
    assert np.array_equal(again.moving_from_fixed.matrix, whole.moving_from_fixed.matrix)
    for wrong in (tmp_path, tmp_path / "missing" / "a.jsonl", "s3://bucket/a.jsonl"):
        with pytest.raises(errors.OptionError):
            dr.register(*some, resolution="full", checkpoint=wrong)
    (tmp_path / "other.jsonl").write_text("x,y\n1,2\n")
    with pytest.raises(errors.InputError, match="is not a checkpoint"):
        dr.register(*some, resolution="full", checkpoint=tmp_path / "other.jsonl")


def test_bad_options(small: pytest.MonkeyPatch) -> None:
    grid = Grid((250, 240))
    some = [lazy(seen(grid, seed=k), grid, (99, 99)) for k in range(2)]
    with pytest.raises(errors.OptionError, match="resolution 'fine' is unknown"):
        dr.register(*some, resolution="fine")
    for options in ({"metric": "mi"}, {"optimizer": "adam"}, {"check_inverse": True}):
        with pytest.raises(errors.OptionError, match="full resolution"):
            dr.register(*some, resolution="full", **options)
    with pytest.raises(errors.ShapeMismatchError, match="fixed_mask has shape"):
        dr.register(*some, resolution="full", fixed_mask=np.ones((3, 4), bool))
    with pytest.raises(errors.EmptyMaskError):
        dr.register(*some, resolution="full", moving_mask=np.zeros(grid.shape, bool))
    with pytest.raises(errors.EmptyMaskError, match="moving_mask leaves no"):
        dr.register(*some, resolution="full", moving_mask=da.zeros(grid.shape, chunks=50))
    with pytest.raises(errors.DegenerateImageError, match="constant"):
        dr.register(some[0], lazy(np.full(grid.shape, 7, np.uint16), grid, (99, 99)), resolution="full")
    with pytest.raises(errors.UnitError):
        dr.register(some[0], lazy(seen(grid), Grid(grid.shape, unit="um"), (99, 99)), resolution="full")


@pytest.fixture
def stored(tmp_path: Path) -> tuple[Path, Path, Path]:
    """A pair as OME-Zarr, and another moving image for it."""
    grid = Grid((301, 287))
    motions = None, motion_of(2), Affine.translation(x=1.5, y=4)
    paths = tmp_path / "F.ome.zarr", tmp_path / "M.ome.zarr", tmp_path / "other.ome.zarr"
    for seed, (path, motion) in enumerate(zip(paths, motions, strict=True), 1):
        values = to_dataarray(seen(grid, motion, seed=seed), grid)
        dr.write(values, path, chunks=(70, 66), levels=1, progress=False)
    return paths


def write_again(path: Path, other: Path, where: tuple[slice, ...] = (slice(None),)) -> None:
    """The voxels of another image in the array of one, whose metadata stay as they are."""
    array, values = zarr.open_array(str(path / "0"), mode="r+"), zarr.open_array(str(other / "0"), mode="r")
    before = (path / "0" / "zarr.json").stat().st_mtime_ns
    array[where] = values[where]
    assert (path / "0" / "zarr.json").stat().st_mtime_ns == before


def test_a_checkpoint_is_not_of_voxels_that_were_written_again(
    small: pytest.MonkeyPatch, stored: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    limit(small, block=30_000)
    fixed, moving, other = stored
    file = tmp_path / "ck.jsonl"

    def call(**options: Any) -> PairFit:
        return dr.register(*map(dr.open, (fixed, moving)), resolution="full", checkpoint=file, client=False, **options)

    before = call()
    assert (before.ok, before.resolution) == (True, "full")
    lines = file.read_bytes()
    assert np.array_equal(call().moving_from_fixed.matrix, before.moving_from_fixed.matrix)  # opened again
    assert file.read_bytes() == lines
    write_again(moving, other)
    for _ in range(2):
        with pytest.raises(errors.LayoutMismatchError, match=r"ck\.jsonl .* written again since: remove it or name"):
            call()
    assert file.read_bytes() == lines
    file.unlink()
    after = call()
    assert after.ok
    assert apart(after.moving_from_fixed, before.moving_from_fixed, dr.grid(dr.open(fixed))) > 1


def test_an_interrupted_run_does_not_go_on_with_a_corner_that_was_written_again(
    small: pytest.MonkeyPatch, stored: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    limit(small, block=30_000)
    fixed, moving, other = stored

    def until(done: int, total: int) -> None:
        if done >= total // 2:
            raise Killed

    def arrays(kind: str) -> tuple[list[Any], dict[str, Any]]:
        some: list[Any] = [dr.open(fixed), dr.open(moving)]
        if kind == "graph":  # read through a dask graph, by its chunks
            some[1] = some[1] + 1
        return some, {"fixed_mask": dr.open(fixed) if kind == "mask" else None}

    for kind in ("source", "graph", "mask"):
        file = tmp_path / f"{kind}.jsonl"
        some, options = arrays(kind)
        with pytest.raises(Killed):
            dr.register(*some, resolution="full", checkpoint=file, client=False, progress=until, **options)
    corner = (slice(0, 40), slice(0, 40))
    write_again(moving, other, corner)
    for kind in ("source", "graph", "mask"):
        file = tmp_path / f"{kind}.jsonl"
        some, options = arrays(kind)
        with pytest.raises(errors.LayoutMismatchError, match=f"{kind}.jsonl is of other images"):
            dr.register(*some, resolution="full", checkpoint=file, client=False, **options)
