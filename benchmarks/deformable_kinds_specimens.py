"""Kinds of images for `deformable_kinds.py` whose specimen, or its motion, is the difficulty."""

from __future__ import annotations

import numpy as np
from deformable_scenes import (
    SHAPE,
    AffineAfter,
    Beads,
    Floats,
    Lattice,
    Layers,
    Membranes,
    Pair,
    Random,
    Scene,
    Vessels,
    Waves,
    along_x,
    apart,
    both,
    bump,
    column,
    distance,
    from_middle,
    grid,
    kind,
    local_contrast,
    middle,
    nearest,
    noisy,
    pair_of,
    photograph,
    rotation_matrix,
    scattered_beads,
    shifted,
    shrinking,
    smooth_noise,
    soft_step,
    texture,
    then_jump,
    tissue,
    twist,
)
from scipy import ndimage
from scipy.spatial import cKDTree

# Sparse --------------------------------------------------------------------------------------------------------------


@kind(ndim=2)
def beads(rng: Random) -> Pair:
    """25 to 120 fluorescent beads, and nothing between them."""
    return pair_of(scattered_beads(rng, int(rng.choice([25, 60, 120]))), Waves(rng), rng, 0.1)


@kind(ndim=2)
def beads_brownian(rng: Random) -> Pair:
    """Beads that each move by themselves, in addition to a smooth motion: no field can follow all of them."""
    scene, smooth = scattered_beads(rng, 80), Waves(rng)
    steps = rng.normal(size=scene.centres.shape) * rng.choice([1.0, 2.0])
    places = scene.centres.copy()  # in the fixed image
    for _ in range(30):
        places = scene.centres - steps - smooth(places.T).T
    tree = cKDTree(places)

    def motion(points: Floats) -> Floats:
        """That of the nearest bead."""
        _, indices = nearest(tree, points)
        return np.moveaxis((scene.centres - places)[indices], -1, 0)

    points = grid(SHAPE)
    clean = Beads(places, scene.widths, scene.heights)(points)
    return noisy(clean, scene(points), motion, rng, 0.1, where=nearest(tree, points)[0] < 4)


@kind(ndim=2)
def nuclei(rng: Random) -> Pair:
    """Flat bright nuclei on black: only their outlines tell of motion."""
    spots = scattered_beads(rng, int(rng.choice([40, 90])), (4, 7))
    return pair_of(lambda points: 1 / (1 + np.exp(-(spots(points) - 0.3) * 15)), Waves(rng), rng, 0.05)


@kind(ndim=2)
def vessels(rng: Random) -> Pair:
    """Thin and thick vessels, which show no motion along them."""
    return pair_of(Vessels(rng, int(rng.choice([6, 14]))), Waves(rng), rng, 0.1)


@kind(ndim=2)
def few_filaments(rng: Random) -> Pair:
    """Three thin filaments under noise."""
    return pair_of(Vessels(rng, 3, (1, 1.5)), Waves(rng, 4, 100), rng, 0.2)


# Repeating -----------------------------------------------------------------------------------------------------------


@kind(ndim=2)
def lattice(rng: Random) -> Pair:
    """Atomic columns with some vacancies, after a drift of up to a period."""
    period = float(rng.choice([8, 12, 16]))
    scene = Lattice(rng, period, int(rng.choice([6, 20])))
    return pair_of(scene, shifted(rng.uniform(-period, period, 2), Waves(rng, 2, 120)), rng, 0.1)


@kind(ndim=2)
def lattice_local(rng: Random) -> Pair:
    """Atomic columns that moved by more than half a period in the middle, and not at the border."""
    period = float(rng.choice([8, 12]))
    most = rng.normal(size=2)
    motion = bump((100, 115), 40, most * period * 0.8 / np.linalg.norm(most))
    return pair_of(Lattice(rng, period, int(rng.choice([6, 20]))), motion, rng, 0.1)


