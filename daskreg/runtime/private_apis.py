"""What daskreg uses of Python, dask, distributed, zarr and xarray beyond their public API: all of it is in this file.

Each entry says what is private about it, why it is needed, and for which versions it was tried. `make test-oldest`
and `make test-newest` run the tests of this file, and of all that stands on it, with the oldest versions that
pyproject.toml allows and with the newest; the oldest are in constraints-oldest.txt.

Last tried: dask and distributed 2025.9.1 to 2026.8.0, zarr 3.1.4 to 3.1.6, xarray 2025.6.1 to 2026.9.0.

Public, though not well known, are `dask.task_spec`, `dask.core.flatten`, `zarr.abc.buffer` and
`distributed.protocol.pickle`: they are imported where they are used.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from dask.blockwise import Blockwise
from dask.core import keys_in_tasks, toposort
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer
from zarr.abc.buffer import Buffer, BufferPrototype
from zarr.abc.store import ByteRequest, Store
from zarr.storage import WrapperStore

# Python -------------------------------------------------------------------------------------------------------------
#
# At the end of a process, pools of threads take no more work a moment before the main thread counts as ended. Only a
# flag of `threading` tells what such an error then comes from. Tried with Python 3.11; where there is no flag, the main
# thread tells.


def process_ends() -> bool:
    """Whether the interpreter is on its way out while threads of it still run."""
    return not threading.main_thread().is_alive() or bool(getattr(threading, "_SHUTTING_DOWN", False))


# dask ---------------------------------------------------------------------------------------------------------------
#
# The layers of a graph. `HighLevelGraph.cull` is public, but it copies each materialized layer as a whole: 150 ms for
# a rechunked array of 64,000 blocks, and a run would pay that for each of its blocks. `Blockwise`,
# `MaterializedLayer.mapping` and the signature of `Blockwise.cull` are not documented, and neither are `toposort` and
# `keys_in_tasks` of dask.core. Unchanged from 2025.9 to 2026.8.


def layers_downwards(graph: HighLevelGraph) -> Iterator[Any]:
    """The layers of a graph, each before those that it depends on."""
    for name in reversed(toposort(graph.dependencies, graph.dependencies)):
        yield graph.layers[name]


def blockwise_part(layer: Any, keys: set[Any]) -> tuple[Mapping[Any, Any], Mapping[Any, set[Any]]] | None:
    """The tasks of a blockwise layer that `keys` need, and the keys that each of them needs; None for other layers."""
    if not isinstance(layer, Blockwise):
        return None
    part, dependencies = layer.cull(keys, ())
    return part, dependencies


def layer_tasks(layer: Any) -> Mapping[Any, Any]:
    """The tasks of a layer by key. A materialized layer is a slow mapping around a dict; this is the dict."""
    tasks: Mapping[Any, Any] = layer.mapping if isinstance(layer, MaterializedLayer) else layer
    return tasks


def keys_of_old_task(task: Any, known: Any) -> Any:
    """The keys that a task in dask's old form needs: a tuple, which does not say so itself.

    Args:
        known: a container of all keys of the graph.
    """
    return keys_in_tasks(known, [task])


def blockwise_contents(layer: Any) -> Iterator[Any]:
    """What the tasks of a blockwise layer are made of: its one function and its inputs. Nothing for other layers."""
    if isinstance(layer, Blockwise):
        yield layer.task
        yield from (value for value, _ in layer.indices)


def meta_of(array: Any) -> Any:
    """The empty array that stands for a dask array's blocks, which `da.Array` takes as `meta`."""
    return array._meta


def forget_task_names() -> None:
    """Empty dask's cache of the prefixes of task names, up to 100,000 of them with 0.3 kB each, in this process.

    A run uses each name once. `key_split` is public; that it is an `lru_cache` is not.
    """
    from dask.utils import key_split

    key_split.cache_clear()


# distributed --------------------------------------------------------------------------------------------------------
#
# The public calls of a client wait for the scheduler without a limit. `client.sync(coroutine, callback_timeout=)` is
# public and has one; the coroutines below are not. All unchanged from 2025.9 to 2026.8.


def on_done(client: Any, future: Any, callback: Callable[[Any], None]) -> None:
    """Call `callback(future)` in the client's event loop when the future is done, failed, lost or cancelled.

    `future.add_done_callback` goes through a thread of its own for each future, 0.1 ms each.
    """
    from distributed.client import done_callback

    client.loop.add_callback(done_callback, future, callback)


