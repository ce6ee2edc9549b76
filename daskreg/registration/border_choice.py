"""Whether flat borders are background, which counts, or what an earlier warp filled, which must not count.

Where one image is flat because there is nothing, the other image is flat, too. So a border is fill where the other
image shows something under it. It may also be fill where the images do not overlap on it: an image that was warped
before has its fill where the other image ends. Then it has no use either: the edge of an object against its background
lies inside the overlap. Where the edge of a border is in the overlap, the other image shows it too, unless it is
that of fill. All this is seen on a coarse level (`solved_without_fill`), for each of the images apart: one may have
been warped before, and the other show an object before its background.

True background also fits better than the rest of the voxels. Where that is not seen on the coarse level, the finest
one decides: where the rest alone fits much better at the same pose, or better still after it is solved again, the
borders are fill (`without_fill`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from daskreg.registration.levenberg_marquardt import (
    COARSE_TOLERANCE,
    Iterate,
    LevelObjective,
    solve_level,
)
from daskreg.registration.normal_equations.equations_torch import NormalEquationsTorch
from daskreg.registration.problem import Problem, SolverOptions
from daskreg.registration.pyramids.filters import dilated, local_means
from daskreg.registration.pyramids.pyramid import ImageBatch, PyramidLevel
from daskreg.registration.rejection import MIN_OBSERVABILITY, observability

Floats = NDArray[np.float64]

FINER_LEVELS = 2
"""Levels below the one on which outliers, and borders that are fill, are looked for."""

# (ratio of the costs of the rest and of all voxels below which the rest is solved again, ratio of the cost after
# and before that which is then needed to leave flat borders out).
_NEEDED = ((0.7, 1.001), (0.85, 0.97), (1.25, 0.5))
# Where the rest fits no better than this on a coarse level, flat borders count, and the finest level is not tested.
_NO_BETTER = 0.97
# Of two poses, the one without flat borders is taken where the product of its relative costs is below this.
_BY_FAR = 0.8

# Both images see a background, and most of it is in the overlap; where less of a border is, it is fill.
_LEAST_SEEN = 1 / 3
# Share of the overlap below which a border is a line.
_LINE = 0.01
# Background may show dirt; where the other image shows something on more of the border, it is fill.
_MOSTLY_EMPTY = 0.75
# The part of the steps at the edges of flat borders that the other image shows where they are background, at least.
_EDGE_SEEN = 0.5
# Half width, in voxels, of the surroundings of which a step is found, and the share of them on either side of the edge.
_NEAR, _EITHER_SIDE = 3, 0.2
# Standard deviations of the residual beyond which a voxel shows something, and voxels into which smoothing spreads an
# edge.
_VISIBLE, _REACH = 3.0, 2


def solved_without_fill(
    problem: Problem, options: SolverOptions, iterate: Iterate, pyramids: Sequence[Sequence[PyramidLevel]], number: int
) -> tuple[Sequence[PyramidLevel], Iterate] | None:
    """The levels without the flat borders that are fill, and the iterate on a coarse one; None where there is no fill.

    The choice is the same for all pairs, and made for fixed and moving images apart.

    Args:
        iterate: on the level with all voxels. pyramids: with all voxels, and without flat borders.
        number: that of the coarse level.
    """
    full = pyramids[0][number]
    levels = levels_without_fill(problem, iterate.parameters, pyramids, number)
    if levels is pyramids[0]:
        return None
    tolerance = max(options.tolerance, COARSE_TOLERANCE)
    again = solve_level(
        problem, levels[number], iterate.parameters, tolerance=tolerance, max_iterations=options.max_iterations
    )
    share = observability(problem, levels[number], again) / observability(problem, full, iterate)
    if not (np.isfinite(again.cost).all() and share.min() >= MIN_OBSERVABILITY):
        return None
    again.iterations += iterate.iterations
    return levels, again


def levels_without_fill(
    problem: Problem, p: Floats, pyramids: Sequence[Sequence[PyramidLevel]], number: int
) -> Sequence[PyramidLevel]:
    """The levels without the flat borders that are fill at the (B, P) parameters `p`: `pyramids[0]` where none are.

    Args:
        pyramids, number: as of `solved_without_fill`.
    """
    are_fill = _are_fill(problem, p, pyramids[0][number], pyramids[1][number])
    if not any(are_fill):
        return pyramids[0]
    return pyramids[1] if all(are_fill) else _Mixed(pyramids[0], pyramids[1], are_fill)


class _Mixed(Sequence[PyramidLevel]):
    """Levels without the flat border of one image."""

    def __init__(
        self, full: Sequence[PyramidLevel], borderless: Sequence[PyramidLevel], without: tuple[bool, bool]
    ) -> None:
        self._full, self._borderless, self._without = full, borderless, without

    def __len__(self) -> int:
        return len(self._full)

    @overload
    def __getitem__(self, index: int) -> PyramidLevel: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[PyramidLevel]: ...

    def __getitem__(self, index: int | slice) -> PyramidLevel | Sequence[PyramidLevel]:
        if isinstance(index, slice):
            return _Mixed(self._full[index], self._borderless[index], self._without)
        full, borderless = self._full[index], self._borderless[index]
        fixed, moving = self._without
        return replace(
            full,
            fixed=borderless.fixed if fixed else full.fixed,
            moving=borderless.moving if moving else full.moving,
        )


def _are_fill(problem: Problem, p: Floats, full: PyramidLevel, borderless: PyramidLevel) -> tuple[bool, bool]:
    """Whether, in all pairs, the flat borders of the fixed images are fill, and those of the moving ones.

    Most of such a border is outside the overlap, or not flat in the other image, or its edge is not seen there.
    """
    maps = torch.from_numpy(LevelObjective(problem, full).maps(p))
    warped, weight = NormalEquationsTorch(full).warp(maps)
    fixed, overlap = full.fixed.values.expand_as(warped), weight > 0
    gain, deviation = _best_match(fixed, warped, NormalEquationsTorch(borderless).warp(maps)[1])
    matched = gain * warped
    borders = (_flat(full.fixed), _warped_flat(full, maps))
    # What shows something under the border of one image must not be the border of the other.
    near = [overlap & ~dilated(flat, _REACH) for flat, _ in borders]
    voxels = math.prod(full.moving.grid.spacing) / math.prod(full.fixed.grid.spacing)
    wholes = (_size(full.fixed), voxels * _size(full.moving))
    first = _is_fill(torch.stack([fixed, matched]), borders[0], (overlap, near[1]), deviation, wholes[0])
    second = _is_fill(torch.stack([matched, fixed]), borders[1], (overlap, near[0]), deviation, wholes[1])
    return first, second


def _is_fill(
    images: Tensor,
    border: tuple[Tensor, Tensor],
    overlaps: tuple[Tensor, Tensor],
    deviation: Tensor,
    whole: Tensor,
) -> bool:
    """Of one image of each pair.

    Args:
        images: (2, B, *shape) with the border, and the other one. border: see `_flat`. whole: (B,) its voxels.
        overlaps: where the images overlap, and where they do away from the border of the other one.
    """
    flat, inner = border
    overlap, here = overlaps[0], inner & overlaps[1]
    other = images[1]
    middle = torch.where(here, other, torch.nan).flatten(1).nanmedian(1).values.nan_to_num()
    shown = here & ((other - _per_pair(middle, other)).abs() > _VISIBLE * deviation)
    steps, common = _steps(images, flat & overlap, ~flat & overlap)
    seen, tested, differing = (x.flatten(1).sum(1) for x in (flat & overlap, here, shown))
    edge_seen = (steps > 0) & (common >= _EDGE_SEEN * steps)
    # Of a border that is a line in the overlap there is little to lose.
    outside = ((seen <= _LEAST_SEEN * whole) & ~edge_seen) | (seen < _LINE * overlap.flatten(1).sum(1))
    unlike = differing > (1 - _MOSTLY_EMPTY) * tested
    return bool((whole > 0).any() and (outside | (common < _EDGE_SEEN * steps) | unlike).all())


def _size(image: ImageBatch) -> Tensor:
    """(B,) voxels of the flat borders."""
    return _flat(image)[0].flatten(1).sum(1)


def _steps(images: Tensor, inside: Tensor, beyond: Tensor) -> tuple[Tensor, Tensor]:
    """(B,) sums, along the edge between two regions, of squared steps of an image, and of products with the other's.

    Args:
        images: (2, B, *shape). inside, beyond: (B, *shape) bool; a step is the difference of their means nearby.
    """
    shares, means = [], []
    for region in (inside, beyond):
        weight = region.to(images.dtype)
        share = local_means(weight, _NEAR)
        shares.append(share)
        means.append([local_means(weight * image, _NEAR) / share.clamp_min(1e-6) for image in images])
    near = (torch.minimum(*shares) > _EITHER_SIDE).to(images.dtype)
    first, second = (near * (b - a) for a, b in zip(*means, strict=True))
    return (first * first).flatten(1).sum(1), (first * second).flatten(1).sum(1)


def _flat(image: ImageBatch) -> tuple[Tensor, Tensor]:
    """(B, *shape) bool, the flat border, and that without the voxels that smoothing reaches from elsewhere."""
    if image.flat_border is None:
        nothing = torch.zeros_like(image.values, dtype=torch.bool)
        return nothing, nothing
    return image.flat_border, ~dilated(~image.flat_border, _REACH)


def _warped_flat(level: PyramidLevel, maps: Tensor) -> tuple[Tensor, Tensor]:
    """Both of the moving image, on the fixed grid."""
    images = [replace(level.moving, values=flat.to(torch.float32), weight=None) for flat in _flat(level.moving)]
    flat, inner = (NormalEquationsTorch(replace(level, moving=image)).warp(maps)[0] > 0.5 for image in images)
    return flat, inner


def _best_match(fixed: Tensor, warped: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Of each pair the gain that brings the warped image nearest to the fixed one, and the residual's deviation."""
    total = weight.flatten(1).sum(1).clamp_min(1e-6)
    f, w = (x - _per_pair((x * weight).flatten(1).sum(1) / total, x) for x in (fixed, warped))
    gain = (weight * f * w).flatten(1).sum(1) / (weight * w * w).flatten(1).sum(1).clamp_min(1e-6)
    residual = f - _per_pair(gain, w) * w
    deviation = ((weight * residual * residual).flatten(1).sum(1) / total).sqrt()
    return _per_pair(gain, fixed), _per_pair(deviation, fixed)


