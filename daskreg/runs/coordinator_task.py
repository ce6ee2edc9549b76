"""The function of the coordinator's task. It is alone in its module: the scheduler imports it to read the task."""

from __future__ import annotations


def coordinate(packed: bytes) -> None:
    """Call a function with its argument; both are pickled, so that only the worker imports what they need."""
    from distributed.protocol.pickle import loads

    function, argument = loads(packed)
    function(argument)
