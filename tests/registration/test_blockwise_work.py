"""Passes over blocks: in which order results are passed on, and which of them stay in memory."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from daskreg.registration.blockwise import work
from daskreg.registration.blockwise.checkpoint import Checkpoint
from daskreg.registration.blockwise.work import Work


@dataclass(frozen=True)
class Task:
    number: int

    def carrying_little(self) -> Task:
        return self


@dataclass(frozen=True)
class Found:
    number: int
    values: NDArray[np.float64]


def squared(task: Task) -> Found:
    return Found(task.number, np.full(3, float(task.number**2)))


def to_arrays(found: Found) -> Mapping[str, NDArray[Any]]:
    return {"values": found.values}


def from_arrays(number: int, arrays: Mapping[str, NDArray[Any]]) -> Found:
    return Found(number, arrays["values"])


def run(one: Work, function: Any, take: Any, count: int = 8) -> None:
    tasks = [Task(k) for k in range(count)]
    one.each("pass", function, tasks, take=take, label="pass", store=to_arrays, restore=from_arrays)


def test_results_are_passed_on_in_order_and_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of two tasks at a time ends after the second."""
    monkeypatch.setattr(work, "cores", lambda: 2)
    second_ended, taken, alive = threading.Event(), list[int](), list[Any]()

    def function(task: Task) -> Found:
        if task.number == 0:
            assert second_ended.wait(10)
        found = squared(task)
        if task.number == 1:
            second_ended.set()
        return found

    def take(found: Found) -> None:
        taken.append(found.number)
        assert sum(one() is not None for one in alive) <= 4  # those that wait, and those that run
        alive.append(weakref.ref(found))

    run(Work(None), function, take, 20)
    assert taken == list(range(20))


def test_results_of_a_checkpoint_are_passed_on_in_their_place(tmp_path: Path) -> None:
    file, asked = tmp_path / "blocks.jsonl", list[int]()
    for number in (1, 4, 5):
        Checkpoint(file, "key").append("pass", number, to_arrays(squared(Task(number))))
    Checkpoint(file, "key").append("pass", 2, {"other": np.zeros(1)})  # damaged
    found: list[Found] = []
    steps: list[tuple[int, int]] = []

    def function(task: Task) -> Found:
        asked.append(task.number)
        return squared(task)

    one = Work(None, Checkpoint(file, "key"), lambda *step: steps.append(step))
    run(one, function, found.append)
    assert sorted(asked) == [0, 2, 3, 6, 7]
    assert [(one.number, one.values[0]) for one in found] == [(k, float(k**2)) for k in range(8)]
    assert steps == [(k, 8) for k in range(3, 9)]
