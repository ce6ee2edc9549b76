"""Gauss-Newton for the coefficients of a layer on one level of a pyramid, with a prior whose weight is estimated.

The coefficients c minimise

    precision sum v r^2 / 2  +  weight (c + before)^T K (c + before) / 2,

K being the bending energy of all layers together. The precision follows from the residual (`noise_model`), and the
weight of the prior from the coefficients: it is the one for which the energy is what the number of determined
coefficients lets expect (the evidence procedure, MacKay 1992). So noisy images give smooth fields, and what the images
do not show is as smooth as possible.

A layer is always known to be one to one (see `one_to_one`). Where it would not be after a step, as much of the step is
made as can be, and the next layer goes on from there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from daskreg.registration.deformable.cell_sums import ControlSums, Residuals, Singles, cell_sums
from daskreg.registration.deformable.level_images import Evaluated, LevelImages
from daskreg.registration.deformable.noise_model import NoiseModel, noise_model
from daskreg.registration.deformable.splines.bending import BendingEnergy, next_weight
from daskreg.registration.deformable.splines.layers import Layers
from daskreg.registration.deformable.system import System

Floats = NDArray[np.float64]

# Halvings of a step that would raise the cost, and the share by which the last small steps may raise it.
_BACKTRACKS, _SMALL_RISE = 4, 1e-3
# The change of coefficients, in distances of control points, from which on J^T J is summed again, if more of them than
# this share changed so much: where images say nothing, few may go far.
RENEW, _FEW_CHANGED = 0.15, 0.02
# By how many standard deviations coefficients move by steps after which there is no other, see `solve_level`.
FEW_SIGMAS = 0.1
# A step that is longer than this share of the one before is halved.
_SHORTER = 0.8
# The share by which the misfit changes before its noise is estimated again.
_OTHER_NOISE = 0.01
# Of the linear system, as a share of the right side.
_TOLERANCE = 0.05
# The share by which the misfit falls by steps after which there are others, with a prior that does not stiffen.
_FALLS = 0.01
# Voxels for each independent sample, at most, where correlated residuals are motion that was not found yet.
_MOTION = 4.0
# The share by which the misfit falls by a step that aligns no structure any more. Where images have no contrast, noise
# is brought nearer to noise for many steps. What control points can hardly follow falls by more, however slowly.
_SETTLED = 0.003
# Layers that are finished, so that they are one to one.
_MOST_LAYERS = 16
# The weight of the prior to begin with, as the ratio of the diagonals: smooth.
_SMOOTH = 10.0


@dataclass
class LevelEstimate:
    """Where the solver is.

    layers, weight: of the prior. found: the pair at these layers. noise, system: of the last step. determined: how many
    coefficients the images determine. iterations. converged. costs: misfits.
    """

    layers: Layers
    weight: float
    found: Evaluated
    noise: NoiseModel
    system: System | None
    determined: float
    iterations: int
    converged: bool
    costs: list[float]


def solve_level(
    images: LevelImages,
    layers: Layers,
    weight: float,
    *,
    tolerance: float,
    max_iterations: int,
    few_sigmas: float = FEW_SIGMAS,
    settled_sigmas: float = 0.0,
    order: int = 1,
    least_layer: float = 0.0,
    found: Evaluated | None = None,
    stiffens: bool = True,
) -> LevelEstimate:
    """Minimise from the current layer on.

    Args:
        weight: of the prior, 0 where it is not known.
        tolerance: voxels of the level; the steps of all coefficients have a smaller root mean square at the end.
        few_sigmas: steps end when the log likelihood gains less than moving every determined coefficient by this many
            of its standard deviations would.
        settled_sigmas: the same where the misfit hardly falls any more; 0: as `few_sigmas`.
        order: of the interpolation.
        least_layer: voxels of the level; no layer is finished after a shorter step, but the level ends.
        found: the pair at these layers, where it is known.
        stiffens: whether the weight of the prior may grow, and the correlations of residuals are those of noise.
    """

    bending = BendingEnergy(layers.control)
    found = found or images.evaluate(layers.transform, order=order)
    state = LevelEstimate(
        layers, weight, found, _noise_of(images, found, stiffens=stiffens), None, 0.0, 0, False, [found.misfit]
    )
    known: _Square | None = None
    longest, solution, misfit = np.inf, None, found.misfit
    shape = images.fixed.shape
    normal = np.random.default_rng(0).standard_normal(shape, np.float32) if len(shape) == 3 else None
    for _ in range(max_iterations if found.total > 1 else 0):  # images without a voxel in common tell nothing
        if known is not None and not known.serves(state.layers):
            known = None
        renewed = known is None
        known, linear = _sums(images, state, known, normal)
        if abs(state.found.misfit - misfit) > _OTHER_NOISE * misfit:
            state.noise, misfit = _noise_of(images, state.found, stiffens=stiffens), state.found.misfit
        state.system, solution = _weighed(state, known, bending, solution, stiffens=stiffens)
        right = state.noise.precision * linear - state.weight * bending(state.layers.total)
        step = state.system.solve(right, tolerance=_TOLERANCE)
        # Steps that do not become shorter go back and forth.
        length = float(np.sqrt(np.mean(step**2)))
        step, longest = (step / 2, longest) if length > _SHORTER * longest else (step, length)
        made = _line_search(images, state, step, bending, order)
        state.iterations += 1
        state.costs.append(state.found.misfit)
        if made is None:
            # No part of the step lowers the cost. What these equations do not describe, such as regions that contradict
            # each other, is left to the verdict on the aligned images.
            if renewed:
                state.converged = True
                break
            known = None
            continue
        moved, gained, limited = made
        if limited and (moved < least_layer * images.step or len(state.layers.finished) >= _MOST_LAYERS):
            state.converged = len(state.layers.finished) < _MOST_LAYERS
            break
        if limited:
            state.layers = state.layers.finish()
            known, longest = None, np.inf
            continue
        if not stiffens and state.costs[-1] < (1 - _FALLS) * state.costs[-2]:
            continue  # little is gained while the residual still says too much noise
        few = max(few_sigmas, settled_sigmas) if state.costs[-1] > (1 - _SETTLED) * state.costs[-2] else few_sigmas
        if moved < tolerance * images.step or gained < few**2 * state.determined:
            state.converged = True
            break
    return state


def _noise_of(images: LevelImages, found: Evaluated, *, stiffens: bool) -> NoiseModel:
    noise = noise_model(images, found)
    return noise if stiffens else replace(noise, correlated=min(noise.correlated, _MOTION))


@dataclass(frozen=True)
class _Square:
    """J^T J, and the coefficients at which it was summed.

    noise: with this covariance, for the trace; None for images, where random signs cost little, and are nearer to the
    trace if few coefficients are determined.
    """

    square: Singles
    noise: Floats | None
    coefficients: Floats

    def serves(self, layers: Layers) -> bool:
        """Whether the coefficients are so near that it need not be summed again."""
        nearly = RENEW * np.reshape(layers.control.spacing, (-1, *[1] * layers.control.ndim))
        far = np.abs(layers.current - self.coefficients) > nearly
        return bool(far.any(0).mean() <= _FEW_CHANGED)


def _sums(
    images: LevelImages, state: LevelEstimate, known: _Square | None, normal: Singles | None
) -> tuple[_Square, Floats]:
    """J^T J with its noise, and J^T r, at the current layers.

    Args:
        known: J^T J, where it need not be summed again.
        normal: (*shape) white noise of variance 1; None: that of J^T J is not wanted.
    """
    current, control = state.layers.current, state.layers.control

    def summed(voxels: Residuals, *, with_square: bool) -> ControlSums:
        coefficients, grid = current if np.any(current) else None, images.fixed_grid
        return cell_sums(voxels, control, grid, grid.box, coefficients=coefficients, with_square=with_square)

    voxels = images.residuals(state.found)
    sums = summed(voxels, with_square=known is None)
    if known is None:
        noise = None
        if normal is not None:
            # Residuals of variance 1 / weight have J^T r of the covariance J^T J.
            drawn = np.asarray(normal / np.sqrt(np.maximum(voxels.weight, np.float32(1e-12))), np.float32)
            noise = summed(replace(voxels, residual=drawn), with_square=False).linear
        known = _Square(sums.square, noise, current)
    return known, sums.linear


def _weighed(
    state: LevelEstimate, known: _Square, bending: BendingEnergy, start: Floats | None, *, stiffens: bool
) -> tuple[System, Floats]:
    """The system of the next step, with a new weight of the prior, and what the trace of it was solved for.

    Args:
        start: a guess of that solution.
    """
    data, control = state.noise.information, bending.control
    signs = np.where(np.random.default_rng(0).random(state.layers.current.shape) < 0.5, -1.0, 1.0)
    if not state.weight > 0:
        mean = float(np.vdot(signs, System(known.square, 1.0, bending, 0.0)(signs))) / signs.size
        state.weight = _SMOOTH * data * mean / float(bending.diagonal.mean())
    system = System(known.square, data, bending, state.weight)
    if known.noise is None:
        determined, solution = system.effective_parameters(signs, start=start)
    else:
        determined, solution = system.determined(known.noise, start=start)
    state.determined = max(determined, 1.0)
    total = state.layers.total
    energy = float(np.vdot(total, bending(total)))
    affine = control.ndim * (control.ndim + 1)
    most = np.inf if stiffens else state.weight
    state.weight = next_weight(state.weight, determined=state.determined, energy=energy, affine=affine, most=most)
    return replace(system, weight=state.weight), solution


def _line_search(
    images: LevelImages, state: LevelEstimate, step: Floats, bending: BendingEnergy, order: int
) -> tuple[float, float, bool] | None:
    """Make a step that lowers the cost (backtracking line search).

    Returns: by how much it moved (root mean square), by how much twice the cost fell, and whether only a part of the
        step was made, after which the layer is finished; None where no part of the step lowers the cost.
    """
    now = _cost(state, state.found, state.layers, bending)
    most = now + _SMALL_RISE * (
        now - state.noise.precision * state.found.total * (state.found.misfit - state.found.variance)
    )
    for _ in range(_BACKTRACKS):
        made, share = state.layers.allowed(step)
        layers = state.layers.at(state.layers.current + made)
        found = images.evaluate(layers.transform, order=order)
        after = _cost(state, found, layers, bending)
        if after < most:
            state.layers, state.found = layers, found
            return layers.control.length(made), now - after, share < 1
        step = step / 2
    return None


def _cost(state: LevelEstimate, found: Evaluated, layers: Layers, bending: BendingEnergy) -> float:
    """Twice the cost, for as many voxels as overlapped before."""
    total = layers.total
    return state.noise.precision * state.found.total * found.misfit + state.weight * float(
        np.vdot(total, bending(total))
    )
