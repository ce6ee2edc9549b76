"""One of several processes that write an image together, without a scheduler: `write(part=(i, n))`.

Each makes the blocks of the lowest level that are its own, a share of consecutive ones, and of each higher level the
blocks that are made of its own blocks alone. Which they are follows from the plan, so nothing has to be agreed on. The
part that ends last, and so finds the lowest level complete, makes the blocks that lie across the borders of parts.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.blocks.output import OutputRun
from daskreg.blocks.plan import LevelPlan, Plan
from daskreg.blocks.record.ledger import Ledger
from daskreg.blocks.run_levels import RunTotals
from daskreg.errors import OptionError, OutputBusyError
from daskreg.geometry import tile
from daskreg.runs.part_locks import active_parts, part_folder, part_locked
from daskreg.runs.place import PROCESS, place_of
from daskreg.runs.record import read_record
from daskreg.runs.work import Shown
from daskreg.runs.write_run import WriteRun
from daskreg.runs.written import Written, written

Masks = list[NDArray[np.bool_]]

BUSY_SECONDS = 60.0
"""Seconds for which a part waits for the output: others have it locked for moments, as they begin and end."""


@dataclass(frozen=True)
class Part:
    """Part `number` of `of`, counted from 1.

    Raises: OptionError.
    """

    number: int
    of: int

    def __post_init__(self) -> None:
        whole = all(isinstance(n, int | np.integer) and not isinstance(n, bool) for n in (self.number, self.of))
        if not whole or not 1 <= self.number <= self.of:
            raise OptionError(f"part {self.number}/{self.of}: use (i, n) with i from 1 to n")

    @classmethod
    def of_option(cls, value: Any) -> Part:
        """From a pair (i, n)."""
        try:
            number, of = value
        except (TypeError, ValueError) as error:
            raise OptionError(f"part={value!r}: use (i, n) with i from 1 to n") from error
        return cls(number, of)

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


class _NotAdmittedError(Exception):
    """The output cannot be used now, as the text says."""


def write_part(describe: Callable[[], WriteRun], part: Part, client: Any | None, shown: Shown | None = None) -> Written:
    """Make the blocks of one part; the part that ends last also makes what no part could make alone.

    Args:
        describe: gives the run; called again where another part has begun the output meanwhile, whose blocks count.

    Raises: as `daskreg.write`; OutputBusyError where the same part, parts of another division, or a run of the
    whole output are at work.
    """
    started = time.monotonic()
    place = place_of(client, uuid.uuid4().hex, PROCESS)
    with ExitStack() as own, ExitStack() as bar:  # `own` ends before the rest is made
        run, output = _begun(describe, part, own)
        masks = owned_blocks(run.made, part)
        runs = [RunTotals(int(sum(mask.sum() for mask in masks)))]

        def result() -> Written:
            remaining = max(0, run.made.block_count - len(_finished(run.made)))
            return written(run.made, runs, seconds=time.monotonic() - started, remaining=remaining)

        if output is not None:
            report = bar.enter_context(shown or nullcontext())
            with run.recorded(part_folder(run.folder, part.number, part.of), place, runs[0], report) as recorder:
                run.make(output, client, runs[0], masks)
                recorder.result = result().to_json()
            rest = RunTotals(run.made.block_count)
            if _make_rest(run, own, lambda locked: run.make_all(locked, client, place, report, rest)):
                runs.append(rest)
    return result()


def owned_blocks(made: Plan, part: Part) -> Masks:
    """For each level, which blocks a part makes: a share of consecutive ones, and those made of its own alone."""
    masks: Masks = []
    for level in made.levels:
        counts = tuple(-(-n // b) for n, b in zip(level.layout.shape, level.block_shape, strict=True))
        if not masks:
            number = np.arange(int(np.prod(counts))).reshape(counts)
            masks.append(number * part.of // number.size == part.number - 1)
        else:
            masks.append(_above(level, counts, masks[-1], made.levels[level.level - 1].block_shape))
    return masks


def _above(
    level: LevelPlan, counts: tuple[int, ...], below: NDArray[np.bool_], block: Sequence[int]
) -> NDArray[np.bool_]:
    """The blocks of a level all of whose blocks of the level below are owned."""
    mask = np.zeros(counts, bool)
    if not below.any():
        return mask
    for index, box in tile(level.layout.shape, level.block_shape):
        read = level.task.read_box(box)
        parents = tuple(slice(a // b, -(-z // b)) for a, z, b in zip(read.start, read.stop, block, strict=True))
        mask[index] = bool(below[parents].all())
    return mask


def _begun(describe: Callable[[], WriteRun], part: Part, own: ExitStack) -> tuple[WriteRun, OutputRun | None]:
    """Begin a part, whose lock `own` then holds; None where its blocks are finished and another process has the output.

    Raises: OutputBusyError.
    """
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        run = describe()
        try:
            with run.output(partial(_others, run, part)) as output:
                own.enter_context(part_locked(part_folder(run.folder, part.number, part.of)))
                return run, output
        except _NotAdmittedError as error:
            raise OutputBusyError(f"{run.path}: {error}: wait until it is done, or end it") from None
        except OutputBusyError:
            if _is_finished(run.made, part):
                return run, None
            if time.monotonic() > deadline or _whole_is_written(run):
                raise
        time.sleep(0.2)


def _whole_is_written(run: WriteRun) -> bool:
    """Whether a process of this machine writes the whole output; others are known by the time that they take."""
    record = read_record(run.folder)
    return record is not None and not record.ended and record.process.is_here and record.process.runs


def _others(run: WriteRun, part: Part) -> bool:
    """Whether other parts are at work.

    Raises: _NotAdmittedError where this part is, or one of another division.
    """
    active = active_parts(run.folder)
    if (part.number, part.of) in active:
        raise _NotAdmittedError(f"part {part} is being written by another process")
    for number, of in active:
        if of != part.of:
            raise _NotAdmittedError(f"part {number}/{of}, of another division, is being written")
    return bool(active)


def _make_rest(run: WriteRun, own: ExitStack, make: Callable[[OutputRun], object]) -> bool:
    """Make the blocks that no part makes, and give True, if this is the part that ends last.

    Args:
        own: holds the lock of the part, which is given back while the output is locked: so of two parts that end at
            once, the second one sees that there is no other.
    """

    def admitted() -> bool:
        own.close()
        if active_parts(run.folder) or not _lowest_is_finished(run.made):
            raise _NotAdmittedError("other parts make the rest")
        return False

    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            with run.output(admitted) as output:
                make(output)
                return True
        except _NotAdmittedError:
            return False
        except OutputBusyError:  # another part begins or ends, or makes the rest
            if time.monotonic() > deadline:
                return False
        time.sleep(0.2)


def _finished(made: Plan) -> set[tuple[int, tuple[int, ...]]]:
    """The blocks that the ledger lists."""
    ledger = Ledger(made.path)
    return set(ledger.entries()) if ledger.exists else set()


def _lowest_is_finished(made: Plan) -> bool:
    return sum(level == 0 for level, _ in _finished(made)) >= made.levels[0].block_count


def _is_finished(made: Plan, part: Part) -> bool:
    finished = _finished(made)
    own = owned_blocks(made, part)[0]
    return all((0, tuple(index)) in finished for index in np.argwhere(own).tolist())
