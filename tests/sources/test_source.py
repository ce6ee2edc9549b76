"""`Source`: reads a box wherever it is, carries little, compares without touching voxels."""

from __future__ import annotations

import pickle
import threading
from dataclasses import replace

import dask.array as da
import numpy as np
import pytest
import zarr

from daskreg.errors import ChunkReadError, ShapeMismatchError, SourceChangedError, SourceLostError
from daskreg.geometry import Box, Grid
from daskreg.sources import handles
from daskreg.sources.in_memory import source_in_memory
from daskreg.sources.readers.zarr import READER
from daskreg.sources.stored import StoredSource, stored_source
from daskreg.volumes import open as open_volume
from daskreg.volumes import volume_of

SHAPE = (9, 10, 11)
VALUES = np.random.default_rng(0).integers(0, 2**16, SHAPE).astype("u2")


def spec(array, **changes):
    dims = ("t", "c", "z", "y", "x")[-array.ndim :]
    return replace(source_in_memory(array, name="it", dims=dims, grid=Grid(array.shape[-3:])), **changes)


@pytest.fixture
def stored(tmp_path):
    zarr.create_array(tmp_path / "a.zarr", data=VALUES, chunks=(4, 4, 4))
    return tmp_path / "a.zarr"


def source_at(path):
    volume = open_volume(path)
    return volume_of(volume).source


@pytest.fixture(params=["array", "dask", "zarr"])
def source(request, stored):
    if request.param == "zarr":
        return source_at(stored)
    return spec(da.from_array(VALUES, chunks=4) if request.param == "dask" else VALUES)


def test_reads_boxes_in_absolute_indices(source):
    for box in (Box((0, 0, 0), SHAPE), Box((3, 4, 5), (9, 5, 8)), Box((8, 9, 10), SHAPE)):
        block = source.read(box)
        assert block.dtype == np.uint16
        np.testing.assert_array_equal(block, VALUES[box.slices])


def test_restricted_reads_the_same_and_only_inside(source):
    box = Box((2, 3, 4), (7, 8, 9))
    part = pickle.loads(pickle.dumps(source.restrict(box)))
    inner = Box((3, 3, 4), (6, 8, 5))
    np.testing.assert_array_equal(part.read(inner), VALUES[inner.slices])
    assert part.shape == SHAPE
    assert part.grid == source.grid
    again = part.restrict(inner)
    np.testing.assert_array_equal(again.read(inner), VALUES[inner.slices])
    if source.carries_data:
        assert part.readable == box
        with pytest.raises(ShapeMismatchError, match="not inside"):
            part.read(Box((0, 0, 0), (1, 1, 1)))


def test_a_restricted_array_carries_its_pixels_only():
    part = spec(VALUES).restrict(Box((0, 0, 0), (2, 2, 2)))
    assert len(pickle.dumps(part)) < 1000
    lazy = da.random.default_rng(0).random((200, 200, 200), chunks=20)
    small = spec(lazy).restrict(Box((0, 0, 0), (21, 20, 20)))
    assert len(small.array.dask) < 10
    assert len(pickle.dumps(small)) < 10_000


def test_outside_and_empty_boxes(source):
    with pytest.raises(ShapeMismatchError, match="not inside"):
        source.read(Box((0, 0, 0), (10, 1, 1)))
    with pytest.raises(ShapeMismatchError, match="not inside"):
        source.read(Box((-1, 0, 0), (1, 1, 1)))
    assert source.read(Box((3, 3, 3), (3, 5, 5))).shape == (0, 2, 2)


def test_a_spec_is_small_and_holds_no_handle(stored):
    source = source_at(stored)
    source.read(Box((0, 0, 0), (1, 1, 1)))
    assert source.array is None
    assert len(pickle.dumps(source)) < 2000
    assert source.location == str(stored)
    assert spec(VALUES).location is None


def test_pick_drops_a_lead_dim_whatever_the_order():
    values = np.arange(2 * 3 * 4 * 5 * 6).reshape(2, 3, 4, 5, 6)
    whole = spec(values)
    one = whole.pick("c", 2)
    assert (one.dims, one.shape, one.lead) == (("t", "z", "y", "x"), (2, 4, 5, 6), ("t",))
    np.testing.assert_array_equal(one.read(Box.of(one.shape)), values[:, 2])
    both = one.pick("t", 1)
    np.testing.assert_array_equal(both.read(Box((1, 1, 1), (3, 4, 5))), values[1, 2, 1:3, 1:4, 1:5])
    np.testing.assert_array_equal(both.restrict(Box((1, 1, 1), (3, 4, 5))).array, values[1, 2, 1:3, 1:4, 1:5])
    # Stored as (y, t, x, c, z).
    stored = np.ascontiguousarray(values.transpose(3, 0, 4, 1, 2))
    turned = replace(whole, array=stored, order=(1, 3, 4, 0, 2))
    np.testing.assert_array_equal(turned.read(Box.of(values.shape)), values)
    for pair in (("c", "t"), ("t", "c")):
        left = turned.pick(pair[0], 1).pick(pair[1], 1)
        np.testing.assert_array_equal(left.read(Box.of(left.shape)), values[1, 1])
    cut = turned.restrict(Box((0, 1, 0, 0, 0), (2, 3, 4, 5, 6))).pick("c", 2)
    np.testing.assert_array_equal(cut.read(Box.of(cut.shape)), values[:, 2])


