"""The clouds at the sizes at which they are looked at: coarse to start, fine to end."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from daskreg.clouds.cloud import Cloud, Floats, core
from daskreg.clouds.icp import Matched, Options, refine
from daskreg.clouds.outlier_removal import without_strays
from daskreg.clouds.surface_consistency import roughness
from daskreg.clouds.voxel_grid import LOOKED, looks_flat, thin, thinned, voxel_size_for
from daskreg.runtime.cached import lazy
from daskreg.runtime.threads import ahead, pool_threads, spread

Pair = tuple[Cloud, Cloud]

# Points of a surface at each level, and of a cloud that fills a volume: to choose a start, and to refine.
_MIDDLE, _FINE = 6000, 20_000
_VOLUME_START, _VOLUME = 1000, 50_000
# So many points of a surface are worth no level between, where one pose is refined.
_ALL = 12_000
# Points further out, in median distances from the middle, are strays.
_REACH = 20.0
# Noise above this many spacings hides what finer sampling would show.
_NOISY = 0.52
# Neighbours that make the local shape there, and where noise is smoothed.
_NEAR_FINE, _NEAR = 14, 20
# Fewest points of a surface that is seen through a haze of strays.
_CLEAR = 100


@dataclass(frozen=True, eq=False)
class Levels:
    """Two clouds, (N, D) and (M, D), and their thinned versions, made when first asked for.

    Surfaces (in 2D, curves) are evened out by voxels of one size. Elsewhere only rows of the source are
    left out: a point that fills a volume has its partner or none, and means of voxels have none.
    """

    target: Floats
    source: Floats
    unmoved: Floats  # (D+1, D+1) that is no motion: each has an origin of its own
    device: str = "cpu"
    seed: int = 0
    alike: bool = True  # in scale, so that one size of voxels does for both
    given: bool = False  # one pose to start from, and not many to choose among

    @lazy
    def surface(self) -> bool:
        flat = spread(pool_threads(), looks_flat, self._small)
        if all(flat):
            return True
        target, source = (c.points if f else without_strays(c.points) for c, f in zip(self._whole, flat, strict=True))
        clear = replace(self, target=target, source=source)
        if min(len(clear.target), len(clear.source)) < _CLEAR or not all(looks_flat(c) for c in clear._small):
            return False
        for name in ("_whole", "_dense", "_even", "_small"):  # surfaces in a haze
            self.__dict__[name] = getattr(clear, name)
        return True

    @lazy
    def coarse(self) -> Pair:
        if not self.surface:
            return Cloud(self.target, self.device), Cloud(thin(self.source, _VOLUME_START, "sample", self.seed))
        return self._small

    @lazy
    def quick(self) -> Pair:
        """The coarse clouds with what the middle ones know of the shape."""
        a, b = (coarse.like(middle) for coarse, middle in zip(self.coarse, self.middle, strict=True))
        return a, b

    @property
    def middle(self) -> Pair:
        return self._even if self.surface else self.coarse

    @property
    def refined(self) -> Pair:
        """The middle level where poses are refined: smoothed, where noise would slow that down."""
        return self.fine if self.surface and self._noisy else self.middle

    @lazy
    def fine(self) -> Pair:
        """Where the last refinement is done: no finer than there is something to see."""
        if not self.surface:
            return self.coarse[0], Cloud(thin(self.source, _VOLUME, "sample", self.seed))
        if self._noisy:
            a, b = (smoothed(cloud) for cloud in self.middle)
            return a, b
        return self._dense

    @lazy
    def measured(self) -> Cloud:
        """The whole target."""
        whole = self._whole[0] if self.surface else self.coarse[0]
        return whole if len(whole) == len(self.target) else Cloud(self.target, self.device)

    @property
    def judged(self) -> Cloud:
        """Points of the source as they were measured, thinned."""
        return self.middle[1] if self.surface else self.fine[1]

    @lazy
    def _noisy(self) -> bool:
        return min(roughness(cloud) / (cloud.spacing or 1.0) for cloud in self.middle) > _NOISY

    @property
    def _all(self) -> int:
        """So many points are worth no level between."""
        return _ALL if self.given else _MIDDLE

    @lazy
    def _whole(self) -> Pair:
        """Without strays: each would be a cube of its own, and they would tell the size of cubes."""

        def inner(points: Floats) -> Cloud:
            inside = core(points, reach=_REACH)
            cloud = Cloud(inside, self.device, near=_NEAR_FINE if len(inside) > self._all else 0)
            return cloud.in_order() if len(cloud) <= _FINE else cloud

        a, b = spread(pool_threads(), inner, (self.target, self.source))
        return a, b

    @lazy
    def _dense(self) -> Pair:
        return self._thinned(_FINE, *self._whole, near=_NEAR_FINE)

    @lazy
    def _even(self) -> Pair:
        few = max(map(len, self._dense)) <= self._all
        return self._dense if few else self._thinned(_MIDDLE, *self._dense, near=_NEAR)

    @lazy
    def _small(self) -> Pair:
        return self._thinned(LOOKED, *self._even)

    def _thinned(self, count: int, *clouds: Cloud, near: int = 0) -> Pair:
        if max(map(len, clouds)) <= count:
            a, b = clouds
            return a, b
        found = spread(pool_threads(), lambda cloud: voxel_size_for(cloud, min(count, len(cloud))), clouds)
        sizes = [size for size, _ in found]
        if self.alike:
            sizes = [float(np.sqrt(sizes[0] * sizes[1]))] * 2

        def part(of: tuple[Cloud, tuple[float, Cloud], float]) -> Cloud:
            # What stands in for a cloud was made for the size sought for it.
            cloud, (own, few), size = of
            return thinned(few if size >= own else cloud, size, near=near).in_order()

        a, b = spread(pool_threads(), part, zip(clouds, found, sizes, strict=True))
        return a, b


def smoothed(cloud: Cloud) -> Cloud:
    """The cloud moved onto planes through the points around each of its own, with the planes' normals.

    Noise across the surface falls with the root of their number (a step of moving least squares).
    """
    planes = cloud.planes
    normals = planes.vectors[:, :, 0]
    off = np.einsum("ij,ij->i", cloud.points - planes.means, normals)
    onto = Cloud(cloud.points - off[:, None] * normals, cloud.device)
    onto.__dict__["shapes"] = planes.values, planes.vectors
    return onto


def descend(levels: Levels, start: Floats, options: Options, *, max_iterations: int, refined: bool = False) -> Matched:
    """Refine from coarse to fine; `refined`: the start was, on the middle level."""
    matrix = start
    if levels.surface and not refined:
        # Meanwhile planes of the next level are found, which takes longer than coarse levels do.
        fixed, moving = levels.fine
        shapes = ahead(partial(getattr, fixed, "shapes"))
        # What a level has left to say in steps below its own error, the next one says better.
        near = partial(approach, options=options, max_iterations=max_iterations, least_gain=4.0)
        matrix = near(levels.quick, matrix)
        if levels.fine is not levels.refined:
            matrix = near(levels.refined, matrix)
        moving.shapes  # noqa: B018 (by this thread, and the other once it is free)
        shapes()
    tree = ahead(partial(getattr, levels.measured, "tree"))
    matched = refine(*levels.fine, matrix, options, max_iterations=max_iterations)
    tree()
    return matched


def approach(
    pair: Pair, start: Floats, options: Options, *, max_iterations: int = 30, least_gain: float = 0.1
) -> Floats:
    """Refine on a level that is not the last."""
    wide = options.beyond(2 * pair[0].spacing)
    rounds = min(30, max_iterations)
    return refine(*pair, start, wide, max_iterations=rounds, tolerance=3e-4, least_gain=least_gain).matrix
