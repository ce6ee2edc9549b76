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
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from daskreg.geometry import Transform
from daskreg.registration.blockwise.layer_passes import LayerPass, LayerPasses, Sigmas
from daskreg.registration.blockwise.noise import smoothed_by
from daskreg.registration.blockwise.pair import LazyPair
from daskreg.registration.blockwise.work import Work
from daskreg.registration.deformable.bending import BendingEnergy
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
# The most by which the weight of the prior changes at once.
_CHANGE = 10.0
# By which share a step may raise the mean square.
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
    matched: bool,
    tolerance: float,
) -> LayerEstimate:
    """Go on from the estimate of the coarse images.

    Args:
        pair: not smoothed yet. base: what the layers begin from. sigmas: of the Gaussians.
        grids: of control points, from coarse to fine, among them that of the coarse estimate.
        tolerance: voxels; what is still to move has a smaller root mean square at the end.
    """
    state, layers = coarse.state, coarse.state.layers
    for finer in grids[grids.index(layers.control) + 1 :]:
        layers = layers.refined(finer)
    first = LayerPasses(smoothed_by(pair, sigmas, 1.0), sigmas, work, matched).noise(layers, None)
    passes = LayerPasses(smoothed_by(pair, sigmas, first.factor), sigmas, work, matched)
    start = passes.noise(layers, None)
    passes.divide(layers)
    solver = _Solver(passes, layers, state.weight, Match(start.gain, start.offset, state.found.correlation))
    solver.solve(Layers.start(base, grids[-1]), tolerance * pair.step)
    found = solver.last
    if found is None:
        raise RuntimeError("at least one pass is made")
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
        before=solver.before,
        overlap=min(1.0, found.total / max(_total_weight(coarse, pair), 1e-9)),
        iterations=coarse.iterations + passes.count,
        converged=solver.converged,
        determined={**coarse.determined, pair.step: solver.determined},
    )  # fmt: skip


def _total_weight(coarse: LayerEstimate, pair: LazyPair) -> float:
    """The weight of the fixed image: without masks that of the edges, else its share on the finest coarse level."""

    def unmasked(shape: Sequence[int]) -> float:
        return math.prod(float(axis_weights(n, torch.device("cpu")).sum()) for n in shape)

    weight = coarse.images.weight
    return unmasked(pair.shape) * float(weight.sum(dtype=np.float64)) / unmasked(weight.shape)


class _Solver:
    """Gauss-Newton with one pass for each step; see `deformable.solve_level` for a level in memory."""

    def __init__(self, passes: LayerPasses, layers: Layers, weight: float, match: Match) -> None:
        self.passes, self.layers, self.weight, self.match = passes, layers, weight, match
        self.bending = BendingEnergy(layers.control)
        shape = layers.current.shape
        self.probe = np.where(np.random.default_rng(0).random(shape) < 0.5, -1.0, 1.0)
        self.determined, self.converged = 0.0, False
        self.costs: list[float] = []
        self.before = (0.0, 0.0)
        self.last: LayerPass | None = None
        self._guess: Floats | None = None

    def solve(self, base: Layers, tolerance: float) -> None:
        """Make passes and steps until less is left to move than the tolerance, world units."""
        known: tuple[Singles, Floats] | None = None
        lengths: list[float] = []
        before: Layers | None = None
        for number in range(_MOST_PASSES):
            known = None if known is None or self._far(known[1]) else known
            found = self.passes.run(
                self.layers, self.match, with_square=known is None, base=base if number == 0 else None
            )
            self.before = found.before or self.before
            self.match = found.match
            self.costs.append(found.mean_square)
            if self.last is not None and before is not None and found.mean_square > self.last.mean_square * (1 + _RISE):
                # Too far: the middle between both places is tried.
                self.layers = before.at((before.current + self.layers.current) / 2)
                lengths = []
                continue
            self.last, before = found, self.layers
            if found.square is not None:
                known = found.square, self.layers.current
            if known is None:
                raise RuntimeError("a pass returns J^T J where none is known")
            step = self._step(found, known[0])
            gain = float(np.vdot(self.right, step))
            length, limited = self._advance(step)
            if limited:
                known, before, lengths = None, None, []
                continue
            # A step that is not shorter than the one before says that it goes back and forth.
            share = length / lengths[-1] if lengths else _FIRST_SHARE
            lengths.append(length)
            if share < 1 and (share * length < tolerance or share**2 * gain < FEW_SIGMAS**2 * self.determined):
                self.converged = True
                break

    def _step(self, found: LayerPass, square: Singles) -> Floats:
        """The step to the solution, with the weight of the prior that follows from it."""
        noise = self.passes.noise(self.layers, found.match)
        self.noise = NoiseModel(max(found.mean_square, 1e-12), noise.correlated, noise.shared)
        total, step = self.layers.total, np.zeros_like(self.layers.current)
        for _ in range(_ROUNDS):
            self.system = System(square, self.noise.information, self.bending, self.weight)
            self.right = self.noise.precision * found.linear - self.weight * self.bending(total)
            step = self.system.solve(self.right, start=step, tolerance=_TOLERANCE)
            determined, self._guess = self.system.effective_parameters(self.probe, start=self._guess)
            self.determined = max(determined, 1.0)
            energy = float(np.vdot(total + step, self.bending(total + step)))
            if not energy > 0:
                break
            before = self.weight
            self.weight = float(np.clip(self.determined / energy, before / _CHANGE, before * _CHANGE))
            if abs(self.weight / before - 1) < _SETTLED:
                break
        return step

    def _advance(self, step: Floats) -> tuple[float, bool]:
        """Move; by how much (root mean square), and whether a limit was met, so that another layer begins."""
        shape = (-1, *[1] * (step.ndim - 1))
        limits = self.layers.control.limits.reshape(shape)
        free = self.layers.current + step
        kept = np.clip(free, -limits, limits)
        inner = (slice(None), *(slice(2, -2),) * (step.ndim - 1))  # control points beside the image hardly reach in
        moved = float(np.sqrt(np.mean((kept - self.layers.current)[inner] ** 2)))
        limited = bool(np.any((kept != free)[inner]))
        self.layers = self.layers.at(kept)
        if limited:
            self.layers = self.layers.finish()
        return moved, limited

    def _far(self, coefficients: Floats) -> bool:
        current, spacing = self.layers.current, np.asarray(self.layers.control.spacing)
        moved = np.abs(current - coefficients).max(axis=tuple(range(1, current.ndim)))
        return bool(np.any(moved > RENEW * spacing))