def keep_no_messages(client: Any) -> None:
    """Let a client keep no copy of what it sends to its scheduler.

    For developers of distributed, each of its connections keeps the last 1,000 messages (`recent_message_log`; the
    setting `distributed.admin.low-level-log-length` is read when a connection is made). One message here is the
    description of thousands of blocks, or holds voxels.
    """
    stream = getattr(client, "scheduler_comm", None)
    if stream is not None and stream.recent_message_log.maxlen:
        stream.recent_message_log = deque(maxlen=0)


def forget_ended_tasks(client: Any, *, timeout: float) -> None:
    """`keep_no_messages` and `forget_task_names` on the scheduler: `client.run_on_scheduler`, which gives up here after
    some seconds. The function travels as a whole, so the scheduler imports nothing of daskreg.

    Raises: TimeoutError, OSError where the scheduler does not answer.
    """
    import cloudpickle

    own = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(own)
    try:
        client.sync(client._run_on_scheduler, _forget_here, callback_timeout=timeout)
    finally:
        cloudpickle.unregister_pickle_by_value(own)


def _forget_here(dask_scheduler: Any) -> None:
    from collections import deque

    from dask.utils import key_split

    key_split.cache_clear()
    for stream in (*dask_scheduler.stream_comms.values(), *dask_scheduler.client_comms.values()):
        stream.recent_message_log = deque(maxlen=0)


def cancel(client: Any, futures: list[Any], *, timeout: float) -> None:
    """`client.cancel(futures, force=True)` that gives up after some seconds.

    Raises: TimeoutError, OSError where the scheduler does not answer.
    """
    client.sync(client._cancel, futures, force=True, callback_timeout=timeout)


def on_workers(client: Any, function: Callable[[], Any], *, timeout: float) -> None:
    """`client.run(function)` that gives up after some seconds; a worker that does not answer is left out.

    Raises: TimeoutError, OSError where they do not answer.
    """
    client.sync(client._run, function, on_error="ignore", callback_timeout=timeout)


def with_scheduler_type(cluster_type: type[Any], scheduler_type: Callable[[], type[Any]]) -> type[Any]:
    """A type of distributed's clusters whose scheduler is of a type of ours, which LocalCluster has no option for.

    `scheduler_spec` and `_start` of SpecCluster are not documented. Unchanged from 2025.9 to 2026.8.

    Args:
        scheduler_type: gives the type, a subclass of `distributed.Scheduler`.
    """

    class OwnScheduler(cluster_type):
        async def _start(self) -> None:
            self.scheduler_spec["cls"] = scheduler_type()  # of a copy that is this cluster's
            await super()._start()

    return OwnScheduler


def run_by_value(
    client: Any,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    module: Any,
    *,
    workers: Sequence[str] | None,
    timeout: float,
) -> dict[str, Any]:
    """`client.run` of a function whose module travels with it, so that a worker without the package can run it.

    Args:
        workers: addresses; None: all.

    Returns: the answers by address; a worker that fails is left out.
    Raises: TimeoutError, OSError where they do not answer.
    """
    import cloudpickle

    cloudpickle.register_pickle_by_value(module)
    try:
        options = {"workers": None if workers is None else list(workers), "on_error": "ignore"}
        answers = client.sync(client._run, function, *arguments, **options, callback_timeout=timeout)
    finally:
        cloudpickle.unregister_pickle_by_value(module)
    return dict(answers)


def workers_of(client: Any, *, timeout: float) -> list[dict[str, Any]]:
    """What the scheduler knows of its workers now: a dict each: `address`, `nthreads`, `resources`, `status`, ...

    `client.scheduler_info()` answers out of a cache that is some seconds old, and it lacks the status.

    Raises: TimeoutError, OSError, AttributeError where the scheduler does not answer.
    """
    identity = client.sync(client.scheduler.identity, n_workers=-1, callback_timeout=timeout)
    return [{**worker, "address": address} for address, worker in identity["workers"].items()]


def memory_of_machine() -> int:
    """Bytes of memory that this process may use: the machine's, or what a cgroup or ulimit leaves of it."""
    from distributed.system import MEMORY_LIMIT

    return int(MEMORY_LIMIT)


