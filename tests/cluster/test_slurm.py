"""Workers as jobs of a real SLURM of three nodes: `cluster/testing/slurm-nodes.sh` starts it on this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import daskreg as dr
from daskreg.blocks.record.ledger import Ledger
from daskreg.cluster.config import AllocationConfig, SlurmConfig
from daskreg.cluster.submission import sized, submission_script
from daskreg.cluster.submission import submit as submit_script
from daskreg.errors import NoWorkersError
from daskreg.writing import verify

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SCRIPT = Path(__file__).parents[2] / "cluster" / "testing" / "slurm-nodes.sh"
# Seconds within which a busy machine does what takes a few otherwise; nothing is said of how long it takes.
WAIT = 300
TOOLS = ("slurmctld", "slurmd", "munged", "ip", "nsenter", "unshare")
PIXELS = np.random.default_rng(0).integers(0, 60_000, (48, 300, 260), dtype=np.uint16)
TURN = dr.Affine.from_parameters(theta=0.2, tx=3, centre=(100, 80))


@pytest.fixture(scope="module")
def slurm() -> Iterator[None]:
    """Three nodes of one core."""
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    missing = [tool for tool in TOOLS if shutil.which(tool, path=path) is None]
    if os.getuid() != 0 or missing:
        pytest.skip(f"a SLURM of several nodes needs root and Debian's slurm-wlm, munge, iproute2 (no {missing})")
    environment = {
        **os.environ,
        "NODES": "3",
        "STATE": "/var/lib/slurm-nodes-of-tests",
        "IFACE": "clus1",
        "SUBNET": "10.67.0",
    }
    started = subprocess.run(
        [SCRIPT, "start"], env=environment, capture_output=True, text=True, timeout=WAIT, check=False
    )
    if started.returncode:
        subprocess.run([SCRIPT, "stop"], env=environment, capture_output=True, timeout=WAIT, check=False)
        pytest.skip(f"no SLURM could be started: {started.stderr.strip()[-300:]}")
    before = os.environ.get("SLURM_CONF")
    os.environ["SLURM_CONF"] = "/var/lib/slurm-nodes-of-tests/slurm.conf"
    yield
    subprocess.run([SCRIPT, "stop"], env=environment, capture_output=True, timeout=WAIT, check=True)
    if before is None:
        del os.environ["SLURM_CONF"]
    else:
        os.environ["SLURM_CONF"] = before


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stored") / "in.zarr"
    array = zarr.create_array(path, shape=PIXELS.shape, chunks=(1, 50, 40), dtype="u2")
    array[:] = PIXELS
    return path


def config(folder: Path, **options: Any) -> SlurmConfig:
    defaults = {
        "cores": 1,
        "memory": "1 GiB",
        "walltime": "00:10:00",
        "jobs": 3,
        "interface": "clus1",
        "tls": "temporary",
    }
    return SlurmConfig(**{**defaults, "shared": str(folder), "dashboard_port": None, **options})


def until(condition: Callable[[], bool], seconds: float = WAIT) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited for too long"
        time.sleep(0.2)


def jobs(state: str) -> list[str]:
    listed = subprocess.run(
        ["squeue", "-h", "-o", "%i", "-t", state], capture_output=True, text=True, timeout=WAIT, check=True
    )
    return listed.stdout.split()


def write(stored: Path, path: Path, **options: Any) -> Any:
    moved = dr.warp(dr.open(stored), pull=TURN)
    return dr.write(moved, path, chunks=(1, 50, 40), levels=1, memory="4 MiB", progress=False, **options)


@pytest.fixture(scope="module")
def expected(stored: Path) -> np.ndarray:
    return np.asarray(dr.warp(dr.open(stored), pull=TURN))


def test_three_nodes_give_what_one_process_gives_and_a_cancelled_job_is_replaced(
    slurm: None, tmp_path: Path, stored: Path, expected: np.ndarray
) -> None:
    path = tmp_path / "out.zarr"

    def cancel(done: int, total: int, nbytes: int) -> None:
        running = jobs("RUNNING")
        if done >= 4 and running and not cancelled:
            cancelled.append(running[0])
            subprocess.run(["scancel", running[0]], timeout=WAIT, check=True)

    cancelled: list[str] = []
    with dr.connect(config(tmp_path)) as client:
        client.wait_for_workers(3, timeout=WAIT)
        hosts = {worker["host"] for worker in client.scheduler_info(n_workers=-1)["workers"].values()}
        moved = dr.warp(dr.open(stored), pull=TURN)
        written = dr.write(moved, path, chunks=(1, 50, 40), levels=1, memory="4 MiB", progress=cancel)
        client.wait_for_workers(3, timeout=WAIT)
    assert len(hosts) == 3
    assert cancelled
    assert written.blocks >= 40
    assert verify(path) == []
    np.testing.assert_array_equal(zarr.open_array(path / "0", mode="r")[:], expected)
    until(lambda: not jobs("RUNNING,PENDING"))
    assert list(tmp_path.glob(".daskreg-run-*")) == []


def test_jobs_wait_in_a_busy_queue(
    slurm: None, tmp_path: Path, stored: Path, expected: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    others = [
        subprocess.run(
            ["sbatch", "--parsable", "-t", "5", "-o", "/dev/null", "--wrap", "sleep 300"],
            capture_output=True,
            text=True,
            timeout=WAIT,
            check=True,
        ).stdout.strip()
        for _ in range(3)
    ]
    try:
        until(lambda: set(others) <= set(jobs("RUNNING")))
        with (
            dr.connect(config(tmp_path, jobs=1, wait="00:00:04")) as client,
            pytest.raises(NoWorkersError, match=r"1 jobs wait in the queue \(PENDING: (Resources|Priority)\) for 4 s"),
        ):
            write(stored, tmp_path / "out.zarr", client=client)
        assert "waiting for workers: 1 jobs wait in the queue" in caplog.text
        with dr.connect(config(tmp_path, jobs=1)) as client:
            leave = threading.Timer(2, subprocess.run, [["scancel", *others]])
            leave.start()
            write(stored, tmp_path / "out.zarr", client=client)
            leave.join()
        np.testing.assert_array_equal(zarr.open_array(tmp_path / "out.zarr/0", mode="r")[:], expected)
    finally:
        subprocess.run(["scancel", *others], timeout=WAIT, check=True)


def test_what_the_batch_system_refuses_is_said_in_its_words(slurm: None, tmp_path: Path) -> None:
    with pytest.raises(NoWorkersError, match="refused a job: .*[Ii]nvalid partition"):
        dr.connect(config(tmp_path, partition="nowhere"))
    with pytest.raises(NoWorkersError, match="this machine has no network interface 'ib7', but .*clus1"):
        dr.connect(config(tmp_path, interface="ib7"))
    assert list(tmp_path.glob(".daskreg-run-*")) == []


def test_jobs_that_end_without_a_worker_end_the_run_with_their_last_words(
    slurm: None, tmp_path: Path, stored: Path
) -> None:
    with (
        dr.connect(config(tmp_path, python="/nowhere/python")) as client,
        pytest.raises(
            NoWorkersError, match=r"3 jobs ended before .*; the last one says: .*/nowhere/python: No such file"
        ),
    ):
        write(stored, tmp_path / "out.zarr", client=client)
    until(lambda: not jobs("RUNNING,PENDING"))


def cluster_file(folder: Path) -> Path:
    (folder / "slurm.yaml").write_text(
        "kind: slurm\ncores: 1\nmemory: 1 GiB\nwalltime: '00:10:00'\njobs: 3\ninterface: clus1\ntls: temporary\n"
        f"dashboard_port: null\nshared: {folder}\nlogs: {folder}\n"
    )
    return folder / "slurm.yaml"


def submit(folder: Path, nodes: int, *words: str) -> str:
    """The number of the job."""
    command = [
        sys.executable,
        "-c",
        "from daskreg.cli import main; main()",
        "submit",
        cluster_file(folder),
        f"--nodes={nodes}",
        "--",
        *words,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT, check=True, cwd=folder)
    return done.stdout.split(":")[0].removeprefix("job ")


def ended(number: str) -> str:
    """What SLURM says of a job when it has ended: its state and exit code."""

    going = {"JobState=PENDING", "JobState=RUNNING", "JobState=COMPLETING"}
    until(lambda: not going & set(facts_of(number)))
    return " ".join(word for word in facts_of(number) if word.startswith(("JobState", "ExitCode")))


def facts_of(number: str) -> list[str]:
    """What `scontrol` says of a job, as "Name=value"."""
    shown = subprocess.run(
        ["scontrol", "show", "job", number], capture_output=True, text=True, timeout=WAIT, check=True
    )
    return shown.stdout.split()


def test_a_submitted_command_runs_on_all_nodes_of_its_job_and_goes_on_after_its_time(
    slurm: None, tmp_path: Path, stored: Path, expected: np.ndarray
) -> None:
    path = tmp_path / "out.zarr"
    TURN.save(tmp_path / "turn.json")
    words = [
        "warp",
        str(stored),
        str(path),
        "--pull",
        str(tmp_path / "turn.json"),
        "--chunks",
        "1,50,40",
        "--levels",
        "1",
    ]
    number = submit(tmp_path, 3, *words, "--memory", "4MiB")
    ledger = Ledger(path)
    until(lambda: ledger.exists and len(ledger.entries()) > 1)
    # As SLURM does shortly before the walltime.
    subprocess.run(["scancel", "--signal=USR1", "--batch", number], timeout=WAIT, check=True)
    first = ended(number)
    kept = len(ledger.entries())
    again = submit(tmp_path, 1, *words, "--memory", "4MiB")
    assert ended(again) == "JobState=COMPLETED ExitCode=0:0"
    output = (tmp_path / f"daskreg-{again}.out").read_text()
    if kept < 48:  # else it had ended when the signal came
        assert first == "JobState=FAILED ExitCode=75:0"
        assert f"{kept} were there" in output, output
    assert verify(path) == []
    np.testing.assert_array_equal(zarr.open_array(path / "0", mode="r")[:], expected)
    assert list(tmp_path.glob(".daskreg-run-*")) == []


def nodes(*words: str) -> None:
    """A command of `slurm-nodes.sh`."""
    environment = {**os.environ, "STATE": "/var/lib/slurm-nodes-of-tests"}
    subprocess.run([SCRIPT, *words], env=environment, capture_output=True, timeout=WAIT, check=True)


def node_of(number: str) -> str:
    shown = subprocess.run(
        ["squeue", "-h", "-o", "%N", "-j", number], capture_output=True, text=True, timeout=WAIT, check=True
    )
    return shown.stdout.strip()


def test_a_node_that_dies_loses_only_what_it_held(
    slurm: None, tmp_path: Path, stored: Path, expected: np.ndarray
) -> None:
    path = tmp_path / "out.zarr"
    dead: list[str] = []

    def pull_the_plug(done: int, total: int, nbytes: int) -> None:
        running = jobs("RUNNING")
        if done >= 4 and len(running) > 1 and not dead:
            dead.append(node_of(running[0]))
            nodes("kill", dead[0])

    try:
        with dr.connect(config(tmp_path, jobs=2)) as client:
            client.wait_for_workers(2, timeout=WAIT)
            moved = dr.warp(dr.open(stored), pull=TURN)
            written = dr.write(
                moved, path, client=client, chunks=(1, 50, 40), levels=1, memory="4 MiB", progress=pull_the_plug
            )
    finally:
        for node in dead:
            nodes("boot", node)
    assert dead
    assert written.blocks >= 40
    assert verify(path) == []
    np.testing.assert_array_equal(zarr.open_array(path / "0", mode="r")[:], expected)


def test_a_job_whose_walltime_is_too_short_is_requeued_and_goes_on(slurm: None, tmp_path: Path) -> None:
    """SLURM itself sends the signal, up to a minute early; the run that it meets only sleeps."""
    size = sized(config(tmp_path, walltime="00:01:00", jobs=1, logs=str(tmp_path)), None)
    script = submission_script(size, ["STANDS", "FOR", "A", "COMMAND"], requeue=True)
    line = next(line for line in script.splitlines() if "STANDS FOR A COMMAND" in line)
    command = f"""bash -c '[ -n "$SLURM_RESTART_COUNT" ] || exec sleep 120; touch {tmp_path}/done' &"""
    number = submit_script(script.replace(line, command))
    until(lambda: {"Restarts=1", "JobState=PENDING"} <= set(facts_of(number)))
    assert not (tmp_path / "done").exists()
    # SLURM would signal the second run too, at any time of its minute.
    subprocess.run(["scontrol", "update", f"job={number}", "TimeLimit=10"], timeout=WAIT, check=True)
    assert ended(number) == "JobState=COMPLETED ExitCode=0:0", facts_of(number)
    assert (tmp_path / "done").exists()


def test_outside_a_job_there_is_no_allocation() -> None:
    with pytest.raises(NoWorkersError, match="this process is not in one"):
        dr.connect(AllocationConfig(interface="lo", tls="temporary"))
