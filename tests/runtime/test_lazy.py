"""A value that is computed once, when it is first asked for."""

from __future__ import annotations

from daskreg.runtime.lazy import Lazy


def test_a_value_is_computed_once() -> None:
    calls: list[int] = []

    def compute() -> list[int]:
        calls.append(1)
        return calls

    lazy = Lazy[list[int]]()
    assert not lazy.known
    assert lazy.get(compute) is lazy.get(compute) is calls
    assert lazy.known
    assert calls == [1]


def test_an_input_is_never_computed() -> None:
    lazy = Lazy(0)
    assert lazy.known
    assert lazy.get(lambda: 1) == 0
