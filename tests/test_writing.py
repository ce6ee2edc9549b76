"""`write`: the pixels, the metadata, resuming, refusing; in threads and on a real cluster."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
import xarray as xr
import zarr
from dask.utils import key_split
from distributed import Client
from ome_zarr_models.v05 import Image
from scipy import ndimage as ndi
from xxhash import xxh3_64_intdigest

import daskreg as dr
from daskreg.blocks.record.ledger import Ledger
from daskreg.blocks.reversed import upright
from daskreg.errors import (
    BlocksFailedError,
    DaskregWarning,
    LayoutMismatchError,
    MemoryBudgetError,
    MetadataWarning,
    NotAVolumeError,
    OptionError,
    OutputExistsError,
    ShapeMismatchError,
    UnsafeOutputError,
)
from daskreg.volumes import to_dataarray
from daskreg.writing import verify

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("forked_workers")]

SHAPE = (13, 97, 120)
GRID = dr.Grid(SHAPE, spacing=(2.0, 0.5, 0.5), origin=(1, -3, 4), unit="um")


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    rng = np.random.default_rng(4)
    return (ndi.gaussian_filter(rng.random(SHAPE), 1) * 60_000).astype(np.uint16)


@pytest.fixture
def client() -> Iterator[Client]:
    """A real cluster of two worker processes; not shared, since a current client is used by all."""
    with dr.connect(workers=2) as client:
        yield client


@pytest.fixture
def stored(tmp_path: Path, pixels: np.ndarray) -> Path:
    path = tmp_path / "in.zarr"
    array = zarr.create_array(path, shape=SHAPE, chunks=(4, 32, 48), dtype="u2")
    array[:] = pixels
    return path


def drift(seed: int = 0, n: int = SHAPE[0]) -> dr.SliceAffines:
    rng = np.random.default_rng(seed)
    maps = [
        dr.Affine.from_parameters(theta=t, tx=x, ty=y, centre=(48, 60)).matrix
        for t, x, y in zip(rng.normal(0, 0.1, n), rng.normal(0, 4, n), rng.normal(0, 4, n), strict=True)
    ]
    return dr.SliceAffines(np.stack(maps))


def read(path: Path, level: int = 0) -> np.ndarray:
    return zarr.open_array(path / str(level), mode="r")[:]


def test_levels_are_valid_ome_zarr_with_the_right_places(tmp_path: Path, pixels: np.ndarray) -> None:
    volume = to_dataarray(pixels, GRID)
    written = dr.write(volume, tmp_path / "a.ome.zarr", chunks=(4, 32, 32), levels=3, progress=False)
    Image.from_zarr(zarr.open_group(written.path, mode="r"))
    np.testing.assert_array_equal(read(tmp_path / "a.ome.zarr"), pixels)
    grid = GRID
    for level, factors in enumerate([(1, 1, 1), (1, 2, 2), (1, 2, 2)]):
        grid = grid.downsample(factors)
        opened = dr.open(tmp_path / "a.ome.zarr", level=level)
        assert dr.grid(opened).same(grid)
        assert dr.grid(opened).unit == "micrometer"
    means = pixels.astype(float)[:, :96].reshape(13, 48, 2, 60, 2).mean(axis=(2, 4))
    np.testing.assert_array_equal(read(tmp_path / "a.ome.zarr", 1)[:, :48], np.rint(means))
    np.testing.assert_array_equal(
        read(tmp_path / "a.ome.zarr", 1)[:, 48], np.rint(pixels[:, 96].astype(float).reshape(13, 60, 2).mean(-1))
    )


def test_labels_stay_labels_through_the_levels(tmp_path: Path) -> None:
    mask = np.zeros((40, 50), bool)
    mask[5:20, 10:30] = True
    dr.write(mask, tmp_path / "mask.zarr", levels=2, progress=False)
    assert read(tmp_path / "mask.zarr", 1).dtype == bool


def test_coarser_levels_of_integer_labels_have_no_other_labels(tmp_path):
    """Warped with order 0, or from a file that says what they are; intensities still get means."""
    rng = np.random.default_rng(6)
    labels = ndi.zoom(rng.integers(0, 60, (5, 9, 11)) * 1000, 8, order=0).astype(np.uint32)
    known = set(np.unique(labels).tolist())

    def found(path: Path) -> set[int]:
        return set(np.unique(dr.open(path, level=1).values).tolist())

    def written(array: object, name: str, **options: object) -> Path:
        dr.write(array, tmp_path / name, levels=2, progress=False, **options)
        return tmp_path / name

    push = dr.Affine.translation(x=2.4, y=-1)
    assert found(written(dr.warp(dr.open(labels), push=push, order=0), "nearest.zarr")) <= known
    assert not found(written(dr.warp(dr.open(labels), push=push, order=0), "mean.zarr", downsample="mean")) <= known
    plain = written(dr.open(labels), "plain.zarr")
    assert not found(plain) <= known
    group = zarr.open_group(plain)
    group.attrs["ome"] = {**group.attrs["ome"], "image-label": {}}
    assert found(written(dr.open(plain), "stated.zarr")) <= known
    assert np.array_equal(dr.open(tmp_path / "stated.zarr").values, labels)
    assert not found(written(dr.open(plain) * 1.0, "computed.zarr")) <= known


def test_channels_and_times_are_written(tmp_path: Path) -> None:
    data = np.random.default_rng(0).random((2, 3, 5, 20, 24)).astype(np.float32)
    written = dr.write(data, tmp_path / "tc.zarr", levels=2, progress=False)
    assert written.shapes[1] == (2, 3, 3, 10, 12)
    np.testing.assert_array_equal(dr.open(tmp_path / "tc.zarr").values, data)
    Image.from_zarr(zarr.open_group(written.path, mode="r"))


@pytest.mark.parametrize("order", [0, 1])
def test_any_chunks_shards_and_blocks_are_bit_identical(tmp_path: Path, stored: Path, order: int) -> None:
    turned = dr.Affine.from_parameters(rx=0.1, ry=-0.05, rz=0.3, tx=3, centre=(6, 48, 60))
    for name, pull in (("slices", drift()), ("volume", turned)):
        warped = dr.warp(dr.open(stored), pull=pull, order=order)
        whole = dr.warp(zarr.open_array(stored, mode="r")[:], pull=pull, order=order)
        layouts = [
            {"chunks": (1, 97, 120)},
            {"chunks": 17},
            {"chunks": (4, 16, 16), "shards": (8, 64, 32)},
            {"chunks": 32, "memory": "2 MiB"},
        ]
        for k, options in enumerate(layouts):
            path = tmp_path / f"{name}{k}.zarr"
            dr.write(warped, path, levels=1, progress=False, **options)
            np.testing.assert_array_equal(read(path), whole)


def test_one_and_two_workers_and_threads_agree(tmp_path: Path, stored: Path, client) -> None:
    warped = dr.warp(dr.open(stored), pull=drift())
    results = {}
    for name, options in {
        "threads": {"client": False},
        "cluster": {"client": client},
    }.items():
        path = tmp_path / f"{name}.zarr"
        written = dr.write(warped, path, chunks=(2, 32, 32), levels=2, progress=False, **options)
        assert written.blocks == len(Ledger(path).entries())
        results[name] = (read(path), read(path, 1))
    for a, b in zip(results["threads"], results["cluster"], strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_scheduler_forgets_the_names_of_blocks(
    tmp_path: Path, pixels: np.ndarray, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dask caches 100,000 of them, 30 MiB."""
    monkeypatch.setattr("daskreg.blocks.in_flight.NAMES_KEPT", 16)
    client.run_on_scheduler(key_split.cache_clear)
    written = dr.write(pixels, tmp_path / "out.zarr", client=client, chunks=(1, 33, 33), levels=1, progress=False)
    names = client.run_on_scheduler(lambda: key_split.cache_info().currsize)
    assert written.blocks == 156
    assert names < 100


