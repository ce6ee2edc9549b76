"""Metrics as losses in torch: `loss(fixed, warped, weight)`, differentiable, lower is better.

fixed, warped and weight are (B, *shape); weight is 0 where a voxel does not count. Every
metric returns (B,) losses over the weighted voxels. Your own callable may return one
number, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from daskreg.errors import OptionError
from daskreg.registration import joint_histogram_numba

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]

_EPS = 1e-12


def mse(fixed: Tensor, warped: Tensor, weight: Tensor) -> Tensor:
    """Mean squared difference."""
    return _mean((fixed - warped).square(), weight)


def mae(fixed: Tensor, warped: Tensor, weight: Tensor) -> Tensor:
    """Mean absolute difference."""
    return _mean((fixed - warped).abs(), weight)


def ncc(fixed: Tensor, warped: Tensor, weight: Tensor) -> Tensor:
    """1 - Pearson's correlation."""
    one = (-1, *[1] * (fixed.ndim - 1))
    f = fixed - _mean(fixed, weight).reshape(one)
    w = warped - _mean(warped, weight).reshape(one)
    norm = (_mean(f * f, weight) * _mean(w * w, weight)).clamp_min(_EPS).sqrt()
    return 1 - _mean(f * w, weight) / norm


def lncc(fixed: Tensor, warped: Tensor, weight: Tensor, *, radius: int = 4) -> Tensor:
    """1 - mean squared correlation in windows of 2 radius + 1 voxels a side.

    Each window is weighted by its number of valid voxels (Avants et al. 2008, with box filters).
    Along an axis that is shorter than a window, windows are as long as fits.
    """
    count = _box(weight, radius).clamp_min(_EPS)
    f_mean, w_mean = _box(weight * fixed, radius) / count, _box(weight * warped, radius) / count
    product = _box(weight * fixed * warped, radius) / count - f_mean * w_mean
    f_var = (_box(weight * fixed * fixed, radius) / count - f_mean * f_mean).clamp_min(0)
    w_var = (_box(weight * warped * warped, radius) / count - w_mean * w_mean).clamp_min(0)
    # Windows without contrast in either image would divide noise by noise.
    floor = 1e-3 * _mean(f_var, weight) * _mean(w_var, weight)
    local = product.square() / (f_var * w_var + floor.reshape(-1, *[1] * (fixed.ndim - 1)) + _EPS)
    return 1 - _mean(local, weight)


def mi(fixed: Tensor, warped: Tensor, weight: Tensor, *, bins: int | None = None) -> Tensor:
    """- mutual information in nats, from a joint histogram with cubic Parzen windows.

    (Mattes et al. 2003.) For images of different modalities. By default there are as many
    bins as the cube root of the number of voxels, 8 to 32: few voxels in many bins have mutual information
    by chance.
    """
    bins = bins or bins_for(fixed[0].numel())
    f, w, v = (t.flatten(1) for t in torch.broadcast_tensors(fixed, warped, weight))
    positions = _positions(f, v, bins), _positions(w, v, bins)
    joint = _Joint.apply(*positions, v, bins) if f.device.type == "cpu" else _joint(*positions, v, bins)
    joint = joint / joint.sum((1, 2), keepdim=True).clamp_min(_EPS)
    independent = joint.sum(2, keepdim=True) * joint.sum(1, keepdim=True)
    return -(joint * ((joint + _EPS) / (independent + _EPS)).log()).sum((1, 2))


POINTWISE: tuple[Loss, ...] = (ncc, mse, mae, mi)
"""Losses that do not depend on where voxels are, so that a subset of the voxels can be used."""
LINEAR: tuple[Loss, ...] = (ncc, mse, mae, lncc)
"""Losses under which the values of one image follow from those of the other by a line, everywhere or nearby."""
LOSSES: dict[str, Loss] = {"ncc": ncc, "mse": mse, "mae": mae, "lncc": lncc, "mi": mi}


