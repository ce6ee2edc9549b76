"""Whether small windows of aligned images fit better after a further shift: what a field did not follow.

Steps end where control points are too far apart for the motion, or where structures beside the right ones look alike,
and neither the residual (two specimens differ anyway) nor the equations of a step (which hold for small motions) say
so. A window that is smaller than the distance of control points does, if it is compared at all shifts of a few voxels.
Some windows all over the structures are enough, so that this takes as long for a large image as for a small one, and
a small specimen on an empty background has as many as an image that is full of structure.

The likelihood of a shift is that of Gaussian noise, n / 2 log(1 - r^2) for a correlation r of n independent voxels;
residuals that are left at the best shifts say how many voxels are one independent sample.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from daskreg.geometry import Grid
from daskreg.registration.verdict.correlations import positive_correlations

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]

# Voxels by which windows are shifted, and about how many windows there are, by number of dimensions.
_REACH, _WINDOWS = {2: 4, 3: 3}, {2: 144, 3: 64}
# Times as many are looked at to know where structures are: those with this part of the contrast that most of it is in,
# beyond that of the flattest windows (percent), which is taken for noise.
_LOOKED_AT, _CONTRAST, _FLATTEST = 8, 0.1, 5
# If structures are in less than this part of the image, windows are there alone: weak textures around others say
# something, too.
_SPARSE = 0.3
# The standard deviation of a window, as a share of the distance of control points, and its bounds in voxels. The window
# ends at two of them.
_SHARE, _LEAST, _MOST = 0.18, 2.0, 4.0
# A window says where it belongs if the likelihood of its best shift is as much above the median as the best of all
# shifts may be by chance, log(shifts), and this; and it was moved if it is so much above that of no shift.
_TELLS, _MOVED = 4.0, 2.0
# The share of windows that say where they belong in images of which most is aligned.
_MANY = 0.45
# By so much a single one is not by chance: along an edge, any shift is nearly as likely.
_SURELY = 5.0
# Of the windows that say where they belong, those that were moved without any motion are few.
_MOST_MOVED, _LEAST_WINDOWS = 0.12, 5


@dataclass(frozen=True)
class LocalShifts:
    """Of N windows that say where they belong, of `windows` that were compared.

    places: (N, D) their middle voxels. shifts: (N, D) voxels by which they fit best. gains: (N,) of the logarithm of
    the likelihood by that. apart: voxels between neighbouring windows.
    """

    places: Floats
    shifts: Floats
    gains: Floats
    windows: int
    apart: float = 1.0

    @property
    def silent(self) -> bool:
        """Whether so few windows say where they belong that they confirm no motion."""
        return len(self.gains) < _MANY * self.windows

    @property
    def confirm(self) -> bool:
        """Whether most windows say that they belong where they are, each by more than its best shift does by chance."""
        return self.settled >= max(_LEAST_WINDOWS, _MANY * self.windows)

    @property
    def moved(self) -> NDArray[np.bool_]:
        """(N,) whether they fit better than where they are."""
        return np.asarray(self.gains > _MOVED)

    @property
    def left(self) -> bool:
        """Whether so many windows were moved that some motion is left."""
        return int(self.moved.sum()) >= _LEAST_WINDOWS and float(self.moved.mean()) > _MOST_MOVED

    @property
    def settled(self) -> int:
        """How many windows say that they belong where they are."""
        return int((~self.moved).sum())

    def deviations(self, grid: Grid, points: Floats) -> Floats:
        """(N, D) root mean squares of what is left around (N, D) points, world units, along the axes of the world.

        Of all windows, weighted by a Gaussian of their distance.

        Args:
            grid: of the images that were compared.
        """
        from scipy.spatial.distance import cdist  # takes a tenth of a second

        sure = self.gains > _SURELY
        if not sure.any():
            return np.zeros(points.shape)
        motions = (self.shifts * sure[:, None] * grid.spacing) @ grid.direction_matrix.T
        squares = cdist(grid.index(points), self.places, "sqeuclidean") / self.apart**2
        weights = np.exp((squares.min(1, keepdims=True) - squares) / 2)
        return np.asarray(np.sqrt(weights @ motions**2 / weights.sum(1, keepdims=True)))


def local_shifts(fixed: Singles, other: Singles, known: NDArray[np.bool_], spacing: Sequence[float]) -> LocalShifts:
    """Of an image, and another one that was aligned to it.

    Args:
        fixed, other, known: (*shape); windows are where both are known. spacing: of the control points, voxels.
    """
    ndim, shape = fixed.ndim, fixed.shape
    sigmas = [float(np.clip(_SHARE * s, _LEAST, _MOST)) for s in spacing]
    half = [min(math.ceil(2 * s), (n - 1) // 2) for s, n in zip(sigmas, shape, strict=True)]
    reach = [_REACH[ndim] if n > 2 * (r + _REACH[ndim]) else 0 for r, n in zip(half, shape, strict=True)]
    window = np.ones((1,) * ndim)
    for axis, (s, r) in enumerate(zip(sigmas, half, strict=True)):
        along = np.exp(-(np.arange(-r, r + 1) ** 2) / (2 * s * s))
        window = window * along.reshape([-1 if k == axis else 1 for k in range(ndim)])
    window /= window.sum()
    around = [r + m for r, m in zip(half, reach, strict=True)]
    lattice = _lattice_of_structures(fixed, other, known, (half, around), 2 * min(sigmas))
    correlations, residuals, places = [], [], []
    for place in lattice.places():
        wide = _box(place, around)
        if known[wide].all():
            inner = _box(place, half)
            correlation, residual = _compared(fixed[inner].astype(float), other[wide].astype(float), window)
            correlations.append(correlation)
            residuals.append(residual)
            places.append(place)
    if not correlations:
        return LocalShifts(np.zeros((0, ndim)), np.zeros((0, ndim)), np.zeros(0), 0)
    r = np.stack(correlations).reshape(len(correlations), -1)
    samples = 1 / float((window**2).sum()) / _correlated(np.stack(residuals))
    likelihood = -samples / 2 * np.log(1 - np.clip(r, 0, 1 - 1e-9) ** 2)
    best, middle = likelihood.max(1), likelihood[:, r.shape[1] // 2]
    tells = best - np.median(likelihood, axis=1) > math.log(r.shape[1]) + _TELLS
    shifts = np.stack(np.unravel_index(likelihood.argmax(1), correlations[0].shape), -1) - np.asarray(reach)
    return LocalShifts(
        np.array(places, float)[tells], shifts[tells].astype(float), (best - middle)[tells], len(r), lattice.apart
    )


@dataclass(frozen=True)
class _Lattice:
    """Voxels evenly over an image of some shape, but for `ends` voxels of each end.

    count: about how many, if a coarser lattice does not say in which of its cells they are wanted.
    """

    shape: tuple[int, ...]
    ends: Sequence[int]
    count: float
    coarser: _Lattice | None = None
    wanted: NDArray[np.bool_] | None = None

    @property
    def room(self) -> list[int]:
        return [n - 2 * e for n, e in zip(self.shape, self.ends, strict=True)]

    @property
    def apart(self) -> float:
        return float(max(1.0, (math.prod(self.room) / self.count) ** (1 / len(self.shape))))

    @property
    def counts(self) -> tuple[int, ...]:
        return tuple(max(1, round(n / self.apart)) for n in self.room)

    def places(self) -> Iterator[tuple[int, ...]]:
        for index in product(*map(range, self.counts)):
            along = [(i + 0.5) / c for i, c in zip(index, self.counts, strict=True)]
            if self.coarser is None or self.wanted is None or self.wanted[self.coarser.cell(along)]:
                yield tuple(e + int(share * n) for e, share, n in zip(self.ends, along, self.room, strict=True))

    def cell(self, along: Sequence[float]) -> tuple[int, ...]:
        """The index of the cell at these shares of the sides."""
        return tuple(int(share * c) for share, c in zip(along, self.counts, strict=True))


def _lattice_of_structures(
    fixed: Singles,
    other: Singles,
    known: NDArray[np.bool_],
    halves: tuple[Sequence[int], Sequence[int]],
    least: float,
) -> _Lattice:
    """Windows where one of the images has structure: the fewer places that are, the denser.

    Args:
        halves: half the sides of windows, and of what is read around them. least: voxels between windows.
    """
    shape, most = fixed.shape, _WINDOWS[fixed.ndim]
    looked_at = _Lattice(shape, halves[1], _LOOKED_AT * most)
    contrasts = np.zeros((2, *looked_at.counts))
    for place, index in zip(looked_at.places(), np.ndindex(looked_at.counts), strict=True):
        if known[_box(place, halves[1])].all():
            contrasts[(slice(None), *index)] = [float(image[_box(place, halves[0])].var()) for image in (fixed, other)]
    seen = contrasts[0] + contrasts[1] > 0
    if not seen.any():
        return _Lattice(shape, halves[1], most)
    wanted = np.zeros(looked_at.counts, bool)
    for one in contrasts:
        more = np.where(seen, np.maximum(one - np.percentile(one[seen], _FLATTEST), 0), 0)
        wanted |= seen & (more >= _CONTRAST * (more**2).sum() / max(float(more.sum()), 1e-30))
    if wanted.mean() > _SPARSE:
        return _Lattice(shape, halves[1], most)
    # Windows that lie over each other say the same.
    densest = math.prod(looked_at.room) / least ** len(shape)
    return _Lattice(shape, halves[1], min(most / max(wanted.mean(), 1e-6), max(densest, most)), looked_at, wanted)


def _box(place: Sequence[int], half: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(c - r, c + r + 1) for c, r in zip(place, half, strict=True))


def _compared(fixed: Floats, wide: Floats, window: Floats) -> tuple[Floats, Floats]:
    """(*shifts) correlations with the parts of a wider image, and the residual at the best one, times the root of the
    window."""
    parts = np.lib.stride_tricks.sliding_window_view(wide, fixed.shape)
    axes = (list(range(fixed.ndim, 2 * fixed.ndim)), list(range(fixed.ndim)))
    f = fixed - float((window * fixed).sum())
    ff, fw = max(float((window * f * f).sum()), 1e-12), np.tensordot(parts, window * f, axes)
    mean, squares = np.tensordot(parts, window, axes), np.tensordot(parts * parts, window, axes)
    ww = np.maximum(squares - mean**2, 1e-12)
    correlation = fw / np.sqrt(ff * ww)
    best = np.unravel_index(int(correlation.argmax()), correlation.shape)
    residual = f - fw[best] / ww[best] * (parts[best] - mean[best])
    return correlation, np.sqrt(window) * residual


def _correlated(residuals: Floats) -> float:
    """Voxels for each independent sample of (N, *window) residuals: the product over the axes of 1 + 2 (sum of
    correlations)."""
    square, total = (residuals**2).reshape(len(residuals), -1).sum(1), 1.0
    scale = np.where(square > 0, 1 / np.sqrt(np.maximum(square, 1e-300)), 0.0)
    alike = residuals * scale.reshape(-1, *[1] * (residuals.ndim - 1))
    for axis in range(1, alike.ndim):
        along = np.moveaxis(alike, axis, 0)
        total *= 1 + 2 * sum(positive_correlations(along, len(alike), len(along) // 2 - 1))
    return total
