"""Images that were moved before: what that filled must not bias the pose, and true background must go on counting."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from skimage import color, data, transform

import daskreg as dr
from daskreg.registration import multiresolution

pytestmark = pytest.mark.slow


def photograph(name):
    image = np.asarray(getattr(data, name)())
    image = color.rgb2gray(image[..., :3]) if image.ndim == 3 else image / 255
    return transform.resize(image, (241, 287), anti_aliasing=True)


def volume():
    rng = np.random.default_rng(5)
    return 1 + 0.1 * sum(s * ndimage.gaussian_filter(rng.normal(size=(40, 52, 46)), s) for s in (1.5, 3))


def motion(shape, angle, shift):
    """A turn in the plane of the last axes and a shift, about the centre of the image."""
    ndim = len(shape)
    matrix = np.eye(ndim + 1)
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    matrix[-3:-1, -3:-1] = [[1.04 * c, s], [-s, 0.97 * c]]
    centre = (np.array(shape) - 1) / 2
    matrix[:-1, -1] = centre - matrix[:-1, :-1] @ centre + shift
    return matrix


def moved(image, matrix, order, fill):
    return ndimage.affine_transform(image, matrix[:-1, :-1], matrix[:-1, -1], order=order, mode="constant", cval=fill)


def corner_error(fit, truth, shape):
    ends = np.array(np.meshgrid(*[(0, n - 1) for n in shape], indexing="ij")).reshape(len(shape), -1)
    ends = np.vstack([ends, np.ones(ends.shape[1])])
    return np.linalg.norm(((fit.moving_from_fixed.matrix - truth) @ ends)[:-1], axis=0).max()


@pytest.mark.parametrize(
    ("name", "order", "fill", "dtype"),
    [
        ("immunohistochemistry", 3, 0, "f4"),
        ("astronaut", 3, 0, "u1"),
        ("rocket", 1, 1.0, "f4"),
        ("camera", 3, 0, "f4"),
        ("gravel", 1, 0, "u1"),
        ("volume", 3, 0, "f4"),
    ],
)
@pytest.mark.parametrize("both", [False, True])
def test_as_good_as_with_the_mask(name, order, fill, dtype, both):
    both = both and name != "volume"  # two fills of more contrast than the specimen also match each other
    image = volume() if name == "volume" else photograph(name)
    rng = np.random.default_rng(2)
    shift = 0.06 * np.array(image.shape)
    first = motion(image.shape, 9 if name == "volume" else 14, shift)
    second = motion(image.shape, -4, -shift / 2) if both else np.eye(image.ndim + 1)
    fixed = moved(image + rng.normal(0, 0.02, image.shape), first, order, fill)
    moving = moved(0.8 * image + 0.1 + rng.normal(0, 0.02, image.shape), second, order, fill)
    if dtype == "u1":
        fixed, moving = (np.clip(np.round(200 * x), 0, 255).astype(dtype) for x in (fixed, moving))
    masks = [moved(np.ones(image.shape), m, 1, 0) > 0.999 for m in (first, second)]
    truth = np.linalg.inv(second) @ first
    error = corner_error(dr.register(fixed, moving), truth, image.shape)
    with_masks = dr.register(fixed, moving, fixed_mask=masks[0], moving_mask=masks[1])
    assert error < 2 * corner_error(with_masks, truth, image.shape) + 0.005


def test_local_correlation_is_as_good_as_with_the_mask():
    image = photograph("immunohistochemistry")[40:151, 60:189]
    rng = np.random.default_rng(4)
    matrix = np.eye(3)
    matrix[:2, 2] = (9.3, -8.6)
    fixed = moved(image + rng.normal(0, 0.01, image.shape), matrix, 3, 0)
    moving = 0.9 * image + rng.normal(0, 0.01, image.shape)
    mask = moved(np.ones(image.shape), matrix, 1, 0) > 0.999
    fits = [dr.register(fixed, moving, metric="lncc", model="translation", fixed_mask=m) for m in (None, mask)]
    error, masked = (corner_error(fit, matrix, image.shape) for fit in fits)
    assert error < 2 * masked


@pytest.mark.parametrize(
    ("shape", "order", "fill"), [((231, 257), 3, -1.0), ((231, 257), 1, 1.4), ((44, 57, 49), 1, -0.7)]
)
def test_fill_beside_true_background(shape, order, fill):
    """The moving image shows an object before its background, which the fixed one shows, too, within its fill."""
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    rng = np.random.default_rng(8)
    inside = sum((a / r) ** 2 for a, r in zip(axes, (0.62, 0.75, 0.7), strict=False)) < 1
    image = np.where(inside, 0.6 + ndimage.gaussian_filter(rng.normal(size=shape), 2), 0)
    image = ndimage.gaussian_filter(image, 0.7)
    image[image < 1e-3] = 0
    matrix = motion(shape, 9, 0.05 * np.array(shape))
    fixed = moved(image, matrix, order, fill) + 0.0
    moving = 0.8 * image
    mask = moved(np.ones(shape), matrix, 1, 0) > 0.999
    error = corner_error(dr.register(fixed, moving), matrix, shape)
    masked = corner_error(dr.register(fixed, moving, fixed_mask=mask), matrix, shape)
    assert error < 2 * masked + 0.005


@pytest.mark.parametrize("dirt", [0.0, 0.5])
def test_an_object_keeps_its_background(dirt, monkeypatch):
    """The inside has little texture: the edge against the background is what there is to match."""
    y, x = np.mgrid[:230, :250]
    inside = ((y - 110) / 70) ** 2 + ((x - 130) / 85) ** 2 < 1
    rng = np.random.default_rng(3)
    image = ndimage.gaussian_filter(np.where(inside, 1 + 0.02 * rng.normal(size=inside.shape), 0), 1)
    image[image < 0.02] = 0
    matrix = motion(image.shape, 8, (5, -7))
    fixed = moved(image, matrix, 1, 0)
    moving = image + rng.normal(0, 0.01, image.shape)
    moving[8:20, 30:60] += dirt
    found = []

    def solved(*args, **kwargs):
        found.append(without_fill(*args, **kwargs))
        return found[-1]

    without_fill = multiresolution.solved_without_fill
    monkeypatch.setattr(multiresolution, "solved_without_fill", solved)
    dr.register(fixed, moving)
    assert found == [None]


def test_a_mask_that_covers_the_border_is_the_users():
    """Nothing around it is left out beside."""
    image = photograph("brick")
    matrix = motion(image.shape, 10, (4, 6))
    fixed = moved(image, matrix, 1, 0)
    mask = moved(np.ones(image.shape), matrix, 1, 0) > 0.999
    a = dr.register(fixed, image, fixed_mask=mask)
    b = dr.register(np.where(mask, fixed, np.nan), image)
    np.testing.assert_allclose(a.moving_from_fixed.matrix, b.moving_from_fixed.matrix, atol=1e-6)
