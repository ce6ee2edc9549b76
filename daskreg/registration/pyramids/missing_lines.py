"""Thin lines without a value at regular distances, such as the dead rows of a detector: values to smooth with.

Smoothing over a mask averages what is on one side of a masked line more than what is on the other, which moves the
voxels beside it. Over the few edges of a gap this adds up to nothing; where every few lines are masked, it moves a
registration by tenths of a voxel. So such lines are given interpolated values, which take part in smoothing and in the
means of coarser levels; on the finest level they are counted as missing, unless little else is left.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# The share of the lines of an axis from which missing ones are filled, and up to which they can be; the longest run.
_MANY, _MOST, _THIN = 0.04, 0.7, 2
# The share of the voxels from which filled ones count.
_COUNTING = 0.4


def fill_missing_lines(values: Tensor, missing: Tensor, masked: Tensor | None = None) -> Tensor | None:
    """Overwrite missing lines by polynomials through the two nearest lines on either side, where these have values.

    Args:
        values: (B, *shape), finite. missing: (B, *shape) bool.
        masked: (B or 1, *shape) bool, what does not count for another reason and is not to be interpolated from.

    Returns: (B, *shape) bool, what was filled; None where nothing was.
    """
    filled: Tensor | None = None
    unknown = missing if masked is None else missing | masked
    for axis in range(1, values.ndim):
        lines = missing.movedim(axis, 1).flatten(2).all(-1).cpu().numpy()
        for image, its_lines in enumerate(lines):
            if not _MANY <= its_lines.mean() <= _MOST:
                continue
            rows, absent = (t[image].movedim(axis - 1, 0) for t in (values, unknown))
            known = np.flatnonzero(~its_lines)
            for line in np.flatnonzero(its_lines).tolist():
                last = int(np.searchsorted(known, line))
                if not 0 < last < len(known) or known[last] - known[last - 1] > _THIN + 1:
                    continue
                near = known[max(0, last - 2) : last + 2]
                through = sum(w * rows[k] for w, k in zip(_lagrange(near, line), near.tolist(), strict=True))
                has_values = ~absent[near.tolist()].any(0)
                rows[line] = torch.where(has_values, through, rows[line])
                filled = torch.zeros_like(missing) if filled is None else filled
                filled[image].movedim(axis - 1, 0)[line] |= has_values
    return filled


def mostly_filled(filled: Tensor) -> Tensor:
    """(B,) whether filled voxels are so many that they count."""
    return filled.flatten(1).to(torch.float32).mean(1) > _COUNTING


def _lagrange(nodes: NDArray[np.intp], at: int) -> list[float]:
    """The weights of values at `nodes` in the polynomial through them."""
    return [float(np.prod([(at - b) / (a - b) for b in nodes if b != a])) for a in nodes]
