"""Pairs of neighbouring images, many at once, from nothing to a fit.

Small copies of the images are fitted from several starts (no motion, and the shifts that
phase correlation proposes); the best goes on to the finer levels. A start other than no motion
must win clearly, so that periodic objects keep the small motion.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from daskreg.geometry import Grid
from daskreg.kernels.descend import Descent, descend
from daskreg.kernels.pose import Pose
from daskreg.kernels.pyramid import Picture, picture, shrink

Floats = NDArray[np.float64]

SMALL = {2: 128, 3: 40}  # voxels along the longest axis of the small copies
PROPOSALS = 3
_CLEARLY = 0.01


@dataclass(frozen=True)
class PairOptions:
    """How pairs are fitted; see `descend`."""

    pose: Pose
    metric: str = "ncc"
    max_iterations: int = 50
    tolerance: float = 1e-3
    device: str = "cpu"


def batch_size(grid: Grid, device: str) -> int:
    """How many pairs on this grid are fitted at once in about 512 MiB (a GPU: 4 GiB)."""
    budget = (4096 if device.startswith("cuda") else 512) * 2**20
    return max(1, min(256 if device.startswith("cuda") else 32, budget // (150 * math.prod(grid.shape))))


def fit_pairs(fixed: Tensor, moving: Tensor, grid: Grid, options: PairOptions, start: Floats | None = None) -> Descent:
    """Fit (B or 1, *shape) moving images to (B or 1, *shape) fixed ones, all on one grid.

    Args:
        fixed, moving: float32, NaN where nothing counts.
        start: (B, D+1, D+1) moving_from_fixed in the world; None: searched.
    """
    fixed, moving = fixed.to(options.device), moving.to(options.device)
    levels: int | str = 1
    if start is None:
        factor = max(1, math.ceil(max(grid.shape) / SMALL.get(grid.ndim, 64)))
        small = [shrink(picture(t, grid), _factors(grid, factor)) for t in (fixed, moving)]
        start = best_starts(small[0], small[1], options)
        levels = max(1, math.ceil(math.log2(factor) - 0.1)) if factor > 1 else 1
    return descend(fixed, moving, start, levels=levels, **_common(grid, grid, options))


def best_starts(fixed: Picture, moving: Picture, options: PairOptions) -> Floats:
    """(B, D+1, D+1) where small copies of the pairs fit best, from several starts."""
    ndim = fixed.grid.ndim
    batch = max(len(fixed.values), len(moving.values))
    proposals = [np.broadcast_to(np.eye(ndim + 1), (batch, ndim + 1, ndim + 1))]
    if "translation" in options.pose.groups:
        shifts = phase_shifts(fixed, moving, PROPOSALS)
        for k in range(PROPOSALS):
            m = np.array(proposals[0])
            m[:, :-1, -1] = shifts[:, k] @ (fixed.grid.direction_matrix * np.asarray(fixed.grid.spacing)).T
            proposals.append(m)
    images = [
        torch.where(p.weight > 0, p.values, torch.nan) if p.weight is not None else p.values for p in (fixed, moving)
    ]
    common = _common(fixed.grid, moving.grid, options)
    first = descend(images[0], images[1], proposals[0], levels="auto", **common)
    best, score = first.matrices.copy(), _losses(first, options.metric)
    for proposal in proposals[1:]:
        fit = descend(images[0], images[1], proposal, levels=1, **common)
        loss = _losses(fit, options.metric)
        wins = loss < score * (1 - _CLEARLY)
        best[wins], score[wins] = fit.matrices[wins], loss[wins]
    return best


def phase_shifts(fixed: Picture, moving: Picture, count: int) -> Floats:
    """(B, count, D) shifts in voxels, array order, where each image's phases agree best.

    moving(p + shift) looks like fixed(p). Images are padded to twice their size, so a shift is
    told from its complement, and a window takes their borders away. (Kuglin & Hines 1975,
    high frequencies damped.)
    """
    shape = fixed.grid.shape
    axes = tuple(range(1, 1 + len(shape)))
    size = [2 * n for n in shape]
    spectra = [torch.fft.rfftn(_windowed(p), s=size, dim=axes) for p in (fixed, moving)]
    cross = spectra[1] * spectra[0].conj()
    cross = cross / cross.abs().clamp_min(1e-12 + 1e-6 * cross.abs().amax(axes, keepdim=True))
    for k, n in enumerate(size):
        f = torch.fft.rfftfreq(n) if k == len(size) - 1 else torch.fft.fftfreq(n)
        one = [1] * cross.ndim
        one[k + 1] = -1
        cross = cross * torch.exp(-((f.to(cross.device) / 0.2) ** 2)).reshape(one)
    surface = torch.fft.irfftn(cross, s=size, dim=axes).cpu()
    return _peaks(surface, count)


def _windowed(image: Picture) -> Tensor:
    """Mean taken out, borders and masked voxels brought to zero."""
    values = image.values
    window = torch.ones_like(values[:1])
    for k, n in enumerate(image.grid.shape):
        ramp = torch.sin(torch.pi * (torch.arange(n, device=values.device) + 0.5) / n)
        one = [1] * values.ndim
        one[k + 1] = -1
        window = window * ramp.clamp_min(0).reshape(one)
    if image.weight is not None:
        window = window * image.weight
    axes = tuple(range(1, values.ndim))
    mean = (values * window).sum(axes, keepdim=True) / window.sum(axes, keepdim=True).clamp_min(1e-9)
    return (values - mean) * window


def _peaks(surface: Tensor, count: int) -> Floats:
    """Highest values apart from each other, as signed shifts."""
    shape = surface.shape[1:]
    found = np.zeros((len(surface), count, len(shape)))
    values = surface.clone().numpy()
    for k in range(count):
        at = np.stack(np.unravel_index(values.reshape(len(values), -1).argmax(1), shape), -1)
        found[:, k] = np.where(at > np.asarray(shape) // 2, at - np.asarray(shape), at)
        for image, where in zip(values, at, strict=True):
            image[np.ix_(*[np.arange(i - 3, i + 4) % n for i, n in zip(where, shape, strict=True)])] = -np.inf
    return found


def _losses(fit: Descent, metric: str) -> Floats:
    loss = 1 - fit.after if metric == "ncc" else fit.after
    return np.asarray(np.where(np.isfinite(loss), loss, np.inf))


def _factors(grid: Grid, factor: int) -> list[int]:
    return [max(1, min(factor, n // 8)) for n in grid.shape]


def _common(fixed: Grid, moving: Grid, options: PairOptions) -> dict[str, Any]:
    return {
        "fixed_grid": fixed,
        "moving_grid": moving,
        "model": options.pose,
        "metric": options.metric,
        "max_iterations": options.max_iterations,
        "tolerance": options.tolerance,
    }
