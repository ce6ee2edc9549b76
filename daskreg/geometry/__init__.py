"""Geometry: boxes of indices, grids in the world, and maps between worlds. numpy only.

The convention, in identities that the tests hold:

    grid.world(0)                  == grid.origin           (the *centre* of voxel 0)
    grid.world(i)                  == origin + direction @ (spacing * i)     (z, y, x)
    grid.crop(box).world(0)        == grid.world(box.start)
    grid.downsample(f).world(0)    == grid.world((f - 1) / 2)
    a_from_c                       == a_from_b @ b_from_c
    a_from_b.inverse()             == b_from_a
    Affine.translation(x=1)((y, x))== (y, x + 1)
    Affine.rotation(theta)         turns +x towards +y
    warp(image, pull=t)[p]         == image at t(p)
    warp(image, push=t)            == warp(image, pull=t.inverse())
"""

from daskreg.geometry.affine import Affine, as_affine
from daskreg.geometry.box import Box, tile
from daskreg.geometry.grid import Grid, default_axes, index_matrix, touched_bounds, touched_box
from daskreg.geometry.slices import SliceAffines
from daskreg.geometry.transform import Transform
from daskreg.geometry.units import PIXEL, canonical_unit, common_unit

__all__ = [
    "PIXEL",
    "Affine",
    "Box",
    "Grid",
    "SliceAffines",
    "Transform",
    "as_affine",
    "canonical_unit",
    "common_unit",
    "default_axes",
    "index_matrix",
    "tile",
    "touched_bounds",
    "touched_box",
]
