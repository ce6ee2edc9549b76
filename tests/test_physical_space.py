"""Registration in the world: oblique, flipped, anisotropic grids, from files, compared with SimpleITK.

The images are one function of world points, so that nothing is interpolated in making them:
moving(t(p)) = fixed(p) for a known motion t.
"""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from oracles import pearson
from phantoms import indices
from reading import corners

import daskreg as dr
from daskreg.geometry import Affine, Grid
from daskreg.volumes import grid, to_dataarray

pytestmark = pytest.mark.slow


def scene(points, *, centre, size, seed=3):
    """Values of (..., D) world points: blobs within `size` of `centre`, without symmetry."""
    rng = np.random.default_rng(seed)
    values = np.zeros(points.shape[:-1])
    for _ in range(20):
        middle = centre + size * rng.uniform(-0.35, 0.35, len(size))
        sigma = size * rng.uniform(0.07, 0.14, len(size))
        values += rng.uniform(0.3, 1) * np.exp(-0.5 * (((points - middle) / sigma) ** 2).sum(-1))
    return values.astype(np.float32)


def turn(ndim, *angles):
    """An orthonormal matrix, array order."""
    out = np.eye(ndim)
    for k, angle in enumerate(angles):
        i, j = [(0, 1), (1, 2), (0, 2)][k]
        one = np.eye(ndim)
        one[i, i] = one[j, j] = np.cos(angle)
        one[i, j], one[j, i] = -np.sin(angle), np.sin(angle)
        out = one @ out
    return out


def centred(shape, spacing, direction, centre):
    """A grid whose middle voxel lies at `centre`."""
    there = Grid(shape, spacing, 0, direction, "mm")
    return Grid(shape, spacing, np.asarray(centre) - there.centre, direction, "mm")


CENTRE2, CENTRE3 = np.array([-40.0, 25.0]), np.array([-300.0, 40.0, 12.0])
FLIP2, FLIP3 = np.diag([-1.0, 1.0]), np.diag([1.0, -1.0, -1.0])
SWAP3 = np.array([[0, 0, 1.0], [1, 0, 0], [0, -1, 0]])
PAIRS = {
    "2D flipped, finer": (
        centred((90, 110), (0.8, 0.6), FLIP2, CENTRE2),
        centred((80, 75), (0.9, 1.1), -FLIP2, CENTRE2 + np.array([2, -1])),
    ),
    "2D oblique": (
        centred((90, 110), (0.8, 0.6), turn(2, 0.4), CENTRE2),
        centred((100, 85), (0.7, 0.9), turn(2, -0.3) @ FLIP2, CENTRE2 + np.array([1, 2])),
    ),
    "3D flipped, thick slices": (
        centred((26, 42, 36), (1.5, 1, 1.1), FLIP3, CENTRE3),
        centred((18, 40, 44), (2.3, 1.1, 1), None, CENTRE3 + np.array([1, 2, -2])),
    ),
    "3D oblique, axes in another order": (
        centred((26, 42, 36), (1.5, 1, 1.1), turn(3, 0.2, -0.15, 0.3), CENTRE3),
        centred((44, 26, 38), (1, 1.7, 1.1), turn(3, 0.1, 0.2) @ SWAP3, CENTRE3 + np.array([1, 2, -2])),
    ),
}

# Of voxels: linear interpolation between slices that are far apart costs accuracy.
ACCURACY = {"3D flipped, thick slices": 0.3}


def motion(where):
    """Rigid and a little scale, about the middle of the scene."""
    size = np.asarray(where.shape) * where.spacing
    named = {"theta": 0.12} if where.ndim == 2 else {"rx": 0.1, "ry": -0.07, "rz": 0.12}
    shift = {f"t{a}": 0.04 * s for a, s in zip("zyx"[-where.ndim :], size, strict=True)}
    return Affine.from_parameters({**named, **shift, "sx": 1.04, "sy": 0.97}, centre=where.centre, unit="mm")


def pair(name):
    """Fixed and moving, and the motion."""
    fixed, moving = PAIRS[name]
    truth, size = motion(fixed), np.asarray(fixed.shape) * fixed.spacing
    values = [
        scene(fixed.world(indices(fixed.shape)), centre=fixed.centre, size=size),
        scene(truth.inverse()(moving.world(indices(moving.shape))), centre=fixed.centre, size=size),
    ]
    return fixed, moving, values, truth


def image_of(values, where):
    """As SimpleITK has it."""
    image = sitk.GetImageFromArray(values)
    image.SetSpacing(where.spacing[::-1])
    image.SetOrigin(where.origin[::-1])
    image.SetDirection(where.direction_matrix[::-1, ::-1].ravel().tolist())
    return image


