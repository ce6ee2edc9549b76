"""Kinds of images for `deformable_kinds.py` whose recording is the difficulty: noise, detectors, frames, scanners."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
from deformable_scenes import (
    SHAPE,
    AffineAfter,
    Floats,
    Membranes,
    Pair,
    Random,
    Scene,
    Waves,
    along_x,
    both,
    column,
    from_middle,
    grid,
    in_frame,
    kind,
    pair_of,
    photograph,
    rotation_matrix,
    scattered_beads,
    shifted,
    smooth_noise,
    then_jump,
    tissue,
    with_pattern,
)
from scipy import ndimage

import daskreg as dr

# Noise and blur ------------------------------------------------------------------------------------------------------


@kind(ndim=2)
def poisson(rng: Random) -> Pair:
    """Photographs of half a photon or two in a pixel."""
    pair = pair_of(photograph(rng, "camera", "coins", "astronaut"), Waves(rng), rng, 0)
    dose, dark = rng.choice([0.5, 2]), pair.clean.min()
    return both(pair, lambda image: rng.poisson(np.clip(image - dark, 0, None) * dose / 2.5).astype(float))


@kind(ndim=2)
def correlated_noise(rng: Random) -> Pair:
    """Noise of each image as smooth as its structures, half as strong as these or the same."""
    scene: Scene = photograph(rng, "camera") if rng.random() < 0.5 else Membranes(rng, 18)
    pair = pair_of(scene, Waves(rng), rng, 0)
    strength, sigma = rng.choice([0.5, 1.0]), float(rng.choice([1, 2, 4]))
    return both(pair, lambda image: image + strength * pair.sd * smooth_noise(rng, SHAPE, sigma))


@kind(ndim=2)
def blur(rng: Random) -> Pair:
    """The moving image is out of focus."""
    pair = pair_of(tissue(rng), Waves(rng), rng, 0)
    moving = ndimage.gaussian_filter(pair.moving, float(rng.choice([2, 4]))) + 0.03 * rng.normal(size=SHAPE)
    return replace(pair, fixed=pair.fixed + 0.03 * rng.normal(size=SHAPE), moving=moving)


@kind(ndim=2)
def motion_blur(rng: Random) -> Pair:
    """The moving image was smeared along x by 9 pixels."""
    pair = pair_of(photograph(rng, "camera"), Waves(rng), rng, 0)
    return replace(pair, moving=ndimage.uniform_filter1d(pair.moving, 9, axis=1) + 0.03 * rng.normal(size=SHAPE))


@kind(ndim=2)
def saturated(rng: Random) -> Pair:
    """Both images are clipped below and above, the moving one at twice the gain."""
    pair = both(pair_of(tissue(rng), Waves(rng), rng, 0.05), lambda image: np.clip(image, -0.2, 0.5))
    return replace(pair, moving=np.clip(pair.moving * 2, -0.2, 0.5))


@kind(ndim=2)
def jpeg(rng: Random) -> Pair:
    """Strong lossy compression, whose blocks stay in the frame."""
    from PIL import Image

    scene = photograph(rng, "camera", "astronaut")
    pair = pair_of(scene, shifted(rng.uniform(-4, 4, 2), Waves(rng, 2, 100)), rng, 0.05)
    quality = int(rng.choice([3, 10]))

    def compressed(image: Floats) -> Floats:
        file = io.BytesIO()
        Image.fromarray(np.uint8(np.clip((image + 2.5) * 50, 0, 255))).save(file, "jpeg", quality=quality)
        return np.asarray(Image.open(file), float)

    return both(pair, compressed)


@kind(ndim=2)
def empty_magnification(rng: Random) -> Pair:
    """Small noisy images that were enlarged four times by splines."""
    shape = (60, 70)
    photo = rng.random() < 0.5
    scene: Scene = photograph(rng, "camera", shape=shape) if photo else Membranes(rng, 14, shape=shape)
    small = pair_of(scene, Waves(rng, 1.2, 35), rng, 0.3, shape=shape)
    factors = [(4 * n - 1) / (n - 1) for n in shape]

    def motion(points: Floats) -> Floats:
        scale = column(factors, points)
        return small.truth(points / scale) * scale

    fixed, moving, clean = (np.asarray(ndimage.zoom(a, 4, order=3)) for a in (small.fixed, small.moving, small.clean))
    return Pair(fixed, moving, clean, motion)


@kind(ndim=2)
def anisotropic(rng: Random) -> Pair:
    """The moving image has pixels of 3 x 1, the fixed one of 1 x 1."""
    scene: Scene = tissue(rng) if rng.random() < 0.5 else Membranes(rng, 20, width=3)
    smooth = Waves(rng)
    pair = pair_of(scene, smooth, rng)
    points = grid((SHAPE[0] // 3, SHAPE[1])) * np.reshape([3, 1], (2, 1, 1))
    moving = np.asarray(sum(scene(points + np.reshape([offset, 0], (2, 1, 1))) for offset in (-1, 0, 1))) / 3

    def motion(points: Floats) -> Floats:
        return (points + smooth(points)) / column([3, 1], points) - points

    noisy_moving = moving + 0.03 * rng.normal(size=moving.shape)
    return Pair(pair.fixed, noisy_moving, pair.clean, motion, fixed_spacing=(1, 1), moving_spacing=(3, 1))


# What stays in the frame ---------------------------------------------------------------------------------------------


@kind(ndim=2)
def stripes_fixed(rng: Random) -> Pair:
    """Columns of the detector that are brighter or darker, over tissue that moved."""
    pair = pair_of(tissue(rng), shifted(rng.uniform(-5, 5, 2), Waves(rng, 3, 100)), rng)
    columns = np.broadcast_to(rng.normal(size=SHAPE[1]), SHAPE)
    return with_pattern(pair, columns, rng.choice([0.2, 0.3, 0.4]))


@kind(ndim=2)
def fixed_pattern(rng: Random) -> Pair:
    """Fixed pattern noise of the detector, of 0.2 to 0.4 of the contrast."""
    pair = pair_of(photograph(rng, "camera", "coins"), shifted(rng.uniform(-5, 5, 2), Waves(rng, 3, 100)), rng, 0.1)
    pattern = smooth_noise(rng, SHAPE, float(rng.choice([0.5, 1.5])))
    return with_pattern(pair, pattern, rng.choice([0.2, 0.3, 0.4]))


@kind(ndim=2)
def fixed_pattern_weak(rng: Random) -> Pair:
    """Fixed pattern noise of 0.1 to 0.3 of the contrast, over images that are flat in places."""
    scenes = [photograph(rng, "camera"), Membranes(rng, 25), photograph(rng, "coins")]
    scene = scenes[int(rng.integers(3))]
    shift = rng.choice([-1, 1], 2) * rng.uniform(1, 5, 2)
    pair = pair_of(scene, shifted(shift, Waves(rng, 2, 100)), rng, 0.05)
    pattern = smooth_noise(rng, SHAPE, float(rng.choice([0.7, 1.5])))
    return with_pattern(pair, pattern, rng.choice([0.1, 0.2, 0.3]))


@kind(ndim=2)
def fixed_pattern_beads(rng: Random) -> Pair:
    """Fixed pattern noise between beads: weaker than each bead, but there are few of them."""
    pair = pair_of(scattered_beads(rng, 40), shifted(rng.uniform(-5, 5, 2), Waves(rng, 2, 100)), rng, 0.1)
    return with_pattern(pair, smooth_noise(rng, SHAPE, 1), rng.choice([0.3, 0.5, 0.7]))


@kind(ndim=2)
def autofluorescence_beads(rng: Random) -> Pair:
    """Beads that move before a cloudy background that does not."""
    scene = scattered_beads(rng, 80)
    pair = pair_of(scene, shifted(rng.uniform(-5, 5, 2), Waves(rng, 2, 100)), rng, 0.05)
    return with_pattern(pair, smooth_noise(rng, SHAPE, float(rng.choice([3, 10, 20]))), rng.choice([0.3, 0.5, 1]))


@kind(ndim=2)
def autofluorescence_nuclei(rng: Random) -> Pair:
    """Nuclei that move before a background with structures of their size that does not."""
    nuclei = scattered_beads(rng, 120, (3, 5))
    shift = rng.choice([-1, 1], 2) * rng.uniform(2, 6, 2)
    pair = pair_of(nuclei, shifted(shift, Waves(rng, 2, 100)), rng, 0.05)
    return with_pattern(pair, smooth_noise(rng, SHAPE, 3), rng.choice([0.2, 0.4]))


def _vignetted(pair: Pair, fall: float, dark: float) -> Pair:
    y, x = grid(SHAPE) / np.reshape(SHAPE, (2, 1, 1)) - 0.5
    return both(pair, lambda image: (image + dark) * np.exp(-(y**2 + x**2) * fall))


@kind(ndim=2)
def vignette(rng: Random) -> Pair:
    """Tissue that moved under a light that is darker in the corners."""
    pair = pair_of(tissue(rng), shifted(rng.uniform(-10, 10, 2), Waves(rng, 3, 100)), rng)
    return _vignetted(pair, rng.choice([2, 6]), 3)


@kind(ndim=2)
def vignette_beads(rng: Random) -> Pair:
    """Beads on a gray ground under such a light."""
    pair = pair_of(scattered_beads(rng, 40), shifted(rng.uniform(-6, 6, 2), Waves(rng, 2, 100)), rng)
    return _vignetted(pair, 4, 1)


@kind(ndim=2)
def dust(rng: Random) -> Pair:
    """Dark dust on the camera and hot pixels, over tissue that moved."""
    pair = pair_of(tissue(rng), shifted(rng.uniform(-5, 5, 2), Waves(rng, 3, 100)), rng)
    pattern = -scattered_beads(rng, 30, (1, 4), (2, 6))(grid(SHAPE)) + 10.0 * (rng.random(SHAPE) < 0.002)
    return in_frame(pair, lambda image: image + pattern)


@kind(ndim=2)
def bad_pixels(rng: Random) -> Pair:
    """Hot columns and a dead block of the detector."""
    pair = pair_of(photograph(rng, "coins"), shifted(rng.uniform(-5, 5, 2), Waves(rng, 2, 100)), rng, 0.1)

    def recorded(image: Floats) -> Floats:
        image = image.copy()
        image[:, [40, 41, 133, 180]] = pair.clean.max() * 2
        image[60:75, 60:75] = pair.clean.min()
        return image

    return in_frame(pair, recorded)


@kind(ndim=2)
def ring_artefacts(rng: Random) -> Pair:
    """Rings of a tomogram about the axis of its rotation, over a specimen that moved."""
    scene: Scene = tissue(rng) if rng.random() < 0.5 else Membranes(rng, 18)
    pair = pair_of(scene, shifted(rng.uniform(-5, 5, 2), Waves(rng, 2, 100)), rng)
    rings = np.interp(np.hypot(*from_middle(SHAPE)), np.arange(200), rng.normal(size=200))
    return with_pattern(pair, rings, rng.choice([0.2, 0.3, 0.4]))


@kind(ndim=2)
def black_padding(rng: Random) -> Pair:
    """Turned frames on black, as earlier alignments leave them, the same in both images."""
    pair = pair_of(tissue(rng) if rng.random() < 0.5 else photograph(rng, "coins"), Waves(rng), rng)
    y, x = np.tensordot(rotation_matrix(12), from_middle(SHAPE), 1)
    inside, level = (abs(y) < 80) & (abs(x) < 95), rng.choice([0, -4])
    return in_frame(pair, lambda image: np.where(inside, image, level))


@kind(ndim=2)
def round_field_of_view(rng: Random) -> Pair:
    """An endoscope or a tomogram: a disc in a dark frame, in which the specimen moves."""
    scene = tissue(rng) if rng.random() < 0.5 else photograph(rng, "camera")
    pair = pair_of(scene, shifted(rng.uniform(-8, 8, 2), Waves(rng, 3, 100)), rng)
    inside, level = np.hypot(*from_middle(SHAPE)) < 95, rng.choice([-2, -6])
    return in_frame(pair, lambda image: np.where(inside, image, level))


@kind(ndim=2)
def capillary(rng: Random) -> Pair:
    """Bright walls of a capillary that rest, and contents that turn and move."""
    content = tissue(rng)
    degrees, shift = rng.uniform(-6, 6), rng.uniform(-4, 4, 2)
    motion = AffineAfter(rotation_matrix(degrees), shift, Waves(rng, 1.5, 100))
    pair = pair_of(content, motion, rng)
    radius = np.hypot(*from_middle(SHAPE))
    wall = np.exp(-(((radius - 85) / 4) ** 4)) * rng.choice([4, 10])
    return in_frame(pair, lambda image: np.where(radius < 80, image, -2) + wall)


@kind(ndim=2)
def scale_bar(rng: Random) -> Pair:
    """A scale bar and letters that are burnt into both images."""
    scene: Scene = tissue(rng) if rng.random() < 0.5 else scattered_beads(rng, 60)
    pair = pair_of(scene, shifted(rng.uniform(-6, 6, 2), Waves(rng, 2, 100)), rng)
    white = pair.clean.max() * rng.choice([1, 3])

    def recorded(image: Floats) -> Floats:
        image = image.copy()
        image[170:178, 140:215] = white
        for letter in range(5):
            image[150 : 164 : 2 + letter % 2, 150 + 12 * letter : 158 + 12 * letter] = white
        return image

    return in_frame(pair, recorded)


# Scanners and mosaics ------------------------------------------------------------------------------------------------


@kind(ndim=2)
def row_jitter(rng: Random) -> Pair:
    """A scanner that displaces each row by itself, or neighbouring rows alike."""
    most = rng.choice([0.7, 1.5, 3])
    rows = ndimage.gaussian_filter1d(rng.normal(size=SHAPE[0]), float(rng.choice([0.01, 1, 3])))
    rows *= most / rows.std()
    smooth = Waves(rng, 1.5, 120)

    def jitter(points: Floats) -> Floats:
        return np.asarray(rows[np.clip(np.rint(points[0]).astype(int), 0, SHAPE[0] - 1)])

    scene: Scene = photograph(rng, "camera") if rng.random() < 0.5 else Membranes(rng, 18)
    return pair_of(scene, then_jump(smooth, along_x(jitter)), rng)


@kind(ndim=2)
def ringing(rng: Random) -> Pair:
    """A scanning mirror that rings: rows displaced by a wave of 8 to 24 pixels."""
    period, most, smooth = rng.choice([8, 14, 24]), rng.choice([1, 2]), Waves(rng, 1.5, 120)
    rows = along_x(lambda points: most * np.sin(2 * np.pi * points[0] / period))
    scenes = [photograph(rng, "camera"), tissue(rng), Membranes(rng, 18)]
    return pair_of(scenes[int(rng.integers(3))], then_jump(smooth, rows), rng)


@kind(ndim=2)
def seam(rng: Random) -> Pair:
    """A mosaic whose two tiles do not fit by some pixels, in the moving image."""
    jump, smooth, border = rng.choice([2, 5], 2) * rng.choice([-1, 1], 2), Waves(rng, 1, 120), rng.uniform(80, 150)
    motion = then_jump(smooth, lambda points: column(jump, points) * (points[1] > border))
    return pair_of(photograph(rng, "camera") if rng.random() < 0.5 else scattered_beads(rng, 80), motion, rng)


@kind(ndim=2)
def duplicated(rng: Random) -> Pair:
    """A patch of the moving image is a copy of its neighbour, as by wrong stitching; the rest is evaluated."""
    pair = pair_of(tissue(rng), Waves(rng), rng)
    side = int(rng.choice([40, 70]))
    top, left = (int(rng.integers(20, n - side - 20)) for n in SHAPE)
    offset = int(rng.choice([5, 10]))
    moving = pair.moving.copy()
    rows = slice(top, top + side)
    moving[rows, left : left + side] = pair.moving[rows, left + offset : left + side + offset]
    y, x = grid(SHAPE) + pair.truth(grid(SHAPE))
    near = 6  # pixels around the patch and what it was copied from
    rest = (y < top - near) | (y > top + side + near) | (x < left - near) | (x > left + side + offset + near)
    return replace(pair, moving=moving, where=rest)


# Contrast and settings -----------------------------------------------------------------------------------------------

_PHOTOGRAPHS = "camera", "coins", "astronaut"


def _photograph_or_membranes(rng: Random) -> Scene:
    return photograph(rng, *_PHOTOGRAPHS) if rng.random() < 0.6 else Membranes(rng, 20)


@kind(ndim=2)
def inverted_mi(rng: Random) -> Pair:
    """The negative as moving image, with "mi"."""
    pair = pair_of(_photograph_or_membranes(rng), Waves(rng), rng, 0.05)
    return replace(pair, moving=-pair.moving, options={"metric": "mi"})


@kind(ndim=2)
def inverted_auto(rng: Random) -> Pair:
    """The negative as moving image, with the metric by default: to be refused."""
    pair = pair_of(_photograph_or_membranes(rng), Waves(rng), rng, 0.05)
    return replace(pair, moving=-pair.moving)


@kind(ndim=2)
def nonmonotone_mi(rng: Random) -> Pair:
    """Another stain: dark and bright are both bright in the moving image, with "mi"."""
    scene = photograph(rng, *_PHOTOGRAPHS) if rng.random() < 0.6 else tissue(rng)
    pair = pair_of(scene, Waves(rng), rng, 0.05)
    return replace(pair, moving=abs(pair.moving - 0.2), options={"metric": "mi"})


@kind(ndim=2)
def other_brightness(rng: Random) -> Pair:
    """Another gain and offset and a gradient of brightness, with "mse" or "lncc"."""
    pair = pair_of(photograph(rng, *_PHOTOGRAPHS), Waves(rng), rng)
    gradient = 0.4 * np.linspace(-1, 1, SHAPE[0])[:, None]
    moving = pair.moving * rng.choice([0.8, 1.3]) + rng.choice([0, 0.5]) + gradient
    return replace(pair, moving=moving, options={"metric": str(rng.choice(["mse", "lncc"]))})


@kind(ndim=2)
def masked_structures(rng: Random) -> Pair:
    """A mask that leaves the ground between beads alone, so that next to nothing is seen."""
    pair = pair_of(scattered_beads(rng, 40), Waves(rng), rng, 0.1)
    return replace(pair, options={"fixed_mask": pair.clean < 0.05 * pair.clean.max()})


@kind(ndim=2)
def masked_part(rng: Random) -> Pair:
    """A mask that shows the left third; error bars must tell that nothing is known of the rest."""
    pair = pair_of(photograph(rng, "camera"), Waves(rng, 4, 80), rng, 0.05)
    return replace(pair, options={"fixed_mask": np.broadcast_to(np.arange(SHAPE[1]) < 70, SHAPE)})


@kind(ndim=2)
def coarse_spacing(rng: Random) -> Pair:
    """Control points 60 pixels apart, and motions that change within 60 to 90: to be refused."""
    scene: Scene = tissue(rng) if rng.random() < 0.5 else Membranes(rng, 18)
    pair = pair_of(scene, Waves(rng, 2, float(rng.choice([60, 90]))), rng, 0.05)
    return replace(pair, options={"spacing": 60})


@kind(ndim=2)
def fine_spacing(rng: Random) -> Pair:
    """Control points 3 pixels apart, under noise."""
    scene: Scene = tissue(rng) if rng.random() < 0.5 else scattered_beads(rng, 60)
    return replace(pair_of(scene, Waves(rng), rng, 0.2), options={"spacing": 3})


def _photograph_or_small_cells(rng: Random) -> Scene:
    return photograph(rng, "camera", "coins", "brick") if rng.random() < 0.6 else Membranes(rng, 16)


@kind(ndim=2)
def wrong_init(rng: Random) -> Pair:
    """An initial pose that is off by some degrees and pixels."""
    pair = pair_of(_photograph_or_small_cells(rng), Waves(rng), rng, 0.05)
    matrix = np.eye(3)
    matrix[:2, :2] = rotation_matrix(rng.uniform(-8, 8))
    matrix[:2, 2] = rng.uniform(-12, 12, 2)
    return replace(pair, options={"init": dr.Affine(matrix)})


@kind(ndim=2)
def shifted_from_init(rng: Random) -> Pair:
    """The identity as initial pose, where images are 8 to 16 pixels apart."""
    scene = _photograph_or_small_cells(rng)
    shift = rng.choice([-1, 1], 2) * rng.uniform(8, 16, 2)
    pair = pair_of(scene, shifted(shift, Waves(rng, 2, 100)), rng, 0.05)
    return replace(pair, options={"init": dr.Affine.identity(2)})


@kind(ndim=2)
def small_images(rng: Random) -> Pair:
    """Images of 40 x 50 pixels."""
    shape, photo = (40, 50), rng.random() < 0.5
    scene: Scene = (
        photograph(rng, "camera", "coins", "grass", shape=shape) if photo else Membranes(rng, 10, shape=shape)
    )
    return pair_of(scene, Waves(rng, rng.choice([1, 2.5]), 40), rng, 0.05, shape=shape)


@kind(ndim=2)
def small_beads(rng: Random) -> Pair:
    """Eight beads in 40 x 50 pixels."""
    shape = (40, 50)
    return pair_of(scattered_beads(rng, 8, shape=shape), Waves(rng, rng.choice([1, 2.5]), 40), rng, 0.1, shape=shape)
