"""`Work`: passes over the blocks of a pair, on the workers of a client or in threads, with a checkpoint."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from numpy.typing import NDArray

from daskreg.blocks.memory import release_memory
from daskreg.blocks.tasks import run_tasks
from daskreg.registration.blockwise.checkpoint import Checkpoint
from daskreg.runtime.device import cores

log = logging.getLogger(__name__)

_THREADS = 2
"""Blocks at once in this process: one is read while the other is summed, by all cores."""


class Task(Protocol):
    """What is asked of one block."""

    @property
    def number(self) -> int: ...

    def carrying_little(self) -> Any:
        """The same, with only the part of arrays in memory that it needs."""


class Result(Protocol):
    """What comes back of one block."""

    @property
    def number(self) -> int: ...


T = TypeVar("T", bound=Task)
R = TypeVar("R", bound=Result)


@dataclass
class Work:
    """Where blocks are worked on.

    client: a distributed Client, or None for local threads. progress: called with (steps done, steps), of which a block
    in a pass is one. expected: steps, as far as they can be foreseen.
    """

    client: Any
    checkpoint: Checkpoint | None = None
    progress: Callable[[int, int], None] | None = None
    expected: int = 0
    done: int = 0
    _pool: ThreadPoolExecutor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # Without work a pool has no threads, and those that it has end with it.
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="daskreg")

    def run(
        self,
        name: str,
        function: Callable[[T], R],
        tasks: Sequence[T],
        *,
        label: str,
        store: Callable[[R], Mapping[str, NDArray[Any]]],
        restore: Callable[[int, Mapping[str, NDArray[Any]]], R],
    ) -> list[R]:
        """The results of all tasks, in their order. For the arguments, see `each`."""
        found: list[R] = []
        self.each(name, function, tasks, take=found.append, label=label, store=store, restore=restore)
        return found

    def each(
        self,
        name: str,
        function: Callable[[T], R],
        tasks: Sequence[T],
        *,
        take: Callable[[R], None],
        label: str,
        store: Callable[[R], Mapping[str, NDArray[Any]]],
        restore: Callable[[int, Mapping[str, NDArray[Any]]], R],
    ) -> None:
        """Do all tasks but those in the checkpoint, and pass their results on in the order of the tasks.

        So sums have the same bits however many tasks run at once, and only results that wait for one before them are
        in memory.

        Args:
            name: of the pass in the checkpoint: it must say all that the results depend on.
            take: is called with each result.
            label: what the pass is called in messages.
            store, restore: a result as arrays, and back.
        """

        def stored(number: int) -> R | None:
            arrays = None if self.checkpoint is None else self.checkpoint.load(name, number)
            with suppress(KeyError, ValueError, TypeError):  # damaged: it is worked on again
                return None if arrays is None else restore(number, arrays)
            return None

        finished = {task.number for task in tasks if stored(task.number) is not None}
        log.info("%s: %d blocks, %d of them finished before", label, len(tasks), len(finished))
        self.expected = max(self.expected, self.done + len(tasks))
        self._advance(len(finished))
        waiting, early = deque(tasks), dict[int, R]()

        def pass_on() -> None:
            while waiting and (waiting[0].number in early or waiting[0].number in finished):
                task = waiting.popleft()
                take(early.pop(task.number) if task.number in early else stored(task.number) or function(task))

        def on_done(result: R) -> None:
            if self.checkpoint is not None:
                self.checkpoint.append(name, result.number, store(result))
            early[result.number] = result
            pass_on()
            self._advance(1)

        pass_on()
        unfinished = [task for task in tasks if task.number not in finished]
        items = unfinished if self.client is None else (task.carrying_little() for task in unfinished)
        threads = min(_THREADS, cores())
        called = label.replace(" ", "-")
        run_tasks(function, items, client=self.client, threads=threads, on_done=on_done, label=called, pool=self._pool)
        release_memory()

    def finish(self) -> None:
        """Report that all is done, where fewer passes were needed than were foreseen."""
        if self.progress is not None and self.done < self.expected:
            self.progress(self.done, self.done)

    def _advance(self, steps: int) -> None:
        self.done += steps
        if self.progress is not None and steps:
            self.progress(self.done, max(self.expected, self.done))
