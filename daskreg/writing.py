"""`write`: plan, run, ledger; a multiscale OME-Zarr image out of any lazy volume."""

from __future__ import annotations

import os
import sys
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from dask.utils import format_bytes, format_time

from daskreg.blocks.job import Downsample, Job, ParentPrints, Task
from daskreg.blocks.ledger import Entry, Ledger
from daskreg.blocks.memory import memory_limit, threads_per_process
from daskreg.blocks.plan import LevelPlan, Plan, make_layout, plan_level
from daskreg.blocks.run import BlockDone, Failure, Progress, WriteBlock, run_blocks
from daskreg.errors import (
    BlocksFailedError,
    DaskregWarning,
    InputError,
    NoWorkersError,
    OptionError,
    OutputExistsError,
    StorageFullError,
    UnsafeOutputError,
)
from daskreg.formats.ome import VERSIONS, LevelSpec, create_multiscale
from daskreg.geometry import Grid
from daskreg.kernels.reduce import METHODS
from daskreg.sources.registry import recall
from daskreg.sources.source import Source
from daskreg.volumes import as_dataarray, source_of
from daskreg.warping import make_job

SMALLEST_LEVEL = 256
"""Levels are added until no spatial axis is longer than this."""

Sizes = str | int | Sequence[int]


@dataclass(frozen=True)
class Written:
    """What a run did.

    Args:
        path: of the OME-Zarr image.
        shapes: of its levels.
        blocks: made in this run.
        skipped: blocks that an earlier run had finished.
        changed: blocks that were made again because their source or transform had changed.
        bytes_read: decoded bytes that came out of the source.
        bytes_written: bytes of pixels before compression.
        stored: bytes of the files written.
        clipped: voxels that were clamped when casting to integers.
    """

    path: str
    shapes: tuple[tuple[int, ...], ...]
    blocks: int
    skipped: int
    changed: int
    seconds: float
    bytes_read: int
    bytes_written: int
    stored: int
    clipped: int

    @property
    def throughput(self) -> float:
        """Bytes of pixels written a second."""
        return self.bytes_written / self.seconds if self.seconds > 0 else 0.0

    def __repr__(self) -> str:
        size = " x ".join(map(str, self.shapes[0]))
        again = f", {self.skipped} were there" if self.skipped else ""
        again += f", {self.changed} made again" if self.changed else ""
        clipped = f", {self.clipped} voxels clipped" if self.clipped else ""
        return (
            f"Written({self.path}: {size}, {len(self.shapes)} levels; {self.blocks} blocks{again}; "
            f"{format_bytes(self.bytes_written)} in {format_time(self.seconds)}, "
            f"{format_bytes(int(self.throughput))}/s{clipped})"
        )


@dataclass
class _Tally:
    """Running totals of a run."""

    total: int
    progress: Progress | None
    done: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    stored: int = 0
    clipped: int = 0
    blocks: int = 0

    def add(self, level: int, block: BlockDone) -> None:
        self.blocks += 1
        self.bytes_read += block.bytes_read if level == 0 else 0
        self.bytes_written += block.bytes_written
        self.stored += block.stored
        self.clipped += block.clipped
        self.advance(1)

    def advance(self, count: int) -> None:
        self.done += count
        if self.progress is not None:
            self.progress(self.done, self.total, self.bytes_written)


def plan(
    array: Any,
    path: str | os.PathLike[str],
    *,
    chunks: Sizes = "auto",
    shards: Sizes | None = "auto",
    levels: int | str = "auto",
    downsample: str = "auto",
    memory: str | int | None = None,
    client: Any = None,
) -> Plan:
    """What `write` with these arguments would do: blocks, bytes, memory, files. Nothing is run.

    Raises: MemoryBudgetError where it cannot fit.
    """
    client = current_client() if client is None else client or None
    return _plan(_task_of(as_dataarray(array)), path, chunks, shards, levels, downsample, memory, client)


