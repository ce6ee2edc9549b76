"""`sample`: one affine view of a block of voxels, for arrays and for tensors.

It means `scipy.ndimage.affine_transform(mode="grid-constant", cval=fill)` of the whole
source, of which the block holds the part that the output needs.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import InvalidTransformError, OptionError, ShapeMismatchError, UnsupportedDTypeError
from daskreg.geometry import Box
from daskreg.kernels.casting import cast

Floats = NDArray[np.float64]

# The spline's prefilter forgets as 0.268 ** n, and its support reaches one voxel further
# than that of linear sampling.
_HALO = {0: 0, 1: 0}


def halo(order: int) -> int:
    """How many voxels beyond those of linear sampling a block must hold: `touched_box(..., margin)`.

    Raises: OptionError for an order other than 0, 1, 3.
    """
    if order not in _HALO:
        raise OptionError(f"order={order!r} is not known: use 0 (nearest) or 1 (linear)")
    return _HALO[order]


def sample(
    block: Any,
    read_box: Box,
    matrix: Any,
    out_box: Box,
    *,
    order: int = 1,
    fill: float = 0.0,
    out: Any = None,
    parallel: bool = False,
) -> Any:
    """The voxels of `out_box`, each taken from the source at `matrix` times its index.

    Args:
        block: (*batch, *read_box.shape), the voxels of the source inside `read_box`; an
            array, or a tensor, which is sampled where it lies, differentiably.
        read_box: where the block lies in the source; everything outside of it is fill.
        matrix: (D+1, D+1) float64, array order, from absolute indices of the output to
            fractional absolute indices of the source. For tensors also a tensor, or
            (B, D+1, D+1) with a block of (B, *read_box.shape).
        out_box: absolute indices of the output.
        order: 0 nearest, floor(x + 0.5), always for bool; 1 linear; 3 cubic spline.
        fill: value outside of the source; for integers it is rounded and clamped.
        out: array to write into, of the shape and type of the result.
        parallel: use several threads for this one call (arrays).

    Returns: (*batch, *out_box.shape), of the block's type; integers half to even, clamped.
        For orders 0 and 1 a neighbour of weight zero is never looked at, so a NaN stays
        where it was, and results of arrays do not depend on how the output is cut.
    Raises: ShapeMismatchError, OptionError, InvalidTransformError, UnsupportedDTypeError.
    """
    halo(order)
    if _is_tensor(block):
        from daskreg.kernels.sample_torch import sample_tensor

        result = sample_tensor(block, read_box, matrix, out_box, order=order, fill=fill)
        return result if out is None else out.copy_(result)
    block = np.asarray(block)
    matrix = _checked(block, read_box, matrix, out_box)
    native = block.dtype.newbyteorder("=")
    shape = (*block.shape[: block.ndim - read_box.ndim], *out_box.shape)
    if out is None:
        out = np.empty(shape, native)
    elif not isinstance(out, np.ndarray) or out.shape != shape or out.dtype != native:
        raise ShapeMismatchError(f"out must be an array of shape {shape} and type {native}")
    _sample_array(block, read_box, matrix, out_box, out, order=order, fill=fill, parallel=parallel)
    return out


def _is_tensor(value: Any) -> bool:
    """Whether it is a tensor, without importing torch where nobody has."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _checked(block: NDArray[Any], read_box: Box, matrix: Any, out_box: Box) -> Floats:
    ndim = read_box.ndim
    if out_box.ndim != ndim or block.shape[block.ndim - ndim :] != read_box.shape or block.ndim < ndim:
        raise ShapeMismatchError(
            f"a block of shape {block.shape} does not fit the read box {read_box!r} and the output box {out_box!r}"
        )
    if block.dtype.kind not in "biuf" or block.dtype.itemsize > 8:
        raise UnsupportedDTypeError(f"voxels of type {block.dtype} cannot be sampled: convert them to real numbers")
    m = np.asarray(matrix, dtype=np.float64)
    if m.shape != (ndim + 1, ndim + 1):
        raise InvalidTransformError(f"a matrix of shape {(ndim + 1, ndim + 1)} is needed, not {m.shape}")
    if not np.all(np.isfinite(m)):
        raise InvalidTransformError("the matrix holds NaN or infinity")
    return m


def _sample_array(
    block: NDArray[Any],
    read_box: Box,
    matrix: Floats,
    out_box: Box,
    out: NDArray[Any],
    *,
    order: int,
    fill: float,
    parallel: bool,
) -> None:
    if out.size == 0:
        return
    value = _fill_value(fill, out.dtype)
    shift = whole_shift(matrix)
    if read_box.empty:
        out[...] = value
    elif shift is not None:
        if out_box.shift(shift) not in read_box:
            out[...] = value
        _copy(block, read_box, shift, out_box, out)
    elif block.dtype.kind == "b":
        _sample_array(
            block.view(np.uint8), read_box, matrix, out_box, out.view(np.uint8), order=0, fill=value, parallel=parallel
        )
    elif block.dtype == np.float16:
        wide = np.empty(out.shape, np.float32)
        _sample_array(
            block.astype(np.float32), read_box, matrix, out_box, wide, order=order, fill=fill, parallel=parallel
        )
        out[...] = wide
    else:
        from daskreg.kernels.sample_numba import sample_rows

        ready = np.ascontiguousarray(block, dtype=out.dtype)
        target = out if out.flags.c_contiguous else np.empty(out.shape, out.dtype)
        sample_rows(ready, read_box, matrix, out_box, target, order=order, fill=value, parallel=parallel)
        if target is not out:
            out[...] = target


def whole_shift(matrix: Floats) -> tuple[int, ...] | None:
    """The offset of a translation by whole voxels; None for any other matrix."""
    offset = matrix[:-1, -1]
    if not np.array_equal(matrix[:-1, :-1], np.eye(len(offset))) or not np.array_equal(offset, np.rint(offset)):
        return None
    return tuple(int(t) for t in offset)


def _copy(block: Any, read_box: Box, shift: tuple[int, ...], out_box: Box, out: Any) -> None:
    """A translation by whole voxels, in any number of dimensions, where the block has something."""
    found = out_box.shift(shift) & read_box
    if not found.empty:
        into = found.shift([-t for t in shift]).within(out_box)
        out[(..., *into.slices)] = block[(..., *found.within(read_box).slices)]


def _fill_value(fill: float, dtype: np.dtype[Any]) -> Any:
    """The fill as a voxel."""
    return cast(np.asarray(fill).reshape(1), dtype)[0][0]
