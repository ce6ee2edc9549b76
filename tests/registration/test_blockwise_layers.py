"""Layers of B-splines between images that do not fit the memory: the fit in memory, block by block."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
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
from scipy.ndimage import gaussian_filter, map_coordinates

import daskreg as dr
from daskreg import errors
from daskreg.geometry import Box, Grid, tile
from daskreg.registration import images
from daskreg.registration.blockwise import (
    coarse,
    estimate,
    layer_passes,
    pair,
    register,
    register_layers,
    slabs,
    work,
)
from daskreg.registration.blockwise.layer_match import LayerMatch, NodeGrid
from daskreg.registration.blockwise.pair import divided
from daskreg.registration.deformable.cell_sums import Residuals, add_part, cell_sums, no_square, nodes_of
from daskreg.registration.deformable.level_images import LevelImages
from daskreg.registration.deformable.splines.control_grid import control_grids
from daskreg.registration.local_contrast.match import local_match
from daskreg.registration.local_contrast.windows import Windows
from daskreg.registration.pyramids.pyramid import ImageBatch, PyramidLevel
from daskreg.registration.verdicts import FitStatus
from daskreg.sources.stored import StoredSource
from daskreg.volumes import to_dataarray

Floats = NDArray[np.float64]
NO_DASHBOARD = {"dashboard_address": "127.0.0.1:0", "host": "127.0.0.1"}
SHAPE, SPACING = (157, 171), 22.0


def limit(patch: pytest.MonkeyPatch, *, voxels: int = 1 << 13, block: int = 25_000, slab: int = 10_000) -> None:
    """A memory that holds coarse images of so many voxels, blocks of so many bytes, and of a block so much at once."""
    patch.setattr(images, "_voxel_budget", lambda: 10_000)
    for module, name in ((coarse, "COARSE_VOXELS"), (register, "COARSE_VOXELS"), (coarse, "LAYER_VOXELS"),
                         (register_layers, "LAYER_VOXELS")):  # fmt: skip
        patch.setattr(module, name, voxels)
    for module in (estimate, register, layer_passes, register_layers):
        patch.setattr(module, "BLOCK_BYTES", block)
    for module in (slabs, pair, coarse):
        patch.setattr(module, "SLAB_BYTES", slab)
    patch.setattr(slabs, "_THICK", 24)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    limit(monkeypatch)
    return monkeypatch


def texture_waves(ndim: int, *, count: int = 80) -> tuple[Floats, Floats]:
    """Vectors (N, D) and phases of plane waves of lengths from 8 to 90."""
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(count, ndim))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    lengths = np.exp(rng.uniform(np.log(8), np.log(90), count))
    return 2 * np.pi / lengths[:, None] * directions, rng.uniform(0, 2 * np.pi, count)


def texture(shape: Sequence[int], most: float) -> Floats:
    """A sum of plane waves, displaced as `bent` says: known wherever that brings it."""
    vectors, phases = texture_waves(len(shape))
    if most:
        points = bent(np.moveaxis(np.indices(shape), 0, -1).astype(float), shape, most)
        total = sum(np.cos(points @ vector + phase) for vector, phase in zip(vectors, phases, strict=True))
    else:
        total = plane_waves(shape, np.eye(len(shape) + 1), vectors, phases)
    return np.asarray(total / np.sqrt(len(vectors) / 2))


def bent(points: Floats, shape: Sequence[int], most: float) -> Floats:
    """Where (..., D) points are found: displaced by waves of about the length of the image."""
    scaled = points / np.asarray(shape, float)
    moved = [np.sin(4.1 * np.roll(scaled, k + 1, -1)[..., 0] + 2.3 * scaled[..., k] + k) for k in range(len(shape))]
    return np.asarray(points + most * np.stack(moved, -1))


def pair_of(shape: Sequence[int], *, most: float = 4.0, noise: float = 0.1) -> tuple[Any, Any]:
    """Two images as a camera gives them, of which the second is brighter."""
    rng = np.random.default_rng(1)
    both = texture(shape, most), 1.5 * texture(shape, 0) + 2
    return tuple(np.round(20000 + 1000 * (x + noise * rng.normal(size=shape))).astype(np.uint16) for x in both)


def lazy(values: NDArray[Any], chunks: Sequence[int]) -> Any:
    return to_dataarray(da.from_array(values, chunks=tuple(chunks)), Grid(values.shape))


def stored(folder: Path, both: Sequence[NDArray[Any]], chunks: Sequence[Sequence[int]]) -> list[Any]:
    paths = [folder / f"{k}.zarr" for k in range(2)]
    for path, values, chunk in zip(paths, both, chunks, strict=True):
        zarr.create_array(str(path), data=values, chunks=tuple(chunk))
    return [dr.open(path) for path in paths]


def inner(shape: Sequence[int], margin: int = 5) -> Floats:
    """Points so far from the border and farther."""
    axes = [np.arange(margin, n - margin, 7.0) for n in shape]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(shape))


def apart(one: Any, other: Any, points: Floats) -> float:
    return float(np.linalg.norm(one.moving_from_fixed(points) - other.moving_from_fixed(points), axis=1).max())


def in_memory(patch: pytest.MonkeyPatch, *both: Any, **options: Any) -> Any:
    with patch.context() as inner_patch:
        inner_patch.setattr(images, "_voxel_budget", lambda: 10**9)
        return dr.register(*both, **{"model": "bspline", "resolution": "full", **options})


@pytest.mark.parametrize(("shape", "spacing"), [((53, 61), 9.0), ((17, 23, 21), 6.0)])
def test_the_sums_of_parts_add_up_to_those_of_the_image(shape: tuple[int, ...], spacing: float) -> None:
    rng, grid = np.random.default_rng(0), Grid(shape, 1.1)
    control = control_grids(grid, (spacing,) * len(shape))[-1]
    gradient = rng.normal(size=(len(shape), *shape)).astype(np.float32)
    residual, weight = (rng.random(shape).astype(np.float32) for _ in range(2))
    c = rng.normal(size=(len(shape), *control.shape))
    whole = cell_sums(Residuals(gradient, residual, weight), control, grid, Box.of(shape), coefficients=c)
    square, linear = no_square(control.shape), np.zeros_like(whole.linear)
    for _, box in tile(shape, (13, 20, 9)[: len(shape)]):
        nodes = nodes_of(control, grid, box)
        part = Residuals(gradient[:, *box.slices], residual[box.slices], weight[box.slices])
        local = c[(slice(None), *nodes.slices)]
        sums = cell_sums(part, control, grid, box, coefficients=local, held=nodes)
        add_part(square, control.shape, sums.square, nodes)
        linear[(slice(None), *nodes.slices)] += sums.linear
    np.testing.assert_allclose(linear, whole.linear, atol=1e-5 * np.abs(linear).max())
    np.testing.assert_allclose(square, whole.square, atol=1e-5 * np.abs(square).max())


def test_gain_and_offset_around_the_voxels_of_a_box_are_those_of_the_image() -> None:
    rng, grid = np.random.default_rng(0), Grid((63, 71), (0.5, 1.0), (3.0, -2.0))
    y, x = np.indices(grid.shape)
    warped = rng.normal(size=grid.shape).astype(np.float32)
    fixed = ((1 + y / 100) * warped + x / 30).astype(np.float32)
    coarse = grid.crop(Box((0, 0), (60, 69))).downsample((2, 3))
    both = [v[:60, :69].reshape(30, 2, 23, 3).mean((1, 3))[None] for v in (fixed, warped)]
    level = PyramidLevel(*(ImageBatch(torch.from_numpy(v), None, coarse) for v in both), 1.0)
    field = dr.DisplacementField(np.zeros((2, 3, 3)), Grid((3, 3), 60, (-20, -20)))
    match = LayerMatch.of(LevelImages.of(level, "lncc"), field, grid, control_grids(grid, (5.0, 8.0))[-1])
    whole = match.between(fixed, warped, np.ones_like(fixed), grid.box)
    inside = (slice(15, -15), slice(15, -15))
    assert np.abs(whole.gain - (1 + y / 100))[inside].mean() < 0.05
    assert np.abs(whole.offset - x / 30)[inside].mean() < 0.05
    for _, box in tile(grid.shape, (29, 13)):
        part = match.restrict(box).between(fixed[box.slices], warped[box.slices], np.ones(box.shape, np.float32), box)
        for name in ("residual", "gain", "precision", "common"):
            np.testing.assert_allclose(getattr(part, name), getattr(whole, name)[box.slices], atol=1e-5)


def test_windows_of_all_voxels_follow_from_sums_over_blocks() -> None:
    grid, rng = Grid((63, 71), (0.5, 1.0), (3.0, -2.0)), np.random.default_rng(0)
    y, x = np.indices(grid.shape)
    warped, weight = (rng.normal(size=grid.shape) + 1).astype(np.float32), (y > 9).astype(np.float32)
    fixed = ((1 + y / 100) * warped + x / 30 + 0.3 * rng.normal(size=grid.shape) * (x > 30)).astype(np.float32)
    level = NodeGrid.of(grid, control_grids(grid, (5.0, 8.0))[-1])
    coarse = NodeGrid.of_coarse(grid.downsample((2, 3)), (4, 3), grid)
    start = np.stack([np.full(coarse.shape, value, np.float32) for value in (1.3, 0.8, 1.0, 1.0)])  # is not right
    match = LayerMatch(start, coarse, level)
    expected = local_match(fixed, warped, weight, Windows.for_control(grid.shape, (10, 8)))
    for number in range(3):
        sums = np.zeros((8, *level.shape))
        for _, box in tile(grid.shape, ((29, 13), (63, 71), (10, 40))[number]):
            f, w, v = (image[box.slices] for image in (fixed, warped, weight))
            part = match.restrict(box)
            residual = part.between(f, w, v, Box.of(box.shape).shift(box.start)).residual
            sums[:, *level.nodes(box).slices] += match.sums(f, w, v, residual, box)
        match, left = match.after(sums)
    found = match.between(fixed, warped, weight, grid.box)
    assert left == pytest.approx(expected.left, rel=1e-4)
    seen = weight > 0
    for name, atol in (("gain", 0.03), ("offset", 0.03), ("precision", 1e-3), ("common", 1e-3)):
        np.testing.assert_allclose(getattr(found, name)[seen], getattr(expected, name)[seen], atol=atol, err_msg=name)
    assert np.abs(found.gain - (1 + y / 100))[seen & (x < 20)].mean() < 0.02


def test_axes_are_cut_into_few_pieces_in_the_middle_of_chunks() -> None:
    for n, size, chunk in ((812, 384, 64), (1290, 448, 64), (100, 30, 7), (64, 64, 64), (65, 64, 64), (263, 60, 20)):
        boxes = divided((n,), (chunk,), lambda s, size=size: s[0] <= size, shifted=True)
        ends = [box.start[0] for box in boxes] + [n]
        assert ends[0] == 0
        assert all(a < b <= a + size for a, b in pairwise(ends))
        whole = size // chunk * chunk
        assert len(boxes) <= -(-n // whole) + 1
        assert all(cut % chunk == chunk // 2 for cut in ends[1:-1])


@pytest.mark.slow
def test_the_fit_is_that_of_the_images_in_memory_whatever_the_blocks(small: pytest.MonkeyPatch) -> None:
    both = pair_of(SHAPE)
    whole = in_memory(small, *both, spacing=SPACING)
    fits = []
    for block, slab, chunks in ((15_000, 8_000, (31, 44)), (10**9, 10**9, (157, 17))):
        limit(small, block=block, slab=slab)
        some = [lazy(values, chunks) for values in both]
        fits.append(dr.register(*some, model="bspline", spacing=SPACING, resolution="full"))
    fit, points = fits[0], inner(SHAPE, 12)
    truth = np.linalg.norm(fit.moving_from_fixed(points) - bent(points, SHAPE, 4.0), axis=1)
    assert fit.ok, repr(fit)
    assert fit.resolution == whole.resolution == "full"
    assert fit.affine.resolution == "coarse"
    assert apart(*fits, inner(SHAPE)) < 1e-3
    assert apart(fit, whole, inner(SHAPE, 0)) < 0.05  # to the border, where the prior says most
    assert np.median(truth) < 0.05
    assert fit.score == pytest.approx(whole.score, rel=0.02)
    assert fit.overlap == pytest.approx(whole.overlap, abs=0.01)
    assert fit.jacobian[0] > 0
    assert fit.jacobian == pytest.approx(whole.jacobian, abs=0.02)
    np.testing.assert_allclose(fit.sigma_at(points[100:104]), whole.sigma_at(points[100:104]), rtol=0.2)


@pytest.mark.slow
def test_where_gain_and_offset_vary_blocks_and_memory_find_so_and_the_same_field(small: pytest.MonkeyPatch) -> None:
    fixed, moving = pair_of(SHAPE, noise=0.02)
    y, x = (np.linspace(0, 1, n) for n in SHAPE)
    uneven = ((moving - 19000.0) * (0.8 + 0.8 * (y[:, None] + x))).clip(0).astype(np.uint16)
    whole = in_memory(small, fixed, uneven, spacing=SPACING)
    some = lazy(fixed, (31, 44)), lazy(uneven, (157, 17))
    fit, points = dr.register(*some, model="bspline", spacing=SPACING, resolution="full"), inner(SHAPE, 12)
    assert fit.status is FitStatus.CONVERGED, repr(fit)  # scores of blocks and of coarse voxels are not compared
    assert fit.metric == whole.metric == "lncc"
    assert fit.resolution == "full"
    assert apart(fit, whole, points) < 0.1
    for one in (fit, whole):
        away = np.linalg.norm(one.moving_from_fixed(points) - bent(points, SHAPE, 4.0), axis=1)
        assert np.percentile(away, 90) < 0.1


@pytest.mark.slow
def test_volumes(small: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shape, rng = (50, 54, 47), np.random.default_rng(3)
    blobs = gaussian_filter(rng.normal(size=[n + 20 for n in shape]), 1.5)
    points = np.moveaxis(np.indices(shape), 0, -1).astype(float)
    there = np.moveaxis(bent(points, shape, 1.5), -1, 0) + 10
    values = map_coordinates(blobs, there, order=5), blobs[(slice(10, -10),) * 3]
    both = [np.round(20000 + 8000 * (x + 0.01 * rng.normal(size=shape))).astype(np.uint16) for x in values]
    limit(small, voxels=1 << 15, block=200_000, slab=200_000)
    some = stored(tmp_path, both, ((26, 28, 24), (30, 54, 20)))
    options: dict[str, Any] = {"model": "bspline", "spacing": 16, "metric": "mse", "resolution": "full"}
    fit = dr.register(*some, **options, client=False)
    whole = in_memory(small, *both, **options)
    points = inner(shape, 6)
    away, there = (np.linalg.norm(one.moving_from_fixed(points) - bent(points, shape, 1.5), axis=1)
                   for one in (fit, whole))  # fmt: skip
    assert fit.ok, repr(fit)
    assert fit.reduced == ((1, 1, 1), (1, 1, 1))
    assert np.median(away) < 0.1
    assert apart(fit, whole, inner(shape, 12)) < 0.05
    # Few voxels determine the control points at the border, and each fit ends where little is left to gain.
    assert np.percentile(away, 95) < 1.2 * np.percentile(there, 95)


@pytest.mark.slow
def test_what_is_masked_has_no_part(small: pytest.MonkeyPatch) -> None:
    fixed, moving = pair_of(SHAPE)
    mask = np.ones(SHAPE, bool)
    mask[30:80, 90:140] = False
    fixed[~mask] = np.random.default_rng(5).integers(0, 60000, (~mask).sum())
    other = moving.astype(np.float32)
    other[112:137, 15:50] = np.nan
    some = lazy(fixed, (60, 70)), lazy(other, (64, 64))
    fit = dr.register(*some, fixed_mask=mask, model="bspline", spacing=SPACING, resolution="full")
    points = inner(SHAPE)
    away = np.linalg.norm(fit.moving_from_fixed(points) - bent(points, SHAPE, 4.0), axis=1)
    seen = mask[tuple(points.astype(int).T)]
    assert fit.ok, repr(fit)
    assert np.median(away[seen]) < 0.05
    assert np.percentile(away[seen], 95) < 0.3


@pytest.mark.slow
@pytest.mark.usefixtures("forked_workers")
def test_a_run_on_workers_that_is_killed_is_continued_and_finds_what_threads_find(
    small: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    some = stored(tmp_path, pair_of(SHAPE), ((40, 50), (61, 47)))
    options: dict[str, Any] = {"model": "bspline", "spacing": SPACING, "resolution": "full"}
    counts: list[tuple[int, int]] = []
    threads = dr.register(*some, **options, client=False, progress=lambda *step: counts.append(step))
    assert [done for done, _ in counts[:-1]] == list(range(1, len(counts)))
    assert counts[-1][0] == counts[-1][1]
    points, file = inner(SHAPE), tmp_path / "fit.jsonl"

    def killed(done: int, total: int) -> None:
        if done >= len(counts) - 4:
            raise KeyboardInterrupt

    with (
        LocalCluster(n_workers=1, threads_per_worker=2, **NO_DASHBOARD) as cluster,
        Client(cluster),
        pytest.raises(KeyboardInterrupt),
    ):
        dr.register(*some, **options, checkpoint=file, progress=killed)
    asked: list[int] = []
    run = work.run_tasks
    small.setattr(work, "run_tasks", lambda f, items, **k: run(f, _counted(items, asked), **k))
    resumed = dr.register(*some, **options, client=False, checkpoint=file)
    assert len(asked) < len(counts) / 3
    assert apart(resumed, threads, points) < 1e-6
    for other in ({"spacing": 31.0}, {"init": dr.Affine.translation(x=1)}, {"init": threads}):
        with pytest.raises(errors.LayoutMismatchError, match="of another estimate"):
            dr.register(*some, **{**options, **other}, client=False, checkpoint=file)


@pytest.mark.slow
def test_a_checkpoint_is_not_of_voxels_that_were_written_again(small: pytest.MonkeyPatch, tmp_path: Path) -> None:
    both = pair_of(SHAPE)
    some, file = stored(tmp_path, both, ((40, 50), (61, 47))), tmp_path / "fit.jsonl"
    options: dict[str, Any] = {"model": "bspline", "spacing": SPACING, "resolution": "full", "checkpoint": file}
    assert dr.register(*some, **options, client=False).ok
    lines = file.read_bytes()
    again = [dr.open(tmp_path / f"{k}.zarr") for k in range(2)]
    assert dr.register(*again, **options, client=False).ok
    assert file.read_bytes() == lines
    zarr.open_array(str(tmp_path / "1.zarr"), mode="r+")[:60, :40] = both[0][:60, :40]
    for images_now in (some, [dr.open(tmp_path / f"{k}.zarr") for k in range(2)]):
        with pytest.raises(errors.LayoutMismatchError, match=r"fit\.jsonl is of other images"):
            dr.register(*images_now, **options, client=False)
    assert file.read_bytes() == lines


def _counted(items: Any, asked: list[int]) -> Any:
    for item in items:
        asked.append(item.number)
        yield item


@pytest.mark.slow
@pytest.mark.parametrize("model", ["affine", "bspline"])
def test_the_data_are_read_at_most_three_times(small: pytest.MonkeyPatch, tmp_path: Path, model: str) -> None:
    """Chunks are counted where they are decoded, after the coarse start."""
    shape, chunk = (601, 577) if model == "affine" else (401, 389), 24
    limit(small, voxels=1 << 15, block=150_000, slab=60_000)
    some = stored(tmp_path, pair_of(shape, most=0.0 if model == "affine" else 4.0), ((chunk, chunk),) * 2)
    decoded: dict[str, int] = {}
    stage = ["start"]
    read, run = StoredSource._read_or_fill, work.Work.each

    def reading(source: StoredSource, box: Box, out: Any) -> Any:
        chunks = box.align(source.chunks)
        decoded[stage[0]] = decoded.get(stage[0], 0) + chunks.size // chunk**2
        return read(source, box, out)

    def running(one: work.Work, *args: Any, **options: Any) -> Any:
        stage[0] = options["label"]
        return run(one, *args, **options)

    small.setattr(StoredSource, "_read_or_fill", reading)
    small.setattr(work.Work, "each", running)
    fit = dr.register(*some, model=model, resolution="full", client=False)
    assert fit.ok
    assert fit.resolution == "full"
    stored_chunks = 2 * np.prod([-(-n // chunk) for n in shape])
    in_passes = sum(count for label, count in decoded.items() if label.startswith("pass"))
    assert 1.9 * stored_chunks < in_passes <= 3 * stored_chunks


def test_unrelated_images_cost_no_pass(small: pytest.MonkeyPatch) -> None:
    noise = [np.random.default_rng(k).normal(size=SHAPE) for k in range(2)]
    labels: list[str] = []
    run = work.Work.each
    small.setattr(work.Work, "each", lambda self, *a, **k: (labels.append(k["label"]), run(self, *a, **k))[1])
    fit = dr.register(*(lazy(n, (70, 80)) for n in noise), model="bspline", spacing=60, resolution="full")
    assert fit.status in (FitStatus.CHANCE, FitStatus.NO_IMPROVEMENT)
    assert fit.resolution == "coarse"
    assert labels == ["coarse fixed", "coarse moving"]


def test_what_blocks_cannot_do_is_refused(small: pytest.MonkeyPatch) -> None:
    some = [lazy(np.random.default_rng(k).normal(size=SHAPE), (90, 90)) for k in range(2)]
    small.setattr(work.Work, "each", lambda *a, **k: pytest.fail("nothing is read"))
    for options in (
        {"metric": "mi"},
        {"optimizer": "adam"},
        {"check_inverse": True},
    ):
        with pytest.raises(errors.OptionError):
            dr.register(*some, model="bspline", resolution="full", **options)


@pytest.mark.slow
def test_a_strong_motion_is_that_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The motion is larger than the structures, so that steps end in many layers at first."""
    limit(monkeypatch, voxels=1 << 16, block=800_000, slab=200_000)
    shape, rng = (600, 701), np.random.default_rng(2)
    moving = gaussian_filter(rng.normal(size=shape), 4)
    points = np.moveaxis(np.indices(shape), 0, -1).astype(float)
    moved = bent(points, [n / 4 for n in shape], 12.0)
    fixed = map_coordinates(moving, np.moveaxis(moved, -1, 0), order=3, mode="mirror")
    both = [(x + 0.1 * moving.std() * rng.normal(size=shape)).astype(np.float32) for x in (fixed, moving)]
    whole = in_memory(monkeypatch, *both, spacing=40, metric="ncc")
    some = lazy(both[0], (100, 701)), lazy(both[1], (701, 100))
    fit = dr.register(*some, model="bspline", spacing=40, metric="ncc", resolution="full")
    assert fit.status is whole.status is FitStatus.CONVERGED, repr(fit)
    inside, there = inner(shape, 20), bent(inner(shape, 20), [n / 4 for n in shape], 12.0)
    inside = inside[np.all((there >= 0) & (there <= np.array(shape) - 1), axis=1)]
    assert apart(fit, whole, inside) < 0.05
