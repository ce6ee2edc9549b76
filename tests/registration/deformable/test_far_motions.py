"""What is tried where steps from coarse to fine do not align images, against images that scipy deformed."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

import daskreg as dr
from daskreg.registration.deformable.judged import determinants
from daskreg.registration.deformable.level_images import LevelImages, slopes_of
from daskreg.registration.deformable.multimodal.displacement_search import Searched, as_layers, search, search_bytes
from daskreg.registration.deformable.multimodal.far_motions import shares_fine_structure
from daskreg.registration.deformable.multimodal.self_similarity import descriptors
from daskreg.registration.deformable.multimodal.small_steps import control_of_small_steps, small_steps
from daskreg.registration.deformable.mutual_information import Bins
from daskreg.registration.deformable.splines.control_grid import control_grids
from daskreg.registration.deformable.splines.layers import Layers

Floats = NDArray[np.float64]


def images_of(fixed: Floats, moving: Floats, grid: dr.Grid, *, other_modality: bool = True) -> LevelImages:
    f, m = (image.astype(np.float32) for image in (fixed, moving))
    known = np.ones(f.shape, bool)
    ends = (Bins.of(f, known), Bins.of(m, known)) if other_modality else None
    gradient = slopes_of(f, grid.spacing)
    return LevelImages(f, known.astype(np.float32), gradient, m, grid, grid, True, min(grid.spacing), ends)


def texture(shape: tuple[int, ...], rng: np.random.Generator, size: float = 1.5) -> Floats:
    found = ndimage.gaussian_filter(rng.normal(size=shape), size, mode="mirror")
    return np.asarray(found / found.std())


def sheared(shape: tuple[int, ...], most: float, waves: float = 1) -> Floats:
    """(D, *shape) displacements along the first axis, a wave along the second one, voxels."""
    u = np.zeros((len(shape), *shape))
    u[0] = most * np.sin(2 * np.pi * waves * np.indices(shape)[1] / shape[1])
    return u


def left(transform: dr.Transform, u: Floats, spacing: float) -> Floats:
    """Distances, in voxels, from where voxels away from the border are to where they are found."""
    ndim, inner = len(u), (slice(6, -6),) * len(u)
    points = np.moveaxis(np.indices(u.shape[1:]).astype(float)[(slice(None), *inner)], 0, -1).reshape(-1, ndim)
    truth = u[(slice(None), *inner)].reshape(ndim, -1).T
    return np.asarray(np.linalg.norm(transform(spacing * points) / spacing - points - truth, axis=1))


def searched(fixed: Floats, moving: Floats, spacing: float = 0.5, mask: Floats | None = None) -> Searched:
    grid = dr.Grid(fixed.shape, (spacing,) * fixed.ndim)
    start = Layers.start(dr.Affine.identity(fixed.ndim), control_of_small_steps(grid, grid))
    images = images_of(fixed, moving, grid)
    if mask is not None:
        images = replace(images, weight=mask.astype(np.float32))
    return search(images, start.transform, grid)


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "most", "waves"), [((70, 81), 3.0, 1.0), ((20, 24, 22), 2.0, 0.5)])
def test_motions_longer_than_structures_are_searched_without_folds(
    shape: tuple[int, ...], most: float, waves: float
) -> None:
    moving, u = texture(shape, np.random.default_rng(5)), sheared(shape, most, waves)
    fixed = ndimage.map_coordinates(moving, np.indices(shape) + u, order=3, mode="mirror")
    found = searched(fixed, np.exp(-moving))
    assert found.confirmed, (found.agreement, found.needed)
    assert np.median(left(found.layers.transform, u, 0.5)) < 0.35 * np.median(np.abs(u[0]))
    assert determinants(found.layers.transform, dr.Grid(shape, (0.5,) * len(shape)))[0] > 0


@pytest.mark.parametrize(("size", "seed"), [(1.0, 7), (2.5, 7), (6.0, 2), (8.0, 0), (10.0, 1)])
def test_what_is_searched_in_unrelated_images_is_not_confirmed(size: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    found = searched(texture((96, 101), rng, size), texture((96, 101), rng, size))
    assert not found.confirmed
    assert abs(found.agreement) < 0.8 * found.needed


@pytest.mark.slow
def test_halves_agree_where_most_is_masked_only_if_images_are_related() -> None:
    rng, shape = np.random.default_rng(5), (64, 80)
    moving, mask = texture(shape, rng), np.broadcast_to(np.arange(80) < 0.3 * 80, shape)
    assert not searched(texture(shape, rng), moving, mask=mask).confirmed
    found = searched(ndimage.shift(moving, (2, 1), order=3, mode="mirror"), np.exp(-moving), mask=mask)
    assert found.confirmed
    points = 0.5 * np.argwhere(mask)
    np.testing.assert_allclose(np.median(found.layers.transform(points) - points, axis=0), [-1, -0.5], atol=0.1)
    assert not searched(moving, moving, mask=np.zeros(shape)).confirmed


def test_a_displacement_of_all_is_written_as_few_layers_up_to_the_border() -> None:
    grid, field = dr.Grid((61, 72), (0.5, 0.5)), np.ones((2, 31, 36)) * [[[3.0]], [[-2.0]]]
    control = control_grids(grid, (2.0, 2.0))[-1]
    layers = as_layers(field, grid, control, dr.Affine.identity(2))
    points = grid.world(np.argwhere(np.ones(grid.shape)))
    np.testing.assert_allclose(layers.transform(points) - points, np.tile([1.5, -1.0], (len(points), 1)), atol=0.02)
    assert layers.count == 2


def test_descriptors_do_not_depend_on_brightness_contrast_and_sign() -> None:
    image = texture((30, 41), np.random.default_rng(1)).astype(np.float32)
    np.testing.assert_allclose(descriptors(7 - 3 * image), descriptors(image), atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "other_modality", "count"), [((46, 51), True, 28), ((13, 16, 14), False, 14)])
def test_small_steps_follow_motions_without_folds(shape: tuple[int, ...], other_modality: bool, count: int) -> None:
    moving, u, grid = texture(shape, np.random.default_rng(5)), sheared(shape, 2.0), dr.Grid(shape, (0.5,) * len(shape))
    fixed = ndimage.map_coordinates(moving, np.indices(shape) + u, order=3, mode="mirror")
    images = images_of(fixed, np.exp(-moving) if other_modality else moving, grid, other_modality=other_modality)
    start = Layers.start(dr.Affine.identity(len(shape)), control_of_small_steps(grid, grid))
    transform = small_steps(images, start, count).transform
    assert np.median(left(transform, u, 0.5)) < 0.6 * np.median(np.abs(u[0]))
    assert determinants(transform, grid)[0] > 0


def test_fine_structure_is_shared_only_where_that_can_be_told_from_a_mirrored_image() -> None:
    rng, grid = np.random.default_rng(3), dr.Grid((48, 52))
    moving, start = texture(grid.shape, rng), Layers.start(dr.Affine.identity(2), control_of_small_steps(grid, grid))
    related, other = (images_of(fixed, np.exp(-moving), grid) for fixed in (moving, texture(grid.shape, rng)))
    assert shares_fine_structure(related, start.transform)
    assert not shares_fine_structure(other, start.transform)
    side, corner = np.zeros((2, *grid.shape), np.float32)
    side[:, :20] = corner[:20, :20] = 1
    assert shares_fine_structure(replace(related, weight=side), start.transform)
    assert not shares_fine_structure(replace(related, weight=corner), start.transform)


def test_what_is_beside_a_mask_does_not_count_in_a_search() -> None:
    shape = (60, 72)
    moving, mask = texture(shape, np.random.default_rng(2)), np.broadcast_to(np.arange(72) < 50, shape)
    fixed = ndimage.shift(moving, (1, 2), order=3, mode="mirror")
    beside = fixed + np.where(mask, 0, np.random.default_rng(1).normal(size=shape))
    one, other = (searched(image, np.exp(-moving), mask=mask) for image in (fixed, beside))
    assert one.confirmed
    assert one.agreement == pytest.approx(other.agreement, abs=1e-5)


def test_a_search_takes_no_more_memory_than_is_counted() -> None:
    image = texture((24, 480), np.random.default_rng(4))
    tracemalloc.start()
    try:
        searched(image, image)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 0.5 < most / search_bytes(image.shape) < 1.1


def test_images_without_gradients_stay_where_they_are() -> None:
    grid = dr.Grid((12, 14))
    images = images_of(np.zeros(grid.shape), np.zeros(grid.shape), grid)
    start = Layers.start(dr.Affine.identity(2), control_of_small_steps(grid, grid))
    assert not np.any(small_steps(images, start, 3).current)


def test_fine_structures_of_unrelated_textures_share_no_more_than_mirrored_ones() -> None:
    rng, shape = np.random.default_rng(11), (90, 101)
    coarse, fine = texture(shape, rng, 7), [texture(shape, rng, 1) for _ in range(2)]
    grid = dr.Grid(shape)
    identity = Layers.start(dr.Affine.identity(2), control_of_small_steps(grid, grid)).transform
    related = images_of(coarse + fine[0], np.exp(-0.5 * (coarse + fine[0])), grid)
    unrelated = images_of(coarse + fine[0], coarse + fine[1], grid)
    assert shares_fine_structure(related, identity)
    assert not shares_fine_structure(unrelated, identity)
