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

`Transform` says what any map answers, `IndexMap` how it pulls between two grids. A new kind of map
is one file that implements both.

transform       `Transform`: what every transform answers
affine          `Affine`: one map
slices          `SliceAffines`: a map for each index along an axis
inputs          what callers pass as a transform
registry        transforms by name, readers and writers of their files
parameters      named parameters of an affine map
rotations       rotation matrices from angles and quaternions, and evenly spread ones
lie             coordinates of motions that can be added and averaged
grid            `Grid`: where voxels lie in the world
box             `Box`: a box of array indices
index_map       `IndexMap`: which source voxels a box of an output needs
warped_bounds   where a pull brings the voxels of a grid
units           names of units
pixels          maps of array indices, for tools that count in pixels
normalised      torch's normalised coordinates
"""

from daskreg.geometry.affine import Affine
from daskreg.geometry.box import Box, tile
from daskreg.geometry.grid import Grid, box_corners, default_axes, index_matrix, touched_bounds, touched_box
from daskreg.geometry.index_map import AffineIndexMap, IndexMap, Piece
from daskreg.geometry.inputs import as_affine, as_transform
from daskreg.geometry.slices import SliceAffines
from daskreg.geometry.transform import Transform
from daskreg.geometry.units import PIXEL, canonical_unit, common_unit, shared_unit
from daskreg.geometry.warped_bounds import WarpedBounds

__all__ = [
    "PIXEL",
    "Affine",
    "AffineIndexMap",
    "Box",
    "Grid",
    "IndexMap",
    "Piece",
    "SliceAffines",
    "Transform",
    "WarpedBounds",
    "as_affine",
    "as_transform",
    "box_corners",
    "canonical_unit",
    "common_unit",
    "default_axes",
    "index_matrix",
    "shared_unit",
    "tile",
    "touched_bounds",
    "touched_box",
]
