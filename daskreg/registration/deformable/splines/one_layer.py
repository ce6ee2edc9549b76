"""Several layers as one, where one can move points almost as all of them do.

Where steps lead far, layers begin and end on the way, and another way to the same motion leaves other layers. Their
bending energy is that of the sum of their coefficients, which is not that of the motion if they move far: where images
say nothing, or something wrong, the sum may be smooth and the motion is not. Of one layer both are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from daskreg.fields import Composite
from daskreg.registration.deformable.splines.control_grid import BEYOND, ControlGrid
from daskreg.registration.deformable.splines.layers import Layers
from daskreg.registration.deformable.splines.one_to_one import is_one_to_one, room_at_border, within_room
from daskreg.sampling.spline_weights import along_axes, cubic_weights, in_rows

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

_PER_CELL = 2
"""Points along a cell at which the motion is known."""
_SMOOTH = (1e-3, 1e-2, 1e-1, 1.0)
"""The weights of differences of coefficients beside the squared error, one after the other where less does not keep the
layer one to one."""
_SMOOTHER, _FILLINGS = (1e3, 1e2, 10.0, 1.0), 20
"""The same where a part is left out, and how often it is filled with each: the first carry the motion far into it."""
_PART = 0.9
"""Of the image. The rest are regions where layers went astray."""
_AWAY = 0.5
"""Voxels of a level that one layer may be away from several, and steps bring back."""


def next_start(layers: Layers, step: float, *, unknown: Mask | None = None) -> Layers:
    """What steps go on from on another level, or with other voxels: one layer if that can be, the affine part in the
    base.

    Args:
        step: distance of the voxels of the level, world units. unknown: see `in_one_layer`.
    """
    return in_one_layer(layers, _AWAY * step, unknown=unknown).rebased()


def in_one_layer(layers: Layers, away: float, *, unknown: Mask | None = None) -> Layers:
    """The layers as the current one alone, if that is one to one, and moves most of the image as they do but for less
    than `away`, world units; else as they are.

    Args:
        unknown: (*shape) true at voxels of the image whose motion shall continue that of the others.
    """
    if not layers.finished:
        return layers
    control = layers.control
    places = [BEYOND // 2 + np.arange(_PER_CELL * n + 1) / _PER_CELL for n in control.cells]
    motion, room = _motion(layers, places), room_at_border(control, ())
    values = [_values(place, n) for place, n in zip(places, control.shape, strict=True)]
    left_out = np.zeros(motion.shape[1:], bool) if unknown is None else _at(unknown, control, places)
    motion = _filled(motion, left_out, values)
    for smooth in _SMOOTH:
        found = within_room(along_axes([_least_squares(one, smooth) for one in values], motion), room)
        if is_one_to_one(control, found):
            left = np.linalg.norm(along_axes(values, found) - motion, axis=0)[~left_out]
            near = np.quantile(left, _PART) < away
            return replace(layers, finished=(), current=found, before=np.zeros_like(found)) if near else layers
    return layers


def _filled(motion: Floats, left_out: Mask, values: Sequence[Floats]) -> Floats:
    """The motion; where that is left out, it is what was fitted before, over and over."""
    for smooth in _SMOOTHER if left_out.any() else ():
        inverses = [_least_squares(one, smooth) for one in values]
        for _ in range(_FILLINGS):
            motion = np.where(left_out, along_axes(values, along_axes(inverses, motion)), motion)
    return motion


def _at(voxels: Mask, control: ControlGrid, places: Sequence[Floats]) -> Mask:
    """(*places) the voxels in which places are."""
    axes = zip(places, control.cells, voxels.shape, strict=True)
    index = [np.clip(((place - BEYOND // 2) / cells * n).astype(int), 0, n - 1) for place, cells, n in axes]
    return voxels[np.ix_(*index)]


def _motion(layers: Layers, places: Sequence[Floats]) -> Floats:
    """(D, *places) where all layers, without the base, move points to, along the axes of the image.

    Args:
        places: along each axis, in distances of control points from the first one.
    """
    control = layers.control
    points = control.grid.world(np.stack(np.meshgrid(*places, indexing="ij"), -1).reshape(-1, control.ndim))
    parts = [*layers.finished, (control, layers.current)]
    there = Composite.of(*(grid.field(coefficients) for grid, coefficients in parts))(points)
    moved = (there - points) @ control.image.direction_matrix
    return np.ascontiguousarray(moved.T).reshape(control.ndim, *(len(place) for place in places))


def _values(places: Floats, n: int) -> Floats:
    """(len(places), n) of the splines of n control points."""
    cells = np.clip(np.floor(places).astype(int), 1, n - 3)
    return in_rows(cubic_weights(places - cells)[0], cells - 1, n)


def _least_squares(values: Floats, smooth: float) -> Floats:
    """(n, len(places)) what gives the coefficients of an axis from the motion.

    They are smooth, and level beyond the image, where control points hardly reach into it.
    """
    n = values.shape[1]
    second, first = np.diff(np.eye(n), 2, axis=0), np.diff(np.eye(n), axis=0)[[0, 1, -2, -1]]
    square = values.T @ values + smooth * (second.T @ second + first.T @ first)
    return np.asarray(np.linalg.solve(square, values.T))