def loss_of(metric: str | Loss) -> Loss:
    """The loss of a metric's name; a callable is its own.

    Raises: OptionError for an unknown name.
    """
    if callable(metric):
        return metric
    if metric not in LOSSES:
        raise OptionError(
            f"metric {metric!r} is unknown: use {', '.join(LOSSES)}, or a callable loss(fixed, warped, weight)"
        )
    return LOSSES[metric]


def bins_for(voxels: int) -> int:
    """Bins of a joint histogram of so many voxels, along each image."""
    return min(max(round(math.cbrt(voxels)), 8), 32)


def _mean(values: Tensor, weight: Tensor) -> Tensor:
    """(B,) weighted means."""
    return (values * weight).flatten(1).sum(1) / weight.flatten(1).sum(1).clamp_min(_EPS)


def _box(values: Tensor, radius: int) -> Tensor:
    """Sums over windows, zero outside."""
    ndim = values.ndim - 1
    out = values[:, None]
    pool: Any = functional.avg_pool2d if ndim == 2 else functional.avg_pool3d
    for axis in range(ndim):
        reach = min(radius, (values.shape[axis + 1] - 1) // 2)
        size, padding = [1] * ndim, [0] * ndim
        size[axis], padding[axis] = 2 * reach + 1, reach
        out = pool(out, tuple(size), stride=1, padding=tuple(padding)) * (2 * reach + 1)
    return out[:, 0]


def _positions(values: Tensor, weight: Tensor, bins: int) -> Tensor:
    """(B, N) positions of the values in bins; the bins cover the range of the voxels with weight."""
    valid = weight > 0
    low = torch.where(valid, values, torch.inf).amin(1, keepdim=True)
    high = torch.where(valid, values, -torch.inf).amax(1, keepdim=True)
    # Two bins are left free at both ends, so that the windows stay inside.
    return ((values - low) / (high - low).clamp_min(_EPS) * (bins - 5) + 2).clamp(1, bins - 3)


class _Joint(torch.autograd.Function):
    """`_joint` in compiled code, differentiable once."""

    @staticmethod
    def forward(ctx: Any, fixed: Tensor, warped: Tensor, weight: Tensor, bins: int) -> Tensor:
        ctx.save_for_backward(fixed, warped, weight)
        f, w, v = (t.detach().numpy() for t in (fixed, warped, weight))
        return torch.from_numpy(joint_histogram_numba.joint(f, w, v, bins)).to(warped.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        arrays = (t.detach().numpy() for t in (*ctx.saved_tensors, gradient.to(torch.float64)))
        inputs = zip(joint_histogram_numba.gradients(*arrays), ctx.needs_input_grad, strict=False)
        return *(torch.from_numpy(g) if needed else None for g, needed in inputs), None


def _joint(fixed: Tensor, warped: Tensor, weight: Tensor, bins: int) -> Tensor:
    """(B, bins, bins) the joint histogram of (B, N) positions in bins, with cubic B-splines as windows."""
    (f_bin, f_part), (w_bin, w_part) = _windows(fixed), _windows(warped)
    # Each voxel is in four bins of each image: sixteen of the histogram, instead of all.
    reach = torch.arange(4, device=fixed.device)
    index = (f_bin[..., None, None] + reach[:, None]) * bins + w_bin[..., None, None] + reach
    share = (f_part * weight[..., None])[..., :, None] * w_part[..., None, :]
    joint = share.new_zeros(len(fixed), bins * bins).scatter_add(1, index.flatten(1), share.flatten(1))
    return joint.reshape(-1, bins, bins)


def _windows(position: Tensor) -> tuple[Tensor, Tensor]:
    """(B, N) first of the four bins that each value is in, and (B, N, 4) weights there."""
    first = position.detach().floor()
    t = position - first
    u = 1 - t
    parts = (u**3 / 6, 2 / 3 - t * t + t**3 / 2, 2 / 3 - u * u + u**3 / 2, t**3 / 6)
    return first.to(torch.int64) - 1, torch.stack(parts, -1)
