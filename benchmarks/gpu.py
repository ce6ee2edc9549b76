"""One GPU beside the CPU of the same machine: sampling, registration, writing, point clouds.

    python benchmarks/gpu.py --quick --out gpu.json
    python benchmarks/gpu.py --only sampling register
    python benchmarks/gpu.py --device cpu --tiny          # does it run at all, without a GPU

Ceilings are measured first: a device-to-device copy (bytes read and written), copies between pinned
memory and the device, and a copy in the host's memory. "floor" is the time that a kernel's fewest
bytes take at such a ceiling, and "of floor" how many times that was needed. Kernels are timed after a warm-up, with
the device synchronised before the clock is read; what is compared takes turns; times are medians. Before
anything is timed, its result is compared with a reference in float64: "error" is the norm of the
difference over that of the reference (sampling), or the largest distance of a corner from where the
true motion takes it, in voxels (registration).

DASKREG_GPU_DATA may name a folder with `brain.npz`, a volume of (94, 116, 98); else one is made up.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import shutil
import statistics
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import out_of_core
import torch
import zarr
from out_of_core import SIDE, flat_map, make_stack, remove, tilt
from register import corner_error, motion, moved, photograph
from sampling import affine_2d, affine_3d
from scipy import ndimage
from torch.nn import functional

import daskreg as dr
from daskreg.clouds import brute_force_triton
from daskreg.clouds.cloud import Cloud
from daskreg.cluster.config import LocalConfig
from daskreg.geometry import Affine, Box, Grid
from daskreg.geometry.normalised import theta_from_index
from daskreg.registration.normal_equations import equations_triton
from daskreg.sampling import tensors_triton, tile_pipeline
from daskreg.sampling.displacements import Displaced, Displacement
from daskreg.sampling.sample import sample
from daskreg.sampling.tile_sampler import tile_sampler
from daskreg.sampling.tiles import Tile

Runs = dict[str, Callable[[], Any]]
GIB = 2**30


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def medians(runs: Runs, rounds: int, *, budget: float = 20.0) -> dict[str, float]:
    """Seconds of each, taking turns, after one round that does not count."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    began = time.perf_counter()
    for number in range(rounds + 1):
        for name, run in runs.items():
            wait()
            started = time.perf_counter()
            run()
            wait()
            if number or rounds == 0:
                times[name].append(time.perf_counter() - started)
        if number and time.perf_counter() - began > budget:
            break
    return {name: statistics.median(some) for name, some in times.items()}


class Report:
    """Lines of a table that is printed at the end, and figures for a file."""

    def __init__(self, out: Path | None) -> None:
        self.out, self.lines, self.figures, self.until = out, list[str](), dict[str, Any](), math.inf

    def more(self) -> None:
        """Raises: OutOfTimeError where no case should be begun."""
        if time.monotonic() > self.until:
            raise OutOfTimeError

    def row(self, section: str, name: str, **figures: Any) -> None:
        self.figures.setdefault(section, {})[name] = figures
        shown = "  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in figures.items())
        self.lines.append(f"{section:9s} {name:38s} {shown}")
        print(self.lines[-1], flush=True)
        if self.out:
            self.out.write_text(json.dumps(self.figures, indent=1))


# --- ceilings ---------------------------------------------------------------------------------


