"""Real pairs through `open` and `register`: stated shifts, landmarks, masks, identity in the world.

benchmarks/real_data.py has the same beside elastix.
"""

from __future__ import annotations

import numpy as np
import pytest
from reading import corners
from scipy import ndimage

import daskreg as dr
from daskreg.geometry import Affine
from daskreg.volumes import grid

pytestmark = pytest.mark.slow

pytest.importorskip("nibabel")
pytest.importorskip("SimpleITK")


def voxels_apart(found, truth, where):
    """At the farthest corner."""
    points = where.world(corners(where.shape))
    return np.linalg.norm(found(points) - truth(points), axis=1).max() / min(where.spacing)


def resampled(moving, found, onto):
    where = grid(moving)
    m = where.inverse_matrix @ found.matrix @ onto.matrix
    return ndimage.affine_transform(moving.values.astype("f4"), m[:-1, :-1], m[:-1, -1], onto.shape, order=1, cval=-1)


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


@pytest.mark.parametrize("model", ["translation", "rigid"])
def test_t1_and_proton_density(data, model):
    """Another modality, stated shift x + 13, y + 17."""
    names = ("T1SliceBorder20", "ProtonDensitySliceShifted13x17y")
    fixed, moving = (dr.open(data / f"images2d/itk_brain/Brain{n}.png", channel=0) for n in names)
    fit = dr.register(fixed, moving, model=model, metric="mi")
    assert fit.ok
    centre = grid(fixed).centre
    assert np.linalg.norm(fit.moving_from_fixed(centre) - centre - (17, 13)) < 0.5


@pytest.mark.parametrize("channel", [0, 1, 2])
def test_two_stains(data, channel):
    """HE to proSPC from the identity, 66 pixels away: nearly the best that an affine map can do."""
    stem = data / "images2d/histology/lesions_/scale-5pc/Izd2-29-041-w35_"
    fixed, moving = (dr.open(f"{stem}{n}.jpg", channel=channel) for n in ("HE", "proSPC"))
    marks = [np.loadtxt(f"{stem}{n}.csv", delimiter=",", skiprows=1)[:, :0:-1] for n in ("HE", "proSPC")]
    ones = np.concatenate([marks[0], np.ones((len(marks[0]), 1))], axis=1)
    best = Affine(np.linalg.lstsq(ones, marks[1], rcond=None)[0].T)
    errors = [np.linalg.norm(t(marks[0]) - marks[1], axis=1) for t in (Affine.identity(2), best)]
    assert np.median(errors[0]) > 60
    fit = dr.register(fixed, moving, init="identity")
    found = np.linalg.norm(fit.moving_from_fixed(marks[0]) - marks[1], axis=1)
    assert np.median(found) < 1.3 * np.median(errors[1])


@pytest.mark.parametrize("metric", ["ncc", "mi"])
def test_heads_of_two_people(data, metric):
    """CT slices: the masks that somebody drew agree about as well as after elastix (0.979 to 0.982)."""
    folder = data / "images2d/ct_head"
    fixed, moving, mask, other = (
        dr.open(folder / f"CT_2D_head_{n}.mha") for n in ("fixed", "moving", "fixed_mask", "moving_mask")
    )
    before = dice(mask.values > 0, resampled(other, Affine.identity(2), grid(fixed)) > 0.5)
    fit = dr.register(fixed, moving, metric=metric)
    after = dice(mask.values > 0, resampled(other, fit.moving_from_fixed, grid(fixed)) > 0.5)
    assert after > 0.975 > before - 0.02
    assert fit.score[1] > fit.score[0] if metric == "ncc" else fit.score[1] < fit.score[0]


@pytest.mark.parametrize("metric", ["ncc", "mi"])
def test_two_brain_slices(data, metric):
    """Flipped 2D NIfTI; after elastix the brains overlap by 0.977 (ncc) and 0.971 (mi)."""
    fixed, moving = (dr.open(data / f"images2d/brain_r16_r64/{n}slice.nii.gz") for n in ("r16", "r64"))
    fit = dr.register(fixed, moving, metric=metric)
    warped = resampled(moving, fit.moving_from_fixed, grid(fixed))
    assert dice(fixed.values > 0, warped > 0) > 0.97
    inside = warped >= 0
    assert np.corrcoef(fixed.values[inside], warped[inside])[0, 1] > 0.96


@pytest.mark.parametrize("model", ["rigid", "affine"])
def test_one_volume_in_two_formats(data, model):
    fixed, moving = (dr.open(data / f"volumes3d/niivue/FLAIR.{s}") for s in ("nii.gz", "nrrd"))
    fit = dr.register(fixed, moving, model=model)
    assert fit.ok
    assert voxels_apart(fit.moving_from_fixed, Affine.identity(3), grid(fixed)) < 0.01


@pytest.mark.parametrize("swapped", [False, True])
def test_t1_and_an_oblique_epi(data, swapped):
    """They lie together in the world; their grids do not."""
    fixed, moving = (dr.open(data / f"volumes3d/epi_anat/someones_{n}.nii.gz") for n in ("anatomy", "epi"))
    if swapped:
        fixed, moving = moving, fixed
    fit = dr.register(fixed, moving, model="rigid", metric="mi")
    assert fit.ok
    assert voxels_apart(fit.moving_from_fixed, Affine.identity(3), grid(fixed)) < 2


def test_a_head_to_the_template_and_back(data):
    """chris_t1 and MNI152 at 3 mm, affine: there and back ends less than a voxel off, over the brain.

    The template has no skull, which its mask says.
    """
    template = dr.open(next((data / "volumes3d/mni152").glob("*.nii.gz")))
    head = dr.open(data / "volumes3d/niivue/chris_t1.nii.gz")
    small, other = (v.astype("f4").coarsen(z=3, y=3, x=3, boundary="trim").mean() for v in (template, head))
    brain = small.values > 5
    there, back = dr.register(small, other, fixed_mask=brain), dr.register(other, small, moving_mask=brain)
    assert there.ok
    assert back.ok
    points = grid(small).world(np.argwhere(brain)[::17])
    round_trip = (back.moving_from_fixed @ there.moving_from_fixed)(points) - points
    assert np.sqrt((round_trip**2).sum(1).mean()) < 3
    assert there.score[1] > there.score[0] + 0.1