@kind(ndim=2)
def grating_defects(rng: Random) -> Pair:
    """Parallel lines with a few defects, which alone tell of motion along the lines."""
    return pair_of(Lattice(rng, 10, 12, lines=True), Waves(rng, 2, 120), rng, 0.1)


@kind(ndim=2)
def packed_cells(rng: Random) -> Pair:
    """An epithelium or a mosaic of receptors: cells in a nearly regular pattern, moved by up to a period."""
    period = float(rng.choice([10, 14]))
    places = np.array(
        [(i * period + (j % 2) * period / 2, j * period * 0.866) for i in range(-6, 30) for j in range(-6, 35)]
    )
    centres = places + rng.normal(size=places.shape) * rng.choice([0.3, 1.0])
    cells = Beads(centres, np.full(len(centres), period / 5), rng.uniform(0.8, 1, len(centres)))
    motion = shifted(rng.uniform(-period, period, 2), Waves(rng, period * 0.5, 150))
    return pair_of(cells, motion, rng, 0.1)


@kind(ndim=2)
def holey_carbon(rng: Random) -> Pair:
    """The regular holes of a grid for cryo-EM, with faint content, moved by about half of their distance."""
    period, content, strength = 40, tissue(rng), float(rng.choice([0.02, 0.1]))

    def scene(points: Floats) -> Floats:
        y, x = (points[:2] + period / 2) % period - period / 2
        return soft_step(12 - np.hypot(y, x)) + strength * content(points)

    shift = rng.choice([-1, 1], 2) * rng.uniform(15, 30, 2)
    return pair_of(scene, shifted(shift, Waves(rng, 2, 120)), rng, 0.1)


@kind(ndim=2)
def sarcomere(rng: Random) -> Pair:
    """Striated muscle that moved by about a period along the fibre."""
    cells, period = texture(rng, 8), float(rng.choice([9, 14]))
    bend, strength = Waves(rng, 3, 120), float(rng.choice([0.3, 1]))

    def scene(points: Floats) -> Floats:
        stripes = 1 + np.cos(2 * np.pi / period * (points[1] + bend(points)[0]))
        shade = cells(points)
        return np.asarray(stripes * (1 + 0.5 * np.tanh(shade)) + strength * shade)

    return pair_of(scene, shifted([0, rng.uniform(0.3, 1.2) * period], Waves(rng, 2, 110)), rng, 0.1)


@kind(ndim=2)
def symmetric_mark(rng: Random) -> Pair:
    """A particle of 4-, 6- or 9-fold symmetry, turned by one part; faint marks tell of it."""
    folds, content, strength = int(rng.choice([4, 6, 9])), tissue(rng), float(rng.choice([0.1, 0.3]))

    def scene(points: Floats) -> Floats:
        y, x = points - column(middle(SHAPE), points)
        radius, angle = np.hypot(y, x), np.arctan2(y, x)
        rings = np.exp(-((radius - 55) ** 2) / 200) * (1 + np.cos(folds * angle))
        rings += np.exp(-((radius - 25) ** 2) / 60) * (1 + np.cos(folds * angle + 1))
        return np.asarray(rings + strength * content(points) * np.exp(-((radius / 70) ** 4)))

    return pair_of(scene, AffineAfter(rotation_matrix(360 / folds), [0, 0], Waves(rng, 1.5, 100)), rng)


# Tissue --------------------------------------------------------------------------------------------------------------


@kind(ndim=2)
def membranes(rng: Random) -> Pair:
    """Membranes of cells of 14 to 35 pixels, as in EM."""
    return pair_of(Membranes(rng, float(rng.choice([14, 22, 35]))), Waves(rng), rng, 0.1)


