"""The part of a mask that is connected with the border of the image, in compiled code (see `flat_borders`)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.runtime.compiled import fragment, jit


def connected_with_border(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The voxels of a mask of up to three axes that a path along the axes, inside the mask, connects with the border.

    A forward and a backward sweep propagate the connected voxels line by line, and reach all of a simple background;
    from there, flood fill reaches the rest. That takes a third of the time and a quarter of the memory
    of labelling every component of the mask.
    """
    planes = mask.reshape((1,) * (3 - mask.ndim) + mask.shape).view(np.uint8)
    marked = np.zeros_like(planes)
    for axis in range(3 - mask.ndim, 3):
        for end in (0, -1):
            side: Any = (slice(None),) * axis + (end,)
            marked[side] = planes[side]
    _sweep(planes, marked, 1)
    _sweep(planes, marked, -1)
    remaining = int(np.count_nonzero(planes)) - int(np.count_nonzero(marked))
    if remaining:
        _flood(planes, marked, np.empty((remaining, 3), np.int32))
    return marked.view(np.bool_).reshape(mask.shape)


@fragment
def _propagate(line: Any, target: Any, other: Any) -> None:
    for x in range(len(line)):
        target[x] |= line[x] & other[x]


@jit
def _sweep(mask: Any, marked: Any, step: int) -> None:
    """From each marked voxel to the next ones along the axes, in the order of a step of 1 or -1."""
    depth, height, width = mask.shape
    for i in range(depth):
        z = i if step > 0 else depth - 1 - i
        for j in range(height):
            y = j if step > 0 else height - 1 - j
            line, target = mask[z, y], marked[z, y]
            if i > 0:
                _propagate(line, target, marked[z - step, y])
            if j > 0:
                _propagate(line, target, marked[z, y - step])
            run = np.uint8(0)
            for k in range(width):
                x = k if step > 0 else width - 1 - k
                run = line[x] & (target[x] | run)
                target[x] = run


@fragment
def _push(mask: Any, marked: Any, stack: Any, count: int, voxel: Any) -> int:
    """Mark a voxel that is in the mask and not marked yet, and push it on the stack; returns the size of the stack."""
    z, y, x = voxel
    inside = 0 <= z < mask.shape[0] and 0 <= y < mask.shape[1] and 0 <= x < mask.shape[2]
    if not inside or marked[z, y, x] or not mask[z, y, x]:
        return count
    marked[z, y, x] = 1
    stack[count, 0], stack[count, 1], stack[count, 2] = z, y, x
    return count + 1


@fragment
def _push_neighbors(mask: Any, marked: Any, stack: Any, count: int, voxel: Any) -> int:
    z, y, x = voxel
    count = _push(mask, marked, stack, count, (z - 1, y, x))
    count = _push(mask, marked, stack, count, (z + 1, y, x))
    count = _push(mask, marked, stack, count, (z, y - 1, x))
    count = _push(mask, marked, stack, count, (z, y + 1, x))
    count = _push(mask, marked, stack, count, (z, y, x - 1))
    count = _push(mask, marked, stack, count, (z, y, x + 1))
    return count


@jit
def _flood(mask: Any, marked: Any, stack: Any) -> None:
    """Flood fill from every marked voxel; `stack` has room for all that are not marked."""
    depth, height, width = mask.shape
    for z in range(depth):
        for y in range(height):
            for x in range(width):
                if not mask[z, y, x] or marked[z, y, x]:
                    continue
                near = (x > 0 and marked[z, y, x - 1]) or (x + 1 < width and marked[z, y, x + 1])
                near = near or (y > 0 and marked[z, y - 1, x]) or (y + 1 < height and marked[z, y + 1, x])
                near = near or (z > 0 and marked[z - 1, y, x]) or (z + 1 < depth and marked[z + 1, y, x])
                count = _push(mask, marked, stack, 0, (z, y, x)) if near else 0
                while count > 0:
                    count -= 1
                    voxel = np.int64(stack[count, 0]), np.int64(stack[count, 1]), np.int64(stack[count, 2])
                    count = _push_neighbors(mask, marked, stack, count, voxel)
