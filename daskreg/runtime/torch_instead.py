"""Small images are registered by torch, as on a GPU, in a process that would first have to compile.

Compiled code is faster, but takes some seconds to compile on a machine where it was not used before; torch takes a
tenth of a second for a pair of 256 x 256 voxels. Both give the same up to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

SMALL = 2**16
"""Voxels of an image up to which waiting for compilation takes longer than torch does."""

_instead: ContextVar[bool] = ContextVar("torch_instead", default=False)


@contextmanager
def torch_instead(wanted: bool) -> Iterator[None]:
    """In this block, where wanted, `uses_compiled` is false. Threads that begin in it do not know of it."""
    token = _instead.set(wanted)
    try:
        yield
    finally:
        _instead.reset(token)


def uses_compiled(values: Tensor) -> bool:
    """Whether compiled code takes these values: those of a CPU, unless in `torch_instead`."""
    return values.device.type == "cpu" and not _instead.get()
