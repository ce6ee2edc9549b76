"""The voxels that differ from their neighbours along the last two axes (see `bad_voxels`)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.runtime.compiled import jit

# Values that tell how much most voxels differ.
_SAMPLE = 5_000
# Voxels whose neighbours are looked at together.
_TOGETHER = 2**16


def standing_out(image: NDArray[np.float32], medians: float) -> NDArray[np.intp]:
    """Flat indices of the voxels of a finite image whose difference from the mean of their four neighbours is large.

    Args:
        medians: the least difference, in medians of the differences of all voxels.
    """
    planes = np.ascontiguousarray(image).reshape(-1, *image.shape[-2:])
    width = planes.shape[-1]
    step = max(1, planes.size // _SAMPLE)
    flat = planes.ravel()
    inner = np.arange(width, flat.size - width, step)
    differences = flat[inner] - (flat[inner - 1] + flat[inner + 1] + flat[inner - width] + flat[inner + width]) / 4
    limit = medians * float(np.median(np.abs(differences)))
    out = np.zeros(planes.shape, np.uint8)
    _mark(planes, np.float32(4 * limit), out)
    return np.flatnonzero(out)


def alone(image: NDArray[np.float32], at: NDArray[np.intp]) -> NDArray[np.intp]:
    """Those of the voxels at flat indices that differ from nearly all neighbours, and not on one side as at an edge.

    At least six of eight neighbours differ to one side, and by more than half of the largest difference.
    """
    planes = np.ascontiguousarray(image).reshape(-1, *image.shape[-2:])
    parts = (at[k : k + _TOGETHER] for k in range(0, len(at), _TOGETHER))
    return np.concatenate([at[:0], *(part[_alone(planes, part)] for part in parts)])


def _alone(planes: NDArray[np.float32], at: NDArray[np.intp]) -> NDArray[np.bool_]:
    _, height, width = planes.shape
    z, y, x = np.unravel_index(at, planes.shape)
    values = planes[z, y, x]
    rows, columns = ([_mirrored(i + k, n) for k in (-1, 0, 1)] for i, n in ((y, height), (x, width)))
    with np.errstate(over="ignore", invalid="ignore"):
        beside = [(j, i) for j in range(3) for i in range(3) if (j, i) != (1, 1)]
        around = np.stack([values - planes[z, rows[j], columns[i]] for j, i in beside])
        largest = np.take_along_axis(around, np.abs(around).argmax(0)[None], 0)
        count = np.count_nonzero(around * largest > (largest * largest).astype(np.float64) / 2, axis=0)
    return np.asarray(count >= 6)


def _mirrored(index: NDArray[np.intp], n: int) -> NDArray[np.intp]:
    """Indices beyond an axis of n voxels, mirrored at its outermost voxels."""
    index = np.abs(index)
    return np.where(index < n, index, 2 * n - 2 - index)


@jit
def _mark(planes: Any, limit: Any, out: Any) -> None:
    depth, height, width = planes.shape
    last = width - 1
    for z in range(depth):
        for y in range(height):
            line, marks = planes[z, y], out[z, y]
            above = planes[z, y - 1 if y > 0 else 1]
            below = planes[z, y + 1 if y < height - 1 else height - 2]
            for x in range(1, last):
                marks[x] = abs(4 * line[x] - line[x - 1] - line[x + 1] - above[x] - below[x]) > limit
            marks[0] = abs(4 * line[0] - 2 * line[1] - above[0] - below[0]) > limit
            marks[last] = abs(4 * line[last] - 2 * line[last - 1] - above[last] - below[last]) > limit


def calls() -> list[tuple[Any, tuple[Any, ...]]]:
    """The kernels here that `register` needs, with arguments of the types that it calls them with."""
    planes = np.empty((0,) * 3, np.float32)
    return [(_mark, (planes, np.float32(0), planes.astype(np.uint8)))]
