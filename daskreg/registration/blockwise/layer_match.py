"""`LayerMatch`: gain and offset around the voxels of a pair that is larger than memory, for "lncc".

Those of the coarse images vary slowly, and are nearly enough. What they miss, and how much the voxels of a window vary
and have in common, follow from sums over all voxels around nodes of the finest level. These are sums over blocks: a
pass makes them at its layers, for the pass after it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from daskreg.geometry import Box, Grid, Transform
from daskreg.registration.deformable.level_images import Evaluated, LevelImages
from daskreg.registration.deformable.splines.control_grid import ControlGrid
from daskreg.registration.local_contrast.match import LocalMatch, window_fit
from daskreg.registration.local_contrast.windows import Windows, cells_for_control

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]

WINDOW_SUMS = 8
"""How many sums there are for each node, see `LayerMatch.sums`."""
# Of the finest level: so many have sums of 100 MB. Of larger images, windows are larger than in memory.
_MOST_NODES = 1 << 21


@dataclass(frozen=True)
class NodeGrid:
    """Nodes in relation to the voxels of a level. cells: distances of nodes along each axis. start, step: (D,) the
    place of the first voxel, and from each to the next, in these distances."""

    cells: tuple[int, ...]
    start: tuple[float, ...]
    step: tuple[float, ...]

    @classmethod
    def of(cls, level: Grid, control: ControlGrid) -> NodeGrid:
        """As far apart as those of the same level in memory, unless these are too many."""
        shape, apart = level.shape, np.divide(control.spacing, level.spacing)
        cells = cells_for_control(shape, apart.tolist())
        fewer = max(1.0, math.prod(cells) / _MOST_NODES) ** (1 / level.ndim)
        cells = tuple(max(1, int(m / fewer)) for m in cells)
        step = np.divide(cells, shape)
        return cls(cells, tuple((step / 2).tolist()), tuple(step.tolist()))

    @classmethod
    def of_coarse(cls, coarse: Grid, cells: tuple[int, ...], level: Grid) -> NodeGrid:
        """Nodes so many distances apart over a coarse grid."""
        apart = np.divide(cells, coarse.shape)
        first = (coarse.index(level.world(np.zeros((1, level.ndim))))[0] + 0.5) * apart
        step = np.divide(level.spacing, coarse.spacing) * apart
        return cls(cells, tuple(first.tolist()), tuple(step.tolist()))

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(m + 3 for m in self.cells)

    def nodes(self, inside: Box) -> Box:
        """Those that the voxels of a box count for."""
        places = self._places(inside)
        first = [min(int(place[0]), m - 1) for place, m in zip(places, self.cells, strict=True)]
        stop = [min(int(place[-1]), m - 1) + 4 for place, m in zip(places, self.cells, strict=True)]
        return Box(tuple(first), tuple(stop))

    def restrict(self, nodes: Box) -> NodeGrid:
        """The same, of a box of nodes alone."""
        start = tuple(a - k for a, k in zip(self.start, nodes.start, strict=True))
        return replace(self, cells=tuple(n - 3 for n in nodes.shape), start=start)

    def windows(self, inside: Box) -> Windows:
        """Around the voxels of a box."""
        return Windows.at(self._places(inside), self.cells)

    def _places(self, inside: Box) -> Sequence[Floats]:
        """Of the voxels of a box along each axis; the last voxels may lie beside the means of blocks of them."""
        return [
            np.clip(start + step * np.arange(a, b), 0, m)
            for start, step, m, a, b in zip(self.start, self.step, self.cells, inside.start, inside.stop, strict=True)
        ]


@dataclass(frozen=True)
class LayerMatch:
    """nodes: (4, *nodes) of the coarse images, see `LocalMatch`. grid: of these. level: the nodes of the finest level.
    fine: (4, *level.shape) what gain and offset differ by from those of the coarse images, precision and common; None
    before the first pass, for which these are those of the coarse images, too."""

    nodes: Singles
    grid: NodeGrid
    level: NodeGrid
    fine: Singles | None = None

    @classmethod
    def of(cls, images: LevelImages, transform: Transform, level: Grid, control: ControlGrid) -> LayerMatch:
        """Of coarse images, for "lncc", that are brought together by a transform.

        Args:
            level: the grid of the finest level. control: the finest control points.
        """
        match, windows = images.evaluate(transform).local, images.windows
        if match is None or windows is None:
            raise TypeError("images for the metric lncc are needed")
        grid = NodeGrid.of_coarse(images.fixed_grid, windows.cells, level)
        return cls(match.nodes, grid, NodeGrid.of(level, control))

    def identity(self) -> bytes:
        """What distinguishes it from others."""
        fine = b"" if self.fine is None else self.fine.tobytes()
        return self.nodes.tobytes() + fine + repr((self.grid, self.level)).encode()

    def restrict(self, inside: Box) -> LayerMatch:
        """The same for the voxels of a box, carrying only the nodes that these need."""
        coarse, own = self.grid.nodes(inside), self.level.nodes(inside)
        fine = None if self.fine is None else self.fine[(slice(None), *own.slices)]
        nodes = self.nodes[(slice(None), *coarse.slices)]
        return LayerMatch(nodes, self.grid.restrict(coarse), self.level.restrict(own), fine)

    def between(self, fixed: Singles, warped: Singles, weight: Singles, inside: Box) -> LocalMatch:
        """The images in a box of the finest level."""
        near = self.restrict(inside)
        coarse = LocalMatch.given((fixed, warped), weight, near.nodes, near.grid.windows(inside))
        if near.fine is None:
            return coarse
        fine = LocalMatch.given((coarse.residual, warped), weight, near.fine, near.level.windows(inside))
        return replace(fine, known=coarse)

    def sums(self, fixed: Singles, warped: Singles, weight: Singles, residual: Singles, inside: Box) -> Singles:
        """(8, *nodes) over the voxels around the nodes of a box: of the weight, fixed, warped, fixed squared, fixed
        times warped, warped squared, the residual, and that times warped."""
        windows = self.level.restrict(self.level.nodes(inside)).windows(inside)
        moments = windows.moments(fixed, warped, weight)
        return np.concatenate([moments, windows.residual_moments(residual, warped, weight, np.zeros_like(moments[:2]))])

    def compared(self, images: LevelImages, warped: Singles, inside: Box) -> Evaluated:
        """`between`, with the warped image NaN where it is unknown."""
        found = images.compare(warped)
        return found.in_windows(self.between(images.fixed, found.warped, found.weight, inside))

    def after(self, sums: Floats) -> tuple[LayerMatch, float]:
        """With `sums` over all voxels; and the mean of 1 - correlation^2 in windows."""
        fine, left = window_fit(sums[:6], sums[6:])
        if self.fine is not None:
            fine[:2] += self.fine[:2]
        return replace(self, fine=fine), left
