"""What of a mask is connected to its border, in compiled code: see `kernels.flat`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.runtime.compiled import jit


def from_border(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The voxels of a mask of up to three axes that a way along its axes, inside of it, connects with the border.

    A sweep forth and one back carry what is known on, line by line, and reach all of a plain background;
    what is left behind corners is then flooded from there. That takes a third of the time and a quarter of the memory
    of numbering every part of the mask.
    """
    planes = mask.reshape((1,) * (3 - mask.ndim) + mask.shape).view(np.uint8)
    seen = np.zeros_like(planes)
    for axis in range(3 - mask.ndim, 3):
        for end in (0, -1):
            side: Any = (slice(None),) * axis + (end,)
            seen[side] = planes[side]
    _sweep(planes, seen, 1)
    _sweep(planes, seen, -1)
    left = int(np.count_nonzero(planes)) - int(np.count_nonzero(seen))
    if left:
        _flood(planes, seen, np.empty((left, 3), np.int32))
    return seen.view(np.bool_).reshape(mask.shape)


@jit
def _carry(line: Any, known: Any, other: Any) -> None:
    for x in range(len(line)):
        known[x] |= line[x] & other[x]


@jit
def _sweep(mask: Any, seen: Any, step: int) -> None:
    """From each voxel to the next ones along the axes, in the order of a step of 1 or -1."""
    depth, height, width = mask.shape
    for i in range(depth):
        z = i if step > 0 else depth - 1 - i
        for j in range(height):
            y = j if step > 0 else height - 1 - j
            line, known = mask[z, y], seen[z, y]
            if i > 0:
                _carry(line, known, seen[z - step, y])
            if j > 0:
                _carry(line, known, seen[z, y - step])
            run = np.uint8(0)
            for k in range(width):
                x = k if step > 0 else width - 1 - k
                run = line[x] & (known[x] | run)
                known[x] = run


@jit
def _add(mask: Any, seen: Any, stack: Any, count: int, place: Any) -> int:
    """See a voxel, if it is one of the mask and new, and keep it for later; how many are kept."""
    z, y, x = place
    inside = 0 <= z < mask.shape[0] and 0 <= y < mask.shape[1] and 0 <= x < mask.shape[2]
    if not inside or seen[z, y, x] or not mask[z, y, x]:
        return count
    seen[z, y, x] = 1
    stack[count, 0], stack[count, 1], stack[count, 2] = z, y, x
    return count + 1


@jit
def _around(mask: Any, seen: Any, stack: Any, count: int, place: Any) -> int:
    z, y, x = place
    count = _add(mask, seen, stack, count, (z - 1, y, x))
    count = _add(mask, seen, stack, count, (z + 1, y, x))
    count = _add(mask, seen, stack, count, (z, y - 1, x))
    count = _add(mask, seen, stack, count, (z, y + 1, x))
    count = _add(mask, seen, stack, count, (z, y, x - 1))
    count = _add(mask, seen, stack, count, (z, y, x + 1))
    return count


@jit
def _flood(mask: Any, seen: Any, stack: Any) -> None:
    """On from every voxel that was seen; `stack` has room for all that were not."""
    depth, height, width = mask.shape
    for z in range(depth):
        for y in range(height):
            for x in range(width):
                if not mask[z, y, x] or seen[z, y, x]:
                    continue
                near = (x > 0 and seen[z, y, x - 1]) or (x + 1 < width and seen[z, y, x + 1])
                near = near or (y > 0 and seen[z, y - 1, x]) or (y + 1 < height and seen[z, y + 1, x])
                near = near or (z > 0 and seen[z - 1, y, x]) or (z + 1 < depth and seen[z + 1, y, x])
                count = _add(mask, seen, stack, 0, (z, y, x)) if near else 0
                while count > 0:
                    count -= 1
                    place = np.int64(stack[count, 0]), np.int64(stack[count, 1]), np.int64(stack[count, 2])
                    count = _around(mask, seen, stack, count, place)