@pytest.mark.parametrize(
    ("given", "wanted"), [(">u2", "u2"), (">f8", "f8"), ("f2", "f4"), ("?", "?"), ("i1", "i1"), ("<i8", "i8")]
)
def test_read_gives_the_native_type(given, wanted):
    values = (VALUES % 2).astype(given)
    source = spec(values[::-1, :, ::-2], dtype=np.dtype(wanted))
    block = source.read(Box.of(source.shape))
    assert block.dtype == np.dtype(wanted)
    assert block.dtype.isnative
    np.testing.assert_array_equal(block, values[::-1, :, ::-2])


def test_equality_and_hash_never_look_at_voxels(stored):
    class Untouchable(np.ndarray):
        def __eq__(self, other):
            raise AssertionError("compared elementwise")

        __hash__ = None

    values = VALUES.view(Untouchable)
    a, b, c = spec(values), spec(values), spec(values.copy())
    assert a == b
    assert a != c
    assert hash(a) == hash(b)
    assert len({a, b, c}) == 2
    assert a != "something else"
    first, second = source_at(stored), source_at(stored)
    assert first == second == pickle.loads(pickle.dumps(first))
    assert hash(first) == hash(pickle.loads(pickle.dumps(first)))
    assert first != replace(first, grid=Grid(SHAPE, 2.0))


def test_fingerprints(stored, source):
    assert source.fingerprint() == source.fingerprint()
    assert source.fingerprint() != replace(source, grid=Grid(SHAPE, 1 + 1e-9)).fingerprint()
    assert spec(VALUES).fingerprint() == spec(VALUES.copy()).fingerprint()
    assert spec(VALUES).fingerprint() != spec(VALUES + 1).fingerprint()
    first = source_at(stored).fingerprint()
    assert source_at(stored).fingerprint() == first
    zarr.create_array(stored, data=VALUES + 1, chunks=(4, 4, 4), overwrite=True)
    assert source_at(stored).fingerprint() != first
    url = replace(source_at(stored), path="https://me:secret@host/a.zarr?sig=1")
    assert url.fingerprint() == replace(url, path="https://you:other@host/a.zarr?sig=2").fingerprint()
    assert "secret" not in repr(url)


def test_fingerprints_stay_those_of_earlier_versions():
    """Ledgers hold them: a run that was interrupted under an earlier version must resume."""
    grid = Grid((3, 4, 5), (2, 1, 0.5), (1, 2, 3), unit="um")
    space = {"dims": ("z", "y", "x"), "shape": (3, 4, 5), "dtype": np.dtype("u2"), "chunks": (2, 2, 2), "grid": grid}
    flat = StoredSource(format="zarr", path="/data/a.zarr", stamp="abc", **space)
    assert flat.fingerprint() == "bbac356d850faa83d12773140ca5426c"
    assert flat.with_policy(missing="error", corrupt="fill").fingerprint() == flat.fingerprint()
    turned = stored_source(
        ("z", "t", "y", "x", "c"),
        (3, 6, 4, 5, 2),
        format="tiff",
        path="/data/a.tif::/1",
        dtype=np.dtype("f4"),
        chunks=(1, 1, 4, 5, 1),
        lead=("t", "c"),
        grid=grid,
        stamp="1-2",
    )
    assert turned.order == (1, 4, 0, 2, 3)
    assert turned.fingerprint() == "0e17664ad84d3dc89e73dedccd5b11d9"
    assert turned.pick("c", 1).fingerprint() == "921a27d9bd4e25ec326ff56cb4e12886"
    assert turned.pick("c", 1).pick("t", 0).fingerprint() == "11703f8e526622884d8324d629879b97"
    lazy = source_in_memory(
        da.zeros((3, 4, 5), chunks=2, dtype="u2", name="zeros-1"), name="the array", dims=("z", "y", "x"), grid=grid
    )
    assert lazy.fingerprint() == "fc2de66c0cdde690f9908a944468d867"


