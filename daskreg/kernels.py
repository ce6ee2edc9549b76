"""Kernels: what happens to voxels in memory, on one device. No dask, no zarr.

The names below are imported when they are first used: the numba kernels and their
callers never load torch, which only the kernels for it import.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from daskreg.clouds.soft_correspondence import soft_correspondence_loss
    from daskreg.registration.metrics import lncc, mae, mi, mse, ncc
    from daskreg.registration.pose import Pose
    from daskreg.sampling.cast import cast
    from daskreg.sampling.sample import halo, sample

_HOMES = {
    "Pose": "registration.pose",
    "cast": "sampling.cast",
    "halo": "sampling.sample",
    "lncc": "registration.metrics",
    "mae": "registration.metrics",
    "mi": "registration.metrics",
    "mse": "registration.metrics",
    "ncc": "registration.metrics",
    "sample": "sampling.sample",
    "soft_correspondence_loss": "clouds.soft_correspondence",
}

__all__ = [
    "Pose",
    "cast",
    "halo",
    "lncc",
    "mae",
    "mi",
    "mse",
    "ncc",
    "sample",
    "soft_correspondence_loss",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'daskreg.kernels' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"daskreg.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
