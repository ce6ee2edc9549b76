"""When a layer of cubic B-splines is one to one, from its coefficients alone.

A map p + u(p) of a convex domain is one to one where the symmetric part of its derivative is positive definite
everywhere: then (q - p) . (q + u(q) - p - u(p)) > 0 for all p and q. Slopes of u are means of the differences between
neighbouring coefficients, so bounds of these, cell by cell, bound the eigenvalues. Bounds become narrow for
coefficients of the same field at half the distances. So smooth motions may be large, while small ones may be as rough
as they like: below `LARGEST` distances of control points they are one to one (Choi & Lee 2000).

No coefficient exceeds one distance of control points. So a layer moves points that are farther than that from the
border of the image not over it. What layers move the others over it is bounded by their coefficients near it: by these,
all layers together move no point of the image beyond where the control points of another layer reach.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from daskreg.registration.deformable.splines.control_grid import LARGEST, REACH, ControlGrid, subdivided

Floats = NDArray[np.float64]

_LEAST = 0.05
"""Of the eigenvalues of the symmetric part."""
_AT_ONCE = 2048
"""Cells that are known only by halves of them, and take 5 kB each in volumes."""
_HALVINGS, _MOST_HALVINGS = 6, 20
"""Of a step; more until some of it can be made."""
_ROOM = 0.999
"""Of the distance of control points, that layers may lead points over the border: rounding leads none farther."""
_SIDES = slice(None, 5), slice(-5, None)
"""Control points that carry the outermost cell of the image and the cell beyond it."""


def is_one_to_one(control: ControlGrid, coefficients: Floats) -> bool:
    """Whether this is known of a layer with the coefficients (D, *nodes)."""
    ndim, spacing = control.ndim, np.asarray(control.spacing)
    sizes = np.abs(coefficients) / spacing.reshape(-1, *[1] * ndim)
    if sizes.max() <= LARGEST[ndim]:
        return True
    if sizes.max() > 1:
        return False
    left = np.argwhere(~_definite(coefficients, spacing))
    # Some at a time: each takes its own control points, and where one folds the others do not matter.
    return all(
        bool(np.all(_definite(_halved(coefficients, left[first : first + _AT_ONCE]), spacing / 2)))
        for first in range(0, len(left), _AT_ONCE)
    )


def share_of_step(control: ControlGrid, coefficients: Floats, step: Floats) -> float:
    """How much of a step can be made: 1, or about the largest share after which the layer is one to one."""
    if is_one_to_one(control, coefficients + step):
        return 1.0
    low, high = 0.0, 1.0
    for number in range(_MOST_HALVINGS):
        if number >= _HALVINGS and low > 0:
            break
        share = (low + high) / 2
        low, high = (share, high) if is_one_to_one(control, coefficients + share * step) else (low, share)
    return low


def room_at_border(control: ControlGrid, finished: Sequence[tuple[ControlGrid, Floats]]) -> Floats:
    """(D,) how much a layer that is applied before the finished ones may move points over the border, world units.

    The last finished one is applied first of them.
    """
    room, moved = _ROOM * np.asarray(control.spacing), np.zeros(control.ndim)
    for grid, coefficients in reversed(finished):
        room = np.minimum(room, _ROOM * np.asarray(grid.spacing) - moved)
        moved = moved + [
            np.abs(np.concatenate([_part(one, axis, side) for side in _SIDES], axis=axis)).max()
            for axis, one in enumerate(coefficients)
        ]
    return np.asarray(np.maximum(room, 0))


def within_room(coefficients: Floats, room: Floats) -> Floats:
    """The coefficients, of which those near the border move nothing over it by more than `room`."""
    found = coefficients.copy()
    for axis, one in enumerate(found):
        for side in _SIDES:
            part = _part(one, axis, side)
            np.clip(part, -room[axis], room[axis], out=part)
    return found


def _part(nodes: Floats, axis: int, side: slice) -> Floats:
    return nodes[(*(slice(None),) * axis, side)]


def _halved(coefficients: Floats, cells: NDArray[np.int64]) -> Floats:
    """(D, *nodes, N) the fields of N cells, (N, D) numbers, at half the distances of control points."""
    axes = tuple(range(1, len(coefficients) + 1))
    windows = np.lib.stride_tricks.sliding_window_view(coefficients, (REACH + 1,) * len(axes), axes)
    found: Floats = np.moveaxis(windows[(slice(None), *cells.T)], 1, -1)
    for axis in axes:
        found = subdivided(found, axis)
    return found


def _definite(coefficients: Floats, spacing: Floats) -> NDArray[np.bool_]:
    """(*cells, ...) whether no eigenvalue of the symmetric part of the derivative is less than `_LEAST` in a cell.

    Its entries are between bounds. The eigenvalues differ from those of the middles of these by no more than the
    greatest sum of a row of their half widths.

    Args:
        coefficients: (D, *nodes, ...).
    """
    ndim = len(coefficients)
    ends = [[_ends(np.diff(one, axis=b) / spacing[b], b, ndim) for b in range(ndim)] for one in coefficients]
    low, high = ([[(ends[a][b][k] + ends[b][a][k]) / 2 for b in range(ndim)] for a in range(ndim)] for k in (0, 1))
    middle = [[(low[a][b] + high[a][b]) / 2 for b in range(ndim)] for a in range(ndim)]
    away = np.max(np.sum(np.subtract(high, low), axis=1), axis=0) / 2
    for a in range(ndim):
        middle[a][a] = middle[a][a] + 1 - _LEAST - away
    return np.asarray(np.logical_and.reduce([minor > 0 for minor in _leading_minors(middle)]))


def _leading_minors(m: list[list[Floats]]) -> list[Floats]:
    """Of symmetric matrices: all are positive if and only if a matrix is definite."""
    two = m[0][0] * m[1][1] - m[0][1] ** 2
    if len(m) == 2:
        return [m[0][0], two]
    three = m[2][2] * two - m[0][0] * m[1][2] ** 2 - m[1][1] * m[0][2] ** 2 + 2 * m[0][1] * m[1][2] * m[0][2]
    return [m[0][0], two, three]


def _ends(values: Floats, axis: int, ndim: int) -> tuple[Floats, Floats]:
    """Least and greatest of what counts for each cell: four neighbours along an axis, three differences along one."""
    low = high = values
    for a in range(ndim):
        width = REACH if a == axis else REACH + 1
        n = values.shape[a] - width + 1
        cut = [(*(slice(None),) * a, slice(k, k + n)) for k in range(width)]
        low, high = np.minimum.reduce([low[c] for c in cut]), np.maximum.reduce([high[c] for c in cut])
    return low, high
