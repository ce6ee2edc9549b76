"""`align_projections`: the poses of projections, the axis of rotation and its centre, estimated together.

fit = daskreg.tomography.align_projections(projections, angles, unit="degrees")
volume = daskreg.tomography.reconstruct(projections, angles, fit=fit, unit="degrees")
"""

from __future__ import annotations

import os
import time
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.blocks.memory import memory_limit
from daskreg.cluster.client import chosen_client
from daskreg.errors import InputError, OptionError
from daskreg.geometry import SliceAffines
from daskreg.reporting.recipe import remembers
from daskreg.runtime.progress import Progress, at_stage, shows_progress
from daskreg.tomography.angles import check_angles, in_radians
from daskreg.tomography.estimate import Solution, Uncertainty, parameters_of, solve, uncertainty
from daskreg.tomography.fit import TiltFit, TiltStatus
from daskreg.tomography.matching import Problem, without_images
from daskreg.tomography.options import finite_number, whole_number
from daskreg.tomography.poses import MODELS, Fixed, Level, constant_and_waves, shifts_of, turns_of
from daskreg.tomography.row_blocks import RowLevel, check_rows, refined
from daskreg.tomography.row_file import RowFile, RowPlace, key_of
from daskreg.tomography.series import (
    Projections,
    binned,
    columns_of_levels,
    fits,
    level_of,
    projections_of,
    unusable,
)

__all__ = ["TiltFit", "TiltStatus", "align_projections"]

Floats = NDArray[np.float64]

_BATCHES = 32  # of projections that are read at once, in the memory that may be used
_SQUARE = 1e-3  # relative: of detectors, whose spacings are rounded


@shows_progress("aligning projections")
@remembers("projections", "angles", within="dr.tomography")
def align_projections(
    projections: Any,
    angles: Any,
    *,
    unit: str | None = None,
    centre: float | str = "auto",
    axis_angle: float | str = "auto",
    axis: str = "y",
    model: str = "translation",
    level: int | str = "auto",
    mask: Any = None,
    flats: Any = None,
    darks: Any = None,
    channel: int | str | None = None,
    channel_axis: int | None = None,
    max_steps: int = 12,
    memory: str | int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    client: Any = None,
    progress: bool | Progress | None = None,
) -> TiltFit:
    """Find where each pixel of aligned projections lies in the raw ones.

    The poses and the volume are estimated together (see `matching`), from projections whose pixels are averaged;
    batches of projections are read one after the other. Where it starts needs no reconstruction (see `coarse`). With
    `memory`, a level that does not fit is written to a file and refined by blocks of rows (see `row_blocks`), after the
    finest one that fits; the standard deviations of the axis and the centre are then of that, and the fit is consistent
    where both levels are.

    Args:
        projections: (angles, rows, columns) DataArray, dask or NumPy array, of line integrals, such as attenuation
            or a scattered intensity; of transmitted intensity with `flats`. Further axes are channels.
        angles: (angles,) radians, or in `unit`; about 180 or 360 degrees, or less.
        unit: of the angles, "radians" or "degrees"; by default `angles.attrs["units"]`, else radians.
        centre: "auto", or the column of the axis in the middle row of the detector, an index (`center_of_rotation`).
        axis_angle: "auto", or theta of the axis in the plane of the detector, radians.
        axis: of the detector, along which the axis of rotation is: "y", down the columns, or "x", along the rows. All
            that is said here of rows and columns is then the other way round.
        model: "translation": each projection is shifted, and the axis turns all alike; "rigid": each is turned by
            itself too; "similarity": and magnified. The magnifications have the geometric mean 1 (the gauge).
        level: "auto", as fine as so many angles make useful; or a number: means of 2**level pixels on a side.
        mask: positive where pixels count, of the shape of the projections or of one.
        flats, darks: (rows, columns) or several, images without specimen, and without beam. With flats, the negative
            logarithm is taken.
        channel: number or label; "sum" for the sum of all channels.
        channel_axis: position of the channels in an array of four axes; default the first.
        max_steps: of Gauss-Newton on each level.
        memory: that may be used, beyond what is in use before, bytes or such as "1 GiB"; default: the finest level is
            one of at most 2**27 pixels.
        checkpoint: a file in which finished blocks are kept, so that the same call continues after an interruption;
            the rows of the level lie beside it until the end, else in the folder for temporary files (TMPDIR), which
            may be in memory.
        client: a distributed Client that computes lazy projections; default the current one. One that is passed, with
            a checkpoint in a folder that its workers see, also works on the blocks.
        progress: True shows a bar; or called with (stages done, stages): the projections are read, each level is
            aligned, and the result is judged.

    Returns: a TiltFit; `fit.ok` and `fit.outliers` say whether it can be used.

    Raises: OptionError for unknown options; UnitError for angles whose unit is not known; ShapeMismatchError for
        another number of angles; InputError for angles that are not finite or too few, and for pixels that are not
        square where the axis may be turned; ChannelError;
        DegenerateImageError; EmptyMaskError; StorageFullError and OutputError where rows cannot be written.
    """
    start = time.perf_counter()
    given = projections_of(
        projections, axis=axis, channel=channel, channel_axis=channel_axis, flats=flats, darks=darks, mask=mask
    )
    radians = in_radians(angles, given.shape[0], unit)
    fixed = _fixed(given, centre, axis_angle)
    task = _task(given, radians, fixed, model=model, level=level, max_steps=max_steps, memory=memory)
    with ExitStack() as opened:
        place = None
        if task.in_blocks:
            key = (
                ""
                if checkpoint is None
                else key_of(projections, (mask, flats, darks, channel, channel_axis), task.asked)
            )
            place = opened.enter_context(RowPlace.opened(checkpoint, key, client))
        with _computing(client), at_stage("reading"):
            read = _read(task, place)
        stages = _Stages(progress if callable(progress) else None, len(task.columns) + 2)
        stages.end_one()
        estimate = _estimate(task, read, place, stages)
        stages.end_one()
    return _fit(task.given, estimate, read.kinds, model=model, seconds=time.perf_counter() - start)


