"""The bounds of vectors in any part of a field."""

from __future__ import annotations

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray

from daskreg.fields.bounds import TILE, vector_bounds
from daskreg.geometry import Box
from daskreg.sources import Source
from daskreg.volumes import volume_of


class Counted:
    """A source that counts how often each voxel of whole chunks is decoded."""

    def __init__(self, source: Source) -> None:
        self.source, self.shape, self.chunks = source, source.shape, source.chunks
        self.dtype, self.path = source.dtype, source.path
        self.decoded = 0

    def read(self, box: Box) -> NDArray[np.float32]:
        ends = zip(box.start, box.stop, self.chunks, strict=True)
        self.decoded += int(np.prod([(-(-stop // n) - start // n) for start, stop, n in ends]))
        return self.source.read(box)


@pytest.mark.parametrize(
    ("shape", "chunks", "lead"),
    [
        ((3, 31, 5, 70), (3, 8, 5, 16), 0),
        ((3, 31, 45, 70), (1, 31, 45, 70), 0),
        ((11, 2, 33, 41), (2, 2, 16, 48), 1),
        ((2, 157, 203), (2, 40, 203), 0),
        ((3, 7, 6, 5), (3, 7, 6, 5), 0),
    ],
)
def test_each_chunk_is_decoded_once_for_the_bounds_of_all_tiles(
    shape: tuple[int, ...], chunks: tuple[int, ...], lead: int
) -> None:
    vectors = np.random.default_rng(3).normal(size=shape).astype(np.float32)
    stored = zarr.create_array(zarr.storage.MemoryStore(), shape=shape, chunks=chunks, dtype="f4")
    stored[:] = vectors
    source = Counted(volume_of(stored).source)
    found = vector_bounds(source, lead)  # type: ignore[arg-type]
    least, most = vectors, vectors
    for axis in range(lead + 1, len(shape)):
        edges = np.arange(0, shape[axis], TILE)
        least, most = np.minimum.reduceat(least, edges, axis), np.maximum.reduceat(most, edges, axis)
    np.testing.assert_array_equal(found.lower, np.moveaxis(least, lead, 0))
    np.testing.assert_array_equal(found.upper, np.moveaxis(most, lead, 0))
    assert source.decoded == int(np.prod([-(-n // chunk) for n, chunk in zip(shape, chunks, strict=True)]))
