"""`plan`, `write` and `verify`: a multiscale OME-Zarr image out of any lazy volume, block by block."""

from __future__ import annotations

import os
import time
import warnings
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xarray as xr
from dask.utils import format_bytes, format_time

from daskreg.blocks.input_files import locations
from daskreg.blocks.job import Job, Task
from daskreg.blocks.levels import RunOptions, Sizes, plan_levels
from daskreg.blocks.output import check_still_there, locked_output, unfinished_blocks
from daskreg.blocks.plan import Plan
from daskreg.blocks.probe import probed
from daskreg.blocks.record.ledger import Ledger
from daskreg.blocks.run import FATAL, BlockFailure
from daskreg.blocks.run_levels import RunTotals, run_levels
from daskreg.blocks.safe_output import safe_output
from daskreg.blocks.source_watch import SourceWatch
from daskreg.blocks.verify import verify_output
from daskreg.cluster.client import chosen_client
from daskreg.cluster.handshake import check_paths
from daskreg.errors import BlocksFailedError, DaskregWarning, InputError, OptionError
from daskreg.formats.ome import VERSIONS, LeadAxis, check_axes, lead_axis
from daskreg.runtime.progress import ByteProgress, progress_bar
from daskreg.sources.description import LABELS
from daskreg.sources.registry import recall
from daskreg.sources.store_options import share_options, use_options
from daskreg.volumes import Volume, volume_of
from daskreg.warping import make_job


