"""Layers of B-splines between all voxels of a pair that is larger than memory, from those of the coarse images on.

J^T J and J^T r are sums over voxels, and a voxel counts for the control points of its own cell only. So a pass over the
blocks gives the equations of a Gauss-Newton step of all voxels, which are solved as those of a level in memory are. The
coarse images leave little to do: a pass gives J^T J and J^T r, the next one J^T r alone, and so on, until what is still
to move is less than the tolerance. It follows from how much shorter steps become, so that no pass only confirms the
last step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from daskreg.geometry import Transform
from daskreg.registration.blockwise.layer_match import LayerMatch
from daskreg.registration.blockwise.layer_passes import LayerPass, LayerPasses, Sigmas
from daskreg.registration.blockwise.noise import smoothed_by
from daskreg.registration.blockwise.pair import LazyPair
from daskreg.registration.blockwise.work import Work
from daskreg.registration.deformable.bending import BendingEnergy, next_weight
from daskreg.registration.deformable.cell_sums import Singles
from daskreg.registration.deformable.control_grid import ControlGrid
from daskreg.registration.deformable.estimate import LayerEstimate
from daskreg.registration.deformable.layers import Layers
from daskreg.registration.deformable.level_images import Match
from daskreg.registration.deformable.noise_model import NoiseModel
from daskreg.registration.deformable.solve_level import FEW_SIGMAS, RENEW
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
    tolerance: float,
) -> LayerEstimate:
    """Go on from the estimate of the coarse images.

    Args:
        pair: not smoothed yet. coarse: may be `without_voxels`, and so is what is returned.
        base: what the layers begin from. sigmas: of the Gaussians. covered: `share_of_weight` of the coarse image.
        grids: of control points, from coarse to fine, among them that of the coarse estimate.
        matched, around: see `LayerPasses`.
        tolerance: voxels; what is still to move has a smaller root mean square at the end.
    """
    state, layers = coarse.state, coarse.state.layers.rebased()  # as between the levels of a pyramid in memory
    for finer in grids[grids.index(layers.control) + 1 :]:
        layers = layers.refined(finer)
    first = LayerPasses(smoothed_by(pair, sigmas, 1.0), sigmas, work, matched, around).noise(layers, None)
    passes = LayerPasses(smoothed_by(pair, sigmas, first.factor), sigmas, work, matched, around)
    start = passes.noise(layers, None)
    passes.divide(layers)
    match = Match(start.gain, start.offset, state.found.correlation)
    # The gains around each voxel are not those of the base.
    found = passes.run(layers, match, with_square=True, base=None if around else Layers.start(base, grids[-1]))
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
        self.costs = [found.mean_square]
        self._known: _Square | None = None
        self._guess: Floats | None = None

    def solve(self, tolerance: float) -> None:
        """Make steps and passes until less is left to move than the tolerance, world units."""
        step, limited = self._next_step()
        lengths = [] if limited else [_length(step)]
        while not self._ends(lengths, tolerance) and self.passes.count < _MOST_PASSES:
            layers = self.layers.at(self.layers.current + step)
            layers = layers.finish() if limited else layers
            known = self._known is not None and self._known.serves(layers)
            found = self.passes.run(layers, self.found.match, with_square=not known, base=None)
            if self._cost(layers, found) > self._cost(self.layers, self.found) * (1 + _RISE):
                # Too far, also where the layer was finished at a limit: half of the step is tried.
                step, limited, lengths = step / 2, False, []
            else:
                self.layers, self.found = layers, found
                step, limited = self._next_step()
                lengths = [] if limited else [*lengths, _length(step)]
            self.costs.append(self.found.mean_square)
        if self.converged:
            self.layers = self.layers.at(self.layers.current + step)

    def _ends(self, lengths: Sequence[float], tolerance: float) -> bool:
        """Whether the next step, of the last of these lengths, leaves too little to move for another."""
        if not lengths:
            return False
        # A step that is not shorter than the one before says that it goes back and forth.
        share = lengths[-1] / lengths[-2] if len(lengths) > 1 else _FIRST_SHARE
        few = FEW_SIGMAS**2 * self.determined
        self.converged = share < 1 and (share * lengths[-1] < tolerance or share**2 * self.gain < few)
        return self.converged

    def _next_step(self) -> tuple[Floats, bool]:
        """The step from the current place, as far as the layer is one to one, and whether that is not the whole."""
        if self.found.square is not None:
            self._known = _Square(self.found.square, self.layers)
        if self._known is None:
            raise RuntimeError("a pass returns J^T J where none is known")
        step = self._solution(self._known.square)
        self.gain = float(np.vdot(self.right, step))
        made, share = self.layers.allowed(step)
        return made, share < 1

    def _solution(self, square: Singles) -> Floats:
        """The step to the solution, with the weight of the prior that follows from it."""
        noise = self.passes.noise(self.layers, self.found.match)
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

    def _cost(self, layers: Layers, found: LayerPass) -> float:
        """Twice the cost, for as many voxels as overlap at the current place."""
        total = layers.total
        return self.noise.precision * self.found.total * found.mean_square + self.weight * float(
            np.vdot(total, self.bending(total))
        )


@dataclass(frozen=True)
class _Square:
    """J^T J, and the layers at which it was summed."""

    square: Singles
    layers: Layers

    def serves(self, layers: Layers) -> bool:
        """Whether the layers are so near that it need not be summed again."""
        if len(layers.finished) != len(self.layers.finished):
            return False
        moved = np.abs(layers.current - self.layers.current).max(axis=tuple(range(1, layers.current.ndim)))
        return bool(np.all(moved <= RENEW * np.asarray(layers.control.spacing)))


def _inner(step: Floats) -> tuple[slice, ...]:
    """Control points beside the image, which hardly reach into it, are left out."""
    return (slice(None), *(slice(2, -2),) * (step.ndim - 1))


def _length(step: Floats) -> float:
    return float(np.sqrt(np.mean(step[_inner(step)] ** 2)))
