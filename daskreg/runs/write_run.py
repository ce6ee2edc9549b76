"""`WriteRun`: an image that is to be written, described in full.

The description travels: it runs in the process that called `write`, in a thread of it, or on a worker.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.blocks.output import OutputRun, check_still_there, locked_output
from daskreg.blocks.plan import Plan
from daskreg.blocks.record.ledger import Ledger
from daskreg.blocks.run import FATAL, BlockFailure
from daskreg.blocks.run_levels import RunTotals, run_levels
from daskreg.blocks.source_watch import SourceWatch
from daskreg.blocks.windows import set_windows
from daskreg.errors import BlocksFailedError, InputError, RunCancelledError
from daskreg.formats.ome import ImageDetails, LeadAxis
from daskreg.runs.part_locks import refuse_parts
from daskreg.runs.place import Place
from daskreg.runs.record import MOST_FAILURES, RecordFolder, record_folder
from daskreg.runs.recorder import Recorder
from daskreg.runs.settle import settle
from daskreg.runs.work import Shown
from daskreg.runs.written import Written, written
from daskreg.runtime.messages import redact
from daskreg.runtime.progress import ByteProgress
from daskreg.runtime.typed_command import typed_command

log = logging.getLogger(__name__)

_LONGEST_FAILURE = 1000
"""Characters of a failed block that a record keeps."""


@dataclass(frozen=True, eq=False)
class WriteRun:
    """One run that writes an image.

    Args:
        made: the plan of its levels.
        name: of the image.
        lead: axes of times and channels.
        version: of OME-Zarr.
        overwrite, resume: as of `daskreg.write`.
        details: what the image keeps besides its voxels.
        command: of a terminal that began it, for the record.
    """

    made: Plan
    name: str
    lead: Sequence[LeadAxis]
    version: str
    overwrite: bool = False
    resume: bool | str = True
    details: ImageDetails = field(default_factory=ImageDetails)
    command: str = field(default_factory=typed_command)

    @property
    def kind(self) -> str:
        return "write"

    @property
    def path(self) -> str:
        return self.made.path

    @property
    def label(self) -> str:
        return f"writing {Path(self.path).name}"

    @property
    def folder(self) -> RecordFolder:
        """Where the run is recorded, beside the output."""
        return record_folder(Ledger(self.path))

    def begun(self) -> WriteRun:
        """Create the output, or check that it can be resumed; gives what is then left to do.

        Raises: as `output`.
        """
        with self.output():
            return replace(self, overwrite=False, resume=self.resume or True)

    def output(self, admitted: Callable[[], bool] | None = None) -> Any:
        """A `with` block that has the output locked: an `OutputRun`.

        Args:
            admitted: see `locked_output`; by default there must be no parts that write it.

        Raises: as `locked_output`.
        """
        return locked_output(
            self.made,
            name=self.name,
            lead=self.lead,
            overwrite=self.overwrite,
            resume=self.resume is not False,
            version=self.version,
            details=self.details,
            admitted=admitted or partial(refuse_parts, self.folder),
        )

    def perform(self, client: Any | None, place: Place, shown: Shown | None = None) -> Written:
        """Make all blocks that are not finished.

        Args:
            client: whose workers make them; None for threads of this process.
            shown: a `with` block that gives the progress to call.

        Raises: as `daskreg.write`; RunCancelledError.
        """
        with self.output() as output, shown or nullcontext() as report:
            return self.make_all(output, client, place, report, RunTotals(self.made.block_count))

    def make_all(
        self, output: OutputRun, client: Any | None, place: Place, report: ByteProgress | None, totals: RunTotals
    ) -> Written:
        """The same, where the output is locked."""
        started = time.monotonic()
        with self.recorded(self.folder, place, totals, report) as recorder:
            self.make(output, client, totals)
            check_still_there(Ledger(self.path), output)
            set_windows(self.made)
            result = written(self.made, [totals], seconds=time.monotonic() - started)
            recorder.result = result.to_json()
        return result

    @contextmanager
    def recorded(
        self, folder: RecordFolder, place: Place, totals: RunTotals, report: ByteProgress | None
    ) -> Iterator[Recorder]:
        """A `with` block in which totals are shown and recorded, and a request to cancel is seen."""

        def counted() -> dict[str, Any]:
            failures = list(totals.failures)
            named = tuple(redact(str(failure))[:_LONGEST_FAILURE] for failure in failures[:MOST_FAILURES])
            counts = {"skipped": totals.skipped, "retries": totals.retries}
            return {**counts, "failed": len(failures), "failures": named}

        with Recorder(folder, place, kind=self.kind, command=self.command, shown=report, counted=counted) as recorder:
            totals.progress, totals.check = recorder.progress, recorder.check
            yield recorder

    def make(
        self,
        output: OutputRun,
        client: Any | None,
        totals: RunTotals,
        owned: Sequence[NDArray[np.bool_]] | None = None,
    ) -> None:
        """Make the blocks of all levels that are not finished.

        Args:
            owned: see `run_levels`.
        """
        watch = SourceWatch(self.made.levels[0].task.source)
        try:
            failures = run_levels(
                self.made, output, client=client, totals=totals, redo_changed=self.resume == "changed", owned=owned
            )
        except RunCancelledError:
            settle(client, output.run_id)
            raise
        except KeyboardInterrupt:
            what = "what was submitted is cancelled" if client is not None else "nothing more is begun"
            log.warning("interrupted: %s; finished blocks are kept, and the same call resumes", what)
            raise
        if failures and isinstance(failures[-1].error, FATAL):
            raise failed(self.made, failures)
        watch.check()
        if failures:
            raise failed(self.made, failures)


def failed(made: Plan, failures: list[BlockFailure]) -> Exception:
    """The error of a run with failures: the error that every block would have, if there is one, else a list of them."""
    for failure in failures:
        if isinstance(failure.error, (*FATAL, InputError)):
            return failure.error
    listed = "\n  ".join(map(str, failures[:MOST_FAILURES]))
    more = f"\n  and {len(failures) - MOST_FAILURES} more" if len(failures) > MOST_FAILURES else ""
    error = BlocksFailedError(
        f"{len(failures)} blocks of {made.path} failed; the others are kept, and the same command again redoes only "
        f"these:\n  {listed}{more}"
    )
    error.__cause__ = failures[0].error
    return error
