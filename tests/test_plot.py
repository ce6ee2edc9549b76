"""`daskreg.plot` draws what it says, of any transform, and reads only planes of lazy volumes."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
import scipy.ndimage
from skimage import data

import daskreg as dr
from daskreg.volumes import to_dataarray

pytestmark = pytest.mark.slow


def shown(figure):
    return [np.asarray(ax.get_images()[0].get_array()) for ax in figure.axes]


@pytest.fixture(scope="module")
def images():
    scene = data.clock()[::2, ::2].astype(np.float32)
    grid = dr.Grid(scene.shape, spacing=(2, 1), unit="nm")
    motion = dr.Affine.from_parameters(theta=0.1, tx=6, ty=-4, centre=grid.centre)
    fixed = to_dataarray(scene, grid)
    return fixed, 50 - 0.3 * dr.warp(fixed, push=motion, order=3), motion


def test_before_and_after(images):
    fixed, moving, motion = images
    # The moving image is of opposite contrast, which an overlay shows as colour also where it fits.
    before, after = shown(dr.plot.overlay(fixed, -moving, fit=motion))
    inner = (slice(20, -20), slice(20, -20))
    assert np.median(np.ptp(after[inner], axis=-1)) < 0.03
    assert np.ptp(before[inner], axis=-1).mean() > 3 * np.ptp(after[inner], axis=-1).mean()
    (alone,) = shown(dr.plot.overlay(fixed, -moving))
    np.testing.assert_array_equal(alone, before)
    _, left = shown(dr.plot.difference(fixed, -moving, fit=motion))
    assert np.median(left[inner]) > 0.9
    _, board = shown(dr.plot.checkerboard(fixed, -moving, fit=motion))
    np.testing.assert_allclose(
        np.median(np.abs(board - shown(dr.plot.checkerboard(fixed, fixed))[0])[inner]), 0, atol=0.02
    )
    text = dr.plot.overlay(fixed, moving).axes[0].texts[0].get_text()
    assert text.endswith(" nm")


def test_large_lazy_volumes_are_read_in_planes():
    read = []

    def chunk(block_info=None):
        place = block_info[None]["chunk-location"]
        read.append(place)
        return np.full(block_info[None]["chunk-shape"], sum(place), np.float32)

    volume = da.map_blocks(chunk, chunks=((100,) * 13,) * 3, dtype=np.float32, meta=np.empty((0, 0, 0), np.float32))
    lazy = to_dataarray(volume, dr.Grid(volume.shape, spacing=(2, 1, 1), unit="um"))
    figure = dr.plot.side_views(lazy)
    assert len(set(read)) <= 3 * 13**2
    assert all(max(image.shape[:2]) <= 640 for image in shown(figure))
    assert figure.axes[1].get_aspect() == pytest.approx(1.6), (
        "z is stretched less than its spacing, which the axis says"
    )
    assert "z x 0.8" in figure.axes[1].get_xlabel()


def test_fields_slices_and_channels():
    rng = np.random.default_rng(0)
    volume = scipy.ndimage.gaussian_filter(rng.normal(size=(8, 40, 50)), (0, 2, 2)).astype(np.float32)
    maps = dr.SliceAffines(np.stack([dr.Affine.translation(x=3 * (k % 3), y=-2 * (k % 2)).matrix for k in range(8)]))
    moved = dr.warp(volume, push=maps)
    pictures = shown(dr.plot.overlay(volume, moved, fit=maps))
    assert len(pictures) == 6
    assert np.ptp(pictures[3][5:-5, 5:-5], axis=-1).mean() < 0.1 < np.ptp(pictures[0][5:-5, 5:-5], axis=-1).mean()
    grid = dr.Grid(volume.shape)
    field = dr.DisplacementField(np.full((3, *grid.shape), 1.0), grid)
    assert len(shown(dr.plot.side_views(volume, np.roll(volume, 1, 2), fit=field))) == 6
    colour = rng.integers(0, 255, (30, 40, 3)).astype(np.uint8)
    with pytest.raises(dr.errors.ChannelError, match="channel="):
        dr.plot.overlay(colour, colour)
    assert len(shown(dr.plot.overlay(colour, colour, channel=1))) == 1


def test_a_fit_of_slices_is_shown_on_the_grid_of_fixed():
    """Whatever part of the stack fixed is; where its slices are none of the stack's, that is an error."""
    rng = np.random.default_rng(5)
    volume = scipy.ndimage.gaussian_filter(rng.normal(size=(9, 44, 50)), (0, 2, 2)).astype(np.float32)
    grid = dr.Grid(volume.shape, spacing=(3, 1, 1), unit="um")
    matrices = np.stack([dr.Affine.translation(x=3 * (k % 3), y=-2 * (k % 2)).matrix for k in range(9)])
    maps = dr.SliceAffines(matrices, unit="um")
    whole = to_dataarray(volume, grid)
    moved = dr.warp(whole, push=maps)
    part = whole[2:8, 6:, 5:46]
    pictures = shown(dr.plot.overlay(part, moved, fit=maps))
    assert pictures[3].shape[:2] == (38, 41)
    for before, after in zip(pictures[:3], pictures[3:], strict=True):
        wrong = [np.ptp(picture[1:-1, 5:-8], axis=-1).mean() for picture in (before, after)]
        assert wrong[1] < 0.2 * wrong[0]
    between = to_dataarray(volume, dr.Grid(volume.shape, spacing=(3, 1, 1), origin=(1.5, 0, 0), unit="um"))
    for other in (between, to_dataarray(volume, dr.Grid(volume.shape, spacing=(2, 1, 1), unit="um"))):
        with pytest.raises(dr.errors.GridError):
            dr.plot.overlay(other, moved, fit=maps)
    with pytest.raises(dr.errors.ShapeMismatchError):
        dr.plot.overlay(volume[0], moved, fit=maps)
