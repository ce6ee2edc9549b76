"""Of which stored voxels something was made, for what is kept longer than a process: a checkpoint.

`Source.fingerprint` is of the path and the metadata of a stored array, which stay as they are where its chunks are
written again in place. The states of the chunks (`Source.state`) do not, nor the stamps of other files.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator
from contextlib import suppress

from daskreg.blocks.input_files import opened_arrays, stored_sources
from daskreg.errors import DaskregError
from daskreg.geometry import Box
from daskreg.sources.describe import describe
from daskreg.sources.description import OpenOptions
from daskreg.sources.source import Source
from daskreg.sources.storage.object_tags import listed_tags
from daskreg.sources.storage.redact import redact
from daskreg.sources.stored import StoredSource


def identity(source: Source, *, chunks: bool = True) -> str:
    """The fingerprint of a source, with what is known of the stored voxels behind it as they are now.

    On a disk each chunk (or shard) that can be read is looked up, once; in an object store they are listed, up to
    `object_tags.MOST_LISTED` of an array. Chunks of zip files and of web servers are not known.

    Args:
        chunks: False leaves out the states of chunks.

    Raises: SourceLostError.
    """
    with listed_tags():
        behind = {*stored_sources(source), *_opened_by_others(source)}
        states = sorted(state for one in behind if (state := _state(one, chunks=chunks)))
    own = source.fingerprint()
    return hashlib.sha256(repr((own, states)).encode()).hexdigest()[:32] if states else own


def states_along(source: Source, axis: int) -> tuple[str, ...]:
    """For each row of chunks along an axis of a stored array a text that changes when one of them is written again,
    comes or goes; () where that is not known.
    """
    if not isinstance(source, StoredSource):
        return ()
    depth, count = source.chunks[axis], source.shape[axis]
    lower, upper, found = [0] * source.ndim, list(source.shape), list[str]()
    with listed_tags():
        for start in range(0, count, depth):
            lower[axis], upper[axis] = start, min(start + depth, count)
            state = source.state(Box(tuple(lower), tuple(upper)))
            if not state:
                return ()
            found.append(hashlib.sha256(state.encode()).hexdigest()[:16])
    return tuple(found)


def _opened_by_others(source: Source) -> Iterator[StoredSource]:
    """The sources of Zarr arrays in folders that dask and xarray opened."""
    for path in set(opened_arrays(source)) if source.is_graph else ():
        with warnings.catch_warnings(action="ignore"), suppress(DaskregError, OSError):
            found = describe(path, OpenOptions()).source
            if isinstance(found, StoredSource):
                yield found


def _state(source: StoredSource, *, chunks: bool) -> str:
    """What its fingerprint does not say: "" where there is nothing more, or nothing is known."""
    if source.array is not None:
        return ""
    stamp = source.current_stamp()
    state = source.state(source.readable) if chunks else ""
    if stamp == source.stamp and not state:
        return ""
    return repr((source.format, redact(source.path), source.selection, stamp, state))