def write(
    array: Any,
    path: str | os.PathLike[str],
    *,
    chunks: Sizes = "auto",
    shards: Sizes | None = "auto",
    levels: int | str = "auto",
    downsample: str = "auto",
    overwrite: bool = False,
    resume: bool | str = True,
    memory: str | int | None = None,
    client: Any = None,
    progress: bool | Progress = True,
    version: str = "0.5",
) -> Written:
    """Write a volume as multiscale OME-Zarr, block by block, in bounded memory.

    A current `distributed.Client` does the work if there is one, else local threads. Running
    the same call again after an interruption resumes: finished blocks are not made again.

    Args:
        array: a lazy volume (from `open` or `warp`, or any DataArray), dask or NumPy array.
        path: of a new OME-Zarr group, on a disk that all workers share. A ledger is kept
            beside it, in `<path>.daskreg`.
        chunks: "auto", one size, or one for each axis.
        shards: likewise, multiples of the chunks; None for none.
        levels: number of pyramid levels, or "auto": until no axis is longer than 256.
        downsample: "mean", "nearest" or "mode"; "auto" is mode for labels (bool), else mean.
        overwrite: remove what is there first, if daskreg made it.
        resume: True takes an unfinished run up again; "changed" also redoes finished blocks
            whose source or transform has changed; False refuses an existing output.
        memory: limit of one process, such as "4 GiB".
        client: to use in place of the current one; False for local threads.
        progress: show a bar, or call `progress(done, total, bytes)`.

    Raises: OutputExistsError, UnsafeOutputError, LayoutMismatchError, MemoryBudgetError before
    anything is run; BlocksFailedError, StorageFullError or NoWorkersError after, with
    finished blocks kept.
    """
    if resume not in {True, False, "changed"}:
        raise OptionError(f"resume={resume!r}: use True, False or 'changed'")
    if version not in VERSIONS:
        raise OptionError(f"version={version!r}: OME-Zarr {', '.join(VERSIONS)} is written")
    started = time.monotonic()
    client = current_client() if client is None else client or None
    data = as_dataarray(array)
    task = _task_of(data)
    output = _safe_output(path, task.source)
    made = _plan(task, output, chunks, shards, levels, downsample, memory, client)
    ledger = Ledger(output)
    run_id = _prepare(made, ledger, data, overwrite=overwrite, resume=resume, version=version)
    entries = ledger.entries()
    with _shown(progress, f"writing {output.name}") as report:
        tally = _Tally(made.block_count, report)
        skipped, changed = _run_levels(made, run_id, entries, tally, client, resume)
    result = Written(
        str(output),
        tuple(level.layout.shape for level in made.levels),
        tally.blocks,
        skipped,
        changed,
        time.monotonic() - started,
        tally.bytes_read,
        tally.bytes_written,
        tally.stored,
        tally.clipped,
    )
    if result.clipped:
        warnings.warn(
            f"{result.clipped} voxels did not fit {task.dtype} and were clamped", DaskregWarning, stacklevel=2
        )
    return result


def current_client() -> Any | None:
    """The `distributed.Client` that is current, without importing distributed where it is not in use."""
    distributed = sys.modules.get("distributed")
    if distributed is None:
        return None
    try:
        return distributed.Client.current()
    except ValueError:
        return None


def _task_of(array: xr.DataArray) -> Task:
    """The warp behind a lazy array if it is one of ours, else a copy of its pixels."""
    known = recall(getattr(array.data, "name", ""))
    if isinstance(known, Job) and known.shape == array.shape:
        job_grid, array_source = known.grid, source_of(array)
        if job_grid.same(array_source.grid) and known.dims == array_source.dims:
            return known
    spec = source_of(array)
    return make_job(spec, None, spec.grid)


