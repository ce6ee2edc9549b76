"""Warns where a field folds whose inverse is used: there it has none."""

from __future__ import annotations

import warnings
from dataclasses import replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import FoldWarning
from daskreg.fields.chain import FieldPart, NodeBoxes, displacement_of, follow, steps_of
from daskreg.geometry import Box
from daskreg.sampling.displacements import Displaced

Floats = NDArray[np.float64]

_MOST_POINTS = 2**20  # at which a field is looked at: all nodes and cells only of smaller fields
_MOST_SLICES = 32
_SIDE = {2: 128, 3: 24}  # nodes along each side of the part that is read at once
_WITHIN_CELL = (0.0, 0.5)  # where between two nodes it is looked at; linear fields are steepest beside the nodes


def warn_of_folds(part: FieldPart, nodes: NodeBoxes) -> None:
    """Warn (FoldWarning) where a field folds among the nodes that are read; large fields are looked at in part.

    Args:
        part: a field that is used inversely.
        nodes: for each slice.
    """
    forward = replace(part, inverse=False)
    numbers = np.unique(np.linspace(0, len(nodes.start) - 1, min(len(nodes.start), _MOST_SLICES)).round().astype(int))
    if not part.sliced:
        numbers = numbers[:1]
    count = folded = 0
    worst, place, where = np.inf, np.zeros(part.grid.ndim), 0
    for number in numbers.tolist():
        box = nodes.box(number) if part.sliced else nodes.union
        if box.empty:
            continue
        step = steps_of([forward], part.grid.matrix, part.grid.inverse_matrix)[0]
        for points in map(_points, _parts(box, _MOST_POINTS // len(numbers))):
            _, _, boxes = follow([step], range(number, number + 1), points.min(axis=0), points.max(axis=0))
            found = Displaced((displacement_of(step, number, boxes[0].box(0)),)).determinants(points)
            count, folded = count + len(found), folded + int(np.sum(found <= 0))
            if found.min() < worst:
                worst, place, where = float(found.min()), points[found.argmin()], number
    if folded:
        at = ", ".join(f"{v:.4g}" for v in part.grid.world(place))
        slice_text = f" of slice {part.first + where}" if part.sliced else ""
        warnings.warn(
            f"the displacement field {part.source.path} folds at {folded / count:.2g} of the {count} points that were "
            f"looked at, most at ({at}) {part.grid.unit}{slice_text} (det J {worst:.3g}): it has no inverse there, and "
            "voxels take one of several points, or a wrong one; t.folds(grid) counts them",
            FoldWarning,
            stacklevel=2,
        )


def _parts(box: Box, most_points: int) -> list[Box]:
    """Boxes that divide a box: all of them, or some all over it, if there are more points than that in all."""
    side = _SIDE[box.ndim]
    starts = list(product(*(range(a, b, side) for a, b in zip(box.start, box.stop, strict=True))))
    most = max(1, most_points // (len(_WITHIN_CELL) * side**box.ndim))
    chosen = np.unique(np.linspace(0, len(starts) - 1, min(len(starts), most)).round().astype(int)).tolist()
    return [Box(starts[k], tuple(a + side for a in starts[k])) & box for k in chosen]


def _points(box: Box) -> Floats:
    """(N, D) coordinates of the nodes of a box, and of the places half way to the next ones."""
    nodes = np.stack(np.meshgrid(*map(np.arange, box.start, box.stop), indexing="ij"), -1).reshape(-1, box.ndim)
    return np.concatenate([nodes + way for way in _WITHIN_CELL])
