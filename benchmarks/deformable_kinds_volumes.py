"""Kinds of volumes for `deformable_kinds.py`: light sheets, tomograms, EM."""

from __future__ import annotations

import numpy as np
from deformable_scenes import (
    AffineAfter,
    Floats,
    Membranes,
    Motion,
    Pair,
    Random,
    Scene,
    Spline,
    Vessels,
    Waves,
    apart,
    both,
    column,
    distance,
    grid,
    kind,
    middle,
    nearest,
    noisy,
    pair_of,
    rotation_matrix,
    scattered_beads,
    shifted,
    shrinking,
    smooth_noise,
    soft_step,
    then_jump,
    volume_texture,
    with_pattern,
)
from scipy import ndimage
from scipy.spatial import cKDTree

SHAPE = (56, 60, 64)


def _waves(rng: Random, amplitude: float = 2, length: float = 45) -> Waves:
    return Waves(rng, amplitude, length, ndim=3)


def _texture_or_beads(rng: Random, count: int = 60, pad: float = 10) -> Scene:
    return volume_texture(rng, SHAPE) if rng.random() < 0.5 else scattered_beads(rng, count, shape=SHAPE, pad=pad)


@kind(ndim=3)
def beads3(rng: Random) -> Pair:
    """30 or 100 beads on black."""
    scene = scattered_beads(rng, int(rng.choice([30, 100])), shape=SHAPE, pad=10)
    return pair_of(scene, _waves(rng), rng, 0.1, shape=SHAPE)


@kind(ndim=3)
def membranes3(rng: Random) -> Pair:
    """Walls between cells of 12 or 18 voxels."""
    scene = Membranes(rng, float(rng.choice([12, 18])), shape=SHAPE, pad=15)
    return pair_of(scene, _waves(rng), rng, 0.2, shape=SHAPE)


@kind(ndim=3)
def vessels3(rng: Random) -> Pair:
    """Vessels, which show no motion along them."""
    return pair_of(Vessels(rng, 14, shape=SHAPE, pad=10), _waves(rng), rng, 0.1, shape=SHAPE)


def _without_wedge(pair: Pair, degrees: float) -> Pair:
    """Without the Fourier coefficients that a tilt series to so many degrees does not measure."""
    z, _, x = np.meshgrid(*[np.fft.fftfreq(n) for n in SHAPE], indexing="ij")
    measured = abs(z) <= abs(x) * np.tan(np.deg2rad(degrees)) + 1e-9
    return both(pair, lambda volume: np.fft.ifftn(np.fft.fftn(volume) * measured).real)


def _turned_and_bent(rng: Random) -> Motion:
    matrix = rotation_matrix(rng.choice([0, 8, 20]), 3)
    return AffineAfter(matrix, rng.uniform(-3, 3, 3), _waves(rng, 1.5), SHAPE)


@kind(ndim=3)
def missing_wedge3(rng: Random) -> Pair:
    """Cryo-electron tomograms: the wedge stays in the frame while the specimen turns and bends."""
    scene, motion = volume_texture(rng, SHAPE), _turned_and_bent(rng)
    return _without_wedge(pair_of(scene, motion, rng, rng.choice([0.1, 1]), shape=SHAPE), 60)


@kind(ndim=3)
def missing_wedge_beads3(rng: Random) -> Pair:
    """The same with gold beads in place of a texture."""
    scene, motion = scattered_beads(rng, 40, shape=SHAPE, pad=10), _turned_and_bent(rng)
    return _without_wedge(pair_of(scene, motion, rng, rng.choice([0.1, 0.5]), shape=SHAPE), 55)


@kind(ndim=3)
def five_slices3(rng: Random) -> Pair:
    """Five sections that move within their planes, and little or not across."""
    shape, waves, across = (5, 96, 104), _waves(rng, 2.5, 60), rng.choice([0, 0.4])
    scene: Scene = volume_texture(rng, shape) if rng.random() < 0.5 else Membranes(rng, 14, shape=shape, pad=15)
    return pair_of(scene, lambda points: waves(points) * column([across, 1, 1], points), rng, 0.1, shape=shape)


@kind(ndim=3)
def light_sheet3(rng: Random) -> Pair:
    """Beads in voxels of 4 x 1 x 1, blurred along z."""
    spacing, shape = (4, 1, 1), (20, 72, 76)
    scene = scattered_beads(rng, 60, shape=(80, 72, 76), pad=10)
    waves = _waves(rng, 2.5, 50)
    points = grid(shape) * np.reshape(spacing, (3, 1, 1, 1))
    clean, moving = (ndimage.gaussian_filter(scene(at), (1, 0, 0)) for at in (points + waves(points), points))

    def motion(indices: Floats) -> Floats:
        size = column(spacing, indices)
        return waves(indices * size) / size

    return noisy(clean, moving, motion, rng, 0.1, fixed_spacing=spacing, moving_spacing=spacing)