def ceilings(options: argparse.Namespace, report: Report) -> dict[str, float]:
    device, nbytes = options.device, 64 * 2**20 if options.tiny else GIB
    one = torch.randint(0, 255, (nbytes,), dtype=torch.uint8, device=device)
    other, cuda = torch.empty_like(one), device != "cpu"
    host = torch.randint(0, 255, (nbytes // 4,), dtype=torch.uint8).pin_memory() if cuda else one[: nbytes // 4].cpu()
    pageable, target = host.numpy().copy(), np.empty(nbytes // 4, np.uint8)
    part = one[: nbytes // 4]
    runs: Runs = {
        "device to device": lambda: other.copy_(one),
        "host to device": lambda: part.copy_(host, non_blocking=True),
        "device to host": lambda: host.copy_(part, non_blocking=True),
        "pageable to device": lambda: part.copy_(torch.from_numpy(pageable)),
        "host to host": lambda: np.copyto(target, pageable),
        "pageable to pinned": lambda: np.copyto(host.numpy(), pageable),
        "pageable to pinned, threads": lambda: host.copy_(torch.from_numpy(pageable)),
    }
    seconds = medians(runs, 5)
    moved_bytes = dict.fromkeys(runs, nbytes / 4) | {"device to device": 2 * nbytes}
    rates = {name: moved_bytes[name] / s / 1e9 for name, s in seconds.items()}
    for name, rate in rates.items():
        report.row("ceiling", name, **{"GB/s": rate})
    return rates


# --- sampling ---------------------------------------------------------------------------------


def sampling(options: argparse.Namespace, report: Report, rates: dict[str, float]) -> None:
    side = 64 if options.tiny else 1024 if options.quick else 2048
    deep, cube = (4, 40) if options.tiny else (64, 384) if options.quick else (96, 640)
    cases = [("slices", "float32", 1), ("slices", "uint8", 1), ("slices", "uint16", 1), ("volume", "float32", 1)]
    cases += [("volume", "uint16", 1), ("volume", "float32", 0), ("slices", "float32", 3), ("volume", "float32", 3)]
    for kind, dtype, order in cases:
        shape = (deep, side, side) if kind == "slices" else (cube,) * 3
        matrix = affine_2d(shape[1:]) if kind == "slices" else affine_3d(shape)
        with attempt(report, f"{kind} {dtype} {order}"):
            report.more()
            image = (np.random.default_rng(order).random(shape, dtype="f4") * 200).astype(dtype)
            sampled(options, report, rates, name=f"{kind} {dtype} order {order}", image=image, pull=matrix, order=order)
    for kind, dtype, order in [("field", "uint16", 1), ("bspline", "uint16", 1), ("field", "float32", 3)]:
        with attempt(report, f"{kind} {dtype} {order}"):
            report.more()
            image = (np.random.default_rng(order).random((cube,) * 3, dtype="f4") * 200).astype(dtype)
            path = through_field(image.shape, 3 if kind == "bspline" else 1)
            sampled(options, report, rates, name=f"{kind} {dtype} order {order}", image=image, pull=path, order=order)


def through_field(shape: tuple[int, ...], order: int) -> Displaced:
    """An affine map after smooth displacements of up to 6 voxels, with a node every 8 voxels."""
    nodes = Grid([n // 8 + 3 for n in shape], 8, -8)
    raw = np.random.default_rng(0).normal(size=(len(shape), *nodes.shape)).astype(np.float32)
    vectors = ndimage.gaussian_filter(raw, (0, *(4,) * len(shape)))
    vectors *= 6 / np.abs(vectors).max()
    eye = np.eye(len(shape) + 1)
    step = Displacement(eye, nodes.inverse_matrix, affine_3d(shape), vectors, (0,) * len(shape), nodes.shape, order)
    return Displaced((step,))


def by_torch(run: Callable[[], Any], kernels: ModuleType, ready: str) -> Callable[[], Any]:
    """The same without the Triton kernels of a module, whose function `ready` says whether they can be used."""

    def without() -> Any:
        with mock.patch.object(kernels, ready, return_value=False):
            return run()

    return without


def sampled(
    options: argparse.Namespace,
    report: Report,
    rates: dict[str, float],
    *,
    name: str,
    image: np.ndarray,
    pull: np.ndarray | Displaced,
    order: int,
) -> None:
    shape, dtype = image.shape, image.dtype
    ndim = pull.ndim if isinstance(pull, Displaced) else len(pull) - 1
    box, out = Box.of(shape[len(shape) - ndim :]), np.empty_like(image)
    tensor = torch.from_numpy(image).to(options.device)
    piece = Tile(image, box, pull, box, order, 0.0)

    def resident() -> Any:
        return sample(tensor, box, pull, box, order=order)

    def pipeline() -> None:
        with tile_sampler(options.device) as sampler:
            sampler.put(piece, out)

    runs: Runs = {
        "GPU, resident": resident,
        "GPU, host to host": pipeline,
        "CPU": lambda: sample(image, box, pull, box, order=order, out=out, parallel=True),
        **(
            {"GPU, by torch": by_torch(resident, tensors_triton, "ready_for_fields")}
            if isinstance(pull, Displaced)
            else by_others(tensor, pull, order)
        ),
    }
    errors = {}
    # A few voxels of the middle tell: in float64, from all of the image.
    middle = Box(tuple(n // 2 - min(4, n // 4) for n in box.shape), tuple(n // 2 + min(4, n // 4) for n in box.shape))
    few = image[:2] if ndim == 2 else image
    exact = sample(few.astype("f8"), box, pull, middle, order=order)
    for key, run in runs.items():
        out[...] = np.array(7, dtype)
        found = run()
        whole = out if found is None or found is out else found
        some = whole[:2] if ndim == 2 else whole
        got = np.asarray(torch.as_tensor(some[(..., *middle.slices)]).cpu(), dtype="f8")
        errors[key] = float(np.linalg.norm(got - exact) / np.linalg.norm(exact))
        del found, whole, some
    seconds = medians(runs, 3 if options.quick else 5)
    if options.device != "cpu":
        report.row("copies", name, **copies(pipeline))
    for key, s in seconds.items():
        moved_bytes = 2 * image.nbytes if "host" not in key else image.nbytes
        ceiling = rates["host to device" if "host" in key else "device to device"] * 1e9
        floor = {} if key == "CPU" else {"of floor": s / (moved_bytes / ceiling)}
        report.row(
            "sampling", f"{name}: {key}", **{"Mvox/s": image.size / s / 1e6, "ms": 1e3 * s, **floor}, error=errors[key]
        )


def copies(sample_once: Callable[[], None]) -> dict[str, float]:
    """What of the way from host to host and back are copies in the host's memory, in one run."""
    times: list[tuple[float, int]] = []
    plain = tile_pipeline._copy

    def timed(source: np.ndarray, target: np.ndarray) -> None:
        started = time.perf_counter()
        plain(source, target)
        times.append((time.perf_counter() - started, source.nbytes))

    tile_pipeline._copy = timed
    try:
        started = time.perf_counter()
        sample_once()
        whole = time.perf_counter() - started
    finally:
        tile_pipeline._copy = plain
    spent, nbytes = sum(t for t, _ in times), sum(n for _, n in times)
    return {"ms": 1e3 * spent, "of ms": 1e3 * whole, "GB/s": nbytes / spent / 1e9}


def by_others(tensor: torch.Tensor, matrix: np.ndarray, order: int) -> Runs:
    """The same on the GPU by torch's own functions in float32, and by CuPy."""
    runs: Runs = {}
    shape = tuple(tensor.shape[tensor.ndim + 1 - len(matrix) :])
    if order == 1 and tensor.dtype == torch.float32:
        theta = torch.from_numpy(theta_from_index(matrix, shape, shape)).float().to(tensor.device)[None]
        plain = tensor[None] if len(matrix) == 3 else tensor[None, None]

        def by_hand() -> Any:
            grid = functional.affine_grid(theta, [1, 1, *shape], False)
            return functional.grid_sample(plain, grid, align_corners=False).reshape(tensor.shape)

        runs["grid_sample"] = by_hand
    if tensor.device.type == "cuda" and tensor.dtype == torch.float32:
        with contextlib.suppress(ImportError):
            import cupy
            from cupyx.scipy.ndimage import affine_transform

            there, m = cupy.from_dlpack(tensor), matrix
            if len(matrix) == 3:
                m = np.eye(4)
                m[1:, 1:] = matrix
            on = cupy.asarray(m)

            def by_cupy() -> Any:
                found = affine_transform(there, on, order=order, mode="grid-constant", prefilter=True)
                cupy.cuda.Device().synchronize()
                return torch.from_dlpack(found)

            runs["cupyx"] = by_cupy
    return runs


# --- registration -----------------------------------------------------------------------------


def brain(side: int | None = None) -> np.ndarray:
    path = Path(os.environ.get("DASKREG_GPU_DATA", "")) / "brain.npz"
    if path.is_file():
        small = np.load(path)["brain"]
    else:
        rng = np.random.default_rng(0)
        small = sum(
            ndimage.gaussian_filter(rng.standard_normal((94, 116, 98)), s) * s**1.5 for s in (1.5, 3, 6, 12)
        ).astype("f4")
        grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in small.shape], indexing="ij"))
        small = np.where((grid**2).sum(0) < 0.8, small - small.min(), 0)
    if side is None:
        return np.asarray(small, dtype="f4")
    large = ndimage.zoom(small, [side / n for n in small.shape], order=3)
    large[large < 1e-3 * large.max()] = 0
    return np.asarray(large, dtype="f4")


def registration(options: argparse.Namespace, report: Report, rates: dict[str, float]) -> None:
    rounds = 2 if options.quick else 5
    tiny = options.tiny
    cases: list[tuple[str, Callable[[], np.ndarray]]] = [
        ("2D 512", lambda: photograph("camera", 96 if tiny else 512)),
        ("3D 94x116x98", lambda: brain()[::3, ::3, ::3].copy() if tiny else brain()),
    ]
    if not tiny:
        cases += [("2D 2048", lambda: photograph("camera", 2048)), ("3D 256", lambda: brain(256))]
    devices = {"GPU": options.device, "CPU": "cpu"}
    for name, make in cases:
        with attempt(report, name):
            report.more()
            image = make()
            truth = motion(Grid(image.shape), 3, 0.3)
            pair = image, moved(image, truth, "zero")
            runs: Runs = {key: lambda d=d, p=pair: dr.register(*p, device=d) for key, d in devices.items()}
            if not options.quick:
                runs["GPU, sums by torch"] = by_torch(runs["GPU"], equations_triton, "ready")
            register_rows(report, name, runs, rounds, lambda fit, t=truth, s=image.shape: [error_of(fit, t, s)])
            if options.device != "cpu" and (name == "3D 256" or not options.quick):
                profiled(report, name, runs["GPU"])
    with attempt(report, "256 pairs"):
        report.more()
        side, count = (48, 4) if tiny else (256, 64 if options.quick else 256)
        image = photograph("camera")
        fixed = np.stack([image[k : k + side, 2 * k : 2 * k + side] for k in range(0, min(count, 128))] * 2)[:count]
        truths = [motion(Grid((side, side)), k, 0.2) for k in range(len(fixed))]
        moving = np.stack([moved(f, t, "zero") for f, t in zip(fixed, truths, strict=True)])
        runs = {key: lambda d=d: dr.register_many(fixed, moving, device=d) for key, d in devices.items()}
        if not options.quick:
            runs["GPU, sums by torch"] = by_torch(runs["GPU"], equations_triton, "ready")

        def errors(fits: Any) -> list[float]:
            return [error_of(fit, t, (side, side)) for fit, t in zip(fits, truths, strict=True)]

        register_rows(report, f"{len(fixed)} pairs of {side}", runs, rounds, errors)
        if options.device != "cpu" and not options.quick:
            profiled(report, f"{len(fixed)} pairs", runs["GPU"])
    with attempt(report, "stack"):
        report.more()
        side, count = (96, 6) if tiny else (512, 48 if options.quick else 128)
        base = photograph("camera", side)
        walk = np.cumsum(np.random.default_rng(0).normal(0, 1.0, (count, 2)), 0)
        stack = np.stack([ndimage.shift(base, w, order=3, mode="reflect") for w in walk]).astype("f4")

        def drift(fit: Any) -> list[float]:
            middle = np.array([side / 2, side / 2, 1.0])
            off = (fit.raw_from_aligned.matrices @ middle)[:, :2] - side / 2 - walk
            return np.linalg.norm(off - off.mean(0), axis=1).tolist()

        runs = {
            key: lambda d=d: dr.align_stack(stack, model="rigid", reference="previous", device=d)
            for key, d in devices.items()
        }
        register_rows(report, f"stack of {count} x {side}", runs, rounds, drift)
        if options.device != "cpu" and not options.quick:
            profiled(report, "stack", runs["GPU"])


def error_of(fit: Any, truth: Affine, shape: tuple[int, ...]) -> float:
    return corner_error(fit.moving_from_fixed.matrix, truth, shape)


def register_rows(report: Report, name: str, runs: Runs, rounds: int, errors: Callable[[Any], list[float]]) -> None:
    found = {key: errors(run()) for key, run in runs.items()}
    seconds = medians(runs, rounds, budget=12)
    for key, s in seconds.items():
        median, worst = statistics.median(found[key]), max(found[key])
        report.row("register", f"{name}: {key}", ms=1e3 * s, error=median, worst=worst, ratio=s / seconds["CPU"])


def profiled(report: Report, name: str, run: Callable[[], Any]) -> None:
    """How often the CPU starts something on the GPU and waits for it, and for how long the GPU works."""
    from torch.profiler import ProfilerActivity, profile

    run()
    wait()
    started = time.perf_counter()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        run()
        wait()
    wall = time.perf_counter() - started
    counts = {"launches": 0, "waits": 0, "copies": 0}
    kernels: dict[str, float] = {}
    for event in seen.key_averages():
        counts["launches"] += event.count * ("LaunchKernel" in event.key)
        counts["waits"] += event.count * ("Synchronize" in event.key)
        counts["copies"] += event.count * ("cudaMemcpy" in event.key)
        if event.device_type == torch.autograd.DeviceType.CUDA:
            kernels[event.key] = kernels.get(event.key, 0.0) + event.self_device_time_total / 1e3
    top = sorted(kernels.items(), key=lambda pair: -pair[1])[:6]
    report.row("profile", name, **counts, **{"GPU ms": sum(kernels.values()), "profiled ms": 1e3 * wall})
    for key, ms in top:
        print(f"            {ms:8.2f} ms  {key[:110]}")


# --- writing ----------------------------------------------------------------------------------


def writing(options: argparse.Namespace, report: Report, rates: dict[str, float]) -> None:
    """Zarr to Zarr by a worker for each core, and by workers and their threads that share the GPU."""
    slices = 16 if options.tiny else 96 if options.quick else 192
    if options.quick:
        out_of_core.LAYERS = 2
    gpu, cores = options.device, os.cpu_count() or 1
    some = [(4, 4), (1, 8), (8, 2), (cores, 1)] + ([] if options.quick else [(4, 1), (1, 1)])
    layouts = [("cpu", cores, 1)] + [(gpu, *some_) for some_ in some]
    layouts = [("cpu", 2, 1), (gpu, 1, 1), (gpu, 1, 2)] if options.tiny else layouts
    folder = Path(tempfile.mkdtemp(dir="/dev/shm" if shutil.disk_usage("/dev/shm").free > 8 * GIB else None))
    pulls: dict[str, Any] = {"copy": None, "affine": flat_map(), "3D": tilt(slices)}
    mib = slices * SIDE * SIDE * 2 / 2**20
    try:
        source = folder / "in.zarr"
        make_stack(source, slices)
        reference: dict[str, np.ndarray] = {}
        for device, workers, threads in layouts:
            config = LocalConfig(workers=workers, threads=threads, device=device)
            with attempt(report, f"write {device} {workers} x {threads}"), dr.connect(config) as client:
                report.more()
                some = {n: p for n, p in pulls.items() if p is not None or device == "cpu" or not options.quick}
                volume = dr.open(source)
                arrays = {n: volume if p is None else dr.warp(volume, pull=p, device=device) for n, p in some.items()}
                seconds = written(arrays, folder / "out.zarr", 2 if options.quick else 3, client)
                for name, best in seconds.items():
                    out = zarr.open_array(folder / f"out.zarr-{name}" / "0", mode="r")
                    part = out[slices // 2, ::7, ::5].astype(int)
                    off = int(np.abs(part - reference.setdefault(name, part)).max())
                    key = f"{name}: {workers} x {threads} {device}"
                    report.row("write", key, **{"MiB/s": mib / best, "off by": off, "MiB": mib})
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def written(arrays: dict[str, Any], path: Path, rounds: int, client: Any) -> dict[str, float]:
    """The fewest seconds for each, taking turns, after a round in which all is imported and compiled."""
    seconds: dict[str, list[float]] = {name: [] for name in arrays}
    for number in range(rounds + 1):
        for name, array in arrays.items():
            out = path.with_name(f"{path.name}-{name}")
            remove(out)
            started = time.perf_counter()
            dr.write(array, out, chunks=(16, 512, 512), levels=1, client=client, progress=False)
            if number:
                seconds[name].append(time.perf_counter() - started)
    return {name: min(some) for name, some in seconds.items()}


# --- point clouds -----------------------------------------------------------------------------


def nearest_points(options: argparse.Namespace, report: Report) -> None:
    """All pairs on the GPU beside the tree of the CPU, whose building counts for nothing here."""
    rng = np.random.default_rng(0)
    for number, many in [(500, 500)] if options.tiny else [(1000, 50_000), (50_000, 50_000)]:
        points, asked = rng.random((many, 3)), rng.random((number, 3))
        there, here = Cloud(points, options.device), Cloud(points)
        expected = here.nearest(asked)
        runs: Runs = {"GPU, host to host": lambda c=there, a=asked: c.nearest(a)}
        if brute_force_triton.ready(there.on_device.device):
            up = torch.from_numpy(asked).to(options.device)
            runs["GPU, resident"] = lambda c=there, a=up: brute_force_triton.nearest(c.on_device, a)
        runs["CPU, tree"] = lambda c=here, a=asked: c.nearest(a)
        off = int(np.count_nonzero(there.nearest(asked)[1] != expected[1]))
        for key, s in medians(runs, 5).items():
            name = f"nearest of {many} for {number}: {key}"
            report.row("icp", name, **{"ms": 1e3 * s, "Gpairs/s": number * many / s / 1e9, "others": off})


def clouds(options: argparse.Namespace, report: Report, rates: dict[str, float]) -> None:
    with attempt(report, "nearest"):
        nearest_points(options, report)
    rng = np.random.default_rng(0)
    sizes = (2000,) if options.tiny else (5000, 50_000, 200_000) if options.quick else (5000, 50_000, 500_000)
    for size, surface in ((n, s) for n in sizes for s in (True, False)):
        with attempt(report, f"icp {size}"):
            report.more()
            points = rng.random((size, 3))
            if surface:
                points[:, 2] = 0.2 * np.sin(5 * points[:, 0]) * np.cos(4 * points[:, 1]) + 0.1 * points[:, 0] ** 2
            turn = Affine.from_parameters({"rx": 0.2, "rz": 0.4}, ndim=3).linear
            source = rng.permutation(points @ turn.T + [0.5, -0.2, 0.1] + 0.002 * rng.normal(size=points.shape))
            devices = {"GPU": options.device, "CPU": "cpu"}
            pair = points, source
            runs: Runs = {key: lambda d=d, p=pair: dr.icp(*p, device=d) for key, d in devices.items()}
            off = {}
            for key, run in runs.items():
                chord = np.linalg.norm(np.asarray(run().rotation) - turn.T) / math.sqrt(8)
                off[key] = math.degrees(2 * math.asin(min(1.0, chord)))
            seconds = medians(runs, 0 if options.quick else 3, budget=8)  # warm already
            for key, s in seconds.items():
                name = f"{'surface' if surface else 'volume'} {size}: {key}"
                report.row("icp", name, ms=1e3 * s, degrees=off[key], ratio=s / seconds["CPU"])


class OutOfTimeError(Exception):
    """The section has had its time."""


@contextlib.contextmanager
def attempt(report: Report, name: str) -> Iterator[None]:
    """What fails is said, and the rest goes on."""
    began = time.perf_counter()
    try:
        yield
    except OutOfTimeError:
        print(f"          ({name}: left out, time is up)", flush=True)
    except Exception as error:
        traceback.print_exc()
        report.row("FAILED", name, error=f"{type(error).__name__}: {str(error)[:160]}")
    finally:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        print(f"          ({name}: {time.perf_counter() - began:.1f} s)", flush=True)


LIMITS = {"sampling": 40.0, "register": 60.0, "icp": 25.0, "write": 60.0}
"""Seconds after which a section begins nothing new with --quick."""
SECTIONS = {"sampling": sampling, "register": registration, "icp": clouds, "write": writing}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--quick", action="store_true", help="smaller, and fewer rounds")
    parser.add_argument("--tiny", action="store_true", help="so small that no figure means anything")
    parser.add_argument("--out", type=Path, help="keep the figures here, as JSON")
    options = parser.parse_args()
    report = Report(options.out)
    rates = ceilings(options, report)
    for name in options.only:
        report.until = time.monotonic() + LIMITS[name] if options.quick else math.inf
        with attempt(report, name):
            SECTIONS[name](options, report, rates)
    print("\n" + "\n".join(report.lines))


if __name__ == "__main__":
    main()
