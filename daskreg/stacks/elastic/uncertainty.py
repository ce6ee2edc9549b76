"""How certain the fields are: one standard deviation of each slice's displacement at each control point.

The covariance of the coefficients is the inverse of the matrix A of the last step. Samples of it are solutions x of
A x = n for noise n of the covariance A (Papandreou & Yuille 2010): white noise of the residual through the same sums as
those of the step, and noise of the covariance of the prior. No displacement is known better than to the length of the
last steps.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from daskreg.stacks.elastic.joint_system import JointSystem
from daskreg.stacks.elastic.layers import values_at_nodes
from daskreg.stacks.elastic.pair_terms import noise_sums
from daskreg.stacks.elastic.robust import upsampled
from daskreg.stacks.elastic.slice_images import SliceImages
from daskreg.stacks.elastic.solve import Pairs, StackState, warped_pairs

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_SAMPLES = 16
"""A standard deviation is known to a fifth or so."""


def field_sigma(images: SliceImages, pairs: Pairs, state: StackState, *, matched: bool, whole: Bools) -> Floats:
    """(N, D, *nodes) one standard deviation of the displacement at the control points, world units.

    Args:
        whole: (N,) slices about whose mean it is, where no slice is kept: those that are not torn or lost, where
            nothing limits a field.
    """
    system, layers = state.system, state.layers
    if system is None:
        return np.full(layers.current.shape, np.nan)
    rng = np.random.default_rng(0)
    right = np.sqrt(system.weight) * system.bending.noise(rng, (_SAMPLES, *layers.current.shape[:2]))
    for k, (a, b) in enumerate(warped_pairs(images, layers, pairs.edges, order=1)):
        i, j = pairs.edges[k].tolist()
        part = np.sqrt(system.information[k]) * noise_sums(
            a,
            b,
            None if pairs.robust is None else upsampled(pairs.robust[k], images.grid.shape),
            layers.control,
            images.grid,
            rng=rng,
            coefficients=layers.current[pairs.edges[k]].mean(0),
            matched=matched,
            count=_SAMPLES,
        )
        right[:, i] += part
        right[:, j] -= part
    free = pairs.free.reshape(-1, *[1] * (right.ndim - 2))
    kept = bool(np.any(~pairs.free[np.unique(pairs.edges)]))
    spread = _spread(system, right, None if kept else whole)
    return np.where(free, np.hypot(spread, state.least), 0.0)


def _spread(system: JointSystem, right: Floats, mean_over: Bools | None) -> Floats:
    """The standard deviation of samples, about the mean of these slices, since pairs leave a common field open."""
    total = np.zeros(right.shape[1:])
    for one in right:
        x = system.solve(one, tolerance=0.05)
        values = np.stack([values_at_nodes(c) for c in x])
        total += (values if mean_over is None else values - values[mean_over].mean(0)) ** 2
    return np.asarray(np.sqrt(total / len(right)))
