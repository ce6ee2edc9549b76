"""From a described stack to its fit: by pairs of slices in a pose graph, or by fits of all slices to one image.

`StackRequest` is the description; it travels to where a run takes place that `align_stack` does not wait for.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.blocks.record.lock import locked
from daskreg.errors import DegenerateImageError, EmptyMaskError, OutputBusyError
from daskreg.geometry import SliceAffines
from daskreg.runs.place import Place
from daskreg.runs.recorder import Recorder
from daskreg.runs.work import Shown
from daskreg.runtime.compile_ahead import compile_first
from daskreg.runtime.typed_command import typed_command
from daskreg.stacks.execution import Execution
from daskreg.stacks.fit import StackFit
from daskreg.stacks.model import StackModel
from daskreg.stacks.outliers import find_outliers
from daskreg.stacks.pair_table import PairTable, SliceFeatures
from daskreg.stacks.pairing import fit_pairs_of
from daskreg.stacks.pose_solve import PoseSolution, solve_poses
from daskreg.stacks.previous import finished_span, in_frame_of
from daskreg.stacks.reference_registration import SlicePoses
from daskreg.stacks.spans import TRIED, StackSpec, middle, span_memory, tried_seconds
from daskreg.stacks.to_reference import ReferenceTask, reference_memory, register_to_reference
from daskreg.stacks.to_reference import tried_seconds as tried_reference
from daskreg.stacks.trajectory import slow_part
from daskreg.stacks.verdict.detector import with_bad_voxels
from daskreg.stacks.verdict.examine import NO_FINDINGS, Findings, examine
from daskreg.stacks.verdict.refits import Frame, fitted, without_fixed_pattern, without_stripes
from daskreg.stacks.verdict.slow_change import slow_change
from daskreg.stacks.verdict.status import contradicted, status_of

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cost:
    """What an estimate takes.

    shared: seconds of one thread for what workers do side by side; None: not known. alone: seconds for what one worker
    does while the others wait; None: not known. memory: bytes of a worker, of one thread, above one that does nothing.
    """

    shared: float | None
    alone: float | None
    memory: int


@dataclass(frozen=True, eq=False)
class StackRequest:
    """What `align_stack` was asked for, checked.

    Args:
        spec: the stack, without its bad voxels, which are looked for first.
        model, reference, trend, smooth, common_line, checkpoint, channel: as of `align_stack`.
        anchors: fixed poses of slices, by number.
        previous: the fit of the first slices, from when the stack had no others.
    """

    spec: StackSpec
    model: str | Sequence[str]
    reference: str | int
    trend: str
    smooth: float
    anchors: dict[int, Floats]
    previous: StackFit | None
    checkpoint: str | os.PathLike[str] | None
    common_line: str | None
    channel: int | str | None = None

    @property
    def has_pairs(self) -> bool:
        """Whether slices are fitted to their neighbours, so that finished pairs can be kept."""
        return self.reference in ("neighbors", "previous")

    def tried(self) -> Cost:
        """The cost, as far as the alignment of a few slices in the middle of the stack tells."""
        compile_first()  # as the alignment will, of which this is a small part
        spec, memory = self.spec, span_memory(self.spec)
        if self.has_pairs:
            return Cost(tried_seconds(spec), 0.0, memory)
        alone = reference_memory(spec)
        if self.reference == "mean":
            task, _ = _task_of_mean(spec.some(middle(spec.count, TRIED)), Execution(None))
            return Cost(tried_seconds(spec), tried_reference(task, spec.count), max(memory, alone))
        root = 0 if self.reference == "first" else int(self.reference)
        others = np.delete(np.arange(spec.count), root)
        near_and_far = np.linspace(0, len(others) - 1, min(TRIED, len(others))).astype(int)
        task = ReferenceTask(spec.some([root, *others[near_and_far].tolist()]))
        return Cost(0.0, tried_reference(task, spec.count), alone)

    def fit(self, execution: Execution) -> StackFit:
        """Estimate the poses.

        Raises: EmptyMaskError, DegenerateImageError where every slice is blank; NoWorkersError.
        """
        return self.poses(execution)[0]

    def poses(self, execution: Execution) -> tuple[StackFit, StackSpec]:
        """The fit, and the stack as it was read in the end: without bad voxels and what was subtracted.

        Raises: as `fit`.
        """
        began = time.perf_counter()
        try:
            fit, spec = self._fit(execution)
        except KeyboardInterrupt:
            kept = "" if self.checkpoint is None else "; finished pairs are kept, and the same call goes on"
            what = "nothing more is begun" if execution.client is None else "what was submitted is cancelled"
            log.warning("interrupted: %s%s", what, kept)
            raise
        name = self.model if isinstance(self.model, str) else fit.model
        seconds = time.perf_counter() - began
        return replace(fit, model=name, common_line=self.common_line, channel=self.channel, seconds=seconds), spec

    def _fit(self, execution: Execution) -> tuple[StackFit, StackSpec]:
        spec = with_bad_voxels(self.spec, execution)
        if self.previous is not None and self.previous.striped:
            spec = replace(spec, striped=True)
        if self.has_pairs:
            first = self.reference == "previous"
            estimate, spec = estimate_from_pairs(
                spec,
                execution,
                first=first,
                anchors=self.anchors,
                previous=self.previous,
                checkpoint=self.checkpoint,
            )
        else:
            estimate = estimate_to_image(spec, self.reference, execution)
        if estimate.blank.all():
            masked = spec.mask is not None
            what = "masked, or constant where it is not masked" if masked else "constant, or holds no finite voxel"
            raise (EmptyMaskError if masked else DegenerateImageError)(f"every slice is {what}")
        fit = make_fit(spec, estimate, reference=self.reference, trend=self.trend, smooth=self.smooth)
        return (fit if len(self.anchors) > 1 else _with_slow_change(fit, spec, estimate)), spec


@dataclass(frozen=True, eq=False)
class StackRun:
    """A request as work that keeps a record (`runs.work.Work`).

    Args:
        path: where the fit is saved; where there is no such file, what the run is called.
        folder: of the record; without a checkpoint of the request's, finished pairs are kept there until the end.
        saves: whether the fit is saved.
        command: of a terminal that begins it, for the record.
    """

    request: StackRequest
    path: str
    folder: Path
    saves: bool
    command: str = field(default_factory=typed_command)

    @property
    def kind(self) -> str:
        return "align"

    @property
    def label(self) -> str:
        return f"aligning {self.request.spec.count} slices"

    def perform(self, client: Any | None, place: Place, shown: Shown | None = None) -> StackFit:
        """Estimate and save the fit.

        Raises: as `StackRequest.fit`; OutputBusyError; RunCancelledError.
        """
        request, pairs = self.request, self.folder / "pairs.jsonl"
        if request.has_pairs and request.checkpoint is None:
            request = replace(request, checkpoint=pairs)
        with locked(self.folder / "lock") as free:
            if not free:
                raise OutputBusyError(f"another run makes {self.path}: wait until it is done, or end it")
            with (
                shown or nullcontext() as report,
                Recorder(self.folder, place, kind=self.kind, command=self.command, shown=report) as recorder,
            ):

                def progress(done: int, total: int) -> None:
                    recorder.progress(done, total, 0)
                    recorder.check()

                fit = request.fit(Execution(client, progress))
                if self.saves:
                    fit.save(self.path)
                    recorder.result = {"path": self.path}
                pairs.unlink(missing_ok=True)
        return fit


@dataclass(frozen=True)
class StackEstimate:
    """The poses of the slices, which slices are blank, the kinds of outliers, and the pairs and features behind them.

    pairs, features: None where slices were not fitted to each other. findings: what else may make the poses wrong.
    neighbors: pairs of slices, also of a fit to their mean, which show whether the specimen changes; None without.
    """

    solution: PoseSolution
    blank: Bools
    kinds: dict[int, str]
    pairs: PairTable | None = None
    features: SliceFeatures | None = None
    findings: Findings = NO_FINDINGS
    neighbors: PairTable | None = None


def estimate_from_pairs(
    spec: StackSpec,
    execution: Execution,
    *,
    first: bool,
    anchors: dict[int, Floats],
    previous: StackFit | None,
    checkpoint: str | os.PathLike[str] | None,
) -> tuple[StackEstimate, StackSpec]:
    """All slices from fits to the ones before them, solved together, and the stack without what was subtracted.

    Args:
        first: the first slice keeps its place.
        anchors: fixed poses of slices, by number.
        previous: the fit of the first slices, from when the stack had no others.
    """
    frame = Frame(first, anchors)
    finished = None if previous is None else finished_span(previous)
    fits = fitted(spec, frame, execution, previous=finished, checkpoint=checkpoint)
    fits = without_stripes(fits, frame, execution)
    if previous is None:
        fits = without_fixed_pattern(fits, frame, execution)
    solution, pairs, features = fits.solution, fits.pairs, fits.features
    if previous is not None and not anchors and not first:
        solution = in_frame_of(previous, solution, spec)
    # The correlation of common lines does not show how similar slices are.
    compared = pairs if spec.line is None else pairs.take(slice(0))
    kinds = find_outliers(compared, features, solution.fitted, spec.grid)
    for i in contradicted(solution, spec.model):
        kinds.setdefault(i, "contradicted")
    kinds |= dict.fromkeys(fits.mirrored, "mirrored")
    estimate = StackEstimate(
        solution, features.blank, dict(sorted(kinds.items())), pairs, features, fits.findings, pairs
    )
    return estimate, fits.spec


def estimate_to_image(spec: StackSpec, reference: str | int, execution: Execution) -> StackEstimate:
    """All slices from fits to one image: the first slice, the slice of a number, or the mean of the slices."""
    neighbors = None
    if reference == "mean":
        solution, blank, neighbors = _to_mean(spec, execution)
    else:
        root = None if reference == "first" else int(reference)
        found = register_to_reference(ReferenceTask(spec, root), execution)
        solution, blank = _solution(found), found.blank
    kinds = {int(i): "blank" if blank[i] else "unlike" for i in np.flatnonzero(~solution.fitted)}
    findings = examine(spec, solution.poses, solution.fitted, execution)
    return StackEstimate(solution, blank, kinds, findings=findings, neighbors=neighbors)


def make_fit(spec: StackSpec, estimate: StackEstimate, *, reference: str | int, trend: str, smooth: float) -> StackFit:
    """The fit that users get."""
    solution, whole, options = estimate.solution, spec.reader.whole, spec.options
    poses = _embedded(_with_trend(solution, spec.model, trend, smooth), whole.ndim, spec.keep)
    variance = np.diagonal(solution.covariance, axis1=1, axis2=2)
    return StackFit(
        raw_from_aligned=SliceAffines(poses, spec.source.dims[spec.position], tuple(whole.names), whole.unit),
        centre=whole.centre,
        half_extent=(np.asarray(whole.shape) - 1) / 2 * np.asarray(whole.spacing),
        status=status_of(
            solution,
            estimate.blank,
            estimate.kinds,
            spec.model,
            pairs=estimate.pairs,
            features=estimate.features,
            findings=estimate.findings,
        ),
        scores=solution.scores,
        sigma=dict(zip(options.pose.names, np.sqrt(np.maximum(variance, 0)).T, strict=True)),
        kinds=estimate.kinds,
        bridged=tuple(np.flatnonzero(~solution.fitted).tolist()),
        breaks=tuple(solution.breaks),
        model=options.pose.groups,
        metric=options.metric,
        reference=reference if isinstance(reference, str) else int(reference),
        trend=trend,
        smooth=smooth,
        neighbors=spec.reach,
        cycles=solution.cycles,
        disagreement=solution.scale,
        seconds=0.0,
        weights=solution.weight,
        residuals=solution.residual,
        pairs=estimate.pairs,
        features=estimate.features,
        rival=estimate.findings.rival,
        striped=spec.striped,
        bad_voxels=0 if spec.bad is None else spec.bad.count,
    )


def _with_slow_change(fit: StackFit, spec: StackSpec, estimate: StackEstimate) -> StackFit:
    """The fit with the slow motion that may be the specimen's change, where its motion is that of neighbours."""
    if estimate.neighbors is None or fit.trend != "remove" or not fit.ok:
        return fit
    solution, grid = estimate.solution, spec.model.grid
    shifts = (solution.poses @ np.append(grid.centre, 1))[:, :-1] - grid.centre
    named = [k for k, name in enumerate(spec.options.pose.names) if name in ("tz", "ty", "tx")]
    variance: Floats = np.diagonal(solution.covariance, axis1=1, axis2=2)[solution.fitted][:, named]
    known = variance[np.isfinite(variance)]
    reach = slow_change(
        shifts,
        solution.fitted,
        estimate.neighbors,
        metric=spec.options.metric,
        smooth=fit.smooth,
        step=min(grid.spacing),
        sigma=math.sqrt(max(0.0, float(known.mean()))) if len(known) else 0.0,
    )
    if reach is None:
        return fit
    slow = np.zeros(len(fit.centre))
    slow[list(spec.keep)] = reach
    return replace(fit, slow=slow)


