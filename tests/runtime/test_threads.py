"""Work that is shared among threads: all of it is done, once, wherever it runs."""

from __future__ import annotations

import threading
import time

import pytest

from daskreg.runtime.threads import ahead, pool_threads, shares, spread, use_threads


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
