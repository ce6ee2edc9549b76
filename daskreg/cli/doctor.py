"""daskreg doctor: what this machine has for daskreg, and what to do about what it lacks."""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

import click

from daskreg.cli.options import command_json

PROBE = 64 * 2**20
"""Bytes that are written to measure a disk."""

_EXTRAS = {
    "report": ("matplotlib", "figures"),
    "formats": ("h5py", "HDF5, NIfTI, NRRD, MetaImage and MRC files"),
    "cluster": ("dask_jobqueue", "batch systems and dashboards"),
    "cloud": ("obstore", "object stores"),
    "viewer": ("neuroglancer", "`daskreg view` in a browser"),
}


@dataclass(frozen=True)
class Finding:
    """What was looked at, what was found, and what to do if it is not good."""

    what: str
    found: str
    remedy: str = ""


@click.command(short_help="What this machine has for daskreg, with remedies.")
@click.option("--folder", type=click.Path(exists=True, file_okay=False, path_type=Path), default=".",
              show_default=True, help="The folder whose disk is measured, with a file of 64 MiB.")  # fmt: skip
@command_json
def command(*, folder: Path, as_json: bool) -> int:
    """Look at processors, memory, GPU, disk, compiled kernels, libraries and ports, and say what to do.

    \b
    daskreg doctor
    daskreg doctor --folder /scratch

    The exit code is 1 if there is something to do.
    """
    findings = list(examined(folder))
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        for finding in findings:
            click.echo(f"{'!' if finding.remedy else ' '} {finding.what:10} {finding.found}")
            if finding.remedy:
                click.echo(f"{'':13}-> {finding.remedy}")
    return int(any(finding.remedy for finding in findings))


def examined(folder: Path) -> Iterator[Finding]:
    """One finding after the other."""
    yield _processors()
    yield _memory()
    yield _gpu()
    yield _disk(folder)
    yield _kernels()
    yield from _libraries()
    yield _loopback()


def _processors() -> Finding:
    from daskreg.runtime.device import cores

    asked = os.environ.get("NUMBA_NUM_THREADS") or os.environ.get("OMP_NUM_THREADS")
    if asked and asked.isdigit() and int(asked) < cores():
        remedy = "unset NUMBA_NUM_THREADS and OMP_NUM_THREADS, unless other work shares this machine"
        return Finding("processors", f"{cores()} cores, of which {asked} are used", remedy)
    return Finding("processors", f"{cores()} cores")


def _memory() -> Finding:
    from dask.utils import format_bytes

    from daskreg.runtime.memory import available_memory

    free = available_memory()
    remedy = "close other programs, or pass --memory" if free < 2 * 2**30 else ""
    return Finding("memory", f"{format_bytes(free)} available", remedy)


def _gpu() -> Finding:
    if shutil.which("nvidia-smi") is None:
        return Finding("GPU", "none; the CPU is used")
    import torch

    if torch.cuda.is_available():
        return Finding("GPU", ", ".join(torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())))
    return Finding("GPU", "there, but torch cannot use it", "install torch's CUDA build for this driver")


def _disk(folder: Path) -> Finding:
    """How fast a file is written and synced."""
    from dask.utils import format_bytes

    free = shutil.disk_usage(folder).free
    if free < 2 * PROBE:
        return Finding("disk", f"{format_bytes(free)} are free in {folder}", "free some space, or use another folder")
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".daskreg-doctor-") as file:
            block = os.urandom(2**20)
            began = time.perf_counter()
            for _ in range(PROBE // len(block)):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
            rate = PROBE / (time.perf_counter() - began)
    except OSError as error:
        return Finding("disk", f"{folder} cannot be written: {error.strerror}", "use --folder with one that can")
    slow = "a local or parallel file system makes runs faster" if rate < 30e6 else ""
    return Finding("disk", f"{format_bytes(int(rate))}/s written and synced, {format_bytes(free)} free", slow)


def _kernels() -> Finding:
    """Whether what was compiled is kept."""
    place = Path(os.environ.get("NUMBA_CACHE_DIR") or Path(__file__).parent.parent)
    kept = sum(1 for _ in place.rglob("*.nbi"))
    if not os.access(place, os.W_OK):
        remedy = "set NUMBA_CACHE_DIR to a folder that you may write, then run `daskreg warm-up`"
        return Finding("kernels", f"{place} cannot be written, so each process compiles anew", remedy)
    if not kept:
        return Finding("kernels", "none is compiled yet", "run `daskreg warm-up`, once for each type of processor")
    return Finding("kernels", f"{kept} are compiled and kept in {place}")


def _libraries() -> Iterator[Finding]:
    missing = [f"{extra} ({what})" for extra, (module, what) in _EXTRAS.items() if find_spec(module) is None]
    if missing:
        names = ",".join(name.split()[0] for name in missing)
        yield Finding("libraries", f"without {', '.join(missing)}", f"pip install 'daskreg[{names}]', if you need them")
    else:
        yield Finding("libraries", "all of report, formats, cluster, cloud, viewer")


def _loopback() -> Finding:
    """Whether local workers can be reached."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname(), 2):
            return Finding("ports", "local workers can be reached")
    except OSError as error:
        remedy = "ask who runs this machine; without --workers, threads are used"
        return Finding("ports", f"no connection on this machine: {error}", remedy)
