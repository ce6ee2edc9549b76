"""A loss between point clouds that torch can differentiate: every pair counts, the nearer the more."""

from __future__ import annotations

import math

import torch


def soft_correspondence_loss(
    target: torch.Tensor, moved: torch.Tensor, *, sigma: float, outliers: float = 0.1, tile: int = 4096
) -> torch.Tensor:
    """How unlikely `moved` is as a sample of the target, blurred: mean negative logarithm of its density.

    The density is a Gaussian about each target point, and a uniform share of outliers (Myronenko &
    Song, "Coherent Point Drift", 2010, eq. 6). With `sigma` shrinking to the noise it tends to what
    ICP minimises; with a large one it is smooth and sees far. Differentiable in both clouds.

    Args:
        target, moved: (N, D) and (M, D) of one floating type, on one device.
        sigma: of the Gaussians, in the unit of the points.
        outliers: share of `moved` that has no partner, 0 to < 1; above 0 far points lose their pull.
        tile: rows of `moved` that are compared at a time, which bounds the memory.

    Returns: a scalar; each further target point near a moved one makes it smaller.
    """
    ndim = target.shape[1]
    # As dense as one Gaussian spread evenly over ten sigmas along each axis.
    floor = math.log(outliers) - ndim * math.log(10) if outliers > 0 else -math.inf
    base = moved.new_full((1,), floor)
    found = []
    for part in moved.split(tile):
        squares = torch.sum((part[:, None] - target[None]) ** 2, dim=-1)
        exponents = math.log(1 - outliers) - squares / (2 * sigma**2)
        terms = torch.cat([exponents, base.expand(len(part), 1)], dim=1) if outliers > 0 else exponents
        found.append(-torch.logsumexp(terms, dim=1))
    return torch.cat(found).mean()