def test_arithmetic_and_memory_sources_go_through_their_graph(tmp_path: Path, stored: Path, client) -> None:
    pixels = zarr.open_array(stored, mode="r")[:]
    brighter = dr.open(stored) // 2 + 1
    dr.write(brighter, tmp_path / "graph.zarr", chunks=32, levels=1, progress=False, client=client)
    np.testing.assert_array_equal(read(tmp_path / "graph.zarr"), pixels // 2 + 1)
    lazy = dr.warp(to_dataarray(pixels, dr.Grid(SHAPE)), pull=drift())
    dr.write(lazy, tmp_path / "memory.zarr", chunks=32, levels=1, progress=False, client=client)
    np.testing.assert_array_equal(read(tmp_path / "memory.zarr"), dr.warp(pixels, pull=drift()))
    kept = dr.open(stored).persist()
    dr.write(kept, tmp_path / "persisted.zarr", chunks=32, levels=1, progress=False, client=client)
    np.testing.assert_array_equal(read(tmp_path / "persisted.zarr"), pixels)


def test_the_ledger_has_the_checksum_of_every_file(tmp_path: Path, stored: Path) -> None:
    path = tmp_path / "out.zarr"
    dr.write(dr.open(stored), path, chunks=(4, 32, 32), shards=(8, 64, 64), levels=2, progress=False)
    recorded = {f[0]: f[1:] for e in Ledger(path).entries().values() for f in e.files}
    on_disk = {str(p.relative_to(path)): p for p in path.rglob("*") if p.is_file() and p.name != "zarr.json"}
    assert recorded.keys() == on_disk.keys()
    for key, (crc, size) in recorded.items():
        data = on_disk[key].read_bytes()
        assert (xxh3_64_intdigest(data), len(data)) == (crc, size)


def test_a_flipped_bit_is_not_read_as_data(tmp_path: Path, stored: Path) -> None:
    path = tmp_path / "out.zarr"
    dr.write(dr.open(stored), path, chunks=(4, 32, 32), levels=1, progress=False)
    victim = path / "0" / "c" / "1" / "1" / "1"
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 4
    victim.write_bytes(data)
    with pytest.raises(dr.errors.ChunkReadError):
        dr.open(path).values  # noqa: B018


def test_the_same_command_resumes_and_redoes_only_what_is_missing(tmp_path: Path, stored: Path) -> None:
    path = tmp_path / "out.zarr"
    warped = dr.warp(dr.open(stored), pull=drift())
    options = {"chunks": (2, 32, 32), "levels": 2, "progress": False}
    first = dr.write(warped, path, **options)
    expected = read(path)
    ledger = Ledger(path)
    # Forget the last lines, as if the run had been killed, and leave what a kill leaves.
    (journal,) = ledger.folder.glob("*.jsonl")
    lines = [line for line in journal.read_bytes().split(b"\n") if line]
    journal.write_bytes(b"\n".join(lines[:-3]) + b"\n" + lines[-3][:40])
    (path / "0" / "c" / "0" / "0" / f"0.{'0a' * 16}.partial").write_bytes(b"half")
    again = dr.write(warped, path, **options)
    assert (again.blocks, again.skipped, again.changed) == (3, first.blocks - 3, 0)
    assert not list(path.rglob("*.partial"))
    np.testing.assert_array_equal(read(path), expected)


def test_a_corrected_slice_redoes_only_what_it_touches(tmp_path: Path, stored: Path) -> None:
    path = tmp_path / "out.zarr"
    options = {"chunks": (2, 97, 120), "levels": 2, "progress": False}
    t = drift()
    dr.write(dr.warp(dr.open(stored), pull=t), path, **options)
    matrices = t.matrices.copy()
    matrices[7, 0, 2] += 3
    corrected = dr.warp(dr.open(stored), pull=dr.SliceAffines(matrices))
    with pytest.raises(OutputExistsError, match="1 finished blocks of level 0.*resume='changed'"):
        dr.write(corrected, path, **options)
    written = dr.write(corrected, path, resume="changed", **options)
    assert written.changed == written.blocks == 2  # its own block, and the one above it in the pyramid
    np.testing.assert_array_equal(read(path), corrected.values)


def test_another_layout_is_refused(tmp_path: Path, stored: Path) -> None:
    path = tmp_path / "out.zarr"
    dr.write(dr.open(stored), path, chunks=32, levels=1, progress=False)
    with pytest.raises(LayoutMismatchError, match="level 0 chunks is \\[13, 32, 32\\]"):
        dr.write(dr.open(stored), path, chunks=16, levels=1, progress=False)
    dr.write(dr.open(stored), path, chunks=16, levels=1, progress=False, overwrite=True)
    assert zarr.open_array(path / "0", mode="r").chunks == (13, 16, 16)


def test_another_image_takes_the_place_of_one_that_was_removed(tmp_path: Path) -> None:
    """The ledger beside it remembers blocks of the image that was there, whose last ones were cut by its border."""
    path, rng = tmp_path / "a.ome.zarr", np.random.default_rng(0)
    options = {"chunks": 16, "levels": 2, "shards": None, "progress": False}
    dr.write(xr.DataArray(rng.random((30, 40), dtype=np.float32), dims=("y", "x")), path, **options)
    shutil.rmtree(path)
    image = rng.random((40, 50), dtype=np.float32)
    dr.write(xr.DataArray(image, dims=("y", "x")), path, **options)
    np.testing.assert_array_equal(dr.open(path), image)
    np.testing.assert_allclose(dr.open(path, level=1), image.reshape(20, 2, 25, 2).mean((1, 3)), rtol=1e-6)


def test_a_run_resumes_with_its_own_blocks_wherever_it_is_taken_up(tmp_path: Path, stored: Path) -> None:
    path = tmp_path / "out.zarr"
    turned = dr.warp(dr.open(stored), pull=drift())
    first = dr.write(turned, path, chunks=(2, 32, 32), levels=1, progress=False, memory="1 MiB")
    again = dr.write(turned, path, chunks=(2, 32, 32), levels=1, progress=False, memory="4 GiB")
    assert (again.blocks, again.skipped) == (0, first.blocks)


def test_files_that_went_missing_are_made_again(tmp_path: Path, stored: Path) -> None:
    path = tmp_path / "out.zarr"
    options = {"chunks": (4, 32, 48), "levels": 1, "progress": False, "memory": "2 MiB"}
    dr.write(dr.open(stored), path, **options)
    (path / "0" / "c" / "1" / "1" / "1").unlink()
    (path / "0" / "c" / "2" / "1" / "1").write_bytes(b"")
    assert len(verify(path)) == 2
    again = dr.write(dr.open(stored), path, **options)
    assert 1 <= again.blocks <= 2
    assert verify(path) == []
    np.testing.assert_array_equal(read(path), dr.open(stored).values)
    shutil.rmtree(path)
    assert dr.write(dr.open(stored), path, **options).skipped == 0


@pytest.mark.parametrize("shards", [None, (4, 64, 96)])
def test_verify_sees_files_that_were_exchanged(tmp_path: Path, shards: object) -> None:
    """They have one size and end with their own crc32c, and decode; restored, all is well."""
    pixels = np.random.default_rng(3).integers(0, 2**16, (4, 128, 192), dtype=np.uint16)
    path = tmp_path / "out.zarr"
    dr.write(pixels, path, chunks=(4, 32, 48), shards=shards, levels=1, progress=False)
    one, other = path / "0/c/0/0/1", path / "0/c/0/1/0"
    kept = one.read_bytes(), other.read_bytes()
    assert len(kept[0]) == len(kept[1])
    one.write_bytes(kept[1])
    other.write_bytes(kept[0])
    assert not np.array_equal(read(path), pixels)
    assert verify(path) == [
        "0/c/0/0/1: its bytes have changed (checksum)",
        "0/c/0/1/0: its bytes have changed (checksum)",
    ]
    one.write_bytes(kept[0])
    other.write_bytes(kept[1])
    assert verify(path) == []


def test_a_ledger_of_an_earlier_version_is_read(tmp_path: Path, stored: Path) -> None:
    """Its lines have the crc32c of files, no session and no name of the checksum."""
    path = tmp_path / "out.zarr"
    options = {"chunks": (4, 32, 32), "levels": 1, "progress": False}
    dr.write(dr.open(stored), path, **options)
    ledger = Ledger(path)
    lines = []
    for entry in ledger.entries().values():
        data = {**entry._asdict(), "lost": asdict(entry.lost)}
        data["files"] = [(k, google_crc32c.value((path / k).read_bytes()), size) for k, _, size in entry.files]
        lines.append(json.dumps({k: v for k, v in data.items() if k not in ("session", "check")}))
    for journal in ledger.folder.glob("*.jsonl"):
        journal.unlink()
    (ledger.folder / "old.jsonl").write_text("\n".join(lines) + "\n")
    (ledger.folder / "session").write_text("0f" * 16)
    run = json.loads((ledger.folder / "run.json").read_text())
    (ledger.folder / "run.json").write_text(json.dumps({**run, "version": 1}))
    assert verify(path) == []
    again = dr.write(dr.open(stored), path, **options)
    assert (again.blocks, again.skipped) == (0, len(lines))
    (path / "0" / "c" / "2" / "1" / "1").unlink()
    again = dr.write(dr.open(stored), path, **options)
    assert (again.blocks, again.skipped) == (1, len(lines) - 1)
    assert verify(path) == []


def test_verify_names_what_is_wrong(tmp_path: Path, stored: Path) -> None:
    path = tmp_path / "out.zarr"
    dr.write(dr.open(stored), path, chunks=(4, 32, 48), levels=2, progress=False)
    assert verify(path) == []
    victim = path / "1" / "c" / "0" / "0" / "0"
    data = bytearray(victim.read_bytes())
    data[20] ^= 1
    victim.write_bytes(data)
    assert verify(path) == ["1/c/0/0/0: its bytes have changed (checksum)"]
    with pytest.raises(NotAVolumeError, match="no ledger"):
        verify(stored)


def test_what_exists_is_kept(tmp_path: Path, stored: Path, pixels: np.ndarray) -> None:
    other = tmp_path / "notes"
    other.mkdir()
    (other / "thesis.txt").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(OutputExistsError, match="daskreg did not make it"):
            dr.write(pixels, other, overwrite=overwrite, progress=False)
    assert (other / "thesis.txt").read_text() == "years of work"
    path = tmp_path / "out.zarr"
    dr.write(pixels, path, levels=1, progress=False)
    with pytest.raises(OutputExistsError, match="overwrite=True replaces it"):
        dr.write(pixels, path, levels=1, progress=False, resume=False)
    # A ledger that is left beside other data does not make that data ours.
    shutil.rmtree(path)
    other.rename(path)
    with pytest.raises(OutputExistsError, match="daskreg did not make it"):
        dr.write(pixels, path, overwrite=True, progress=False)
    assert (path / "thesis.txt").exists()


def test_a_level_that_is_lost_is_made_again(tmp_path: Path, pixels: np.ndarray) -> None:
    path = tmp_path / "out.zarr"
    dr.write(pixels, path, levels=2, progress=False)
    shutil.rmtree(path / "1")
    again = dr.write(pixels, path, levels=2, progress=False)
    assert (again.blocks, again.skipped) == (1, 1)
    assert verify(path) == []


@pytest.mark.parametrize("where", ["in.zarr", "in.zarr/out.zarr", ".", "link.zarr"])
def test_the_input_is_safe(tmp_path: Path, stored: Path, where: str) -> None:
    (tmp_path / "link.zarr").symlink_to(stored)
    before = sorted(p for p in stored.rglob("*"))
    with pytest.raises(UnsafeOutputError, match=r"in\.zarr"):
        dr.write(dr.open(stored), tmp_path / where, overwrite=True, progress=False)
    assert sorted(p for p in stored.rglob("*")) == before


def test_nothing_is_touched_when_it_cannot_fit(tmp_path: Path, stored: Path) -> None:
    with pytest.raises(MemoryBudgetError):
        dr.write(dr.open(stored), tmp_path / "out.zarr", chunks=SHAPE, memory="100 kiB", progress=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.zarr"]


@pytest.mark.parametrize("options", [{"resume": "yes"}, {"version": "0.3"}, {"downsample": "median"}])
def test_bad_options_are_named(tmp_path: Path, pixels: np.ndarray, options: dict) -> None:
    with pytest.raises(OptionError, match=next(iter(options))):
        dr.write(pixels, tmp_path / "out.zarr", progress=False, **options)
    with pytest.raises(OptionError, match="sftp://"):
        dr.write(pixels, "sftp://host/out.zarr", progress=False)


def test_clipped_voxels_are_counted(tmp_path: Path) -> None:
    image = np.array([[0, 70000.0], [np.nan, 5]], np.float32)
    cast = dr.warp(to_dataarray(image, dr.Grid(image.shape)), pull=np.eye(3), dtype="uint16")
    with pytest.warns(DaskregWarning, match="2 voxels did not fit uint16"):
        written = dr.write(cast, tmp_path / "o.zarr", progress=False)
    assert written.clipped == 2


def test_corrupt_chunks_fail_their_blocks_and_the_rest_is_kept(tmp_path: Path, stored: Path) -> None:
    victim = stored / "c" / "1" / "1" / "1"
    good = victim.read_bytes()
    victim.write_bytes(good[: len(good) // 2])
    path = tmp_path / "out.zarr"
    options = {"chunks": (4, 32, 48), "levels": 1, "progress": False}
    with pytest.raises(BlocksFailedError, match=r"1 blocks .* failed(.|\n)*block \(1, 1, 1\)"):
        dr.write(dr.open(stored), path, **options)
    victim.write_bytes(good)
    again = dr.write(dr.open(stored), path, **options)
    assert again.blocks == 1
    np.testing.assert_array_equal(read(path), dr.open(stored).values)


def test_progress_counts_every_block(tmp_path: Path, pixels: np.ndarray) -> None:
    seen: list[tuple[int, int, int]] = []
    written = dr.write(pixels, tmp_path / "o.zarr", chunks=32, levels=2, progress=lambda *a: seen.append(a))
    assert seen[-1] == (written.blocks, written.blocks, written.bytes_written)
    assert json.dumps([s[0] for s in seen if s[0]]) == json.dumps(list(range(1, written.blocks + 1)))


TURNED = dr.Affine.rotation(rx=0.3, ry=-0.2, rz=0.5).linear
DIRECTIONS = [np.diag([-1, 1, 1]), np.diag([1, -1, -1]), TURNED, TURNED @ np.diag([1, 1, -1]), np.eye(3)[[1, 0, 2]]]


@pytest.mark.filterwarnings("ignore::daskreg.errors.MetadataWarning")
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_turned_and_flipped_volumes_keep_their_place_on_every_level(tmp_path: Path, direction: np.ndarray) -> None:
    grid = dr.Grid((8, 12, 16), (2, 0.5, 0.5), (10, -3, 4), direction, "um")
    index = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), axis=-1)
    for axis in range(3):  # each voxel holds where it is
        path = tmp_path / f"{axis}.zarr"
        dr.write(to_dataarray(grid.world(index)[..., axis], grid), path, chunks=4, levels=3, progress=False)
        assert dr.grid(dr.open(path)).same(upright(grid))
        for level in range(3):
            opened = dr.open(path, level=level)
            there = np.stack(np.meshgrid(*map(np.arange, opened.shape), indexing="ij"), axis=-1)
            np.testing.assert_allclose(opened.values, dr.grid(opened).world(there)[..., axis], atol=1e-9)
    warped = dr.warp(dr.open(path), pull=dr.Affine.rotation(rx=0.1, centre=grid.centre))[:, ::-1, 2:9]
    dr.write(warped, tmp_path / "w.zarr", levels=1, progress=False)
    again = dr.open(tmp_path / "w.zarr")
    assert dr.grid(again).same(upright(dr.grid(warped)))
    ascending = {d: slice(None, None, -1) for d in warped.dims if warped[d][0] > warped[d][-1]}
    back = warped.isel(ascending) if "direction" not in warped.attrs else warped
    np.testing.assert_array_equal(again.values, back.values)


def test_times_and_the_names_of_channels_are_kept(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((3, 2, 4, 20, 30)).astype(np.float32)
    coords = {"t": ("t", [1.0, 1.5, 2.0], {"units": "s"}), "c": ["DAPI", "GFP"]}
    volume = xr.DataArray(values, dims=tuple("tczyx"), coords=coords)
    dr.write(dr.warp(dr.open(volume), pull=dr.Affine.translation(x=1)), tmp_path / "a.zarr", levels=2, progress=False)
    Image.from_zarr(zarr.open_group(tmp_path / "a.zarr", mode="r"))
    for level in (0, 1):
        opened = dr.open(tmp_path / "a.zarr", level=level)
        assert opened.t.values.tolist() == [1.0, 1.5, 2.0]
        assert opened.t.attrs["units"] == "second"
        assert opened.c.values.tolist() == ["DAPI", "GFP"]
    assert dr.open(tmp_path / "a.zarr", channel="GFP").dims == ("t", "z", "y", "x")
    with pytest.warns(MetadataWarning, match="axis t do not rise in equal steps"):
        dr.write(volume.assign_coords(t=[1, 2, 9]), tmp_path / "b.zarr", levels=1, progress=False)


@pytest.mark.parametrize("dims", ["yx", "zyx", "cyx", "tzyx", "tcyx", "qyx", "ab", "szyx"])
def test_axes_of_all_kinds_are_valid(tmp_path: Path, dims: str) -> None:
    values = np.random.default_rng(0).random((2, 3, 4, 20, 30)[-len(dims) :]).astype(np.float32)
    dr.write(xr.DataArray(values, dims=tuple(dims)), tmp_path / "a.zarr", levels=2, progress=False)
    Image.from_zarr(zarr.open_group(tmp_path / "a.zarr", mode="r"))
    assert dr.open(tmp_path / "a.zarr").dims == tuple(dims)
    np.testing.assert_array_equal(dr.open(tmp_path / "a.zarr").values, values)


@pytest.mark.parametrize("dims", ["x", "uvzyx", "utczyx"])
def test_axes_without_room_are_refused(tmp_path: Path, dims: str) -> None:
    with pytest.raises(ShapeMismatchError, match="at most one of time"):
        dr.plan(xr.DataArray(np.ones((2,) * len(dims)), dims=tuple(dims)), tmp_path / "a.zarr")
