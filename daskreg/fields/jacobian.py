"""How much a transform stretches space, as a lazy volume, and where it folds."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize
from numpy.typing import NDArray

from daskreg.errors import ShapeMismatchError
from daskreg.fields.transform import FieldTransform
from daskreg.geometry import Box, Grid, Transform
from daskreg.volumes import to_dataarray

Floats = NDArray[np.float64]

_CHUNK = {2: 1024, 3: 96}


def jacobian(transform: Transform, grid: Grid) -> xr.DataArray:
    """The determinant of the derivative of `transform` at each voxel of `grid`, lazy, float32.

    1 keeps volumes, 2 doubles them, 0 and less is a fold. Between the nodes of a linear field the derivative
    is that of its interpolation; at the nodes, that of the side of greater indices.

    Raises: ShapeMismatchError where the grid has another number of axes than what the transform warps.
    """
    if grid.ndim not in {transform.ndim, transform.array_ndim} or grid.ndim < transform.array_ndim:
        raise ShapeMismatchError(f"a grid of {transform.array_ndim} axes is needed, not {grid.ndim}")
    size = _CHUNK.get(grid.ndim, 64)
    chunks = da.core.normalize_chunks(tuple(min(n, size) for n in grid.shape), shape=grid.shape)
    starts = tuple(tuple(np.cumsum((0, *c))[:-1].tolist()) for c in chunks)

    def block(block_info: Any = None, block_id: tuple[int, ...] = ()) -> NDArray[np.float32]:
        del block_info
        start = tuple(s[i] for s, i in zip(starts, block_id, strict=True))
        shape = tuple(c[i] for c, i in zip(chunks, block_id, strict=True))
        return _determinants(transform, grid, Box(start, tuple(a + n for a, n in zip(start, shape, strict=True))))

    name = f"jacobian-{tokenize(transform, grid)}" if not isinstance(transform, FieldTransform) else None
    data = da.map_blocks(block, chunks=chunks, dtype=np.float32, meta=np.empty((0,) * grid.ndim, np.float32), name=name)
    return to_dataarray(data, grid, name="jacobian")


def folds(transform: Transform, grid: Grid) -> tuple[int, float]:
    """How many voxels of a grid lie where the transform folds (determinant 0 or less), and their share."""
    count = int((jacobian(transform, grid).data <= 0).sum().compute())
    return count, count / int(np.prod(grid.shape))


def _determinants(transform: Transform, grid: Grid, box: Box) -> NDArray[np.float32]:
    if not isinstance(transform, FieldTransform):
        found = np.linalg.det(transform.to_matrices())
        shape = (box.shape[0], *(1,) * (grid.ndim - 1))
        found = found[box.start[0] : box.stop[0]].reshape(shape) if found.ndim else found
        return np.broadcast_to(found, box.shape).astype(np.float32)
    index = np.moveaxis(np.indices(box.shape), 0, -1).reshape(-1, grid.ndim) + np.asarray(box.start)
    if transform.slices is None:
        return transform.determinants(grid.world(index)).reshape(box.shape).astype(np.float32)
    out = np.empty(box.shape, np.float32)
    axis = transform.axis if isinstance(transform.axis, int) else grid.names.index(str(transform.axis))
    inside = [k for k in range(grid.ndim) if k != axis]
    plane, part = grid.take(inside), box.take(inside)
    points = np.moveaxis(np.indices(part.shape), 0, -1).reshape(-1, plane.ndim) + np.asarray(part.start)
    for k in range(box.start[axis], box.stop[axis]):
        found = transform.determinants(plane.world(points), k).reshape(part.shape)
        np.moveaxis(out, axis, 0)[k - box.start[axis]] = found
    return out
