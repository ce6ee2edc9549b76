"""Which device and how many threads, decided where the work runs."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from types import ModuleType

import psutil

from daskreg.errors import NoWorkersError, OptionError
from daskreg.runtime.memory import group_folders

_SHARE_A_GPU = 8
# Each library reads its variable when it is loaded. ZARR_... is the size of zarr's own pool of threads.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "BLOSC_NTHREADS",
)
ZARR_VARIABLE = "ZARR_THREADING__MAX_WORKERS"


def resolve(device: str = "auto") -> str:
    """The device to use in this process: "cpu" or "cuda:<i>".

    "auto" is the first GPU that torch can use, else the CPU. Call it on the worker that
    does the work. torch is imported only where an NVIDIA driver is present and a GPU may
    be meant.

    Raises:
        OptionError: not one of "auto", "cpu", "cuda", "cuda:<i>".
        NoWorkersError: a GPU was asked for that this machine lacks.
    """
    index, count = _gpu(device)
    if index is None:
        return "cpu"
    if index >= count:
        raise NoWorkersError(
            f"device {str(device)!r} was asked for and torch sees {count} GPUs on {platform.node()}; "
            "use device='auto' or 'cpu'"
        )
    return f"cuda:{index}"


def resolve_in_task(device: str) -> str:
    """`resolve` for one block of many: every block fails on a worker that lacks the device, so the option is wrong.

    Raises: OptionError, which ends a run at once.
    """
    index, count = _gpu(device)
    if index is None:
        return "cpu"
    if not count:
        raise OptionError(f"device={device!r}: there is no CUDA device on {platform.node()}; use 'auto' or 'cpu'")
    if index >= count:
        raise OptionError(f"device={device!r}: {platform.node()} has {count} CUDA devices, counted from 0")
    return f"cuda:{index}"


def _gpu(device: str) -> tuple[int | None, int]:
    """The number of the GPU that a device names (None: the CPU), and how many GPUs there are (0: not counted).

    Raises: OptionError for other names.
    """
    name = str(device)
    match = re.fullmatch(r"cuda(?::(\d+))?", name)
    if name == "cpu":
        return None, 0
    if name != "auto" and match is None:
        raise OptionError(f"device {name!r} is not one of 'auto', 'cpu', 'cuda', 'cuda:<number>'")
    count = count_gpus()
    if match is None:
        return (0 if count else None), count
    return int(match[1] or 0), count


def count_gpus() -> int:
    """GPUs that torch can use in this process; 0 without importing torch where no driver is, or all are hidden."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    if hidden or not (Path("/proc/driver/nvidia").exists() or shutil.which("nvidia-smi")):
        return 0
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def cores() -> int:
    """CPU cores this process may use: affinity, cgroup limits and SLURM's share."""
    count = _cores_of_system()
    share = os.environ.get("SLURM_CPUS_PER_TASK", "")
    return max(1, min(count, int(share)) if share.isdigit() else count)


@cache
def _cores_of_system() -> int:
    """Affinity and cgroup limits, asked once, since these are files and small calls ask often."""
    process = psutil.Process()
    counts = [getattr(os, "process_cpu_count", os.cpu_count)() or 1, *quotas()]  # the former heeds PYTHON_CPU_COUNT
    if hasattr(process, "cpu_affinity"):
        counts.append(len(process.cpu_affinity()))
    return max(1, min(counts))


def quotas() -> Iterator[int]:
    """Cores, rounded up, whose time each control group of this process may use, where it has a limit."""
    for folder in group_folders("cpu"):
        with suppress(OSError, ValueError):  # no such file, or "max" and -1: no limit
            quota, period = map(int, (folder / "cpu.max").read_text().split())
            yield -(-quota // period)
        with suppress(OSError, ValueError):
            quota, period = (int((folder / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
            if quota > 0:
                yield -(-quota // period)


def tasks_at_once(cores_per_worker: int, *, gpu: bool) -> int:
    """The default number of threads of a worker: one, so that it takes the memory of one task, or several with a GPU.

    Several threads share a GPU, which samples faster than one core decodes and encodes. Each thread has
    three tiles of 32 MiB in flight.
    """
    return max(1, min(_SHARE_A_GPU, cores_per_worker)) if gpu else 1


def library_threads() -> int:
    """Threads that torch, numba or a codec may use in the calling task.

    A worker's own threads times these never exceed its cores.
    """
    setting = os.environ.get("OMP_NUM_THREADS", "")
    if setting.isdigit() and int(setting) > 0:
        return min(int(setting), cores())
    return max(1, cores() // _tasks_at_once())


@contextmanager
def limit_threads(count: int | None = None) -> Iterator[int]:
    """Let torch and numba, where they are loaded, use `count` threads in the calling thread, and BLAS one.

    torch keeps one number for each thread, so it has to be set where the work runs. BLAS has one number for the
    process: others wait longer for large products meanwhile.
    """
    wanted = count or library_threads()
    torch, numba = loaded("torch"), loaded("numba")
    before = torch.get_num_threads() if torch else 0
    before_numba = numba.get_num_threads() if numba else 0
    if torch:
        torch.set_num_threads(wanted)
    if numba:
        numba.set_num_threads(min(wanted, numba.config.NUMBA_NUM_THREADS))
    try:
        with _one_blas_thread():
            yield wanted
    finally:
        if torch:
            torch.set_num_threads(before)
        if numba:
            numba.set_num_threads(before_numba)


_blas_is_limited = threading.Lock()


@contextmanager
def _one_blas_thread() -> Iterator[None]:
    """Products of the small matrices here gain nothing by more threads of BLAS, whose number is that of the process.

    Where each of several threads calls OpenBLAS, or others share the cores, its threads spin while they wait for each
    other: some fits took half as long again. The number is set and reset by the same thread, the first that is in here:
    OpenBLAS ignores what others set (tried with 0.3.31). Where it leaves before others do, these go on with the number
    of before.
    """
    from threadpoolctl import threadpool_limits

    if not _blas_is_limited.acquire(blocking=False):
        yield
        return
    try:
        with threadpool_limits(1, user_api="blas"):
            yield
    finally:
        _blas_is_limited.release()


def thread_environment(threads: int, cores_per_worker: int) -> dict[str, str]:
    """Environment of a worker of `threads` tasks at once on `cores_per_worker` cores."""
    each = str(max(1, cores_per_worker // threads))
    return dict.fromkeys(THREAD_VARIABLES, each) | {ZARR_VARIABLE: str(max(1, cores_per_worker))}


def loaded(name: str) -> ModuleType | None:
    """A module that has been imported; None where it has not, or another thread is importing it right now."""
    module = sys.modules.get(name)
    return None if getattr(getattr(module, "__spec__", None), "_initializing", False) else module


def _tasks_at_once() -> int:
    """Tasks that run side by side in this process: the threads of a Dask worker, else 1."""
    if loaded("distributed") is None:
        return 1
    from distributed import get_worker

    try:
        return int(get_worker().state.nthreads)
    except ValueError:  # not in a task
        return 1
