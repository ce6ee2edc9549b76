"""Sample a NumPy block on the device of choice, and give NumPy back."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.geometry import Box, touched_box
from daskreg.kernels.sampling import halo, sample

log = logging.getLogger(__name__)

Pixels = NDArray[Any]


def sample_on(
    device: str,
    block: Pixels,
    read_box: Box,
    matrix: NDArray[np.float64],
    out_box: Box,
    *,
    order: int,
    fill: float,
    out: Pixels | None = None,
    parallel: bool = False,
) -> Pixels:
    """`sample` where `device` says: "cpu" (numba) or "cuda[:i]" (torch).

    Out of memory on a GPU, the output is cut in halves along its longest axis, as often as
    it takes; each half uploads only what it reads.
    """
    if device == "cpu":
        return np.asarray(sample(block, read_box, matrix, out_box, order=order, fill=fill, out=out, parallel=parallel))
    import torch

    target = torch.device(device)
    try:
        tensor = torch.from_numpy(block).to(target)
        result = sample(tensor, read_box, matrix, out_box, order=order, fill=fill).cpu().numpy()
    except torch.cuda.OutOfMemoryError:
        longest = int(np.argmax(out_box.shape))
        if out_box.shape[longest] < 2:
            raise
        log.warning("out of memory on %s: trying again with half of the block %s", target, out_box)
        torch.cuda.empty_cache()
        result = _halves(device, block, read_box, matrix, out_box, longest, order, fill)
    return np.asarray(result)


def _halves(  # noqa: PLR0917
    device: str,
    block: Pixels,
    read_box: Box,
    matrix: NDArray[np.float64],
    out_box: Box,
    axis: int,
    order: int,
    fill: float,
) -> Pixels:
    middle = (out_box.start[axis] + out_box.stop[axis]) // 2
    parts = []
    for a, b in ((out_box.start[axis], middle), (middle, out_box.stop[axis])):
        start, stop = list(out_box.start), list(out_box.stop)
        start[axis], stop[axis] = a, b
        half = Box(tuple(start), tuple(stop))
        read = touched_box(matrix, half, read_box.stop, halo(order)) & read_box
        index: tuple[Any, ...] = (..., *read.within(read_box).slices)
        part = np.ascontiguousarray(block[index])
        parts.append(sample_on(device, part, read, matrix, half, order=order, fill=fill))
    return np.concatenate(parts, axis=axis - out_box.ndim)
