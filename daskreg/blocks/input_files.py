"""Which files a source reads in the end, also through a dask graph: what an output must spare."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import zarr
from dask._task_spec import DataNode, Task
from dask.blockwise import Blockwise
from zarr.storage import LocalStore, WrapperStore, ZipStore

from daskreg.blocks.job import Job
from daskreg.sources.locate import STORE_FILES
from daskreg.sources.source import Source

MOST_LOOKED_AT = 200_000
"""Of a graph larger than this, the rest is not searched."""


def locations(source: Source) -> set[Path]:
    """The local files and stores that are read, as real paths; of an array inside a Zarr store, the store.

    A dask graph is searched for the sources, Zarr arrays and warps in it, also those that
    xarray and dask opened themselves.
    """
    found: set[Path] = set()
    queue: deque[Any] = deque([source])
    seen: set[int] = set()
    while queue and len(seen) < MOST_LOOKED_AT:
        item = queue.popleft()
        if id(item) in seen or isinstance(item, str | int | float | None):
            continue
        seen.add(id(item))
        where = _location(item)
        if where is not None:
            found.add(_store_root(Path(os.path.realpath(where))))
        queue.extend(_parts(item))
    return found


def _location(item: Any) -> str | None:
    if isinstance(item, Source):
        return item.location
    if not isinstance(item, zarr.Array):
        return None
    store: Any = item.store
    while isinstance(store, WrapperStore):
        store = store._store
    if isinstance(store, LocalStore):
        return str(store.root)
    if isinstance(store, ZipStore):
        return str(store.path)
    path = getattr(store, "path", None)  # a local file system behind fsspec
    return path if isinstance(path, str) and os.path.exists(path) else None


def _parts(item: Any) -> Iterator[Any]:
    """What an object of a graph is made of, as far as voxels may hide in it."""
    if isinstance(item, Source):
        yield item.array
    elif isinstance(item, Job):
        yield item.source
    elif isinstance(item, Blockwise):
        yield item.task
        yield from (value for value, _ in item.indices)
    elif isinstance(item, Task):
        yield from (item.func, item.args, item.kwargs)
    elif isinstance(item, DataNode):
        yield item.value
    elif isinstance(item, partial):
        yield from (item.func, item.args, item.keywords)
    elif isinstance(item, Mapping):
        yield from item.values()
    elif isinstance(item, list | tuple | set | frozenset):
        yield from item
    elif hasattr(item, "__dask_graph__"):
        graph = item.__dask_graph__()
        yield getattr(graph, "layers", graph)
    else:  # xarray's lazy wrappers
        yield from (getattr(item, name) for name in ("array", "_array") if name in _fields(item))


def _fields(item: Any) -> set[str]:
    return {*getattr(item, "__dict__", ()), *getattr(type(item), "__slots__", ())}


def _store_root(path: Path) -> Path:
    """The outermost folder, from `path` upwards, that is a Zarr node."""
    while any((path.parent / name).is_file() for name in STORE_FILES):
        path = path.parent
    return path
