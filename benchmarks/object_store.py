"""Warps from and to S3 (moto's server on loopback) beside warps on a local disk, in one interleaved run.

    python benchmarks/object_store.py                 # 0.25 GiB, orders 1 and 3, three rounds
    python benchmarks/object_store.py --gib 1 --rounds 5

moto keeps objects in the memory of a process written in Python: it takes about 50 MiB/s and gives 150 to 300 MiB/s on
this kind of machine, with all of one core. So its own share of the time is measured: the requests of the run are
repeated with their sizes, without any warp ("moto alone"). Where that is most of the time of the run, moto is
the limit, and the ratio says nothing of daskreg. All times are on the clock, with local threads; ratios are of medians.
`CPU` is the processor time of this process, `moto` that of the server, which share the cores: both together, divided by
the cores, is the least time that a run may take here ("bound").
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from scipy import ndimage as ndi

import daskreg as dr
from daskreg.runtime.device import cores
from daskreg.sources.storage.access import remember_options
from daskreg.sources.storage.object_bytes import ObjectBytes

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from s3 import S3Server

SIDE = 1024
OPTIONS: dict[str, Any] = {"chunks": (16, 256, 256), "shards": (32, 512, 512), "levels": 1, "progress": False}
PULL = dr.Affine.from_parameters(theta=0.02, tx=3.5, ty=-1.25, centre=(SIDE / 2, SIDE / 2))
MIB = 2**20


def make_stack(path: Path, gib: float) -> None:
    """Texture with noise in the low bits, so that it compresses about as a camera's images do."""
    slices = max(32, int(gib * 2**30) // (2 * SIDE * SIDE) // 32 * 32)
    rng = np.random.default_rng(0)
    coarse = ndi.zoom(rng.random((32, SIDE // 16, SIDE // 16)), (1, 16, 16), order=1)
    block = (coarse * 40_000 + rng.integers(0, 64, coarse.shape)).astype(np.uint16)
    dr.write(np.concatenate([block] * (slices // 32)), path, client=False, **OPTIONS)


def timed(run: Callable[[], None], server: psutil.Process) -> tuple[float, float, float]:
    """Seconds on the clock, and of the processor in this process and in the server."""

    def now() -> tuple[float, float, float]:
        used = server.cpu_times()
        return time.perf_counter(), time.process_time(), used.user + used.system

    before = now()
    run()
    wall, cpu, moto = (b - a for a, b in zip(before, now(), strict=True))
    return wall, cpu, moto


def moto_alone(given: ObjectBytes, made: ObjectBytes, scratch: ObjectBytes) -> None:
    """Get each object of the input, and put each of the output, as many at a time as there are threads."""

    def exchange(key: str) -> None:
        given.get(key)
        data = bytes(made.get(key) or b"")
        scratch.put(key, [data])

    with ThreadPoolExecutor(cores()) as pool:
        list(pool.map(exchange, [key for key in made.listing() if "/c/" in key]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gib", type=float, default=0.25)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--orders", type=int, nargs="+", default=[1, 3])
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="daskreg-object-store-"))
    server = S3Server(proxy=False)
    try:
        make_stack(folder / "in.zarr", args.gib)
        url = "s3://bucket/bench"
        remember_options(url, server.options)
        given = ObjectBytes(f"{url}/in.zarr")
        for file in (folder / "in.zarr").rglob("*"):
            if file.is_file():
                given.put(file.relative_to(folder / "in.zarr").as_posix(), [file.read_bytes()])
        for order in args.orders:
            compare(folder, url, order, args.rounds, psutil.Process(server.process.pid))
    finally:
        server.stop()
        shutil.rmtree(folder)


def compare(folder: Path, url: str, order: int, rounds: int, server: psutil.Process) -> None:
    runs: dict[str, Callable[[], Any]] = {}
    for name, place in (("disk", str(folder)), ("s3", url)):
        warped = dr.warp(dr.open(f"{place}/in.zarr"), pull=PULL, order=order)
        out = f"{place}/out{order}.zarr"
        runs[name] = lambda warped=warped, out=out: dr.write(warped, out, client=False, overwrite=True, **OPTIONS)
    runs["moto alone"] = lambda: moto_alone(*(ObjectBytes(f"{url}/{n}") for n in ("in.zarr", f"out{order}.zarr", "x")))
    results: dict[str, list[tuple[float, float, float]]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            found = timed(run, server)
            if turn:  # the first compiles
                results[name].append(found)
    size = np.prod(dr.open(f"{url}/out{order}.zarr").shape) * 2 / MIB
    print(f"order {order}, {size:.0f} MiB of pixels, {cores()} threads")
    for name, found in results.items():
        wall, cpu, moto = (statistics.median(times) for times in zip(*found, strict=True))
        print(
            f"  {name:<11} {wall:7.2f} s  {size / wall:7.1f} MiB/s  CPU {1e3 * cpu / size:6.1f} ms/MiB  "
            f"moto {1e3 * moto / size:6.1f} ms/MiB  bound {max(moto, (cpu + moto) / cores()):6.2f} s"
        )
    medians = {name: statistics.median(wall for wall, *_ in found) for name, found in results.items()}
    print(f"  ratio of throughput, s3 to disk: {medians['disk'] / medians['s3']:.2f}")


if __name__ == "__main__":
    main()
