"""torch's normalised coordinates, compared with torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from daskreg.errors import ShapeMismatchError
from daskreg.geometry import Affine, Box
from daskreg.geometry.normalised import (
    index_from_normalised,
    index_from_theta,
    normalised_from_index,
    scale_and_offset,
    theta_from_index,
)
from daskreg.kernels import sample

CORNERS = [False, True]


@pytest.mark.filterwarnings("ignore:Since version 1.3.0, affine_grid:UserWarning")  # an axis of one voxel
@pytest.mark.parametrize("align_corners", CORNERS)
@pytest.mark.parametrize("shape", [(5, 8), (3, 1, 7), (4,)])
def test_voxels_are_where_affine_grid_puts_them(shape: tuple[int, ...], align_corners: bool) -> None:
    matrix = normalised_from_index(shape, align_corners=align_corners)
    index = np.moveaxis(np.indices(shape), 0, -1)
    ours = index @ matrix[:-1, :-1].T + matrix[:-1, -1]
    if len(shape) > 1:
        theta = torch.eye(len(shape), len(shape) + 1, dtype=torch.float64)[None]
        torchs = functional.affine_grid(theta, [1, 1, *shape], align_corners=align_corners)[0]
        np.testing.assert_allclose(ours, torchs, atol=1e-12)
    back = index_from_normalised(shape, align_corners=align_corners)
    np.testing.assert_allclose(back @ matrix, np.eye(len(shape) + 1), atol=1e-12)


def test_the_ends_of_an_axis() -> None:
    scale, offset = scale_and_offset(4)
    assert [scale * i + offset for i in (-0.5, 1.5, 3.5)] == [-1, 0, 1]
    scale, offset = scale_and_offset(5, align_corners=True)
    assert [scale * i + offset for i in (0, 2, 4)] == [-1, 0, 1]
    assert scale_and_offset(1) == (2, 0)
    assert scale_and_offset(1, align_corners=True) == (1, 0)


@pytest.mark.parametrize("align_corners", CORNERS)
@pytest.mark.parametrize(("fixed", "moving"), [((6, 9), (8, 5)), ((4, 6, 5), (7, 3, 8))])
def test_theta_means_what_torch_does_with_it(
    fixed: tuple[int, ...], moving: tuple[int, ...], align_corners: bool
) -> None:
    """Images of different, odd shapes; our kernel with the index matrix gives torch's image."""
    rng = np.random.default_rng(0)
    ndim = len(fixed)
    image = rng.random(moving)
    theta = np.concatenate([np.eye(ndim) + rng.normal(0, 0.2, (ndim, ndim)), rng.normal(0, 0.1, (ndim, 1))], 1)
    where = functional.affine_grid(torch.from_numpy(theta)[None], [1, 1, *fixed], align_corners=align_corners)
    torchs = functional.grid_sample(torch.from_numpy(image)[None, None], where, align_corners=align_corners)[0, 0]
    matrix = index_from_theta(theta, fixed, moving, align_corners=align_corners)
    np.testing.assert_allclose(sample(image, Box.of(moving), matrix, Box.of(fixed)), torchs, atol=1e-10)
    np.testing.assert_allclose(theta_from_index(matrix, fixed, moving, align_corners=align_corners), theta, atol=1e-12)


@pytest.mark.parametrize("align_corners", CORNERS)
def test_a_batch_and_a_known_value(align_corners: bool) -> None:
    shift = Affine.translation(x=2, y=1).matrix
    width = 5 - align_corners
    theta = theta_from_index(np.stack([shift, np.eye(3)]), (7, 5), (7, 5), align_corners=align_corners)
    assert theta.shape == (2, 2, 3)
    np.testing.assert_allclose(theta[0], [[1, 0, 2 * 2 / width], [0, 1, 2 / (width + 2)]], atol=1e-12)
    np.testing.assert_allclose(theta[1], np.eye(2, 3), atol=1e-12)
    back = index_from_theta(theta, (7, 5), (7, 5), align_corners=align_corners)
    np.testing.assert_allclose(back, [shift, np.eye(3)], atol=1e-12)


def test_shapes_must_agree() -> None:
    with pytest.raises(ShapeMismatchError, match="differ in dimensions"):
        index_from_theta(np.eye(2, 3), (3, 4), (3, 4, 5))
    with pytest.raises(ShapeMismatchError, match=r"\(3, 3\)"):
        index_from_theta(np.eye(3), (3, 4), (3, 4))
    with pytest.raises(ShapeMismatchError, match=r"\(2, 3\)"):
        theta_from_index(np.eye(2, 3), (3, 4), (3, 4))
