"""`Work`: what a run does, described so that it can travel to the process that does it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Protocol

from daskreg.runs.place import Place
from daskreg.runs.record import RecordFolder
from daskreg.runtime.progress import ByteProgress

Shown = AbstractContextManager[ByteProgress | None]


class Work(Protocol):
    """Work that keeps a record while it is performed, and that goes on where it stopped when it is performed again."""

    @property
    def kind(self) -> str:
        """The kind of its result, which `Run.wait` reads."""

    @property
    def path(self) -> str:
        """Of what it makes."""

    @property
    def label(self) -> str:
        """What it does, in words."""

    @property
    def command(self) -> str:
        """The command of a terminal that begins it; empty where Python does."""

    @property
    def folder(self) -> RecordFolder:
        """Where the record is kept; it exists when the work is started."""

    def perform(self, client: Any | None, place: Place, shown: Shown | None = None) -> Any:
        """Do it, with a record (`Recorder`) from beginning to end."""
