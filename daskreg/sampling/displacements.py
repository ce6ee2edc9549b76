"""`Displaced`: coordinates of output voxels that go through displacement fields on their way to the source.

The voxel with index i is sampled at x_n, where x_0 = i and each step adds a displacement:

    forward   x_{k+1} = onward . (p + u(nodes . p)),      p = into . x_k
    inverse   x_{k+1} = onward . q,   the q with   q + u(nodes . q) = p

p and q are points of the field's world, u is interpolated between the field's nodes. Affine maps between fields are
parts of `into` and `onward`, so that the image is interpolated once, whatever the number of transforms.
"""

from __future__ import annotations

from dataclasses import dataclass
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

    def compiled(self, *, rows: bool) -> tuple[Any, ...]:
        """The steps as the compiled kernels take them; see `displaced_numba`.

        Args:
            rows: whether they are for rows of an output, along which the first step may be quicker, or for points.
        """
        return tuple(_compiled(step, first=rows and number == 0) for number, step in enumerate(self.steps))

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
        """Scratch arrays of one thread for the compiled kernels.

        Vectors and matrices of one point, neighbours of a point, vectors along a row, the line of a row and its ends,
        polynomials between nodes, and the columns where they begin.
        """
        ndim, nodes = self.ndim, self.steps[0].vectors.shape[-1]
        points = np.zeros((21, 4)), np.zeros((3, 4), np.int64)
        rows = np.zeros((ndim, nodes)), np.zeros((1, 3)), np.zeros((2, 1))
        return (*points, *rows, np.zeros((ndim, 4, nodes + 2)), np.zeros(nodes + 3, np.int64))

    def __call__(self, points: Floats) -> Floats:
        """Where (N, D) points go: the coordinates before the first step to those after the last."""
        from daskreg.sampling.displaced_numba import coordinates

        xs, space = np.array(points.T, np.float64, order="C")[:, None], self.space()
        for field in self.compiled(rows=False):
            coordinates(field, ((0,) * self.ndim, (1,) * (self.ndim - 1)), xs, (0, 1, 1, 1), True, space)
        return np.ascontiguousarray(xs[:, 0].T)

    def determinants(self, points: Floats) -> Floats:
        """(N,) determinants of the derivative of all steps at (N, D) points: how much they stretch space."""
        from daskreg.sampling.displaced_numba import determinants

        affine = np.prod([np.linalg.det(step.onward) * np.linalg.det(step.into) for step in self.steps])
        found, moving, space = np.full(len(points), affine), np.array(points, np.float64, order="C"), self.space()
        for field in self.compiled(rows=False):
            determinants(field, moving, found, space)
        return found

    def check(self, ndim: int) -> None:
        """Raise ShapeMismatchError where the steps do not fit an image of `ndim` sampled axes."""
        if self.ndim != ndim or not 2 <= ndim <= 3:
            raise ShapeMismatchError(f"a displacement of {self.ndim} dimensions does not sample {ndim} axes (2 or 3)")


def _compiled(step: Displacement, *, first: bool) -> tuple[Any, ...]:
    """(vectors, extent, matrices, facts) of one step."""
    direct, across = snapped(step.onward @ step.into), snapped(step.nodes @ step.into)
    limits = np.zeros_like(direct)
    limits[0, :-1], limits[1, :-1] = (-np.inf, np.inf) if step.limits is None else step.limits
    matrices = np.stack([step.into, step.nodes, step.onward, direct, across, limits])
    # Along a row of the output, which is a line of x_0, only the last index of the nodes may change.
    along = first and not step.inverse and not across[:-2, -2].any()
    lift = (1,) * (3 - step.ndim)
    vectors = _turned(step.vectors, step.onward[:-1, :-1]) if along else step.vectors
    vectors = np.ascontiguousarray(vectors, np.float64).reshape(step.ndim, *lift, *vectors.shape[1:])
    vectors.flags.writeable = False  # for all, or read-only vectors would be compiled for anew
    extent = np.array([(*lift, *step.shape), (*(0 for _ in lift), *step.start)])
    return vectors, extent, matrices, (step.order, step.inverse, along)


def _turned(vectors: NDArray[Any], linear: Floats) -> Floats:
    """The vectors in the coordinates after the step, term by term, so that each has the same bits in any crop."""
    if np.array_equal(linear, np.eye(len(linear))):
        return np.asarray(vectors, np.float64)
    turned: Floats = np.zeros(vectors.shape)
    for k, i in np.ndindex(linear.shape):
        if linear[k, i]:
            turned[k] += linear[k, i] * vectors[i]
    return turned
