"""Each private API that is used does what is expected of it, in this version of its library."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr
from dask.utils import key_split
from distributed import Client
from zarr.abc.buffer import Buffer
from zarr.abc.store import Store
from zarr.codecs import BloscCodec, ZstdCodec
from zarr.storage import LocalStore

import daskreg as dr
from daskreg.cluster.config import LocalConfig
from daskreg.runtime import private_apis


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with dr.connect(LocalConfig(workers=1, dashboard_port=None)) as client:
        yield client


def test_a_thread_that_gets_no_more_work_knows_that_the_process_ends() -> None:
    """What a pool then raises is no failure of the work."""
    code = """
import threading, time
from concurrent.futures import ThreadPoolExecutor
from daskreg.runtime.private_apis import process_ends

def work():
    print(process_ends())
    pool = ThreadPoolExecutor(1)
    try:
        while True:
            pool.submit(time.sleep, 0)
    except RuntimeError:
        print(process_ends())

threading.Thread(target=work).start()
time.sleep(0.5)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["False", "True"]


def test_layers_come_before_what_they_depend_on() -> None:
    first = da.ones((4, 4), chunks=2)
    last = (first + 1).rechunk(4)
    layers = list(private_apis.layers_downwards(last.dask))
    assert {id(layer) for layer in layers} == {id(layer) for layer in last.dask.layers.values()}
    assert layers[-1] is last.dask.layers[first.name]


def test_a_blockwise_layer_is_cut_to_keys() -> None:
    first = da.ones((4, 4), chunks=2)
    second = first + 1
    part = private_apis.blockwise_part(second.dask.layers[second.name], {(second.name, 0, 1)})
    assert part is not None
    tasks, needs = part
    assert set(tasks) == {(second.name, 0, 1)}
    assert set(needs[second.name, 0, 1]) == {(first.name, 0, 1)}
    rechunked = first.rechunk(4)
    assert private_apis.blockwise_part(rechunked.dask.layers[rechunked.name], set()) is None


def test_the_tasks_of_a_materialized_layer_are_a_dict() -> None:
    rechunked = da.ones((4, 4), chunks=2).rechunk(4)
    tasks = private_apis.layer_tasks(rechunked.dask.layers[rechunked.name])
    assert type(tasks) is dict
    assert (rechunked.name, 0, 0) in tasks


def test_a_task_in_the_old_form_says_what_it_needs() -> None:
    assert set(private_apis.keys_of_old_task((sum, ["a", ("b", 0), 3]), {"a", ("b", 0), "c"})) == {"a", ("b", 0)}


def test_what_a_blockwise_layer_is_made_of() -> None:
    class Mark:
        def __call__(self, block: np.ndarray) -> np.ndarray:
            return block

    mark, array = Mark(), da.ones((4, 4), chunks=2)
    mapped = array.map_blocks(mark, dtype=float)
    found = list(private_apis.blockwise_contents(mapped.dask.layers[mapped.name]))
    assert mark in [getattr(item, "func", None) for item in found] or mark in found
    assert array.name in found
    assert not list(private_apis.blockwise_contents({}))


def test_the_meta_of_an_array() -> None:
    meta = private_apis.meta_of(da.ones((4, 4), dtype="u2"))
    assert isinstance(meta, np.ndarray)
    assert (meta.size, meta.dtype) == (0, np.uint16)


@pytest.mark.slow
def test_names_of_tasks_are_forgotten(client: Client) -> None:
    key_split("some-name-1")
    private_apis.forget_task_names()
    assert key_split.cache_info().currsize == 0
    client.run_on_scheduler(lambda: key_split("some-name-2"))
    private_apis.forget_ended_tasks(client, timeout=10)
    assert client.run_on_scheduler(lambda: key_split.cache_info().currsize) == 0


def test_done_futures_are_told(client: Client) -> None:
    told, event = [], threading.Event()

    def callback(future: Any) -> None:
        told.append(future)
        event.set()

    future = client.submit(sum, [1, 2], pure=False)
    private_apis.on_done(client, future, callback)
    assert event.wait(20)
    assert told[0] is future
    assert future.status == "finished"