def end_without_teardown() -> None:
    """Let this process, which multiprocessing started, end as soon as its last finalizer has run.

    A worker has closed by then, and nothing is left to do. `Finalize` is what multiprocessing itself uses, and is not
    documented; `os._exit` is.
    """
    import os
    from multiprocessing import util

    util.Finalize(None, os._exit, args=(0,), exitpriority=-1000)


# zarr ---------------------------------------------------------------------------------------------------------------
#
# A store that wraps another one cannot do without private names: the wrapped store is `_store`, and zarr calls the
# hooks `_get_many`, `_set_many` and `_with_store`. Codecs keep the numcodecs object that does their work in a private
# property. Unchanged from 3.1.4 to 3.1.6.


class StoreWrapper(WrapperStore[Store]):
    """A store around another one, `inner`, whose single gets and sets a subclass may override.

    zarr may ask for many keys at once; such calls come to `get` and `set` here, so a subclass need not know of them.
    """

    @property
    def inner(self) -> Store:
        return self._store

    def with_read_only(self, read_only: bool = False) -> StoreWrapper:
        """A copy around the read-only store. WrapperStore has this from zarr 3.1.6 on, and its subclasses need it."""
        return self._with_store(self.inner.with_read_only(read_only))

    def _with_store(self, store: Store) -> StoreWrapper:
        return type(self)(store)

    async def _get_many(
        self, requests: Iterable[tuple[str, BufferPrototype, ByteRequest | None]]
    ) -> AsyncGenerator[tuple[str, Buffer | None], None]:
        for request in requests:
            yield request[0], await self.get(*request)

    async def _set_many(self, values: Iterable[tuple[str, Buffer]]) -> None:
        await asyncio.gather(*(self.set(key, value) for key, value in values))


def wrapped_store(store: Any) -> Store | None:
    """The store inside a store that wraps one; None where it wraps none."""
    return store._store if isinstance(store, WrapperStore) else None


def numcodecs_blosc(codec: Any) -> Any:
    """The `numcodecs.Blosc` of zarr's BloscCodec, with its options resolved for the array's type."""
    return codec._blosc_codec


def numcodecs_zstd(codec: Any) -> Any:
    """The `numcodecs.Zstd` of zarr's ZstdCodec."""
    return codec._zstd_codec


# xarray -------------------------------------------------------------------------------------------------------------


def is_loaded(array: Any) -> bool:
    """Whether the values of a DataArray are in memory; False where xarray has opened a file lazily.

    `Variable._in_memory` is private; asking for the values would load them. Unchanged from 2025.6 to 2026.9.
    """
    return bool(array.variable._in_memory)


def wrapped_arrays(item: Any) -> Iterator[Any]:
    """What xarray's lazy arrays wrap, under either of two names. Nothing for other objects.

    xarray has no public way from an opened variable to the Zarr array behind it. Unchanged from 2025.6 to 2026.9.
    """
    fields = {*getattr(item, "__dict__", ()), *getattr(type(item), "__slots__", ())}
    yield from (getattr(item, name) for name in ("array", "_array") if name in fields)


def with_metadata(array: Any, metadata: Any) -> Any:
    """An opened array with other metadata, such as codecs of ours; nothing is stored.

    `zarr.Array` and `zarr.AsyncArray` are public, their constructors are not documented. Unchanged from 3.1.4 to 3.1.6.
    """
    import zarr

    return zarr.Array(zarr.AsyncArray(metadata, array.store_path))


def codec_with_decoder(codec: Any, decode: Callable[[bytes, Any], bytes | None]) -> Any:
    """A codec of zarr, bytes to bytes, that decodes by a function first.

    `_decode_single` is what subclasses of the public `zarr.abc.codec.BytesBytesCodec` implement, and not documented.
    Unchanged from 3.1.4 to 3.1.6.

    Args:
        decode: (encoded bytes, specification of the chunk) -> decoded bytes, or None for the codec's own decoder.
    """

    class Decoded(type(codec)):  # type: ignore[misc]
        async def _decode_single(self, chunk_bytes: Any, chunk_spec: Any) -> Any:
            plain = await asyncio.to_thread(decode, chunk_bytes.to_bytes(), chunk_spec)
            if plain is None:
                return await super()._decode_single(chunk_bytes, chunk_spec)
            return chunk_spec.prototype.buffer.from_bytes(plain)

    return Decoded.from_dict(codec.to_dict())
