"""Short blocks share a task: how many, and what becomes of the others when one is long, fails, or loses its worker."""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from distributed import Client
from distributed.protocol.pickle import dumps

import daskreg as dr
from daskreg.blocks import in_flight, packed_task
from daskreg.blocks.in_flight import InFlightWindow
from daskreg.blocks.packed_task import MOST_ITEMS, Left, Quick, TaskSize, run_packed, task_seconds
from daskreg.blocks.run import run_blocks

TASK = SimpleNamespace(source=SimpleNamespace(array=None))


class Item:
    """A block of the kind that the window needs: a name and an index."""

    def __init__(self, number: int, log: str = "") -> None:
        self.number, self.log = number, log
        self.level, self.index, self.task = 0, (number,), TASK

    @property
    def key(self) -> str:
        return f"item-{os.path.basename(self.log)}-{self.number}"


def note(item: Item) -> None:
    """Record that an item was begun, and in which process."""
    with open(item.log, "ab", buffering=0) as file:
        file.write(f"{item.number} {os.getpid()}\n".encode())


def begun(log: Path) -> Counter[int]:
    return Counter(int(line.split()[0]) for line in log.read_text().splitlines())


def packed(work: Any, count: int, seconds: float = 60.0) -> bytes:
    return dumps((work, [Item(k) for k in range(count)], seconds))


