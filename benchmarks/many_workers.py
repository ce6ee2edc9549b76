"""A run on a thousand workers: where the scheduler and the client are the limit.

    python benchmarks/many_workers.py --workers 1000 --seconds 1 4 16

The scheduler is a real one, in a process of its own, and the client runs blocks as `write` does. The workers are stubs,
all in one other process: each has a connection, takes tasks, and answers when they would have taken their time, one
after another. So what is measured is what client and scheduler cost, and how much of their time the workers have work.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from scheduler import cluster, empty_items, nothing, processor_seconds

import daskreg as dr
from daskreg.blocks.packed_task import Quick
from daskreg.blocks.run import run_blocks

METRICS = {
    "bandwidth": {"total": 1e8, "workers": {}, "types": {}},
    "spilled_bytes": {"memory": 0, "disk": 0},
    "task_counts": {},
    "digests_total_since_heartbeat": {},
    "cpu": 0,
    "memory": 1 << 28,
    "managed_bytes": 0,
    "time": 0.0,
    "event_loop_interval": 0.02,
    "transfer": {"incoming_bytes": 0, "incoming_count": 0, "incoming_count_total": 0, "outgoing_bytes": 0,
                 "outgoing_count": 0, "outgoing_count_total": 0},
}  # fmt: skip


class Stub:
    """A worker of one thread, as the scheduler sees it."""

    def __init__(self, number: int, seconds: float) -> None:
        self._number, self._seconds = number, seconds
        self._free_at = 0.0

    async def run(self, scheduler: str) -> None:
        from distributed.batched import BatchedSend
        from distributed.comm import connect

        comm = await connect(scheduler, timeout=60)
        await comm.write(
            {
                **{"op": "register-worker", "reply": False, "status": "running", "nthreads": 1, "resources": {}},
                **{"address": f"tcp://127.1.{self._number // 250}.{self._number % 250 + 1}:40000", "now": time.time()},
                **{"name": f"stub-{self._number}", "server_id": f"stub-{self._number}", "memory_limit": 1 << 34},
                **{"local_directory": "", "services": {}, "nanny": None, "pid": 0, "versions": {}, "extra": {}},
                **{"metrics": METRICS, "stimulus_id": "stub"},
            }
        )
        await comm.read()
        stream = BatchedSend(interval="2ms")
        stream.start(comm)
        while True:
            for message in await comm.read():
                if message["op"] == "compute-task":
                    self._take(message, stream)

    def _take(self, message: dict[str, Any], stream: Any) -> None:
        from distributed.protocol.pickle import dumps, loads

        _, items, wanted = loads(message["run_spec"].args[0])
        takes = self._seconds * len(items)
        result = Quick if takes < wanted / 2 else type(None)
        now = time.time()
        start = max(now, self._free_at)
        self._free_at = start + takes
        answer = {
            **{"op": "task-finished", "status": "OK", "key": message["key"], "run_id": message["run_id"]},
            **{"nbytes": 16, "type": dumps(result), "typename": result.__name__, "metadata": {}, "thread": None},
            **{"startstops": [{"action": "compute", "start": start, "stop": self._free_at}], "stimulus_id": "stub"},
        }
        asyncio.get_running_loop().call_later(self._free_at - now, stream.send, answer)


async def run_stubs(scheduler: str, count: int, seconds: float) -> None:
    await asyncio.gather(*(Stub(number, seconds).run(scheduler) for number in range(count)))


def measure(workers: int, seconds: float, rounds: float) -> str:
    """Run as many blocks as the workers could do in about `rounds` times the longest task; a line of figures."""
    with tempfile.TemporaryDirectory() as name, cluster(0, Path(name)) as (file, pid), dr.connect(file) as client:
        client.same_environment = True  # stubs cannot be asked what they are
        command = [sys.executable, __file__, "--stubs", client.scheduler.address]
        stubs = subprocess.Popen([*command, "--workers", str(workers), "--seconds", str(seconds)])
        try:
            client.wait_for_workers(workers, timeout=1200)
            blocks = int(workers * max(rounds, rounds * 4 / seconds))
            busy = [processor_seconds(one) for one in (psutil.Process().pid, pid)]
            started, finished = time.perf_counter(), 0

            def count(_: Any) -> None:
                nonlocal finished, elapsed
                finished += 1
                elapsed = time.perf_counter() - started

            elapsed = 0.0
            failures = run_blocks(empty_items(blocks), client=client, on_done=count, work=nothing)
            assert not failures
            assert finished == blocks
            own, its = (processor_seconds(p) - was for p, was in zip((psutil.Process().pid, pid), busy, strict=True))
            share = blocks * seconds / (workers * elapsed)
            costs = f"client {own / blocks * 1e3:.2f}, scheduler {its / blocks * 1e3:.2f}"
            return (
                f"{workers} workers, blocks of {seconds:g} s: {blocks} in {elapsed:.1f} s ({blocks / elapsed:.0f}/s), "
                f"workers busy {share:.0%}; processor ms a block: {costs}"
            )
        finally:
            stubs.terminate()
            stubs.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[1000])
    parser.add_argument("--seconds", type=float, nargs="+", default=[1.0, 4.0, 16.0], help="of a block")
    parser.add_argument("--rounds", type=float, default=4, help="of tasks for each worker")
    parser.add_argument("--stubs", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stubs:
        asyncio.run(run_stubs(options.stubs, options.workers[0], options.seconds[0]))
        return
    for workers in options.workers:
        for seconds in options.seconds:
            print(measure(workers, seconds, options.rounds), flush=True)


if __name__ == "__main__":
    main()
