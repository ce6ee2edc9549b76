"""Tasks in threads and on a cluster: all results come, the first error is raised, nothing is left running."""

from __future__ import annotations

import threading

import pytest

import daskreg as dr
from daskreg.blocks.tasks import run_tasks
from daskreg.cluster.client import current_client


def double(n: int) -> int:
    if n == 13:
        raise ValueError("thirteen")
    return 2 * n


@pytest.fixture(scope="module")
def client(forked_workers):
    with dr.connect(workers=1) as client:
        yield client


@pytest.mark.slow
@pytest.mark.parametrize("where", ["here", "threads", "cluster"])
def test_every_result_comes(where, client):
    found: list[int] = []
    options = {"client": client if where == "cluster" else None, "threads": 1 if where == "here" else 3}
    run_tasks(double, iter(range(12)), on_done=found.append, **options)
    assert sorted(found) == [2 * n for n in range(12)]
    with pytest.raises(ValueError, match="thirteen"):
        run_tasks(double, range(10, 30), on_done=found.append, **options)
    run_tasks(double, [], on_done=found.append, **options)


def test_results_are_handed_over_in_the_calling_thread():
    seen: list[str] = []
    run_tasks(double, range(5), client=None, threads=2, on_done=lambda _: seen.append(threading.current_thread().name))
    assert set(seen) == {threading.current_thread().name}


def test_the_current_client_is_found(client):
    assert current_client() is client
