"""Kernels: what happens to voxels in memory, on one device. No dask, no zarr.

The names below are imported when they are first used: the numba kernels and their
callers never load torch, which only the kernels for it import.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from daskreg.kernels.casting import cast as cast
    from daskreg.kernels.icp_soft import soft_correspondence_loss as soft_correspondence_loss
    from daskreg.kernels.metrics import lncc as lncc
    from daskreg.kernels.metrics import mae as mae
    from daskreg.kernels.metrics import mi as mi
    from daskreg.kernels.metrics import mse as mse
    from daskreg.kernels.metrics import ncc as ncc
    from daskreg.kernels.pose import Pose as Pose
    from daskreg.kernels.sampling import halo as halo
    from daskreg.kernels.sampling import sample as sample

_HOMES = {
    "Pose": "pose",
    "cast": "casting",
    "halo": "sampling",
    "lncc": "metrics",
    "mae": "metrics",
    "mi": "metrics",
    "mse": "metrics",
    "ncc": "metrics",
    "sample": "sampling",
    "soft_correspondence_loss": "icp_soft",
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
    value = getattr(importlib.import_module(f"daskreg.kernels.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
