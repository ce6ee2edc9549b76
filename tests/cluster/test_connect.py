"""`connect()` with real schedulers and workers, and the job script of a cluster we do not have."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import distributed
import psutil
import pytest
from distributed import Client
from packaging.version import Version

import daskreg as dr
from daskreg.cluster import address as joining
from daskreg.cluster import local
from daskreg.cluster.batch import batch_cluster
from daskreg.cluster.config import AddressConfig, LocalConfig, SlurmConfig
from daskreg.cluster.options import Tls
from daskreg.cluster.run_folder import run_folder
from daskreg.cluster.slurm import SLURM as SYSTEM
from daskreg.errors import DaskregWarning, InputError, NoWorkersError, OptionError
from daskreg.runtime.device import THREAD_VARIABLES, library_threads

pytestmark = pytest.mark.slow

SLURM = SlurmConfig(
    cores=8,
    memory="16 GiB",
    walltime="02:00:00",
    jobs=1,
    processes=4,
    account="acc7",
    partition="fast",
    directives=("--constraint=skylake",),
    prologue=("module load python",),
    interface="lo",
    insecure=True,
    dashboard_port=None,
)


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with dr.connect(LocalConfig(workers=2, dashboard_port=None, memory="1 GiB")) as client:
        yield client


def environment() -> dict[str, str | None]:
    return {name: os.environ.get(name) for name in THREAD_VARIABLES}


def listening() -> set[str]:
    return {c.laddr.ip for c in psutil.Process().net_connections() if c.status == "LISTEN"}


def test_a_local_cluster_is_ready_and_current(client: Client) -> None:
    workers = client.scheduler_info(n_workers=-1)["workers"]
    assert [w["nthreads"] for w in workers.values()] == [1, 1]
    assert {w["memory_limit"] for w in workers.values()} == {2**30}
    assert len({w["host"] for w in workers.values()} | {"127.0.0.1"}) == 1
    assert Client.current() is client
    assert client.submit(sum, [1, 2]).result() == 3


def test_workers_are_spawned_processes_of_their_own(client: Client) -> None:
    pids = set(client.run(os.getpid).values())
    assert len(pids | {os.getpid()}) == 3


def test_threads_are_limited_on_the_workers_and_not_here(client: Client) -> None:
    before = environment()
    for values in client.run(environment).values():
        assert all(value is not None and int(value) >= 1 for value in values.values())
        assert 2 * int(values["OMP_NUM_THREADS"] or 0) <= max(2, local.cores())
    assert environment() == before
    assert client.submit(library_threads).result() >= 1


def test_a_worker_that_starts_again_leaves_this_process_as_it_was(client: Client) -> None:
    before = dict(os.environ)
    old = set(client.run(os.getpid).values())
    psutil.Process(min(old)).kill()
    while not (len(pids := set(client.run(os.getpid, on_error="ignore").values())) == 2 and pids != old):
        time.sleep(0.1)
    assert {values["OMP_NUM_THREADS"] for values in client.run(environment).values()} != {None}
    assert dict(os.environ) == before


def test_only_this_machine_can_reach_it(client: Client) -> None:
    assert listening() <= {"127.0.0.1", "::1"}
    assert all(ips <= {"127.0.0.1", "::1"} for ips in client.run(listening).values())


def test_failures_are_survived_as_designed(client: Client) -> None:
    def settings(dask_scheduler: Any) -> tuple[Any, ...]:
        return dask_scheduler.allowed_failures, dask_scheduler.worker_ttl, dask_scheduler.no_workers_timeout

    def retries() -> int:
        import dask

        return int(dask.config.get("distributed.comm.retry.count"))

    assert client.run_on_scheduler(settings) == (10, 60, 60)
    assert set(client.run(retries).values()) == {3}


def test_an_address_and_a_scheduler_file_join_it(tmp_path: Path) -> None:
    with pytest.warns(DaskregWarning, match="without TLS"):
        client = dr.connect(LocalConfig(workers=1, insecure=True, dashboard_port=None))
    address = client.scheduler.address
    file = tmp_path / "scheduler.json"
    file.write_text(json.dumps({"address": address}))
    described = tmp_path / "joined.yaml"
    described.write_text(f"kind: address\naddress: {address}\n")
    for spec in (address, address.removeprefix("tcp://"), str(file), file, described):
        with dr.connect(spec) as other:
            assert other.submit(abs, -1).result() == 1
    assert client.submit(abs, -2).result() == 2  # it goes on
    client.close()


@pytest.mark.parametrize("taken", [True, False])
def test_pages_are_at_the_port_asked_for_unless_it_is_taken(taken: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        if not taken:
            other.close()
        with dr.connect(LocalConfig(workers=1, dashboard_port=port)) as client:
            assert (f":{port}/" in client.dashboard_link) != taken
            with urlopen(client.dashboard_link, timeout=10) as answer:
                assert answer.status == 200


def test_closing_the_client_ends_the_cluster_it_started() -> None:
    client = dr.connect(LocalConfig(workers=1, dashboard_port=None))
    pids = list(client.run(os.getpid).values())
    client.close()
    client.close()
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_each_worker_of_a_gpu_cluster_sees_one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "count_gpus", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    with dr.connect(LocalConfig(dashboard_port=None)) as client:
        seen = client.run(lambda: os.environ["CUDA_VISIBLE_DEVICES"])
    assert sorted(seen.values()) == ["3", "5"]


def test_the_threads_of_a_worker_share_its_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many tasks that want a GPU as there are threads run at once: each of these waits for the others."""
    monkeypatch.setattr(local, "count_gpus", lambda: 1)

    def together(number: int) -> int:
        from distributed import Event

        Event(f"here {number}").set()
        return sum(Event(f"here {k}").wait(20) for k in range(3))

    with dr.connect(LocalConfig(threads=3, dashboard_port=None)) as client:
        (worker,) = client.scheduler_info(n_workers=-1)["workers"].values()
        assert (worker["nthreads"], worker["resources"]) == (3, {"GPU": 3})
        assert client.gather(client.map(together, range(3), resources={"GPU": 1})) == [3, 3, 3]


