"""Sampling of tensors: on any device, differentiable in the voxels and in the matrix.

Coordinates are float64, computed in the same order of operations as in the compiled kernels, so they are the
same numbers. Linear and cubic sampling use `grid_sample`, whose coordinates have the voxels' own
type: in float32 they would be off by 1e-7 of the block's width. So all is computed in float64, except where a
gradient is wanted, in blocks of up to `_LONG_AXIS` voxels a side: estimates need speed more than that accuracy. On a
GPU, where no gradient is wanted, `tensors_triton` does all but copies, if Triton can compile.

Cubic sampling is 2**D linear samples of the spline's coefficients (Sigg and Hadwiger, Fast
third-order texture filtering, GPU Gems 2, 2005), and its prefilter a convolution. Where voxels are not finite, the
runs between them are filtered each on its own, as `gaps_numba` does, on a GPU too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from daskreg.errors import InvalidTransformError, ShapeMismatchError, UnsupportedDTypeError
from daskreg.geometry import Box
from daskreg.geometry.normalised import scale_and_offset
from daskreg.sampling import tensors_triton
from daskreg.sampling.arrays import CUBIC_REACH, lift, limits, whole_shift
from daskreg.sampling.cast import cast
from daskreg.sampling.displaced_tensors import displaced_coordinates, wants_gradient
from daskreg.sampling.displacements import Displaced

Coordinates = list[Tensor]
Interpolator = Callable[[Coordinates], Tensor]

# Voxels that are sampled at once where no gradient is wanted.
_PIECE = 1 << 22
# Terms of the prefilter's series: those beyond are below the rounding of float64.
_TERMS = 28
# Voxels of an axis above which coordinates are float64 with a gradient, too: at this length float32 rounds them by up
# to 1e-4 voxels.
_LONG_AXIS = 2048
# How far around the block there are coefficients.
_PAD = CUBIC_REACH + 1
_PLAIN = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def sample_tensor(
    block: Tensor, read_box: Box, matrix: Any, out_box: Box, *, order: int, fill: float, clamp: bool = False
) -> Tensor:
    """`sampling.sample` of a tensor, where it lies."""
    _check(block, read_box, out_box)
    ndim = read_box.ndim
    if isinstance(matrix, Displaced):
        return _sample_displaced(block, read_box, matrix, out_box, order=order, fill=fill, clamp=clamp)
    m = _matrix(matrix, block, ndim)  # one that is an array stays on the CPU: a GPU need not be waited for
    value = _fill_value(fill, block.dtype)
    many = m.ndim == 3
    batch = m.shape[:1] if many else block.shape[:-ndim]
    shape = (*batch, *out_box.shape)
    if 0 in shape or read_box.empty:
        return block.new_full(shape, value)
    shift = None if many or m.requires_grad else whole_shift(m.cpu().numpy())
    if shift is not None:
        return _copied(block, read_box, shift, out_box, value)
    if ndim > 3:
        raise ShapeMismatchError(f"{ndim} dimensions cannot be sampled together: 3 at most")
    # (pairs, channels, *shape): each pair has its matrix, or one matrix serves all channels.
    voxels = block.expand(shape[0], *read_box.shape)[:, None] if many else block.reshape(1, -1, *read_box.shape)
    m = m if many else m[None]
    if ndim == 1:
        voxels, m, read_box, out_box = voxels[:, :, None], _lifted(m), lift(read_box), lift(out_box)
    with_gradient = torch.is_grad_enabled() and (m.requires_grad or voxels.requires_grad)
    if not with_gradient and tensors_triton.ready(block.device) and not _has_gaps(voxels, order):
        blocks = voxels[:, 0] if many else voxels[0]
        found = tensors_triton.sampled(blocks, read_box, m, out_box, order=order, value=value, clamp=clamp)
        return found.reshape(shape)
    interpolated = _interpolator(voxels, read_box, order, value, with_gradient=with_gradient, clamp=clamp)

    def coordinates(box: Box) -> Coordinates:
        return _coordinates(m, box, voxels.device)

    return _in_pieces(interpolated, coordinates, out_box, voxels, with_gradient=with_gradient).reshape(shape)


def _sample_displaced(
    block: Tensor, read_box: Box, path: Displaced, out_box: Box, *, order: int, fill: float, clamp: bool
) -> Tensor:
    """The same through displacement fields."""
    path.check(read_box.ndim)
    value = _fill_value(fill, block.dtype)
    shape = (*block.shape[: block.ndim - read_box.ndim], *out_box.shape)
    if 0 in shape or read_box.empty:
        return block.new_full(shape, value)
    voxels = block.reshape(1, -1, *read_box.shape)
    with_gradient = torch.is_grad_enabled() and (voxels.requires_grad or wants_gradient(path))
    forward = not with_gradient and not any(step.inverse for step in path.steps)
    if forward and tensors_triton.ready_for_fields(block.device) and not _has_gaps(voxels, order):
        found = tensors_triton.sampled(voxels[0], read_box, path, out_box, order=order, value=value, clamp=clamp)
        return found.reshape(shape)
    interpolated = _interpolator(voxels, read_box, order, value, with_gradient=with_gradient, clamp=clamp)

    def coordinates(box: Box) -> Coordinates:
        return displaced_coordinates(path, box, voxels.device)

    return _in_pieces(interpolated, coordinates, out_box, voxels, with_gradient=with_gradient).reshape(shape)


def _has_gaps(voxels: Tensor, order: int) -> bool:
    """Whether voxels that are not finite are in the way of a spline."""
    return order == 3 and voxels.dtype.is_floating_point and not bool(torch.isfinite(voxels).all())


def _interpolator(
    voxels: Tensor, read_box: Box, order: int, value: Any, *, with_gradient: bool, clamp: bool
) -> Interpolator:
    if order == 0 or voxels.dtype == torch.bool:
        return _nearest(voxels, read_box, value)
    return _smooth(voxels, read_box, order, value, with_gradient=with_gradient, clamp=clamp)


def is_plain(block: Tensor, matrix: Any) -> bool:
    """Whether NumPy can do the work: on a CPU, of a type that NumPy has, without a gradient."""
    tensors = [t for t in (block, matrix) if isinstance(t, Tensor)]
    if isinstance(matrix, Displaced):
        tensors += [step.vectors for step in matrix.steps if isinstance(step.vectors, Tensor)]
    return (
        all(t.device.type == "cpu" for t in tensors)
        and block.dtype != torch.bfloat16
        and (isinstance(matrix, Displaced) or np.ndim(matrix) == 2)
        and not (torch.is_grad_enabled() and any(t.requires_grad for t in tensors))
    )


def as_arrays(block: Tensor, matrix: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    """Both without a copy."""
    return block.detach().numpy(), matrix.detach().numpy() if isinstance(matrix, Tensor) else matrix


def as_tensor(array: NDArray[Any]) -> Tensor:
    return torch.from_numpy(array)


def _check(block: Tensor, read_box: Box, out_box: Box) -> None:
    ndim = read_box.ndim
    if out_box.ndim != ndim or block.ndim < ndim or tuple(block.shape[block.ndim - ndim :]) != read_box.shape:
        raise ShapeMismatchError(
            f"a tensor of shape {tuple(block.shape)} does not fit the read box {read_box!r} "
            f"and the output box {out_box!r}"
        )
    if block.dtype.is_complex:
        raise UnsupportedDTypeError(f"voxels of type {block.dtype} cannot be sampled: convert them to real numbers")


def _matrix(matrix: Any, block: Tensor, ndim: int) -> Tensor:
    """float64 (float32 where the device has none); (D+1, D+1) or (B, D+1, D+1).

    On the block's device, but for a single one that is an array.
    """
    kind = torch.float32 if block.device.type == "mps" else torch.float64
    if isinstance(matrix, Tensor):
        m = matrix.to(block.device, kind)
    else:
        m = torch.from_numpy(np.array(matrix, dtype=np.float64)).to(kind)
    if m.ndim not in (2, 3) or m.shape[-2:] != (ndim + 1, ndim + 1):
        raise InvalidTransformError(f"a matrix of shape {(ndim + 1, ndim + 1)} is needed, not {tuple(m.shape)}")
    if m.ndim == 3 and block.ndim != ndim and tuple(block.shape[:-ndim]) != (len(m),):
        raise ShapeMismatchError(f"{len(m)} matrices do not fit a batch of shape {tuple(block.shape[:-ndim])}")
    if not bool(torch.isfinite(m).all()):
        raise InvalidTransformError("the matrix holds NaN or infinity")
    return m.to(block.device) if m.ndim == 3 else m


def _fill_value(fill: float, dtype: torch.dtype) -> Any:
    """The fill as a voxel."""
    if dtype.is_floating_point:
        return float(fill)
    return cast(np.asarray(fill).reshape(1), _numpy_type(dtype))[0].item()


def _numpy_type(dtype: torch.dtype) -> np.dtype[Any]:
    return np.dtype(str(dtype).removeprefix("torch."))


def _copied(block: Tensor, read_box: Box, shift: Sequence[int], out_box: Box, value: Any) -> Tensor:
    """A translation by whole voxels."""
    wanted = out_box.shift(shift)
    found = wanted & read_box
    result = block.new_full((*block.shape[: block.ndim - read_box.ndim], *out_box.shape), value)
    if not found.empty:
        into: Any = (..., *found.within(wanted).slices)
        part: Any = (..., *found.within(read_box).slices)
        result[into] = block[part]
    return result


def _lifted(m: Tensor) -> Tensor:
    """Matrices of one more dimension in front, which stays as it is."""
    result = torch.eye(3, dtype=m.dtype, device=m.device).repeat(len(m), 1, 1)
    result[:, 1:, 1:] = m
    return result


def _coordinates(m: Tensor, box: Box, device: torch.device) -> Coordinates:
    """Of the voxels of `box` along each axis, (pairs, *box.shape), absolute indices of the source."""
    ndim = box.ndim
    numbers = None if m.requires_grad or len(m) > 1 or m.device == device else m[0].tolist()

    def entry(k: int, j: int) -> Any:
        return m[:, k, j].reshape(-1, *[1] * ndim) if numbers is None else numbers[k][j]

    indices = [
        torch.arange(start, stop, dtype=m.dtype, device=device).reshape(-1, *[1] * (ndim - 1 - j))
        for j, (start, stop) in enumerate(zip(box.start, box.stop, strict=True))
    ]
    result = []
    for k in range(ndim):
        x = entry(k, 0) * indices[0]
        for j in range(1, ndim - 1):
            x = x + entry(k, j) * indices[j]
        x = (x + entry(k, ndim)) + entry(k, ndim - 1) * indices[-1]  # the compiled kernels' order
        result.append(x if numbers is None else x[None])
    return result


def _in_pieces(
    interpolated: Interpolator,
    coordinates: Callable[[Box], Coordinates],
    out_box: Box,
    voxels: Tensor,
    *,
    with_gradient: bool,
) -> Tensor:
    """(pairs, channels, *out_box.shape), in pieces along the first axis, so that coordinates take little memory.

    Args:
        with_gradient: whether a gradient is wanted; then all is one piece.
    """
    rows = out_box.shape[0]
    pairs, channels = voxels.shape[:2]
    step = rows if with_gradient else max(1, _PIECE // (math.prod(out_box.shape[1:]) * pairs * channels))
    if step >= rows:
        return interpolated(coordinates(out_box))
    result = torch.empty((pairs, channels, *out_box.shape), dtype=voxels.dtype, device=voxels.device)
    for first in range(0, rows, step):
        last = min(first + step, rows)
        start, stop = out_box.start[0] + first, out_box.start[0] + last
        piece = Box((start, *out_box.start[1:]), (stop, *out_box.stop[1:]))
        result[:, :, first:last] = interpolated(coordinates(piece))
    return result


def _nearest(voxels: Tensor, read_box: Box, value: Any) -> Interpolator:
    # Few operations of torch support the unsigned types; the nearest voxel does not depend on the type.
    floating = voxels.dtype.is_floating_point
    plain = voxels if floating else voxels.view(_PLAIN[voxels.dtype.itemsize])
    fill = value if floating else torch.tensor([value], dtype=voxels.dtype).view(plain.dtype).item()
    flat = plain.flatten(2)

    def interpolated(coordinates: Coordinates) -> Tensor:
        inside: Any = None
        offset: Any = 0
        for x, start, n in zip(coordinates, read_box.start, read_box.shape, strict=True):
            i = (x + 0.5).floor() - start
            here = (i >= 0) & (i < n)
            inside = here if inside is None else inside & here
            offset = offset * n + i.clamp(0, n - 1).long()
        index = offset.flatten(1)[:, None].expand(-1, flat.shape[1], -1)
        found = flat.gather(2, index).reshape(*flat.shape[:2], *offset.shape[1:])
        result = torch.where(inside[:, None], found, fill)
        return result if floating else result.view(voxels.dtype)  # a view as its own type has no gradient

    return interpolated


def _smooth(voxels: Tensor, read_box: Box, order: int, value: Any, *, with_gradient: bool, clamp: bool) -> Interpolator:
    """Linear or cubic. The fill is subtracted first and added last, so that the zero outside becomes the fill."""
    wide = voxels.dtype in (torch.float64, torch.int32, torch.int64) or max(read_box.shape) > _LONG_AXIS
    wide = wide or not with_gradient
    work = torch.float64 if wide and voxels.device.type != "mps" else torch.float32
    finite = math.isfinite(value) and not clamp
    reach = 0.5 if clamp else 0.0
    data = voxels.to(work)
    if finite and value:
        data = data - value
    if order == 3:
        interpolate = _cubic(data, around="constant" if finite else "replicate")
    else:
        interpolate = _linear(data, finite=not voxels.dtype.is_floating_point)

    def interpolated(coordinates: Coordinates) -> Tensor:
        inner = [x - start for x, start in zip(coordinates, read_box.start, strict=True)]
        ends = [x.clamp(0, n - 1) for x, n in zip(inner, read_box.shape, strict=True)]
        result = interpolate(ends if clamp and order == 1 else inner)
        if finite and value:
            result = result + value
        if not finite:
            for x, n in zip(inner, read_box.shape, strict=True):
                beyond = x >= n - 0.5 if clamp else x > n - 1
                result = torch.where(((x < -reach) | beyond)[:, None], value, result)
        return _stored(result, voxels.dtype)

    return interpolated


def _stored(result: Tensor, dtype: torch.dtype) -> Tensor:
    """In the voxels' type: integers half to even, clamped."""
    if not dtype.is_floating_point:
        ends = limits(_numpy_type(dtype), np.float64 if result.dtype == torch.float64 else np.float32)
        result = result.round().clamp(float(ends[0]), float(ends[1]))
    return result.to(dtype)


