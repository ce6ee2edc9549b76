"""Retries: a store that fails now and then is read and written all the same."""

from __future__ import annotations

import errno
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import LocalStore, MemoryStore, WrapperStore

from daskreg.errors import MissingExtraError
from daskreg.sources.storage import retrying as stores
from daskreg.sources.storage.retrying import EmptyValueError, RetryingStore, retries
from daskreg.sources.storage.stores import open_store


class Flaky(WrapperStore):
    """Raises an OSError on a share of its calls; `calls` counts them."""

    def __init__(self, store, share=0.2, error=None, seed=0):
        super().__init__(store)
        self.share, self.error, self.random, self.calls = share, error, random.Random(seed), 0

    def with_read_only(self, read_only=False):  # zarr's own has this from 3.1.6 on
        return type(self)(self._store.with_read_only(read_only))

    def fail(self):
        self.calls += 1
        if self.random.random() < self.share:
            raise self.error or OSError(errno.EIO, "the network is away")

    async def get(self, *args, **kwargs):
        self.fail()
        return await self._store.get(*args, **kwargs)

    async def set(self, *args, **kwargs):
        self.fail()
        await self._store.set(*args, **kwargs)

    async def exists(self, *args, **kwargs):
        self.fail()
        return await self._store.exists(*args, **kwargs)

    async def delete(self, *args, **kwargs):
        self.fail()
        await self._store.delete(*args, **kwargs)

    async def list_dir(self, prefix):
        self.fail()
        async for key in self._store.list_dir(prefix):
            self.fail()
            yield key


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(stores, "FIRST_DELAY", 1e-4)
    monkeypatch.setattr(stores, "LONGEST_DELAY", 1e-3)


@pytest.mark.parametrize("shards", [None, (8, 8, 8)])
def test_a_store_failing_a_fifth_of_its_calls_works(tmp_path, shards):
    values = np.random.default_rng(0).integers(0, 2**16, (17, 16, 19)).astype("u2")
    flaky = Flaky(LocalStore(tmp_path / "a.zarr"))
    before = retries()
    store = RetryingStore(flaky)
    group = zarr.create_group(store)
    array = group.create_array("v", shape=values.shape, dtype="u2", chunks=(4, 4, 4), shards=shards)
    array[:] = values
    assert dict(zarr.open_group(store, mode="r").arrays()).keys() == {"v"}
    np.testing.assert_array_equal(zarr.open_array(store, path="v", mode="r")[:], values)
    assert flaky.calls > 40
    assert 0.1 * flaky.calls < retries() - before < 0.4 * flaky.calls


def test_gives_up_after_six_more_attempts():
    flaky = Flaky(MemoryStore(), share=1.0)
    with pytest.raises(OSError, match="network"):
        sync(RetryingStore(flaky).get("x", default_buffer_prototype()))
    assert flaky.calls == 7


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "full"),
        PermissionError("no"),
        FileNotFoundError("gone"),
        OSError(errno.EROFS, "read-only"),
    ],
)
def test_what_cannot_get_better_is_raised_at_once(error):
    flaky = Flaky(MemoryStore(), share=1.0, error=error)
    with pytest.raises(type(error)):
        sync(RetryingStore(flaky).set("x", default_buffer_prototype().buffer.from_bytes(b"1")))
    assert flaky.calls == 1


def test_other_errors_are_not_retried():
    flaky = Flaky(MemoryStore(), share=1.0, error=ValueError("a bug"))
    with pytest.raises(ValueError, match="a bug"):
        sync(RetryingStore(flaky).get("x", default_buffer_prototype()))
    assert flaky.calls == 1


def test_an_empty_value_is_an_error_not_a_missing_chunk(tmp_path):
    (tmp_path / "c").write_bytes(b"")
    store = open_store(tmp_path)
    with pytest.raises(EmptyValueError, match="c is empty"):
        sync(store.get("c", default_buffer_prototype()))
    assert sync(store.get("d", default_buffer_prototype())) is None


def test_open_store_reads_only_by_default(tmp_path):
    assert open_store(tmp_path).read_only
    assert not open_store(tmp_path, "w").read_only
    with pytest.raises(ValueError, match="read-only|read only"):
        zarr.create_array(open_store(tmp_path / "x"), shape=(2,), dtype="u1")


def test_open_store_of_a_url(tmp_path):
    array = zarr.create_array(open_store("memory://daskreg-test/a.zarr", "w"), data=np.arange(6), chunks=(2,))
    assert array.shape == (6,)
    again = zarr.open_array(open_store("memory://daskreg-test/a.zarr"), mode="r")
    np.testing.assert_array_equal(again[:], np.arange(6))
    file = zarr.create_array(open_store(f"file://{tmp_path}/b.zarr", "w"), data=np.arange(3))
    assert (Path(tmp_path) / "b.zarr" / "zarr.json").is_file()
    assert file.shape == (3,)


def test_a_url_without_its_library_names_the_extra(monkeypatch):
    def missing(*args, **kwargs):
        raise ImportError("install s3fs")

    monkeypatch.setattr("daskreg.sources.storage.stores.FsspecStore.from_url", missing)
    with pytest.raises(MissingExtraError, match=r"daskreg\[remote\]"):
        open_store("sftp://host/x.zarr")
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(MissingExtraError, match=r"daskreg\[cloud\]"):
        zarr.open(open_store("s3://bucket-without-library/x.zarr"), mode="r")


def test_store_survives_pickling(tmp_path):
    import pickle

    zarr.create_array(open_store(tmp_path, "w"), data=np.arange(4))
    array = pickle.loads(pickle.dumps(zarr.open_array(open_store(tmp_path), mode="r")))
    np.testing.assert_array_equal(array[:], np.arange(4))
