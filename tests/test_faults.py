"""Runs on real processes that die, hang or never come: nothing is lost, nothing waits for ever.

Blocks are made slow on the workers, so that faults meet running ones; a file ends the slowness.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import dask
import numpy as np
import psutil
import pytest
import zarr
from distributed import Client, LocalCluster
from processes import own_cluster
from processes import until as wait_until

import daskreg as dr
from daskreg.blocks.record.ledger import Ledger
from daskreg.errors import (
    BlocksFailedError,
    NoWorkersError,
    OptionError,
    OutputBusyError,
    SchedulerLostError,
    StorageFullError,
)
from daskreg.writing import verify

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("forked_workers")]

SHAPE = (24, 100, 80)
PIXELS = np.random.default_rng(0).integers(0, 60_000, SHAPE, dtype=np.uint16)
TURN = dr.Affine.from_parameters(theta=0.2, tx=3, centre=(100, 80))
SMALL: dict[str, Any] = {"chunks": (1, 50, 40), "levels": 1, "memory": "4 MiB", "progress": False}
BLOCKS = 24 * 2 * 2
NO_DASHBOARD = {"dashboard_address": ":0", "processes": True, "host": "127.0.0.1"}
IN_THREADS = {"dashboard_address": ":0", "processes": False}


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    array = zarr.create_array(tmp_path / "in.zarr", shape=SHAPE, chunks=(1, 50, 40), dtype="u2")
    array[:] = PIXELS
    return tmp_path / "in.zarr"


@pytest.fixture
def client() -> Iterator[Client]:
    with dr.connect(workers=2) as client:
        yield client


class Slow:
    """A volume whose blocks take a while until it is let go, and which counts how often one was made."""

    def __init__(self, folder: Path, stored: Path, seconds: float) -> None:
        self.released, self.made = folder / "released", folder / "made"
        self.made.touch()
        released, made = str(self.released), str(self.made)

        def wait(block: np.ndarray) -> np.ndarray:
            if block.size > 1:
                with open(made, "ab", buffering=0) as file:
                    file.write(f"{os.getpid():9}\n".encode())
                if not os.path.exists(released):
                    time.sleep(seconds)
            return block

        data = dr.open(stored, chunks=(1, 50, 40)).data.map_blocks(wait, dtype="u2")
        self.volume = dr.open(data)

    @property
    def count(self) -> int:
        return self.made.stat().st_size // 10

    def workers(self) -> list[int]:
        """Process ids of those that made blocks, the latest last."""
        return [int(line) for line in self.made.read_text().split()]

    def release(self) -> None:
        self.released.touch()


@contextlib.contextmanager
def meanwhile(work: Callable[[], None]) -> Iterator[None]:
    """Do `work` in another thread; what it raises is raised at the end."""
    failed: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=guarded)
    thread.start()
    try:
        yield
    finally:
        thread.join()
    if failed:
        raise failed[0]


until = partial(wait_until, seconds=60)


def whole(path: Path, expected: np.ndarray) -> bool:
    return verify(path) == [] and np.array_equal(zarr.open_array(path / "0", mode="r")[:], expected)


def lines(path: Path) -> int:
    return sum(file.read_bytes().count(b"}\n") for file in Ledger(path).folder.glob("*.jsonl"))


@pytest.mark.slow
@pytest.mark.parametrize(("number", "times"), [(signal.SIGKILL, 5), (signal.SIGTERM, 1)], ids=["kill -9", "SIGTERM"])
def test_workers_that_die_again_and_again_lose_nothing(
    tmp_path: Path, stored: Path, client: Client, number: int, times: int
) -> None:
    slow = Slow(tmp_path, stored, 0.2)
    path = tmp_path / "out.zarr"
    victims: set[int] = set()

    def kill() -> None:
        try:
            for _ in range(times):
                before = slow.count
                until(lambda seen=before: slow.count > seen + 1)
                victim = until(lambda: [pid for pid in slow.workers()[-2:] if pid not in victims])[-1]
                victims.add(victim)
                os.kill(victim, number)
        finally:
            slow.release()

    with meanwhile(kill):
        written = dr.write(slow.volume, path, **SMALL)
    assert len(victims) == times
    assert written.blocks == BLOCKS == len(Ledger(path).entries())
    assert whole(path, PIXELS)
    # One block at a time runs on a worker; one that was done, but not yet reported, may go with it.
    assert slow.count - BLOCKS <= 2 * times
    assert lines(path) - BLOCKS <= times


@pytest.mark.slow
def test_the_work_of_a_worker_that_hangs_moves_on_and_its_late_result_does_no_harm(
    tmp_path: Path, stored: Path
) -> None:
    slow = Slow(tmp_path, stored, 0.4)
    path = tmp_path / "out.zarr"
    stopped: list[psutil.Process] = []

    def stop() -> None:
        try:
            until(lambda: slow.count > 10)
            stopped.append(psutil.Process(slow.workers()[-1]))
            stopped[0].suspend()
        finally:
            slow.release()

    with dask.config.set({"distributed.scheduler.worker-ttl": "5s"}), dr.connect(workers=2) as client:
        with meanwhile(stop):
            written = dr.write(slow.volume, path, client=client, **SMALL)
        assert written.blocks == BLOCKS
        assert whole(path, PIXELS)
        with contextlib.suppress(psutil.NoSuchProcess):
            stopped[0].resume()
        time.sleep(0.5)
        assert whole(path, PIXELS)


@pytest.mark.slow
def test_a_scheduler_that_dies_is_an_error_and_the_run_resumes(
    tmp_path: Path, stored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daskreg.cluster.address.CONNECT_SECONDS", 5)
    slow = Slow(tmp_path, stored, 0.2)
    path = tmp_path / "out.zarr"
    with own_cluster(tmp_path) as cluster, dr.connect(cluster.file) as client:

        def kill() -> None:
            until(lambda: Ledger(path).exists and len(Ledger(path).entries()) > 20)
            cluster.scheduler.kill()

        started = time.monotonic()
        with meanwhile(kill), pytest.raises(SchedulerLostError, match="run the same command again to resume"):
            dr.write(slow.volume, path, client=client, **SMALL)
        assert time.monotonic() - started < 60
    slow.release()
    kept = len(Ledger(path).entries())
    assert 20 < kept < BLOCKS
    again = dr.write(slow.volume, path, client=False, **SMALL)
    assert (again.skipped, again.blocks) == (kept, BLOCKS - kept)
    assert whole(path, PIXELS)


@pytest.mark.slow
def test_the_scheduler_imports_nothing_that_only_workers_need(tmp_path: Path, stored: Path) -> None:
    """It reads the description of a task, whose function is in a module without imports."""
    with own_cluster(tmp_path) as cluster, dr.connect(cluster.file) as client:
        dr.write(dr.open(stored), tmp_path / "out.zarr", levels=1, progress=False)
        loaded = client.run_on_scheduler(lambda: sorted(sys.modules))
    assert "daskreg.blocks.packed_task" in loaded
    assert not {"zarr", "numba", "torch", "xarray", "daskreg.blocks.job"} & set(loaded)


@pytest.mark.slow
def test_a_scheduler_that_comes_back_goes_on_with_the_run(tmp_path: Path, stored: Path) -> None:
    """As after a restart of its machine: the same address, and no memory of any task."""
    slow = Slow(tmp_path, stored, 0.2)
    path = tmp_path / "out.zarr"
    with LocalCluster(n_workers=1, threads_per_worker=1, **NO_DASHBOARD) as cluster, Client(cluster) as client:

        def forget() -> None:
            until(lambda: Ledger(path).exists and len(Ledger(path).entries()) > 20)
            client.loop.add_callback(client.scheduler_comm.comm.abort)
            slow.release()

        with meanwhile(forget):
            written = dr.write(slow.volume, path, client=client, **SMALL)
    assert written.blocks == BLOCKS
    assert whole(path, PIXELS)


def script(stored: Path, path: Path, *, cluster: bool) -> str:
    return textwrap.dedent(
        f"""
        import time
        import daskreg as dr
        def slowly(done, total, nbytes):
            time.sleep(0.08)
        if __name__ == "__main__":
            if {cluster}:
                dr.connect(workers=1)
            dr.write(
                dr.open({str(stored)!r}), {str(path)!r}, chunks=(1, 50, 40), levels=1, progress=slowly, memory="4 MiB",
            )
        """
    )


@pytest.mark.slow
def test_a_client_killed_at_a_quarter_half_and_three_quarters_resumes(tmp_path: Path, stored: Path) -> None:
    """One run, killed three times: each time the same command goes on where the last one was."""
    path, ledger = tmp_path / "out.zarr", Ledger(tmp_path / "out.zarr")
    before = 0
    for share, cluster in ((0.25, False), (0.5, True), (0.75, False)):
        (tmp_path / "run.py").write_text(script(stored, path, cluster=cluster))
        process = subprocess.Popen([sys.executable, tmp_path / "run.py"])
        children = []
        try:
            until(lambda wanted=share: ledger.exists and len(ledger.entries()) >= wanted * BLOCKS)
            children = psutil.Process(process.pid).children(recursive=True)
        finally:
            process.kill()
            process.wait()
        psutil.wait_procs(children, timeout=20)
        assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children)
        kept = len(ledger.entries())
        assert before < kept < BLOCKS
        assert lines(path) <= kept + 1  # nothing was made twice
        before = kept
    again = dr.write(dr.open(stored), path, **SMALL)
    assert (again.skipped, again.blocks) == (kept, BLOCKS - kept)
    assert whole(path, PIXELS)


@pytest.mark.slow
def test_a_store_that_fails_a_fifth_of_its_calls_is_read_and_written(tmp_path: Path, stored: Path) -> None:
    """Every fifth opening and renaming of a file fails on the workers, whoever asks for it."""

    def unreliable(folder: str) -> None:
        import random

        draw = random.Random(os.getpid())

        def hook(event: str, args: tuple[Any, ...]) -> None:
            if event in ("open", "os.rename") and str(args[0]).startswith(folder) and draw.random() < 0.2:
                raise OSError(5, "Input/output error", str(args[0]))

        sys.addaudithook(hook)

    path = tmp_path / "out.zarr"
    warped = dr.warp(dr.open(stored), pull=TURN)
    with dr.connect(workers=2) as client:
        client.run(unreliable, str(tmp_path))
        written = dr.write(warped, path, client=client, chunks=(2, 25, 40), levels=1, memory="1 MiB", progress=False)
    assert written.retries > written.blocks / 2
    assert f"{written.retries} store calls tried again" in repr(written)
    assert whole(path, warped.compute(scheduler="sync").values)


def test_a_full_disk_is_said_and_finished_blocks_are_kept(tmp_path: Path) -> None:
    """The real thing, on a file system that is too small, where one can be mounted."""
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(small)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a small tmpfs cannot be mounted here: {mounted.stderr.decode().strip()}")
    try:
        with dr.connect(workers=1) as client:
            with pytest.raises(StorageFullError, match="make room and run the same command again to resume"):
                dr.write(PIXELS, small / "out.zarr", client=client, **SMALL)
            kept = len(Ledger(small / "out.zarr").entries())
            assert 0 < kept < BLOCKS
            subprocess.run(["mount", "-o", "remount,size=8m", str(small)], check=True)
            again = dr.write(PIXELS, small / "out.zarr", client=client, **SMALL)
        assert kept <= again.skipped <= kept + 4  # blocks that were on their way, one for each thread, have come in
        assert whole(small / "out.zarr", PIXELS)
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_cluster_without_workers_is_an_error_and_not_a_wait(tmp_path: Path, stored: Path) -> None:
    with (
        dask.config.set({"distributed.scheduler.no-workers-timeout": "2s"}),
        LocalCluster(n_workers=0, **NO_DASHBOARD) as cluster,
        Client(cluster) as client,
    ):
        with pytest.raises(NoWorkersError, match="run the same command again to resume"):
            dr.write(dr.open(stored), tmp_path / "out.zarr", client=client, **SMALL)
        assert client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks)) == 0
    written = dr.write(dr.open(stored), tmp_path / "out.zarr", client=False, **SMALL)
    assert written.blocks == BLOCKS


def test_workers_that_are_all_paused_are_an_error_and_not_a_wait(tmp_path: Path, stored: Path) -> None:
    def pause(dask_worker: Any) -> None:
        from distributed.core import Status

        dask_worker.memory_manager.memory_pause_fraction = False
        dask_worker.status = Status.paused

    with (
        dask.config.set({"distributed.scheduler.no-workers-timeout": "2s"}),
        LocalCluster(n_workers=1, **IN_THREADS) as cluster,
        Client(cluster) as client,
    ):
        client.run(pause)
        with pytest.raises(NoWorkersError, match="paused"):
            dr.write(dr.open(stored), tmp_path / "out.zarr", client=client, **SMALL)


def test_a_gpu_that_no_worker_has_is_an_error_at_once(tmp_path: Path, stored: Path) -> None:
    warped = dr.warp(dr.open(stored), pull=TURN, device="cuda")
    with LocalCluster(n_workers=1, **IN_THREADS) as cluster, Client(cluster) as client:
        if any("cuda" in str(device) for device in client.run(device_here).values()):
            pytest.skip("there is a GPU here")
        with pytest.raises(OptionError, match="device='cuda': there is no CUDA device"):
            dr.write(warped, tmp_path / "out.zarr", client=client, **SMALL)


def device_here() -> str:
    from daskreg.runtime.device import resolve

    return resolve("auto")


def test_tasks_for_gpus_go_to_workers_that_have_one(tmp_path: Path, stored: Path) -> None:
    """Where workers declare what they have; here, a CPU that calls itself a GPU."""
    with (
        dask.config.set({"distributed.scheduler.no-workers-timeout": "2s"}),
        LocalCluster(n_workers=1, resources={"GPU": 1}, **IN_THREADS) as cluster,
        Client(cluster) as client,
    ):
        warped = dr.warp(dr.open(stored), pull=TURN, device="cuda")
        with pytest.raises(OptionError, match="there is no CUDA device"):
            dr.write(warped, tmp_path / "out.zarr", client=client, **SMALL)


def test_failing_blocks_are_named_at_the_end_and_the_rest_is_kept(tmp_path: Path, stored: Path, client: Client) -> None:
    victim = stored / "c" / "3" / "1" / "0"
    good = victim.read_bytes()
    victim.write_bytes(good[: len(good) // 2])
    path = tmp_path / "out.zarr"
    with pytest.raises(BlocksFailedError, match=r"1 blocks.*redoes only(.|\n)*block \(3, 1, 0\).*chunk c/3/1/0"):
        dr.write(dr.open(stored), path, client=client, **SMALL)
    assert len(Ledger(path).entries()) == BLOCKS - 1
    victim.write_bytes(good)
    again = dr.write(dr.open(stored), path, client=client, **SMALL)
    assert again.blocks == 1
    assert whole(path, PIXELS)


def test_two_runs_of_one_output_do_not_meet(tmp_path: Path, stored: Path) -> None:
    slow = Slow(tmp_path, stored, 0.5)
    path = tmp_path / "out.zarr"
    refused: list[str] = []

    def second() -> None:
        until(lambda: Ledger(path).exists and len(Ledger(path).entries()) > 5)
        code = f"import daskreg as dr; dr.write(dr.open({str(stored)!r}), {str(path)!r}, overwrite=True)"
        try:
            ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
            refused.append(ended.stderr)
            with pytest.raises(OutputBusyError):
                dr.write(dr.open(stored), path, client=False, **SMALL)
        finally:
            slow.release()

    with meanwhile(second):
        written = dr.write(slow.volume, path, client=False, **SMALL)
    assert written.blocks == BLOCKS
    assert "OutputBusyError: another run is writing" in refused[0]
    assert whole(path, PIXELS)
    assert dr.write(slow.volume, path, client=False, **SMALL).blocks == 0


def test_a_task_that_outlives_its_run_writes_nothing_more(tmp_path: Path, stored: Path) -> None:
    """As when a client dies, its workers go on, and the same command is typed again at once."""
    slow = Slow(tmp_path, stored, 0.5)
    path = tmp_path / "out.zarr"
    with own_cluster(tmp_path) as cluster:
        code = (
            f"import dask, daskreg as dr, cloudpickle\n"
            f"volume = cloudpickle.load(open({str(tmp_path / 'slow.pickle')!r}, 'rb'))\n"
            f"client = dr.connect({str(cluster.file)!r})\n"
            f"dr.write(volume, {str(path)!r}, chunks=(1, 50, 40), levels=1, memory='1 MiB', progress=False)\n"
        )
        import cloudpickle

        (tmp_path / "slow.pickle").write_bytes(cloudpickle.dumps(slow.volume))
        process = subprocess.Popen([sys.executable, "-c", code])
        until(lambda: slow.count > 4)
        process.kill()
        process.wait()
        slow.release()
        other = dr.open(stored, chunks=(1, 50, 40))
        other = other.copy(data=other.data[:, ::-1])
        written = dr.write(other, path, client=False, overwrite=True, **SMALL)
        time.sleep(0.7)  # what was running has ended
    assert written.blocks == BLOCKS == len(Ledger(path).entries())
    assert whole(path, PIXELS[:, ::-1])


def test_blocks_that_a_task_of_a_replaced_run_writes_over_are_made_again(tmp_path: Path, stored: Path) -> None:
    """Such a task looked whether its run was the current one just before that changed."""
    path, keys = tmp_path / "out.zarr", ["0/c/3/1/0", "0/c/23/1/1"]
    dr.write(dr.open(stored), path, client=False, **SMALL)
    late = [entry for entry in Ledger(path).entries().values() if entry.files[0][0] in keys]
    old = {key: (path / key).read_bytes() for key in keys}
    other = dr.open(stored, chunks=(1, 50, 40))
    other = other.copy(data=other.data[:, ::-1])

    def write_late(done: int, total: int, nbytes: int) -> None:
        while done >= total - 1 and late:
            entry = late.pop()
            (path / entry.files[0][0]).write_bytes(old[entry.files[0][0]])
            Ledger(path).append(entry)

    Ledger(path).append(late[0])
    written = dr.write(other, path, client=False, overwrite=True, **SMALL | {"progress": write_late})
    assert BLOCKS < written.blocks <= BLOCKS + 2 * len(keys)
    assert whole(path, PIXELS[:, ::-1])


@pytest.mark.parametrize("cluster", [False, True], ids=["threads", "cluster"])
def test_ctrl_c_leaves_a_run_that_resumes(tmp_path: Path, stored: Path, cluster: bool) -> None:
    path, ledger = tmp_path / "out.zarr", Ledger(tmp_path / "out.zarr")
    (tmp_path / "run.py").write_text(script(stored, path, cluster=cluster))
    process = subprocess.Popen([sys.executable, tmp_path / "run.py"], stderr=subprocess.PIPE, text=True)
    until(lambda: ledger.exists and len(ledger.entries()) >= 30)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=30)
    assert process.returncode != 0
    assert "KeyboardInterrupt" in told.splitlines()
    kept = len(ledger.entries())
    assert 30 <= kept < BLOCKS
    again = dr.write(dr.open(stored), path, client=False, **SMALL)
    assert (again.skipped, again.blocks) == (kept, BLOCKS - kept)
    assert whole(path, PIXELS)


def test_ctrl_c_twice_ends_a_script_that_leaves_its_cluster_open(tmp_path: Path, stored: Path) -> None:
    """The second one comes while the exit closes the cluster, which then waited for its workers for ever."""
    path, ledger = tmp_path / "out.zarr", Ledger(tmp_path / "out.zarr")
    (tmp_path / "run.py").write_text(script(stored, path, cluster=True))
    process = subprocess.Popen([sys.executable, tmp_path / "run.py"], stderr=subprocess.DEVNULL)
    until(lambda: ledger.exists and len(ledger.entries()) >= 30)
    children = psutil.Process(process.pid).children(recursive=True)
    try:
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)
        assert not psutil.wait_procs(children, timeout=20)[1]
    finally:
        for one in (process, *children):
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
    assert process.returncode != 0
