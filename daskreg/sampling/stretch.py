"""How much displacements stretch space at the voxels of a box.

A voxel grid along the axes of the nodes of cubic B-splines needs no sums over the 64 nodes around each voxel: splines
are products over the axes, so that the field and its derivatives follow from products of matrices, axis by axis.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from daskreg.geometry import Box
from daskreg.sampling.displacements import Displaced
from daskreg.sampling.spline_weights import along_axes, cubic_weights, in_rows

Floats = NDArray[np.float64]

_AT_ONCE = 1 << 15
"""Voxels whose derivatives stay in the cache of a core."""
_DENSEST = 0.5
"""Nodes from one voxel to the next: where they are denser, each row of the matrices is mostly zeros."""


def stretch(path: Displaced, box: Box) -> Floats:
    """(*box.shape) determinants of the derivative by the index, at the indices of a box."""
    first = path.steps[0]
    across = first.across
    scale = np.diag(across)[:-1]
    aligned = first.order == 3 and not first.inverse and np.array_equal(across[:-1, :-1], np.diag(scale))
    held = Box(first.start, tuple(np.add(first.start, first.vectors.shape[1:])))
    if not aligned or np.abs(scale).max() > _DENSEST or _nodes(across, box) not in held:
        index = np.moveaxis(np.indices(box.shape, np.float64), 0, -1).reshape(-1, box.ndim) + np.asarray(box.start)
        return path.determinants(index).reshape(box.shape)
    out = np.empty(box.shape)
    affine = np.linalg.det(first.onward) * np.linalg.det(first.into)
    vectors = np.tensordot(first.nodes[:-1, :-1], np.asarray(first.vectors, np.float64), axes=1)
    for part in _parts(box):
        nodes = _nodes(across, part)
        around = vectors[:, *nodes.within(held).slices]
        weights = [_weights(across, axis, part, nodes) for axis in range(box.ndim)]
        found = affine * _determinants(around, weights)
        if path.steps[1:]:
            way = along_axes([values for values, _ in weights], around)
            moved = np.indices(part.shape, np.float64) + np.reshape(part.start, (-1, *(1,) * part.ndim))
            world = _mapped(first.into, moved) + np.tensordot(np.linalg.inv(first.nodes[:-1, :-1]), way, axes=1)
            points = np.moveaxis(_mapped(first.onward, world), 0, -1).reshape(-1, box.ndim)
            found *= Displaced(path.steps[1:]).determinants(points).reshape(part.shape)
        out[part.within(box).slices] = found
    return out


def _nodes(across: Floats, box: Box) -> Box:
    """The nodes around the voxels of a box."""
    ends = np.array([box.start, np.asarray(box.stop) - 1.0]) * np.diag(across)[:-1] + across[:-1, -1]
    return Box(tuple(np.floor(ends.min(axis=0)) - 1), tuple(np.floor(ends.max(axis=0)) + 3))


def _parts(box: Box) -> Iterator[Box]:
    """The box in pieces of few voxels."""
    stack = [box]
    while stack:
        one = stack.pop()
        longest = max(range(one.ndim), key=lambda k: one.shape[k])
        if one.size <= _AT_ONCE or one.shape[longest] < 2:
            yield one
            continue
        middle = (one.start[longest] + one.stop[longest]) // 2
        for a, b in ((one.start[longest], middle), (middle, one.stop[longest])):
            stack.append(
                Box(
                    (*one.start[:longest], a, *one.start[longest + 1 :]),
                    (*one.stop[:longest], b, *one.stop[longest + 1 :]),
                )
            )


def _weights(across: Floats, axis: int, box: Box, nodes: Box) -> tuple[Floats, Floats]:
    """(n, nodes) weights of the nodes for each voxel along an axis, and their derivatives by the node."""
    place = across[axis, axis] * np.arange(box.start[axis], box.stop[axis]) + across[axis, -1]
    node = np.floor(place)
    first = node.astype(int) - 1 - nodes.start[axis]
    weights, slopes = cubic_weights(place - node)
    return in_rows(weights, first, nodes.shape[axis]), in_rows(slopes, first, nodes.shape[axis])


def _determinants(vectors: Floats, weights: list[tuple[Floats, Floats]]) -> Floats:
    """(*shape) of 1 + du/dp, in nodes."""
    ndim = len(vectors)
    # columns[b][a]: the derivative of component a along axis b.
    columns = [along_axes([w[int(k == b)] for k, w in enumerate(weights)], vectors) for b in range(ndim)]
    for axis, column in enumerate(columns):
        column[axis] += 1
    if ndim == 2:
        return np.asarray(columns[0][0] * columns[1][1] - columns[0][1] * columns[1][0])
    a, b, c = columns
    found = a[0] * (b[1] * c[2] - b[2] * c[1])
    found += a[1] * (b[2] * c[0] - b[0] * c[2])
    found += a[2] * (b[0] * c[1] - b[1] * c[0])
    return np.asarray(found)


def _mapped(matrix: Floats, points: Floats) -> Floats:
    """(D, *shape) points, by an affine matrix."""
    offset = matrix[:-1, -1].reshape(-1, *(1,) * (points.ndim - 1))
    return np.asarray(np.tensordot(matrix[:-1, :-1], points, axes=1) + offset)
