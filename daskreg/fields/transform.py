"""`FieldTransform`: what displacement fields and chains with them answer alike."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from daskreg.errors import InvalidTransformError, NoOverlapError, OptionError, ShapeMismatchError
from daskreg.fields.chain import FieldPart, FieldStep, Part, displacement_of, follow, interval, steps_of
from daskreg.fields.folding import warn_of_folds
from daskreg.fields.index_map import DisplacedIndexMap
from daskreg.geometry import Box, Grid, SliceAffines, Transform, WarpedBounds
from daskreg.geometry.registry import kinds
from daskreg.geometry.slices import SlicePlanes, slice_offset, slice_planes, slice_position
from daskreg.sampling.displacements import Displaced
from daskreg.sampling.stretch import stretch

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from daskreg.reporting.section import Section

Floats = NDArray[np.float64]


class FieldTransform(Transform):
    """A transform with at least one displacement field: a field, or a chain of fields and affine maps."""

    axis: int | str
    start = 0

    @property
    @abstractmethod
    def slices(self) -> int | None:
        """How many slices it has maps for; None for a map of whole volumes, or of every slice."""

    @abstractmethod
    def chain(self, first: int, count: int) -> list[Part]:
        """The parts in the order in which they are applied, for some slices."""

    @property
    def array_ndim(self) -> int:
        return self.ndim + (self.slices is not None)

    @property
    def stop(self) -> int:
        """One more than the number of the last slice that has a map of its own; 0 where one map is for all."""
        return self.slices or 0

    def __call__(self, points: ArrayLike, index: ArrayLike | None = None) -> Floats:
        """Where (..., D) world points go; `index` (...) is the slice of each, where slices have maps of their own.

        Points outside a field are not displaced by it. The inverse of a field is found by Newton's method, to 1e-9 of
        the distance of the nodes; where the field folds, it is one of several points, or none is found and the last
        estimate returned (`folds` tells).
        """
        p = np.asarray(points, dtype=np.float64)
        if p.shape[-1:] != (self.ndim,):
            raise ShapeMismatchError(f"points of shape (N, {self.ndim}) are needed, not {p.shape}")
        flat = p.reshape(-1, self.ndim)
        if self.slices is None:
            return self._moved(flat, 0).reshape(p.shape)
        if index is None:
            raise OptionError("give index=, the slice of each point: every slice has a map of its own")
        i = np.broadcast_to(np.asarray(index, dtype=np.intp), p.shape[:-1]).ravel()
        if np.any((i < 0) | (i >= self.slices)):
            raise IndexError(f"slices {i.min()}..{i.max()} are not all among 0..{self.slices - 1}")
        moved = np.empty_like(flat)
        for number in np.unique(i):
            moved[i == number] = self._moved(flat[i == number], int(number))
        return moved.reshape(p.shape)

    def determinants(self, points: Floats, number: int = 0) -> Floats:
        """(N,) determinants of the derivative at (N, D) points of one slice."""
        return self._path(points, number).determinants(points)

    def stretch(self, plane: Grid, box: Box, number: int = 0) -> Floats:
        """(*box.shape) determinants of the derivative at the voxels of a box of a grid, of one slice."""
        steps = steps_of(self.chain(number, 1), plane.matrix, np.eye(self.ndim + 1))
        _, _, boxes = follow(steps, range(1), np.asarray(box.start, float), np.asarray(box.stop) - 1.0)
        made = (displacement_of(step, 0, nodes.box(0)) for step, nodes in zip(steps, boxes, strict=True))
        return np.asarray(stretch(Displaced(tuple(made)), box) / np.linalg.det(plane.matrix))

    def _moved(self, points: Floats, number: int) -> Floats:
        """(N, D) points of one slice."""
        return self._path(points, number)(points) if len(points) else points.copy()

    def _path(self, points: Floats, number: int) -> Displaced:
        """The steps of one slice, with the vectors around some points."""
        if not np.isfinite(points).all():
            raise InvalidTransformError("points must be finite to be displaced")
        eye = np.eye(self.ndim + 1)
        steps = steps_of(self.chain(number, 1), eye, eye)
        _, _, boxes = follow(steps, range(1), points.min(axis=0), points.max(axis=0))
        made = (displacement_of(step, 0, box.box(0)) for step, box in zip(steps, boxes, strict=True))
        return Displaced(tuple(made))

    def __matmul__(self, other: object) -> Transform:
        """`(a @ b)(p) == a(b(p))`, a `Composite`."""
        return _composed(self, other) if isinstance(other, Transform) else NotImplemented

    def __rmatmul__(self, other: object) -> Transform:
        return _composed(other, self) if isinstance(other, Transform) else NotImplemented

    def plot(self, grid: Grid | None = None, **options: Any) -> Figure:
        """The transform as a warped grid, as arrows, and as a map of how much it stretches space.

        Args:
            grid: what is shown; default the nodes of the field that is applied first, between which it is known.
            options: see `daskreg.reporting.field_plots.field_figure`.
        """
        from daskreg.reporting.field_plots import field_figure

        return field_figure(self, grid or self._nodes, **options)

    def section(self, grid: Grid | None = None) -> Section:
        """What a page shows of the transform; see `report`."""
        from daskreg.fields.section import field_section

        return field_section(self, grid or self._nodes)

    def report(
        self, path: str | os.PathLike[str], *, grid: Grid | None = None, title: str = "", command: str = ""
    ) -> Path:
        """Write one HTML page: the warped grid, arrows with their scale, where it stretches, and whether it folds.

        Args:
            grid: what is shown; default the nodes of the field that is applied first, between which it is known.
            title: heading of the page.
            command: the line of a terminal that made it.

        Returns: the path of the page.
        """
        from daskreg.reporting.page import report

        def own() -> Section:
            return self.section(grid)

        facts = {"transform": repr(self), "unit": self.unit or "any"}
        return report(facts, path, title=title or "daskreg: a displacement field", sections=[own], command=command)

    @property
    def _nodes(self) -> Grid:
        """The nodes of the field that is applied first, between which it is known."""
        part = next(part for part in self.chain(0, 1) if isinstance(part, FieldPart))
        if part.order == 1:
            return part.grid
        return part.grid.crop(Box((1,) * part.grid.ndim, tuple(n - 1 for n in part.grid.shape)))

    def _repr_html_(self) -> str:
        """What a notebook shows: the text, and the figure of `plot` where matplotlib is installed."""
        from daskreg.reporting.notebook import plain_html

        return plain_html(self)

    def index_map(self, out: Grid, source: Grid, dims: Sequence[str]) -> DisplacedIndexMap:
        """How `out` is sampled from `source`; see `Transform.index_map`.

        A map of images acts on every slice of a volume.

        Raises: also GridError where the output's slices are not slices of the source, and NoOverlapError where all
            fields lie elsewhere, so that none would move anything. Warns (FoldWarning) where an inverse has folds.
        """
        self.check_grids(out, source)
        planes = self._planes(out, source, dims)
        parts = self.chain(planes.offset, planes.count)
        steps = steps_of(parts, planes.out.matrix, planes.source.inverse_matrix)
        _check_reached(steps, planes.out, planes.count)
        _warn_of_folds(steps, planes.out, planes.count)
        stack = None if self.slices is None else planes.stack
        return DisplacedIndexMap(steps, planes.sampled, planes.offsets, stack)

    def _planes(self, out: Grid, source: Grid, dims: Sequence[str]) -> SlicePlanes:
        if self.slices is not None:
            return slice_planes(self, out, source, dims)
        lead = len(dims) - source.ndim
        sampled = tuple(range(len(dims) - self.ndim, len(dims)))
        if self.ndim == source.ndim:
            return SlicePlanes(out, source, sampled, (0,) * len(dims), -1, 0, 1)
        if self.ndim != source.ndim - 1:
            raise InvalidTransformError(f"a {self.ndim}D transform does not apply to a volume with axes {source.names}")
        offset = slice_offset(out, source, 0)
        inside = range(1, source.ndim)
        offsets = tuple(offset if k == lead else 0 for k in range(len(dims)))
        return SlicePlanes(out.take(inside), source.take(inside), sampled, offsets, -1, 0, 1)

    def warped_bounds(self, source: Grid, dims: Sequence[str]) -> WarpedBounds:
        """Where the voxels of `source` are brought; of points that lie at most a 32nd of the grid apart."""
        back = self.inverse()
        axes, numbers = list(range(source.ndim - self.ndim, source.ndim)), [0]
        if self.slices is not None:
            stack = slice_position(self, dims, source.names) - (len(dims) - source.ndim)
            axes, numbers = [k for k in range(source.ndim) if k != stack], list(range(self.slices))
        plane = source.take(axes)
        last = np.asarray(plane.shape) - 1.0
        index = np.stack(np.meshgrid(*(np.linspace(0, n, min(33, int(n) + 1)) for n in last), indexing="ij"), -1)
        moved = [plane.index(back(plane.world(index), np.full(index.shape[:-1], number))) for number in numbers]
        return _bounds_of(source, axes, np.stack(moved))


def _check_reached(steps: Sequence[FieldStep], out: Grid, count: int) -> None:
    """Raise NoOverlapError where no voxel of `out` comes among the nodes of a field of a chain, in `count` slices."""
    last = np.asarray(out.shape) - 1.0
    if _reaches_first(steps[0], last):
        return
    _, _, boxes = follow(steps, range(count), np.zeros(len(last)), last)
    if any(not box.union.empty for box in boxes):
        return
    first = steps[0].part
    which = f"the displacement field {first.source.path} lies" if len(steps) == 1 else (
        f"all {len(steps)} displacement fields, the first of them {first.source.path}, lie")  # fmt: skip
    raise NoOverlapError(
        f"{which} elsewhere and would move nothing: the nodes {first.grid} do not touch the image {out}; check the "
        "origin, the unit and the order of the axes of the grid"
    )


def _warn_of_folds(steps: Sequence[FieldStep], out: Grid, count: int) -> None:
    """Warn where the inverse of a field is used among nodes at which it folds."""
    if any(step.part.inverse for step in steps):
        _, _, boxes = follow(steps, range(count), np.zeros(out.ndim), np.asarray(out.shape) - 1.0)
        for step, nodes in zip(steps, boxes, strict=True):
            if step.part.inverse:
                warn_of_folds(step.part, nodes)


def _reaches_first(step: FieldStep, last: Floats) -> bool:
    """Whether a voxel, of indices 0..`last`, comes among the nodes of the first field."""
    nodes = step.part.grid
    margin = np.abs(step.limits).max(axis=0) if step.part.inverse else np.zeros(nodes.ndim)
    lower, upper = interval(step.into, np.zeros((1, nodes.ndim)), last[None])
    low, high = interval(nodes.inverse_matrix[None], lower - margin, upper + margin)
    return not np.all(np.any((high < -0.5) | (low > np.asarray(nodes.shape) - 0.5), axis=1))


def _composed(a: Transform, b: Transform) -> Transform:
    """`a @ b`: a `Composite`, which is a subclass and so is found by its name."""
    return cast(Transform, kinds()["composite"].of(a, b))  # type: ignore[attr-defined]


def _bounds_of(grid: Grid, axes: Sequence[int], moved: Floats) -> WarpedBounds:
    """Of points (N, *samples, d), in indices along `axes`, that lay on a regular grid up to the border of `grid`."""
    lower, upper = np.zeros(grid.ndim), np.asarray(grid.shape) - 1.0
    inner_lower, inner_upper = lower.copy(), upper.copy()
    for k, axis in enumerate(axes):
        x = np.moveaxis(moved[..., k], k + 1, 0)
        lower[axis], upper[axis] = x.min(), x.max()
        inner_lower[axis], inner_upper[axis] = x[0].max(), x[-1].min()
    return WarpedBounds(lower, upper, inner_lower, inner_upper)


def sliced_count(parts: Sequence[Transform]) -> tuple[int | None, int | str]:
    """How many slices transforms have maps for, and along which axis.

    Raises: ShapeMismatchError where they differ.
    """
    if any(p.start for p in parts if isinstance(p, SliceAffines)):
        raise ShapeMismatchError(
            "maps of some slices of a stack do not compose with fields: restrict the product instead"
        )
    found: list[tuple[int, int | str]] = [(p.stop - p.start, p.axis) for p in parts if isinstance(p, SliceAffines)]
    found += [(p.slices, p.axis) for p in parts if isinstance(p, FieldTransform) and p.slices is not None]
    if any(one != found[0] for one in found[1:]):
        text = " and ".join(f"{n} slices along {axis!r}" for n, axis in dict.fromkeys(found))
        raise ShapeMismatchError(f"transforms with {text} do not compose")
    return found[0] if found else (None, 0)
