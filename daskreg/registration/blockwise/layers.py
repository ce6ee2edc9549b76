"""Layers of B-splines between all voxels of a pair that is larger than memory, from those of the coarse images on.

J^T J and J^T r are sums over voxels, and a voxel counts for the control points of its own cell only. So a pass over the
blocks gives the equations of a Gauss-Newton step of all voxels, which are solved as those of a level in memory are. The
coarse images leave little to do: a pass gives J^T J and J^T r, the next one J^T r alone, and so on, until what is still
to move is less than the tolerance, or gains no more than noise. It follows from how much shorter steps become, so that
no pass only confirms the last step. With "lncc", a pass also sums what the windows of the next one follow from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from daskreg.geometry import Box, Transform
from daskreg.registration.blockwise.layer_match import LayerMatch
from daskreg.registration.blockwise.layer_passes import LayerPass, LayerPasses, Sigmas
from daskreg.registration.blockwise.noise import smoothed_by
from daskreg.registration.blockwise.pair import LazyPair
from daskreg.registration.blockwise.work import Work
from daskreg.registration.deformable.cell_sums import Singles
from daskreg.registration.deformable.coarse_to_fine import ENOUGH_SIGMAS, SETTLED_SIGMAS
from daskreg.registration.deformable.estimate import LayerEstimate
from daskreg.registration.deformable.level_images import Match
from daskreg.registration.deformable.noise_model import NoiseModel
from daskreg.registration.deformable.solve_level import RENEW
from daskreg.registration.deformable.splines.bending import BendingEnergy, next_weight
from daskreg.registration.deformable.splines.control_grid import ControlGrid
from daskreg.registration.deformable.splines.layers import Layers
from daskreg.registration.deformable.splines.one_layer import next_start
from daskreg.registration.deformable.system import System
from daskreg.registration.normal_equations.edge_weights import axis_weights

Floats = NDArray[np.float64]

# Passes where these are not enough.
_MOST_PASSES = 8
# Solutions of the equations of a pass, each with the prior that follows from the one before.
_ROUNDS, _SETTLED = 6, 0.03
_TOLERANCE = 0.01
# By which share a step may raise the cost.
_RISE = 1e-3
# The share by which the misfit still falls where noise is brought nearer to noise; a pass costs more than a step in
# memory.
_SETTLED_MISFIT = 0.005
# The share of a step that is still to move after the first one, as far as it is known.
_FIRST_SHARE = 0.5


def estimate_layers_of_all_voxels(
    pair: LazyPair,
    coarse: LayerEstimate,
    base: Transform,
    work: Work,
    *,
    grids: Sequence[ControlGrid],
    sigmas: Sigmas,
    covered: float,
    matched: bool,
    around: LayerMatch | None,
    informative: Box,
    tolerance: float,
) -> LayerEstimate:
    """Go on from the estimate of the coarse images.

    Args:
        pair: not smoothed yet. coarse: may be `without_voxels`, and so is what is returned.
        base: what the layers begin from. sigmas: of the Gaussians. covered: `share_of_weight` of the coarse image.
        grids: of control points, from coarse to fine, among them that of the coarse estimate.
        matched, informative: see `LayerPasses`.
        around: gain and offset around each voxel of the coarse images, for "lncc".
        tolerance: voxels; what is still to move has a smaller root mean square at the end.
    """
    state = coarse.state
    layers = next_start(state.layers, coarse.images.step)  # as between the levels of a pyramid in memory
    for finer in grids[grids.index(layers.control) + 1 :]:
        layers = layers.refined(finer)
    passes = LayerPasses(smoothed_by(pair, sigmas, 1.0), sigmas, work, matched, informative)
    start = passes.noise(layers, None, around)
    if start.factor > 1:
        passes = replace(passes, pair=smoothed_by(pair, sigmas, start.factor))
        start = passes.noise(layers, None, around)
    passes.divide(layers)
    match = Match(start.gain, start.offset, state.found.correlation)
    # The gains around each voxel are not those of the base.
    other = None if around is not None else Layers.start(base, grids[-1])
    found = passes.run(layers, match, around, with_square=True, base=other)
    solver = _Solver(passes, layers, found, state.weight)
    solver.solve(tolerance * pair.step)
    before, found = found.before or coarse.before, solver.found
    return replace(
        coarse,
        state=replace(
            state,
            layers=solver.layers,
            weight=solver.weight,
            found=replace(
                state.found, mean_square=found.mean_square, total=found.total, correlation=found.match.correlation,
                gain=found.match.gain,
            ),
            noise=solver.noise,
            system=solver.system,
            determined=solver.determined,
            iterations=passes.count,
            converged=solver.converged,
            costs=solver.costs,
        ),
        before=before,
        overlap=min(1.0, found.total / max(covered * _whole_weight(pair.shape), 1e-9)),
        iterations=coarse.iterations + passes.count,
        converged=solver.converged,
        determined={**coarse.determined, pair.step: solver.determined},
    )  # fmt: skip


def share_of_weight(weight: Singles) -> float:
    """The weight of a fixed image in relation to that of one without masks, which is that of the edges."""
    return float(weight.sum(dtype=np.float64)) / _whole_weight(weight.shape)


def without_voxels(found: LayerEstimate) -> LayerEstimate:
    """The estimate without images, residuals and normal equations, which take much memory."""
    none = np.zeros((0,) * found.images.fixed.ndim, np.float32)
    images = replace(found.images, fixed=none, weight=none, gradient=none, moving=none)
    evaluated = replace(found.state.found, warped=none, residual=none, weight=none, local=None)
    return replace(found, images=images, state=replace(found.state, found=evaluated, system=None))


def _whole_weight(shape: Sequence[int]) -> float:
    return math.prod(float(axis_weights(n, torch.device("cpu")).sum()) for n in shape)


class _Solver:
    """Gauss-Newton with one pass for each step; see `deformable.solve_level` for a level in memory.

    layers, found: the last place that was no worse than the one before it, and its pass; the noise, the system, the
    weight of the prior and the number of determined coefficients are those of the step from there. Only a step after
    which less than the tolerance is left to move is made without a pass that judges it.
    """

    noise: NoiseModel
    system: System
    right: Floats
    gain: float

    def __init__(self, passes: LayerPasses, layers: Layers, found: LayerPass, weight: float) -> None:
        self.passes, self.layers, self.found, self.weight = passes, layers, found, weight
        self.bending = BendingEnergy(layers.control)
        shape = layers.current.shape
        self.probe = np.where(np.random.default_rng(0).random(shape) < 0.5, -1.0, 1.0)
        self.determined, self.converged = 0.0, False
        self.costs = [found.misfit]
        self._known: _Square | None = None
        self._guess: Floats | None = None

    def solve(self, tolerance: float) -> None:
        """Make steps and passes until less is left to move than the tolerance, world units."""
        step, limited = self._next_step()
        lengths = self._lengths([], step, limited=limited)
        while not self._ends(lengths, tolerance) and self.passes.count < _MOST_PASSES:
            layers = self.layers.at(self.layers.current + step)
            layers = layers.finish() if limited else layers
            around = self.found.next
            known = self._known is not None and self._known.serves(layers, around)
            found = self.passes.run(layers, self.found.match, around, with_square=not known, base=None)
            before, after = _comparable(self.found, found)
            if self._cost(layers, after) > self._cost(self.layers, before) * (1 + _RISE):
                # Too far, also where the layer was finished at a limit: half of the step is tried.
                step, share = self.layers.allowed(step / 2)
                limited, lengths = share < 1, []
            else:
                self.layers, self.found = layers, found
                step, limited = self._next_step()
                lengths = self._lengths(lengths, step, limited=limited)
            self.costs.append(self.found.misfit)
        if self.converged:
            self.layers = self.layers.at(self.layers.current + step)

    def _lengths(self, before: Sequence[float], step: Floats, *, limited: bool) -> list[float]:
        """Those of steps that say how fast they become shorter; a step by the windows of the coarse images does not."""
        return [] if limited or _coarsely(self.found.around) else [*before, self.layers.control.length(step)]

    def _ends(self, lengths: Sequence[float], tolerance: float) -> bool:
        """Whether the next step, of the last of these lengths, leaves too little to move for another."""
        if not lengths:
            return False
        # A step that is not shorter than the one before says that it goes back and forth.
        share = lengths[-1] / lengths[-2] if len(lengths) > 1 else _FIRST_SHARE
        # What the step after the next one changes the misfit by, as a share.
        fall = min(share, 1.0) * (1 - self.costs[-1] / self.costs[-2]) if len(lengths) > 1 else 1.0
        few = SETTLED_SIGMAS if fall < _SETTLED_MISFIT else ENOUGH_SIGMAS
        enough = min(share, 1.0) ** 2 * self.gain < few**2 * self.determined
        self.converged = enough or (share < 1 and share * lengths[-1] < tolerance)
        return self.converged

    def _next_step(self) -> tuple[Floats, bool]:
        """The step from the current place, as far as the layer is one to one, and whether that is not the whole."""
        if self.found.square is not None:
            self._known = _Square(self.found.square, self.layers, self.found.around)
        if self._known is None:
            raise RuntimeError("a pass returns J^T J where none is known")
        step = self._solution(self._known.square)
        self.gain = float(np.vdot(self.right, step))
        made, share = self.layers.allowed(step)
        return made, share < 1

    def _solution(self, square: Singles) -> Floats:
        """The step to the solution, with the weight of the prior that follows from it."""
        noise = self.passes.noise(self.layers, self.found.match, self.found.around)
        self.noise = NoiseModel(max(self.found.mean_square, 1e-12), noise.correlated, noise.shared)
        total, step = self.layers.total, np.zeros_like(self.layers.current)
        affine = self.layers.control.ndim * (self.layers.control.ndim + 1)
        for _ in range(_ROUNDS):
            self.system = System(square, self.noise.information, self.bending, self.weight)
            self.right = self.noise.precision * self.found.linear - self.weight * self.bending(total)
            step = self.system.solve(self.right, start=step, tolerance=_TOLERANCE)
            determined, self._guess = self.system.effective_parameters(self.probe, start=self._guess)
            self.determined = max(determined, 1.0)
            energy = float(np.vdot(total + step, self.bending(total + step)))
            before = self.weight
            self.weight = next_weight(before, determined=self.determined, energy=energy, affine=affine)
            if abs(self.weight / before - 1) < _SETTLED:
                break
        return step

    def _cost(self, layers: Layers, misfit: float) -> float:
        """Twice the cost, for as many voxels as overlap at the current place."""
        total = layers.total
        return self.noise.precision * self.found.total * misfit + self.weight * float(
            np.vdot(total, self.bending(total))
        )


def _comparable(one: LayerPass, other: LayerPass) -> tuple[float, float]:
    """What the costs of two passes are compared by: residuals in windows of coarse voxels and of all are not alike."""
    if _coarsely(one.around) != _coarsely(other.around):
        return one.misfit, other.misfit
    return one.mean_square, other.mean_square


def _coarsely(around: LayerMatch | None) -> bool:
    """Whether voxels count by the windows of the coarse images."""
    return around is not None and around.fine is None


@dataclass(frozen=True)
class _Square:
    """J^T J, and the layers and the gain and offset around each voxel at which it was summed."""

    square: Singles
    layers: Layers
    around: LayerMatch | None

    def serves(self, layers: Layers, around: LayerMatch | None) -> bool:
        """Whether the layers are so near that it need not be summed again."""
        if len(layers.finished) != len(self.layers.finished):
            return False
        if _coarsely(self.around) != _coarsely(around):
            return False
        moved = np.abs(layers.current - self.layers.current).max(axis=tuple(range(1, layers.current.ndim)))
        return bool(np.all(moved <= RENEW * np.asarray(layers.control.spacing)))
