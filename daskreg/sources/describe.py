"""`describe`: a path or an opened Zarr node -> what is there. Only metadata is read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from typing import Any

import zarr
from zarr.storage import LocalStore, MemoryStore, ZipStore

from daskreg.errors import DaskregError, NotAVolumeError, OptionError
from daskreg.runtime.messages import reason
from daskreg.runtime.private_apis import StoreWrapper, wrapped_store
from daskreg.runtime.regular_files import allowing_outside
from daskreg.sources.description import Description, OpenOptions, check_stored
from daskreg.sources.file_formats import BUILT_IN, DICOM, RAW, SEQUENCE, ZARR
from daskreg.sources.locate import INSIDE, StoreLocation, locate
from daskreg.sources.reader import reader_of
from daskreg.sources.sequences import files_of, is_dicom, sequence_location
from daskreg.sources.storage.redact import is_url, redact
from daskreg.sources.stored import MEMORY, StoredSource


def describe(
    source: str | PathLike[str] | Sequence[str | PathLike[str]] | zarr.Array[Any] | zarr.Group, options: OpenOptions
) -> Description:
    """What is at a path or URL, in a list of files, or in an opened Zarr array or group.

    Raises: NotAVolumeError and the other input errors.
    """
    name, location = _located(source, options.series)
    if (options.shape is not None or options.dtype is not None) and name != RAW:
        raise OptionError(f"shape= and dtype= are those of .raw files; {location} states its own")
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


def _located(source: Any, series: int | str | None) -> tuple[str, StoreLocation]:
    """The name of the format and the location of a source, or of one of its series, whose path is `source::/series`.

    Raises: OptionError for a series of what has none; NotAVolumeError.
    """
    if series is not None:
        if not isinstance(source, str | PathLike) or INSIDE in os.fspath(source):
            raise OptionError(f"series={series!r} was asked for, but {source!s:.200} is no path of a whole file")
        source = f"{os.fspath(source)}{INSIDE}{series}"
    if isinstance(source, zarr.Array | zarr.Group):
        return ZARR.name, location_of(source)
    if (sequence := sequence_location(source)) is not None:
        if is_dicom(files_of(sequence.root, sequence.inner)[0]):
            return DICOM, replace(sequence, inner=f"/{sequence.inner}")
        return SEQUENCE, sequence
    return locate(source)


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
