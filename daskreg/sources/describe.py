"""`describe`: a path or an opened Zarr node -> what is there. Only metadata is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from typing import Any, cast

import zarr
from zarr.storage import LocalStore, MemoryStore, ZipStore

from daskreg.errors import DaskregError, NotAVolumeError
from daskreg.runtime.messages import reason
from daskreg.runtime.private_apis import StoreWrapper, wrapped_store
from daskreg.runtime.regular_files import allowing_outside
from daskreg.sources.description import Description, OpenOptions, check_stored
from daskreg.sources.file_formats import BUILT_IN, SEQUENCE, ZARR
from daskreg.sources.locate import StoreLocation, locate
from daskreg.sources.reader import reader_of
from daskreg.sources.sequences import sequence_location
from daskreg.sources.storage.redact import is_url, redact
from daskreg.sources.stored import MEMORY, StoredSource


def describe(
    source: str | PathLike[str] | Sequence[str | PathLike[str]] | zarr.Array[Any] | zarr.Group, options: OpenOptions
) -> Description:
    """What is at a path or URL, in a list of files, or in an opened Zarr array or group.

    Raises: NotAVolumeError and the other input errors.
    """
    if isinstance(source, zarr.Array | zarr.Group):
        name, location = ZARR.name, location_of(source)
    elif (sequence := sequence_location(source)) is not None:
        name, location = SEQUENCE, sequence
    else:
        name, location = locate(cast(str, source))
    reader = reader_of(name)
    try:
        with allowing_outside(options.allow_outside):
            described = reader.describe(location, options)
    except (DaskregError, Warning):
        raise
    except Exception as error:
        # The libraries below were written for files that are whole; what they raise for others is not documented.
        message = f"{location} is damaged, or not what its name says ({type(error).__name__}: {reason(error)})"
        raise NotAVolumeError(message) from (None if is_url(location.root) else error)
    check_stored(described)
    if name not in BUILT_IN and described.source.kind != name:
        message = f"the reader of {location} describes the format {described.source.kind!r}"
        raise NotAVolumeError(f"{message}, and its entry point is {name!r}, by which a worker looks for it")
    if options.allow_outside and isinstance(described.source, StoredSource):
        return replace(described, source=replace(described.source, allow_outside=True))
    return described


def location_of(node: zarr.Array[Any] | zarr.Group) -> StoreLocation:
    """The location of an opened array or group: a path for stores that have one, else the store itself.

    A store that somebody wrapped is kept, since the wrapper may change what is read, by decrypting or caching it.
    """
    store, inner = node.store, node.path
    while isinstance(store, StoreWrapper) and (wrapped := wrapped_store(store)) is not None:
        store = wrapped
    if isinstance(store, LocalStore):
        location = StoreLocation(str(store.root.absolute()))
        return location.child(inner) if inner else location
    if isinstance(store, ZipStore):
        return StoreLocation(str(store.path.absolute()), inner)
    root = MEMORY if isinstance(store, MemoryStore) else redact(str(store))
    return StoreLocation(root, inner, node.store)