def test_futures_are_cancelled(client: Client) -> None:
    blocking = client.submit(time.sleep, 20, pure=False)
    waiting = client.submit(abs, blocking, pure=False)
    private_apis.cancel(client, [waiting, blocking], timeout=10)
    assert (waiting.status, blocking.status) == ("cancelled", "cancelled")


def test_the_scheduler_says_what_its_workers_are(client: Client) -> None:
    (worker,) = private_apis.workers_of(client, timeout=10)
    assert (worker["nthreads"], worker["status"], worker["resources"]) == (1, "running", {})
    assert worker["memory_limit"] > 0


def test_the_memory_of_the_machine() -> None:
    assert 2**28 < private_apis.memory_of_machine() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


class Counting(private_apis.StoreWrapper):
    """Counts what is set."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.keys: list[str] = []

    async def set(self, key: str, value: Buffer) -> None:
        self.keys.append(key)
        await self.inner.set(key, value)


def test_a_wrapper_sees_each_key_that_is_set_and_can_be_copied(tmp_path: Path) -> None:
    inner = LocalStore(tmp_path)
    store = Counting(inner)
    zarr.create_array(store, shape=(4, 4), chunks=(2, 4), dtype="u2")[:] = 1
    assert sorted(key for key in store.keys if "c/" in key) == ["c/0/0", "c/1/0"]
    assert private_apis.wrapped_store(store) is inner
    assert private_apis.wrapped_store(inner) is None
    read_only = store.with_read_only(True)
    assert isinstance(read_only, Counting)
    assert read_only.read_only
    assert (zarr.open_array(read_only, mode="r")[:] == 1).all()


def test_codecs_have_an_object_of_numcodecs() -> None:
    data = np.arange(100, dtype="u2")
    for coder in (private_apis.numcodecs_blosc(BloscCodec(typesize=2)), private_apis.numcodecs_zstd(ZstdCodec())):
        assert bytes(coder.decode(coder.encode(data.tobytes()))) == data.tobytes()


def test_the_array_behind_xarrays_wrappers_is_reached(tmp_path: Path) -> None:
    xr.Dataset({"a": (("y", "x"), np.ones((4, 5)))}).to_zarr(tmp_path / "x.zarr", consolidated=False)
    item: Any = xr.open_zarr(tmp_path / "x.zarr", consolidated=False, chunks=None)["a"].variable._data
    todo, seen = [item], 0
    while todo and seen < 100:
        item, seen = todo.pop(), seen + 1
        if isinstance(item, zarr.Array):
            return
        todo += private_apis.wrapped_arrays(item)
    raise AssertionError("no Zarr array is found")


def test_a_lazily_opened_array_is_not_loaded(tmp_path: Path) -> None:
    whole = xr.DataArray(np.ones((4, 5)), dims=("y", "x"), name="a")
    assert private_apis.is_loaded(whole)
    whole.to_dataset().to_zarr(tmp_path / "x.zarr", consolidated=False)
    opened = xr.open_zarr(tmp_path / "x.zarr", consolidated=False, chunks=None)["a"]
    assert not private_apis.is_loaded(opened)
    assert private_apis.is_loaded(opened.load())


@pytest.mark.slow
def test_nothing_else_in_the_package_uses_private_names() -> None:
    """Imports of private modules; `test_layers` has private attributes of other objects."""
    root = Path(private_apis.__file__).parents[1]
    for path in root.rglob("*.py"):
        if path.name == "private_apis.py":
            continue
        for line in path.read_text().splitlines():
            found = re.match(r"\s*(?:from|import) ((?:dask|distributed|zarr|xarray)[\w.]*)", line)
            if found:
                assert "._" not in found[1], f"{path}: {line}"
                assert found[1] not in PRIVATE, f"{path}: {line}"


PRIVATE = {"dask.blockwise", "zarr.core.buffer", "zarr.core.sync", "distributed.client", "distributed.system"}