def test_a_gpu_that_is_missing_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "count_gpus", lambda: 0)
    with pytest.raises(NoWorkersError, match="torch sees no GPU"):
        dr.connect(device="cuda")


@pytest.mark.skipif(
    Version(distributed.__version__) < Version("2026.8"),
    reason="in an environment of older versions, a nanny restarts a worker that ends again and again",
)
def test_an_unguarded_script_is_told_so_in_one_line(tmp_path: Path) -> None:
    script = tmp_path / "unguarded.py"
    script.write_text("import daskreg\ndaskreg.connect(workers=1)\n")
    ended = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, check=False)
    lines = ended.stderr.splitlines()
    assert ended.returncode == 1
    assert lines[0].startswith("daskreg: connect() starts worker processes, which import this script again")
    assert "if __name__ == '__main__':" in lines[0]
    assert lines[-1].startswith("daskreg.errors.RunError: the local workers did not start")


@pytest.mark.parametrize("spec", ["tcp://127.0.0.1:1", "127.0.0.1:1"])
def test_a_scheduler_that_does_not_answer(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "CONNECT_SECONDS", 1)
    with pytest.raises(NoWorkersError, match="no Dask scheduler answers at .*127.0.0.1:1"):
        dr.connect(spec)


def test_files_that_are_missing_or_something_else(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="scheduler file .*none.json: No such file"):
        dr.connect(tmp_path / "none.json")
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(InputError, match="is not a scheduler file"):
        dr.connect(tmp_path / "other.json")
    with pytest.raises(OptionError, match="is not an address"):
        dr.connect("somewhere")
    with pytest.raises(OptionError, match="workers can be given for a local cluster only"):
        dr.connect("tcp://127.0.0.1:1", workers=2)
    with pytest.raises(OptionError, match="memory: 'lots'"):
        dr.connect(LocalConfig(memory="lots"))


