"""Where to start: identity, moments, correlation by FFT over turns, and how to choose.

Every start is a motion in the world, `moving_from_fixed`. Candidates are refined by a few
iterations on the coarse levels, in one batch, and the best by the metric wins; but one
that moves the image more than another must be clearly better, so that an object that
looks the same from several sides keeps the small motion.

Correlations are masked (Padfield, "Masked object registration in the Fourier domain",
2012): each shift is scored over its own overlap, so borders and masks do not pull.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.fft import next_fast_len
from torch import Tensor
from torch.nn import functional

from daskreg.geometry import Grid, index_matrix
from daskreg.geometry.rotations import array_order, rotation_from_angles, super_fibonacci_rotations
from daskreg.registration.levenberg_marquardt import Lens, Problem, solve_level
from daskreg.registration.masked_pyramids import Ways
from daskreg.registration.multiresolution import half_extent
from daskreg.registration.pyramid import Level, Picture, shrink, smooth

Floats = NDArray[np.float64]

STARTS = ("auto", "identity", "moments", "phase", "search")
# A motion that is larger than another must explain this fraction more of what is left.
CLEARLY = 0.01
# A start that leaves less unexplained needs no second look; starts within so many voxels
# are the same; and what "by far" is.
_GOOD, _SAME, _BY_FAR = 0.02, 0.25, 0.8
# A start that leaves more does not explain enough to be believed.
DOUBTFUL = 0.08
# Half width of a peak of the correlation, in voxels.
_PEAK = 3
# Correlation peaks over less of the smaller image than this are chance.
_LEAST_OVERLAP = 0.3
# Sigma, in voxels of the level, of the local mean that correlation leaves out.
_LOCAL = 3.0
# Volumes are correlated one step coarser, where a side has this many voxels.
_LEAST_SIDE = 24


def candidates(ways: Ways, kind: str) -> list[Floats]:
    """Starts of one kind (out of STARTS), (D+1, D+1) each; identity is the first of them.

    Args:
        ways: of one pair.
    """
    levels = ways.whole
    ndim = levels[0].fixed.grid.ndim
    found = [np.eye(ndim + 1)]
    if kind in ("moments", "auto"):
        found += moments(levels[0].fixed, levels[0].moving)
    some_turns = {"phase": lambda n: [np.eye(n)], "auto": near_turns, "search": all_turns}
    turns = some_turns[kind](ndim) if kind in some_turns else []
    if turns:
        # A flat border may be background or what an earlier warp filled: try both.
        for some in (levels, ways.content):
            if some is not None:
                level = some[0] if len(turns) > 1 else some[min(1, len(some) - 1)]
                found += correlate(_affordable(level, turns), turns)
    return found


def choose(problem: Problem, levels: Sequence[Level], starts: Floats, *, keep: int = 4) -> tuple[Floats, float]:
    """(1, P) parameters of the best of (K, P) starts, refined on the two coarsest levels, and the metric there.

    The first level refines all starts in a batch, the second the best `keep` of them.
    """
    p, last = starts, min(2, len(levels)) - 1
    for number, level in enumerate(levels[:2]):
        state = solve_level(problem, level, p, 0.05, max_iterations=12, rough=True)
        merit = _merit(state.cost, state.overlap)
        # The smallest motion always goes on, so that it can be beaten but not lost.
        size = _motion(problem, level, state.parameters)
        going = np.unique([*np.argsort(merit)[:keep], size.argmin()])
        p = state.parameters[going]
        if number == last:
            best = going[_winner(merit[going], size[going])]
            return state.parameters[best][None], float(state.cost[best])
    return p[:1], math.inf


def views(
    problem: Problem, ways: Ways, starts: Floats, *, turns: Sequence[Floats] | None = None
) -> list[tuple[Ways, Floats]]:
    """What to descend on, and the (1, P) start of each: everything, and perhaps the content alone.

    Where the best start differs without flat borders, both have to be followed; `believed` then chooses.

    Args:
        turns: where no start explains much, look again with these, one level finer and by several peaks of
            the correlation for each turn: on the coarsest level things that repeat look alike.
    """
    p, cost = choose(problem, ways.whole, starts)
    if turns is not None and cost >= DOUBTFUL and len(ways.whole) >= 3:
        ways, starts = _closer(problem, ways, np.concatenate([starts[:1], p]), turns)
        p, cost = choose(problem, ways.whole, starts)
    if cost < _GOOD or ways.content is None:
        return [(ways, p)]
    q, _ = choose(problem, ways.content, starts)
    if not Lens(problem, ways.content[min(1, len(ways.content) - 1)]).moved(p, q)[0] > _SAME:
        return [(ways, p)]
    return [(ways, p), (Ways(ways.content, None, ways.variance), q)]


def _closer(problem: Problem, ways: Ways, starts: Floats, turns: Sequence[Floats]) -> tuple[Ways, Floats]:
    """The ways without their coarsest level, and more starts from the next."""
    finer = [_affordable(some[1], turns) for some in (ways.whole, ways.content) if some]
    found = [np.stack(correlate(level, turns, best=24, peaks=3)) for level in finer]
    grid = ways.whole[0].fixed.grid
    more = problem.pose.from_matrices(np.concatenate(found), problem.centre, half_extent(grid)).numpy()
    rest = Ways(ways.whole[1:], None if ways.content is None else ways.content[1:], ways.variance)
    return rest, np.concatenate([starts, more])


def believed(problem: Problem, one: tuple[Level, Floats], other: tuple[Level, Floats]) -> bool:
    """Whether `other`, a finest level without flat borders and where it led, is to be believed, not `one`.

    If the borders were fill, the rest of the voxels finds the pose of `other` better by far; if
    they were background, all voxels find that of `one` better.
    """
    gains = []
    for level, _ in (one, other):
        lens = Lens(problem, level)
        costs = [float(lens.evaluate(p).cost[0]) for p in (other[1], one[1])]
        gains.append(costs[0] / max(costs[1], 1e-9))
    return gains[0] * gains[1] < _BY_FAR


def _affordable(level: Level, turns: Sequence[Floats]) -> Level:
    """The level to correlate over many turns: of volumes one step coarser, where they are large enough for that."""
    if level.fixed.grid.ndim == 2 or len(turns) == 1:
        return level
    fixed, moving = (
        shrink(p, [2 if n >= _LEAST_SIDE else 1 for n in p.grid.shape]) for p in (level.fixed, level.moving)
    )
    return Level(fixed, moving, 2 * level.step)


def moments(fixed: Picture, moving: Picture) -> list[Floats]:
    """Motions that bring the centroids together, and the principal axes as well.

    Axes have no sign, so two turns fit in 2D and four in 3D. Mass is the distance from
    the median of the border, so that bright and dark objects count alike.
    """
    (cf, af), (cm, am) = (_moments(p) for p in (fixed, moving))
    ndim = len(cf)
    found = [_about(np.eye(ndim), cf, cm)]
    for signs in itertools.product((1.0, -1.0), repeat=ndim):
        turn = am @ np.diag(signs) @ af.T
        if np.linalg.det(turn) > 0:
            found.append(_about(turn, cf, cm))
    return found


def correlate(
    level: Level, turns: Sequence[Floats], *, best: int = 16, peaks: int = 1, batch: int = 32
) -> list[Floats]:
    """For each turn, the shifts with the best masked correlation, `peaks` of them; the `best` of all turns.

    Both images are brought to one isotropic lattice about their own centres, the moving
    one turned, and correlated over all shifts by FFT.
    """
    fixed, moving = (_sharpened(p, level.step) for p in (level.fixed, level.moving))
    step = max(level.step, *(s / 2 for s in fixed.grid.spacing))
    sides = [_diagonal(moving.grid, step)] * fixed.grid.ndim
    own = _lattice(
        fixed.grid, [math.ceil(n * s / step) for n, s in zip(fixed.grid.shape, fixed.grid.spacing, strict=True)], step
    )
    padded = [next_fast_len(a + b - 1, real=True) for a, b in zip(own.shape, sides, strict=True)]
    reference = _spectra(*_resample(fixed, own, [np.eye(fixed.grid.ndim)]), padded)
    least = _LEAST_OVERLAP * min(math.prod(p.grid.shape) * math.prod(p.grid.spacing) for p in (fixed, moving))
    found = []
    for first in range(0, len(turns), batch):
        some = turns[first : first + batch]
        lattice = _lattice(moving.grid, sides, step)
        spectra = _spectra(*_resample(moving, lattice, some), padded)
        score = _correlation(reference, spectra, padded, least / step**fixed.grid.ndim)
        for _ in range(peaks):
            values, places = score.flatten(1).max(1)
            for row, (turn, value, place) in enumerate(zip(some, values.tolist(), places.tolist(), strict=True)):
                at = np.array(np.unravel_index(place, padded))
                shift = at - np.where(at >= np.array(own.shape), padded, 0)
                # own[i] meets lattice[i - shift].
                origin = np.asarray(lattice.origin) - shift * step
                found.append((value, _about(turn, np.asarray(own.origin), origin, about=moving.grid.centre)))
                if peaks > 1:
                    near = np.ix_(*[np.arange(i - _PEAK, i + _PEAK + 1) % n for i, n in zip(at, padded, strict=True)])
                    score[row][near] = -torch.inf
    found.sort(key=lambda pair: -pair[0])
    return [motion for _, motion in found[:best]]


def _sharpened(image: Picture, step: float) -> Picture:
    """Less its local mean: slow ramps correlate wherever they meet, over any small overlap."""
    sigmas = [_LOCAL * step / s for s in image.grid.spacing]
    return replace(image, values=image.values - smooth(image, sigmas).values)


def near_turns(ndim: int) -> list[Floats]:
    """Turns within 45 degrees: every 7.5 in 2D, every 25 about single axes in 3D."""
    if ndim == 2:
        return [_turn([a]) for a in np.arange(-45, 46, 7.5)]
    angles = [(0.0, 0.0, 0.0)] + [tuple(s * row) for row in np.eye(3) for s in (25.0, -25.0)]
    return [_turn(a) for a in angles]


def all_turns(ndim: int) -> list[Floats]:
    """All turns: every 7.5 degrees in 2D; in 3D 576, about 30 degrees apart."""
    if ndim == 2:
        return [_turn([a]) for a in np.arange(0, 360, 7.5)]
    return [np.eye(3), *super_fibonacci_rotations(576)]


def _motion(problem: Problem, level: Level, p: Floats) -> Floats:
    """(K,) root mean square displacement, in voxels, of the centre and the ends of the axes."""
    reach = half_extent(level.fixed.grid)
    points = np.eye(len(reach) + 1)
    points[:-1, :-1] *= reach
    points[:-1, -1] = level.fixed.grid.centre
    change = (problem.pose.motions(p, problem.centre)[0] - np.eye(len(points))) @ points
    return np.asarray(np.sqrt((change**2).sum((1, 2))) / level.step)


def _merit(cost: Floats, overlap: Floats) -> Floats:
    """The metric, with little overlap counting against it."""
    return cost / np.sqrt(np.maximum(overlap, 1e-3))


def _winner(merit: Floats, size: Floats) -> int:
    """The best, unless a smaller motion is as good but for `CLEARLY`."""
    good = merit <= merit.min() * (1 + CLEARLY) + 1e-9
    return int(np.where(good, size, np.inf).argmin())


def _moments(image: Picture) -> tuple[Floats, Floats]:
    """World centroid, and the principal axes as columns, by falling extent."""
    values = image.values[0].to(torch.float64).cpu().numpy()
    weight = np.ones_like(values) if image.weight is None else image.weight[0].to(torch.float64).cpu().numpy()
    border = np.ones(values.shape, bool)
    border[tuple(slice(1, -1) if n > 2 else slice(None) for n in values.shape)] = False
    border &= weight > 0.5
    mass = np.abs(values - (np.median(values[border]) if border.any() else values.mean())) * weight
    total = max(float(mass.sum()), 1e-12)
    points = image.grid.world(np.indices(values.shape).reshape(values.ndim, -1).T)
    centroid = (mass.reshape(-1, 1) * points).sum(0) / total
    away = points - centroid
    _, axes = np.linalg.eigh((mass.reshape(-1, 1) * away).T @ away / total)
    return centroid, axes[:, ::-1]


def _about(turn: Floats, fixed_point: Floats, moving_point: Floats, *, about: Floats | None = None) -> Floats:
    """The motion x -> turn (x - fixed_point + moving_point - about) + about, about = moving_point by default."""
    middle = moving_point if about is None else about
    m = np.eye(len(turn) + 1)
    m[:-1, :-1] = turn
    m[:-1, -1] = turn @ (moving_point - fixed_point - middle) + middle
    return m


def _turn(angles: ArrayLike) -> Floats:
    return array_order(rotation_from_angles(np.radians(angles).tolist()))


def _diagonal(grid: Grid, step: float) -> int:
    return math.ceil(math.hypot(*(n * s for n, s in zip(grid.shape, grid.spacing, strict=True))) / step)


def _lattice(grid: Grid, shape: Sequence[int], step: float) -> Grid:
    """An upright isotropic lattice about the centre of `grid`."""
    return Grid(shape, step, grid.centre - (np.asarray(shape) - 1) / 2 * step)


def _resample(image: Picture, lattice: Grid, turns: Sequence[Floats]) -> tuple[Tensor, Tensor]:
    """(T, *lattice) values and weights of the image turned about its centre, zero outside."""
    inner = image.grid.shape
    theta = []
    for turn in turns:
        centre = image.grid.centre
        m = index_matrix(_about(turn, centre, centre), lattice, image.grid)
        # Indices to torch's x-first [-1, 1], align_corners=False.
        to = np.diag([2 / n for n in inner] + [1.0])
        to[:-1, -1] = [1 / n - 1 for n in inner]
        back = np.diag([n / 2 for n in lattice.shape] + [1.0])
        back[:-1, -1] = [(n - 1) / 2 for n in lattice.shape]
        n = to @ m @ back
        theta.append(np.concatenate([n[:-1, :-1][::-1, ::-1], n[:-1, -1:][::-1]], 1))
    device = image.values.device
    maps = torch.tensor(np.stack(theta), dtype=torch.float32, device=device)
    weight = torch.ones_like(image.values[:1]) if image.weight is None else image.weight[:1]
    both = torch.stack([image.values[0] * weight[0], weight[0]])[None].expand(len(maps), *[-1] * (len(inner) + 1))
    grid = functional.affine_grid(maps, [len(maps), 1, *lattice.shape], align_corners=False)
    out = functional.grid_sample(both, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return out[:, 0], out[:, 1]


def _spectra(values: Tensor, weight: Tensor, padded: Sequence[int]) -> Tensor:
    """(3, T, ...) spectra of weight, weighted values and weighted squares."""
    squares = values.square() / weight.clamp_min(1e-6)
    dims = tuple(range(-len(padded), 0))
    spectra: Tensor = torch.fft.rfftn(torch.stack([weight, values, squares]), s=tuple(padded), dim=dims)
    return spectra


def _correlation(fixed: Tensor, moving: Tensor, padded: Sequence[int], least: float) -> Tensor:
    """(T, *padded) masked correlation at shift s, where fixed[i] meets moving[i - s]."""
    dims = tuple(range(-len(padded), 0))
    m0, m1, m2 = moving.conj()
    f0, f1, f2 = fixed
    pairs = torch.stack([f0 * m0, f1 * m0, f0 * m1, f2 * m0, f0 * m2, f1 * m1])
    sums: Tensor = torch.fft.irfftn(pairs, s=tuple(padded), dim=dims)
    n, f, m, ff, mm, fm = sums
    count = n.clamp_min(1e-3)
    product = fm - f * m / count
    variance = (ff - f * f / count).clamp_min(0) * (mm - m * m / count).clamp_min(0)
    floor = 1e-4 * variance.amax(dim=dims, keepdim=True)
    score = product / (variance + floor).sqrt()
    scored = torch.where(n >= least, score * (count / least).clamp(max=3).pow(0.25), -torch.inf)
    return scored
