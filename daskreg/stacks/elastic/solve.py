"""Gauss-Newton for the current layer of all slices on one level, with a prior whose weight is estimated.

The coefficients c of all slices minimise

    sum over pairs of precision sum v r^2 / 2  +  weight sum over slices of (c + before)^T K (c + before) / 2.

Pairs leave a field open that all slices have in common. The prior closes it: it is least where the mean over the slices
is zero, if no slice is kept. Precision and weight are estimated as for a pair (see `deformable.solve_level`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from daskreg.registration.deformable.noise_model import NoiseModel
from daskreg.registration.deformable.splines.bending import BendingEnergy, next_weight, weight_of_deviation
from daskreg.stacks.elastic.joint_system import JointSystem
from daskreg.stacks.elastic.layers import StackLayers
from daskreg.stacks.elastic.pair_terms import PairTerms, local_agreement, pair_terms
from daskreg.stacks.elastic.robust import upsampled
from daskreg.stacks.elastic.slice_images import SliceImages, WarpedSlice

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
Bools = NDArray[np.bool_]

# As in `deformable.solve_level`: halvings of a step, and the tolerance of the linear system.
_HALVINGS = 4
# The share of the force along a step that may be left at its end, the other way round.
_TURNED = 0.5
_TOLERANCE = 0.05
# A step is the last that gains no more likelihood than if all determined coefficients had moved by this many of their
# standard deviations, once the weight of the prior changes by less than a factor of e to the power of `_SETTLED`.
_FEW_SIGMAS, _SETTLED = 0.2, 0.5
# So many short steps, one after the other, are the last, whatever the weight does: it goes up and down where there is
# hardly any noise.
_SHORT = 3
# The share of a step that the next takes back, from which on half as much of steps is made, until one takes back less:
# where coefficients come to their limits and leave them, steps would go back and forth.
_BACK = 0.2
# The change of the coefficients, in distances of control points, from which on J^T J is summed again.
_RENEW = 0.15


@dataclass(frozen=True)
class Pairs:
    """edges: (E, 2) slices, by the second and then the first. robust: (E, *blocks) weights, or None. free: (N,) slices
    whose field is estimated."""

    edges: Ints
    robust: Floats | None
    free: Bools

    @property
    def independent(self) -> float:
        """The share of the pairs whose residuals are independent: each slice brings its own noise once."""
        used = len(set(self.edges.ravel().tolist()))
        return min(1.0, (used - 1) / max(len(self.edges), 1))

    def affine(self, ndim: int) -> int:
        """How many affine motions pairs can determine: one slice is that to which the others move."""
        used = set(self.edges.ravel().tolist())
        moving = sum(bool(self.free[i]) for i in used)
        return max(0, moving if moving < len(used) else moving - 1) * ndim * (ndim + 1)


@dataclass
class StackState:
    """Where the solver is.

    weight: of the prior. terms: of the pairs at these layers. noise: of the pairs. system: of the last step.
    determined: how many coefficients the images determine. least: world length of the last steps; no
    displacement is known better. costs: mean squares of the residuals of all pairs. converged: whether
    what another step would move or gain is small.
    """

    layers: StackLayers
    weight: float
    terms: list[PairTerms]
    noise: list[NoiseModel]
    system: JointSystem | None
    determined: float
    iterations: int
    costs: list[float]
    least: float
    converged: bool = False


def warped_pairs(
    images: SliceImages, layers: StackLayers, edges: Ints, *, order: int
) -> Iterator[tuple[WarpedSlice, WarpedSlice]]:
    """Both slices of each pair, of which only those are kept that the next pairs need."""
    kept: OrderedDict[int, WarpedSlice] = OrderedDict()
    most = int(np.abs(np.diff(edges, axis=1)).max()) + 2 if len(edges) else 1
    for edge in edges.tolist():
        for number in edge:
            if number not in kept:
                kept[number] = images.warp(number, layers.of_slice(number), order=order)
            kept.move_to_end(number)
        while len(kept) > most:
            kept.popitem(last=False)
        yield kept[edge[0]], kept[edge[1]]


def agreements(images: SliceImages, layers: StackLayers, edges: Ints, blocks: tuple[int, ...], *, order: int) -> Floats:
    """(E, *blocks) local correlations of the pairs."""
    pairs = warped_pairs(images, layers, edges, order=order)
    return np.stack([local_agreement(a, b, blocks) for a, b in pairs])


def solve_stack(
    images: SliceImages,
    layers: StackLayers,
    pairs: Pairs,
    weight: float,
    *,
    matched: bool,
    tolerance: float,
    max_iterations: int,
    order: int = 1,
    most_layers: int = 16,
) -> StackState:
    """Minimise from the current layer on.

    Args:
        weight: of the prior, 0 where it is not known. matched: whether contrasts are made equal.
        tolerance: voxels of the level; the steps of all coefficients have a smaller root mean square at the end.
        order: of the interpolation. most_layers: that are finished for the limits.
    """
    problem = _Problem(images, pairs, matched, order)
    terms = problem.terms(layers, with_square=True)
    state = StackState(
        layers, weight, terms, _noise(terms, []), None, 0.0, 0, [_mean_square(terms)], tolerance * images.step
    )
    bending = BendingEnergy(layers.control)
    probe = np.where(np.random.default_rng(0).random(layers.current.shape) < 0.5, -1.0, 1.0)
    at, squares, solution = layers.current, [t.square for t in terms], None
    last, share, failed, short = np.zeros_like(probe), 1.0, False, 0
    for _ in range(max_iterations):
        before = state.weight
        state.system, solution = _weighed(state, pairs, squares, bending, probe, start=solution)
        settled = before > 0 and abs(np.log(state.weight / before)) < _SETTLED
        right = _right(pairs, state.terms, state, state.layers, bending)
        # Coefficients beside the image stay at their limits, and the others must not follow as if these moved on.
        step = state.system.solve(right, held=state.layers.held(right), tolerance=_TOLERANCE)
        share = share / 2 if _goes_back(step, last) else min(1.0, 2 * share)
        step = last = share * step
        far = np.abs(state.layers.current + step - at).max(axis=(0, *range(2, at.ndim)))
        renew = bool(np.any(far > _RENEW * np.asarray(layers.control.spacing)))
        finishes = len(state.layers.finished) < most_layers
        move = _advance(problem, state, step, bending, with_square=renew, finishes=finishes)
        state.iterations += 1
        state.costs.append(_mean_square(state.terms))
        state.noise = _noise(state.terms, state.noise)
        # Of the whole step: a part of it is small, however large the next ones may be.
        short = short + 1 if move.length < share * tolerance * images.step else 0
        small = settled and (short > 0 or move.gained < share * _FEW_SIGMAS**2 * state.determined)
        small = small or short >= _SHORT
        begins = move.limited and finishes
        if begins:
            state.layers, last, share = state.layers.finish(), np.zeros_like(probe), 1.0
        elif small if move.made else failed:
            state.converged = small and not move.limited
            break
        failed = not move.made
        if begins or failed:
            # Another layer has another J. A step may fail because J^T J is that of other coefficients.
            state.terms = problem.terms(state.layers, with_square=True)
            state.noise = _noise(state.terms, state.noise)
        if begins or failed or renew:
            at, squares = state.layers.current, [t.square for t in state.terms]
    return state


@dataclass(frozen=True)
class _Move:
    """length: root mean square by which coefficients move. gained: by how much twice the cost falls. limited: whether a
    limit was met. made: whether it was; else length and gained are those of the step that was to be made."""

    length: float
    gained: float
    limited: bool
    made: bool = True


@dataclass(frozen=True)
class _Problem:
    images: SliceImages
    pairs: Pairs
    matched: bool
    order: int

    def terms(self, layers: StackLayers, *, with_square: bool) -> list[PairTerms]:
        found = []
        shape = self.images.grid.shape
        for k, (a, b) in enumerate(warped_pairs(self.images, layers, self.pairs.edges, order=self.order)):
            found.append(
                pair_terms(
                    a,
                    b,
                    None if self.pairs.robust is None else upsampled(self.pairs.robust[k], shape),
                    layers.control,
                    self.images.grid,
                    coefficients=layers.current[self.pairs.edges[k]].mean(0),
                    matched=self.matched,
                    with_square=with_square,
                )
            )
        return found


def _noise(terms: list[PairTerms], before: list[NoiseModel]) -> list[NoiseModel]:
    """Of each pair; correlation and share are kept where they were not estimated again."""
    found = []
    for k, term in enumerate(terms):
        noise = term.noise
        found.append(noise if noise is not None else replace(before[k], variance=max(term.mean_square, 1e-12)))
    return found


def _mean_square(terms: list[PairTerms]) -> float:
    return sum(t.total * t.mean_square for t in terms) / max(sum(t.total for t in terms), 1e-9)


def _weighed(
    state: StackState,
    pairs: Pairs,
    squares: list[NDArray[np.float32]],
    bending: BendingEnergy,
    probe: Floats,
    *,
    start: Floats | None,
) -> tuple[JointSystem, Floats]:
    """The system of the next step, with a new weight of the prior, and the solution for the probe.

    Args:
        start: a guess of that solution.
    """
    information = pairs.independent * np.array([noise.information for noise in state.noise])
    system = JointSystem(pairs.edges, squares, information, bending, max(state.weight, 0.0), pairs.free)
    stiffness = float(bending.diagonal.mean())
    if not state.weight > 0:
        # Fields as large as a layer may be. A small start would take what is not aligned yet for noise.
        state.weight = weight_of_deviation(float(state.layers.control.limits.max()), stiffness)
    system = replace(system, weight=state.weight)
    determined, solution = system.effective_parameters(probe, start=start)
    state.determined = max(determined, 1.0)
    total = state.layers.total
    energy = float(np.vdot(total, bending(total)))
    state.weight = next_weight(
        state.weight,
        determined=determined,
        energy=energy,
        affine=pairs.affine(bending.control.ndim),
        most=weight_of_deviation(state.least, stiffness),
    )
    return replace(system, weight=state.weight), solution


def _advance(
    problem: _Problem, state: StackState, step: Floats, bending: BendingEnergy, *, with_square: bool, finishes: bool
) -> _Move:
    """Make a step, shortened where it would go too far; not at all, where it would even if short.

    Mean gradients make no force that all slices share, while the sum of squares alone would be lowered by a common
    motion that shrinks the places where slices differ. So the step is judged by the force along it, which must not turn
    round, and not by that sum.

    Args:
        finishes: whether the layer is finished where a limit is met; J^T J of it is not summed then.
    """
    layers, part = state.layers, step
    limits = layers.limits
    now = promised = float(np.vdot(_right(problem.pairs, state.terms, state, layers, bending), step))
    for _ in range(_HALVINGS):
        free = layers.current + part
        kept = np.clip(free, -limits, limits)
        moved, limited = layers.at(kept), bool(np.any((kept != free)[layers.control.inner]))
        terms = problem.terms(moved, with_square=with_square and not (limited and finishes))
        after = float(np.vdot(_right(problem.pairs, terms, state, moved, bending), part))
        if after >= -_TURNED * now:
            state.layers, state.terms = moved, terms
            return _Move(layers.control.length(kept - layers.current), now + after, limited)
        part, now = part / 2, now / 2
    return _Move(layers.control.length(step), promised, limited=False, made=False)


def _goes_back(step: Floats, last: Floats) -> bool:
    """Whether a step takes back much of the one before."""
    return float(np.vdot(step, last)) < -_BACK * float(np.vdot(last, last))


def _right(
    pairs: Pairs, terms: list[PairTerms], state: StackState, layers: StackLayers, bending: BendingEnergy
) -> Floats:
    """(N, D, *nodes) the right side of a step: the force of the pairs and of the prior, with the noise of the state."""
    right = -state.weight * bending(layers.total)
    for (i, j), term, noise in zip(pairs.edges.tolist(), terms, state.noise, strict=True):
        part = pairs.independent * noise.precision * term.linear
        right[i] -= part
        right[j] += part
    return np.where(pairs.free.reshape(-1, *[1] * (right.ndim - 1)), right, 0.0)
