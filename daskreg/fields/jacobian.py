"""How much a transform stretches space, as a lazy volume, and where it folds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import OptionError, ShapeMismatchError
from daskreg.fields.transform import FieldTransform
from daskreg.geometry import Box, Grid, SliceAffines, Transform, common_unit
from daskreg.geometry.slices import slice_position

if TYPE_CHECKING:
    import xarray as xr

Floats = NDArray[np.float64]

_CHUNK = {2: 1024, 3: 96}


def jacobian(transform: Transform, grid: Grid) -> xr.DataArray:
    """The determinant of the derivative of `transform` at each voxel of `grid`, lazy, float32.

    1 keeps volumes, 2 doubles them, 0 and less is a fold; infinite for an inverse where the field folds. Between the
    nodes of a linear field the derivative is that of its interpolation; at the nodes, that of the side of greater
    indices.

    Raises: ShapeMismatchError where the grid has another number of axes than what the transform warps; OptionError for
        what is no grid.
    """
    import dask.array as da
    from dask.base import tokenize

    from daskreg.volumes import to_dataarray

    if not isinstance(grid, Grid):
        raise OptionError(f"grid must be a Grid, such as dr.Grid(image.shape), not {type(grid).__name__}")
    if grid.ndim != transform.array_ndim:
        raise ShapeMismatchError(f"a grid of {transform.array_ndim} axes is needed, not {grid.ndim}")
    common_unit(grid.unit, transform.unit, "transform and grid")
    if (sliced := _slices(transform, grid)) is not None and sliced[1] != grid.shape[sliced[0]]:
        raise ShapeMismatchError(f"the transform has {sliced[1]} slices, the grid {grid.shape[sliced[0]]}")
    size = _CHUNK.get(grid.ndim, 64)
    chunks = da.core.normalize_chunks(tuple(min(n, size) for n in grid.shape), shape=grid.shape)
    starts = tuple(tuple(np.cumsum((0, *c))[:-1].tolist()) for c in chunks)

    def block(block_info: Any = None, block_id: tuple[int, ...] = ()) -> NDArray[np.float32]:
        del block_info
        start = tuple(s[i] for s, i in zip(starts, block_id, strict=True))
        shape = tuple(c[i] for c, i in zip(chunks, block_id, strict=True))
        return determinants_in(transform, grid, Box(start, tuple(a + n for a, n in zip(start, shape, strict=True))))

    name = f"jacobian-{tokenize(transform, grid)}" if not isinstance(transform, FieldTransform) else None
    data = da.map_blocks(block, chunks=chunks, dtype=np.float32, meta=np.empty((0,) * grid.ndim, np.float32), name=name)
    return to_dataarray(data, grid, name="jacobian")


def folds(transform: Transform, grid: Grid) -> tuple[int, float]:
    """How many voxels of a grid lie where the transform folds (determinant 0 or less), and their share."""
    count = int((jacobian(transform, grid).data <= 0).sum().compute())
    return count, count / int(np.prod(grid.shape))


def determinants_in(transform: Transform, grid: Grid, box: Box) -> NDArray[np.float32]:
    """(*box.shape) determinants of the derivative at the voxels of a box of a grid; see `jacobian`."""
    sliced = _slices(transform, grid)
    if not isinstance(transform, FieldTransform):
        found, shape = np.linalg.det(transform.to_matrices()), [1] * grid.ndim
        if sliced is not None:
            shape[sliced[0]] = box.shape[sliced[0]]
            found = found[box.start[sliced[0]] : box.stop[sliced[0]]].reshape(shape)
        return np.broadcast_to(found, box.shape).astype(np.float32)
    if sliced is None:
        return transform.stretch(grid, box).astype(np.float32)
    axis = sliced[0]
    out = np.empty(box.shape, np.float32)
    inside = [k for k in range(grid.ndim) if k != axis]
    plane, part = grid.take(inside), box.take(inside)
    for k in range(box.start[axis], box.stop[axis]):
        np.moveaxis(out, axis, 0)[k - box.start[axis]] = transform.stretch(plane, part, k)
    return out


def _slices(transform: Transform, grid: Grid) -> tuple[int, int] | None:
    """The axis of a grid along which slices have maps of their own, and how many they are."""
    if isinstance(transform, SliceAffines):
        return slice_position(transform, grid.names, grid.names), len(transform)
    if isinstance(transform, FieldTransform) and transform.slices is not None:
        return slice_position(transform, grid.names, grid.names), transform.slices
    return None
