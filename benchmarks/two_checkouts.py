"""Two checkouts of daskreg side by side: the same figures, and the time that they take.

    python benchmarks/two_checkouts.py BEFORE AFTER [--rounds 5] [--cases register stack] [--json figures.json]

BEFORE and AFTER are folders that hold a `daskreg/`; a refactoring must change no figure and cost no time. Only
public names are used, so that the insides of both may differ. Each round runs a fresh process of one and of the
other, in turn; every case runs twice in it and the second run is timed, so that nothing is compiled in the measured
time. Printed for each case: its figures, by how much they differ between the checkouts at most, the median seconds of
both, and the median of the ratios round by round.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Floats = NDArray[np.float64]
Case = Callable[[], tuple[dict[str, float], list[float]]]
"""Gives figures by name, and every number that has to stay the same."""


def photograph(name: str) -> Floats:
    from skimage import data

    image = np.asarray(getattr(data, name)(), dtype=np.float64)
    return image.mean(-1) if image.ndim == 3 else image


def pairs(model: str, volume: bool = False) -> list[tuple[Floats, Floats, Any]]:
    """Images, moved by known maps of a model with cubic interpolation: fixed, moving, moving from fixed."""
    import daskreg as dr

    rng = np.random.default_rng(7)
    if volume:
        rough = ndimage.gaussian_filter(rng.normal(size=(60, 72, 66)), 3)
        images = [rough / rough.std()] * 2
    else:
        images = [photograph(name) for name in ("camera", "coins", "moon", "astronaut")]
    made = []
    for image in images:
        parameters = {
            name: float(rng.uniform(-reach, reach))
            for name, reach in (
                {"rx": 0.2, "ry": 0.2, "rz": 0.2, "tx": 4, "ty": 4, "tz": 4}
                if volume
                else {"theta": 0.3, "tx": 30, "ty": 30, "shx": 0.1 if model == "affine" else 0.0}
            ).items()
        }
        centre = (np.asarray(image.shape) - 1) / 2
        motion = dr.Affine.from_parameters(parameters, ndim=image.ndim, centre=centre)
        back = motion.inverse().matrix
        moving = ndimage.affine_transform(image, back[:-1, :-1], back[:-1, -1], order=3, mode="reflect")
        made.append((image, moving + rng.normal(0, 0.01 * image.std(), image.shape), motion))
    return made


def corner_error(found: Any, truth: Any, shape: tuple[int, ...]) -> float:
    corners = np.stack(np.meshgrid(*[(0.0, n - 1.0) for n in shape], indexing="ij"), -1).reshape(-1, len(shape))
    return float(np.linalg.norm(found(corners) - truth(corners), axis=1).max())


def registered(model: str, metric: str, volume: bool = False) -> Case:
    def case() -> tuple[dict[str, float], list[float]]:
        import daskreg as dr

        errors, numbers = [], []
        for fixed, moving, truth in made:
            fit = dr.register(fixed, moving, model=model, metric=metric)
            errors.append(corner_error(fit.moving_from_fixed, truth, fixed.shape))
            numbers += fit.moving_from_fixed.matrix.ravel().tolist()
        return {"median error (voxels)": float(np.median(errors)), "worst": max(errors)}, numbers

    made = pairs(model, volume)
    return case


def of_size(*shape: int) -> Case:
    """One pair with structure of several sizes, turned and shifted by a hundredth of its length."""
    import daskreg as dr

    rng = np.random.default_rng(4)
    image = sum(s * ndimage.gaussian_filter(rng.normal(size=shape), s) for s in (1.5, 6.0))
    centre = (np.asarray(shape) - 1) / 2
    names = ("theta",) if len(shape) == 2 else ("rz", "ry")
    moved = dict.fromkeys(names, 0.05) | {"tx": 0.01 * shape[-1], "ty": -0.01 * shape[-2]}
    truth = dr.Affine.from_parameters(moved, ndim=len(shape), centre=centre)
    back = truth.inverse().matrix
    moving = ndimage.affine_transform(image, back[:-1, :-1], back[:-1, -1], order=3, mode="reflect")

    def case() -> tuple[dict[str, float], list[float]]:
        fit = dr.register(image, moving)
        return {
            "error (voxels)": corner_error(fit.moving_from_fixed, truth, shape)
        }, fit.moving_from_fixed.matrix.ravel().tolist()

    return case


def many() -> Case:
    import daskreg as dr

    rng = np.random.default_rng(3)
    base = photograph("camera")[::2, ::2]
    shifts = rng.uniform(-6, 6, (64, 2))
    moving = np.stack([ndimage.shift(base, s, order=3, mode="reflect") for s in shifts]).astype(np.float32)
    fixed = np.broadcast_to(base.astype(np.float32), moving.shape)

    def case() -> tuple[dict[str, float], list[float]]:
        fits = dr.register_many(list(fixed), list(moving), model="rigid")
        found = np.array([fit.moving_from_fixed.matrix for fit in fits])
        error = np.linalg.norm(found[:, :2, 2] - shifts, axis=1)
        return {"median error (voxels)": float(np.median(error))}, found.ravel().tolist()

    return case


def drifting_stack() -> Floats:
    rng = np.random.default_rng(11)
    base = photograph("camera")[100:356, 100:356]
    drift = np.cumsum(rng.normal(0, 1.0, (50, 2)), axis=0)
    return np.stack([ndimage.shift(base, d, order=3, mode="reflect") + rng.normal(0, 2, base.shape) for d in drift])


def stack(reference: str) -> Case:
    import daskreg as dr

    images = drifting_stack().astype(np.float32)

    def case() -> tuple[dict[str, float], list[float]]:
        fit = dr.align_stack(images, model="rigid", reference=reference)
        matrices = fit.raw_from_aligned.matrices
        return {"largest shift (voxels)": float(np.abs(matrices[:, :2, 2]).max())}, matrices.ravel().tolist()

    return case


def clouds(kind: str) -> Case:
    import daskreg as dr

    rng = np.random.default_rng(5)
    t = rng.uniform(0, 2 * np.pi, (20000, 2))
    surface = np.stack(
        [(2 + np.cos(t[:, 1])) * np.cos(t[:, 0]), (1.5 + np.cos(t[:, 1])) * np.sin(t[:, 0]), np.sin(t[:, 1])], 1
    )
    surface[:, 2] += 0.3 * np.cos(2 * t[:, 0] + 0.5) + 0.2 * np.sin(t[:, 0])
    angle = 0.08 if kind == "near" else 2.0
    turn = dr.Affine.rotation(rx=angle, ry=0.6 * angle, rz=-0.4 * angle).linear
    source = surface[: len(surface) // 2] + rng.normal(0, 0.01, (len(surface) // 2, 3))
    target = surface[len(surface) // 2 :] @ turn.T + 0.1

    def case() -> tuple[dict[str, float], list[float]]:
        fit = dr.icp(target, source, init="identity" if kind == "near" else "auto")
        off = np.degrees(np.arccos(np.clip((np.trace(fit.rotation.T @ turn) - 1) / 2, -1, 1)))
        return {"error (degrees)": float(off)}, fit.target_from_source.matrix.ravel().tolist()

    return case


def warped(kind: str) -> Case:
    import daskreg as dr

    rng = np.random.default_rng(2)
    volume = rng.integers(0, 60000, (96, 512, 512)).astype(np.uint16)
    if kind == "slices":
        pull: Any = dr.SliceAffines(np.stack([dr.Affine.rotation(0.001 * k).matrix for k in range(len(volume))]))
    else:
        pull = dr.Affine.rotation(rx=0.05, ry=0.02, rz=0.1)

    def case() -> tuple[dict[str, float], list[float]]:
        out = dr.warp(volume, pull=pull)
        return {"mean": float(out.mean())}, [float(out.sum(dtype=np.float64)), float(out[::7, ::11, ::13].sum())]

    return case


def out_of_core() -> Case:
    import zarr

    import daskreg as dr

    folder = Path(tempfile.mkdtemp(prefix="two-checkouts-"))
    shape = (128, 2048, 1024)
    source = zarr.create_array(folder / "in.zarr", shape=shape, chunks=(16, 512, 512), dtype="uint16")
    rng = np.random.default_rng(1)
    slab = ndimage.gaussian_filter(rng.normal(size=(16, *shape[1:])), 2)
    slab = ((slab / slab.std()) * 5000 + 30000).astype(np.uint16)
    for first in range(0, shape[0], 16):
        source[first : first + 16] = slab
    client = dr.connect()
    pull = dr.Affine.rotation(0.05, centre=(1023.5, 511.5))

    def case() -> tuple[dict[str, float], list[float]]:
        lazy = dr.warp(dr.open(folder / "in.zarr"), pull=pull)
        written = dr.write(lazy, folder / "out.zarr", overwrite=True, progress=False, client=client, levels=1)
        out = dr.open(folder / "out.zarr")
        return {"blocks": float(getattr(written, "blocks", 0))}, [float(np.asarray(out[64]).sum(dtype=np.float64))]

    return case


CASES: dict[str, Callable[[], Case]] = {
    "register 2D affine ncc": lambda: registered("affine", "ncc"),
    "register 2D rigid mse": lambda: registered("rigid", "mse"),
    "register 2D similarity mi": lambda: registered("similarity", "mi"),
    "register 3D rigid ncc": lambda: registered("rigid", "ncc", volume=True),
    "register of size 256^2": lambda: of_size(256, 256),
    "register of size 1000^2": lambda: of_size(1000, 1000),
    "register of size 128^3": lambda: of_size(128, 128, 128),
    "register_many 64 rigid": many,
    "stack 50 neighbors": lambda: stack("neighbors"),
    "stack 50 previous": lambda: stack("previous"),
    "stack 50 mean": lambda: stack("mean"),
    "icp near 10k": lambda: clouds("near"),
    "icp from anywhere 10k": lambda: clouds("far"),
    "warp slices in memory": lambda: warped("slices"),
    "warp 3D in memory": lambda: warped("3D"),
    "warp out of core": out_of_core,
}


def child(names: list[str]) -> None:
    """Runs cases with the daskreg that PYTHONPATH names, and prints JSON."""
    found = {}
    for name in names:
        case = CASES[name]()
        case()
        began = time.perf_counter()
        figures, numbers = case()
        found[name] = {"seconds": time.perf_counter() - began, "figures": figures, "numbers": numbers}
    import daskreg as dr

    print("FOUND " + json.dumps({"from": dr.__file__, "cases": found}))


def run(checkout: Path, names: list[str]) -> dict[str, Any]:
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    command = [sys.executable, __file__, "--child", *names]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=checkout)
    lines = [line for line in done.stdout.splitlines() if line.startswith("FOUND ")]
    if not lines:
        raise SystemExit(f"{checkout}: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(lines[-1].removeprefix("FOUND "))
    assert Path(found["from"]).is_relative_to(checkout), found["from"]
    return found["cases"]


def started(checkout: Path, code: list[str]) -> float:
    """Seconds of a whole process."""
    began = time.perf_counter()
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    subprocess.run([sys.executable, *code], env=environment, capture_output=True, check=True, cwd=checkout)
    return time.perf_counter() - began


STARTS = {
    "import daskreg": ["-c", "import daskreg"],
    "import all public names": ["-c", "import daskreg as d; [getattr(d, n) for n in d.__all__]"],
    "daskreg --help": ["-c", "from daskreg.cli import main; import sys; sys.argv=['daskreg','--help']; main()"],
    "daskreg warp --help": ["-c", "from daskreg.cli import main; import sys; sys.argv=['d','warp','--help']; main()"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, nargs="?")
    parser.add_argument("after", type=Path, nargs="?")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cases", nargs="*", default=[""], help="parts of names; default: all")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        child(options.child)
        return
    both = [options.before.resolve(), options.after.resolve()]
    names = [name for name in CASES if any(part in name for part in options.cases)]
    rounds: list[list[dict[str, Any]]] = []
    starts: dict[str, list[list[float]]] = {name: [] for name in STARTS}
    for _ in range(options.rounds):
        rounds.append([run(checkout, names) for checkout in both])
        for name, code in STARTS.items():
            starts[name].append([started(checkout, code) for checkout in both])
    print(f"{'case':28} {'before':>9} {'after':>9} {'ratio':>6}  {'differ by':>9}  figures")
    for name in names:
        times = np.array([[one[name]["seconds"] for one in pair] for pair in rounds])
        numbers = [np.array(one[name]["numbers"]) for one in rounds[-1]]
        differ = float(np.abs(numbers[0] - numbers[1]).max())
        figures = ", ".join(f"{k} {v:.4g}" for k, v in rounds[-1][1][name]["figures"].items())
        _row(name, times, f"{differ:9.2g}", figures)
    for name, pairs_of_times in starts.items():
        _row(name, np.array(pairs_of_times), " " * 9, "")
    if options.json:
        options.json.write_text(json.dumps({"rounds": rounds, "starts": starts}))


def _row(name: str, times: Floats, differ: str, figures: str) -> None:
    before, after = (statistics.median(column) for column in times.T.tolist())
    ratio = statistics.median((times[:, 1] / times[:, 0]).tolist())
    print(f"{name:28} {before:8.3f}s {after:8.3f}s {ratio:6.2f}  {differ}  {figures}")


if __name__ == "__main__":
    main()
