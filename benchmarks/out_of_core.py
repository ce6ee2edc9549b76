"""Zarr to Zarr: warps beside plain copies by other tools, in one interleaved run; and memory.

    python benchmarks/out_of_core.py                       # the table: 2 GiB, every tool that is installed
    python benchmarks/out_of_core.py --sizes 0.25 1 8 --tools daskreg   # memory over the size of the volume
    python benchmarks/out_of_core.py --scaling             # one worker, then two

A uint16 stack (n, 2048, 2048) in chunks of (16, 512, 512), daskreg's own codec, is copied and
warped into the same layout with the same codec by every tool, one run of each tool after the other in every round.
Times are medians; "x copy" is the ratio to tensorstore's plain copy (zarr-python's, where
there is no tensorstore). Memory is the peak of the summed resident size of the worker
processes above what it was when they had imported and compiled everything and were idle;
of tools that run in this process, that of this process. "CPU" is the processor time spent on
a MiB, which other work on the machine disturbs less than the time on the clock.

    affine      every slice by the same in-plane affine map
    drift       every slice by a rigid map of its own
    3D          an affine map of the volume with a tilt of some degrees
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dask
import numpy as np
import psutil
import zarr
from distributed import Client
from scipy import ndimage as ndi

import daskreg as dr
from daskreg.formats.ome import codecs
from daskreg.geometry import Box, tile
from daskreg.runtime.memory_watch import MemoryWatch
from daskreg.sampling.sample import sample

SIDE = 2048
CHUNKS = (16, 512, 512)
CODECS = codecs(np.dtype("u2"))
LAYERS = 8
"""Layers of chunks that differ."""

MIB = 2**20
Run = Callable[[Path, Path, int], None]


def make_stack(path: Path, slices: int) -> None:
    """Texture with noise in the low bits, so that it compresses about as a camera's images do.

    Some layers of chunks are computed, and the others are copies of their files.
    """
    rng = np.random.default_rng(0)
    coarse = ndi.zoom(rng.random((CHUNKS[0], SIDE // 16, SIDE // 16)), (1, 16, 16), order=1)
    array = zarr.create_array(path, shape=(slices, SIDE, SIDE), chunks=CHUNKS, dtype="u2", compressors=CODECS)
    for layer in range(-(-slices // CHUNKS[0])):
        if layer >= LAYERS and (layer + 1) * CHUNKS[0] <= slices:
            shutil.copytree(path / f"c/{layer % LAYERS}", path / f"c/{layer}")
            continue
        n = min(CHUNKS[0], slices - layer * CHUNKS[0])
        noise = rng.integers(0, 64, (n, SIDE, SIDE))
        array[layer * CHUNKS[0] : layer * CHUNKS[0] + n] = (coarse[:n] * 40_000 + noise).astype(np.uint16)


def target_like(source: Path, target: Path) -> tuple[Any, Any]:
    array = zarr.open_array(source, mode="r")
    return array, zarr.create_array(
        target, shape=array.shape, chunks=array.chunks, dtype=array.dtype, compressors=CODECS
    )


def layers(shape: tuple[int, ...]) -> list[Box]:
    return [box for _, box in tile(shape, (CHUNKS[0], SIDE, SIDE))]


def copy_by_zarr(source: Path, target: Path, threads: int) -> None:
    """A layer of chunks a task, in threads."""
    array, out = target_like(source, target)

    def one(box: Box) -> None:
        out[box.slices] = array[box.slices]

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(one, layers(array.shape)))


def copy_by_zarrs(source: Path, target: Path, threads: int) -> None:
    import zarrs  # noqa: F401

    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline", "threading.max_workers": threads}):
        copy_by_zarr(source, target, threads)


def copy_by_tensorstore(source: Path, target: Path, threads: int) -> None:
    """A layer of chunks at a time, two in flight."""
    target_like(source, target)
    array, out = opened_by_tensorstore(threads, source, target)
    pending: list[Any] = []
    for box in layers(array.shape):
        pending.append(out[box.slices].write(array[box.slices]))
        if len(pending) > 1:
            pending.pop(0).result()
    for write in pending:
        write.result()


def copy_by_dask(source: Path, target: Path, threads: int) -> None:
    import dask.array as da

    with dask.config.set(scheduler="threads", num_workers=threads):
        da.from_zarr(str(source)).to_zarr(target_like(source, target)[1])


def warp_by_cv2(source: Path, target: Path, threads: int) -> None:
    """cv2.warpAffine of each slice of a layer in `map_blocks`, read and written by dask and zarr-python."""
    import cv2
    import dask.array as da

    cv2.setNumThreads(1)
    matrix = flat_map().matrix[:2]
    x_first = np.ascontiguousarray(matrix[::-1][:, [1, 0, 2]])

    def warped(block: np.ndarray) -> np.ndarray:
        how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return np.stack([cv2.warpAffine(plane, x_first, plane.shape[::-1], flags=how) for plane in block])

    whole_layers = da.from_zarr(str(source), chunks=(CHUNKS[0], SIDE, SIDE))
    result = whole_layers.map_blocks(warped, dtype=whole_layers.dtype, meta=np.empty((0, 0, 0), whole_layers.dtype))
    with dask.config.set(scheduler="threads", num_workers=threads):
        da.store(result, target_like(source, target)[1], lock=False)


def warp_by_tensorstore(source: Path, target: Path, threads: int) -> None:
    """What a worker would do with tensorstore for an engine and our kernel: read, warp, write in a pipe."""
    target_like(source, target)
    client = Client.current()
    starts = range(0, zarr.open_array(source, mode="r").shape[0], CHUNKS[0])
    workers = list(client.scheduler_info(n_workers=-1)["workers"])
    shares = [
        client.submit(_tensorstore_share, source, target, list(starts[k :: len(workers)]), workers=[worker], pure=False)
        for k, worker in enumerate(workers)
    ]
    client.gather(shares)


def _tensorstore_share(source: Path, target: Path, starts: list[int]) -> None:
    """One worker's layers: the next one is read and the last one written while one is sampled."""
    array, out = opened_by_tensorstore(1, source, target)
    matrix, plane = np.array(flat_map().matrix), Box.of((SIDE, SIDE))

    def read(number: int) -> Any:
        return array[starts[number] : starts[number] + CHUNKS[0]].read() if number < len(starts) else None

    ahead, room, writing = read(0), [np.empty((CHUNKS[0], SIDE, SIDE), np.uint16) for _ in range(2)], [None, None]
    for number, start in enumerate(starts):
        layer, ahead = ahead.result(), read(number + 1)
        if writing[number % 2] is not None:
            writing[number % 2].result()
        sample(layer, plane, matrix, plane, out=room[number % 2])
        writing[number % 2] = out[start : start + CHUNKS[0]].write(room[number % 2])
    for last in writing:
        if last is not None:
            last.result()