def _per_pair(numbers: Tensor, images: Tensor) -> Tensor:
    return numbers.to(images.dtype).reshape(-1, *[1] * (images.ndim - 1))


def borders_fit(problem: Problem, iterate: Iterate, full: PyramidLevel, borderless: PyramidLevel) -> bool:
    """Whether flat borders fit as well as the rest; a test for a coarse level, as the finest has many voxels."""
    return _cost_ratio(problem, iterate, full, borderless)[0] >= _NO_BETTER


def without_fill(
    problem: Problem,
    options: SolverOptions,
    iterate: Iterate,
    *,
    level: PyramidLevel,
    full: PyramidLevel,
    borderless: PyramidLevel,
) -> tuple[PyramidLevel, Iterate]:
    """`level`, or the level without flat borders where these contradict the other image; and the iterate there.

    The choice is the same for all pairs.

    Args:
        iterate: solved on `level`, the finest one with the outliers rejected.
        full: the finest level with all voxels. borderless: the same without flat borders, with the outliers rejected.
    """
    ratio, every, rest = _cost_ratio(problem, iterate, full, borderless)
    needed = next((better for limit, better in _NEEDED if ratio < limit), None)
    if needed is None:
        return level, iterate
    share = observability(problem, borderless, rest) / observability(problem, level, every)
    if share.min() < MIN_OBSERVABILITY:
        return level, iterate
    again = solve_level(
        problem,
        borderless,
        iterate.parameters,
        tolerance=options.tolerance,
        max_iterations=options.max_iterations,
        subset_only=True,
    )
    return (borderless, again) if again.cost.sum() <= needed * rest.cost.sum() else (level, iterate)


def prefers_borderless(
    problem: Problem, full: tuple[PyramidLevel, Floats], borderless: tuple[PyramidLevel, Floats]
) -> bool:
    """Whether to take the pose that was found without flat borders; each argument is a finest level and the pose there.

    If the borders were fill, the other voxels find the pose without them better by far; if
    they were background, all voxels find the pose with them better.
    """
    gains = []
    for level in (full[0], borderless[0]):
        objective = LevelObjective(problem, level)
        costs = [float(objective.evaluate(p).cost[0]) for p in (borderless[1], full[1])]
        gains.append(costs[0] / max(costs[1], 1e-9))
    return gains[0] * gains[1] < _BY_FAR


def _cost_ratio(
    problem: Problem, iterate: Iterate, full: PyramidLevel, borderless: PyramidLevel
) -> tuple[float, Iterate, Iterate]:
    """The cost without flat borders over that of all voxels at the same pose, and both iterates."""
    every, rest = (
        LevelObjective(problem, level).subsampled().evaluate(iterate.parameters) for level in (full, borderless)
    )
    cost = float(rest.cost.sum())  # infinite where too little overlaps
    return cost / max(float(every.cost.sum()), 1e-12) if math.isfinite(cost) else math.inf, every, rest
