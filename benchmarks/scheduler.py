"""What a run costs the scheduler and the client, block by block, when the blocks cost nothing.

    python benchmarks/scheduler.py --blocks 100000

A scheduler and its workers run as processes of their own. The task is replaced by one that does
nothing, so what is left is the way there and back: describing a block (its part of the
transform, its fingerprint), submitting it, and taking its result. Beside it the same number of
empty tasks goes through the same window with nothing to describe; the difference is what
daskreg adds to Dask's own cost. The scheduler's and the client's resident size are sampled
meanwhile. Processor time does not depend on what else the machine does, so it is what to compare.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask.array as da
import numpy as np
import psutil
import zarr

import daskreg as dr
from daskreg.blocks.fingerprints import BlockFingerprints
from daskreg.blocks.output import OutputRun
from daskreg.blocks.run import run_blocks
from daskreg.blocks.run_levels import unfinished_items
from daskreg.blocks.write_block import WriteBlock
from daskreg.writing import plan

MIB = 2**20
CHUNK = 16
ROW = 64


def nothing(item: WriteBlock) -> None:
    """What a block costs where it costs nothing."""


def empty_items(count: int) -> Iterator[Any]:
    """Items with a name and nothing else."""
    task = SimpleNamespace(source=SimpleNamespace(array=None))
    for k in range(count):
        yield SimpleNamespace(key=f"daskreg-empty-{time.monotonic_ns()}-{k}", index=(k,), level=0, task=task)


def zarr_items(folder: Path, count: int) -> Iterator[WriteBlock]:
    """Blocks of a drifting stack in Zarr: each slice has a map of its own."""
    slices, side = count // ROW**2 + 1, CHUNK * ROW
    path = folder / f"in{count}.zarr"
    if not path.exists():
        zarr.create_array(path, shape=(slices, side, side), chunks=(1, CHUNK, CHUNK), dtype="u2")
    rng = np.random.default_rng(0)
    maps = [dr.Affine.translation(y=y, x=x).matrix for y, x in rng.normal(0, 2, (slices, 2))]
    return items_of(dr.warp(dr.open(path), pull=dr.SliceAffines(np.stack(maps))), folder, count)


def graph_items(folder: Path, count: int) -> Iterator[WriteBlock]:
    """Blocks of a Dask array that is not ours: two operations on a stack of as many chunks."""
    slices, side = count // ROW**2 + 1, CHUNK * ROW
    array = da.zeros((slices, side, side), chunks=(1, CHUNK, CHUNK), dtype="u2") * 2 + 1
    return items_of(dr.open(array), folder, count)


def items_of(volume: Any, folder: Path, count: int) -> Iterator[WriteBlock]:
    """The blocks that `write` would submit for one level."""
    made = plan(volume, folder / "out.zarr", chunks=(1, CHUNK, CHUNK), shards=None, levels=1, client=False)
    task, layout = made.levels[0].task, made.levels[0].layout
    fingerprints = BlockFingerprints(task.fingerprint, task.shape, layout.unit)
    level: Any = SimpleNamespace(layout=layout, block_shape=layout.unit, level=0)
    run = OutputRun("run", f"{count}")
    for k, item in enumerate(unfinished_items(level, task, fingerprints, set(), made.path, run)):
        if k == count:
            return
        yield item


class Rss:
    """Resident sizes of the scheduler and of this process, in MiB, as blocks are done."""

    def __init__(self, scheduler: int) -> None:
        self._processes = (psutil.Process(scheduler), psutil.Process())
        self.rows: list[tuple[int, float, float]] = []
        self.done = 0

    def count(self, _: WriteBlock) -> None:
        self.done += 1

    @contextmanager
    def sampled(self) -> Iterator[None]:
        stop = threading.Event()

        def sample() -> None:
            while not stop.wait(0.25):
                self.rows.append((self.done, *(p.memory_info().rss / MIB for p in self._processes)))

        thread = threading.Thread(target=sample)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def summary(self) -> str:
        picks = [self.rows[round(i)] for i in np.linspace(0, len(self.rows) - 1, min(6, len(self.rows)))]
        return "; ".join(f"{done}: {scheduler:.0f} / {client:.0f}" for done, scheduler, client in picks)


@contextmanager
def cluster(workers: int, folder: Path) -> Iterator[tuple[Path, int]]:
    """A scheduler and workers as processes; gives the scheduler's file and process id."""
    file = folder / "scheduler.json"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    python = [sys.executable, "-m"]
    common = ["--scheduler-file", str(file), "--no-dashboard"]
    with ExitStack() as stack:
        scheduler = stack.enter_context(
            subprocess.Popen(
                [*python, "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", *common], **quiet
            )
        )
        stack.callback(scheduler.terminate)
        while not file.exists() or "address" not in json.loads(file.read_text() or "{}"):
            time.sleep(0.1)
        for _ in range(workers):
            worker = subprocess.Popen(
                [*python, "distributed.cli.dask_worker", *common, "--nthreads", "1", "--host", "127.0.0.1"], **quiet
            )
            stack.enter_context(worker)
            stack.callback(worker.terminate)
        yield file, scheduler.pid


@dataclass(frozen=True)
class Cost:
    """Milliseconds a block: in all, and of the processor, of this process and of the scheduler."""

    blocks: int
    elapsed: float
    client: float
    scheduler: float

    def __str__(self) -> str:
        parts = f"client {self.client:.2f} + scheduler {self.scheduler:.2f} = {self.client + self.scheduler:.2f}"
        return f"{self.elapsed:.2f} ms a block; of the processor {parts}"


def timed(items: Iterator[Any], client: Any, scheduler: int, rss: Rss | None = None) -> Cost:
    """What each block costs.

    Args:
        scheduler: its process id.
    """
    done = 0

    def count(block: WriteBlock) -> None:
        nonlocal done
        done += 1
        if rss is not None:
            rss.count(block)

    items = chain([next(items)], items)  # planning is not the blocks' cost
    started, busy = time.perf_counter(), [processor_seconds(pid) for pid in (os.getpid(), scheduler)]
    failures = run_blocks(items, client=client, on_done=count, work=nothing)
    assert not failures, failures[0]
    elapsed = time.perf_counter() - started
    own, its = (processor_seconds(pid) - was for pid, was in zip((os.getpid(), scheduler), busy, strict=True))
    return Cost(done, *(seconds / done * 1e3 for seconds in (elapsed, own, its)))


def processor_seconds(pid: int) -> float:
    """What a process has used."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, default=100_000)
    parser.add_argument("--sample", type=int, default=20_000, help="blocks of each interleaved timing")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with cluster(options.workers, folder) as (file, pid), dr.connect(file) as client:
            client.wait_for_workers(options.workers, timeout=60)
            timed(zarr_items(folder, 500), client, pid)
            kinds = {"empty": empty_items, "zarr": lambda n: zarr_items(folder, n)}
            kinds["dask graph"] = lambda n: graph_items(folder, n)
            for _ in range(options.repeats):
                for kind, make in kinds.items():
                    print(f"{kind:11} {timed(make(options.sample), client, pid)}", flush=True)
            rss = Rss(pid)
            with rss.sampled():
                cost = timed(zarr_items(folder, options.blocks), client, pid, rss)
            print(f"{cost.blocks} blocks of zarr: {cost}")
            print(f"MiB of scheduler / client as blocks are done: {rss.summary()}")


if __name__ == "__main__":
    main()
