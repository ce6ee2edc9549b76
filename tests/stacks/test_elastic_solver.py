"""Steps of the solver for the fields of a stack, on slices that are shifted against each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from daskreg.geometry import Affine, Grid
from daskreg.registration.deformable.splines.control_grid import control_grids
from daskreg.stacks.elastic import solve
from daskreg.stacks.elastic.layers import StackLayers
from daskreg.stacks.elastic.slice_images import SliceImages

Floats = NDArray[np.float64]
GRID = Grid((64, 64))
PAIRS = solve.Pairs(np.array([(0, 1), (0, 2), (1, 2)]), None, np.ones(3, bool))


def slices(*shifts: int, noise: float = 0.05) -> SliceImages:
    """The same texture, shifted by so many pixels."""
    rng = np.random.default_rng(0)
    texture = gaussian_filter(rng.normal(size=GRID.shape), 2, mode="wrap")
    rolled = np.stack([np.roll(texture / texture.std(), shift, 1) for shift in shifts])
    return SliceImages((rolled + noise * rng.normal(size=rolled.shape)).astype(np.float32), GRID, 1.0)


def start(spacing: float = 8.0) -> StackLayers:
    return StackLayers.start((Affine.identity(2),) * 3, control_grids(GRID, (spacing, spacing))[-1])


def solved(images: SliceImages, layers: StackLayers, max_iterations: int = 30) -> solve.StackState:
    return solve.solve_stack(images, layers, PAIRS, 0.0, matched=True, tolerance=0.01, max_iterations=max_iterations)


def let_steps_fail(monkeypatch: pytest.MonkeyPatch, fails: Callable[[int], bool]) -> None:
    """At the end of each trial of these steps, by number, the force along them has turned round."""
    right = solve._right

    def turned(pairs: Any, terms: Any, state: Any, layers: Any, bending: Any) -> Floats:
        if layers is state.layers or not fails(state.iterations):
            return right(pairs, terms, state, layers, bending)
        return -right(pairs, state.terms, state, state.layers, bending)

    monkeypatch.setattr(solve, "_right", turned)


def test_steps_end_where_they_are_small_or_there_are_no_more() -> None:
    images = slices(0, 1, 2)
    assert solved(images, start()).converged
    assert not solved(images, start(), max_iterations=1).converged


def test_steps_end_where_there_is_no_noise() -> None:
    """The weight of the prior goes up and down there."""
    state = solved(slices(0, 1, 2, noise=0), start())
    assert state.converged
    assert state.iterations < 15


def test_steps_that_fail_do_not_converge(monkeypatch) -> None:
    images = slices(0, 1, 2)
    best = solved(images, start())
    let_steps_fail(monkeypatch, lambda number: True)
    stuck = solved(images, start())
    assert (stuck.converged, stuck.iterations) == (False, 2)
    assert not np.any(stuck.layers.current)
    again = solve.solve_stack(images, best.layers, PAIRS, best.weight, matched=True, tolerance=0.05, max_iterations=30)
    assert (again.converged, again.iterations) == (True, 2), "they were small"


def test_after_a_step_that_fails_there_are_others(monkeypatch) -> None:
    """The one before was made without J^T J, which this one would have summed again."""

    def fails(number: int) -> bool:
        monkeypatch.setattr(solve, "_RENEW", 0.0 if number == 0 else np.inf)  # for the next step
        return number == 1

    monkeypatch.setattr(solve, "_RENEW", np.inf)
    let_steps_fail(monkeypatch, fails)
    state = solved(slices(0, 1, 2), start())
    assert state.converged
    assert state.iterations > 2
    assert min(term.correlation for term in state.terms) > 0.95


def test_steps_of_another_layer_are_those_of_its_own_coefficients(monkeypatch) -> None:
    images, begun = slices(0, 3, 6), []
    problem, weighed = solve._Problem(images, PAIRS, True, 1), solve._weighed

    def checked(state: Any, pairs: Any, squares: Any, *args: Any, **options: Any) -> Any:
        if state.layers.finished and not np.any(state.layers.current):
            begun.append(len(state.layers.finished))
            for square, term, own in zip(
                squares, state.terms, problem.terms(state.layers, with_square=True), strict=True
            ):
                np.testing.assert_allclose(square, own.square, rtol=1e-4, atol=1e-4 * np.abs(own.square).max())
                np.testing.assert_allclose(term.linear, own.linear, rtol=1e-4, atol=1e-4 * np.abs(own.linear).max())
        return weighed(state, pairs, squares, *args, **options)

    monkeypatch.setattr(solve, "_weighed", checked)
    assert solved(images, start(6.0)).converged
    assert begun


def test_others_do_not_follow_coefficients_that_stay_at_their_limits() -> None:
    layers = start(16.0)
    outer = np.ones(layers.current.shape, bool)
    outer[layers.control.inner] = False
    layers = layers.at(np.where(outer, layers.limits, 0.0))
    outward = np.random.default_rng(0).uniform(0.5, 1, layers.current.shape)
    held = layers.held(outward)
    np.testing.assert_array_equal(held, outer)
    assert not layers.held(-outward).any()
    system = solved(slices(0, 1, 2), start(16.0)).system
    assert system is not None
    step = system.solve(outward, held=held, tolerance=1e-6)
    assert not np.any(step[held])
    np.testing.assert_allclose(system(step)[~held], outward[~held], atol=1e-2)
