"""A warp on three SLURM nodes of one core beside the same on one, on this machine.

    python benchmarks/slurm_nodes.py                  # 0.5 GiB, three rounds
    python benchmarks/slurm_nodes.py --gib 1 --rounds 5

`cluster/testing/slurm-nodes.sh` starts the SLURM (as root, with Debian's slurm-wlm, munge and iproute2): each node is
a network namespace of this machine. Three nodes therefore share the cores of the machine with each other, the
scheduler and the client. What these cores give is measured beside it: as many processes as there are cores, without
a cluster, each of one thread and with a share of the slices, beside one such process with all. The runs take turns;
clusters and processes stand for all rounds, so that neither the wait for jobs nor compilation counts.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal

import numpy as np
from distributed import Client
from scipy import ndimage as ndi

import daskreg as dr
from daskreg.cluster.config import SlurmConfig
from daskreg.runtime.device import cores

SCRIPT = Path(__file__).parents[1] / "cluster" / "testing" / "slurm-nodes.sh"
STATE, INTERFACE = "/var/lib/slurm-nodes-of-benchmarks", "clus2"
SIDE = 1024
PULL = dr.Affine.from_parameters(theta=0.02, tx=3.5, ty=-1.25, centre=(SIDE / 2, SIDE / 2))


@contextmanager
def slurm(nodes: int) -> Iterator[None]:
    environment = {**os.environ, "NODES": str(nodes), "STATE": STATE, "IFACE": INTERFACE, "SUBNET": "10.68.0"}
    subprocess.run([SCRIPT, "start"], env=environment, check=True, stdout=subprocess.DEVNULL)
    os.environ["SLURM_CONF"] = f"{STATE}/slurm.conf"
    try:
        yield
    finally:
        subprocess.run([SCRIPT, "stop"], env=environment, check=True, stdout=subprocess.DEVNULL)


def make_stack(path: Path, gib: float) -> None:
    """Texture with noise in the low bits, so that it compresses about as a camera's images do."""
    slices = max(32, int(gib * 2**30) // (2 * SIDE * SIDE) // 32 * 32)
    rng = np.random.default_rng(0)
    coarse = ndi.zoom(rng.random((32, SIDE // 16, SIDE // 16)), (1, 16, 16), order=1)
    block = (coarse * 40_000 + rng.integers(0, 64, coarse.shape)).astype(np.uint16)
    dr.write(
        np.concatenate([block] * (slices // 32)), path, client=False, chunks=(16, 256, 256), levels=1, progress=False
    )


def config(folder: Path, nodes: int) -> SlurmConfig:
    return SlurmConfig(
        cores=1,
        memory="2 GiB",
        walltime="01:00:00",
        jobs=nodes,
        interface=INTERFACE,
        tls="temporary",
        shared=str(folder),
        dashboard_port=None,
    )


def write(source: Path, path: Path, client: Client | Literal[False]) -> float:
    """Seconds of one warp."""
    start = time.perf_counter()
    moved = dr.warp(dr.open(source), pull=PULL)
    dr.write(moved, path, chunks=(16, 256, 256), levels=1, progress=False, client=client)
    elapsed = time.perf_counter() - start
    shutil.rmtree(path)
    return elapsed


def serve(path: Path, orders: Connection) -> None:
    """Warp the stacks that are asked for, until nobody asks."""
    with suppress(EOFError):
        while True:
            orders.send(write(orders.recv(), path, False))


@contextmanager
def processes(number: int, folder: Path) -> Iterator[list[Connection]]:
    """Processes of one thread without a cluster."""
    spawn = multiprocessing.get_context("spawn")
    pipes = [spawn.Pipe() for _ in range(number)]
    started = [
        spawn.Process(target=serve, args=(folder / f"out-{i}.zarr", there)) for i, (_, there) in enumerate(pipes)
    ]
    os.environ["SLURM_CPUS_PER_TASK"] = "1"  # one core for each, as a job of SLURM has it
    for process in started:
        process.start()
    del os.environ["SLURM_CPUS_PER_TASK"]
    for _, there in pipes:
        there.close()  # so that a process that has died is noticed
    try:
        yield [here for here, _ in pipes]
    finally:
        for (here, _), process in zip(pipes, started, strict=True):
            here.close()
            process.join()


def write_all(pipes: list[Connection], sources: list[Path]) -> float:
    """Seconds in which each process warps one stack."""
    start = time.perf_counter()
    for pipe, source in zip(pipes, sources, strict=True):
        pipe.send(source)
    for pipe in pipes:
        pipe.recv()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gib", type=float, default=0.5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--nodes", type=int, default=3)
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        source = folder / "in.zarr"
        make_stack(source, options.gib)
        parts = [folder / f"in-{number}.zarr" for number in range(cores())]
        for part in parts:
            make_stack(part, options.gib / len(parts))
        pipes = stack.enter_context(processes(len(parts), folder))
        stack.enter_context(slurm(options.nodes + 1))
        clients = {nodes: stack.enter_context(dr.connect(config(folder, nodes))) for nodes in (1, options.nodes)}
        for nodes, client in clients.items():
            client.wait_for_workers(nodes, timeout=300)
        runs: dict[str, Callable[[], float]] = {
            "one node": lambda: write(source, folder / "out.zarr", clients[1]),
            f"{options.nodes} nodes": lambda: write(source, folder / "out.zarr", clients[options.nodes]),
            "one process": lambda: write_all(pipes[:1], [source]),
            f"{cores()} processes": lambda: write_all(pipes, parts),
        }
        for run in runs.values():
            run()
        times: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(options.rounds):
            for name, run in runs.items():
                times[name].append(run())
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    for name, seconds in times.items():
        print(f"{name:12} {medians[name]:6.2f} s ({min(seconds):.2f} to {max(seconds):.2f})")
    one, several, alone, together = medians.values()
    print(
        f"{options.nodes} nodes are {one / several:.2f} times as fast as one; "
        f"processes without a cluster {alone / together:.2f} times"
    )


if __name__ == "__main__":
    main()
