"""Warns where a field folds whose inverse is used: there it has none."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import FoldWarning
from daskreg.fields.chain import FieldPart, NodeBoxes, displacement_of, follow, steps_of
from daskreg.sampling.displacements import Displaced

Floats = NDArray[np.float64]

_MOST_POINTS = 2**19  # at which a field is looked at: fewer than all nodes only of large fields
_MOST_SLICES = 32
_SIDE = {2: 512, 3: 64}  # nodes along each side of the part that is read at once
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
        stride = max(1, math.ceil((box.size * len(numbers) / _MOST_POINTS) ** (1 / box.ndim)))
        step = steps_of([forward], part.grid.matrix, part.grid.inverse_matrix)[0]
        for points in _points(box.start, box.stop, stride):
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


def _points(start: Sequence[int], stop: Sequence[int], stride: int) -> list[Floats]:
    """Node coordinates (N, D) in parts of a box: every `stride`-th node, and half way to the next."""
    side = _SIDE[len(start)]
    sides = [np.arange(a, b, stride, dtype=float) for a, b in zip(start, stop, strict=True)]
    step = max(1, side // stride)
    parts = []
    for first in product(*(range(0, len(line), step) for line in sides)):
        lines = [line[k : k + step] for line, k in zip(sides, first, strict=True)]
        nodes = np.stack(np.meshgrid(*lines, indexing="ij"), -1).reshape(-1, len(lines))
        parts.append(np.concatenate([nodes + way for way in _WITHIN_CELL]))
    return parts
