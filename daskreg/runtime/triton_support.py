"""What all kernels in Triton need: whether they run on a device, and the device that they are launched on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch

log = logging.getLogger(__name__)


def kernels_run(what: str, device: torch.device, trial: Callable[[], object]) -> bool:
    """Whether kernels can be compiled and run on a device. Where they cannot, the log says so.

    Args:
        what: the kernels compute, for the log.
        trial: runs one of them.
    """
    if device.type != "cuda":
        return False
    try:
        trial()
    except Exception as error:
        log.warning("%s on %s by torch: Triton cannot compile (%s)", what, device, error)
        return False
    return True


def launched_on(device: torch.device) -> AbstractContextManager[object]:
    """Triton launches on the current GPU; its interpreter needs none."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
