"""Tiles that go to a device and back have the voxels of one call; here the device is a CPU."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from daskreg.geometry import Affine, Box
from daskreg.kernels import sample
from daskreg.sampling import tile_pipeline as module
from daskreg.sampling.tile_pipeline import TilePipeline
from daskreg.sampling.tile_sampler import tile_sampler
from daskreg.sampling.tiles import Tile

CPU = torch.device("cpu")
TURN = Affine.rotation(0.3, centre=(20, 25)).matrix
TILT = Affine.from_parameters({"rx": 0.2, "rz": 0.3, "tx": 1.5}, ndim=3, centre=(6, 20, 25)).matrix


def piece_of(shape: tuple[int, ...], matrix: np.ndarray, dtype: str, order: int) -> Tile:
    block = (np.random.default_rng(0).random(shape) * 200).astype(dtype)
    read = Box.of(shape[len(shape) - len(matrix) + 1 :])
    return Tile(block, read, matrix, Box(tuple(n // 5 for n in read.shape), read.shape), order, 7.0)


def alone(piece: Tile) -> Any:
    return sample(piece.block, piece.read_box, piece.matrix, piece.out_box, order=piece.order, fill=piece.fill)


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("matrix", [TURN, TILT], ids=["slices", "volume"])
def test_tiles_have_the_voxels_of_the_whole(matrix: np.ndarray, dtype: str, order: int) -> None:
    piece = piece_of((12, 40, 50), matrix, dtype, order)
    out = np.zeros_like(alone(piece))
    pipeline = TilePipeline(CPU, tile_bytes=4000)
    pipeline.put(piece, out)
    pipeline.finish()
    np.testing.assert_array_equal(out, alone(piece))


@pytest.mark.parametrize("shape", [(32, 40, 50), (1, 40, 50), (1, 1, 50), (20, 64), (4, 64)])
def test_rows_are_cut_last(shape: tuple[int, ...]) -> None:
    """Down to single voxels: first between rows, until so few are left that a row is longer."""
    box = Box.of(shape)
    todo = [(Tile(np.zeros(shape), box, np.eye(len(shape) + 1), box, 0, 0.0), np.zeros(shape))]
    seen = []
    while todo:
        piece, out = todo.pop()
        seen.append(out.shape)
        todo += (module._halves(piece, out) or [])[:1]
    cuts = [shape for shape in seen if shape[-1] < box.shape[-1]]
    assert all(max(n[:-1]) < 16 for n in cuts)
    assert seen[-1] == (1,) * len(shape)


def test_many_tiles_share_a_few_streams() -> None:
    pieces = [piece_of((12, 40, 50), TURN @ Affine.translation(x=k, y=0).matrix, "float32", 1) for k in range(9)]
    outs = [np.zeros_like(alone(p)) for p in pieces]
    pipeline = TilePipeline(CPU, streams=2)
    for piece, out in zip(pieces, outs, strict=True):
        pipeline.put(piece, out)
    pipeline.finish()
    for piece, out in zip(pieces, outs, strict=True):
        np.testing.assert_array_equal(out, alone(piece))


@pytest.mark.parametrize("matrix", [TURN, TILT], ids=["slices", "volume"])
def test_out_of_memory_halves_the_tile(
    matrix: np.ndarray, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    piece = piece_of((12, 40, 50), matrix, "float32", 1)
    expected, out = alone(piece), np.zeros_like(alone(piece))
    sizes = []

    def small_card(block: Any, *args: Any, **options: Any) -> Any:
        if block.numel() > 3000:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        sizes.append(block.numel())
        return sample(block, *args, **options)

    monkeypatch.setattr(module, "sample", small_card)
    with caplog.at_level(logging.WARNING):
        pipeline = TilePipeline(CPU)
        pipeline.put(piece, out)
        pipeline.finish()
    np.testing.assert_array_equal(out, expected)
    assert len(sizes) > 4
    assert "half of the tile" in caplog.text


def test_a_card_too_small_for_a_voxel_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_card(*args: Any, **options: Any) -> Any:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(module, "sample", no_card)
    piece = piece_of((2, 5, 5), TURN, "float32", 1)
    pipeline = TilePipeline(CPU)
    pipeline.put(piece, np.zeros_like(alone(piece)))  # sent, and not begun
    with pytest.raises(torch.cuda.OutOfMemoryError, match="no room for a single voxel"):
        pipeline.finish()


@pytest.mark.parametrize("streams", [1, 2, 3])
def test_blocks_may_be_overwritten_at_once(streams: int) -> None:
    pieces = [piece_of((12, 40, 50), TURN @ Affine.translation(x=k, y=0).matrix, ">u2", 1) for k in range(7)]
    outs = [np.zeros_like(alone(p)) for p in pieces]
    pipeline = TilePipeline(CPU, streams=streams, tile_bytes=20_000)
    for piece, out in zip(pieces, outs, strict=True):
        block = piece.block.copy()
        pipeline.put(replace(piece, block=block), out)
        block[...] = 7
    pipeline.finish()
    for piece, out in zip(pieces, outs, strict=True):
        np.testing.assert_array_equal(out, alone(piece))


def test_on_cpu_writes_into_any_array() -> None:
    piece = piece_of((12, 40, 50), TURN, "uint16", 1)
    expected = alone(piece)
    wide = np.zeros((*expected.shape, 2), expected.dtype)
    with tile_sampler("cpu") as sampler:
        sampler.put(piece, wide[..., 0])
    np.testing.assert_array_equal(wide[..., 0], expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_on_a_gpu() -> None:
    piece = piece_of((12, 40, 50), TILT, "float32", 1)
    out = np.zeros_like(alone(piece))
    with tile_sampler("cuda") as sampler:
        sampler.put(piece, out)
    np.testing.assert_allclose(out, alone(piece), atol=1e-3)
