"""Which slices the fields could not bring to their neighbours, and which are torn."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from daskreg.registration.problem import Problem
from daskreg.registration.pyramids.pyramid import ImageBatch, PyramidLevel
from daskreg.registration.verdict.judge import suitable
from daskreg.registration.verdicts import verdicts_of
from daskreg.stacks.elastic.layers import StackLayers
from daskreg.stacks.elastic.slice_images import SliceImages, WarpedSlice
from daskreg.stacks.elastic.solve import warped_pairs
from daskreg.stacks.outliers import TORN
from daskreg.stacks.verdict.stack_status import StackStatus
from daskreg.stacks.verdict.status import MOST_OUTLIERS

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
Bools = NDArray[np.bool_]

# Voxels of a level by which poses differ that are independent (see `registration.verdict.evidence`).
_APART = 2.0
# A pair counts for nothing at a place where its weight is below this.
_LITTLE = 0.5
# The share of its places that a slice loses from which it is unlike its neighbours as a whole.
_MOST = 0.5
_INCURABLE = (StackStatus.AMBIGUOUS, StackStatus.FIXED_PATTERN, StackStatus.BRIGHTNESS)
_KEPT = ("blank", "duplicated", "swapped", "mirrored", "blurred")
"""Kinds of outliers that are found from slices alone, or with any model."""


def chance_pairs(
    levels: Sequence[PyramidLevel],
    layers: StackLayers,
    edges: Ints,
    problem: Problem,
    *,
    determined: dict[float, float],
) -> Bools:
    """(E,) whether the warped slices of a pair agree no better than unrelated ones.

    Fields can make unrelated slices more alike than a pose can: for each coefficient that the images determine, the
    evidence that is needed grows by what one more parameter of that range explains by chance.
    """
    level = suitable(levels)[-1]
    images = SliceImages.of(level)
    count = determined[min(determined, key=lambda step: abs(math.log(step / level.step)))] / len(layers)
    ways = max(1.0, 2 * float(layers.control.limits.max()) / level.step / _APART)
    more = count * (0.5 + math.log(ways))
    identity = problem.parameters_of([np.eye(images.grid.ndim + 1)], images.grid)
    found = []
    for a, b in warped_pairs(images, layers, edges, order=1):
        pair = PyramidLevel(_batch(a, images), _batch(b, images), level.step, level.sigmas)
        verdict = verdicts_of(problem, [pair], identity)[0]
        found.append(not verdict.evidence > verdict.needed + more)
    return np.array(found, dtype=bool)


def _batch(image: WarpedSlice, images: SliceImages) -> ImageBatch:
    values, weight = (torch.from_numpy(np.ascontiguousarray(x[None])) for x in (image.values, image.weight))
    return ImageBatch(values, (weight > 0).to(torch.float32), images.grid)


def rejected_shares(robust: Floats, agreement: Floats, edges: Ints, count: int) -> Floats:
    """(N,) the share of its places at which all pairs of a slice have little weight; 1 without a pair."""
    bad = (robust < _LITTLE) | ~np.isfinite(agreement)
    known = np.isfinite(agreement)
    shares = np.ones(count)
    for i in range(count):
        some = np.flatnonzero((edges == i).any(axis=1))
        if len(some):
            seen = np.asarray(known[some].any(axis=0))
            shares[i] = float(np.asarray(bad[some].all(axis=0))[seen].mean()) if seen.any() else 1.0
    return shares


def kinds_of(before: dict[int, str], rejected: Floats, chance: Bools, edges: Ints) -> dict[int, str]:
    """Outlier slices and their kinds, in place of those that the affine maps left.

    Args:
        before: by the affine maps. rejected: (N,). chance: (E,) pairs that agree by chance.
    """
    kinds = {i: kind for i, kind in before.items() if kind in _KEPT}
    for i, share in enumerate(rejected):
        some = (edges == i).any(axis=1)
        if share > _MOST or (some.any() and chance[some].all()):
            kinds.setdefault(i, "unlike")
        elif share > TORN:
            kinds.setdefault(i, "torn")
    return dict(sorted(kinds.items()))


def status_of(
    kinds: dict[int, str],
    fitted: Bools,
    blank: Bools,
    breaks: tuple[int, ...],
    *,
    determined: float,
    affine: int,
    converged: bool,
) -> StackStatus:
    """The first of the statuses, from the worst on, that applies.

    Args:
        determined: coefficients that the images determine. affine: those of the affine motions of the slices, which no
            prior hides: images that determine not even half of these say nothing of how slices are bent.
        converged: whether the last steps were small.
    """
    if fitted.sum() < max(1, (~blank).sum() / 2) or (len(fitted) > 1 and fitted.sum() < 2):
        return StackStatus.FAILED
    if breaks:
        return StackStatus.BROKEN
    standing_out = sum(kind not in {"blank", "duplicated"} for kind in kinds.values())
    if standing_out > 1 and standing_out >= MOST_OUTLIERS * (~blank).sum():
        return StackStatus.UNLIKE
    if determined < affine / 2:
        return StackStatus.UNCERTAIN
    if not converged:
        return StackStatus.MAX_ITERATIONS
    return StackStatus.CONVERGED if fitted.all() else StackStatus.BRIDGED


def with_that_of_poses(status: StackStatus, poses: StackStatus) -> StackStatus:
    """The status of fields, or that of the poses before where fields do not make wrong poses right.

    Fields from poses that are wrong by a period, or that follow the detector, agree as well as from right ones. Poses
    that contradict each other, are unlike, or too uncertain are judged anew by the agreement of the warped slices.
    """
    good = (StackStatus.CONVERGED, StackStatus.BRIDGED, StackStatus.UNCERTAIN, StackStatus.MAX_ITERATIONS)
    return poses if status in good and poses in _INCURABLE else status


def breaks_of(edges: Ints, useful: Bools, fitted: Bools) -> tuple[int, ...]:
    """Fitted slices before which no useful pair joins the stack: such as pairs (i, j) with i < slice <= j do.

    Args:
        useful: (E,) pairs that count.
    """
    used = edges[useful].tolist()
    numbers = np.flatnonzero(fitted).tolist()
    return tuple(n for n in numbers[1:] if not any(min(pair) < n <= max(pair) for pair in used))
