"""Where the work of an estimate runs: on the workers of a Dask client, or in local threads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from daskreg.blocks.input_files import locations
from daskreg.cluster.client import chosen_client
from daskreg.sources.source import Source
from daskreg.sources.store_options import share_options


@dataclass(frozen=True)
class Execution:
    """client: a distributed Client, or None for local threads. progress: called with (done, total)."""

    client: Any
    progress: Callable[[int, int], None] | None = None

    def report(self, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(done, total)


def client_for(client: Any, source: Source) -> Any:
    """The client whose workers read the voxels, or None for local threads.

    Args:
        client: a distributed Client; False for threads; None for the current client, except for arrays
            that are in the memory of this process.

    Raises: OptionError for what is not a client.
    """
    if client is None and source.in_memory:
        return None
    chosen = chosen_client(client)
    if chosen is not None:
        share_options(chosen, locations(source))
    return chosen
