"""A loss between point clouds that torch can differentiate: all pairs of points count, near ones more."""

from __future__ import annotations

import math

import torch


def soft_correspondence_loss(
    target: torch.Tensor, moved: torch.Tensor, *, sigma: float, outliers: float = 0.1, tile: int = 4096
) -> torch.Tensor:
    """Mean negative log-likelihood of `moved` as a sample of the target blurred by a Gaussian.

    The density is a Gaussian about each target point, and a uniform share of outliers (Myronenko &
    Song, "Coherent Point Drift", 2010, eq. 6). As `sigma` shrinks to the noise, the loss tends to what
    ICP minimises; with a large `sigma` it is smooth and has a wide basin. Differentiable in both clouds.

    Args:
        target, moved: (N, D) and (M, D) of one floating type, on one device.
        sigma: of the Gaussians, in the unit of the points.
        outliers: share of `moved` without a counterpart, 0 to < 1; above 0 far points have little effect.
        tile: rows of `moved` that are compared at a time, which limits the memory.

    Returns: a scalar; each additional target point near a moved one makes it smaller.
    """
    ndim = target.shape[1]
    # The density of outliers: that of one Gaussian's mass spread evenly over ten sigmas along each axis.
    floor = math.log(outliers) - ndim * math.log(10) if outliers > 0 else -math.inf
    base = moved.new_full((1,), floor)
    losses = []
    for part in moved.split(tile):
        squares = torch.sum((part[:, None] - target[None]) ** 2, dim=-1)
        exponents = math.log(1 - outliers) - squares / (2 * sigma**2)
        terms = torch.cat([exponents, base.expand(len(part), 1)], dim=1) if outliers > 0 else exponents
        losses.append(-torch.logsumexp(terms, dim=1))
    return torch.cat(losses).mean()
