"""What an alignment takes, from a trial of a few slices."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from daskreg.stacks import estimate, execution
from daskreg.stacks.align import request_of
from daskreg.stacks.elastic import request as elastic
from daskreg.stacks.elastic import task as elastic_task
from daskreg.stacks.estimate import Cost
from daskreg.stacks.spans import span_memory
from daskreg.stacks.to_reference import ReferenceTask, reference_memory

COUNT = 9


@pytest.fixture(scope="module")
def stack() -> Any:
    """Along the second axis, so that a slice is not a contiguous part."""
    moved = np.random.default_rng(0).random((18, 20)).repeat(2, 0).repeat(2, 1).astype(np.float32)
    return np.stack([np.roll(moved, k % 3, 1) for k in range(COUNT)], axis=1)


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is aligned, in place of its time: a second for each slice or pair."""
    found: list[Any] = []
    monkeypatch.setattr(estimate, "tried_seconds", lambda spec: float(spec.count))
    monkeypatch.setattr(estimate, "tried_reference", lambda task, count: found.append(task) or 10.0 * count)
    return found


def test_pairs_are_shared_by_the_workers(stack: Any, tried: list[Any]) -> None:
    request = request_of(stack, axis=1)
    assert request.tried() == Cost(COUNT, 0.0, span_memory(request.spec))
    assert tried == []


@pytest.mark.parametrize(("reference", "expected"), [("first", [0, 1, 2, 4, 6, 8]), (4, [4, 0, 1, 3, 6, 8])])
def test_slices_near_and_far_are_registered_to_one(
    stack: Any, tried: list[Any], reference: Any, expected: list[int]
) -> None:
    """By one worker alone."""
    mask = np.arange(stack.size).reshape(stack.shape) % 7 > 0
    request = request_of(stack, axis=1, reference=reference, mask=mask)
    assert request.tried() == Cost(0.0, 10.0 * COUNT, reference_memory(request.spec))
    ((spec, start),) = ((task.stack, task.start) for task in tried)
    assert start is None
    np.testing.assert_array_equal(spec.source.read(spec.source.readable), stack[:, expected])
    np.testing.assert_array_equal(spec.mask.read(spec.mask.readable), mask[:, expected])
    np.testing.assert_array_equal(spec.reader.span(0, 6), request.spec.reader.read(expected))


def test_the_mean_comes_after_pairs(stack: Any, tried: list[Any]) -> None:
    request = request_of(stack, axis=1, reference="mean")
    cost = request.tried()
    assert (cost.shared, cost.alone) == (COUNT, 10 * COUNT)
    assert cost.memory == max(span_memory(request.spec), reference_memory(request.spec))
    (task,) = tried
    assert isinstance(task, ReferenceTask)
    assert task.start is not None
    np.testing.assert_array_equal(task.stack.source.read(task.stack.source.readable), stack[:, 2:7])


def test_the_time_of_a_task_is_that_of_its_slices(stack: Any) -> None:
    request = request_of(stack[:, :3], axis=1, reference="first", max_iterations=2)
    cost = request.tried()
    assert cost.alone > 0
    assert cost.shared == 0


@pytest.mark.slow
def test_fields_are_estimated_by_one_worker(stack: Any, tried: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    tasks: list[Any] = []
    monkeypatch.setattr(elastic, "tried_seconds", lambda task, count: tasks.append(task) or 10.0 * count)
    request = request_of(stack, axis=1, model="bspline", spacing=30, reference="previous")
    cost = request.tried()
    assert (cost.shared, cost.alone) == (COUNT, 10 * COUNT)
    ((spec, poses, first),) = ((task.spec, task.poses, task.first) for task in tasks)
    assert first
    assert len(poses) == spec.count == 3
    elastic.check_memory(request.spec, request.spacing)
    monkeypatch.setattr("daskreg.stacks.elastic.task.available_memory", lambda: cost.memory)
    elastic.check_memory(request.spec, request.spacing)  # on a worker of this size


def test_the_time_of_fields_is_that_of_their_pairs(stack: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a run of one step, which compiles."""
    steps: list[int] = []
    clock = iter((5.0, 8.0))

    def run(task: Any) -> Any:
        steps.append(task.spec.options.max_iterations)
        return SimpleNamespace(edges=[(0, 1), (0, 2), (1, 2)])

    monkeypatch.setattr(elastic_task, "_run", run)
    monkeypatch.setattr(execution.time, "perf_counter", lambda: next(clock))
    spec = request_of(stack[:, :3], axis=1, max_iterations=9).spec
    task = elastic.ElasticTask(spec, np.tile(np.eye(3), (3, 1, 1)), (30.0, 30.0), (), False)
    assert elastic_task.tried_seconds(task, 12) == 3 / 3 * 21
    assert steps == [1, 9]


def test_blank_slices_promise_nothing(stack: Any) -> None:
    """They cost less than others; and a stack of which the slices that are tried are blank can be aligned."""
    blank = stack.copy()
    blank[:, 3:6] = 7
    options: dict[str, Any] = {"axis": 1, "max_iterations": 1}
    assert request_of(blank, model="bspline", spacing=30, **options).tried().alone is None
    assert request_of(blank[:, 3:6], **options).tried().shared is None
    assert request_of(blank[:, 2:6], reference="first", **options).tried().alone is None
    one = stack.copy()
    one[:, 1] = 7
    assert request_of(one[:, :3], reference="first", **options).tried().alone is not None
