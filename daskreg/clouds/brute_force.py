"""Nearest points on a device by comparing all pairs, with torch, or with Triton where it works."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def on_device(points: Floats, device: str) -> Any:
    """The points (N, D) as a float64 tensor on a device, each column contiguous."""
    import torch

    return torch.as_tensor(np.ascontiguousarray(points.T), dtype=torch.float64, device=device).T


def nearest_brute_force(cloud: Any, points: Floats, *, tile: int = 4096) -> tuple[Floats, Ints]:
    """Distance to, and row of, the nearest point of a cloud for each of `points` (M, D).

    Args:
        cloud: (N, D) tensor; the search runs on its device.
        tile: points that torch compares with the cloud at a time.
    """
    import torch

    from daskreg.clouds import brute_force_triton

    queries = torch.as_tensor(np.ascontiguousarray(points), dtype=cloud.dtype, device=cloud.device)
    if brute_force_triton.ready(cloud.device):
        squared, rows = brute_force_triton.nearest(cloud, queries)
        both = torch.stack([squared, rows.double()]).cpu().numpy()  # one transfer
        return np.sqrt(both[0]), both[1].astype(np.int64)
    # The exact mode: the form with a matrix product loses half of the digits where points nearly coincide.
    found = [
        torch.cdist(part, cloud, compute_mode="donot_use_mm_for_euclid_dist").min(dim=1) for part in queries.split(tile)
    ]
    distances = torch.cat([f.values for f in found]).cpu().numpy()
    return distances, torch.cat([f.indices for f in found]).cpu().numpy()
