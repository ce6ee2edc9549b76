"""`plan`, `write` and `verify`: a multiscale OME-Zarr image or a single file out of any lazy volume, block by block."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack, overload
from uuid import uuid4

from daskreg.blocks.input_files import locations
from daskreg.blocks.job import Job
from daskreg.blocks.levels import RunOptions, Sizes, plan_levels
from daskreg.blocks.memory import Processes
from daskreg.blocks.output import unfinished_blocks
from daskreg.blocks.plan import Plan
from daskreg.blocks.probe import probed
from daskreg.blocks.record.ledger import Ledger
from daskreg.blocks.reversed import Reversed, stored_upright
from daskreg.blocks.safe_output import safe_output
from daskreg.blocks.verify import verify_output
from daskreg.cluster.client import chosen_client
from daskreg.cluster.handshake import check_paths
from daskreg.contents import details_of, lead_axes_of, task_of, warp_or_copy
from daskreg.errors import OptionError, check_flags, is_flag
from daskreg.flat.formats import flat_format
from daskreg.flat.image import FlatFormat, FlatImage
from daskreg.flat.plan import FlatPlan, plan_flat
from daskreg.flat.write import FlatOptions, write_flat
from daskreg.formats.ome import V2, VERSIONS
from daskreg.runs.parts import Part, write_part
from daskreg.runs.place import PROCESS, place_of
from daskreg.runs.run import Run
from daskreg.runs.start import start
from daskreg.runs.write_run import WriteRun
from daskreg.runs.written import Written, warn_of
from daskreg.runtime.progress import ByteProgress, shown
from daskreg.sources.store_options import share_options, use_options
from daskreg.volumes import Volume, volume_of


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
) -> Plan | FlatPlan:
    """What `write` with these arguments would do: blocks, bytes, memory, files. Nothing is run.

    Args:
        probe: compute some chunks of one block here, to estimate how long all will take.
        storage_options: for the object store of `path`, as in `write`.

    Returns: a `FlatPlan` where the path is that of a single file.

    Raises: MemoryBudgetError where it cannot fit, UnsafeOutputError where it would harm the input; for a single file
        what the format cannot hold, as `write`.
    """
    check_flags(probe=probe)
    use_options(path, storage_options)
    processes = Processes.of(chosen_client(client), memory)
    return plan_for(array, path, processes, RunOptions(chunks, shards, levels, downsample), probe=probe)


def plan_for(
    array: Any, path: str | os.PathLike[str], processes: Processes, options: RunOptions, *, probe: bool
) -> Plan | FlatPlan:
    """`plan` for processes that may not be there yet.

    Raises: as `plan`.
    """
    kind = flat_format(os.fspath(path))
    if kind is not None:
        kind.check_options(vars(options))
        voxels, image, output, _ = _flat_output(volume_of(array), path, kind)
        return plan_flat(voxels, image, kind, output, processes, probe=probe)
    task = task_of(volume_of(array))
    made = plan_levels(task, safe_output(path, locations(task.source)), options, processes)
    return probed(made) if probe else made


class WriteOptions(TypedDict, total=False):
    """The options of `write` besides `wait`, for type checkers."""

    chunks: Sizes
    shards: Sizes | None
    levels: int | str
    downsample: str
    overwrite: bool
    resume: bool | str
    memory: str | int | None
    client: Any
    progress: bool | ByteProgress
    version: str
    storage_options: dict[str, Any] | None
    part: tuple[int, int] | None


@overload
def write(
    array: Any, path: str | os.PathLike[str], *, wait: Literal[True] = ..., **options: Unpack[WriteOptions]
) -> Written: ...
@overload
def write(
    array: Any, path: str | os.PathLike[str], *, wait: Literal[False], **options: Unpack[WriteOptions]
) -> Run: ...
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
    part: tuple[int, int] | None = None,
    wait: bool = True,
) -> Written | Run:
    """Write a volume as multiscale OME-Zarr, or as a single file, block by block, in bounded memory.

    A current `distributed.Client` does the work if there is one, else local threads. Running
    the same call again after an interruption resumes: finished blocks are not made again.

    Args:
        array: a lazy volume (from `open` or `warp`, or any DataArray), dask or NumPy array.
        path: of a new OME-Zarr group, on a disk that all workers share, or the URL of one in an object store (s3://,
            gs://, az://). A ledger is kept beside it, in `<path>.daskreg`. The suffix .tif, .nii, .nrrd, .mha, .mrc or
            .h5 makes a single file of that format, uncompressed and without a pyramid, which is `<path>.partial` until
            it is complete; then only the options `overwrite` (of any file), `resume`, `memory`, `client` and `progress`
            apply.
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
        progress: show a bar, or call `progress(done, total, bytes)`; a function that takes `stage` is also told
            "compiling", "writing".
        version: of OME-Zarr: "0.5"; "0.4", of Zarr v2 without shards and checksums, for older readers; or "0.6", which
            also states how the axes of a volume are turned in the world.
        storage_options: credentials and other options for the object store of `path`, with obstore's names
            (access_key_id, secret_access_key, endpoint, region). They stay in memory, here and on the workers. By
            default those of the environment of each process.
        part: (i, n), i from 1 to n: make only this share of the blocks, while other processes make the others with
            the same call; no scheduler is needed. The part that ends last completes the pyramid.
        wait: False returns a `Run` at once. With a client whose scheduler runs on its own, the run then goes on without
            this process (`attach` finds it again); else in a thread, and it ends with this process.

    Raises: OutputExistsError, UnsafeOutputError, LayoutMismatchError, MemoryBudgetError before
    anything is run; BlocksFailedError, StorageFullError, NoWorkersError, SourceLostError or SourceChangedError after,
    with finished blocks kept; RunCancelledError where another process cancelled it.
    """
    check_flags(overwrite=overwrite, wait=wait)
    if is_flag(resume):
        resume = bool(resume)
    elif not isinstance(resume, str) or resume != "changed":
        raise OptionError(f"resume={resume!r}: use True, False or 'changed'")
    if version not in VERSIONS:
        raise OptionError(f"version={version!r}: OME-Zarr {', '.join(VERSIONS)} is written")
    if version == V2:
        if shards not in (None, "auto"):
            raise OptionError(f"shards={shards!r}: OME-Zarr {V2} has none; leave them out, or write version='0.5'")
        shards = None
    kind = flat_format(os.fspath(path))
    if kind is not None:
        layout = {"chunks": chunks, "shards": shards, "levels": levels, "downsample": downsample, "part": part}
        kind.check_options(layout | {"wait": None if wait else False, "version": None if version == "0.5" else version})
        options = FlatOptions(overwrite, resume, memory)
        return _written_flat(volume_of(array), path, kind, options, client=chosen_client(client), progress=progress)
    client = chosen_client(client)
    use_options(path, storage_options)
    describe = _description(
        volume_of(array),
        path,
        RunOptions(chunks, shards, levels, downsample),
        client,
        memory,
        overwrite=overwrite,
        resume=resume,
        version=version,
    )
    if not wait:
        if part is not None:
            raise OptionError("part= and wait=False: a part is a process of its own, which waits for its blocks")
        return start(describe().begun(), client)
    if part is not None:
        return _written_in_part(describe, part, client, progress, overwrite=overwrite)
    run = describe()
    result = run.perform(client, place_of(client, uuid4().hex, PROCESS), shown(progress, run.label))
    warn_of(result, dtype=run.made.levels[0].layout.dtype, stacklevel=2)
    return result


def _description(
    volume: Volume,
    path: str | os.PathLike[str],
    options: RunOptions,
    client: Any | None,
    memory: str | int | None,
    **how: Any,
) -> Callable[[], WriteRun]:
    """What describes a run: a function, since its blocks are those of an output that is there when it is called.

    Args:
        how: `overwrite`, `resume` and `version` of `write`.

    Raises: UnsafeOutputError, UnfitWorkerError.
    """
    task = task_of(volume)
    inputs = locations(task.source)
    output = safe_output(path, inputs)
    if client is not None:
        parent = os.path.dirname(output)
        _prepare_workers(client, inputs, [output], writes=[parent] if os.path.isdir(parent) else [])

    def describe() -> WriteRun:
        blocks = None if how["overwrite"] else unfinished_blocks(Ledger(output))
        made = plan_levels(task, output, options, Processes.of(client, memory), blocks=blocks)
        lead = lead_axes_of(volume.array, task)
        return WriteRun(made, str(volume.array.name or ""), lead, details=details_of(volume.array), **how)

    return describe


def _prepare_workers(
    client: Any, inputs: Collection[Path | str], outputs: Sequence[str], *, writes: Sequence[str]
) -> None:
    """Give the workers the options of object stores, and ask them whether they see what they are to use.

    Raises: UnfitWorkerError.
    """
    share_options(client, [*outputs, *inputs])
    check_paths(client, reads=sorted(str(item) for item in inputs if isinstance(item, Path)), writes=writes)


def _flat_output(
    volume: Volume, path: str | os.PathLike[str], kind: FlatFormat
) -> tuple[Job | Reversed, FlatImage, Path, Collection[Path | str]]:
    """What makes the voxels of a single file, the file without them, its path, and what is read for it.

    Raises: UnsafeOutputError, OutputError.
    """
    job = warp_or_copy(volume)
    task = job if kind.turned else stored_upright(job)
    inputs = locations(task.source)
    output = Path(safe_output(path, inputs, file=True))
    name = str(volume.array.name or output.name.partition(".")[0])
    image = FlatImage(task.dims, task.shape, task.dtype, task.grid, lead_axes_of(volume.array, task), name)
    return task, image, output, inputs


def _written_flat(
    volume: Volume,
    path: str | os.PathLike[str],
    kind: FlatFormat,
    options: FlatOptions,
    *,
    client: Any | None,
    progress: bool | ByteProgress,
) -> Written:
    """`write` of a single file."""
    task, image, output, inputs = _flat_output(volume, path, kind)
    if client is not None:
        _prepare_workers(client, inputs, [], writes=[])  # this process writes
    with shown(progress, f"writing {output.name}") as report:
        result = write_flat(task, image, kind, output, options, client=client, progress=report)
    warn_of(result, dtype=task.dtype, stacklevel=3, remedy="overwrite=True makes the file again")
    return result


def _written_in_part(
    describe: Callable[[], WriteRun],
    part: tuple[int, int],
    client: Any | None,
    progress: bool | ByteProgress,
    *,
    overwrite: bool,
) -> Written:
    """`write(part=)`.

    Raises: OptionError.
    """
    if overwrite:
        raise OptionError("part= and overwrite=True: one part would remove what another has made; remove it before")
    which = Part.of_option(part)
    run = describe()
    result = write_part(describe, which, client, shown(progress, f"{run.label}, part {which}"))
    warn_of(result, dtype=run.made.levels[0].layout.dtype, stacklevel=3)
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
    with shown(progress, f"verifying {os.path.basename(path)}") as report:
        return list(verify_output(path, report))


__all__ = ["FlatPlan", "Plan", "Written", "plan", "verify", "write"]
