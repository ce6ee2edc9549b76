"""`LayerMatch`: gain and offset around the voxels of a pair that is larger than memory, for "lncc".

They vary slowly, so those of the coarse images are enough. They are interpolated from nodes, of which there are few.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from daskreg.geometry import Box, Grid, Transform
from daskreg.registration.deformable.level_images import Evaluated, LevelImages
from daskreg.registration.local_contrast.match import LocalMatch
from daskreg.registration.local_contrast.windows import Windows

Singles = NDArray[np.float32]


@dataclass(frozen=True)
class LayerMatch:
    """nodes: (4, *nodes) see `LocalMatch`. cells: distances of nodes along each axis of the coarse image. start, step:
    (D,) the place of the first voxel of the finest level, and from each to the next, in these distances."""

    nodes: Singles
    cells: tuple[int, ...]
    start: tuple[float, ...]
    step: tuple[float, ...]

    @classmethod
    def of(cls, images: LevelImages, transform: Transform, level: Grid) -> LayerMatch:
        """Of coarse images, for "lncc", that are brought together by a transform.

        Args:
            level: the grid of the finest level.
        """
        match, windows = images.evaluate(transform).local, images.windows
        if match is None or windows is None:
            raise TypeError("images for the metric lncc are needed")
        coarse, cells = images.fixed_grid, windows.cells
        apart = [m / n for m, n in zip(cells, coarse.shape, strict=True)]
        first = (coarse.index(level.world(np.zeros((1, level.ndim))))[0] + 0.5) * apart
        step = np.divide(level.spacing, coarse.spacing) * apart
        return cls(match.nodes, cells, tuple(first.tolist()), tuple(step.tolist()))

    def restrict(self, inside: Box) -> LayerMatch:
        """The same for the voxels of a box, carrying only the nodes that these need."""
        places = self._places(inside)
        first = [int(place[0]) for place in places]
        stop = [min(int(place[-1]), m - 1) + 4 for place, m in zip(places, self.cells, strict=True)]
        nodes = self.nodes[(slice(None), *map(slice, first, stop))]
        start = tuple(a - k for a, k in zip(self.start, first, strict=True))
        return replace(self, nodes=nodes, cells=tuple(n - 3 for n in nodes.shape[1:]), start=start)

    def between(self, fixed: Singles, warped: Singles, weight: Singles, inside: Box) -> LocalMatch:
        """The images in a box of the finest level."""
        windows = Windows.at(self._places(inside), self.cells)
        return LocalMatch.given((fixed, warped), weight, self.nodes, windows)

    def compared(self, images: LevelImages, warped: Singles, inside: Box) -> Evaluated:
        """The same, with the warped image NaN where it is unknown."""
        found = images.compare(warped)
        return found.in_windows(self.between(images.fixed, found.warped, found.weight, inside))

    def _places(self, inside: Box) -> Sequence[NDArray[np.float64]]:
        """Of the voxels of a box along each axis; the last voxels may lie beside the means of blocks of them."""
        return [
            np.clip(start + step * np.arange(a, b), 0, m)
            for start, step, m, a, b in zip(self.start, self.step, self.cells, inside.start, inside.stop, strict=True)
        ]
