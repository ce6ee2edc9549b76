"""The output of a run: locked, and created or checked before it is resumed."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

from daskreg.blocks.disk_errors import disk_errors
from daskreg.blocks.job import Downsample
from daskreg.blocks.plan import Plan
from daskreg.blocks.record.claim import claimed
from daskreg.blocks.record.ledger import Ledger
from daskreg.blocks.record.lock import locked
from daskreg.blocks.record.own_files import (
    clear_ledger,
    foreign_beside,
    foreign_files,
    group_attributes,
    lacks_run_alone,
    listed,
    metadata_files,
    remove_empty_ledger,
    remove_made,
    remove_output,
    remove_partials,
    unit_counts,
)
from daskreg.blocks.record.own_objects import clear_records, foreign_objects, foreign_records, remove_objects
from daskreg.errors import (
    NotAVolumeError,
    OutputBusyError,
    OutputError,
    OutputExistsError,
    StoreError,
)
from daskreg.formats.ome import ImageDetails, LeadAxis, LevelSpec, create_multiscale


@dataclass(frozen=True)
class OutputRun:
    """One run of an output, which it has locked.

    Args:
        run_id: of the output; the same when it is resumed.
        session: of this run alone.
    """

    run_id: str
    session: str


@dataclass(frozen=True)
class _Target:
    """What the output is to be: the arguments of `locked_output`."""

    plan: Plan
    name: str
    lead: Sequence[LeadAxis]
    version: str
    details: ImageDetails

    @cached_property
    def facts(self) -> dict[str, Any]:
        return layout_facts(self.plan, self.version)


def unfinished_blocks(ledger: Ledger) -> Sequence[tuple[int, ...]] | None:
    """Block shapes of the run that can be resumed, by level; None where there is none."""
    return ledger.block_shapes() if ledger.exists else None


@contextmanager
def locked_output(
    plan: Plan,
    *,
    name: str,
    lead: Sequence[LeadAxis],
    overwrite: bool,
    resume: bool,
    version: str,
    details: ImageDetails | None = None,
    admitted: Callable[[], bool] = lambda: False,
) -> Iterator[OutputRun]:
    """Lock the output of a plan for one run, and create it or check that it can be resumed.

    Args:
        admitted: called once it is locked, before anything is changed; gives whether other processes are writing
            the same run, whose session and temporary files must then stay, and raises where there must be none.

    Raises: OutputBusyError where another run writes there; OutputExistsError for what daskreg did not make or
    is not to resume; LayoutMismatchError; OutputError where the folder cannot be written; StorageFullError.
    """
    ledger = Ledger(plan.path)
    fresh = not ledger.remote and not ledger.folder.exists()
    target = _Target(plan, name, lead, version, details or ImageDetails())
    with ExitStack() as stack:
        with _disk_errors(plan.path):
            _check_place_of_ledger(ledger)
            free = stack.enter_context(_locked(ledger))
        if not free:
            raise OutputBusyError(
                f"another run is writing {ledger.place}: wait until it is done, or end it, and run the same command "
                "again"
            )
        try:
            joined = admitted()
            with _disk_errors(plan.path):
                if _is_resumed(ledger, target, overwrite=overwrite, resume=resume, joined=joined):
                    run_id = str(ledger.layout()["run"])
                else:
                    run_id = _created_anew(ledger, target)
                if not joined:
                    ledger.compact()
                run = OutputRun(run_id, ledger.session() if joined else ledger.new_session())
        except BaseException:
            if fresh:
                with suppress(OSError):
                    remove_empty_ledger(ledger)
            raise
        try:
            yield run
        finally:
            with suppress(Exception):
                ledger.compact()


def _locked(ledger: Ledger) -> AbstractContextManager[bool]:
    """Lock an output on a disk, or claim it in an object store; gives whether it was free."""
    if ledger.remote:
        return claimed(ledger.records)
    ledger.folder.mkdir(parents=True, exist_ok=True)
    return locked(ledger.lock)


def _disk_errors(path: str) -> AbstractContextManager[None]:
    return disk_errors(
        full=f"no space left to make {path}: make room first",
        failed=lambda error: (
            f"the output {path} cannot be made ({error}): check the permissions of {Path(path).parent}, or "
            "choose another path"
        ),
    )


def _is_resumed(ledger: Ledger, target: _Target, *, overwrite: bool, resume: bool, joined: bool) -> bool:
    """Whether the run that is there is resumed; if not, nothing lies at the output any more."""
    own = ledger.exists and _is_own(ledger)
    if own and (overwrite or not _begun(ledger)):
        (remove_objects if ledger.remote else remove_output)(ledger)
    elif own and resume:
        ledger.check(target.facts)
        if ledger.block_shapes() != [level.block_shape for level in target.plan.levels]:
            raise OutputBusyError(f"{ledger.place} was replaced by another run meanwhile: run the same command again")
        if lost := lost_metadata(ledger):
            _write_metadata(ledger, target, str(ledger.layout()["run"]), lost)
        if not (ledger.remote or joined):
            remove_partials(ledger.output, unit_counts(target.facts))
        return True
    if ledger.output_exists:
        remedy = "daskreg did not make it, so it is not overwritten: remove it or choose another path"
        if own:
            remedy = "resume=True takes it up again, overwrite=True replaces it"
        elif ledger.exists and _is_damaged(ledger):
            damaged = f"{ledger.records.where()}/run.json"
            remedy = f"{damaged} is damaged, so whether daskreg made it is not known: remove both"
        raise OutputExistsError(f"{ledger.place} exists; {remedy}")
    return False


def _check_place_of_ledger(ledger: Ledger) -> None:
    """Refuse a folder at the place of the ledger that daskreg did not make, before anything is put there.

    Raises: OutputExistsError.
    """
    if ledger.exists or (not ledger.remote and not ledger.folder.is_dir()):
        return
    if foreign := foreign_records(ledger) if ledger.remote else foreign_beside(ledger):
        if not ledger.remote and lacks_run_alone(ledger):
            raise OutputExistsError(
                f"{ledger.folder / 'run.json'} is lost, so it is not known what is finished: put it back from a copy, "
                f"or remove {ledger.output} and {ledger.folder} and run the same command again"
            )
        raise OutputExistsError(
            f"{ledger.records.where()} exists, and daskreg did not make it (it holds {listed(foreign)}), but the "
            "ledger of the output belongs there: move it away or choose another path"
        )


def _created_anew(ledger: Ledger, target: _Target) -> str:
    run_id = uuid.uuid4().hex
    # The ledger comes first: an output without one is never taken for daskreg's.
    blocks = [{"block": list(level.block_shape)} for level in target.plan.levels]
    (clear_records if ledger.remote else clear_ledger)(ledger)  # left by a run that was killed as it began
    ledger.create({"facts": target.facts, "run": run_id, "blocks": blocks})
    _write_metadata(ledger, target, run_id, metadata_files(target.facts))
    return run_id


def _write_metadata(ledger: Ledger, target: _Target, run_id: str, names: Sequence[str]) -> None:
    """Write some of the metadata files of the output, so that a power failure does not lose them."""
    with ExitStack() as stack:
        if ledger.remote:
            made = Path(stack.enter_context(TemporaryDirectory(prefix="daskreg-metadata-")))
        else:
            made = ledger.folder / f"metadata-{uuid.uuid4().hex}"
        _create_metadata(made, ledger, target, run_id)
        for name in names:
            ledger.image.put(name, [(made / name).read_bytes()], sync=True)
        if not ledger.remote:
            remove_made(made, unit_counts(target.facts))


def _create_metadata(folder: Path, ledger: Ledger, target: _Target, run_id: str) -> None:
    """Write all metadata files of the output into a folder of its own."""
    levels = target.plan.levels
    last = levels[-1].task
    create_multiscale(
        folder,
        [
            LevelSpec(p.layout.dims, p.layout.shape, p.layout.dtype, p.layout.chunks, p.layout.shards, p.task.grid)
            for p in levels
        ],
        name=target.name or PurePosixPath(ledger.place).name.removesuffix(".zarr").removesuffix(".ome"),
        lead=target.lead,
        run=run_id,
        details=target.details,
        method=last.method if isinstance(last, Downsample) else "mean",
        version=target.version,
        called=ledger.place,
    )


def layout_facts(plan: Plan, version: str) -> dict[str, Any]:
    """What must be the same for a run to be resumed, by a name that a message can use."""
    facts: dict[str, Any] = {"format": f"ome-zarr {version}", "number of levels": len(plan.levels)}
    for p in plan.levels:
        grid = p.task.grid
        values = {
            "dims": p.layout.dims,
            "shape": p.layout.shape,
            "dtype": p.layout.dtype.str,
            "chunks": p.layout.chunks,
            "shards": p.layout.shards,
            "spacing": grid.spacing,
            "origin": grid.origin,
            "direction": grid.direction,
            "unit": grid.unit,
            "downsampling": p.task.method if isinstance(p.task, Downsample) else None,
        }
        facts |= {f"level {p.level} {key}": value for key, value in values.items()}
    return facts


def check_still_there(ledger: Ledger, run: OutputRun) -> None:
    """Look whether the output that a run has written is still there.

    Raises: OutputError where its metadata are gone, or are those of another image.
    """
    lost = lost_metadata(ledger)
    if lost or not _is_own(ledger) or ledger.layout()["run"] != run.run_id:
        what = f": {lost[0]} is gone" if lost else ""
        raise OutputError(
            f"{ledger.place} was removed, renamed or replaced while it was written{what}; put it back, if it was "
            "renamed, and run the same command again"
        )


def lost_metadata(ledger: Ledger) -> list[str]:
    """Metadata files of the output that are missing or, as after a power failure, hold nothing."""
    return [name for name in metadata_files(ledger.facts()) if _is_lost(ledger, name)]


def _is_lost(ledger: Ledger, name: str) -> bool:
    return not ledger.metadata(name).strip(b"\0 \n")


def _is_own(ledger: Ledger) -> bool:
    """Whether the output is missing or empty, or is the image of this ledger.

    The attributes of the group hold the run's id; a folder that somebody put there instead lacks it. Where the file
    with the attributes is lost, there must be a file that the ledger lists, or no file that daskreg did not make.
    """
    if not ledger.holds_something:
        return ledger.remote or ledger.output.is_dir() or not ledger.output.exists()
    try:
        facts = ledger.facts()
        group = metadata_files(facts)[0]
        if _is_lost(ledger, group):
            counts = unit_counts(facts)
            foreign = foreign_objects(ledger, counts) if ledger.remote else foreign_files(ledger.output, counts)
            return next(foreign, None) is None or _has_listed_file(ledger)
        attributes = group_attributes(facts, ledger.metadata(group))
        return bool(attributes["daskreg"]["run"] == ledger.layout()["run"])
    except StoreError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def _is_damaged(ledger: Ledger) -> bool:
    try:
        ledger.facts()
    except NotAVolumeError:
        return True
    return False


def _has_listed_file(ledger: Ledger) -> bool:
    return any(entry.files and ledger.intact(entry) for entry in ledger.entries().values())


def _begun(ledger: Ledger) -> bool:
    """Whether there is something to resume: complete metadata, or finished blocks.

    There is neither if the run was killed before the metadata was complete.
    """
    if not ledger.holds_something:
        return False
    return not lost_metadata(ledger) or _has_listed_file(ledger)