def opened_by_tensorstore(threads: int, *paths: Path) -> list[Any]:
    import tensorstore as ts

    context = ts.Context({"data_copy_concurrency": {"limit": threads}, "cache_pool": {"total_bytes_limit": 0}})
    specs = [{"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path)}} for path in paths]
    return [ts.open(spec, open=True, context=context).result() for spec in specs]


def flat_map() -> dr.Affine:
    return dr.Affine.from_parameters(
        theta=0.03, tx=5.3, ty=-7.1, sx=1.01, sy=0.99, shx=0.01, centre=((SIDE - 1) / 2,) * 2
    )


def drift(slices: int) -> dr.SliceAffines:
    rng = np.random.default_rng(1)
    centre = ((SIDE - 1) / 2,) * 2
    maps = [
        dr.Affine.from_parameters(theta=t, tx=x, ty=y, centre=centre).matrix
        for t, x, y in zip(rng.normal(0, 0.02, slices), *rng.normal(0, 10, (2, slices)), strict=True)
    ]
    return dr.SliceAffines(np.stack(maps))


def tilt(slices: int) -> dr.Affine:
    named = {"rx": 0.03, "ry": -0.02, "rz": 0.04, "tx": 3.3, "tz": -1.2, "sx": 1.01, "sy": 0.99}
    return dr.Affine.from_parameters(named, ndim=3, centre=((slices - 1) / 2, (SIDE - 1) / 2, (SIDE - 1) / 2))


def by_daskreg(pull: Callable[[int], Any] | None) -> Run:
    def run(source: Path, target: Path, threads: int) -> None:
        volume = dr.open(source)
        array = volume if pull is None else dr.warp(volume, pull=pull(len(volume)))
        dr.write(array, target, chunks=CHUNKS, levels=1, progress=False)

    return run


TOOLS: dict[str, tuple[str, Run]] = {
    "tensorstore copy": ("tensorstore", copy_by_tensorstore),
    "zarr-python copy": ("zarr", copy_by_zarr),
    "zarrs copy": ("zarrs", copy_by_zarrs),
    "dask to_zarr copy": ("dask", copy_by_dask),
    "cv2 in map_blocks, affine": ("cv2", warp_by_cv2),
    "tensorstore engine, affine": ("tensorstore", warp_by_tensorstore),
    "daskreg copy": ("", by_daskreg(None)),
    "daskreg warp, affine": ("", by_daskreg(lambda n: flat_map())),
    "daskreg warp, drift": ("", by_daskreg(drift)),
    "daskreg warp, 3D": ("", by_daskreg(tilt)),
}


def installed(names: list[str]) -> dict[str, Run]:
    found = {}
    for name, (module, run) in TOOLS.items():
        if not any(wanted in name for wanted in names):
            continue
        try:
            if module:
                __import__(module)
            found[name] = run
        except ImportError:
            print(f"{name}: skipped, {module} is not installed")
    return found


def cpu_seconds(processes: list[psutil.Process]) -> float:
    return sum(sum(p.cpu_times()[:2]) for p in processes)


def remove(target: Path) -> None:
    for path in (target, target.with_name(target.name + ".daskreg")):
        shutil.rmtree(path, ignore_errors=True)


def measure(
    client: Any, folder: Path, size: float, options: argparse.Namespace, *, idle: int
) -> dict[str, dict[str, float]]:
    source, target = folder / "in.zarr", folder / "out.zarr"
    slices = max(CHUNKS[0], round(size * 2**30 / (SIDE * SIDE * 2)))
    make_stack(source, slices)
    mib = slices * SIDE * SIDE * 2 / MIB
    runs = installed(options.tools)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    spent: dict[str, list[float]] = {name: [] for name in runs}
    workers = [psutil.Process(pid) for pid in client.run(os.getpid).values()]
    peaks: dict[str, list[int]] = {name: [] for name in runs}
    for _ in range(options.repeats):
        for name, run in runs.items():
            gc.collect()
            ours = name.startswith("daskreg") or "engine" in name
            watch = MemoryWatch.workers(client) if ours else MemoryWatch([os.getpid()])
            processes = workers if ours else [psutil.Process()]
            with watch:
                started, before = time.perf_counter(), cpu_seconds(processes)
                run(source, target, options.workers)
                seconds[name].append(time.perf_counter() - started)
                spent[name].append(cpu_seconds(processes) - before)
            peaks[name].append(watch.peak - idle if ours else watch.above_idle)
            print(f"    {name}: {seconds[name][-1]:.2f} s, CPU {spent[name][-1]:.2f} s", file=sys.stderr, flush=True)
            remove(target)
    remove(source)
    copy = next((statistics.median(seconds[n]) for n in ("tensorstore copy", "zarr-python copy") if n in runs), None)
    table = {}
    print(f"\n{mib / 1024:.2f} GiB, {options.workers} workers or threads, medians of {options.repeats}")
    print(f"  {'':26s} {'MiB/s':>7} {'best':>7} {'x copy':>7} {'CPU ms/MiB':>11} {'peak MiB':>9}")
    for name, values in seconds.items():
        median = statistics.median(values)
        ratio = median / copy if copy else float("nan")
        peak, cpu = max(peaks[name]) / MIB, 1000 * statistics.median(spent[name]) / mib
        print(f"  {name:26s} {mib / median:7.0f} {mib / min(values):7.0f} {ratio:7.2f} {cpu:11.2f} {peak:9.0f}")
        table[name] = {"seconds": median, "MiB/s": mib / median, "ratio": ratio, "CPU ms/MiB": cpu, "peak MiB": peak}
    return table


def warm_up(folder: Path) -> None:
    """Import and compile everything on the workers, so that idle means ready."""
    source = folder / "small.zarr"
    small = zarr.create_array(source, shape=(8, 64, 64), chunks=(4, 64, 64), dtype="u2", compressors=CODECS)
    small[:] = np.broadcast_to(np.arange(64, dtype="u2"), small.shape)
    volume = dr.open(source)
    turn = dr.Affine.rotation(0.1, centre=(32, 32))
    many = dr.SliceAffines(np.stack([turn.matrix] * 8))
    for pull in (turn, many, dr.Affine.from_parameters({"rx": 0.1}, ndim=3, centre=(4, 32, 32))):
        for _ in range(3):  # each worker has had some
            warped = dr.warp(volume, pull=pull)
            dr.write(warped, folder / "warm.zarr", chunks=(1, 64, 64), levels=1, progress=False)
            remove(folder / "warm.zarr")
    remove(source)


def run_all(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    with dr.connect(workers=options.workers) as client:
        warm_up(folder)
        each = [MemoryWatch([pid]).idle for pid in client.run(os.getpid).values()]
        idle = sum(
            each
        )  # where they differ by more than some MiB, one has not compiled everything, and peaks are too high
        print(f"idle workers: {' + '.join(f'{size / MIB:.0f}' for size in each)} MiB", file=sys.stderr, flush=True)
        return {f"{size} GiB": measure(client, folder, size, options, idle=idle) for size in options.sizes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=float, nargs="+", default=[2.0], help="GiB of pixels")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tools", nargs="+", default=[""], help="parts of names; default: all")
    parser.add_argument("--scaling", action="store_true", help="daskreg's warps with 1, 2, ... workers")
    parser.add_argument("--folder", type=Path, help="where to write; default: a temporary folder")
    parser.add_argument("--json", type=Path, help="keep the figures here")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    results: dict[str, Any] = {}
    try:
        for workers in range(1 if options.scaling else options.workers, options.workers + 1):
            options.workers = workers
            results[f"{workers} workers"] = run_all(folder, options)
    finally:
        shutil.rmtree(folder)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