@dataclass(frozen=True)
class _Task:
    """What is asked, checked; nothing is read.

    Args:
        own, shared: names of the parameters of each projection, and of all.
        columns: that are averaged on each level, coarse to fine.
        budget: bytes that may be used, or None.
    """

    given: Projections
    radians: Floats
    fixed: Fixed
    own: tuple[str, ...]
    shared: tuple[str, ...]
    columns: list[int]
    max_steps: int
    budget: int | None

    @property
    def in_blocks(self) -> bool:
        """Whether the finest level is worked on by blocks of rows."""
        return self.budget is not None and not fits(self.given.shape, self.columns[-1], self.budget)

    @property
    def asked(self) -> tuple[Any, ...]:
        """What a checkpoint has to agree in, besides what is read."""
        axis = "x" if self.given.transposed else "y"
        radians = (self.radians + 0.0).tobytes()  # without -0.0
        return radians, axis, self.columns, self.own, self.shared, self.fixed, self.max_steps

    def levels(self) -> list[Level]:
        return [level_of(self.given, n) for n in self.columns]


def _task(
    given: Projections,
    radians: Floats,
    fixed: Fixed,
    *,
    model: str,
    level: int | str,
    max_steps: int,
    memory: str | int | None,
) -> _Task:
    if model not in MODELS:
        raise OptionError(f"model={model!r}: use {', '.join(MODELS)}")
    if whole_number("max_steps", max_steps) < 1:
        raise OptionError(f"max_steps={max_steps}: use 1 or more")
    check_angles(radians)
    own, shared = parameters_of(model, fixed.turn is not None, given.shape[1])
    _check_pixels(given, bool(shared) or bool(fixed.turn) or "theta" in own)
    budget = None if memory is None else memory_limit(memory, None)
    if budget is not None:
        given = replace(given, batch_bytes=min(given.batch_bytes, max(budget // _BATCHES, 1)))
    columns = columns_of_levels(given.shape, radians, level, budget)
    task = _Task(given, radians, fixed, own, shared, columns, max_steps, budget)
    if budget is not None and task.in_blocks:
        check_rows(level_of(given, columns[-1]), given.shape[0], budget)
    return task


@dataclass(frozen=True)
class _Estimate:
    """A solution, how certain it is, the residuals (A,), and on what level and in how many blocks it was found."""

    solution: Solution
    spread: Uncertainty
    residuals: Floats
    binning: int
    blocks: int = 0


def _estimate(task: _Task, read: _Levels, place: RowPlace | None, stages: _Stages) -> _Estimate:
    """In memory, and then, where there is a file of rows, by blocks of them. The problems are removed from `read`."""
    solution = solve(read.problems, task.fixed, task.max_steps, stages.end_one)
    spread, residuals = uncertainty(solution, read.problems[0], task.fixed)
    found = _Estimate(solution, spread, residuals, solution.problem.factor)
    if place is not None and read.file is not None and task.budget is not None:
        means = solution.problem.data.mean(axis=(1, 2), dtype=np.float64)
        rows = RowLevel(read.file, task.levels()[-1], means, read.background, read.divisor, task.budget)
        coarse = replace(solution, problem=without_images(solution.problem), at=None)
        del solution, found  # and the images with them
        read.problems.clear()
        refinement = refined(rows, coarse, task.fixed, most=task.max_steps, work=place.work)
        spread, residuals = refinement.uncertainty(spread, coarse.problem, task.columns[-1])
        found = _Estimate(refinement.solution(coarse), spread, residuals, task.columns[-1], refinement.totals.blocks)
        stages.end_one()
    return replace(found, spread=replace(found.spread, noise=found.spread.noise * read.divisor))


@dataclass
class _Stages:
    """Tells how many stages of an estimate are done."""

    progress: Progress | None
    total: int
    done: int = 0

    def end_one(self) -> None:
        self.done += 1
        if self.progress is not None:
            self.progress(self.done, self.total)


def _fixed(given: Projections, centre: float | str, axis_angle: float | str) -> Fixed:
    values = {}
    for name, value in (("centre", centre), ("axis_angle", axis_angle)):
        values[name] = None if isinstance(value, str) and value == "auto" else finite_number(name, value, "'auto' or a")
    turn = values["axis_angle"]
    turn = None if turn is None else (-turn if given.transposed else turn) + 0.0  # not -0.0
    off = None if values["centre"] is None else values["centre"] - (given.shape[2] - 1) / 2
    if off is not None and abs(off) > given.shape[2] / 2:
        raise OptionError(f"centre={centre!r} is outside of the {given.shape[2]} columns")
    return Fixed(turn, off if off is None or turn is None else off * float(np.cos(turn)), given.shape[2])


def _computing(client: Any) -> AbstractContextManager[Any]:
    chosen = chosen_client(client) if client else None
    context: AbstractContextManager[Any] = nullcontext() if chosen is None else chosen.as_current()
    return context


def _check_pixels(given: Projections, turned: bool) -> None:
    """A turn in the plane of the detector is one of indices, so that it needs square pixels."""
    rows, columns = given.grid.spacing[1:]
    if turned and not np.isclose(rows, columns, rtol=_SQUARE):
        raise InputError(
            f"pixels of {rows:.4g} x {columns:.4g} are not square, which a turned axis of rotation needs: resample the "
            "projections, or pass axis_angle=0"
        )


@dataclass(frozen=True)
class _Levels:
    """What was read.

    Args:
        problems: of the levels in memory, coarse to fine.
        kinds: projections that cannot be used.
        background, divisor: of the values of the last of them.
        file: of the rows of the level that is not in memory.
    """

    problems: list[Problem]
    kinds: dict[int, str]
    background: float
    divisor: float
    file: RowFile | None


def _read(task: _Task, place: RowPlace | None) -> _Levels:
    """All levels, in one pass."""
    file, radians, levels = None, task.radians, task.levels()
    if place is None:
        made = binned(task.given, levels)
    else:
        file = place.rows(levels[-1], len(radians))
        made = binned(task.given, levels if not place.written else levels[:-1], None if place.written else file.write)
        file = place.end_writing(file)
    kinds = unusable(*made[0][:2], radians)
    used = np.ones(len(radians), dtype=bool)
    used[list(kinds)] = False
    problems = []
    for level, (data, valid, _) in zip(levels, made, strict=False):  # without the one in a file
        divisor = max(float(data[used].std()), 1e-30)
        np.divide(data, divisor, out=data)
        problems.append(Problem(data, valid, radians, level, task.own, task.shared, used))
    return _Levels(problems, kinds, made[-1][2], divisor, file)


def _fit(given: Projections, estimate: _Estimate, kinds: dict[int, str], *, model: str, seconds: float) -> TiltFit:
    solution, spread = estimate.solution, estimate.spread
    problem, poses = solution.problem, solution.poses
    kinds = kinds | dict.fromkeys(solution.unlike, "unlike")
    turn = float(turns_of(poses)[problem.used].mean())
    across = constant_and_waves(shifts_of(poses)[:, 1], problem.radians, problem.used, given.shape[2])[0]
    plane = given.grid.take((1, 2))
    matrices = problem.level.indices(poses)
    if given.transposed:
        order = [1, 0, 2]
        matrices, turn = matrices[:, order][:, :, order], -turn
    world = plane.matrix @ matrices @ np.linalg.inv(plane.matrix)
    spacing = dict(zip(("tx", "ty") if given.transposed else ("ty", "tx"), plane.spacing, strict=True))
    names = {"ty": "tx", "tx": "ty"} if given.transposed else {}
    sigma: dict[str, Any] = {
        names.get(name, name): spread.own[:, k] * spacing.get(name, 1.0) for k, name in enumerate(problem.names)
    }
    sigma |= {"axis": spread.turn, "centre": spread.centre}
    status = TiltStatus.CONVERGED if solution.settled else TiltStatus.UNSETTLED
    if not spread.determined:
        status = TiltStatus.UNDETERMINED
    if not spread.consistent:
        status = TiltStatus.INCONSISTENT
    return TiltFit(
        projections_from_aligned=SliceAffines(world, given.dim, plane.names, plane.unit),
        angles=problem.radians,
        rotation_axis="x" if given.transposed else "y",
        axis=turn,
        centre=(given.shape[2] - 1) / 2 + across / float(np.cos(turn)),
        sigma=sigma,
        residuals=estimate.residuals,
        kinds=dict(sorted(kinds.items())),
        status=status,
        agreement=spread.agreement,
        noise=spread.noise,
        disagreement=spread.disagreement,
        model=model,
        middle=tuple(
            float(o + s * (n - 1) / 2) for o, s, n in zip(plane.origin, plane.spacing, plane.shape, strict=True)
        ),
        binning=estimate.binning,
        blocks=estimate.blocks,
        steps=solution.steps,
        seconds=seconds,
    )
