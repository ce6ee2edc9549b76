"""Work that is shared among threads: all of it is done, once, wherever it runs."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from daskreg.runtime.device import library_threads
from daskreg.runtime.threads import ahead, in_threads, pool_threads, shares, spread, use_threads


def nested(value: int) -> int:
    return sum(spread(pool_threads(), lambda n: n * value, range(10)))


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_results_come_in_order_also_where_parts_are_shared_again(threads: int) -> None:
    with use_threads(threads):
        assert spread(threads, nested, range(50)) == [45 * value for value in range(50)]


@pytest.mark.parametrize("count", [1, 2, 3, 17])
def test_shares_cover_all_once(count: int) -> None:
    seen: list[int] = []
    with use_threads(4):
        shares(lambda first, stop: seen.extend(range(first, stop)), count)
    assert sorted(seen) == list(range(count))


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 3])
def test_a_part_that_fails_ends_the_rest_and_is_told(threads: int) -> None:
    done: list[int] = []

    def fail(value: int) -> None:
        if value == 3:
            raise ValueError("three")
        time.sleep(0.001)
        done.append(value)

    with pytest.raises(ValueError, match="three"):
        spread(threads, fail, range(1000))
    before = len(done)
    assert before < 1000
    time.sleep(0.02)
    assert len(done) == before


def test_nothing_waits_for_threads_that_are_busy() -> None:
    leave, begun = threading.Event(), threading.Event()

    def busy() -> str:
        begun.set()
        leave.wait(20)
        return threading.current_thread().name

    with use_threads(2):
        first = ahead(busy)
        begun.wait(20)
        second = ahead(lambda: threading.current_thread().name)
        assert spread(2, lambda value: value, range(5)) == [0, 1, 2, 3, 4]
        assert second() == threading.current_thread().name
        leave.set()
        assert first() != threading.current_thread().name


def test_one_thread_begins_nothing_ahead() -> None:
    calls: list[int] = []
    with use_threads(1):
        later = ahead(lambda: calls.append(1))
        assert not calls
        later()
    assert calls == [1]


@pytest.mark.parametrize("in_order", [False, True])
def test_independent_calls_are_taken_a_few_ahead(in_order: bool) -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for n in range(30):
            taken.append(n)
            yield n

    found = []
    with closing(in_threads(3, lambda n: 2 * n, items(), taken_ahead=5, in_order=in_order)) as results:
        for result in results:
            found.append(result)
            assert len(taken) <= len(found) + 5
    assert sorted(found) == list(range(0, 60, 2))
    assert found == sorted(found) or not in_order


@pytest.mark.parametrize("in_order", [False, True])
def test_the_first_error_ends_independent_calls(in_order: bool) -> None:
    begun: list[int] = []

    def fail(n: int) -> int:
        begun.append(n)
        if n == 3:
            raise ValueError("three")
        return n

    with pytest.raises(ValueError, match="three"):
        list(in_threads(2, fail, range(1000), in_order=in_order))
    assert len(begun) < 20


def test_who_closes_the_calls_waits_for_those_that_run() -> None:
    ended: list[int] = []

    def slow(n: int) -> int:
        time.sleep(0.05)
        ended.append(n)
        return n

    with closing(in_threads(2, slow, range(1000))) as results:
        next(results)
    before = len(ended)
    time.sleep(0.1)
    assert len(ended) == before < 10


def test_a_pool_that_is_passed_is_used_again() -> None:
    pool = ThreadPoolExecutor(2)

    def late(n: int) -> int:
        time.sleep(0.01)
        if n < 0:
            raise ValueError("negative")
        return threading.get_ident()

    with pytest.raises(ValueError, match="negative"):
        list(in_threads(2, late, [1, -1, *range(100)], pool=pool))
    one, other = (set(in_threads(2, late, range(6), pool=pool)) for _ in range(2))
    assert one == other
    assert len(one) == 2


def test_threads_of_torch_are_asked_for_where_it_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    class Torch:
        @staticmethod
        def get_num_threads() -> int:
            return 7

    monkeypatch.setitem(sys.modules, "torch", Torch)  # type: ignore[arg-type]
    assert pool_threads() == 7
    monkeypatch.delitem(sys.modules, "torch")
    assert pool_threads() == library_threads()
