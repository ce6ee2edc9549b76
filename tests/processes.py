"""Processes of their own for tests: schedulers, workers, scripts; and work that takes as long as a test wants."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

import dask

SHAPE = (18, 75, 90)
CHUNKS = (1, 25, 30)
BLOCKS = 18 * 3 * 3
TOTAL = BLOCKS + 9 * 2 * 2

SLOW = """
import os, signal, sys, time
import dask
import daskreg as dr

def volume(stored, released, made):
    def slowly(block):
        if block.size > 1:
            with open(made, "ab", buffering=0) as file:
                file.write(f"{os.getpid():9}\\n".encode())
            if not os.path.exists(released):
                time.sleep(0.2)
        return block

    return dr.open(dr.open(stored, chunks=(1, 25, 30)).data.map_blocks(slowly, dtype="u2"))
"""
HOW: dict[str, Any] = {"chunks": CHUNKS, "levels": 2, "memory": "8 MiB", "progress": False}


@cache
def fork_server() -> ForkServerContext:
    """Starts processes by forking one that has imported what workers need, which each would otherwise do anew."""
    from distributed.utils import get_mp_context

    with dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}):
        get_mp_context()  # which the first time names modules of its own
    context = multiprocessing.get_context("forkserver")
    # Not numba and torch, which look at their environment when they are imported.
    modules = ["distributed.cli.dask_worker", "dask.array", "xarray", "zarr", "daskreg.blocks.job"]
    context.set_forkserver_preload(modules)
    return context


def until(condition: Callable[[], Any], seconds: float = 240) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError("it did not come to that")


@dataclass
class Cluster:
    """A scheduler and workers as processes of their own.

    file: of the scheduler. arguments: more ones of their command lines.
    """

    folder: Path
    arguments: list[str] = field(default_factory=list)
    scheduler: subprocess.Popen[bytes] = field(init=False)
    workers: list[ForkServerProcess] = field(default_factory=list)

    @property
    def file(self) -> Path:
        return self.folder / "scheduler.json"

    @property
    def address(self) -> str:
        return str(json.loads(self.file.read_text())["address"])

    @property
    def options(self) -> list[str]:
        return ["--scheduler-file", str(self.file), "--no-dashboard", "--host", "127.0.0.1", *self.arguments]

    def start(self, *options: str) -> None:
        command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--port", "0", *self.options, *options]
        with (self.folder / "scheduler.log").open("wb") as log:
            self.scheduler = subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log)
        until(lambda: self.file.exists() and "address" in json.loads(self.file.read_text() or "{}"))

    def worker(self) -> None:
        words = [*self.options, "--nthreads", "1", "--no-nanny"]
        log = self.folder / f"worker-{len(self.workers)}.log"
        self.workers.append(fork_server().Process(target=run_worker, args=(words, log, dict(os.environ))))
        self.workers[-1].start()

    def end(self) -> None:
        for worker in self.workers:
            worker.kill()
            worker.join()
        self.scheduler.kill()
        self.scheduler.wait()


def run_worker(words: list[str], log: Path, environment: dict[str, str]) -> None:
    """`dask worker WORDS` in this process, which is a new one, in the folder of its log."""
    from distributed.cli.dask_worker import main

    os.environ.update(environment)
    os.chdir(log.parent)
    output = os.open(log, os.O_WRONLY | os.O_CREAT)
    for number in (1, 2):
        os.dup2(output, number)
    main(words)


@contextlib.contextmanager
def own_cluster(
    folder: Path, *, workers: int = 2, arguments: Sequence[str] = (), scheduler_arguments: Sequence[str] = ()
) -> Iterator[Cluster]:
    """A cluster that runs on its own, and ends with the block."""
    cluster = Cluster(folder, list(arguments))
    try:
        cluster.start(*scheduler_arguments)
        for _ in range(workers):
            cluster.worker()
        yield cluster
    finally:
        cluster.end()


@dataclass
class SlowRun:
    """A run whose blocks take a fifth of a second until they are let go.

    stored: what it reads. out: what it writes.
    """

    folder: Path
    stored: Path
    out: Path

    @property
    def _arguments(self) -> list[str]:
        return [str(self.stored), str(self.folder / "released"), str(self.folder / "made")]

    def volume(self) -> Any:
        """The volume in this process; its function travels to workers."""
        names: dict[str, Any] = {"__name__": "__main__"}
        exec(SLOW, names)
        return names["volume"](*self._arguments)

    @property
    def made(self) -> int:
        """Blocks that were computed, also those that were computed again."""
        file = self.folder / "made"
        return file.stat().st_size // 10 if file.exists() else 0

    def release(self) -> None:
        (self.folder / "released").touch()

    @contextlib.contextmanager
    def script(self, body: str) -> Iterator[subprocess.Popen[str]]:
        """A process that runs `body`, which has VOLUME, OUT and HOW."""
        path = self.folder / "script.py"
        known = f"VOLUME, OUT, HOW = volume(*{self._arguments!r}), {str(self.out)!r}, {HOW!r}\n"
        path.write_text(
            SLOW + '\nif __name__ == "__main__":\n' + textwrap.indent(known + textwrap.dedent(body), "    ")
        )
        process = subprocess.Popen(
            [sys.executable, path],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        try:
            yield process
        finally:
            process.kill()
            process.communicate()
