"""Sample NumPy blocks on the device of choice, and give NumPy back. torch is loaded for a GPU only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from daskreg.sampling.sample import sample
from daskreg.sampling.tiles import Pixels, Tile


class TileSampler(Protocol):
    """What `tile_sampler` gives."""

    def put(self, tile: Tile, out: Pixels) -> None:
        """Sample `tile` into `out`, (*batch, *out_box.shape), at the latest when the context ends.

        The block may be overwritten as soon as this returns.
        """


@contextmanager
def tile_sampler(device: str, *, parallel: bool = False) -> Iterator[TileSampler]:
    """A sampler for "cpu" (numba) or "cuda[:i]" (torch); all tiles are done when the context ends.

    Args:
        parallel: use several threads for each tile (CPU).
    """
    if device == "cpu":
        yield CpuSampler(parallel)
        return
    from daskreg.sampling.tile_pipeline import thread_pipeline

    with thread_pipeline(device) as pipeline:
        yield pipeline


@dataclass(frozen=True)
class CpuSampler:
    """Samples each tile at once, in this thread or in several."""

    parallel: bool

    def put(self, tile: Tile, out: Pixels) -> None:
        direct = out if out.flags.c_contiguous else None
        result = sample(
            np.ascontiguousarray(tile.block),
            tile.read_box,
            tile.matrix,
            tile.out_box,
            order=tile.order,
            fill=tile.fill,
            edge=tile.edge,
            out=direct,
            parallel=self.parallel,
        )
        if direct is None:
            out[...] = result