@kind(ndim=3)
def rings3(rng: Random) -> Pair:
    """Tomograms with rings about the axis of their rotation, over a specimen that moved."""
    scene = _texture_or_beads(rng)
    pair = pair_of(scene, shifted(rng.uniform(-4, 4, 3), _waves(rng, 1.5), SHAPE), rng, 0.1, shape=SHAPE)
    _, y, x = grid(SHAPE)
    rings = np.interp(np.hypot(y - 29.5, x - 31.5), np.arange(60), rng.normal(size=60))
    return with_pattern(pair, rings, rng.choice([0.2, 0.3, 0.5]))


@kind(ndim=3)
def fixed_pattern3(rng: Random) -> Pair:
    """A pattern of the detector in both volumes, over a specimen that moved."""
    scene = _texture_or_beads(rng)
    pair = pair_of(scene, shifted(rng.uniform(-4, 4, 3), _waves(rng, 1.5), SHAPE), rng, 0.1, shape=SHAPE)
    return with_pattern(pair, smooth_noise(rng, SHAPE, 1), rng.choice([0.2, 0.4]))


@kind(ndim=3)
def slab_slide3(rng: Random) -> Pair:
    """Two bodies that slide along each other by 3 or 6 voxels."""
    jump, smooth = float(rng.choice([3, 6])), _waves(rng, 1)

    def slide(points: Floats) -> Floats:
        upper = np.where(points[0] < 28, 1, -1)
        return column([0, jump / 2, 0], points) * upper

    return pair_of(volume_texture(rng, SHAPE), then_jump(smooth, slide), rng, 0.1, shape=SHAPE)


def _twisted_ball(rng: Random, content: Spline, strength: float, degrees: float, *, most: float = np.inf) -> Pair:
    """A textured ball in emptiness, rotated about z by an angle that grows along z, up to `most` times."""
    centre, angle = middle(SHAPE), np.deg2rad(degrees)

    def scene(points: Floats) -> Floats:
        return (1 + strength * content(points)) * soft_step(22 - distance(points, centre), 0.8)

    def motion(points: Floats) -> Floats:
        z, y, x = points - column(centre, points)
        turn = angle * np.clip(z / 20, -most, most)
        return np.stack([0 * y, np.cos(turn) * y - np.sin(turn) * x - y, np.sin(turn) * y + np.cos(turn) * x - x])

    inside = distance(grid(SHAPE), centre) < 21
    return pair_of(scene, motion, rng, 0.05, shape=SHAPE, where=inside)


@kind(ndim=3)
def sphere_twist3(rng: Random) -> Pair:
    """A ball with a texture of 5 or 50 %, twisted; evaluated inside."""
    content, degrees, strength = volume_texture(rng, SHAPE), rng.choice([8, 20]), rng.choice([0.05, 0.5])
    return _twisted_ball(rng, content, strength, degrees)


@kind(ndim=3)
def sphere_weak3(rng: Random) -> Pair:
    """A ball with a texture of 3 or 10 %, twisted: its surface shows nothing of it."""
    content, degrees, strength = volume_texture(rng, SHAPE), rng.choice([8, 15]), rng.choice([0.03, 0.1])
    return _twisted_ball(rng, content, strength, degrees, most=1.2)


@kind(ndim=3)
def large3(rng: Random) -> Pair:
    """A motion by up to 8 voxels."""
    scene = _texture_or_beads(rng, 100, 12)
    return pair_of(scene, _waves(rng, 6, 90), rng, 0.1, shape=SHAPE)


@kind(ndim=3)
def shells3(rng: Random) -> Pair:
    """Cells with thick shells that each shrink about their own middle by 1 to 1.3."""
    centres = apart(np.stack([rng.uniform(0, n, 150) for n in SHAPE], axis=1), 17)
    factors, tree, smooth = rng.uniform(1, 1.3, len(centres)), cKDTree(centres), _waves(rng, 1.5)

    def scene(points: Floats) -> Floats:
        return np.exp(-(((nearest(tree, points)[0] - 6) / 1.2) ** 2))

    motion = shrinking(tree, factors, smooth)
    points = grid(SHAPE)
    near = nearest(tree, points + motion(points))[0] < 8
    return pair_of(scene, motion, rng, 0.1, shape=SHAPE, where=near)