def _to_mean(spec: StackSpec, execution: Execution) -> tuple[PoseSolution, Bools, PairTable]:
    """The solution of the registration to the mean of the aligned slices, the blank slices, and the pairs of
    neighbours; the mean motion is the identity.

    The poses from pairs of neighbours are the initial ones.
    """
    model = spec.model
    task, pairs = _task_of_mean(spec, execution)
    found = register_to_reference(task, execution)
    solution = _solution(found)
    if not found.fitted.any():
        return solution, found.blank, pairs
    mean = model.algebra.mean(found.poses, found.fitted.astype(np.float64))
    poses = model.projection.project(found.poses @ np.linalg.inv(mean))
    return replace(solution, poses=poses), found.blank, pairs


def _task_of_mean(spec: StackSpec, execution: Execution) -> tuple[ReferenceTask, PairTable]:
    """The registration to the mean, from the poses of pairs of neighbours, and these pairs."""
    pairs, features, _ = fit_pairs_of(spec, execution)
    initial = solve_poses(pairs, features.blank, spec.model, first=True)
    start = SlicePoses(initial.poses, initial.fitted, features.blank, initial.scores, initial.covariance)
    return ReferenceTask(spec, start=start), pairs


def _solution(found: SlicePoses) -> PoseSolution:
    none, unknown = np.empty(0), np.full(len(found.poses), np.nan)
    return PoseSolution(
        found.poses, found.fitted, found.scores, found.covariance, (), none, none, unknown, 1.0, unknown
    )


def _with_trend(solution: PoseSolution, model: StackModel, trend: str, smooth: float) -> Floats:
    """The poses, for trend "keep" without their slow part."""
    if trend == "remove":
        return solution.poses
    slow = slow_part(solution.poses, solution.fitted.astype(np.float64), smooth, model.projection)
    return np.asarray(solution.poses @ np.linalg.inv(slow))


def _embedded(poses: Floats, ndim: int, keep: Sequence[int]) -> Floats:
    """Poses on the axes `keep` as matrices of `ndim` dimensions, identity on the other axes."""
    out = np.tile(np.eye(ndim + 1), (len(poses), 1, 1))
    index = np.array([*keep, ndim])
    out[:, index[:, None], index] = poses
    return out
