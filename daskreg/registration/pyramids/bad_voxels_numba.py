"""The voxels that differ from their neighbours along the last two axes (see `bad_voxels`)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.runtime.compiled import jit

# Values that tell how much most voxels differ.
_SAMPLE = 5_000


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
