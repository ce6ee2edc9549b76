"""A third kind of transform, in one file: what the package asks of any transform, and nothing else.

It is a module of its own, and not part of the test, so that the worker processes can import it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import chain, pairwise
from operator import or_
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from daskreg.geometry import Affine, Box, Grid, IndexMap, Piece, Transform, WarpedBounds

Floats = NDArray[np.float64]
IN_PLANE = (1, 2)


@dataclass(frozen=True)
class PiecewiseAffine(Transform):
    """One 2D affine map for the planes with z below `limit` (world), another for those above."""

    kind: ClassVar[str] = "piecewise-affine"
    below: Affine
    above: Affine
    limit: float
    unit: str | None = None
    axes: tuple[str, ...] | None = None

    @property
    def ndim(self) -> int:
        return 3

    def __call__(self, points: ArrayLike, index: ArrayLike | None = None) -> Floats:
        p = np.array(points, dtype=np.float64)
        low = p[..., 0] < self.limit
        p[..., 1:] = np.where(low[..., None], self.below(p[..., 1:]), self.above(p[..., 1:]))
        return p

    def __matmul__(self, other: object) -> PiecewiseAffine:
        if not isinstance(other, Affine) or other.ndim != 2:
            return NotImplemented
        return self._of_each(lambda one: one @ other)

    def __rmatmul__(self, other: object) -> PiecewiseAffine:
        if not isinstance(other, Affine) or other.ndim != 2:
            return NotImplemented
        return self._of_each(lambda one: other @ one)

    def inverse(self) -> PiecewiseAffine:
        return self._of_each(Affine.inverse)

    def index_map(self, out: Grid, source: Grid, dims: Sequence[str]) -> PiecewiseIndexMap:
        self.check_grids(out, source)
        first, last = out.world(np.zeros(3))[0], out.world(np.asarray(out.shape) - 1)[0]
        assert first <= last, "z must ascend along the first axis"
        cut = int(np.ceil(out.index((self.limit, 0, 0))[0] - 1e-9))
        maps = [one.embed(3, IN_PLANE).index_map(out, source, dims) for one in (self.below, self.above)]
        return PiecewiseIndexMap(maps[0].sampled, maps[0], maps[1], len(dims) - 3, cut)

    def warped_bounds(self, source: Grid, dims: Sequence[str]) -> WarpedBounds:
        back = self.inverse()
        return WarpedBounds.of_matrices(source, IN_PLANE, np.stack([back.below.matrix, back.above.matrix]))

    def to_dict(self) -> dict[str, Any]:
        maps = {"below": self.below.to_dict(), "above": self.above.to_dict()}
        return {"type": self.kind, **maps, "limit": self.limit, "unit": self.unit}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> PiecewiseAffine:
        maps = (Affine.from_dict(data[name]) for name in ("below", "above"))
        return cls(*maps, data["limit"], data.get("unit"))

    def _of_each(self, change: Callable[[Affine], Affine]) -> PiecewiseAffine:
        return PiecewiseAffine(change(self.below), change(self.above), self.limit, self.unit, self.axes)


@dataclass(frozen=True, eq=False)
class PiecewiseIndexMap(IndexMap):
    """An index map for the output indices below `cut` along `axis`, and one for the others."""

    sampled: tuple[int, ...]
    below: IndexMap
    above: IndexMap
    axis: int
    cut: int

    @property
    def carried(self) -> tuple[int, ...]:
        return self.below.carried

    @property
    def batch(self) -> tuple[int, ...]:
        return self.below.batch

    def restrict(self, out: Box) -> IndexMap:
        parts = self._parts(out)
        return parts[0][0].restrict(out) if len(parts) == 1 else self

    def identity(self) -> tuple[bytes, tuple[object, ...]]:
        (low, *facts), (high, *more) = self.below.identity(), self.above.identity()
        return low + high, (facts, more, self.axis, self.cut)

    def read_box(self, out: Box, source_shape: Sequence[int], margin: int) -> Box:
        return reduce(or_, (one.read_box(part, source_shape, margin) for one, part in self._parts(out)))

    def pieces(self, out: Box, source_shape: Sequence[int], margin: int) -> Iterator[Piece]:
        return chain.from_iterable(one.pieces(part, source_shape, margin) for one, part in self._parts(out))

    def _parts(self, out: Box) -> list[tuple[IndexMap, Box]]:
        """The two maps, each with its part of the output box; those without one left out."""
        k = self.axis
        ends = (out.start[k], min(max(self.cut, out.start[k]), out.stop[k]), out.stop[k])
        boxes = [
            Box((*out.start[:k], a, *out.start[k + 1 :]), (*out.stop[:k], b, *out.stop[k + 1 :]))
            for a, b in pairwise(ends)
        ]
        return [(one, box) for one, box in zip((self.below, self.above), boxes, strict=True) if not box.empty]
