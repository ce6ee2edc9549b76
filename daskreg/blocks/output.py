"""The output of a run: a path that is safe for the input, locked, and created or checked before it is resumed."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daskreg.blocks.input_files import locations
from daskreg.blocks.job import Downsample
from daskreg.blocks.ledger import Ledger
from daskreg.blocks.level_writer import NO_SPACE
from daskreg.blocks.lock import locked
from daskreg.blocks.plan import Plan
from daskreg.errors import (
    DaskregError,
    OptionError,
    OutputBusyError,
    OutputError,
    OutputExistsError,
    StorageFullError,
    UnsafeOutputError,
)
from daskreg.formats.ome import LeadAxis, LevelSpec, create_multiscale
from daskreg.sources.source import Source


@dataclass(frozen=True)
class OutputRun:
    """One run of an output, which it has locked.

    Args:
        run_id: of the output; the same when it is resumed.
        session: of this run alone.
    """

    run_id: str
    session: str


def safe_output(path: str | os.PathLike[str], source: Source) -> Path:
    """The output as an absolute path that cannot harm the input.

    Raises: UnsafeOutputError where output and input contain one another; OptionError for URLs;
    OutputError for a path below a file.
    """
    text = os.fspath(path).removeprefix("file://")
    if "://" in text:
        scheme = text.split("://", maxsplit=1)[0]
        raise OptionError(f"{scheme}:// outputs are not written yet; give a path on a disk that all workers share")
    output = Path(os.path.realpath(os.path.expanduser(text)))
    if not output.name:
        raise UnsafeOutputError(f"the output {output} cannot be an image: name a new folder")
    below = next((p for p in output.parents if p.exists() and not p.is_dir()), None)
    if below is not None:
        raise OutputError(f"the output {output} cannot be made: {below} is a file, not a folder")
    ledger = Ledger(output).folder
    for origin in locations(source):
        if any(path == origin or path in origin.parents or origin in path.parents for path in (output, ledger)):
            raise UnsafeOutputError(f"the output {output} is, contains or lies in the input {origin}: choose another")
    return output


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
    with ExitStack() as stack:
        with _named(plan.path):
            ledger.folder.mkdir(parents=True, exist_ok=True)
            free = stack.enter_context(locked(ledger.lock))
        if not free:
            raise OutputBusyError(
                f"another run is writing {ledger.output}: wait until it is done, or end it, and run the same command "
                "again"
            )
        try:
            with _named(plan.path):
                if _is_resumed(ledger, plan, overwrite=overwrite, resume=resume, version=version):
                    run_id = str(ledger.layout()["run"])
                else:
                    run_id = _created_anew(ledger, plan, name, lead, version)
                run = OutputRun(run_id, ledger.new_session())
        except BaseException:
            if fresh and not ledger.exists:
                shutil.rmtree(ledger.folder, ignore_errors=True)
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


def _is_resumed(ledger: Ledger, plan: Plan, *, overwrite: bool, resume: bool, version: str) -> bool:
    """Whether the run that is there is resumed; if not, nothing lies at the output any more."""
    own = ledger.exists and _is_own(ledger)
    if own and (overwrite or not _created(ledger)):
        ledger.remove_output()
    elif own and resume:
        ledger.check(layout_facts(plan, version))
        if ledger.block_shapes() != [level.block_shape for level in plan.levels]:
            raise OutputBusyError(f"{ledger.output} was replaced by another run meanwhile: run the same command again")
        ledger.remove_partials()
        return True
    if ledger.output.exists():
        remedy = (
            "resume=True takes it up again, overwrite=True replaces it"
            if own
            else "daskreg did not make it, so it is not overwritten: remove it or choose another path"
        )
        raise OutputExistsError(f"{ledger.output} exists; {remedy}")
    return False


def _created_anew(ledger: Ledger, plan: Plan, name: str, lead: Sequence[LeadAxis], version: str) -> str:
    run_id = uuid.uuid4().hex
    # The ledger comes first: an output without one is never taken for daskreg's.
    blocks = [{"block": list(level.block_shape)} for level in plan.levels]
    ledger.create({"facts": layout_facts(plan, version), "run": run_id, "blocks": blocks})
    last = plan.levels[-1].task
    create_multiscale(
        ledger.output,
        [
            LevelSpec(p.layout.dims, p.layout.shape, p.layout.dtype, p.layout.chunks, p.layout.shards, p.task.grid)
            for p in plan.levels
        ],
        name=name or ledger.output.name.removesuffix(".zarr").removesuffix(".ome"),
        lead=lead,
        attributes={"daskreg": {"run": run_id}},
        method=last.method if isinstance(last, Downsample) else "mean",
        version=version,
    )
    return run_id


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


def _is_own(ledger: Ledger) -> bool:
    """Whether the output is missing or empty, or is the image of this ledger.

    The attributes of the group hold the run's id; a folder that somebody put there instead lacks it.
    """
    if not ledger.output.is_dir():
        return not ledger.output.exists()
    if not any(ledger.output.iterdir()):
        return True
    try:
        attributes = json.loads((ledger.output / "zarr.json").read_text())["attributes"]
        return bool(attributes["daskreg"]["run"] == ledger.layout()["run"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _created(ledger: Ledger) -> bool:
    """Whether the metadata of the group and of all its levels is there.

    It is missing if the run was killed before it was complete.
    """
    names = ["zarr.json", *(f"{level}/zarr.json" for level in range(len(ledger.block_shapes())))]
    return all((ledger.output / name).is_file() for name in names)