def test_each_kind_of_source_says_what_it_is(source):
    kind = source.kind
    assert (source.in_memory, source.is_graph) == (kind == "array", kind == "dask")
    assert source.carries_data == (kind != "zarr")
    assert source.reads_into_buffers == source.decodes_in_thread == (kind == "zarr")
    assert (source.restrict(Box.of((1, 1, 1))) is source) == (kind == "zarr")
    assert bool(source.state(Box.of(SHAPE))) == (kind == "zarr")
    assert source.policy == (("fill", "error") if kind == "zarr" else ())
    out = np.empty((2, 10, 11), "f4")
    source.read_into(Box((3, 0, 0), (5, 10, 11)), out)
    np.testing.assert_array_equal(out, VALUES[3:5])


def test_handles_are_shared_bounded_and_renewed(stored, tmp_path, monkeypatch):
    handles.forget()
    count = []
    real = READER.open
    monkeypatch.setattr(type(READER), "open", lambda self, path: count.append(path) or real(path))
    monkeypatch.setattr(handles, "MAX_OPEN", 2)
    source = source_at(stored)
    threads = [threading.Thread(target=source.read, args=(Box((0, 0, 0), (2, 2, 2)),)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    opened = len(count)
    assert opened <= 8
    pickle.loads(pickle.dumps(source)).read(Box((0, 0, 0), (1, 1, 1)))
    assert len(count) == opened
    for k in range(3):
        zarr.create_array(tmp_path / f"{k}.zarr", data=VALUES)
        source_at(tmp_path / f"{k}.zarr").read(Box((0, 0, 0), (1, 1, 1)))
    assert len(handles._open) == 2
    # An array written anew at the same path is another one.
    zarr.create_array(stored, data=VALUES // 2, chunks=(3, 3, 3), overwrite=True)
    np.testing.assert_array_equal(source_at(stored).read(Box.of(SHAPE)), VALUES // 2)


def test_an_array_that_is_gone_is_named(stored):
    source = source_at(stored)
    handles.forget()
    stored.rename(stored.with_name("b.zarr"))
    with pytest.raises(SourceLostError, match=r"a\.zarr is gone"):
        source.read(Box((0, 0, 0), (1, 1, 1)))


def test_an_array_replaced_by_another_shape_is_noticed(stored):
    source = source_at(stored)
    handles.forget()
    zarr.create_array(stored, data=VALUES[:5], overwrite=True)
    with pytest.raises(SourceChangedError, match=r"shape \(5, 10, 11\) now.*open it again"):
        source.read(Box((0, 0, 0), (1, 1, 1)))


@pytest.mark.slow
@pytest.mark.parametrize("shards", [None, (8, 8, 8)])
@pytest.mark.parametrize("damage", ["empty", "truncated", "garbage"])
@pytest.mark.parametrize("compressors", [None, "auto"])
def test_a_damaged_chunk_is_named(tmp_path, shards, damage, compressors):
    path = tmp_path / "a.zarr"
    zarr.create_array(path, data=VALUES, chunks=(4, 4, 4), shards=shards, compressors=compressors)
    key = "c/0/1/0" if shards else "c/1/2/0"
    file = path / key
    content = file.read_bytes()
    rubbish = bytes(b ^ 0xA5 for b in content[: len(content) // 2])
    if damage == "garbage" and compressors is None and not shards:
        rubbish += b"more than there should be" * 100  # bytes of the right number would be values
    file.write_bytes({"empty": b"", "truncated": content[: len(content) // 2], "garbage": rubbish}[damage])
    source = source_at(path)
    good = Box((0, 0, 0), (4, 4, 4))
    np.testing.assert_array_equal(source.read(good), VALUES[good.slices])
    with pytest.raises(ChunkReadError) as caught:
        source.read(Box.of(SHAPE))
    assert key in str(caught.value)
    assert str(path) in str(caught.value)
    assert pickle.loads(pickle.dumps(caught.value)).args == caught.value.args


def test_a_missing_chunk_is_the_fill_value(stored):
    (stored / "c" / "0" / "0" / "0").unlink()
    block = source_at(stored).read(Box.of(SHAPE))
    assert not block[:4, :4, :4].any()
    np.testing.assert_array_equal(block[4:], VALUES[4:])


def test_dask_pieces_that_a_cluster_persists_are_read():
    distributed = pytest.importorskip("distributed")
    with distributed.Client(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0"
    ) as client:
        array = da.from_array(VALUES, chunks=4).persist()
        source = spec(array)
        box = Box((1, 2, 3), (6, 7, 8))
        np.testing.assert_array_equal(source.read(box), VALUES[box.slices])
        np.testing.assert_array_equal(client.submit(source.restrict(box).read, box).result(), VALUES[box.slices])
