"""Slices are read in bounded pieces, each chunk once, and downsampled with respect to masks."""

from __future__ import annotations

import numpy as np
import pytest
import zarr
from phantoms import block_mean

import daskreg as dr
from daskreg.geometry import Grid
from daskreg.registration.pose import Pose
from daskreg.sources import Source
from daskreg.sources.in_memory import source_in_memory
from daskreg.stacks import slice_reader
from daskreg.stacks.checkpoint import key_of
from daskreg.stacks.pair_registration import PairOptions
from daskreg.stacks.slice_reader import SliceReader
from daskreg.stacks.spans import StackSpec
from daskreg.volumes import to_dataarray, volume_of


@pytest.fixture
def volume():
    return np.random.default_rng(0).random((20, 50, 64)).astype("f4")


def reads(monkeypatch):
    """Boxes that are read from now on, in order."""
    boxes = []
    read = Source.read

    def recorded(self, box):
        boxes.append(box)
        return read(self, box)

    monkeypatch.setattr(Source, "read", recorded)
    return boxes


def test_slices_along_any_axis(volume):
    source = volume_of(volume).source
    for stack in range(3):
        reader = SliceReader.of(source, stack)
        assert reader.count == volume.shape[stack]
        moved = np.moveaxis(volume, stack, 0)
        assert reader.grid.shape == moved.shape[1:]
        wanted = [5, 0, reader.count - 1, 6]
        assert np.array_equal(reader.read(wanted), moved[wanted])


def test_downsampled_slices_are_block_means_at_their_position(volume):
    source = volume_of(to_dataarray(volume, Grid(volume.shape, (2, 0.5, 0.25), (1, 2, 3), unit="um"))).source
    reader = SliceReader.of(source, 0, most=20)
    assert reader.factors == (2, 2)
    assert np.allclose(reader.read([3])[0], block_mean(volume[3], (2, 2)), atol=1e-6)
    assert reader.grid == Grid((25, 32), (1.0, 0.5), (2.25, 3.125), unit="um", axes=("y", "x"))


@pytest.mark.parametrize(
    ("shape", "factors"),
    [((2047, 2047), (1, 1)), ((2048, 2049), (2, 2)), ((160, 20001), (1, 1)), ((1001, 30001), (5, 5)),
     ((20001, 20003), (19, 19)), ((101, 4001, 2047), (1, 3, 1)), ((5, 3_000_001), (1, 4)), ((3_000_001, 9), (7, 1)),
     ((21, 4_000_003), (2, 11)), ((1, 21, 4_000_003), (1, 2, 11)), ((7, 7), (1, 1))],
)  # fmt: skip
def test_large_slices_are_reduced_by_their_number_of_voxels(shape, factors):
    assert slice_reader._factors(shape, 1024) == factors
    reduced = [n // f for n, f in zip(shape, factors, strict=True)]
    assert all(r >= min(n, 8) for r, n in zip(reduced, shape, strict=True)), "enough for shifts along each axis"
    assert sum(n > 1 for n in shape) == 3 or np.prod(reduced) <= 2048**2, "of bounded memory"


def test_nan_and_masked_voxels_are_ignored(volume):
    volume[4, 10:12, 10:13] = np.nan
    volume[4, 0, 0] = np.inf
    mask = np.ones(volume.shape[1:], bool)
    mask[20:30, 21:30] = False
    source = volume_of(volume).source
    dims = source.dims[1:]
    cover = source_in_memory(mask, name="mask", dims=dims, grid=source.grid.take((1, 2)))
    got = SliceReader.of(source, 0, mask=cover, most=20).read([4])[0]
    valid = np.where(np.isfinite(volume[4]) & mask, volume[4], np.nan).reshape(25, 2, 32, 2)
    with np.errstate(invalid="ignore"):
        counts = np.isfinite(valid).sum(axis=(1, 3))
        expected = np.where(counts > 0, np.nansum(valid, axis=(1, 3)) / np.maximum(counts, 1), np.nan)
    assert np.allclose(got, expected, equal_nan=True, atol=1e-6)
    assert np.isnan(got).any()


def test_each_chunk_is_read_once(volume, tmp_path, monkeypatch):
    zarr.create_array(tmp_path / "a.zarr", data=volume, chunks=(10, 25, 64))
    source = volume_of(dr.open(tmp_path / "a.zarr")).source
    reader = SliceReader.of(source, 0)
    boxes = reads(monkeypatch)
    for i in range(reader.count):
        reader.read([max(0, i - 1), i])
    assert len(boxes) <= 2
    assert sum(b.size for b in boxes) == volume.size


def test_pieces_are_bounded(volume, monkeypatch):
    monkeypatch.setattr(slice_reader, "TILE_BYTES", 4 * 16 * 64 * 5)
    monkeypatch.setattr(slice_reader, "CACHE_BYTES", 4 * 25 * 32 * 3 * 4)
    source = volume_of(volume).source
    reader = SliceReader.of(source, 0, most=25)
    assert reader.depth == 4
    boxes = reads(monkeypatch)
    full = np.stack([block_mean(s, (2, 2)) for s in volume])
    for i in (0, 7, 19):
        assert np.allclose(reader.read([i])[0], full[i], atol=1e-6)
    assert all(4 * b.size <= slice_reader.TILE_BYTES for b in boxes)
    assert len(reader._blocks) <= 3


def test_the_array_is_not_written_to(volume):
    before = volume.copy()
    mask = np.zeros(volume.shape, bool)
    mask[:, :5] = True
    cover = source_in_memory(mask, name="mask", dims=("z", "y", "x"), grid=Grid(mask.shape))
    SliceReader.of(volume_of(volume).source, 0, mask=cover).read([0])
    assert np.array_equal(volume, before)


def test_numbers_beyond_float32_keep_their_contrast(volume):
    large = volume.astype("f8") + 1e9
    read = SliceReader.of(volume_of(large).source, 0).read([0, 1])
    assert np.allclose(read - read.mean(), volume[:2] - volume[:2].mean(), atol=1e-6)


def test_the_key_of_a_checkpoint_contains_the_factors_of_large_slices(monkeypatch):
    options = PairOptions(Pose.of("translation", 2))

    def key(shape):
        source = volume_of(np.zeros(shape, np.uint8)).source
        return key_of(StackSpec(source, 0, None, options, 2))

    shapes = ((3, 21, 2047), (3, 13, 2048), (3, 2301, 17))
    before = [key(shape) for shape in shapes]
    assert before == [key(shape) for shape in shapes]
    monkeypatch.setattr(slice_reader, "_factors", lambda shape, most: tuple(max(1, n // most) for n in shape))
    assert [key(shape) == one for shape, one in zip(shapes, before, strict=True)] == [True, False, False]
