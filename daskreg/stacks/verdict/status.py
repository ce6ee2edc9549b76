"""The status of a stack's fit: what may make its poses wrong."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from daskreg.stacks.model import StackModel
from daskreg.stacks.pair_table import PairTable, SliceFeatures
from daskreg.stacks.pose_solve import PoseSolution
from daskreg.stacks.verdict.examine import Findings
from daskreg.stacks.verdict.stack_status import StackStatus

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]

MOST_OUTLIERS = 1 / 3
"""Share of the slices that are not blank which may stand out."""

# Voxels by which cycles may miss, or this share of the longest side, for sections that are deformed.
_OPEN, _OPEN_SHARE = 1.0, 1 / 300
# As many times as far: the slice's pairs contradict each other.
_CONTRADICTED = 3
# Voxels of one standard deviation of a shift.
_MOST_SIGMA = 2.0
# Ratio of the contrasts of neighbours which "mse" cannot explain, and the share of the pairs that may exceed it.
_MOST_GAIN, _MOST_GAINS = 1.25, 0.25


def open_cycles(solution: PoseSolution, model: StackModel) -> Floats:
    """(N,) world lengths from which the cycles of pairs about each slice do not close.

    Pairs whose errors are large, as of a specimen that changes much from slice to slice, need not close better than
    these errors let them, as long as poses that are so uncertain may be used.
    """
    step = min(model.grid.spacing)
    usual = max(_OPEN, max(model.grid.shape) * _OPEN_SHARE) * step
    explained = np.minimum(np.nan_to_num(solution.explained), _MOST_SIGMA * step)
    return np.asarray(np.maximum(usual, explained))


def contradicted(solution: PoseSolution, model: StackModel) -> list[int]:
    """Slices all of whose cycles of pairs miss their start by far."""
    with np.errstate(invalid="ignore"):
        return np.flatnonzero(solution.cycles > _CONTRADICTED * open_cycles(solution, model)).tolist()


def status_of(
    solution: PoseSolution,
    blank: Bools,
    kinds: dict[int, str],
    model: StackModel,
    *,
    pairs: PairTable | None,
    features: SliceFeatures | None,
    findings: Findings,
) -> StackStatus:
    """The first of the statuses, from the worst on, that applies."""
    fitted = solution.fitted
    if fitted.sum() < max(1, (~blank).sum() / 2) or (len(fitted) > 1 and fitted.sum() < 2):
        return StackStatus.FAILED
    if solution.breaks:
        return StackStatus.BROKEN
    standing_out = sum(kind not in {"blank", "duplicated"} for kind in kinds.values())
    if standing_out > 1 and standing_out >= MOST_OUTLIERS * (~blank).sum():
        return StackStatus.UNLIKE
    misses = solution.cycles / open_cycles(solution, model)
    if np.isfinite(misses).any() and np.nanmedian(misses) > 1:
        return StackStatus.INCONSISTENT
    if findings.pattern or findings.stripes:
        return StackStatus.FIXED_PATTERN
    if model.metric == "mse" and pairs is not None and features is not None and _other_gains(pairs, features):
        return StackStatus.BRIGHTNESS
    if findings.rival is not None:
        return StackStatus.AMBIGUOUS
    if _largest_sigma(solution, model) > _MOST_SIGMA * min(model.grid.spacing):
        return StackStatus.UNCERTAIN
    return StackStatus.CONVERGED if fitted.all() else StackStatus.BRIDGED


def _largest_sigma(solution: PoseSolution, model: StackModel) -> float:
    """The median over the slices of the largest standard deviation of a shift."""
    shifts = [k for k, name in enumerate(model.pose.names) if name in {"tx", "ty", "tz"}]
    if not shifts:
        return 0.0
    variance = np.diagonal(solution.covariance, axis1=1, axis2=2)[:, shifts].max(axis=1)
    known = variance[np.isfinite(variance)]
    return float(np.sqrt(np.median(known))) if len(known) else 0.0


def _other_gains(pairs: PairTable, features: SliceFeatures) -> bool:
    """Whether the contrasts of many neighbours differ."""
    near = np.diff(pairs.edges, axis=1)[:, 0] == 1
    a, b = features.contrast[pairs.edges[near]].T
    ratio = np.maximum(a, b) / np.maximum(np.minimum(a, b), 1e-30)
    return len(ratio) > 0 and float((ratio > _MOST_GAIN).mean()) > _MOST_GAINS
