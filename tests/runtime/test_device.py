"""Devices and threads, as the worker sees them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from daskreg.errors import NoWorkersError, OptionError
from daskreg.runtime import device


def test_cpu_is_never_a_reason_to_load_torch() -> None:
    code = (
        "import sys; from daskreg.runtime.device import resolve; "
        "assert resolve('cpu') == 'cpu'; assert not {'torch', 'distributed'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_auto_takes_the_first_gpu_or_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for count, expected in ((0, "cpu"), (2, "cuda:0")):
        monkeypatch.setattr(device, "count_gpus", lambda n=count: n)
        assert device.resolve() == expected
    assert device.resolve("cuda") == "cuda:0"
    assert device.resolve("cuda:1") == "cuda:1"


def test_gpus_that_are_hidden_are_no_reason_to_load_torch() -> None:
    code = (
        "import sys; from daskreg.runtime import device; device.shutil.which = lambda name: name; "
        "assert device.resolve('auto') == 'cpu'; assert 'torch' not in sys.modules"
    )
    for hidden in ("", "-1"):
        subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "CUDA_VISIBLE_DEVICES": hidden})


def test_a_gpu_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "count_gpus", lambda: 1)
    with pytest.raises(NoWorkersError, match=r"'cuda:1' was asked for and torch sees 1 GPU"):
        device.resolve("cuda:1")


def test_a_task_ends_the_run_where_its_gpu_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """OptionError, not NoWorkersError: every block of the run would fail alike."""
    monkeypatch.setattr(device, "count_gpus", lambda: 0)
    assert device.resolve_in_task("auto") == device.resolve_in_task("cpu") == "cpu"
    with pytest.raises(OptionError, match="device='cuda': there is no CUDA device on .*; use 'auto' or 'cpu'"):
        device.resolve_in_task("cuda")
    monkeypatch.setattr(device, "count_gpus", lambda: 2)
    assert [device.resolve_in_task(name) for name in ("auto", "cuda", "cuda:1")] == ["cuda:0", "cuda:0", "cuda:1"]
    with pytest.raises(OptionError, match="has 2 CUDA devices, counted from 0"):
        device.resolve_in_task("cuda:2")


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "CPU", ""])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(OptionError, match="is not one of 'auto', 'cpu', 'cuda'"):
        device.resolve(name)


def test_slurm_says_how_many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1")
    assert device.cores() == 1
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "100000")
    assert device.cores() <= (os.cpu_count() or 1)


def test_a_gpu_is_shared_by_up_to_eight_threads() -> None:
    assert [device.tasks_at_once(n, gpu=True) for n in (0, 1, 5, 8, 64)] == [1, 1, 5, 8, 8]
    assert device.tasks_at_once(64, gpu=False) == 1


def test_threads_of_a_worker_times_its_libraries_fit_its_cores() -> None:
    for threads, cores in ((1, 1), (1, 8), (2, 8), (3, 8), (4, 2)):
        environment = device.thread_environment(threads, cores)
        assert threads * int(environment["OMP_NUM_THREADS"]) <= max(cores, threads)
        assert len({environment[name] for name in device.THREAD_VARIABLES}) == 1


def test_limit_threads_holds_torch_and_numba_and_lets_go() -> None:
    import numba
    import torch

    numba.get_num_threads()  # its threading layer, when it starts, sets OpenMP's number too
    before = torch.get_num_threads(), numba.get_num_threads()
    with device.limit_threads(1) as threads:
        assert (threads, torch.get_num_threads(), numba.get_num_threads()) == (1, 1, 1)
    assert (torch.get_num_threads(), numba.get_num_threads()) == before


def test_blas_has_one_thread_inside_and_as_many_as_before_outside() -> None:
    code = (
        "import numpy; from threadpoolctl import threadpool_info; from daskreg.runtime.device import limit_threads\n"
        "def of_blas(): return [one['num_threads'] for one in threadpool_info() if one['user_api'] == 'blas']\n"
        "before = of_blas(); assert before\n"
        "with limit_threads(1), limit_threads(1): assert set(of_blas()) <= {1}, of_blas()\n"
        "assert of_blas() == before"
    )
    # In a process of its own: what other tests did from other threads would be seen.
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"OPENBLAS_NUM_THREADS": "2"})


def test_library_threads_follow_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert device.library_threads() == 1
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert device.library_threads() == device.cores()