def test_a_task_says_how_it_went(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.count()
    monkeypatch.setattr(packed_task, "time", SimpleNamespace(monotonic=lambda: float(next(ticks))))  # 1 s an item
    results = [run_packed(packed(lambda item: None, n, seconds)) for n, seconds in ((5, 60), (5, 0), (3, 1), (9, 1))]
    assert [type(result) for result in results] == [Quick, Left, type(None), Left]
    assert [result.done for result in results if isinstance(result, Left)] == [1, 3]  # the first is always done


def fail_at(number: int) -> Any:
    def work(item: Item) -> None:
        if item.number == number:
            raise KeyError(number)

    return work


def test_an_error_is_that_of_the_first_item() -> None:
    with pytest.raises(KeyError, match="0"):
        run_packed(packed(fail_at(0), 5))
    result = run_packed(packed(fail_at(3), 5))
    assert isinstance(result, Left)
    assert result.done == 3


def test_tasks_grow_while_they_are_quick_and_shrink_when_they_take_long() -> None:
    size = TaskSize()
    sizes = []
    for _ in range(8):
        sizes.append(size.next())
        size.saw(sizes[-1], Quick)
    assert sizes == [1, 2, 4, 8, 16, 32, 64, MOST_ITEMS]
    size.saw(64, Left)
    assert size.next() == 32
    size.saw(32, type(None))
    assert size.next() == 32
    for result in (Quick, None, type(None)):
        size.saw(32, result)
    assert size.next() == 32  # most were not quick
    size.saw(16, Quick)
    assert size.next() == 32  # shorter tasks say nothing
    for _ in range(9):
        size.saw(2, Left)
    assert size.next() == 1
    assert task_seconds(2) < task_seconds(1000)


@pytest.fixture(scope="module")
def client(forked_workers: None) -> Iterator[Client]:
    with dr.connect(workers=2) as client:
        yield client


def run(work: Any, items: list[Item], client: Client) -> tuple[Counter[int], dict[int, BaseException]]:
    done: Counter[int] = Counter()
    failures = run_blocks(iter(items), client=client, on_done=lambda i: done.update([i.number]), work=work)  # type: ignore[arg-type]
    return done, {failure.index[0]: failure.error for failure in failures}


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many items each task had that was submitted."""
    seen: list[int] = []
    submit = InFlightWindow._submit

    def spy(self: InFlightWindow, tasks: list[list[Any]]) -> None:
        seen.extend(map(len, tasks))
        submit(self, tasks)

    monkeypatch.setattr(InFlightWindow, "_submit", spy)
    return seen


@pytest.mark.slow
def test_no_connection_keeps_what_was_sent(client: Client) -> None:
    """distributed keeps the last 1,000 messages of each; one of them may describe thousands of blocks."""
    run(lambda item: None, [Item(k) for k in range(500)], client)

    def kept(dask_scheduler: Any) -> int:
        streams = [*dask_scheduler.stream_comms.values(), *dask_scheduler.client_comms.values()]
        return sum(len(stream.recent_message_log) for stream in streams)

    assert client.run_on_scheduler(kept) == 0
    assert len(client.scheduler_comm.recent_message_log) == 0


@pytest.mark.slow
def test_short_items_share_tasks_and_long_ones_have_their_own(
    client: Client, tmp_path: Path, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    items = [Item(k, str(tmp_path / "log")) for k in range(3000)]
    with monkeypatch.context() as patch:
        patch.setattr(in_flight, "task_seconds", lambda threads: 60.0)  # on a busy machine, too, they are short
        done, failed = run(note, items, client)
    assert not failed
    assert done == Counter(range(3000)) == begun(tmp_path / "log")
    assert max(sizes) >= 16
    assert len(sizes) < 600
    sizes.clear()
    done, _ = run(lambda item: time.sleep(0.3), [Item(k) for k in range(30)], client)
    assert done == Counter(range(30))
    assert max(sizes) == 1


@pytest.mark.slow
def test_items_behind_a_long_one_move_on(client: Client, tmp_path: Path, sizes: list[int]) -> None:
    """Where items become long after tasks have become large: each is done once, and tasks become small."""

    def work(item: Item) -> None:
        note(item)
        if item.number >= 2500:
            time.sleep(0.6)

    done, failed = run(work, [Item(k, str(tmp_path / "log")) for k in range(2520)], client)
    assert not failed
    assert done == Counter(range(2520)) == begun(tmp_path / "log")


@pytest.mark.slow
def test_failing_items_fail_alone(client: Client, tmp_path: Path) -> None:
    bad = {0, 700, 701, 1200, 1499}

    def work(item: Item) -> None:
        note(item)
        if item.number in bad:
            raise ValueError(f"item {item.number}")

    done, failed = run(work, [Item(k, str(tmp_path / "log")) for k in range(1500)], client)
    assert failed.keys() == bad
    assert {str(error) for error in failed.values()} == {f"item {number}" for number in bad}
    assert done == Counter(set(range(1500)) - bad)
    tries = begun(tmp_path / "log")
    assert all(in_flight.RETRIES + 1 <= tries.pop(number) <= 2 * in_flight.RETRIES + 2 for number in bad)
    assert set(tries.values()) == {1}


@pytest.mark.slow
def test_a_lost_worker_redoes_only_what_it_held(client: Client, tmp_path: Path) -> None:
    flag = tmp_path / "killed"

    def work(item: Item) -> None:
        note(item)
        if item.number == 1000 and not flag.exists():
            flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    done, failed = run(work, [Item(k, str(tmp_path / "log")) for k in range(1500)], client)
    assert not failed
    assert done == Counter(range(1500))
    again = [number for number, times in begun(tmp_path / "log").items() if times > 1]
    assert 1 <= len(again) <= 2 * MOST_ITEMS  # its task, and one that it may have reported too late


@pytest.mark.slow
@pytest.mark.usefixtures("forked_workers")
def test_an_item_that_kills_its_workers_fails_alone(tmp_path: Path) -> None:
    import dask

    def work(item: Item) -> None:
        note(item)
        if item.number == 400:
            os.kill(os.getpid(), signal.SIGKILL)

    # The scheduler blames all tasks that it has given to a worker: with a saturation of 1, one for each thread.
    blame = {"distributed.scheduler.allowed-failures": 0, "distributed.scheduler.worker-saturation": 1.0}
    with dask.config.set(blame), dr.connect(workers=1) as client:
        done, failed = run(work, [Item(k, str(tmp_path / "log")) for k in range(600)], client)
    assert failed.keys() == {400}
    assert type(failed[400]).__name__ == "KilledWorker"
    assert done == Counter(set(range(600)) - {400})


@pytest.mark.slow
def test_a_result_whose_type_is_not_known_is_fetched(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after the client has connected again: no block may be taken for finished that is not."""
    from distributed import Future

    monkeypatch.setattr(Future, "type", None)
    monkeypatch.setattr(in_flight, "task_seconds", lambda threads: 0.0)
    monkeypatch.setattr(TaskSize, "next", lambda self: 7)
    done, failed = run(note, [Item(k, str(tmp_path / "log")) for k in range(300)], client)
    assert not failed
    assert done == Counter(range(300)) == begun(tmp_path / "log")