@kind(ndim=2)
def retina(rng: Random) -> Pair:
    """Optical coherence tomograms: bent layers with little or nothing along them, and fresh speckle."""
    profile = ndimage.gaussian_filter1d(rng.normal(size=500), 4)
    depth, strength, content = Waves(rng, 4, 120), float(rng.choice([0, 0.3])), texture(rng)
    layers = Layers(profile, lambda points: depth(np.stack([0 * points[0], points[1]])), 100)
    motion = Waves(rng, 3, 100)
    pair = pair_of(lambda points: layers(points) + strength * content(points), motion, rng, 0.1)
    return both(pair, lambda image: image + 0.4 * smooth_noise(rng, SHAPE, 1))


@kind(ndim=2)
def fibres(rng: Random) -> Pair:
    """A bundle of collagen, muscle or axons, with a faint texture that tells of motion along it."""
    bend, profile = Waves(rng, 5, 150), ndimage.gaussian_filter1d(rng.normal(size=600), 1.5)
    content, strength, layers = texture(rng, 2), float(rng.choice([0.1, 0.3])), Layers(profile, bend, 150)
    motion = shifted(rng.uniform(-4, 4, 2), Waves(rng, 3, 100))
    return pair_of(lambda points: layers(points) + strength * content(points), motion, rng, 0.1)


@kind(ndim=2)
def labels(rng: Random) -> Pair:
    """A segmentation: cells with numbers in place of brightness, 3 or 200 of them, without noise."""
    tree = Membranes(rng, 22).tree
    number = int(rng.choice([3, 200]))
    return pair_of(lambda points: 1.0 + nearest(tree, points)[1] % number, Waves(rng), rng, 0)


@kind(ndim=2)
def binary(rng: Random) -> Pair:
    """A texture after a threshold, without noise."""
    scene = texture(rng, 5)
    return pair_of(lambda points: (scene(points) > 0.3).astype(float), Waves(rng), rng, 0)


@kind(ndim=2)
def two_layers(rng: Random) -> Pair:
    """A projection of two layers that move differently; the truth is the motion of the stronger one."""
    strong, weak = tissue(rng), Membranes(rng, 25)
    first, second = Waves(rng, 3, 120), Waves(rng, 3, 120)
    pair, other = pair_of(strong, first, rng), pair_of(weak, second, rng)
    scale = 0.5 / other.sd
    where = local_contrast(pair.clean) > 2 * scale * local_contrast(other.clean)
    fixed, moving = pair.fixed + scale * other.fixed, pair.moving + scale * other.moving
    return Pair(fixed, moving, pair.clean, first, where)


# Growth --------------------------------------------------------------------------------------------------------------


@kind(ndim=2)
def growth(rng: Random) -> Pair:
    """Cells on black that each shrink about their own middle by 1 to 1.35, with or without texture."""
    centres = apart(np.stack([rng.uniform(-10, n + 10, 240) for n in SHAPE], axis=1), 26)
    factors, smooth, tree = rng.uniform(1.0, 1.35, len(centres)), Waves(rng, 2, 100), cKDTree(centres)
    strength, content = float(rng.choice([0, 0.5])), texture(rng, 1.2)

    def scene(points: Floats) -> Floats:
        return soft_step(9 - nearest(tree, points)[0], 0.7) * (1 + strength * content(points))

    motion = shrinking(tree, factors, smooth)
    points = grid(SHAPE)
    return pair_of(scene, motion, rng, 0.05, where=nearest(tree, points + motion(points))[0] < 10)


@kind(ndim=2)
def growth_membranes(rng: Random) -> Pair:
    """Membranes with strong growth and shrinkage side by side."""
    return pair_of(Membranes(rng, 16), Waves(rng, 5, 70), rng, 0.05)


