"""The pieces of registration that users put into their own torch code, under their public names.

They compute on arrays and tensors in memory, without dask or zarr. Each name is imported when it is
first used, so that those that do not need torch do not load it.
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
    from daskreg.tomography.projector.posed import backproject, project, projection_matrices

_HOMES = {
    "Pose": "registration.pose",
    "backproject": "tomography.projector.posed",
    "cast": "sampling.cast",
    "halo": "sampling.sample",
    "lncc": "registration.metrics",
    "mae": "registration.metrics",
    "mi": "registration.metrics",
    "mse": "registration.metrics",
    "ncc": "registration.metrics",
    "project": "tomography.projector.posed",
    "projection_matrices": "tomography.projector.posed",
    "sample": "sampling.sample",
    "soft_correspondence_loss": "clouds.soft_correspondence",
}

__all__ = [
    "Pose",
    "backproject",
    "cast",
    "halo",
    "lncc",
    "mae",
    "mi",
    "mse",
    "ncc",
    "project",
    "projection_matrices",
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
