"""`align_stack(model="bspline")`: poses first, then the fields of all slices together."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import DegenerateImageError, EmptyMaskError, OptionError
from daskreg.fields import Composite, SliceDisplacements
from daskreg.geometry import Grid, SliceAffines, Transform
from daskreg.registration.deformable.judged import determinants
from daskreg.registration.deformable.register_bspline import control_spacing
from daskreg.registration.deformable.splines.control_grid import ControlGrid
from daskreg.stacks.elastic import judge
from daskreg.stacks.elastic.fit import ElasticStackFit
from daskreg.stacks.elastic.layers import Layer, largest_motion, reaching
from daskreg.stacks.elastic.task import (
    ElasticResult,
    ElasticTask,
    bridged,
    check_memory,
    fields_memory,
    run,
    slow_fields,
    tried_seconds,
)
from daskreg.stacks.estimate import Cost, StackRequest
from daskreg.stacks.execution import Execution
from daskreg.stacks.fit import StackFit
from daskreg.stacks.spans import StackSpec, middle
from daskreg.stacks.trajectory import interpolate_missing

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Layers = tuple[Layer, ...]

POSES = "rigid"
"""The model of the poses that the fields begin from. Shear and scale are motions of the coarsest control points, and
pairs of slices that are bent by much have no good affine map."""
_TRIED = 3
"""Slices, at most, whose fields are estimated to find out how long it takes."""
_LOST = {"blank", "mirrored", "unlike"}


def check_options(spec: StackSpec, reference: Any, previous: Any, common_line: str | None) -> None:
    """Raises: OptionError for what fields are not estimated with."""
    if reference not in ("neighbors", "previous"):
        raise OptionError(f"model='bspline' needs pairs of neighbours, not reference={reference!r}")
    if previous is not None or common_line is not None:
        raise OptionError("model='bspline' does not take previous= or common_line=")
    if len(spec.keep) < spec.reader.grid.ndim:
        raise OptionError("model='bspline' needs slices that are longer than one voxel along each axis")


@dataclass(frozen=True, eq=False)
class ElasticRequest(StackRequest):
    """A request for fields; `model` is that of the poses.

    Args:
        spacing: (D,) of the finest control points, world units.
    """

    spacing: tuple[float, ...] = ()

    def tried(self) -> Cost:
        """The cost of the poses, and that of the fields, which one worker estimates with half of its memory."""
        cost, count = super().tried(), self.spec.count
        part = self.spec.some(middle(count, _TRIED))
        cost = replace(cost, alone=None, memory=max(cost.memory, 2 * fields_memory(self.spec, self.spacing)))
        try:
            poses = replace(self, spec=part, anchors={}, checkpoint=None).poses(Execution(None))[0]
        except (DegenerateImageError, EmptyMaskError):  # these slices are blank
            return cost
        task = ElasticTask(part, poses.raw_from_aligned.matrices, self.spacing, (), self.reference == "previous")
        return replace(cost, alone=tried_seconds(task, count))

    def fit(self, execution: Execution) -> ElasticStackFit:  # type: ignore[override]
        """Estimate poses and fields.

        Raises: as `StackRequest.fit`; MemoryBudgetError.
        """
        began = time.perf_counter()
        if execution.client is None:
            check_memory(self.spec, self.spacing)
        affine, spec = self.poses(execution)
        mirrored = tuple(i for i, kind in affine.kinds.items() if kind == "mirrored")
        kept, first = tuple(self.anchors), self.reference == "previous"
        task = ElasticTask(spec, affine.raw_from_aligned.matrices, self.spacing, kept, first, mirrored)
        fit = _fit_of(run(task, execution), affine, task, trend=self.trend, smooth=self.smooth)
        return replace(fit, seconds=time.perf_counter() - began)


def of_request(request: StackRequest, spacing: float | Sequence[float] | None) -> ElasticRequest:
    """The same stack and options, for fields.

    Args:
        spacing: of the finest control points, world units.

    Raises: OptionError for what is no distance of control points.
    """
    shared = {f.name: getattr(request, f.name) for f in fields(StackRequest)}
    return ElasticRequest(**shared, spacing=control_spacing(spacing, request.spec.grid, request.spec.grid))


def _fit_of(found: ElasticResult, affine: StackFit, task: ElasticTask, *, trend: str, smooth: float) -> ElasticStackFit:
    spec = task.spec
    kinds = judge.kinds_of(dict(affine.kinds), found.rejected, found.chance, found.edges)
    fitted = np.array([kinds.get(i) not in _LOST for i in range(spec.count)])
    held = fitted | np.isin(np.arange(spec.count), task.kept)
    layers = tuple((grid, bridged(c, held)) for grid, c in found.layers)
    affine = _with_bridged_poses(affine, held, spec)
    slow: Layer | None = None
    if trend == "keep":
        slow = (found.control, slow_fields(bridged(found.total, held), fitted, smooth))
        away = largest_motion(slow[1])  # before all layers, and no inverse ends nearer
        (slow,), layers = reaching([slow], away), reaching(layers, away)
    transform = _transform(affine.raw_from_aligned, layers, slow, spec)
    breaks = judge.breaks_of(found.edges, found.useful, fitted)
    status = judge.status_of(
        kinds,
        fitted,
        found.blank,
        breaks,
        determined=found.determined,
        affine=found.affine,
        converged=found.converged,
    )
    return ElasticStackFit(
        raw_from_aligned=transform,
        affine=affine,
        status=affine.status if not len(found.edges) else judge.with_that_of_poses(status, affine.status),
        scores=found.scores,
        sigma=np.where(held.reshape(-1, *[1] * (found.sigma.ndim - 1)), found.sigma, np.nan),
        kinds=kinds,
        bridged=tuple(np.flatnonzero(~fitted).tolist()),
        breaks=breaks,
        rejected=found.rejected,
        jacobian=_jacobians(layers, slow, spec.grid),
        nodes=found.control.grid,
        layers=len(layers),
        parameters=found.total.size,
        determined=found.determined,
        spacing=found.control.spacing,
        reference=affine.reference,
        trend=trend,
        smooth=smooth,
        neighbors=affine.neighbors,
        metric=affine.metric,
        iterations=found.iterations,
        bad_voxels=affine.bad_voxels,
        _grid=spec.grid,
    )


def _with_bridged_poses(affine: StackFit, held: Bools, spec: StackSpec) -> StackFit:
    """The poses, with those of slices that are lost interpolated between their neighbours."""
    if held.all() or not held.any():
        return affine
    poses = interpolate_missing(affine.raw_from_aligned.matrices, held, spec.model.projection)
    lost = {*affine.bridged, *np.flatnonzero(~held).tolist()}
    return replace(
        affine, raw_from_aligned=replace(affine.raw_from_aligned, matrices=poses), bridged=tuple(sorted(lost))
    )


def _transform(poses: SliceAffines, layers: Layers, slow: Layer | None, spec: StackSpec) -> Transform:
    fields = [_field(control, c, spec) for control, c in layers]
    return Composite.of(poses, *fields, *([_field(*slow, spec).inverse()] if slow else []))


def _field(control: ControlGrid, coefficients: Floats, spec: StackSpec) -> SliceDisplacements:
    vectors = np.einsum("ab,nb...->na...", control.image.direction_matrix, coefficients)
    return SliceDisplacements(vectors, control.grid, spec.source.dims[spec.position], order=3)


def _jacobians(layers: Layers, slow: Layer | None, grid: Grid) -> Floats:
    """(N, 3) least, median and greatest determinants of the fields of each slice.

    Args:
        slow: the fields whose inverse is applied first.
    """
    coarse = grid.downsample(tuple(max(1, n // 256) for n in grid.shape))
    found = []
    for i in range(len(layers[-1][1])):
        parts: list[Transform] = [g.field(c[i]) for g, c in layers]
        if slow is not None:
            parts.append(slow[0].field(slow[1][i]).inverse())
        low, _, middle, _, high = determinants(Composite.of(*parts), coarse)
        found.append((low, middle, high))
    return np.array(found)
