"""The pose to start from when none is known: motions are proposed, compete, and the best are refined.

Surfaces propose motions by their local shape (`icp_features`). Curves, and clouds that fill a
volume, have no such shape: where the same points were measured, their neighbours tell them
(`icp_constellations`), else every rotation is tried (`icp_search`), as it is where the shapes led to
nothing. Surfaces compete by how they agree (`icp_agreement`), other clouds by the distances of their pairs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from daskreg.clouds.cloud import Cloud, Floats, lengths
from daskreg.clouds.distance_descriptors import constellations
from daskreg.clouds.fpfh import proposals
from daskreg.clouds.icp import Matched, Options, apply, homogeneous, kept_after, refine
from daskreg.clouds.multiresolution import Levels, approach
from daskreg.clouds.rotation_search import centre, distinct, sweep
from daskreg.clouds.surface_consistency import NEAR, agreement
from daskreg.clouds.voxel_grid import thin

# Points of the source that tell many motions apart, and motions that are refined after.
_FEW, _FINALISTS, _CONTENDERS = 200, 6, 4
# A pose this good needs no rival: the near start is taken, the other proposals are left alone.
_FITS = {"strain": 1.15, "conflicts": 0.055}
# On the coarse level, what is worth a closer look.
_PROMISES = {"strain": 1.5, "conflicts": 0.15}
# Fewest points whose shapes are worth describing.
_DESCRIBED = 200
# Share of the pairs left out while starts compete, where no trim is given.
_COMPETING_TRIM = 0.3
_SWEEP_TRIMS = (0.1, 0.35)
# A motion further from identity wins only if it is better by this factor.
_CLEARLY = {"score": 0.95, "distance": 0.9}
# A pose whose score on the coarse level is this much below the best has lost, and where the best fits.
_HOPE, _HOPE_OF_RIVALS = 0.25, 0.12
# Volumes: poses this much worse than the best are not refined further.
_WORTH = 0.5
# In spacings: partners are nearer than the first, pairs further apart than the second do not count.
_MET, _LIMIT = 0.35, 0.6
# Least share of the source that has partners.
PARTNERS = 0.2
# Points of a volume from which the first looks are at a sample of so many.
_DENSE, _SPARSE = 50_000, 5000


@dataclass(frozen=True, eq=False)
class Start:
    """The pose to refine, and how sure it is.

    Attributes:
        matrix: (D+1, D+1), target from source.
        rivals: (S, D+1, D+1) other poses that are about as good.
        near: whether it was given, or is where no motion, or a shift, led.
        refined: whether on the middle level.
        limit: beyond which pairs do not count, where the points that have partners are known.
    """

    matrix: Floats
    rivals: Floats
    near: bool
    refined: bool = False
    limit: float | None = None


def find(levels: Levels, options: Options, *, near: bool) -> Start:
    """The best pose without one given.

    Args:
        near: begin with no motion, and with the middles of the clouds moved together; take
            what they lead to if it fits, and else if nothing fits clearly better.
    """
    target, source = levels.coarse
    scale = target.radius / source.radius if options.with_scale else 1.0
    starts = np.zeros((0, target.ndim + 1, target.ndim + 1))
    if near:
        shift = centre(target.points) - scale * centre(source.points)
        starts = np.stack([levels.unmoved, homogeneous(scale * np.eye(target.ndim), shift)])
    if not levels.surface:
        return _of_volumes(levels, options, starts, scale)
    middle = levels.middle
    for start in starts[: 0 if options.with_scale else 1]:
        matrix = approach(levels.quick, start, options, max_iterations=20)
        if agreement(target, source, matrix).within(**_PROMISES):
            matrix = approach(levels.refined, matrix, options)
            if agreement(*middle, matrix).within(**_FITS):
                return Start(matrix, starts[:0], near=True, refined=True)
    described = target.ndim == 3 and min(len(target), len(source)) >= _DESCRIBED
    found = _by_shape(target, source, scale) if described else starts[:0]
    if len(found):
        start = _contest(levels, found, starts, options)
        if agreement(*middle, start.matrix).within(**_FITS):
            return start
        starts = np.concatenate([starts, start.matrix[None], start.rivals])
    trims = _SWEEP_TRIMS if options.trim is None else (options.trim,)
    found = sweep(target.points, source.points, scale=scale, trims=trims, seed=levels.seed)
    return _contest(levels, found, starts, options)


def _by_shape(target: Cloud, source: Cloud, scale: float) -> Floats:
    """Proposals, best first."""
    apart = max(target.spacing, scale * source.spacing)
    found = proposals(target, source.scaled(scale), apart)
    if not len(found):
        return found
    found[:, :-1, :-1] *= scale
    scores = meeting(target, source.part(_FEW), found, NEAR * apart)
    return found[np.argsort(-scores, kind="stable")]


def meeting(target: Cloud, source: Cloud, matrices: Floats, reach: float) -> Floats:
    """How much of a surface meets the other under each of (S, D+1, D+1): 0 to 1.

    A point counts less the further it is from its nearest, nothing beyond `reach`, and as the
    square of the cosine between the normals.
    """
    moved = np.concatenate([apply(m, source.points) for m in matrices])
    turned = np.concatenate([source.normals @ m[:-1, :-1].T for m in matrices])
    distances, indices = target.nearest(moved)
    alike = np.einsum("ij,ij->i", turned, target.normals[indices]) / np.maximum(lengths(turned), 1e-300)
    near = np.maximum(0.0, 1 - (distances / reach) ** 2) * alike**2
    return np.asarray(near.reshape(len(matrices), -1).mean(axis=1))


def _contest(levels: Levels, found: Floats, starts: Floats, options: Options) -> Start:
    """Refine `starts` and the first few of `found` that differ; of those about as good, the smallest motion."""
    (target, source), middle = levels.coarse, levels.middle
    few = np.concatenate([starts, distinct(found, target.radius, angle=10.0, shift=0.1)[:_FINALISTS]])
    tried = np.stack([approach(levels.coarse, m, options, max_iterations=8) for m in few])
    scores = np.array([agreement(target, source, m).score for m in tried])
    order = np.argsort(-scores, kind="stable")
    first = approach(levels.refined, tried[order[0]], options, max_iterations=15)
    hope = _HOPE_OF_RIVALS if agreement(*middle, first).within(**_FITS) else _HOPE
    hopeful = tried[order[: np.count_nonzero(scores >= scores.max() - hope)]]
    others = distinct(hopeful, target.radius, angle=4.0, shift=0.04)[1:_CONTENDERS]
    best = np.stack([first, *(approach(levels.refined, m, options, max_iterations=15) for m in others)])
    scores = np.array([agreement(*middle, m).score for m in best])
    good = best[scores >= scores.max() - (1 - _CLEARLY["score"]) * abs(scores.max())]
    return replace(_smallest(good, tried[: len(starts)], levels), refined=True)


def _of_volumes(levels: Levels, options: Options, starts: Floats, scale: float) -> Start:
    """Points have met their own partners or not: the distances of the nearest pairs tell."""
    met = _of_partners(levels, options, starts, scale)
    if met is not None:
        return met
    target, source = levels.coarse
    trims = _SWEEP_TRIMS if options.trim is None else (options.trim,)
    few = np.concatenate([starts, sweep(target.points, source.points, scale=scale, trims=trims, seed=levels.seed)])
    trim = _COMPETING_TRIM if options.trim is None else options.trim
    how = Options(options.method, trim=trim)
    dense = len(target) > _DENSE
    if dense:
        few = np.concatenate([few, _by_outline(levels, options, few)])
    tried = [refine(target, source, m, how, max_iterations=20) for m in few]

    def score(t: Matched) -> float:
        kept = kept_after(trim, len(t.distances), source.ndim)
        return float(np.sqrt(np.mean(np.partition(t.distances, kept - 1)[:kept] ** 2)))

    # Those on the way to a better one are no rivals of it.
    limit = min(map(score, tried)) / _WORTH
    tried = [
        t if t.settled or score(t) > limit else refine(target, source, t.matrix, how, max_iterations=80) for t in tried
    ]
    scores = np.array([score(t) for t in tried])
    matrices = np.stack([t.matrix for t in tried])
    if dense:  # few points stop short of their partners
        best = int(np.argmin(scores))
        closer = refine(target, levels.fine[1], matrices[best], options, max_iterations=80)
        matrices[best], scores[best] = closer.matrix, score(closer)
    good = matrices[scores * _CLEARLY["distance"] <= scores.min() + 1e-9 * target.radius]
    return _smallest(good, matrices[: len(starts)], levels)


def _by_outline(levels: Levels, options: Options, starts: Floats) -> Floats:
    """(S, D+1, D+1): where starts lead that are further away than the spacing.

    From there only the shape of the whole shows, and best where there is little else.
    """
    target, source = (Cloud(thin(points, _SPARSE, "sample", levels.seed)) for points in (levels.target, levels.source))
    shaped = [refine(target, source, m, options, max_iterations=50).matrix for m in starts]
    return np.stack([refine(levels.coarse[0], source, m, options, max_iterations=50).matrix for m in shaped])


def _of_partners(levels: Levels, options: Options, starts: Floats, scale: float) -> Start | None:
    """The pose that brings more points together than chance does, if there is one."""
    target, source = levels.coarse
    found = constellations(target, Cloud(levels.source), scale=scale, seed=levels.seed)
    if not len(found):
        return None
    near = _MET * target.spacing
    limit = min(options.max_distance or np.inf, _LIMIT * target.spacing)
    some = source.points[:_FEW]
    distances = target.nearest(np.concatenate([apply(m, some) for m in found]))[0].reshape(len(found), -1)
    found = found[np.argsort(-np.mean(distances < near, axis=1), kind="stable")]
    few = np.concatenate([starts, distinct(found, target.radius)[:_FINALISTS]])
    how = replace(options, max_distance=limit, trim=None)
    tried = [refine(target, source, m, how, max_iterations=30) for m in few]
    numbers = np.array([np.count_nonzero(t.distances < near) for t in tried])
    # Half of the points of a cloud have a neighbour within the spacing: so many would have one this near by chance.
    share = 1 - 2.0 ** -(_MET**target.ndim)
    chance = share * len(source) + 5 * np.sqrt(share * len(source)) + target.ndim + 2
    if numbers.max() < max(chance, PARTNERS * len(source)):
        return None
    matrices = np.stack([t.matrix for t in tried])
    good = matrices[numbers >= _CLEARLY["distance"] * numbers.max()]
    return replace(_smallest(good, matrices[: len(starts)], levels), limit=limit)


def _smallest(good: Floats, near: Floats, levels: Levels) -> Start:
    """The smallest motion among the good ones, and the others that differ."""
    target, source = levels.coarse
    extent, still = target.radius, apply(levels.unmoved, source.points)
    moved = [float(np.mean((apply(m, source.points) - still) ** 2)) for m in good]
    first = int(np.argmin(moved))
    ordered = np.concatenate([good[first : first + 1], np.delete(good, first, axis=0)])
    differ = distinct(ordered, extent)
    # What the near starts led to, the chosen one being the first.
    close = len(near) and len(distinct(np.concatenate([good[first : first + 1], near]), extent)) <= len(near)
    return Start(differ[0], differ[1:], near=bool(close))
