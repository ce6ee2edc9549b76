"""`Tile`: what `sample` takes, for a sampler that takes one tile after another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.geometry import Box
from daskreg.sampling.displacements import Displaced

Pixels = NDArray[Any]


@dataclass(frozen=True)
class Tile:
    """The arguments of `sample` for one tile.

    Args:
        block: (*batch, *read_box.shape), the voxels of the source in `read_box`.
        matrix: (D+1, D+1), from indices of the output to indices of the source; or `Displaced`.
        out_box: the voxels of the output.
    """

    block: Pixels
    read_box: Box
    matrix: NDArray[np.float64] | Displaced
    out_box: Box
    order: int
    fill: float
    edge: str = "fill"