def corner_error(found, truth, where):
    """Voxels, at the farthest corner."""
    points = where.world(corners(where.shape))
    return np.linalg.norm(found(points) - truth(points), axis=1).max() / min(where.spacing)


@pytest.mark.parametrize(("name", "suffix"), [*zip(PAIRS, (".nrrd", ".mha", ".nrrd", ".nii.gz"), strict=True)])
def test_a_known_motion_between_files(tmp_path, name, suffix):
    fixed, moving, values, truth = pair(name)
    for which, one, where in zip(("fixed", "moving"), values, (fixed, moving), strict=True):
        sitk.WriteImage(image_of(one, where), str(tmp_path / f"{which}{suffix}"))
    opened = [dr.open(tmp_path / f"{which}{suffix}") for which in ("fixed", "moving")]
    for volume, where in zip(opened, (fixed, moving), strict=True):
        assert grid(volume).same(where, tolerance=1e-3)
    fit = dr.register(*opened, model="affine")
    assert fit.ok
    assert fit.moving_from_fixed.unit == "millimeter"
    assert corner_error(fit.moving_from_fixed, truth, fixed) < ACCURACY.get(name, 0.1)


@pytest.mark.parametrize("name", PAIRS)
def test_the_fit_is_simpleitks_transform(name):
    """Resampled by SimpleITK through `to_itk`, the moving image is what `warp` makes, and the fixed one."""
    fixed, moving, values, truth = pair(name)
    f, m = (to_dataarray(v, g) for v, g in zip(values, (fixed, moving), strict=True))
    fit = dr.register(f, m, model="affine", init="identity")
    transform = dr.convert.to_itk(fit.moving_from_fixed, fixed=fixed, moving=moving)
    for point in fixed.world(corners(fixed.shape))[:3]:
        np.testing.assert_allclose(
            transform.TransformPoint(point[::-1].tolist())[::-1], fit.moving_from_fixed(point), atol=1e-9
        )
    images = [image_of(v, g) for v, g in zip(values, (fixed, moving), strict=True)]
    theirs = sitk.GetArrayFromImage(sitk.Resample(images[1], images[0], transform, sitk.sitkLinear, -1.0))
    ours = dr.warp(m, pull=fit.moving_from_fixed, like=f, fill=-1).values
    where = moving.index(fit.moving_from_fixed(fixed.world(indices(fixed.shape))))
    inside = np.all((where >= 0) & (where <= np.asarray(moving.shape) - 1), axis=-1)  # ITK extends the border
    assert inside.mean() > 0.7
    np.testing.assert_allclose(ours[inside], theirs[inside], atol=1e-4)
    assert pearson(theirs, values[0], inside) > 0.995
    back = dr.convert.from_itk(transform, fixed=fixed, moving=moving)
    np.testing.assert_allclose(back.matrix, fit.moving_from_fixed.matrix, atol=1e-9)
    assert corner_error(fit.moving_from_fixed, truth, fixed) < ACCURACY.get(name, 0.1)


@pytest.mark.parametrize(("name", "metric"), [("2D oblique", "lncc"), ("3D oblique, axes in another order", "mi")])
def test_metrics_by_autograd_in_the_world(name, metric):
    fixed, moving, values, truth = pair(name)
    f, m = (to_dataarray(v, g) for v, g in zip(values, (fixed, moving), strict=True))
    fit = dr.register(f, m, model="affine", metric=metric)
    assert corner_error(fit.moving_from_fixed, truth, fixed) < 0.5


@pytest.mark.parametrize("name", PAIRS)
def test_how_a_volume_is_stored_changes_nothing(name):
    """An image that is flipped, cropped, or has its axes exchanged stays in place, and so does the motion."""
    fixed, moving, values, _ = pair(name)
    f, m = (to_dataarray(v, g) for v, g in zip(values, (fixed, moving), strict=True))
    fit = dr.register(f, m, model="affine")
    flipped = dr.register(f.isel(y=slice(None, None, -1)), m.isel(x=slice(None, None, -1)), model="affine")
    points = fixed.world(corners(fixed.shape))
    np.testing.assert_allclose(flipped.moving_from_fixed(points), fit.moving_from_fixed(points), atol=0.02)
    np.testing.assert_allclose(flipped.centre, fit.centre, atol=1e-9)
    for name_, value in fit.parameters.items():
        assert flipped.parameters[name_] == pytest.approx(value, abs=0.02)


def test_the_world_is_that_of_the_inverse():
    fixed, moving, values, _ = pair("3D oblique, axes in another order")
    f, m = (to_dataarray(v, g) for v, g in zip(values, (fixed, moving), strict=True))
    there, back = dr.register(f, m), dr.register(m, f)
    both = back.moving_from_fixed @ there.moving_from_fixed
    assert corner_error(both, Affine.identity(3), fixed) < 0.1
