"""`Displaced`: coordinates of output voxels that go through displacement fields on their way to the source.

The voxel with index i is sampled at x_n, where x_0 = i and each step adds a displacement:

    forward   x_{k+1} = onward . (p + u(nodes . p)),      p = into . x_k
    inverse   x_{k+1} = onward . q,   the q with   q + u(nodes . q) = p

p and q are points of the field's world, u is interpolated between the field's nodes. Affine maps between fields are
parts of `into` and `onward`, so that the image is interpolated once, whatever the number of transforms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import ShapeMismatchError
from daskreg.geometry.grid import snapped

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Displacement:
    """One step through a field.

    Args:
        into: (D+1, D+1) from the coordinates before the step to the field's world.
        nodes: (D+1, D+1) from the field's world to fractional indices of its nodes.
        onward: (D+1, D+1) from the field's world to the coordinates after the step.
        vectors: (D, *crop), an array or a tensor: displacements (order 1) or coefficients of cubic B-splines (order 3)
            at the nodes, in the field's world, array order.
        start: index of the first node that `vectors` holds.
        shape: number of nodes of the whole field along each axis.
        order: 1, linear between the nodes, up to half a spacing beyond the outermost; 3, cubic B-splines, from the
            second to the last but one node. Elsewhere the displacement is zero.
        inverse: whether the step goes against the field.
        limits: least and greatest displacement of the whole field along each axis, zero included, (2, D); for an
            inverse, whose solution is sought between them.
    """

    into: Floats
    nodes: Floats
    onward: Floats
    vectors: Any
    start: tuple[int, ...]
    shape: tuple[int, ...]
    order: int = 1
    inverse: bool = False
    limits: Floats | None = None

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @cached_property
    def direct(self) -> Floats:
        """(D+1, D+1) past the field: from the coordinates before the step to those after it."""
        return snapped(self.onward @ self.into)

    @cached_property
    def across(self) -> Floats:
        """(D+1, D+1) from the coordinates before the step to the nodes."""
        return snapped(self.nodes @ self.into)

    @property
    def along_rows(self) -> bool:
        """Whether only the last index of the nodes changes along a row of the coordinates before the step."""
        return not self.across[:-2, -2].any()

    @property
    def ends(self) -> tuple[list[float], list[float]]:
        """From where on, and below which node coordinates, a point lies in the field."""
        if self.order == 1:
            return [-0.5] * self.ndim, [n - 0.5 for n in self.shape]
        return [1.0] * self.ndim, [math.nextafter(n - 2.0, math.inf) for n in self.shape]


@dataclass(frozen=True, eq=False)
class Displaced:
    """Where in the source the voxels of an output are sampled: what all steps make of an index.

    Args:
        lower, upper: (D,) bounds of the coordinates of all voxels that are sampled, if they are known.
    """

    steps: tuple[Displacement, ...]
    lower: Floats | None = None
    upper: Floats | None = None

    @property
    def ndim(self) -> int:
        return self.steps[0].ndim

    def compiled(self, *, rows: bool, stretch: bool = False) -> tuple[Any, ...]:
        """The steps as the compiled kernel takes them; see `displacements_numba`.

        Args:
            rows: whether they are for rows of an output, along which the first step may be quicker, or for points.
            stretch: whether it is asked how much they stretch space.
        """
        return tuple(_compiled(step, first=rows and not k, stretch=stretch) for k, step in enumerate(self.steps))

    def slope(self, axis: int) -> Floats:
        """How far (D,) the affine parts alone move from one index of the output to the next along `axis`."""
        direction: Floats = np.eye(self.ndim)[axis]
        for step in self.steps:
            direction = step.onward[:-1, :-1] @ (step.into[:-1, :-1] @ direction)
        return direction

    def within(self, lower: Floats, upper: Floats) -> bool:
        """Whether all coordinates are known to be in lower <= x < upper."""
        if self.lower is None or self.upper is None:
            return False
        return bool(np.all(self.lower >= lower) and np.all(self.upper < upper))

    def space(self) -> tuple[Any, ...]:
        """Scratch arrays of one thread for the compiled kernel.

        Weights and first neighbours of a point; of a row along the nodes: vectors, polynomials between nodes, columns
        where they begin, the line and its ends; of some points: places among the nodes and beyond the step, offsets;
        derivatives of the weights; the leading indices of a row, what is between the planes around it, and its
        coordinates without the field as lines.
        """
        from daskreg.sampling.displacements_numba import SEGMENT

        ndim, nodes = self.ndim, self.steps[0].vectors.shape[-1] + 3
        row = np.zeros((ndim, nodes)), np.zeros((ndim, 6, nodes)), np.zeros(nodes, np.int64), np.zeros((3, 3))
        points = np.zeros((ndim, SEGMENT)), np.zeros((ndim, SEGMENT)), np.zeros(SEGMENT, np.int64)
        single = np.zeros((3, 4)), np.zeros(3, np.int64)
        return (*single, *row, *points, np.zeros((3, 4)), np.zeros(3), np.zeros((ndim, 4, nodes)), np.zeros((ndim, 2)))

    def __call__(self, points: Floats) -> Floats:
        """Where (N, D) points go: the coordinates before the first step to those after the last."""
        return self._moved(points, np.empty(0))

    def determinants(self, points: Floats) -> Floats:
        """(N,) determinants of the derivative of all steps at (N, D) points: how much they stretch space."""
        affine = np.prod([np.linalg.det(step.onward) * np.linalg.det(step.into) for step in self.steps])
        found = np.full(len(points), affine)
        self._moved(points, found)
        return found

    def _moved(self, points: Floats, stretch: Floats) -> Floats:
        from daskreg.sampling.displacements_numba import LANES, coordinates

        count, space = len(points), self.space()
        xs = np.zeros((1, self.ndim, count + LANES))
        xs[0, :, :count] = points.T
        target = (0,) * self.ndim, (1,) * (self.ndim - 1)
        for field in self.compiled(rows=False, stretch=len(stretch) > 0):
            coordinates(field, target, xs, (0, 1, 1, 1), True, stretch, space)
        return np.ascontiguousarray(xs[0, :, :count].T)

    def check(self, ndim: int) -> None:
        """Raise ShapeMismatchError where the steps do not fit an image of `ndim` sampled axes."""
        if self.ndim != ndim or not 2 <= ndim <= 3:
            raise ShapeMismatchError(f"a displacement of {self.ndim} dimensions does not sample {ndim} axes (2 or 3)")


def _compiled(step: Displacement, *, first: bool, stretch: bool) -> tuple[Any, ...]:
    """(vectors, extent, matrices, facts) of one step."""
    from daskreg.sampling.displacements_numba import ACROSS, BACK, DIRECT, FORWARD, INVERSE, LIMITS, NODEWISE

    how = INVERSE if step.inverse else NODEWISE if stretch else FORWARD
    along = first and how == FORWARD and step.along_rows
    matrices = np.zeros((4, *step.direct.shape))
    matrices[DIRECT], matrices[ACROSS] = step.direct, step.across
    if how != FORWARD:  # nothing else goes back from the nodes
        matrices[BACK, :-1, :-1] = step.onward[:-1, :-1] @ np.linalg.inv(step.nodes[:-1, :-1])
        ends = (-np.inf, np.inf) if step.limits is None else _interval(step)
        matrices[LIMITS, 0, :-1], matrices[LIMITS, 1, :-1] = ends
    vectors = _vectors(step, (step.onward if how == FORWARD else step.nodes)[:-1, :-1], along=along)
    lift = 3 - step.ndim
    extent = np.array([(*(1,) * lift, *step.shape), (*(0,) * lift, *(a - 1 for a in step.start))])
    return vectors, extent, matrices, (step.order, how, along)


def _interval(step: Displacement) -> Floats:
    """(2, D): the least and the greatest displacement, in nodes."""
    ends = step.nodes[:-1, :-1] * np.asarray(step.limits)[:, None]
    found: Floats = np.stack([ends.min(axis=0).sum(axis=1), ends.max(axis=0).sum(axis=1)])
    return found


def _vectors(step: Displacement, linear: Floats, *, along: bool) -> Floats:
    """linear . vectors, term by term, so that each has the same bits in any crop, and repeated beyond the ends."""
    ndim, lift = step.ndim, 3 - step.ndim
    shape = (*(1,) * lift, *(n + 2 for n in step.vectors.shape[1:]))
    made = np.zeros((ndim, *shape) if along else (*shape, 4))
    components = made if along else np.moveaxis(made, -1, 0)
    inner: Any = (*(0,) * lift, *(slice(1, -1),) * ndim)
    for k in range(ndim):
        terms = [linear[k, i] * np.asarray(step.vectors[i], np.float64) for i in range(ndim) if linear[k, i]]
        components[k][inner] = sum(terms[1:], start=terms[0]) if terms else 0.0
    for axis in range(components.ndim - ndim, components.ndim):
        ends = np.moveaxis(components, axis, 0)
        ends[0], ends[-1] = ends[1], ends[-2]
    made.flags.writeable = False  # for all, or read-only vectors would be compiled for anew
    return made
