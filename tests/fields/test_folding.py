"""A warp by the inverse of a field that folds says so, with the share and the place."""

from __future__ import annotations

import warnings

import dask.array as da
import numpy as np
import pytest

import daskreg as dr
from daskreg.errors import FoldWarning


def bump(height, at=(3, 4), shape=(9, 11), spacing=4.0, origin=(-2.0, 1.0)):
    """A field with one node that moves along x by `height`."""
    vectors = np.zeros((2, *shape))
    vectors[(1, *at)] = height
    return dr.DisplacementField(vectors, dr.Grid(shape, spacing, origin))


def test_the_share_and_the_place_are_named():
    field = bump(10.0)  # det J is 1 - 10 / 4 beside the node, and 1 - 5 / 4 half way to the next row
    with pytest.warns(FoldWarning, match=r"0\.0\d+ of the \d+ points.* at \(10, 17\) pixel .*det J -1\.5\)"):
        dr.warp(np.ones((30, 40)), pull=field.inverse())


@pytest.mark.parametrize("pull", [bump(10.0), bump(3.9).inverse(), bump(-3.9).inverse()])
def test_nothing_is_said_without_an_inverse_or_a_fold(pull):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dr.warp(np.ones((30, 40)), pull=pull)


def test_a_push_and_a_chain_are_looked_at_too():
    with pytest.warns(FoldWarning):
        dr.warp(np.ones((30, 40)), push=dr.Affine.rotation(0.1) @ bump(9.0))


def test_folds_outside_of_the_image_do_not_matter():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dr.warp(np.ones((9, 9)), pull=bump(9.0, at=(80, 90), shape=(100, 110)).inverse())


def test_the_slice_is_named():
    vectors = np.zeros((5, 2, 9, 11))
    vectors[3, 0, 4, 4] = 11
    fields = dr.SliceDisplacements(vectors, dr.Grid((9, 11), 4))
    with pytest.warns(FoldWarning, match="of slice 3 "):
        dr.warp(np.ones((5, 30, 40)), pull=fields.inverse())


@pytest.mark.slow
def test_a_large_field_is_looked_at_in_part():
    nodes = dr.Grid((1500, 2000))
    vectors = np.zeros((2, *nodes.shape), np.float32)
    vectors[1, :, ::2] = 3
    with pytest.warns(FoldWarning, match=r"of the (\d{6}|1\d{6}) points"):
        dr.warp(da.ones(nodes.shape, np.uint8), pull=dr.DisplacementField(vectors, nodes).inverse())