def test_the_slurm_job_script(tmp_path: Path) -> None:
    with pytest.warns(DaskregWarning, match="listens on lo without TLS"):
        cluster = batch_cluster(SYSTEM, SLURM, run_folder(tmp_path))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with cluster:
        script = cluster.job_script()
        assert cluster.scheduler_address.startswith("tcp://127.0.0.1:")
    for line in (
        "#SBATCH -A acc7",
        "#SBATCH -p fast",
        "#SBATCH --cpus-per-task=8",
        "#SBATCH --mem=16G",
        "#SBATCH -t 02:00:00",
        "#SBATCH --constraint=skylake",
        "export OMP_NUM_THREADS=2",
        "export NUMBA_NUM_THREADS=2",
        "module load python",
    ):
        assert line in script.splitlines()
    command = script.splitlines()[-1]
    assert command.startswith(f"{sys.executable} -m distributed.cli.dask_worker tcp://127.0.0.1:")
    assert "--nthreads 1 --memory-limit 4.00GiB --nworkers 4 --nanny" in command
    assert "--lifetime 6900s" in command
    assert "--local-directory ${TMPDIR:-/tmp}" in command


def test_a_slurm_job_with_a_gpu_has_one_worker_of_several_threads_and_tls(tmp_path: Path) -> None:
    config = SlurmConfig(
        cores=8, memory="16 GiB", walltime="10", gpu=True, interface="lo", tls="temporary", shared=str(tmp_path)
    )
    with batch_cluster(SYSTEM, config, run_folder(tmp_path)) as cluster:
        script = cluster.job_script()
        assert cluster.scheduler_address.startswith("tls://")
    assert "#SBATCH --gres=gpu:1" in script.splitlines()
    assert "export OMP_NUM_THREADS=1" in script.splitlines()
    assert "--nthreads 8 --memory-limit 16.00GiB" in script
    assert "--resources GPU=8" in script
    assert f"--tls-ca-file {tmp_path}" in script
    assert [(p.stat().st_mode & 0o777) for p in tmp_path.glob("*/*.pem")] == [0o600] * 3


def test_slurm_jobs_are_submitted_and_cancelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With commands in place of sbatch and scancel that run the script on this machine."""
    commands = {
        "sbatch": 'cp "$1" job.sh; bash job.sh > job.log 2>&1 & echo $! > pid; echo "Submitted batch job 7"',
        "scancel": 'kill $(cat pid); echo "$1" > cancelled',
    }
    for name, body in commands.items():
        (tmp_path / name).write_text(f"#!/bin/bash\ncd {tmp_path}\n{body}\n")
        (tmp_path / name).chmod(0o755 | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    config = SlurmConfig(
        cores=1,
        memory="1 GiB",
        walltime="10",
        interface="lo",
        tls="temporary",
        shared=str(tmp_path),
        scratch=str(tmp_path),
        dashboard_port=None,
    )
    with dr.connect(config) as client:
        assert client.submit(sum, [1, 2]).result(timeout=60) == 3
    assert (tmp_path / "cancelled").read_text().strip() == "7"


def test_workers_for_cores_see_no_gpu() -> None:
    with dr.connect(workers=1, device="cpu") as client:
        assert list(client.run(lambda: os.environ.get("CUDA_VISIBLE_DEVICES")).values()) == [""]
    assert os.environ.get("CUDA_VISIBLE_DEVICES") != ""


def test_certificates_of_the_script_let_their_owner_in_and_nobody_else(tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "cluster" / "tls" / "make-certificates.sh"
    made = subprocess.run([script, tmp_path / "tls", "1"], capture_output=True, text=True, timeout=60, check=True)
    assert made.stdout == "tls: {{ca_file: {0}/ca.pem, cert: {0}/node.pem, key: {0}/node-key.pem}}\n".format(
        tmp_path / "tls"
    )
    assert [stat.S_IMODE((tmp_path / "tls" / name).stat().st_mode) for name in ("ca.pem", "node-key.pem")] == [
        0o600
    ] * 2
    files = Tls(*(str(tmp_path / "tls" / f"{name}.pem") for name in ("ca", "node", "node-key")))
    config = LocalConfig(workers=1, interface="lo", tls=files, dashboard_port=None, memory="1 GiB")
    with dr.connect(config) as client:
        address = client.scheduler.address
        assert address.startswith("tls://")
        with dr.connect(AddressConfig(address=address, tls=files)) as second:
            assert second.submit(sum, [1, 2]).result(timeout=30) == 3
        with pytest.raises((OSError, ValueError, RuntimeError, TypeError)):
            Client(address.replace("tls://", "tcp://"), timeout=3)
    again = subprocess.run([script, tmp_path / "tls"], capture_output=True, text=True, timeout=60, check=False)
    assert again.returncode == 1
    assert "exists" in again.stderr
