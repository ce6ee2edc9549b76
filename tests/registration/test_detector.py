"""What stays with the detector while the specimen moves (gaps, hot and dead voxels) is masked and counted."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage import data

import daskreg as dr

MOTION = np.array([9.0, -14.0])


def crops(scene, size=(190, 223), corner=(40, 60)):
    """Two crops of a scene, counts of 1000 to about 3500, with noise; the second shows the first at MOTION."""
    rng = np.random.default_rng(11)
    images = []
    for y, x in (np.array(corner), np.array(corner) - MOTION.astype(int)):
        image = scene[y : y + size[0], x : x + size[1]].astype(float) * 10 + 1000
        images.append(np.rint(image + rng.normal(0, 20, image.shape)))
    return images


def shift_of(fit):
    return np.array([fit.parameters["ty"], fit.parameters["tx"]])


@pytest.mark.parametrize(
    ("dtype", "code"),
    [(np.uint16, 65535), (np.int16, -32768), (np.uint32, 2**32 - 1), (np.float32, -9999), (float, 1e20)],
)
def test_gaps_of_any_code_are_masked_and_counted(dtype, code):
    fixed, moving = (image.astype(dtype) for image in crops(data.coins()))
    for image in (fixed, moving):
        image[60:66], image[:, 200] = code, code
    fit = dr.register(fixed, moving, model="translation")
    assert fit.ok
    np.testing.assert_allclose(shift_of(fit), MOTION, atol=0.05)
    count = 6 * 223 + 190 - 6
    assert fit.bad_voxels == (count, count)
    np.testing.assert_allclose(fit.masked, count / fixed.size)
    assert f"{count} voxels of fixed" in repr(fit)


def test_gaps_in_one_image_alone_are_masked():
    fixed, moving = (image.astype(np.uint16) for image in crops(data.coins()))
    moving[100:103] = 65535
    fit = dr.register(fixed, moving, model="translation")
    assert fit.ok
    assert fit.bad_voxels == (0, 3 * 223)


@pytest.mark.parametrize(
    ("name", "every", "axis", "dtype"),
    [("coins", 4, 0, np.uint16), ("camera", 8, 1, float), ("brick", 5, 1, np.int32), ("coins", 3, 0, np.float32)],
)
def test_regular_dead_lines_are_masked(name, every, axis, dtype):
    """Every few rows or columns, also in types from which a level is subtracted, another one from each image."""
    fixed, moving = (image.astype(dtype) for image in crops(getattr(data, name)()))
    for image in (fixed, moving):
        image.swapaxes(0, axis)[1::every] = 0
    fit = dr.register(fixed, moving, model="translation")
    assert fit.ok
    np.testing.assert_allclose(shift_of(fit), MOTION, atol=0.05)
    count = len(range(1, fixed.shape[axis], every)) * fixed.shape[1 - axis]
    assert min(fit.bad_voxels) >= count
    np.testing.assert_allclose(fit.masked[0], fit.bad_voxels[0] / fixed.size)


@pytest.mark.parametrize(
    ("name", "start", "every", "axis", "fills"),
    [
        ("grass", 1, 2, 0, (0, 0)),
        ("coins", 0, 2, 1, (None, 2300)),
        ("camera", 3, 8, 0, (1900, None)),
        ("brick", 1, 4, 1, (0, 65535)),
        ("gravel", 1, 4, 0, ("noise", "noise")),
    ],
)
def test_dead_lines_of_one_image_are_masked(name, start, every, axis, fills):
    """Seen without another image of the same shape, also every second line, of which none meets one of the other."""
    fixed, moving = crops(getattr(data, name)())
    moving = moving[:170, :201]
    for image, fill in zip((fixed, moving), fills, strict=True):
        lines = image.swapaxes(0, axis)[start::every]
        if fill == "noise":
            lines[:] = np.random.default_rng(2).integers(0, 6, lines.shape)
        elif fill is not None:
            lines[:] = fill
    fit = dr.register(fixed.astype(np.uint16), moving.astype(np.uint16), model="translation")
    assert fit.ok
    np.testing.assert_allclose(shift_of(fit), MOTION, atol=0.06)
    for image, fill, count in zip((fixed, moving), fills, fit.bad_voxels, strict=True):
        n = image.shape[axis]
        assert count == (0 if fill is None else len(range(start, n, every)) * image.size // n)


@pytest.mark.slow
def test_layers_find_motion_beside_dead_lines():
    fixed, moving = crops(data.coins(), size=(130, 151))
    for image in (fixed, moving):
        image[1::4] = 0
    fit = dr.register(fixed.astype(np.uint16), moving[:, :140].astype(np.uint16), model="bspline", spacing=24)
    assert fit.ok
    assert fit.overlap > 0.8
    points = np.stack(np.meshgrid(np.arange(20, 110, 10.0), np.arange(20, 130, 10.0)), -1).reshape(-1, 2)
    errors = fit.moving_from_fixed(points) - points - MOTION
    assert np.sqrt(np.mean(errors**2)) < 0.1


def test_dead_planes_of_a_volume_are_found_and_lines_of_a_specimen_are_not():
    from daskreg.registration.pyramids.bad_voxels import dead_lines

    volume = ndimage.gaussian_filter(np.random.default_rng(1).normal(size=(40, 33, 28)), 1).astype(np.float32)
    assert dead_lines(volume) is None
    for lines in (volume[3::9, :, :], volume[:, 2::7, :]):
        lines[:] = np.random.default_rng(1).normal(0, 1e-3, lines.shape)
    expected = np.zeros(volume.shape, bool)
    expected[3::9] = expected[:, 2::7] = True
    np.testing.assert_array_equal(dead_lines(volume), expected)
    drawing = np.zeros((64, 71), np.float32)
    drawing[20:44, 20:50], drawing[30, 5:66] = 1, 1
    for image in (drawing, 1 - drawing, np.tile(np.float32([[0], [1], [1]]), (20, 50)), data.text().astype(np.float32)):
        assert dead_lines(image) is None


@pytest.mark.parametrize("shift", [0, -1])
def test_blank_planes_and_layers_of_a_specimen_are_not_dead(shift):
    """At the ends of a volume, or one bright layer: the specimen moves with them."""
    rng = np.random.default_rng(2)
    body = np.zeros((9, 64, 64))
    body[2:7] = ndimage.gaussian_filter(rng.normal(size=(5, 64, 64)), (0, 2, 2)) * 10
    fixed, moving = (np.roll(body, k, 0) + rng.normal(0, 0.005, body.shape) for k in (0, shift))
    fit = dr.register(fixed.astype(np.float32), moving.astype(np.float32), model="translation")
    assert fit.bad_voxels == (0, 0)
    np.testing.assert_allclose(fit.parameters["tz"], shift, atol=0.05)
    layer = ndimage.gaussian_filter(rng.normal(size=(80, 90)), 2)
    layer[40:42] = 3
    assert dr.register(layer, np.roll(layer, (4, 3), (0, 1)), model="translation").bad_voxels == (0, 0)


def test_missing_planes_of_a_volume_are_filled_by_polynomials_and_count_for_nothing():
    from daskreg.geometry import Grid
    from daskreg.registration.pyramids.pyramid import image_batch, smooth

    z, y, x = np.indices((23, 15, 17)).astype(np.float32)
    exact = 0.01 * z**3 - 0.1 * z**2 + 0.3 * y * x
    holed = exact.copy()
    holed[3::6] = np.nan
    batch = image_batch(torch.from_numpy(np.stack([holed, exact])), Grid(exact.shape), find_borders=False)
    np.testing.assert_allclose(batch.values[0, 3:20], exact[3:20], atol=1e-3)
    np.testing.assert_array_equal(batch.weight[0] == 0, np.isnan(holed))
    smoothed = smooth(batch, (0.7,) * 3)
    np.testing.assert_array_equal(smoothed.weight[0] == 0, np.isnan(holed))
    np.testing.assert_allclose(smoothed.values[0, 3:20], smoothed.values[1, 3:20], atol=1e-3)


def test_missing_lines_are_filled_from_what_has_values_and_counts():
    from daskreg.geometry import Grid
    from daskreg.registration.pyramids.pyramid import image_batch

    y, x = np.indices((61, 67)).astype(np.float32)
    holed, known = 200 + 0.5 * y + 0.2 * x, np.hypot(y - 30, x - 33) < 25
    holed[~known], holed[1::8] = np.nan, np.nan
    masked = np.hypot(y - 20, x - 33) < 8
    holed[masked & np.isfinite(holed)] = 5000
    mask = torch.from_numpy(~masked)[None]
    batch = image_batch(torch.from_numpy(holed)[None], Grid(holed.shape), mask, find_borders=False)
    filled = batch.filled[0].numpy()
    assert filled.sum() > 100
    np.testing.assert_allclose(batch.values[0].numpy()[filled], (200 + 0.5 * y + 0.2 * x)[filled], atol=0.01)


@pytest.mark.parametrize("many", [False, True])
def test_hot_and_dead_voxels_are_masked(many):
    fixed, moving = (image.astype(np.uint16) for image in crops(data.moon()))
    at = np.random.default_rng(3).choice(fixed.size, 30, replace=False)
    for image in (fixed, moving):
        image.ravel()[at[:25]], image.ravel()[at[25:]] = 40000, 0
    if many:
        fit = dr.register_many(fixed[None], np.stack([moving, moving]), model="translation")[1]
    else:
        fit = dr.register(fixed, moving, model="translation")
    assert fit.ok
    np.testing.assert_allclose(shift_of(fit), MOTION, atol=0.05)
    assert fit.bad_voxels == (30, 30)


def test_a_frame_of_one_value_is_masked():
    """An ordinary value: that of an aperture, between those of the specimen."""
    fixed, moving = crops(data.camera(), size=(181, 187))
    y, x = np.indices(fixed.shape)
    for image in (fixed, moving):
        image[np.hypot((y - 90) / 88, (x - 95) / 80) > 1] = 1400
    fit = dr.register(fixed.astype(np.uint16), moving.astype(np.uint16), model="translation")
    assert fit.ok
    np.testing.assert_allclose(shift_of(fit), MOTION, atol=0.05)


def test_hot_voxels_of_a_volume_are_masked():
    scene = ndimage.gaussian_filter(np.random.default_rng(1).normal(size=(50, 55, 62)), 2)
    fixed, moving = (scene[k : 40 + k, k : 44 + k, 2 * k : 50 + 2 * k].astype(np.float32).copy() for k in (6, 3))
    for image in (fixed, moving):
        image[20, 11, 31] = image[7, 40, 9] = 30 * scene.std() * 5
    fit = dr.register(fixed, moving, model="translation")
    assert fit.ok
    np.testing.assert_allclose([fit.parameters[n] for n in ("tz", "ty", "tx")], [3, 3, 6], atol=0.1)
    assert fit.bad_voxels == (2, 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["camera", "coins", "moon", "page", "text", "brick"])
def test_photographs_have_next_to_no_bad_voxels(name):
    """Lines of one voxel that are moved along themselves look like a dead line, over a few voxels."""
    image = getattr(data, name)()
    fit = dr.register(image, np.roll(image, (2, 1), (0, 1)), model="translation")
    assert max(fit.bad_voxels) <= 1e-4 * image.size
    np.testing.assert_allclose(shift_of(fit), [2, 1], atol=0.05)


@pytest.mark.parametrize("moved", [0.0, 0.4, 6.0])
def test_the_background_of_an_object_is_no_gap(moved):
    """Of one value, which both images have at the same places where the object did not move: its outline counts."""
    y, x = np.indices((120, 131))
    inside = ndimage.gaussian_filter(np.random.default_rng(5).normal(size=(120, 131)), 3)
    body = (np.hypot((y - 60) / 40, (x - 62) / 30) < 1) * (5 + inside)
    fixed, moving = (ndimage.shift(body, (0, s), order=1).astype(np.float32) for s in (0, moved))
    fit = dr.register(fixed, moving, model="translation")
    assert fit.ok
    np.testing.assert_allclose(shift_of(fit), [0, moved], atol=0.05)
