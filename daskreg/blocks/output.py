"""The output of a run: a path that is safe for the input, locked, and created or checked before it is resumed."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from daskreg.blocks.job import Downsample
from daskreg.blocks.ledger import Ledger
from daskreg.blocks.level_writer import NO_SPACE
from daskreg.blocks.lock import locked
from daskreg.blocks.own_files import (
    clear_ledger,
    foreign_beside,
    foreign_files,
    lacks_run_alone,
    listed,
    remove_empty_ledger,
    remove_made,
    remove_output,
    remove_partials,
    unit_counts,
)
from daskreg.blocks.plan import Plan
from daskreg.errors import (
    DaskregError,
    NotAVolumeError,
    OptionError,
    OutputBusyError,
    OutputError,
    OutputExistsError,
    StorageFullError,
    UnsafeOutputError,
)
from daskreg.formats.ome import LeadAxis, LevelSpec, create_multiscale
from daskreg.runtime.atomic import replace_file
from daskreg.runtime.paths import shown, unusable
from daskreg.sources.file_formats import file_suffix


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

    @cached_property
    def facts(self) -> dict[str, Any]:
        return layout_facts(self.plan, self.version)


def safe_output(path: str | os.PathLike[str], inputs: Iterable[Path]) -> Path:
    """The output as an absolute path that cannot harm the input.

    Args:
        inputs: what is read, see `input_files.locations`.

    Raises: UnsafeOutputError where output and input contain one another; OptionError for URLs;
    OutputError for a path below a file.
    """
    text = os.fspath(path).removeprefix("file://")
    if "://" in text:
        scheme = text.split("://", maxsplit=1)[0]
        raise OptionError(f"{scheme}:// outputs are not written yet; give a path on a disk that all workers share")
    _check_name(text)
    output = Path(os.path.realpath(os.path.expanduser(text)))
    if not output.name:
        raise UnsafeOutputError(f"the output {output} cannot be an image: name a new folder")
    below = next((p for p in output.parents if p.exists() and not p.is_dir()), None)
    if below is not None:
        raise OutputError(f"the output {output} cannot be made: {below} is a file, not a folder")
    ledger = Ledger(output).folder
    for origin in inputs:
        if any(path == origin or path in origin.parents or origin in path.parents for path in (output, ledger)):
            raise UnsafeOutputError(f"the output {output} is, contains or lies in the input {origin}: choose another")
    return output


def _check_name(text: str) -> None:
    """Refuse a name that no folder can have, with the ledger beside it.

    Raises: OptionError.
    """
    reason = unusable(text, room=len(".daskreg"))
    if reason is None and "::" in text:
        reason = "'::' divides a store from a path inside it"
    if reason is not None:
        raise OptionError(f"the output {shown(text)} cannot be made: {reason}")
    if suffix := file_suffix(Path(text).suffixes):
        folder = Path(text).name[: -len(suffix)].removesuffix(".zarr").removesuffix(".ome") + ".ome.zarr"
        raise OptionError(
            f"the output {shown(text)} cannot be made: {suffix} is the suffix of a file, and what is written is "
            f"OME-Zarr, a folder: name it {folder}"
        )


def unfinished_blocks(ledger: Ledger) -> Sequence[tuple[int, ...]] | None:
    """Block shapes of the run that can be resumed, by level; None where there is none."""
    return ledger.block_shapes() if ledger.exists else None


@contextmanager
def locked_output(
    plan: Plan, *, name: str, lead: Sequence[LeadAxis], overwrite: bool, resume: bool, version: str
) -> Iterator[OutputRun]:
    """Lock the output of a plan for one run, and create it or check that it can be resumed.

    Raises: OutputBusyError where another run writes there; OutputExistsError for what daskreg did not make or
    is not to resume; LayoutMismatchError; OutputError where the folder cannot be written; StorageFullError.
    """
    ledger = Ledger(plan.path)
    fresh = not ledger.folder.exists()
    target = _Target(plan, name, lead, version)
    with ExitStack() as stack:
        with _named(plan.path):
            _check_ledger_folder(ledger)
            ledger.folder.mkdir(parents=True, exist_ok=True)
            free = stack.enter_context(locked(ledger.lock))
        if not free:
            raise OutputBusyError(
                f"another run is writing {ledger.output}: wait until it is done, or end it, and run the same command "
                "again"
            )
        try:
            with _named(plan.path):
                if _is_resumed(ledger, target, overwrite=overwrite, resume=resume):
                    run_id = str(ledger.layout()["run"])
                else:
                    run_id = _created_anew(ledger, target)
                run = OutputRun(run_id, ledger.new_session())
        except BaseException:
            if fresh:
                with suppress(OSError):
                    remove_empty_ledger(ledger)
            raise
        yield run


@contextmanager
def _named(path: str) -> Iterator[None]:
    """Errors of the file system as errors of the output."""
    try:
        yield
    except DaskregError:
        raise
    except OSError as error:
        if error.errno in NO_SPACE:
            raise StorageFullError(error.errno, f"no space left to make {path}: make room first") from error
        raise OutputError(
            f"the output {path} cannot be made ({error}): check the permissions of {Path(path).parent}, or "
            "choose another path"
        ) from error


def _is_resumed(ledger: Ledger, target: _Target, *, overwrite: bool, resume: bool) -> bool:
    """Whether the run that is there is resumed; if not, nothing lies at the output any more."""
    own = ledger.exists and _is_own(ledger)
    if own and (overwrite or not _begun(ledger)):
        remove_output(ledger)
    elif own and resume:
        ledger.check(target.facts)
        if ledger.block_shapes() != [level.block_shape for level in target.plan.levels]:
            raise OutputBusyError(f"{ledger.output} was replaced by another run meanwhile: run the same command again")
        if lost := lost_metadata(ledger):
            _write_metadata(ledger, target, str(ledger.layout()["run"]), lost)
        remove_partials(ledger.output, unit_counts(target.facts))
        return True
    if ledger.output.exists():
        remedy = "daskreg did not make it, so it is not overwritten: remove it or choose another path"
        if own:
            remedy = "resume=True takes it up again, overwrite=True replaces it"
        elif ledger.exists and _is_damaged(ledger):
            remedy = f"{ledger.folder / 'run.json'} is damaged, so whether daskreg made it is not known: remove both"
        raise OutputExistsError(f"{ledger.output} exists; {remedy}")
    return False


def _check_ledger_folder(ledger: Ledger) -> None:
    """Refuse a folder at the place of the ledger that daskreg did not make, before anything is put there.

    Raises: OutputExistsError.
    """
    if ledger.folder.is_dir() and not ledger.exists and (foreign := foreign_beside(ledger)):
        if lacks_run_alone(ledger):
            raise OutputExistsError(
                f"{ledger.folder / 'run.json'} is lost, so it is not known what is finished: put it back from a copy, "
                f"or remove {ledger.output} and {ledger.folder} and run the same command again"
            )
        raise OutputExistsError(
            f"{ledger.folder} exists, and daskreg did not make it (it holds {listed(foreign)}), but the ledger of the "
            "output belongs there: move it away or choose another path"
        )


def _created_anew(ledger: Ledger, target: _Target) -> str:
    run_id = uuid.uuid4().hex
    # The ledger comes first: an output without one is never taken for daskreg's.
    blocks = [{"block": list(level.block_shape)} for level in target.plan.levels]
    clear_ledger(ledger)  # left by a run that was killed as it began
    ledger.create({"facts": target.facts, "run": run_id, "blocks": blocks})
    _write_metadata(ledger, target, run_id, _metadata_files(len(target.plan.levels)))
    return run_id


def _write_metadata(ledger: Ledger, target: _Target, run_id: str, names: Sequence[str]) -> None:
    """Write some of the metadata files of the output, so that a power failure does not lose them."""
    made = ledger.folder / f"metadata-{uuid.uuid4().hex}"
    levels = target.plan.levels
    last = levels[-1].task
    create_multiscale(
        made,
        [
            LevelSpec(p.layout.dims, p.layout.shape, p.layout.dtype, p.layout.chunks, p.layout.shards, p.task.grid)
            for p in levels
        ],
        name=target.name or ledger.output.name.removesuffix(".zarr").removesuffix(".ome"),
        lead=target.lead,
        attributes={"daskreg": {"run": run_id}},
        method=last.method if isinstance(last, Downsample) else "mean",
        version=target.version,
        called=str(ledger.output),
    )
    for name in names:
        replace_file(ledger.output / name, [(made / name).read_bytes()], sync=True)
    remove_made(made, unit_counts(target.facts))


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
            f"{ledger.output} was removed, renamed or replaced while it was written{what}; put it back, if it was "
            "renamed, and run the same command again"
        )


def lost_metadata(ledger: Ledger) -> list[str]:
    """Metadata files of the output that are missing or, as after a power failure, hold nothing."""
    return [name for name in _metadata_files(len(ledger.block_shapes())) if _is_lost(ledger.output / name)]


def _metadata_files(levels: int) -> list[str]:
    return ["zarr.json", *(f"{level}/zarr.json" for level in range(levels))]


def _is_lost(file: Path) -> bool:
    return not file.is_file() or not file.read_bytes().strip(b"\0 \n")


def _is_own(ledger: Ledger) -> bool:
    """Whether the output is missing or empty, or is the image of this ledger.

    The attributes of the group hold the run's id; a folder that somebody put there instead lacks it. Where the file
    with the attributes is lost, there must be a file that the ledger lists, or no file that daskreg did not make.
    """
    if not _holds_something(ledger.output):
        return ledger.output.is_dir() or not ledger.output.exists()
    try:
        if _is_lost(ledger.output / "zarr.json"):
            counts = unit_counts(ledger.layout()["facts"])
            return next(foreign_files(ledger.output, counts), None) is None or _has_listed_file(ledger)
        attributes = json.loads((ledger.output / "zarr.json").read_text())["attributes"]
        return bool(attributes["daskreg"]["run"] == ledger.layout()["run"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def _is_damaged(ledger: Ledger) -> bool:
    try:
        ledger.layout()
    except NotAVolumeError:
        return True
    return False


def _holds_something(output: Path) -> bool:
    return output.is_dir() and any(output.iterdir())


def _has_listed_file(ledger: Ledger) -> bool:
    return any(entry.files and ledger.intact(entry) for entry in ledger.entries().values())


def _begun(ledger: Ledger) -> bool:
    """Whether there is something to resume: complete metadata, or finished blocks.

    There is neither if the run was killed before the metadata was complete.
    """
    if not _holds_something(ledger.output):
        return False
    return not lost_metadata(ledger) or _has_listed_file(ledger)
