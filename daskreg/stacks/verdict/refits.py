"""The pairs and poses of a stack, and the same once more without what stays with the detector.

Stripes are taken off first, with the means of the rows and columns of each slice, which needs no poses. Any other
pattern is subtracted by turns with fits of the stack, until the poses settle (see `subtraction_rounds`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from daskreg.stacks.execution import Execution
from daskreg.stacks.pair_table import PairTable, SliceFeatures
from daskreg.stacks.pairing import fit_pairs_of
from daskreg.stacks.pose_solve import PoseSolution, solve_poses
from daskreg.stacks.spans import SpanResult, StackSpec
from daskreg.stacks.verdict.examine import Findings, examine
from daskreg.stacks.verdict.subtracted_pattern import without_pattern
from daskreg.stacks.verdict.subtraction_rounds import displacement, left_by_rounds

Floats = NDArray[np.float64]

# How often a pattern of the detector is subtracted and the stack fitted again, at most, and voxels by which the corners
# of a slice still move when this has settled.
_SUBTRACTIONS, _SETTLED = 8, 0.05


@dataclass(frozen=True, eq=False)
class Frame:
    """What keeps its place in a stack: the first slice, and anchors, fixed poses of slices by number."""

    first: bool
    anchors: dict[int, Floats]


@dataclass(frozen=True, eq=False)
class PairFits:
    """A stack, what its pairs were found to be, and the poses that follow; mirrored: slices that are mirror images."""

    spec: StackSpec
    pairs: PairTable
    features: SliceFeatures
    mirrored: tuple[int, ...]
    solution: PoseSolution
    findings: Findings

    def lost(self, before: PairFits) -> bool:
        """Whether fewer slices have poses than before."""
        return bool(self.solution.breaks) or bool(self.solution.fitted.sum() < before.solution.fitted.sum())


def fitted(
    spec: StackSpec,
    frame: Frame,
    execution: Execution,
    *,
    previous: SpanResult | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
) -> PairFits:
    """The pairs of a stack and its poses; `previous` and `checkpoint` as of `fit_pairs_of`."""
    pairs, features, mirrored = fit_pairs_of(spec, execution, previous=previous, checkpoint=checkpoint)
    solution = solve_poses(pairs, features.blank, spec.model, first=frame.first, anchors=frame.anchors)
    findings = examine(spec, solution.poses, solution.fitted, execution)
    return PairFits(spec, pairs, features, mirrored, solution, findings)


def without_stripes(fits: PairFits, frame: Frame, execution: Execution) -> PairFits:
    """The stack without the means of rows and columns, where stripes hide the motion and no slice is lost by that."""
    if not fits.findings.stripes or fits.solution.breaks:
        return fits
    again = fitted(replace(fits.spec, striped=True), frame, replace(execution, progress=None))
    return fits if again.lost(fits) else again


def without_fixed_pattern(fits: PairFits, frame: Frame, execution: Execution) -> PairFits:
    """The stack without what else stays with the detector; findings say where it cannot be subtracted."""
    settled, before, rounds, digest = fits.findings.fixed is None, fits, 0, fits.features.digest
    while rounds < _SUBTRACTIONS and not (settled or fits.solution.breaks):
        again = fitted(_with_pattern_subtracted(fits, execution), frame, replace(execution, progress=None))
        if again.lost(fits):
            settled = rounds == 0  # as it was: nothing can be subtracted
            break
        settled = displacement(fits.solution, again.solution, fits.spec.grid) <= _SETTLED
        before, fits = fits, again
        rounds += 1
    solution, findings = fits.solution, fits.findings
    if rounds:
        left = left_by_rounds(before.solution.poses, solution.poses, rounds, fits.spec.model)
        solution = replace(solution, covariance=solution.covariance + left)
    findings = findings if settled else replace(findings, pattern=True)
    # Slices are known by their voxels without the pattern subtracted, which differs when the stack grows.
    return replace(fits, features=replace(fits.features, digest=digest), solution=solution, findings=findings)


def _with_pattern_subtracted(fits: PairFits, execution: Execution) -> StackSpec:
    """The stack without what stays with the detector, from all fitted slices.

    Where that hides the motion, it is found from the few slices whose motion is seen without it.
    """
    solution, findings = fits.solution, fits.findings
    slices, poses = findings.fixed or ((), solution.poses[:0])
    if not findings.pattern:
        slices = tuple(np.flatnonzero(solution.fitted).tolist())
        poses = solution.poses[list(slices)]
    return without_pattern(fits.spec, slices, poses, execution)
