"""Runs whose output and record are in an object store: followed, cancelled, and made in parts. S3 by moto."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import own_cluster, until
from s3 import SECRET

import daskreg as dr
from daskreg.blocks.record.ledger import Ledger
from daskreg.cli import run as command
from daskreg.errors import NotAVolumeError, OutputBusyError, RunCancelledError
from daskreg.runs import recorder
from daskreg.runs.part_locks import active_parts, part_folder, part_locked
from daskreg.runs.record import record_folder
from daskreg.runs.status import status
from daskreg.sources.storage import object_bytes
from daskreg.sources.storage.access import remember_options
from daskreg.sources.storage.object_bytes import ObjectBytes
from daskreg.writing import verify

pytestmark = pytest.mark.slow

HOW: dict[str, Any] = {"chunks": (2, 16, 20), "shards": None, "levels": 2, "memory": "2 MiB", "progress": False}
PULL = dr.Affine.translation(y=-1.25, x=3.5)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("volume") / "in.zarr"
    dr.write(np.random.default_rng(5).integers(0, 60_000, (5, 37, 50), "u2"), path, client=False, **HOW)
    return path


@pytest.fixture(scope="module")
def expected(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The chunks of a run on a disk."""
    path = tmp_path_factory.mktemp("expected") / "out.zarr"
    dr.write(dr.warp(dr.open(source), pull=PULL), path, client=False, **HOW)
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("c/*/*/*")}


@pytest.fixture(autouse=True)
def _quick(s3: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Short pauses; credentials are in the environment, which workers have too."""
    monkeypatch.setattr(object_bytes, "FIRST_DELAY", 0.001)
    monkeypatch.setattr(recorder, "REMOTE", 0.2)
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    remember_options(s3.url, {})
    yield
    remember_options(s3.url, {})


def chunks(url: str) -> dict[str, bytes]:
    store = ObjectBytes(url)
    return {key: bytes(store.get(key) or b"") for key in store.listing() if "/c/" in key}


def slowly(s3: Any, seconds: float = 0.1) -> None:
    """Let each chunk take a while to be put."""
    s3.fault = lambda method, path: seconds if method == "PUT" and "/c/" in path else None


def entries(url: str) -> int:
    ledger = Ledger(url)
    return len(ledger.entries()) if ledger.exists else 0


def test_a_run_in_a_thread_is_followed_cancelled_and_resumed(
    s3: Any, source: Path, expected: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    out = f"{s3.url}/out.zarr"
    slowly(s3)
    run = dr.write(dr.warp(dr.open(source), pull=PULL), out, client=False, wait=False, **HOW)
    until(lambda: run.progress.done > 3)
    other = dr.attach(out)
    assert other.path == out
    assert other.state == "running"
    assert status(out).where.startswith("in process")
    assert command(["cancel", out]) == 0
    with pytest.raises(RunCancelledError):
        run.wait()
    assert other.state == "cancelled"
    kept, total = entries(out), run.progress.total
    assert 3 < kept < total
    assert command(["status", out]) == 0
    assert f"cancelled, {kept} of {total} done" in capsys.readouterr().out
    s3.fault = None
    written = dr.write(dr.warp(dr.open(source), pull=PULL), out, client=False, wait=False, **HOW).wait()
    assert (written.path, written.skipped) == (out, kept)
    assert dr.attach(out).wait() == written
    assert chunks(out) == expected
    assert verify(out) == []
    assert command(["cancel", out]) == 1


def test_a_run_on_a_cluster_goes_on_without_its_client(
    s3: Any, source: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    out = f"{s3.url}/out.zarr"
    slowly(s3)
    with own_cluster(tmp_path) as cluster:
        with dr.connect(cluster.file) as client:
            dr.write(dr.warp(dr.open(source), pull=PULL), out, client=client, wait=False, **HOW)
        until(lambda: entries(out) > 3)
        run = dr.attach(out, storage_options=s3.options)
        assert run.progress.process.pid in [worker.pid for worker in cluster.workers]
        s3.fault = None
        written = run.wait(timeout=120)
    assert written.blocks == run.progress.total
    assert chunks(out) == expected
    records = Ledger(out).records
    assert not any(SECRET.encode() in bytes(records.get(key) or b"") for key in records.listing())


def test_no_run_is_there(s3: Any) -> None:
    for ask in (dr.attach, status):
        with pytest.raises(NotAVolumeError, match=r"no run is recorded in s3://.*none\.zarr\.daskreg"):
            ask(f"{s3.url}/none.zarr")


PART = """
import sys
import daskreg as dr
source, out, number, of = sys.argv[1:]
how = {"chunks": (2, 16, 20), "shards": None, "levels": 2, "memory": "2 MiB", "progress": False}
volume = dr.warp(dr.open(source), pull=dr.Affine.translation(y=-1.25, x=3.5))
dr.write(volume, out, client=False, part=(int(number), int(of)), **how)
"""


def test_parts_in_several_processes_equal_one_run(s3: Any, source: Path, expected: dict[str, bytes]) -> None:
    out, of = f"{s3.url}/out.zarr", 2
    slowly(s3, 0.02)

    def one(number: int) -> None:
        script = [sys.executable, "-c", PART, str(source), out, str(number), str(of)]
        ended = subprocess.run(script, env=dict(os.environ), check=False, timeout=200, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr

    with ThreadPoolExecutor(of) as pool:
        list(pool.map(one, range(1, of + 1)))
    assert chunks(out) == expected
    assert verify(out) == []
    found = status(out)
    assert (found.state, found.done) == ("done", found.total)
    assert len(found.parts) == of
    again = dr.write(dr.warp(dr.open(source), pull=PULL), out, client=False, part=(2, of), **HOW)
    assert again.blocks == 0
    dr.write(dr.open(source), out, client=False, overwrite=True, **HOW)  # removes what parts have left
    assert not any(key.startswith("part-") for key in Ledger(out).records.listing())


def test_a_part_is_seen_by_others_while_it_is_written(s3: Any, source: Path) -> None:
    out = f"{s3.url}/out.zarr"
    dr.write(dr.open(source), out, client=False, **HOW)
    folder = record_folder(out)
    with part_locked(part_folder(folder, 2, 3)) as free:
        assert free
        assert active_parts(folder) == [(2, 3)]
        with pytest.raises(OutputBusyError, match=r"parts of this output are being written \(2/3\)"):
            dr.write(dr.open(source), out, client=False, **HOW)
    assert active_parts(folder) == []


def test_claims_of_parts_are_looked_at_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a file system has no locks, each look takes seconds: all begin before the first one ends."""
    folder = tmp_path / "out.zarr.daskreg"
    together = threading.Barrier(5, timeout=30)
    for number in range(1, 6):
        part = part_folder(folder, number, 5)
        assert isinstance(part, Path)
        part.mkdir(parents=True)
    monkeypatch.setattr("daskreg.runs.part_locks._is_free", lambda part: together.wait() < 0)
    assert active_parts(folder) == [(number, 5) for number in range(1, 6)]
