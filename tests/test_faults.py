"""Runs on real processes that die, hang or never come: nothing is lost, nothing waits for ever."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import dask
import numpy as np
import pytest
import zarr
from distributed import Client, LocalCluster

import daskreg as dr
from daskreg.blocks.ledger import Ledger
from daskreg.errors import NoWorkersError

SHAPE = (24, 200, 160)


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    array = zarr.create_array(tmp_path / "in.zarr", shape=SHAPE, chunks=(1, 100, 80), dtype="u2")
    array[:] = np.random.default_rng(0).integers(0, 60_000, SHAPE, dtype=np.uint16)
    return tmp_path / "in.zarr"


@pytest.fixture
def client() -> Iterator[Client]:
    with dr.connect(workers=2) as client:
        yield client


def test_workers_killed_again_and_again_lose_nothing(tmp_path: Path, stored: Path, client: Client) -> None:
    warped = dr.warp(dr.open(stored), pull=dr.Affine.from_parameters(theta=0.2, tx=3, centre=(100, 80)))
    path = tmp_path / "out.zarr"
    kills = 0
    stop = threading.Event()

    def killer() -> None:
        nonlocal kills
        while not stop.wait(0.7) and kills < 3:
            pids = list(client.run(os.getpid).values())
            if pids:
                os.kill(pids[0], signal.SIGKILL)
                kills += 1

    def slowly(done: int, total: int, nbytes: int) -> None:
        time.sleep(0.12)

    thread = threading.Thread(target=killer)
    thread.start()
    try:
        written = dr.write(warped, path, chunks=(1, 100, 80), levels=1, progress=slowly, memory="1 MiB")
    finally:
        stop.set()
        thread.join()
    assert kills > 0
    assert written.blocks == len(Ledger(path).entries())
    np.testing.assert_array_equal(zarr.open_array(path / "0", mode="r")[:], warped.compute(scheduler="sync").values)


def test_a_cluster_without_workers_is_an_error_and_not_a_wait(
    tmp_path: Path, stored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(dask.config.get("distributed.scheduler"), "no-workers-timeout", "2s")
    with (
        LocalCluster(n_workers=0, dashboard_address=None, processes=True) as cluster,
        Client(cluster) as client,
        pytest.raises(NoWorkersError, match="has no worker, for 2 s"),
    ):
        dr.write(dr.open(stored), tmp_path / "out.zarr", client=client, levels=1, progress=False)
    with dr.connect(workers=1) as client:
        written = dr.write(dr.open(stored), tmp_path / "out.zarr", client=client, levels=1, progress=False)
    assert written.blocks > 0


def test_ctrl_c_leaves_a_run_that_resumes(tmp_path: Path, stored: Path) -> None:
    path = tmp_path / "out.zarr"
    options = {"chunks": (1, 100, 80), "levels": 1, "memory": "1 MiB"}

    def interrupted(done: int, total: int, nbytes: int) -> None:
        if done == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dr.write(dr.open(stored), path, progress=interrupted, **options)
    kept = len(Ledger(path).entries())
    assert 10 <= kept < 24
    again = dr.write(dr.open(stored), path, progress=False, **options)
    assert again.skipped == kept
    np.testing.assert_array_equal(zarr.open_array(path / "0", mode="r")[:], zarr.open_array(stored, mode="r")[:])
