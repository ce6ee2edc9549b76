"""The function that a dask task calls. It is alone in its module, since the scheduler imports it to read the task."""

from __future__ import annotations


def run_packed(packed: bytes) -> None:
    """Call a function with an item; both are pickled, so that only the worker imports what they need."""
    from distributed.protocol.pickle import loads

    work, item = loads(packed)
    work(item)
