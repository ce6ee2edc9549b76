"""Whether the stored arrays that a run reads stay as they are, from its beginning to its end."""

from __future__ import annotations

from daskreg.blocks.input_files import stored_sources
from daskreg.sources.source import Source
from daskreg.sources.stamps import changed
from daskreg.sources.storage.redact import redact
from daskreg.sources.stored import StoredSource


class SourceWatch:
    """The stored arrays behind a source as they are now: their metadata, and files that are replaced as a whole.

    Where a dask graph reads them, the blocks do not know which chunks they were made of. Then the chunks of the whole
    array are looked at, too.

    Raises: SourceLostError; SourceChangedError for a file that was replaced since it was opened.
    """

    def __init__(self, source: Source) -> None:
        self._chunks = source.is_graph
        self._before = {one: self._now(one) for one in stored_sources(source)}
        for one, (stamp, _) in self._before.items():
            if one.files() and stamp != one.stamp:
                raise changed(redact(one.path))

    def check(self) -> None:
        """Look whether they are the same.

        Raises: SourceLostError, SourceChangedError.
        """
        for one, before in self._before.items():
            if self._now(one) != before:
                raise changed(redact(one.path))

    def _now(self, source: StoredSource) -> tuple[str, str]:
        stamp = source.current_stamp()
        return stamp, source.state(source.readable) if self._chunks else ""
