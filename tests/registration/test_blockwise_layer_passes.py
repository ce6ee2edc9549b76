"""The steps of layers between images read in blocks: which are kept, and which blocks take part in a pass."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from typing import Any

import dask.array as da
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import shift
from skimage import data

from daskreg.geometry import Affine, Grid
from daskreg.registration.blockwise import layer_passes
from daskreg.registration.blockwise.inputs import lazy_images
from daskreg.registration.blockwise.layer_noise import LayerNoise, LayerNoiseTask, noise_of_layers
from daskreg.registration.blockwise.layer_pair import LayerPair
from daskreg.registration.blockwise.layer_passes import LayerPass, LayerPasses
from daskreg.registration.blockwise.layers import _MOST_PASSES, _Solver
from daskreg.registration.blockwise.pair import LazyPair
from daskreg.registration.blockwise.work import Work
from daskreg.registration.deformable.cell_sums import Residuals, cell_sums
from daskreg.registration.deformable.level_images import LevelImages, Match
from daskreg.registration.deformable.noise_model import noise_model
from daskreg.registration.deformable.splines.control_grid import control_grids
from daskreg.registration.deformable.splines.layers import Layers
from daskreg.registration.pyramids.pyramid import ImageBatch, PyramidLevel
from daskreg.volumes import to_dataarray

Floats = NDArray[np.float64]
SIGMAS = (1.0, 1.0), (1.0, 1.0)


def images(most: float) -> tuple[Floats, Floats]:
    """A part of a photograph, and the same displaced by so many pixels."""
    whole = np.asarray(data.camera()[100:197, 150:263], float) / 50
    return whole, shift(whole, (most, -most / 2), order=3, mode="nearest")


class InMemory:
    """`LayerPasses` of two arrays, which say of some passes that the mean square is greater than it is."""

    def __init__(self, fixed: Floats, moving: Floats, raised: Callable[[int], bool] = lambda number: False) -> None:
        grid = Grid(fixed.shape)
        batches = [ImageBatch(torch.from_numpy(x.astype(np.float32))[None], None, grid) for x in (fixed, moving)]
        self.images = LevelImages.of(PyramidLevel(*batches, 1.0), "ncc")
        self.raised, self.count = raised, 0
        self.seen: list[Layers] = []
        self.told: list[float] = []

    def run(self, layers: Layers, match: Match, around: None, *, with_square: bool, base: Layers | None) -> LayerPass:
        del match, base
        found = self.images.evaluate(layers.transform)
        sums = cell_sums(
            Residuals(self.images.gradient, found.residual, found.weight), layers.control, self.images.fixed_grid,
            self.images.fixed_grid.box, coefficients=layers.current if np.any(layers.current) else None,
            with_square=with_square,
        )  # fmt: skip
        square = found.mean_square * (100 if self.raised(self.count) else 1)
        self.count += 1
        self.seen.append(layers)
        self.told.append(square)
        match = Match(found.gain, 0.0, found.correlation)
        return LayerPass(
            match, around, None, found.total, square, square, sums.linear, sums.square if with_square else None, None
        )

    def noise(self, layers: Layers, match: Match, around: None) -> LayerNoise:
        del match, around
        model = noise_model(self.images, self.images.evaluate(layers.transform))
        return LayerNoise(0, model.correlated, model.shared)


def solved(passes: InMemory, *, tolerance: float = 0.01) -> _Solver:
    grid = passes.images.fixed_grid
    layers = Layers.start(Affine.identity(2), control_grids(grid, (14.0, 14.0))[-1])
    first = passes.run(layers, Match(1, 0, 1), None, with_square=True, base=None)
    solver = _Solver(passes, layers, first, 1e-3)  # type: ignore[arg-type]
    solver.solve(tolerance)
    return solver


def as_evaluated(solver: _Solver, passes: InMemory, number: int) -> None:
    """What the solver holds is what one pass found, at its place."""
    seen = passes.seen[number]
    assert len(solver.layers.finished) == len(seen.finished)
    np.testing.assert_array_equal(solver.layers.current, seen.current)
    assert solver.found.mean_square == solver.noise.variance == solver.costs[-1] == passes.told[number]


def test_steps_end_where_little_is_left_to_move() -> None:
    fixed, moving = images(1.2)
    solver = solved(passes := InMemory(fixed, moving))
    assert solver.converged
    assert passes.count < _MOST_PASSES
    assert solver.costs == sorted(solver.costs, reverse=True)
    at = np.array([[40.0, 50.0], [60.0, 30.0]])
    np.testing.assert_allclose(solver.layers.transform(at) - at, [[1.2, -0.6]] * 2, atol=0.1)


@pytest.mark.parametrize("kept", [0, 1])
def test_steps_that_only_raise_the_cost_are_undone(kept: int) -> None:
    fixed, moving = images(1.2)
    solver = solved(passes := InMemory(fixed, moving, lambda number: number > kept), tolerance=1e-9)
    assert not solver.converged
    assert passes.count == _MOST_PASSES
    as_evaluated(solver, passes, kept)
    assert solver.costs == [*passes.told[: kept + 1], *[passes.told[kept]] * (_MOST_PASSES - kept - 1)]
    tried = [np.abs(one.current - passes.seen[kept].current).max() for one in passes.seen[kept + 1 :]]
    np.testing.assert_allclose(np.divide(tried[:-1], tried[1:]), 2)


def test_a_step_that_is_halved_once_is_gone_on_from() -> None:
    fixed, moving = images(1.2)
    solver = solved(passes := InMemory(fixed, moving, lambda number: number == 1), tolerance=0.05)
    assert solver.converged
    np.testing.assert_allclose(passes.seen[2].current, passes.seen[1].current / 2)
    at = np.array([[40.0, 50.0]])
    np.testing.assert_allclose(solver.layers.transform(at) - at, [[1.2, -0.6]], atol=0.1)


def test_a_rise_right_after_a_layer_was_finished_is_undone() -> None:
    """The motion is greater than one layer may show."""
    fixed, moving = images(7.0)
    unhindered = InMemory(fixed, moving)
    solved(unhindered)
    first = next(k for k, one in enumerate(unhindered.seen) if one.finished)
    passes = InMemory(fixed, moving, lambda number: number == first)
    solved(passes)
    (_, end), before = passes.seen[first].finished[-1], passes.seen[first - 1].current
    assert not passes.seen[first + 1].finished
    np.testing.assert_allclose(passes.seen[first + 1].current, (before + end) / 2)
    hopeless = InMemory(fixed, moving, lambda number: number >= first)
    as_evaluated(solved(hopeless), hopeless, first - 1)


class Recording(Work):
    """Local threads; `asked` has the tasks."""

    asked: Sequence[Any] = ()

    def each(self, name: str, function: Any, tasks: Sequence[Any], **options: Any) -> Any:
        self.asked = tasks
        return super().each(name, function, tasks, **options)


def passes_of(fixed: Any, moving: Any, patch: pytest.MonkeyPatch, *, matched: bool = True) -> LayerPasses:
    patch.setattr(layer_passes, "BLOCK_BYTES", 1 << 14)
    f, m = lazy_images(fixed, moving, masks=(None, None), channel=None)
    return LayerPasses(LazyPair(f, m, 1.0), SIGMAS, Recording(None), matched, f.grid.box)


def layers_of(shape: tuple[int, ...], base: Affine) -> Layers:
    control = control_grids(Grid(shape), (14.0, 14.0))[-1]
    return Layers.start(base, control).at(np.random.default_rng(0).uniform(-1, 1, (2, *control.shape)))


def test_every_pass_has_the_gain_and_the_offset_of_all_voxels(monkeypatch: pytest.MonkeyPatch) -> None:
    fixed, moving = images(1.2)
    passes = passes_of(to_dataarray(da.from_array(fixed, chunks=32), Grid(fixed.shape)), 3 * moving - 1, monkeypatch)
    layers = layers_of(fixed.shape, Affine.identity(2))
    passes.divide(layers)
    assert len(passes.blocks) > 1
    right = passes.run(layers, Match(1.0, 0.0, 1.0), None, with_square=False, base=None)
    exact = passes.run(layers, right.match, None, with_square=False, base=None)
    wrong = passes.run(layers, Match(0.7, 5.0, 1.0), None, with_square=False, base=None)
    assert exact.match == wrong.match
    for one in (right, wrong):
        np.testing.assert_allclose(one.linear, exact.linear, atol=1e-4 * np.abs(exact.linear).max())


@pytest.mark.parametrize("chunked", [False, True])
def test_blocks_without_overlap_are_not_sent(monkeypatch: pytest.MonkeyPatch, *, chunked: bool) -> None:
    fixed, moving = (np.round(100 * x).astype(np.uint16) for x in images(1.2))
    pair = [to_dataarray(da.from_array(x, chunks=32), Grid(x.shape)) if chunked else x for x in (fixed, moving)]
    passes = passes_of(*pair, monkeypatch)
    near, far = (layers_of(fixed.shape, Affine.translation(y=0.3, x=x)) for x in (70.0, 500.0))
    passes.divide(near)
    sums = passes.run(near, Match(1.0, 0.0, 1.0), None, with_square=True, base=None)
    tasks = passes.work.asked  # type: ignore[attr-defined]
    assert 0 < len(tasks) < len(passes.blocks)
    covered = LevelImages.of(
        PyramidLevel(*(ImageBatch(torch.from_numpy(x.astype(np.float32))[None], None, Grid(x.shape))
                       for x in (fixed, moving)), 1.0), "ncc",
    ).evaluate(near.transform, order=3)  # fmt: skip
    assert sums.total == pytest.approx(covered.total, rel=1e-3)
    nothing = passes.run(far, Match(1.0, 0.0, 1.0), None, with_square=True, base=None)
    assert not np.any(nothing.linear)
    assert nothing.square is not None
    assert not np.any(nothing.square)
    task = LayerNoiseTask(
        LayerPair.of(passes.pair, [far.transform], matched=True), passes.informative, SIGMAS, None, None
    )
    small = task.carrying_little()
    assert len(pickle.dumps(small.pair.pair.moving)) < moving.nbytes / 2 or chunked
    assert noise_of_layers(small) == LayerNoise(0)


def test_maps_without_a_field_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    passes = passes_of(*images(1.0), monkeypatch)
    field = layers_of((97, 113), Affine.identity(2)).transform
    with pytest.raises(TypeError, match="displacement field"):
        LayerPair.of(passes.pair, [field, Affine.identity(2)], matched=True)
