"""Scenes, motions and pairs for `deformable_kinds.py`.

A scene is a function of points and a motion a closed form, so the fixed image is the scene at the moved points and the
moving one the same scene at the pixels: no image is interpolated from the other, and none by daskreg. Photographs and
textures are cubic splines of scipy. A motion gives the displacement from indices of the fixed image to indices of
the moving one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from scipy.spatial import cKDTree
from skimage import color, data

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Random = np.random.Generator
Scene = Callable[[Floats], Floats]
"""(ndim, ...) points to (...) values."""
Motion = Callable[[Floats], Floats]
"""(ndim, ...) points of the fixed image to their (ndim, ...) displacements."""

SHAPE = (200, 230)
MARGIN = 60
"""Pixels of a photograph or texture that lie outside of the frame, on each side."""


@dataclass(frozen=True)
class Pair:
    """Two images whose motion is known.

    Args:
        clean: the fixed image without noise; where it has contrast are structures.
        truth: the motion, in indices.
        where: points of the fixed image at which the truth is defined; None: all.
        options: of `register`.
        fixed_spacing, moving_spacing: sizes of voxels; None: 1.
    """

    fixed: Floats
    moving: Floats
    clean: Floats
    truth: Motion
    where: Flags | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    fixed_spacing: tuple[float, ...] | None = None
    moving_spacing: tuple[float, ...] | None = None

    @property
    def sd(self) -> float:
        return max(float(self.clean.std()), 1e-9)


Make = Callable[[Random], Pair]


@dataclass(frozen=True)
class Kind:
    """A kind of pairs of images."""

    name: str
    ndim: int
    make: Make

    @property
    def summary(self) -> str:
        return (self.make.__doc__ or "").splitlines()[0]

    def pair(self, seed: int) -> Pair:
        return self.make(np.random.default_rng([seed, sum(self.name.encode())]))


KINDS: dict[str, Kind] = {}
"""All kinds by name, in the order of their definition."""


def kind(ndim: int) -> Callable[[Make], Make]:
    """The decorator that adds a function from a random generator to a pair to KINDS."""

    def add(make: Make) -> Make:
        KINDS[make.__name__] = Kind(make.__name__, ndim, make)
        return make

    return add


# Pairs ---------------------------------------------------------------------------------------------------------------


def pair_of(
    scene: Scene, motion: Motion, rng: Random, noise: float = 0.03, *, shape: tuple[int, ...] = SHAPE, **others: Any
) -> Pair:
    """The scene moved and at rest, both with white noise in units of the contrast; `others`: fields of Pair."""
    points = grid(shape)
    return noisy(scene(points + motion(points)), scene(points), motion, rng, noise, **others)


def noisy(clean: Floats, moving: Floats, motion: Motion, rng: Random, noise: float, **others: Any) -> Pair:
    """Two images without noise as a pair with white noise, in units of the contrast of the fixed one."""
    size = noise * max(float(clean.std()), 1e-9)
    noisy_fixed = clean + size * rng.normal(size=clean.shape)
    return Pair(noisy_fixed, moving + size * rng.normal(size=moving.shape), clean, motion, **others)


def both(pair: Pair, change: Callable[[Floats], Floats]) -> Pair:
    """A change of the recording of both images."""
    return replace(pair, fixed=change(pair.fixed), moving=change(pair.moving))


def in_frame(pair: Pair, change: Callable[[Floats], Floats]) -> Pair:
    """Something that both images show at the same place, whatever moves: dust, stripes, the rim of the field of view.

    The truth is the motion of the specimen, and is defined where that has at least twice the contrast of the other, in
    both images.
    """
    points = grid(pair.clean.shape)
    there = np.rint(points + pair.truth(points)).astype(int)
    there = np.clip(there, 0, np.reshape(pair.moving.shape, (-1,) + (1,) * pair.moving.ndim) - 1)
    clear, clear_in_moving = (
        local_contrast(image) > 2 * local_contrast(change(image) - image) for image in (pair.clean, pair.moving)
    )
    clear = clear & clear_in_moving[tuple(there)]
    return both(replace(pair, where=clear if pair.where is None else pair.where & clear), change)


def with_pattern(pair: Pair, pattern: Floats, strength: float) -> Pair:
    """`in_frame` for what is added: its standard deviation is `strength` times that of the clean image."""
    pattern = pattern * (strength * pair.sd / pattern.std())
    return in_frame(pair, lambda image: image + pattern)


def local_contrast(image: Floats, sigma: float = 3) -> Floats:
    """The standard deviation within Gaussian windows."""
    mean = ndimage.gaussian_filter(image, sigma)
    return np.sqrt(np.clip(ndimage.gaussian_filter((image - mean) ** 2, sigma), 0, None))


# Points --------------------------------------------------------------------------------------------------------------


def grid(shape: tuple[int, ...]) -> Floats:
    """The (ndim, *shape) indices of an image."""
    return np.indices(shape).astype(float)


def column(vector: ArrayLike, points: Floats) -> Floats:
    """A vector, or factors of axes, in a shape that broadcasts with points."""
    return np.reshape(np.asarray(vector, float), (-1,) + (1,) * (points.ndim - 1))


def middle(shape: tuple[int, ...]) -> Floats:
    return (np.array(shape) - 1) / 2


def from_middle(shape: tuple[int, ...]) -> Floats:
    """Of each pixel, its offset from the middle of the image."""
    points = grid(shape)
    return points - column(middle(shape), points)


def distance(points: Floats, centre: ArrayLike) -> Floats:
    return np.asarray(np.linalg.norm(points - column(centre, points), axis=0))


def nearest(tree: cKDTree, points: Floats) -> tuple[Floats, NDArray[np.intp]]:
    """Distances to the nearest of some points, and which these are."""
    distances, indices = tree.query(points.reshape(len(points), -1).T)
    return distances.reshape(points.shape[1:]), indices.reshape(points.shape[1:])


def shrinking(tree: cKDTree, factors: Floats, smooth: Motion) -> Motion:
    """A smooth motion of cells that each shrink by their own factor about their own middle, the points of a tree."""

    def motion(points: Floats) -> Floats:
        moved = points + smooth(points)
        _, indices = nearest(tree, moved)
        own = np.moveaxis(tree.data[indices], -1, 0)
        return np.asarray(own + (moved - own) / factors[indices] - points)

    return motion


def scattered(shape: tuple[int, ...], rng: Random, count: int, pad: float) -> Floats:
    """(N, ndim) random points: `count` in the frame, and as dense within `pad` around it."""
    count = int(count / np.prod(shape) * np.prod([n + 2 * pad for n in shape]))
    return np.stack([rng.uniform(-pad, n + pad, count) for n in shape], axis=1)


def apart(points: Floats, least: float) -> Floats:
    """Those points that keep a distance from all before them."""
    kept: list[Floats] = []
    for point in points:
        if all(np.linalg.norm(point - other) > least for other in kept):
            kept.append(point)
    return np.array(kept)


# Scenes --------------------------------------------------------------------------------------------------------------


class Spline:
    """An image between its pixels, with a margin around the frame."""

    def __init__(self, image: Floats, margin: int = MARGIN) -> None:
        self.coefficients = ndimage.spline_filter(image, 3)
        self.margin = margin

    def __call__(self, points: Floats) -> Floats:
        return np.asarray(
            ndimage.map_coordinates(self.coefficients, points + self.margin, order=3, prefilter=False, mode="mirror")
        )


def smooth_noise(rng: Random, size: tuple[int, ...], sigma: float) -> Floats:
    """Smoothed white noise of standard deviation 1."""
    noise = ndimage.gaussian_filter(rng.normal(size=size), sigma)
    return np.asarray(noise / noise.std())


def _with_margin(shape: tuple[int, ...], margin: int = MARGIN) -> tuple[int, ...]:
    return tuple(n + 2 * margin for n in shape)


def photograph(rng: Random, *names: str, shape: tuple[int, ...] = SHAPE) -> Spline:
    """A random part of one of these photographs of scikit-image."""
    size = _with_margin(shape)
    image = np.asarray(getattr(data, str(rng.choice(names)))(), float) / 255
    gray = color.rgb2gray(image) if image.ndim == 3 else image
    gray = np.pad(gray, [(0, max(0, s - n)) for s, n in zip(size, gray.shape, strict=True)], mode="reflect")
    start = [int(rng.integers(0, n - s + 1)) for n, s in zip(gray.shape, size, strict=True)]
    part = gray[start[0] : start[0] + size[0], start[1] : start[1] + size[1]]
    return Spline((part - part.mean()) / part.std())


def texture(rng: Random, sigma: float = 1.5, *, shape: tuple[int, ...] = SHAPE) -> Spline:
    return Spline(smooth_noise(rng, _with_margin(shape), sigma))


def tissue(rng: Random, *, shape: tuple[int, ...] = SHAPE) -> Spline:
    """Texture of three sizes."""
    size = _with_margin(shape)
    return Spline((smooth_noise(rng, size, 1.5) + smooth_noise(rng, size, 4) + smooth_noise(rng, size, 12)) / 1.7)


def volume_texture(rng: Random, shape: tuple[int, ...]) -> Spline:
    """Texture of two sizes, with a small margin."""
    size = _with_margin(shape, 12)
    return Spline(smooth_noise(rng, size, 1.5) + 0.7 * smooth_noise(rng, size, 4), 12)


@dataclass(frozen=True)
class Beads:
    """Gaussian spots on black."""

    centres: Floats
    widths: Floats
    heights: Floats

    def __call__(self, points: Floats) -> Floats:
        flat = points.reshape(len(points), -1)
        values = np.zeros(flat.shape[1])
        around = cKDTree(flat.T).query_ball_point(self.centres, 4.5 * self.widths)
        for centre, width, height, near in zip(self.centres, self.widths, self.heights, around, strict=True):
            if near:
                squares = ((flat[:, near].T - centre) ** 2).sum(1)
                values[near] += height * np.exp(-squares / 2 / width**2)
        return values.reshape(points.shape[1:])


def scattered_beads(
    rng: Random,
    count: int,
    widths: tuple[float, float] = (1.5, 2.5),
    heights: tuple[float, float] = (0.5, 1),
    *,
    shape: tuple[int, ...] = SHAPE,
    pad: float = 30,
) -> Beads:
    """`count` beads of random places, widths and heights in the frame, and others around it."""
    centres = scattered(shape, rng, count, pad)
    return Beads(centres, rng.uniform(*widths, len(centres)), rng.uniform(*heights, len(centres)))


class Membranes:
    """Bright walls between cells of a size: the borders of a Voronoi diagram."""

    def __init__(
        self, rng: Random, size: float = 18, *, width: float = 2, shape: tuple[int, ...] = SHAPE, pad: float = 50
    ) -> None:
        count = int(np.prod([n + 2 * pad for n in shape]) / size ** len(shape))
        self.tree = cKDTree(np.stack([rng.uniform(-pad, n + pad, count) for n in shape], axis=1))
        self.width = width
        rng.uniform(0, 1, count)  # not used; a seed gives the motions that it gave when cells had a brightness each

    def __call__(self, points: Floats) -> Floats:
        distances, _ = self.tree.query(points.reshape(len(points), -1).T, k=2)
        apart = (distances[:, 1] - distances[:, 0]).reshape(points.shape[1:])
        return np.exp(-((apart / self.width) ** 2) / 2)


class Vessels:
    """Bright tubes along random smooth paths."""

    def __init__(
        self,
        rng: Random,
        count: int = 14,
        radii: tuple[float, float] = (1.2, 3),
        *,
        shape: tuple[int, ...] = SHAPE,
        pad: float = 40,
    ) -> None:
        steps, ndim = 900, len(shape)
        path, radius = [], []
        for _ in range(count):
            place = np.array([rng.uniform(-pad, n + pad) for n in shape])
            along = rng.normal(size=ndim)
            radius += [rng.uniform(*radii)] * steps
            turns = ndimage.gaussian_filter1d(rng.normal(size=(steps, ndim)), 20, axis=0) * 0.35
            for turn in turns:
                along = along / np.linalg.norm(along) + turn
                along = along / np.linalg.norm(along)
                place = place + 0.5 * along
                path.append(place)
        self.tree, self.radii = cKDTree(np.array(path)), np.array(radius)

    def __call__(self, points: Floats) -> Floats:
        distances, indices = nearest(self.tree, points)
        return np.exp(-((distances / self.radii[indices]) ** 2) / 2)


class Lattice:
    """A hexagonal lattice of bright columns, or with `lines` a grating, with a number of vacancies."""

    def __init__(
        self, rng: Random, period: float, vacancies: int, *, lines: bool = False, shape: tuple[int, ...] = SHAPE
    ) -> None:
        angle = rng.uniform(0, np.pi)
        turns = (0, 0, 0) if lines else (0, np.pi / 3, 2 * np.pi / 3)
        self.waves = [2 * np.pi / period * np.array([np.cos(angle + t), np.sin(angle + t)]) for t in turns]
        first, second = rng.uniform(0, 6, 2)
        self.phases = (0, 0, 0) if lines else (first, first + second, second)
        self.vacancies = scattered(shape, rng, vacancies, 40)
        self.width = 0.45 * period

    def __call__(self, points: Floats) -> Floats:
        waves = zip(self.waves, self.phases, strict=True)
        columns = sum(np.cos(np.tensordot(wave, points, 1) + phase) for wave, phase in waves) / 3
        filled = np.ones(points.shape[1:])
        for vacancy in self.vacancies:
            filled -= 0.9 * np.exp(-(distance(points, vacancy) ** 2) / 2 / self.width**2)
        return np.asarray((columns + 0.5) * np.clip(filled, 0, 1))


class Layers:
    """Bands along x whose depth, the first axis, varies; `first`: of the profile, in the first row."""

    def __init__(self, profile: Floats, depth: Motion, first: float) -> None:
        self.profile, self.depth, self.first = profile / profile.std(), depth, first

    def __call__(self, points: Floats) -> Floats:
        at = points[0] + self.depth(points)[0] + self.first
        return np.interp(at, np.arange(len(self.profile)), self.profile)


def soft_step(inside: Floats, width: float = 1) -> Floats:
    """From 0 to 1 where the argument, a distance in pixels, rises through 0."""
    return 1 / (1 + np.exp(-inside / width))


# Motions -------------------------------------------------------------------------------------------------------------


class Waves:
    """Of each component two plane waves of random directions and phases."""

    def __init__(self, rng: Random, amplitude: float = 3, length: float = 90, *, ndim: int = 2) -> None:
        self.waves = [[(rng.normal(size=ndim), rng.uniform(0, 6.28)) for _ in range(2)] for _ in range(ndim)]
        self.amplitude, self.length = amplitude / np.sqrt(2), length

    def __call__(self, points: Floats) -> Floats:
        components = []
        for waves in self.waves:
            phases = [
                2 * np.pi / self.length * np.tensordot(along / np.linalg.norm(along), points, 1) + phase
                for along, phase in waves
            ]
            components.append(self.amplitude * np.asarray(sum(np.sin(phase) for phase in phases)))
        return np.stack(components)


class AffineAfter:
    """A matrix about the middle and a shift, after another motion."""

    def __init__(self, matrix: ArrayLike, shift: ArrayLike, motion: Motion, shape: tuple[int, ...] = SHAPE) -> None:
        self.matrix, self.shift = np.asarray(matrix, float), np.asarray(shift, float)
        self.motion, self.middle = motion, middle(shape)

    def __call__(self, points: Floats) -> Floats:
        moved = points + self.motion(points) - column(self.middle, points)
        return np.tensordot(self.matrix, moved, 1) + column(self.middle + self.shift, points) - points


def shifted(shift: ArrayLike, motion: Motion, shape: tuple[int, ...] = SHAPE) -> AffineAfter:
    """A shift after another motion."""
    return AffineAfter(np.eye(len(shape)), shift, motion, shape)


def rotation_matrix(degrees: float, ndim: int = 2) -> Floats:
    """A rotation of the last two axes."""
    angle, matrix = np.deg2rad(degrees), np.eye(ndim)
    matrix[-2:, -2:] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return matrix


def bump(centre: ArrayLike, sigma: float, most: Floats) -> Motion:
    """A displacement that falls from `most` at the centre as a Gaussian."""
    return lambda points: column(most, points) * np.exp(-(distance(points, centre) ** 2) / 2 / sigma**2)


def twist(centre: Floats, angle: float, sigma: float) -> Motion:
    """A rotation whose angle falls from that at the centre as a Gaussian."""

    def motion(points: Floats) -> Floats:
        y, x = points - column(centre, points)
        turn = angle * np.exp(-(y**2 + x**2) / 2 / sigma**2)
        return np.stack([np.cos(turn) * y - np.sin(turn) * x - y, np.sin(turn) * y + np.cos(turn) * x - x])

    return motion


def then_jump(motion: Motion, jump: Motion) -> Motion:
    """A motion to which one is added that is not smooth, as a function of the same points."""
    return lambda points: motion(points) + jump(points)


def along_x(values: Callable[[Floats], Floats]) -> Motion:
    """Displacements along x alone, the last axis of an image."""
    return lambda points: np.stack([np.zeros(points.shape[1:]), values(points)])