def _grid_sample(data: Tensor, coordinates: Coordinates) -> Tensor:
    """Linear samples of (pairs, channels, *shape), zero outside."""
    normalised = []
    for x, n in zip(coordinates, data.shape[2:], strict=True):
        scale, offset = scale_and_offset(n)
        # Far outside, the weights would overflow; a little beyond the border gives the same zero.
        normalised.append(x.clamp(-2, n + 1) * scale + offset)
    grid = torch.stack(normalised[::-1], -1).to(data.dtype)
    return functional.grid_sample(data, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _linear(data: Tensor, *, finite: bool) -> Interpolator:
    """Linear interpolation; voxels that are not finite affect only points where their weight is not zero.

    Args:
        finite: that all voxels are finite is known.
    """
    if finite or bool(torch.isfinite(data).all()):
        return lambda coordinates: _grid_sample(data, coordinates)
    clean = torch.nan_to_num(data, 0.0, 0.0, 0.0)
    bad = [(data.isnan(), math.nan), (data == math.inf, math.inf), (data == -math.inf, -math.inf)]
    # A weight of zero may become so large by rounding.
    least = 64 * max(data.shape[2:]) * torch.finfo(data.dtype).eps

    def interpolate(coordinates: Coordinates) -> Tensor:
        result = _grid_sample(clean, coordinates)
        for where, kind in bad:
            weight = _grid_sample(where.to(data.dtype), coordinates)
            result = torch.where(weight > least, result + kind, result)
        return result

    return interpolate


def _cubic(data: Tensor, *, around: str) -> Interpolator:
    """Cubic interpolation; NaN where one of the four voxels along an axis is not finite and its weight is not zero.

    Args:
        around: what is outside of the data: "constant" (zero) or "replicate".
    """
    ndim = data.ndim - 2
    padded = functional.pad(data, [_PAD] * (2 * ndim), mode=around)
    gaps = ~torch.isfinite(padded)
    some = bool(gaps.any())
    coefficients = _prefilter_runs(padded, ~gaps) if some else _prefilter(padded)

    def interpolate(coordinates: Coordinates) -> Tensor:
        axes, nodes, fractions = [], [], []
        for x, n in zip(coordinates, data.shape[2:], strict=True):
            place = x.clamp(1 - _PAD, n + _PAD - 3) + _PAD
            node = place.detach().floor()
            t = place - node
            w1, w3 = 2 / 3 - t * t * (1 - t / 2), t**3 / 6
            near = (1 - t) ** 3 / 6 + w1
            axes.append(((node - 1 + w1 / near, near), (node + 1 + w3 / (1 - near), 1 - near)))
            nodes.append(node.long())
            fractions.append(t)
        result = torch.zeros((), dtype=data.dtype, device=data.device)
        for corner in product(*axes):
            weight = math.prod((w for _, w in corner[1:]), start=corner[0][1])
            result = result + _grid_sample(coefficients, [p for p, _ in corner]) * weight[:, None].to(data.dtype)
        return torch.where(_touches(gaps, nodes, fractions), math.nan, result) if some else result

    return interpolate


def _touches(gaps: Tensor, nodes: Coordinates, fractions: Coordinates) -> Tensor:
    """Whether a gap is among the voxels around each point whose weight is not zero.

    Args:
        nodes: indices of the lower neighbour along each axis.
        fractions: how far the point lies beyond it; at 0, the fourth voxel has no weight.
    """
    pairs, channels = gaps.shape[:2]
    flat, shape = gaps.flatten(2), nodes[0].shape
    found = torch.zeros((pairs, channels, *shape[1:]), dtype=torch.bool, device=gaps.device)
    for steps in product((-1, 0, 1, 2), repeat=len(nodes)):
        index: Any = 0
        weighted = torch.ones(shape, dtype=torch.bool, device=gaps.device)
        for node, t, step, n in zip(nodes, fractions, steps, gaps.shape[2:], strict=True):
            index = index * n + (node + step).clamp(0, n - 1)
            if step == 2:
                weighted &= t > 0
        place = index.expand(pairs, *shape[1:]).flatten(1)[:, None].expand(-1, channels, -1)
        found |= flat.gather(2, place).reshape(found.shape) & weighted[:, None]
    return found


def _prefilter_runs(data: Tensor, finite: Tensor) -> Tensor:
    """Cubic B-spline coefficients, for each run of finite voxels between gaps as if it were mirrored at its ends.

    The pole's powers are summed step by step in both directions along each axis; where the next voxel is a gap
    or the end, the direction turns round. Coefficients in gaps are zero.
    """
    pole = math.sqrt(3) - 2
    data = torch.where(finite, data, 0)
    for axis in range(2, data.ndim):
        voxels, valid = data.movedim(axis, -1), finite.movedim(axis, -1)
        n = voxels.shape[-1]
        here = torch.arange(n, device=data.device).expand(voxels.shape)
        total = voxels
        for direction in (-1, 1):
            place, step = here, torch.full_like(here, direction)
            for power in range(1, _TERMS + 1):
                ahead, back = _usable(place + step, valid), _usable(place - step, valid)
                step = torch.where(ahead, step, -step)
                place = torch.where(ahead | back, place + step, place)
                total = total + pole**power * voxels.gather(-1, place.clamp(0, n - 1))
        data = torch.where(valid, total * math.sqrt(3), 0).movedim(-1, axis)
    return data


def _usable(place: Tensor, valid: Tensor) -> Tensor:
    n = valid.shape[-1]
    return (place >= 0) & (place < n) & valid.gather(-1, place.clamp(0, n - 1))


def _prefilter(data: Tensor) -> Tensor:
    """Cubic B-spline coefficients of data that is constant near its ends.

    The pole's geometric series, forwards and backwards, by doubling: 1 + zq, then
    1 + z^2 q^2, ... ; the terms beyond the 32nd are below the rounding of float64.
    """
    pole = math.sqrt(3) - 2
    for axis in range(2, data.ndim):
        n = data.shape[axis]
        for step in (1, 2, 4, 8, 16):
            ahead = data.clone()
            ahead.narrow(axis, step, n - step).add_(data.narrow(axis, 0, n - step), alpha=pole**step)
            data = ahead
        for step in (1, 2, 4, 8, 16):
            back = data.clone()
            back.narrow(axis, 0, n - step).add_(data.narrow(axis, step, n - step), alpha=pole**step)
            data = back
        data = data * (math.sqrt(3) * (1 - pole * pole))
    return data