def _plan(  # noqa: PLR0917
    task: Task,
    path: str | os.PathLike[str],
    chunks: Sizes,
    shards: Sizes | None,
    levels: int | str,
    downsample: str,
    memory: str | int | None,
    client: Any,
) -> Plan:
    limit = memory_limit(memory, client)
    threads = threads_per_process(client)
    workers = max(1, len(client.scheduler_info(n_workers=-1)["workers"])) if client is not None else 1
    method = _downsample_method(downsample, task.dtype)
    plans: list[LevelPlan] = []
    for level, factors in enumerate(_factors(task.grid, levels)):
        if level:
            task = _next_level(plans[-1], os.fspath(path), level, factors, method)
        layout = make_layout(task, chunks, shards)
        plans.append(plan_level(level, task, layout, limit=limit, threads=threads, workers=workers))
    return Plan(os.fspath(path), tuple(plans), limit, threads)


def _downsample_method(downsample: str, dtype: np.dtype[Any]) -> str:
    if downsample == "auto":
        return "mode" if dtype.kind == "b" else "mean"
    if downsample not in METHODS:
        raise OptionError(f"downsample={downsample!r}: use 'auto', {', '.join(METHODS)}")
    return downsample


def _factors(grid: Grid, levels: int | str) -> Iterator[tuple[int, ...]]:
    """The factor of each spatial axis from one level to the next; level 0 is all ones.

    An axis is halved while its spacing is no more than 1.5 times the finest.
    """
    if not (levels == "auto" or (isinstance(levels, int) and levels >= 1)):
        raise OptionError(f"levels={levels!r}: give 'auto' or a number of at least 1")
    yield (1,) * grid.ndim
    count = 1
    while count < levels if isinstance(levels, int) else max(grid.shape) > SMALLEST_LEVEL:
        finest = min(s for s, n in zip(grid.spacing, grid.shape, strict=True) if n > 1 or max(grid.shape) == 1)
        factors = tuple(2 if s <= 1.5 * finest and n > 1 else 1 for s, n in zip(grid.spacing, grid.shape, strict=True))
        if max(factors) == 1:
            return
        yield factors
        grid = grid.downsample(factors)
        count += 1


def _next_level(below: LevelPlan, path: str, level: int, factors: tuple[int, ...], method: str) -> Downsample:
    layout, lead = below.layout, len(below.layout.shape) - below.task.grid.ndim
    source = Source(
        "zarr",
        os.path.join(path, str(level - 1)),
        None,
        (),
        layout.dims,
        layout.shape,
        layout.dtype,
        layout.chunks,
        below.task.grid,
        stamp=uuid.uuid4().hex,  # of this run: a handle of an earlier output at this path is not taken
    )
    return Downsample(source, (1,) * lead + factors, below.task.grid.downsample(factors), method)


def _safe_output(path: str | os.PathLike[str], source: Source) -> Path:
    """The output as an absolute path that cannot harm the input.

    Raises: UnsafeOutputError where output and input contain one another.
    """
    text = os.fspath(path)
    if "://" in text:
        raise OptionError(
            f"{text.split('://')[0]}:// outputs are not written yet; give a path on a disk that workers share"
        )
    output = Path(os.path.realpath(text))
    if source.path and "://" not in source.path:
        origin = Path(os.path.realpath(source.path))
        if output == origin or output in origin.parents or origin in output.parents:
            raise UnsafeOutputError(
                f"the output {output} is, contains or lies in the input {origin}; choose another path"
            )
    return output


def _prepare(
    made: Plan, ledger: Ledger, data: xr.DataArray, *, overwrite: bool, resume: bool | str, version: str
) -> str:
    """Create the output, or check that the unfinished one can be taken up. Returns the run's id."""
    output = ledger.output
    layout = _layout_facts(made, version)
    if ledger.exists and overwrite:
        ledger.layout()
        ledger.remove_output()
    elif ledger.exists and resume is not False:
        ledger.check(layout | {"run": ledger.layout().get("run")})
        ledger.remove_partials()
        return str(ledger.layout()["run"])
    if output.exists():
        ours = ledger.exists
        remedy = (
            "resume=True takes it up again, overwrite=True replaces it"
            if ours
            else "daskreg did not make it, so it is not overwritten: remove it or choose another path"
        )
        raise OutputExistsError(f"{output} exists; {remedy}")
    run_id = uuid.uuid4().hex
    # The ledger comes first: an output without one is never taken for ours.
    ledger.create(layout | {"run": run_id})
    specs = [
        LevelSpec(p.layout.dims, p.layout.shape, p.layout.dtype, p.layout.chunks, p.layout.shards, p.task.grid)
        for p in made.levels
    ]
    method = made.levels[-1].task.method if isinstance(made.levels[-1].task, Downsample) else "mean"
    create_multiscale(
        output,
        specs,
        name=str(data.name or output.name.removesuffix(".zarr").removesuffix(".ome")),
        method=method,
        version=version,
    )
    return run_id