@dataclass(frozen=True)
class Written:
    """What a run did.

    Args:
        path: of the OME-Zarr image.
        shapes: of its levels.
        blocks: made in this run.
        skipped: blocks that an earlier run had finished.
        changed: finished blocks that were made again because their source or transform had changed.
        bytes_read: decoded bytes that came out of the source.
        bytes_written: bytes of pixels before compression.
        stored: bytes of the files written.
        clipped: voxels that were clamped when casting to integers.
        retries: store calls that failed at first and were tried again.
        missing: chunks of the source that are not stored, which the output shows as the fill value (where
            several blocks read one, each counts). Blocks of earlier runs are counted, too.
        damaged: names of the chunks that could not be decoded and are shown as the fill value, as
            `open(corrupt="fill")` asks; likewise.
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
    retries: int = 0
    missing: int = 0
    damaged: tuple[str, ...] = ()

    @property
    def throughput(self) -> float:
        """Bytes of pixels written a second."""
        return self.bytes_written / self.seconds if self.seconds > 0 else 0.0

    def __repr__(self) -> str:
        size = " x ".join(map(str, self.shapes[0]))
        again = f", {self.skipped} were there" if self.skipped else ""
        again += f", {self.changed} made again" if self.changed else ""
        notes = f", {self.clipped} voxels clipped" if self.clipped else ""
        notes += f", {self.retries} store calls tried again" if self.retries else ""
        notes += f", {self.missing} missing chunks read as fill" if self.missing else ""
        notes += f", {len(self.damaged)} damaged chunks read as fill" if self.damaged else ""
        return (
            f"Written({self.path}: {size}, {len(self.shapes)} levels; {self.blocks} blocks{again}; "
            f"{format_bytes(self.bytes_written)} in {format_time(self.seconds)}, "
            f"{format_bytes(int(self.throughput))}/s{notes})"
        )


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
    probe: bool = False,
    storage_options: dict[str, Any] | None = None,
) -> Plan:
    """What `write` with these arguments would do: blocks, bytes, memory, files. Nothing is run.

    Args:
        probe: compute some chunks of one block here, to estimate how long all will take.
        storage_options: for the object store of `path`, as in `write`.

    Raises: MemoryBudgetError where it cannot fit, UnsafeOutputError where it would harm the input.
    """
    client = chosen_client(client)
    options = RunOptions(chunks, shards, levels, downsample, memory)
    task = _task_of(volume_of(array))
    use_options(path, storage_options)
    made = plan_levels(task, safe_output(path, locations(task.source)), options, client=client)
    return probed(made) if probe else made


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
    progress: bool | ByteProgress = True,
    version: str = "0.5",
    storage_options: dict[str, Any] | None = None,
) -> Written:
    """Write a volume as multiscale OME-Zarr, block by block, in bounded memory.

    A current `distributed.Client` does the work if there is one, else local threads. Running
    the same call again after an interruption resumes: finished blocks are not made again.

    Args:
        array: a lazy volume (from `open` or `warp`, or any DataArray), dask or NumPy array.
        path: of a new OME-Zarr group, on a disk that all workers share, or the URL of one in an object store (s3://,
            gs://, az://). A ledger is kept beside it, in `<path>.daskreg`.
        chunks: "auto", one size, or one for each axis (a mapping by name leaves the others whole).
        shards: likewise, multiples of the chunks; None for none.
        levels: number of pyramid levels, or "auto": until no axis is longer than 256.
        downsample: "mean", "nearest" or "mode" (the most frequent label); "auto" is mode for labels, else mean. Labels
            are bool, integers warped with `order=0`, and integers whose OME-Zarr metadata say so (`image-label`).
        overwrite: remove what is there first, if daskreg made it.
        resume: True resumes an unfinished run; "changed" also redoes finished blocks
            whose source or transform has changed; False refuses an existing output.
        memory: limit of one process, such as "4 GiB".
        client: to use in place of the current one; False for local threads.
        progress: show a bar, or call `progress(done, total, bytes)`.
        storage_options: credentials and other options for the object store of `path`, with obstore's names
            (access_key_id, secret_access_key, endpoint, region). They stay in memory, here and on the workers. By
            default those of the environment of each process.

    Raises: OutputExistsError, UnsafeOutputError, LayoutMismatchError, MemoryBudgetError before
    anything is run; BlocksFailedError, StorageFullError, NoWorkersError, SourceLostError or SourceChangedError after,
    with finished blocks kept.
    """
    if resume not in {True, False, "changed"}:
        raise OptionError(f"resume={resume!r}: use True, False or 'changed'")
    if version not in VERSIONS:
        raise OptionError(f"version={version!r}: OME-Zarr {', '.join(VERSIONS)} is written")
    started = time.monotonic()
    client = chosen_client(client)
    volume = volume_of(array)
    task = _task_of(volume)
    inputs = locations(task.source)
    use_options(path, storage_options)
    output = safe_output(path, inputs)
    if client is not None:
        share_options(client, [output, *inputs])
        parent = os.path.dirname(output)
        reads = sorted(str(item) for item in inputs if isinstance(item, Path))
        check_paths(client, reads=reads, writes=[parent] if os.path.isdir(parent) else [])
    blocks = None if overwrite else unfinished_blocks(Ledger(output))
    options = RunOptions(chunks, shards, levels, downsample, memory)
    made = plan_levels(task, output, options, client=client, blocks=blocks)
    locked = locked_output(
        made,
        name=str(volume.array.name or ""),
        lead=_lead_axes(volume.array, task),
        overwrite=overwrite,
        resume=resume is not False,
        version=version,
    )
    with locked as run, _shown(progress, f"writing {os.path.basename(output)}") as report:
        totals = RunTotals(made.block_count, report)
        watch = SourceWatch(task.source)
        failures = run_levels(made, run, client=client, totals=totals, redo_changed=resume == "changed")
        if failures and isinstance(failures[-1].error, FATAL):
            raise _failed(made, failures)
        watch.check()
        if failures:
            raise _failed(made, failures)
        check_still_there(Ledger(output), run)
    result = Written(
        output,
        tuple(level.layout.shape for level in made.levels),
        totals.blocks,
        totals.skipped,
        totals.changed,
        time.monotonic() - started,
        totals.bytes_read,
        totals.bytes_written,
        totals.stored,
        totals.clipped,
        totals.retries,
        totals.missing,
        tuple(sorted(totals.damaged)),
    )
    if result.clipped:
        warnings.warn(
            f"{result.clipped} voxels did not fit {task.dtype} and were clamped", DaskregWarning, stacklevel=2
        )
    if result.missing:
        warnings.warn(
            f"{result.missing} chunks of the source are not stored and are shown as the fill value; once they exist, "
            "the same command makes their blocks again",
            DaskregWarning,
            stacklevel=2,
        )
    if result.damaged:
        named = ", ".join(result.damaged[:3])
        more = f" and {len(result.damaged) - 3} more" if len(result.damaged) > 3 else ""
        warnings.warn(
            f"{len(result.damaged)} damaged chunks were read as the fill value: {named}{more}",
            DaskregWarning,
            stacklevel=2,
        )
    return result


def verify(
    path: str | os.PathLike[str],
    *,
    progress: bool | ByteProgress = False,
    storage_options: dict[str, Any] | None = None,
) -> list[str]:
    """Re-read every file of an image that `write` made: present, with the bytes written, decodable.

    Args:
        progress: show a bar, or call `progress(done, total, bytes)`.
        storage_options: for the object store of `path`, as in `write`.

    Returns: a line for each thing wrong; empty when all is well.
    Raises: NotAVolumeError where there is no ledger beside `path`.
    """
    use_options(path, storage_options)
    with _shown(progress, f"verifying {os.path.basename(path)}") as report:
        return list(verify_output(path, report))


def _task_of(volume: Volume) -> Task:
    """The warp that made a lazy array if daskreg did, else a copy of its pixels."""
    array, spec = volume.array, volume.source
    check_axes(spec.dims, spec.grid.ndim)
    known = recall(getattr(array.data, "name", ""))
    if isinstance(known, Job) and (known.shape, known.dims) == (array.shape, spec.dims) and known.grid.same(spec.grid):
        return known
    # A copy is the same with any order; that of labels is one of the nearest voxels.
    return make_job(spec, None, spec.grid, order=0 if array.attrs.get(LABELS) is True else 1)


def _lead_axes(array: xr.DataArray, task: Task) -> list[LeadAxis]:
    """The axes of times and channels, with what their coordinates say."""
    lead = [str(d) for d in array.dims[: array.ndim - task.grid.ndim]]
    return [
        lead_axis(d, array.coords[d].values, array.coords[d].attrs.get("units")) if d in array.coords else LeadAxis()
        for d in lead
    ]


def _failed(made: Plan, failures: list[BlockFailure]) -> Exception:
    """The error of a run with failures: the error that every block would have, if there is one, else a list of them."""
    for failure in failures:
        if isinstance(failure.error, (*FATAL, InputError)):
            return failure.error
    listed = "\n  ".join(map(str, failures[:20]))
    more = f"\n  and {len(failures) - 20} more" if len(failures) > 20 else ""
    error = BlocksFailedError(
        f"{len(failures)} blocks of {made.path} failed; the others are kept, and the same command again redoes only "
        f"these:\n  {listed}{more}"
    )
    error.__cause__ = failures[0].error
    return error


def _shown(progress: bool | ByteProgress, label: str) -> AbstractContextManager[ByteProgress | None]:
    """What the public argument `progress` means: a function to call, or None."""
    if callable(progress):
        return nullcontext(progress)
    return progress_bar(label) if progress else nullcontext(None)


__all__ = ["Plan", "Written", "plan", "verify", "write"]
