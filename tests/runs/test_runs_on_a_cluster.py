"""Runs whose coordinator is on the cluster: clients, workers and schedulers die, and others attach."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import zarr
from processes import BLOCKS, CHUNKS, HOW, SHAPE, TOTAL, Cluster, SlowRun, own_cluster, until

import daskreg as dr
from daskreg.blocks.record.ledger import Ledger
from daskreg.cli import run as command
from daskreg.cluster.config import AddressConfig
from daskreg.cluster.options import Tls
from daskreg.errors import BlocksFailedError, OptionError, OutputBusyError, RunCancelledError, RunInterruptedError
from daskreg.runs.record import read_record
from daskreg.runs.status import cancel_run, status
from daskreg.writing import verify

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PIXELS = np.random.default_rng(0).integers(0, 60_000, SHAPE, dtype=np.uint16)


@pytest.fixture
def slow(tmp_path: Path) -> SlowRun:
    array = zarr.create_array(tmp_path / "in.zarr", shape=SHAPE, chunks=CHUNKS, dtype="u2")
    array[:] = PIXELS
    return SlowRun(tmp_path, tmp_path / "in.zarr", tmp_path / "out.zarr")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with own_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


def equals_a_run_in_threads(slow: SlowRun, folder: Path) -> bool:
    """Whether the output holds the bytes that one run without faults in this process gives."""
    expected = folder / "expected.zarr"
    dr.write(dr.open(slow.stored), expected, client=False, **HOW)
    files = sorted(p.relative_to(expected) for p in expected.rglob("*") if p.is_file() and p.name != "zarr.json")
    assert len(files) == TOTAL
    assert verify(slow.out) == []
    return all((expected / file).read_bytes() == (slow.out / file).read_bytes() for file in files)


def entries(slow: SlowRun) -> int:
    return len(Ledger(slow.out).entries()) if Ledger(slow.out).exists else 0


def started(slow: SlowRun, cluster: Cluster) -> dr.Run:
    """A run that goes on, whose client is closed."""
    with dr.connect(cluster.file) as client:
        run = dr.write(slow.volume(), slow.out, client=client, wait=False, **HOW)
    until(lambda: entries(slow) > 5)
    return run


def test_a_run_goes_on_when_its_client_was_killed_and_another_process_waits_for_it(
    slow: SlowRun, cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    body = f"""
    client = dr.connect({str(cluster.file)!r})
    run = dr.write(VOLUME, OUT, wait=False, **HOW)
    time.sleep(600)
    """
    with slow.script(body) as process:
        until(lambda: entries(slow) > 5)
        process.send_signal(signal.SIGKILL)
        process.wait()
    run = dr.attach(slow.out)
    assert run.state == "running"
    assert until(lambda: 0 < run.progress.done < run.progress.total == TOTAL)
    assert cluster.address in repr(run)
    assert command(["status", str(slow.out), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["state"], shown["total"], shown["scheduler"]) == ("running", TOTAL, cluster.address)
    assert shown["rate"] > 0
    assert shown["left"] > 0
    slow.release()
    assert run.wait(timeout=300).blocks == TOTAL
    assert equals_a_run_in_threads(slow, tmp_path)
    assert run.state == "done"
    assert dr.attach(slow.out).wait().blocks == TOTAL  # also when it is over
    with dr.connect(cluster.file) as client:  # nothing is left at the scheduler
        until(lambda: client.list_datasets() == ())
        until(lambda: client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks)) == 0)


def test_the_coordinator_moves_on_when_its_worker_is_killed(slow: SlowRun, cluster: Cluster, tmp_path: Path) -> None:
    run = started(slow, cluster)
    victims: set[int] = set()

    def other() -> int:
        record = read_record(run._folder)
        return 0 if record is None or record.process.pid in victims else record.process.pid

    for _ in range(2):
        pid, before = until(other), entries(slow)
        until(lambda seen=before: entries(slow) > seen + 5)
        victims.add(pid)
        os.kill(pid, signal.SIGKILL)
        cluster.worker()
    slow.release()
    written = run.wait(timeout=300)
    assert len(victims) == 2
    assert run.progress.process.pid not in victims
    assert written.skipped > 0  # the last coordinator found what those before it had made
    assert equals_a_run_in_threads(slow, tmp_path)
    assert slow.made - BLOCKS <= 8  # those that ran on the killed workers, and those that had not been reported


def test_a_run_is_cancelled_from_another_process_and_resumes(
    slow: SlowRun, cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = started(slow, cluster)
    assert command(["cancel", str(slow.out)]) == 0
    assert "cancelled" in capsys.readouterr().out
    kept = entries(slow)
    assert kept < TOTAL
    assert kept == slow.made  # what ran was finished and recorded
    with pytest.raises(RunCancelledError, match="the same call resumes"):
        run.wait(timeout=300)
    assert command(["cancel", str(slow.out)]) == 1  # none goes on
    slow.release()
    again = dr.write(slow.volume(), slow.out, client=False, **HOW)
    assert (again.blocks, again.skipped) == (TOTAL - kept, kept)
    assert slow.made == BLOCKS
    assert equals_a_run_in_threads(slow, tmp_path)


def test_an_error_of_the_run_is_raised_where_it_is_awaited(slow: SlowRun, cluster: Cluster) -> None:
    victim = slow.stored / "c" / "3" / "2" / "0"
    victim.write_bytes(victim.read_bytes()[:20])
    with dr.connect(cluster.file) as client:
        run = dr.write(dr.open(slow.stored), slow.out, client=client, wait=False, **HOW)
        for one in (run, dr.attach(slow.out, client=client)):
            with pytest.raises(BlocksFailedError, match=r"block \(3, 2, 0\)"):
                one.wait(timeout=300)
    assert run.progress.failed == 1
    assert "block (3, 2, 0)" in run.progress.failures[0]


def test_voxels_that_the_scheduler_would_have_to_keep_are_refused(
    slow: SlowRun, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daskreg.runs.coordinator.MOST_BYTES", PIXELS.nbytes)
    with dr.connect(cluster.file) as client:
        with pytest.raises(OptionError, match="store it first"):
            dr.write(PIXELS, slow.out, client=client, wait=False, **HOW)
        assert client.list_datasets() == ()
    assert dr.attach(slow.out).state == "failed"


def test_an_interrupted_write_cancels_what_it_had_submitted_and_says_so(slow: SlowRun, cluster: Cluster) -> None:
    body = f"""
    import time
    client = dr.connect({str(cluster.file)!r})
    try:
        dr.write(VOLUME, OUT, **HOW)
    except KeyboardInterrupt:
        for _ in range(100):  # the scheduler hears of it a little later
            left = client.run_on_scheduler(lambda dask_scheduler: [k for k in dask_scheduler.tasks if "daskreg" in k])
            if len(left) <= 2:
                break
            time.sleep(0.1)
        print(len(left), dr.attach(OUT).state)
    """
    with slow.script(body) as process:
        until(lambda: entries(slow) > 5)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=300)
    left, state = out.split()
    assert int(left) <= 2  # those that a worker is making
    assert state == "interrupted"
    assert "what was submitted is cancelled; finished blocks are kept" in err


def test_a_stack_is_aligned_without_its_client(cluster: Cluster, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    image = np.cumsum(np.cumsum(rng.normal(size=(90, 100)), 0), 1)
    stack = np.stack([image[10 + k : 70 + k, 15:85] for k in rng.integers(-3, 4, 10)]).astype(np.float32)
    stored = tmp_path / "stack.zarr"
    zarr.create_array(stored, data=stack, chunks=(1, 60, 70))
    fit = tmp_path / "fit.json"
    with dr.connect(cluster.file):
        dr.align_stack(dr.open(stored), wait=False, save=fit)
    run = dr.attach(fit)
    found = run.wait(timeout=300)
    expected = dr.align_stack(dr.open(stored), client=False)
    assert np.allclose(found.raw_from_aligned.matrices, expected.raw_from_aligned.matrices, atol=1e-9)
    assert run.progress.total == 10
    assert sorted(p.name for p in run._folder.iterdir()) == ["lock", "state.json"]


def test_a_run_that_waits_for_a_worker_is_cancelled_at_once(slow: SlowRun, tmp_path: Path) -> None:
    with own_cluster(tmp_path, workers=0) as cluster:
        with dr.connect(cluster.file) as client:
            run = dr.write(slow.volume(), slow.out, client=client, wait=False, **HOW)
        assert "waiting for a worker" in repr(run)
        assert status(slow.out).state == "waiting"
        (ended,) = cancel_run(slow.out, timeout=300)
        assert ended.state == "cancelled"
        with pytest.raises(RunCancelledError, match="before it began"):
            run.wait(timeout=300)
        cluster.worker()
        with dr.connect(cluster.file) as client:
            client.wait_for_workers(1)
            assert client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks)) == 0
        assert run.state == "cancelled"
    assert slow.made == 0


def test_a_run_on_a_cluster_with_certificates(slow: SlowRun, tmp_path: Path) -> None:
    """Coordinator and those who attach use the certificates, and no key is in the record."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl here")
    tls = tmp_path / "tls"
    subprocess.run([ROOT / "cluster" / "tls" / "make-certificates.sh", tls], check=True, capture_output=True)
    files = {"ca_file": tls / "ca.pem", "cert": tls / "node.pem", "key": tls / "node-key.pem"}
    names = ("--tls-ca-file", "--tls-cert", "--tls-key")
    arguments = [text for pair in zip(names, map(str, files.values()), strict=True) for text in pair]
    with own_cluster(tmp_path, arguments=arguments, scheduler_arguments=["--protocol", "tls"]) as cluster:
        spec = AddressConfig(address=cluster.address, tls=Tls(**{name: str(file) for name, file in files.items()}))
        with dr.connect(spec) as client:
            dr.write(slow.volume(), slow.out, client=client, wait=False, **HOW)
        run = dr.attach(slow.out)
        pid = until(lambda: run.progress.process.pid)
        until(lambda: entries(slow) > 5)
        os.kill(pid, signal.SIGKILL)
        assert status(slow.out).state == "running"  # only the scheduler knows that another worker takes it up
        slow.release()
        assert run.wait(timeout=300).skipped > 0
    key = files["key"].read_text().splitlines()[1]
    assert not any(key in file.read_text(errors="replace") for file in run._folder.iterdir() if file.is_file())


def test_a_run_whose_scheduler_died_says_so(slow: SlowRun, cluster: Cluster) -> None:
    """The last one of this file: it ends the cluster."""
    run = started(slow, cluster)
    cluster.end()
    with pytest.raises(RunInterruptedError, match="the same call as before resumes"):
        dr.attach(slow.out).wait(timeout=300)
    assert run.state == "interrupted"
    slow.release()
    assert dr.write(slow.volume(), slow.out, client=False, **HOW).skipped > 5
    with pytest.raises(OutputBusyError, match="another run"):  # what it returned is not this run
        run.wait()
