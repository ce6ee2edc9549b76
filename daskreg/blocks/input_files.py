"""Which files a source reads, directly or through a dask graph: an output must not overwrite them."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import zarr
from dask import task_spec
from zarr.storage import LocalStore, ZipStore

from daskreg.blocks.job import Job
from daskreg.errors import DaskregError
from daskreg.runtime.private_apis import blockwise_contents, wrapped_arrays, wrapped_store
from daskreg.sources.locate import STORE_FILES, objects_at
from daskreg.sources.source import Source
from daskreg.sources.storage.access import split_url
from daskreg.sources.stored import StoredSource

MOST_SEARCHED = 200_000
"""Objects of a graph that are searched at most; of a larger graph, the rest is not."""


def locations(source: Source) -> set[Path | str]:
    """The local files and stores that are read, as real paths, and the URLs of object stores; of an array inside a Zarr
    store, the store.

    A dask graph is searched for the sources, Zarr arrays and warps in it, also those that
    xarray and dask opened themselves.
    """
    items = list(_searched(source))
    places = {os.path.realpath(place) for item in items if (place := _location(item)) is not None}
    # Of the many copies of a source in a graph, each file is opened once.
    stored = {(item.format, item.path): item for item in items if isinstance(item, StoredSource)}
    urls = {url for _, path in stored if (url := _url(path)) is not None}
    others = {os.path.realpath(file) for item in stored.values() for file in _files(item)}
    below = tuple(f"{place}{os.sep}" for place in places)
    places |= {file for file in others if not file.startswith(below)}
    return urls | {_store_root(Path(place)) for place in places}


def _files(source: StoredSource) -> tuple[str, ...]:
    """All files of a volume that is spread over several; none where they cannot be listed, as reading will tell."""
    if source.location is None:
        return ()
    try:
        return source.files()
    except (DaskregError, OSError):
        return ()


def stored_sources(source: Source) -> set[StoredSource]:
    """The stored arrays that are read, which `daskreg.open` has described."""
    return {item for item in _searched(source) if isinstance(item, StoredSource)}


def opened_arrays(source: Source) -> Iterator[str]:
    """The folders of the Zarr arrays that a dask graph reads without `daskreg.open`, as dask and xarray open them."""
    for item in _searched(source):
        if isinstance(item, zarr.Array) and (place := _location(item)) is not None:
            yield os.path.join(place, item.path) if item.path else place


def _url(path: str) -> str | None:
    """The URL of a Zarr store, up to the last name that says so; None for what is in no object store."""
    objects = objects_at(path)
    if objects is None:
        return None
    names = "/".join(split_url(objects.url)).rstrip("/").split("/")
    last = max((k for k, name in enumerate(names) if name.endswith(".zarr")), default=len(names) - 1)
    return "/".join(names[: last + 1])


def _searched(source: Source) -> Iterator[Any]:
    """A source, and the objects that it is made of."""
    queue: deque[Any] = deque([source])
    seen: set[int] = set()
    while queue and len(seen) < MOST_SEARCHED:
        item = queue.popleft()
        if id(item) in seen or isinstance(item, str | int | float | None):
            continue
        seen.add(id(item))
        yield item
        queue.extend(_contents(item))


def _location(item: Any) -> str | None:
    """The file or folder that an object reads; None where it reads none."""
    if isinstance(item, Source):
        return item.location
    if not isinstance(item, zarr.Array):
        return None
    store: Any = item.store
    while (inner := wrapped_store(store)) is not None:
        store = inner
    if isinstance(store, LocalStore):
        return str(store.root)
    if isinstance(store, ZipStore):
        return str(store.path)
    path = getattr(store, "path", None)  # a local file system behind fsspec
    return path if isinstance(path, str) and os.path.exists(path) else None


def _contents(item: Any) -> Iterator[Any]:
    """What an object of a graph is made of, where that may read voxels."""
    if isinstance(item, Source):
        yield item.array
    elif isinstance(item, Job):
        yield item.source
    elif isinstance(item, task_spec.Task):
        yield from (item.func, item.args, item.kwargs)
    elif isinstance(item, task_spec.DataNode):
        yield item.value
    elif isinstance(item, partial):
        yield from (item.func, item.args, item.keywords)
    elif parts := list(blockwise_contents(item)):
        yield from parts
    elif isinstance(item, Mapping):
        yield from item.values()
    elif isinstance(item, list | tuple | set | frozenset):
        yield from item
    elif hasattr(item, "__dask_graph__"):
        graph = item.__dask_graph__()
        yield getattr(graph, "layers", graph)
    else:
        yield from wrapped_arrays(item)


def _store_root(path: Path) -> Path:
    """The outermost folder, from `path` upwards, that is a Zarr node."""
    while any((path.parent / name).is_file() for name in STORE_FILES):
        path = path.parent
    return path
