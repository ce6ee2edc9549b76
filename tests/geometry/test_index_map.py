"""What each output box reads: enough for its result, and little more."""

from __future__ import annotations

import numpy as np
import pytest

from daskreg.errors import GridError, InvalidTransformError, ShapeMismatchError
from daskreg.geometry import Affine, Box, Grid, SliceAffines

STACK = ("z", "y", "x")
GRID = Grid((7, 40, 50))


def test_planes_are_carried_under_a_map_in_the_plane() -> None:
    found = Affine.from_parameters(theta=0.1).index_map(GRID, GRID, STACK)
    assert found.sampled == (1, 2)
    assert found.carried == (0,)
    assert found.matrices.shape == (1, 3, 3)


def test_whole_voxel_shifts_along_z_are_an_offset() -> None:
    found = Affine.translation(z=-2, x=0.5).index_map(GRID, GRID, STACK)
    assert (found.sampled, found.offsets) == ((1, 2), (-2, 0, 0))
    pieces = list(found.pieces(Box((0, 0, 0), (4, 40, 50)), GRID.shape, 0))
    assert [(p.out.start[0], p.out.stop[0], p.read.start[0], p.read.stop[0]) for p in pieces] == [(2, 4, 0, 2)]


def test_a_map_that_mixes_z_samples_all_axes() -> None:
    found = Affine.from_parameters(rx=0.1).index_map(GRID, GRID, STACK)
    assert found.sampled == (0, 1, 2)
    assert Affine.translation(z=0.5).index_map(GRID, GRID, STACK).sampled == (0, 1, 2)


def test_lead_axes_are_carried() -> None:
    found = Affine.from_parameters(rx=0.1).index_map(GRID, GRID, ("t", "c", *STACK))
    assert found.sampled == (2, 3, 4)
    assert found.offsets == (0,) * 5


def test_slices_read_their_own_boxes_and_restrict_to_them() -> None:
    shifts = SliceAffines(np.stack([Affine.translation(x=5 * i).matrix for i in range(7)]))
    found = shifts.index_map(GRID, GRID, STACK)
    box = Box((3, 0, 0), (5, 10, 10))
    reads = [p.read for p in found.pieces(box, GRID.shape, 0)]
    assert reads == [Box((3, 0, 15), (4, 10, 25)), Box((4, 0, 20), (5, 10, 30))]
    small = found.restrict(box)
    assert len(small.matrices) == 2
    assert [p.read for p in small.pieces(box, GRID.shape, 0)] == reads


def test_a_series_runs_along_a_lead_axis() -> None:
    maps = SliceAffines(np.stack([np.eye(4)] * 3), axis=0)
    found = maps.index_map(GRID, GRID, ("t", *STACK))
    assert (found.stack, found.sampled) == (0, (1, 2, 3))
    planes = SliceAffines(np.stack([np.eye(3)] * 7), axis=0)
    assert planes.index_map(GRID, GRID, ("t", *STACK)).stack == 1


def test_a_cropped_output_takes_the_maps_of_its_slices() -> None:
    shifts = SliceAffines(np.stack([Affine.translation(x=i).matrix for i in range(7)]))
    found = shifts.index_map(GRID.crop(Box((2, 0, 0), (5, 40, 50))), GRID, STACK)
    assert found.offsets[0] == 2
    assert found.matrices[:, 1, 2].tolist() == [2, 3, 4]


@pytest.mark.parametrize(
    ("pull", "dims", "error"),
    [
        (SliceAffines(np.stack([np.eye(3)] * 6)), STACK, ShapeMismatchError),
        (SliceAffines(np.stack([np.eye(4)] * 7)), STACK, InvalidTransformError),
        (SliceAffines(np.stack([np.eye(3)] * 7), axis="q"), STACK, InvalidTransformError),
        (SliceAffines(np.stack([np.eye(3)] * 7), axis=4), STACK, InvalidTransformError),
        (Affine.identity(4), STACK, InvalidTransformError),
    ],
)
def test_what_does_not_fit_is_refused(pull: Affine | SliceAffines, dims: tuple[str, ...], error: type) -> None:
    with pytest.raises(error):
        pull.index_map(GRID, GRID, dims)


def test_a_plane_that_is_oblique_cannot_be_warped_on_its_own() -> None:
    turned = Affine.rotation(rx=0.2).linear
    oblique = Grid(GRID.shape, direction=turned)
    with pytest.raises(GridError, match="oblique"):
        Affine.translation(x=1).index_map(oblique, oblique, STACK)
