"""`sample`: a block of voxels sampled through an affine matrix or displacements, for arrays and for tensors.

The result is that of `scipy.ndimage.affine_transform(mode="grid-constant", cval=fill)` of the whole
source; the block holds the part of the source that the output needs.
"""

from __future__ import annotations

import sys
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import InvalidTransformError, OptionError, ShapeMismatchError, UnsupportedDTypeError
from daskreg.geometry import Box
from daskreg.sampling.arrays import CUBIC_REACH, SampleSpec, Spline, sample_into
from daskreg.sampling.cast import cast
from daskreg.sampling.displacements import Displaced

Floats = NDArray[np.float64]

_HALO = {0: 0, 1: 0, 3: CUBIC_REACH}


def halo(order: int) -> int:
    """How many voxels beyond those of linear sampling a block must hold: `touched_box(..., margin)`.

    Raises: OptionError for an order other than 0, 1, 3.
    """
    if order not in _HALO:
        raise OptionError(f"order={order!r} is not known: use 0 (nearest), 1 (linear) or 3 (cubic spline)")
    return _HALO[order]


def sample(
    block: Any,
    read_box: Box,
    matrix: Any,
    out_box: Box,
    *,
    order: int = 1,
    fill: float = 0.0,
    edge: str = "fill",
    out: Any = None,
    parallel: bool = False,
    spline: Spline | None = None,
) -> Any:
    """The voxels of `out_box`, each taken from the source at `matrix` times its index.

    Args:
        block: (*batch, *read_box.shape), the voxels of the source inside `read_box`; an
            array, or a tensor, which is sampled where it lies, differentiably (on a CPU, and
            if no gradient is wanted, as an array).
        read_box: where the block lies in the source; everything outside of it is fill.
        matrix: (D+1, D+1) float64, array order, from absolute indices of the output to
            fractional absolute indices of the source; or `Displaced`, a path through displacement fields.
            For tensors also a tensor, or (B, D+1, D+1) with a block of (B, *read_box.shape).
        out_box: absolute indices of the output.
        order: 0 nearest, floor(x + 0.5), always for bool; 1 linear; 3 cubic spline.
        fill: value outside of the source; for integers it is rounded and clamped.
        edge: "fill" mixes the outermost voxels with the fill around them; "clamp" gives the outer half of them their
            own value, up to their faces, as ITK does. For order 3 the voxels around are then those repeated.
        out: array to write into, of the shape and type of the result.
        parallel: use several threads for this one call (arrays).
        spline: for order 3 and edge "fill", what `spline_of` made of the block with the same fill (arrays).

    Returns: (*batch, *out_box.shape), of the block's type; integers half to even, clamped.
        A neighbour of weight zero is not used, so a voxel that is not finite stays where it was: for order 1 its value,
        for order 3 NaN where it is one of the four voxels around the point along each axis. Every run of finite
        voxels along an axis is then interpolated on its own, as if it were mirrored at its ends. Results of arrays do
        not depend on how the output is cut; those of order 3 to 1e-6 of the range.
    Raises: ShapeMismatchError, OptionError, InvalidTransformError, UnsupportedDTypeError.
    """
    halo(order)  # raises for other orders
    clamp = clamps(edge)
    if clamp and spline is not None:
        raise OptionError('spline= is for edge="fill": its coefficients are those of other voxels around the block')
    if _is_tensor(block):
        from daskreg.sampling import tensors

        if tensors.is_plain(block, matrix):
            array, m = tensors.as_arrays(block, matrix)
            found = sample(array, read_box, m, out_box, order=order, fill=fill, edge=edge, parallel=parallel)
            result = tensors.as_tensor(found)
        else:
            result = tensors.sample_tensor(block, read_box, matrix, out_box, order=order, fill=fill, clamp=clamp)
        return result if out is None else out.copy_(result)
    block = np.asarray(block)
    matrix = _checked(block, read_box, matrix, out_box)
    native = block.dtype.newbyteorder("=")
    shape = (*block.shape[: block.ndim - read_box.ndim], *out_box.shape)
    if out is None:
        out = np.empty(shape, native)
    elif not isinstance(out, np.ndarray) or out.shape != shape or out.dtype != native:
        raise ShapeMismatchError(f"out must be an array of shape {shape} and type {native}")
    if out.size == 0:
        return out
    voxel = _fill_value(fill, native)
    if native.kind == "b":
        spec = SampleSpec(read_box, matrix, out_box, 0, np.uint8(voxel), parallel)
        sample_into(out.view(np.uint8), block.view(np.uint8), spec)
    else:
        spec = SampleSpec(read_box, matrix, out_box, order, voxel, parallel, clamp, spline)
        sample_into(out, block.astype(native, copy=False), spec)
    return out


def clamps(edge: str) -> bool:
    """Whether an edge is "clamp".

    Raises: OptionError for one that is neither "fill" nor "clamp".
    """
    if edge not in ("fill", "clamp"):
        raise OptionError(f"edge={edge!r}: use 'fill' or 'clamp'")
    return edge == "clamp"


def _is_tensor(value: Any) -> bool:
    """Whether it is a tensor, without importing torch: where it is not imported there are no tensors."""
    # A module that another thread is importing has no Tensor yet, and no caller can have one.
    tensor_type = getattr(sys.modules.get("torch"), "Tensor", None)
    return tensor_type is not None and isinstance(value, tensor_type)


def _checked(block: NDArray[Any], read_box: Box, matrix: Any, out_box: Box) -> Floats | Displaced:
    ndim = read_box.ndim
    if out_box.ndim != ndim or block.shape[block.ndim - ndim :] != read_box.shape or block.ndim < ndim:
        raise ShapeMismatchError(
            f"a block of shape {block.shape} does not fit the read box {read_box!r} and the output box {out_box!r}"
        )
    if block.dtype.kind not in "biuf" or block.dtype.itemsize > 8:
        raise UnsupportedDTypeError(f"voxels of type {block.dtype} cannot be sampled: convert them to real numbers")
    if isinstance(matrix, Displaced):
        matrix.check(ndim)
        return matrix
    m = np.asarray(matrix, dtype=np.float64)
    if m.shape != (ndim + 1, ndim + 1):
        raise InvalidTransformError(f"a matrix of shape {(ndim + 1, ndim + 1)} is needed, not {m.shape}")
    if not np.all(np.isfinite(m)):
        raise InvalidTransformError("the matrix holds NaN or infinity")
    return m


@lru_cache(maxsize=64)
def _fill_value(fill: float, dtype: np.dtype[Any]) -> Any:
    """The fill as a voxel."""
    return cast(np.asarray(fill).reshape(1), dtype)[0][0]