@kind(ndim=2)
def division(rng: Random) -> Pair:
    """A third of the cells has divided between the images; the others are evaluated."""
    cells, motion = scattered_beads(rng, 60, (3, 5)), Waves(rng)
    divides = rng.random(len(cells.centres)) < 0.33
    points = grid(SHAPE)
    moved = points + motion(points)
    axis = rng.normal(size=cells.centres.shape)
    axis *= 5 / np.linalg.norm(axis, axis=1)[:, None]
    parts = Beads(
        np.concatenate([cells.centres[~divides], (cells.centres + axis)[divides], (cells.centres - axis)[divides]]),
        np.concatenate([cells.widths[~divides], *[cells.widths[divides] * 0.7] * 2]),
        np.concatenate([cells.heights[~divides], *[cells.heights[divides]] * 2]),
    )
    where = ~divides[nearest(cKDTree(cells.centres), moved)[1]]
    return noisy(cells(moved), parts(points), motion, rng, 0.05, where=where)


# Breaks --------------------------------------------------------------------------------------------------------------


@kind(ndim=2)
def sliding(rng: Random) -> Pair:
    """Two organs, or layers, that slide along each other by 2 to 8 pixels."""
    border, jump, smooth = SHAPE[0] / 2 + rng.uniform(-20, 20), rng.choice([2, 4, 8]), Waves(rng, 1.5, 100)
    motion = then_jump(smooth, along_x(lambda points: np.where(points[0] < border, jump / 2, -jump / 2)))
    return pair_of(tissue(rng) if rng.random() < 0.5 else photograph(rng, "camera"), motion, rng)


@kind(ndim=2)
def band_missing(rng: Random) -> Pair:
    """The moving section lacks a band of tissue and has closed over it; the rest is evaluated."""
    border, width, smooth = rng.uniform(80, 140), float(rng.choice([6, 12, 24])), Waves(rng, 1.5, 100)
    scene: Scene = tissue(rng) if rng.random() < 0.5 else Membranes(rng, 18)
    points = grid(SHAPE)
    moved = points + smooth(points)
    opened = points + along_x(lambda points: np.where(points[1] < border, 0, width))(points)
    motion = then_jump(smooth, along_x(lambda points: np.where((points + smooth(points))[1] < border, 0, -width)))
    where = (moved[1] < border) | (moved[1] > border + width)
    return noisy(scene(moved), scene(opened), motion, rng, 0.05, where=where)


@kind(ndim=2)
def tear(rng: Random) -> Pair:
    """A crack of 6 or 14 pixels has opened in the moving section."""
    width, scene, smooth = float(rng.choice([6, 14])), tissue(rng), Waves(rng, 1, 120)
    border, points = rng.uniform(90, 140), grid(SHAPE)
    motion = then_jump(
        smooth, along_x(lambda points: np.where((points + smooth(points))[1] > border, width / 2, -width / 2))
    )
    closed = points + along_x(lambda points: np.where(points[1] < border - width / 2, width / 2, -width / 2))(points)
    opened = np.where(abs(points[1] - border) < width / 2, 0, 3 + scene(closed))
    return noisy(3 + scene(points + smooth(points)), opened, motion, rng, 0.05)


# Bodies --------------------------------------------------------------------------------------------------------------


@kind(ndim=2)
def twist_disc(rng: Random) -> Pair:
    """A textured body on black, twisted by up to 40 degrees in its middle."""
    centre, radius, content, angle = middle(SHAPE), 80, tissue(rng), np.deg2rad(rng.choice([8, 20, 40]))

    def scene(points: Floats) -> Floats:
        return (3 + content(points)) * soft_step(radius - distance(points, centre))

    where = np.hypot(*from_middle(SHAPE)) < radius - 2
    return pair_of(scene, twist(centre, angle, 40), rng, where=where)


@kind(ndim=2)
def weak_disc(rng: Random) -> Pair:
    """A bright body on black with a texture of 2 to 10 %, twisted: its outline shows nothing of it."""
    centre, content = middle(SHAPE), texture(rng, 2)
    angle, strength = np.deg2rad(rng.choice([5, 12])), float(rng.choice([0.02, 0.05, 0.1]))

    def radius(points: Floats) -> Floats:
        y, x = points - column(centre, points)
        return np.hypot(y, 0.8 * x)

    def scene(points: Floats) -> Floats:
        return (1 + strength * content(points)) * soft_step(75 - radius(points))

    return pair_of(scene, twist(centre, angle, 45), rng, where=radius(grid(SHAPE)) < 72)


