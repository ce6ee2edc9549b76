"""Chunks read and written here are those that zarr-python reads and writes, and faults are found."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import zarr
from xxhash import xxh3_64_intdigest
from zarr.codecs import BloscCodec, Crc32cCodec, GzipCodec, ShardingCodec, TransposeCodec, ZstdCodec

import daskreg as dr
from daskreg.blocks.level_writer import LevelWriter
from daskreg.blocks.record.ledger import Ledger
from daskreg.errors import ChunkReadError
from daskreg.geometry import Box
from daskreg.sources.storage import folder_bytes
from daskreg.sources.storage import retrying as stores
from daskreg.sources.storage.direct_chunks import direct_chunks
from daskreg.sources.storage.retrying import retries
from daskreg.sources.storage.stores import open_store

SHAPE, CHUNKS, SHARDS = (19, 33, 41), (8, 16, 16), (8, 32, 48)
BITS = BloscCodec(cname="zstd", clevel=1, shuffle="bitshuffle")
COMPRESSORS = {
    "plain": [],
    "blosc": [BITS],
    "blosc, crc32c": [BITS, Crc32cCodec()],
    "zstd": [ZstdCodec(level=1)],
    "crc32c": [Crc32cCodec()],
}


def pixels(dtype: str = "u2") -> np.ndarray:
    return (np.random.default_rng(0).random(SHAPE) * 200).astype(dtype)


def random_boxes(count: int) -> list[Box]:
    rng = np.random.default_rng(1)
    starts = [tuple(int(rng.integers(0, n)) for n in SHAPE) for _ in range(count)]
    return [Box(s, tuple(int(rng.integers(a + 1, n + 1)) for a, n in zip(s, SHAPE, strict=True))) for s in starts]


def stored(path: Path, **options: Any) -> zarr.Array[Any]:
    values = pixels(options.pop("dtype", "u2"))
    array = zarr.create_array(open_store(path, "w"), shape=SHAPE, dtype=values.dtype, chunks=CHUNKS, **options)
    array[:] = values
    return array


@pytest.mark.slow
@pytest.mark.parametrize("shards", [None, SHARDS])
@pytest.mark.parametrize("name", COMPRESSORS)
@pytest.mark.parametrize("dtype", ["u1", "u2", "f4", "f8", "bool"])
def test_reads_what_zarr_wrote(tmp_path: Path, dtype: str, name: str, shards: Any) -> None:
    array = stored(tmp_path, dtype=dtype, compressors=COMPRESSORS[name], shards=shards)
    found = direct_chunks(array)
    assert found is not None
    for box in [*random_boxes(6), Box.of(SHAPE)]:
        np.testing.assert_array_equal(found.read(box), pixels(dtype)[box.slices])


@pytest.mark.parametrize("compressor", [numcodecs.Blosc(), numcodecs.Zstd(), None])
def test_reads_zarr_v2(tmp_path: Path, compressor: Any) -> None:
    found = direct_chunks(stored(tmp_path, zarr_format=2, filters=None, compressors=compressor))
    assert found is not None
    for box in random_boxes(6):
        np.testing.assert_array_equal(found.read(box), pixels()[box.slices])


@pytest.mark.parametrize("shards", [None, SHARDS])
@pytest.mark.parametrize("name", COMPRESSORS)
def test_zarr_reads_what_was_written_here(tmp_path: Path, name: str, shards: Any) -> None:
    """Byte for byte the files that zarr writes, those at the far ends included."""
    one, two = tmp_path / "one", tmp_path / "two"
    stored(one / "0", compressors=COMPRESSORS[name], shards=shards, fill_value=7)
    zarr.create_array(
        two / "0", shape=SHAPE, dtype="u2", chunks=CHUNKS, compressors=COMPRESSORS[name], shards=shards, fill_value=7
    )
    facts = {"number of levels": 1, "level 0 shape": SHAPE, "level 0 chunks": CHUNKS, "level 0 dtype": "<u2"}
    (tmp_path / "two.daskreg").mkdir()
    Ledger(str(two)).create({"facts": {"format": "ome-zarr 0.5", **facts}, "run": "a", "blocks": []})
    writer, whole = LevelWriter(str(two), 0), Box.of(SHAPE)
    files = writer.write(whole, (pixels()[part.slices] for slab in writer.parts(whole) for part in slab))
    for key, (crc, size) in files.items():
        data = (two / key).read_bytes()
        assert (xxh3_64_intdigest(data), len(data)) == (crc, size)
        if shards is None:
            assert data == (one / key).read_bytes(), key
    np.testing.assert_array_equal(zarr.open_array(two / "0", mode="r")[:], pixels())
    assert {str(p.relative_to(two)) for p in (two / "0" / "c").rglob("*") if p.is_file()} == set(files)


def test_missing_chunks_are_fill(tmp_path: Path) -> None:
    array = stored(tmp_path, fill_value=9)
    (tmp_path / "c" / "1" / "1" / "1").unlink()
    got, expected = direct_chunks(array), pixels()
    expected[8:16, 16:32, 16:32] = 9
    assert got is not None
    np.testing.assert_array_equal(got.read(Box.of(SHAPE)), expected)


@pytest.mark.parametrize(
    "options",
    [
        {"compressors": [GzipCodec()]},
        {"filters": [TransposeCodec(order=(2, 1, 0))]},
        {"serializer": zarr.codecs.BytesCodec(endian="big")},
        {"zarr_format": 2, "order": "F"},
        {"zarr_format": 2, "filters": [numcodecs.Delta("u2")]},
        {"serializer": ShardingCodec(chunk_shape=(4, 8, 8), index_location="start"), "compressors": None},
    ],
)
def test_the_rest_is_left_to_zarr(tmp_path: Path, options: dict[str, Any]) -> None:
    array = stored(tmp_path, **options)
    assert direct_chunks(array) is None
    np.testing.assert_array_equal(dr.open(tmp_path).values, pixels())


def test_other_stores_are_left_to_zarr(tmp_path: Path) -> None:
    assert direct_chunks(zarr.create_array({}, shape=(4,), dtype="u2")) is None
    array = zarr.create_array(open_store("memory://daskreg-chunks/a", "w"), shape=(4,), dtype="u2")
    assert direct_chunks(array) is None


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 16]) + data[middle + 1 :]


def none_left(data: bytes) -> bytes:
    return b""


@pytest.mark.slow
@pytest.mark.parametrize("shards", [None, SHARDS])
@pytest.mark.parametrize("name", ["blosc, crc32c", "crc32c"])
@pytest.mark.parametrize("damage", [cut, flipped, none_left])
def test_damage_is_found_and_named(tmp_path: Path, damage: Any, name: str, shards: Any) -> None:
    stored(tmp_path, compressors=COMPRESSORS[name], shards=shards)
    file = tmp_path / "c" / "1" / "1" / "0"
    file.write_bytes(damage(file.read_bytes()))
    volume = dr.open(tmp_path)
    with pytest.raises(ChunkReadError, match="chunk c/1/1/0 of"):
        volume.compute()


@pytest.mark.parametrize("name", ["plain", "blosc", "zstd"])
def test_a_chunk_that_is_cut_off_is_found_without_a_checksum(tmp_path: Path, name: str) -> None:
    stored(tmp_path, compressors=COMPRESSORS[name])
    file = tmp_path / "c" / "1" / "1" / "0"
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(ChunkReadError, match="chunk c/1/1/0 of"):
        dr.open(tmp_path).compute()


def test_each_call_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fails a fifth of all reads and writes costs time, nothing else."""
    monkeypatch.setattr(stores, "FIRST_DELAY", 1e-4)
    monkeypatch.setattr(stores, "LONGEST_DELAY", 1e-3)
    rng = np.random.default_rng(0)
    calls = [0]

    def failing(function: Any) -> Any:
        def run(*args: Any, **options: Any) -> Any:
            calls[0] += 1
            if rng.random() < 0.2:
                raise OSError(errno.EIO, "the network is away")
            return function(*args, **options)

        return run

    stored(tmp_path / "in.zarr", compressors=COMPRESSORS["blosc, crc32c"])
    source = dr.open(tmp_path / "in.zarr")
    for name in ("open_inside", "replace_file"):
        monkeypatch.setattr(folder_bytes, name, failing(getattr(folder_bytes, name)))
    before = retries()
    dr.write(source, tmp_path / "out.zarr", chunks=CHUNKS, levels=1, progress=False, client=False)
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "out.zarr" / "0", mode="r")[:], pixels())
    assert calls[0] > 40
    assert 0.05 * calls[0] < retries() - before < 0.45 * calls[0]


def test_a_write_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    file = tmp_path / "c"
    file.write_bytes(b"old")

    class Failing:
        def __len__(self) -> int:
            return 3

    with pytest.raises(TypeError):
        folder_bytes.replace_file(file, [b"new", Failing()])
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]