def _layout_facts(made: Plan, version: str) -> dict[str, Any]:
    """What must agree for a run to be resumed."""
    levels = [
        {
            "dims": list(p.layout.dims),
            "shape": list(p.layout.shape),
            "dtype": p.layout.dtype.str,
            "chunks": list(p.layout.chunks),
            "shards": list(p.layout.shards) if p.layout.shards else None,
            "block": list(p.block_shape),
            "grid": {
                "spacing": list(p.task.grid.spacing),
                "origin": list(p.task.grid.origin),
                "unit": p.task.grid.unit,
            },
            "method": p.task.method if isinstance(p.task, Downsample) else None,
        }
        for p in made.levels
    ]
    return {"format": f"ome-zarr {version}", "levels": levels}


def _run_levels(  # noqa: PLR0917
    made: Plan,
    run_id: str,
    entries: dict[tuple[int, tuple[int, ...]], Entry],
    tally: _Tally,
    client: Any,
    resume: bool | str,
) -> tuple[int, int]:
    """Run the levels one after another; each reads the one below. Returns (skipped, changed)."""
    skipped = changed = 0
    parents: ParentPrints | None = None
    for level in made.levels:
        task = level.task
        if parents is not None and isinstance(task, Downsample):
            task = replace(task, parents=parents)
        prints = {block.index: task.fingerprint(block.write) for block in level.blocks()}
        finished = {i: e for (k, i), e in entries.items() if k == level.level and i in prints}
        stale = [i for i, e in finished.items() if e.fingerprint != prints[i]]
        if stale and resume != "changed":
            raise OutputExistsError(
                f"{made.path}: {len(stale)} finished blocks of level {level.level} were made from another source or "
                "transform; resume='changed' redoes them, overwrite=True starts again"
            )
        kept = finished.keys() - set(stale)
        skipped += len(kept)
        changed += len(stale)
        if kept:
            tally.advance(len(kept))
        items = (
            WriteBlock(task.restrict(b.write), made.path, run_id, level.level, b.index, b.write, prints[b.index])
            for b in level.blocks()
            if b.index not in kept
        )
        failures = run_blocks(items, client=client, on_done=partial(tally.add, level.level))
        if failures:
            raise _failed(made, failures)
        parents = ParentPrints(level.block_shape, prints)
    return skipped, changed


def _failed(made: Plan, failures: list[Failure]) -> Exception:
    for failure in failures:
        if isinstance(failure.error, (StorageFullError, NoWorkersError)):
            return failure.error
        if isinstance(failure.error, InputError):
            return failure.error
    listed = "\n  ".join(map(str, failures[:20]))
    more = f"\n  and {len(failures) - 20} more" if len(failures) > 20 else ""
    error = BlocksFailedError(
        f"{len(failures)} blocks of {made.path} failed; the others are kept, and the same command again redoes only "
        f"these:\n  {listed}{more}"
    )
    error.__cause__ = failures[0].error
    return error


def _shown(progress: bool | Progress, label: str) -> AbstractContextManager[Callable[[int, int, int], None] | None]:
    if callable(progress):
        return nullcontext(progress)
    if not progress:
        return nullcontext(None)
    from daskreg.progress import progress_bar

    return progress_bar(label)


__all__ = ["Plan", "Written", "current_client", "plan", "write"]