# Large motions -------------------------------------------------------------------------------------------------------


@kind(ndim=2)
def part_of_overlap(rng: Random) -> Pair:
    """Fields of view that are a quarter apart."""
    shift = np.array(SHAPE) * 0.3 * rng.choice([-1, 1], 2)
    shift *= np.array([0, 1]) if rng.random() < 0.5 else np.array([1, 0])
    scene = photograph(rng, "camera", "grass", "brick") if rng.random() < 0.5 else tissue(rng)
    return pair_of(scene, shifted(np.clip(shift, -55, 55), Waves(rng, 2, 100)), rng)


@kind(ndim=2)
def rotation(rng: Random) -> Pair:
    """A rotation by 10 to 30 degrees and a smooth motion."""
    photo = rng.random() < 0.6
    scene: Scene = photograph(rng, "camera", "astronaut", "coffee") if photo else Membranes(rng, 20)
    matrix = rotation_matrix(rng.choice([-1, 1]) * rng.uniform(10, 30))
    return pair_of(scene, AffineAfter(matrix, rng.uniform(-5, 5, 2), Waves(rng, 2, 100)), rng)


@kind(ndim=2)
def compress(rng: Random) -> Pair:
    """A section that the knife has compressed, or that has swollen, by up to 28 %."""
    scene = photograph(rng, "camera", "astronaut", "grass")
    matrix = np.diag(rng.choice([0.72, 0.8, 1.25, 1], 2))
    return pair_of(scene, AffineAfter(matrix, [0, 0], Waves(rng, 2, 100)), rng)


@kind(ndim=2)
def compress_local(rng: Random) -> Pair:
    """A place that is compressed or swollen by a third."""
    centre, strength = np.array([100, 115]) + rng.uniform(-20, 20, 2), rng.choice([-0.3, 0.35])

    def motion(points: Floats) -> Floats:
        fall = np.exp(-(distance(points, centre) ** 2) / 2 / 35**2)
        return np.asarray(strength * (points - column(centre, points)) * fall)

    return pair_of(tissue(rng) if rng.random() < 0.5 else photograph(rng, "coins"), motion, rng)


@kind(ndim=2)
def local_large(rng: Random) -> Pair:
    """A place that moved by 10 to 18 pixels while the rest did not."""
    centre, sigma, most = np.array([100, 115]) + rng.uniform(-25, 25, 2), rng.uniform(25, 40), rng.normal(size=2)
    most *= min(18, 0.62 * sigma) / np.linalg.norm(most) * rng.uniform(0.7, 1)
    scenes = (
        lambda: tissue(rng),
        lambda: Membranes(rng, 14),
        lambda: photograph(rng, "coins"),
        lambda: photograph(rng, "gravel"),
    )
    return pair_of(scenes[int(rng.integers(4))](), bump(centre, sigma, most), rng, 0.05)


@kind(ndim=2)
def large_motion(rng: Random) -> Pair:
    """A smooth motion by up to 20 pixels."""
    photo = rng.random() < 0.5
    scene = photograph(rng, "camera", "coins", "astronaut", "brick") if photo else tissue(rng)
    return pair_of(scene, Waves(rng, 14, 220), rng)


@kind(ndim=2)
def large_beads(rng: Random) -> Pair:
    """Beads that moved by more than their distances."""
    return pair_of(scattered_beads(rng, 100), Waves(rng, 12, 220), rng, 0.05)


@kind(ndim=2)
def large_membranes(rng: Random) -> Pair:
    """Membranes that moved by more than a cell."""
    return pair_of(Membranes(rng, 16), Waves(rng, 12, 220), rng, 0.05)
