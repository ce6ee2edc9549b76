"""`align_projections`: the poses of projections, the axis of rotation and its centre, estimated together.

fit = daskreg.tomography.align_projections(projections, angles, unit="degrees")
volume = daskreg.tomography.reconstruct(projections, angles, fit=fit, unit="degrees")
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.cluster.client import chosen_client
from daskreg.errors import InputError, OptionError
from daskreg.geometry import SliceAffines
from daskreg.runtime.progress import Progress, at_stage, shows_progress
from daskreg.tomography.angles import in_radians
from daskreg.tomography.estimate import Fixed, Solution, Uncertainty, parameters_of, solve, uncertainty
from daskreg.tomography.fit import TiltFit, TiltStatus
from daskreg.tomography.matching import Problem
from daskreg.tomography.options import finite_number, whole_number
from daskreg.tomography.poses import MODELS, constant_and_waves, shifts_of, turns_of
from daskreg.tomography.series import (
    Projections,
    binned,
    check_angles,
    columns_of_levels,
    level_of,
    projections_of,
    unusable,
)

__all__ = ["TiltFit", "TiltStatus", "align_projections"]

Floats = NDArray[np.float64]

_SQUARE = 1e-3  # relative: of detectors, whose spacings are rounded


@shows_progress("aligning projections")
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
    client: Any = None,
    progress: bool | Progress | None = None,
) -> TiltFit:
    """Find where each pixel of aligned projections lies in the raw ones.

    The poses and the volume are estimated together (see `matching`), from projections whose pixels are averaged, so
    that they fit the memory; batches of projections are read one after the other. Where it starts needs no
    reconstruction (see `coarse`).

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
        client: a distributed Client that computes lazy projections; default the current one.
        progress: True shows a bar; or called with (stages done, stages): the projections are read, each level is
            aligned, and the result is judged.

    Returns: a TiltFit; `fit.ok` and `fit.outliers` say whether it can be used.

    Raises: OptionError for unknown options; UnitError for angles whose unit is not known; ShapeMismatchError for
        another number of angles; InputError for angles that are not finite or too few, and for pixels that are not
        square where the axis may be turned; ChannelError;
        DegenerateImageError; EmptyMaskError.
    """
    start = time.perf_counter()
    if model not in MODELS:
        raise OptionError(f"model={model!r}: use {', '.join(MODELS)}")
    given = projections_of(
        projections, axis=axis, channel=channel, channel_axis=channel_axis, flats=flats, darks=darks, mask=mask
    )
    if whole_number("max_steps", max_steps) < 1:
        raise OptionError(f"max_steps={max_steps}: use 1 or more")
    radians = in_radians(angles, given.shape[0], unit)
    check_angles(radians)
    fixed = _fixed(given, centre, axis_angle)
    own, shared = parameters_of(model, fixed.turn is not None, given.shape[1])
    _check_pixels(given, bool(shared) or bool(fixed.turn) or "theta" in own)
    with _computing(client), at_stage("reading"):
        problems, kinds, unit_of_data = _problems(given, radians, level, own, shared)
    stages = _Stages(progress if callable(progress) else None, len(problems) + 2)
    stages.end_one()
    solution = solve(problems, fixed, max_steps, stages.end_one)
    spread, residuals = uncertainty(solution, problems[0], fixed)
    stages.end_one()
    spread = replace(spread, noise=spread.noise * unit_of_data)
    kinds = dict(kinds) | dict.fromkeys(solution.unlike, "unlike")
    seconds = time.perf_counter() - start
    return _fit(given, solution, spread, residuals, kinds, model=model, seconds=seconds)


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
    turn = None if turn is None else -turn if given.transposed else turn
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


def _problems(
    given: Projections, radians: Floats, level: int | str, own: tuple[str, ...], shared: tuple[str, ...]
) -> tuple[list[Problem], dict[int, str], float]:
    """One problem for each level, coarse to fine, the projections that cannot be used, and by what those of the finest
    level were divided."""
    found: list[Problem] = []
    kinds: dict[int, str] = {}
    used = np.ones(len(radians), dtype=bool)
    divisor = 1.0
    for columns in columns_of_levels(given.shape, radians, level):
        pixels = level_of(given, columns)
        data, valid = binned(given, pixels)
        if not found:
            kinds = unusable(data, valid, radians)
            used[list(kinds)] = False
        divisor = max(float(data[used].std()), 1e-30)
        data /= divisor
        found.append(Problem(data, valid, radians, pixels, own, shared, used))
    return found, kinds, divisor


def _fit(
    given: Projections,
    solution: Solution,
    spread: Uncertainty,
    residuals: Floats,
    kinds: dict[int, str],
    *,
    model: str,
    seconds: float,
) -> TiltFit:
    problem, poses = solution.problem, solution.poses
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
    if not spread.consistent:
        status = TiltStatus.INCONSISTENT
    return TiltFit(
        projections_from_aligned=SliceAffines(world, given.dim, plane.names, plane.unit),
        angles=problem.radians,
        rotation_axis="x" if given.transposed else "y",
        axis=turn,
        centre=(given.shape[2] - 1) / 2 + across / float(np.cos(turn)),
        sigma=sigma,
        residuals=residuals,
        kinds=dict(sorted(kinds.items())),
        status=status,
        agreement=spread.agreement,
        noise=spread.noise,
        disagreement=spread.disagreement,
        model=model,
        middle=tuple(
            float(o + s * (n - 1) / 2) for o, s, n in zip(plane.origin, plane.spacing, plane.shape, strict=True)
        ),
        binning=problem.factor,
        steps=solution.steps,
        seconds=seconds,
    )
