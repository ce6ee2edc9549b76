"""The main workflow on a real volume with a known drift: simulate, align, warp, compare.

The brain template in the nilearn package is cut into slices. Each slice is rotated and shifted
by a random walk and gets noise, and the stack is stored as OME-Zarr. Then the stack is
aligned and warped out of core on a local cluster, and the estimated motion is compared with the
known one.

Images alone cannot distinguish a specimen that changes from slice to slice from a slow
drift. So the error has three parts: from slice to slice, the part faster than 15 slices, and
the slow part, which is caused by the changing anatomy. A control, one slice repeated with the same
drift, shows that the estimator does not cause the slow part.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from dask.utils import format_bytes, format_time
from numpy.typing import NDArray

from daskreg.errors import MissingExtraError, OutputExistsError
from daskreg.geometry import Affine, Grid, SliceAffines
from daskreg.runtime.paths import local_path
from daskreg.stacks.align import StackFit, align_stack
from daskreg.stacks.trajectory import whittaker
from daskreg.volumes import open as open_volume
from daskreg.volumes import to_dataarray
from daskreg.warping import warp
from daskreg.writing import Written, write

Floats = NDArray[np.float64]

SMOOTH = 15
"""Period in slices; change over longer periods is the slow part."""

NOISE = 0.02
"""Standard deviation of the noise, as a fraction of the range."""

_TEMPLATE = "datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
_MARKER = ".daskreg-demo"


@dataclass(frozen=True)
class DriftError:
    """Distance between estimated and true positions, in pixels, mean over slices and the image.

    A constant offset of the whole stack is not counted, because a stack does not determine it.
    """

    before: float
    total: float
    slice_to_slice: float
    fast: float
    slow: float

    def __str__(self) -> str:
        return (
            f"{self.before:.2f} px before; after: slice to slice {self.slice_to_slice:.3f} px, "
            f"faster than {SMOOTH} slices {self.fast:.3f} px, slow part {self.slow:.2f} px"
        )


@dataclass(frozen=True)
class DemoResult:
    """The results of the demo; `print` shows them."""

    stack: str
    aligned: str
    page: str
    shape: tuple[int, ...]
    error: DriftError
    control: DriftError
    fit: StackFit
    written: Written
    peak_memory: int
    seconds: float

    def __str__(self) -> str:
        size = " x ".join(map(str, self.shape))
        return "\n".join(
            [
                f"stack       {size} uint16 with a known drift: {self.stack}",
                f"aligned     {self.aligned}",
                f"drift       {self.error}",
                f"control     {self.control.total:.3f} px left of {self.control.before:.2f} px "
                "(one slice repeated, same drift: the estimator's own error)",
                "            (slow: anatomy that changes along the stack, which images cannot tell from drift)",
                f"estimate    {format_time(self.fit.seconds)} for {self.shape[0]} slices",
                f"warp        {format_bytes(int(self.written.throughput))}/s, Zarr to Zarr",
                f"memory      workers peaked {format_bytes(self.peak_memory)} above idle",
                f"report      {self.page}",
                f"total       {format_time(self.seconds)}",
            ]
        )


def run(
    folder: str | os.PathLike[str] = "demo-output",
    *,
    size: int = 512,
    slices: int = 50,
    workers: int = 2,
    seed: int = 0,
    progress: bool = True,
    show: Callable[[str], None] = print,
) -> DemoResult:
    """Simulate, align, warp and compare; see the module's docstring.

    Args:
        folder: for the stack, the aligned stack and the report; the output of an earlier demo
            there is replaced.
        size: pixels along y and x; the memory of the workers does not grow with the volume.
        slices: number of slices.
        workers: number of workers of the local cluster.
        show: called with a line of text before each step.

    Raises: MissingExtraError without nilearn; OutputExistsError for a folder with other files.
    """
    import time

    from daskreg.cluster import connect
    from daskreg.runtime.memory_watch import MemoryWatch

    started = time.monotonic()
    output = _prepared(local_path(folder))
    template = _template(slices, size)
    truth = random_walk(slices, size, seed)
    with connect(workers=workers) as client:
        show(f"simulating a stack of {slices} x {size} x {size} with a known drift ...")
        write(_drifted(template, truth, size, seed), output / "stack.ome.zarr", progress=progress)
        stack = open_volume(output / "stack.ome.zarr")
        show("aligning ...")
        fit = align_stack(stack)
        aligned = warp(stack, pull=fit.raw_from_aligned)
        show("warping out of core ...")
        with MemoryWatch.workers(client) as watch:
            written = write(aligned, output / "aligned.ome.zarr", progress=progress)
    error = drift_error(fit.raw_from_aligned, truth, size)
    show("control: one slice repeated with the same drift ...")
    control = _control(template, truth, size, seed)
    page = _report(output / "report.html", fit, truth, {"error": error, "control": control}, written)
    return DemoResult(
        str(output / "stack.ome.zarr"),
        str(output / "aligned.ome.zarr"),
        str(page),
        tuple(stack.shape),
        error,
        control,
        fit,
        written,
        watch.above_idle,
        time.monotonic() - started,
    )


def random_walk(slices: int, size: int, seed: int) -> SliceAffines:
    """raw_from_clean: a rigid random walk, 1 % of the size and 0.5 degrees rms a step at most."""
    rng = np.random.default_rng(seed)
    shift = np.cumsum(rng.normal(0, 0.004 * size, (slices, 2)), axis=0)
    angle = np.cumsum(rng.normal(0, np.radians(0.3), slices))
    centre = np.full(2, (size - 1) / 2)
    return SliceAffines(
        np.stack(
            [
                Affine.from_parameters(theta=a, tx=x, ty=y, centre=centre).matrix
                for a, (x, y) in zip(angle, shift, strict=True)
            ]
        )
    )


def drift_error(estimated: SliceAffines, truth: SliceAffines, size: int) -> DriftError:
    """Compare raw_from_aligned (`estimated`) with raw_from_clean (`truth`) over the middle of the image."""
    ends = np.linspace(0.2, 0.8, 5) * (size - 1)
    points = np.stack(np.meshgrid(ends, ends, indexing="ij"), -1).reshape(-1, 2)

    def trajectories(maps: Floats) -> Floats:
        """The mapped points of each slice, minus their mean over the stack: (N, points, 2)."""
        moved = np.einsum("nij,pj->npi", maps[:, :2, :2], points) + maps[:, None, :2, 2]
        return np.asarray(moved - moved.mean(axis=0))

    # clean_from_aligned is constant if the drift was estimated correctly, up to the frame of the stack.
    residual = trajectories(truth.inverse().matrices @ estimated.matrices)
    rows = residual.reshape(len(residual), -1)
    slow = whittaker(rows, np.ones(len(rows)), SMOOTH).reshape(residual.shape)
    return DriftError(
        _length(trajectories(truth.matrices)),
        _length(residual),
        _length(np.diff(residual, axis=0)),
        _length(residual - slow),
        _length(slow),
    )


def _length(displacements: Floats) -> float:
    return float(np.linalg.norm(displacements, axis=-1).mean())


def _template(slices: int, size: int) -> xr.DataArray:
    """Central slices of the brain template, on a grid in which the drifted stack is sampled."""
    found = importlib.util.find_spec("nilearn")
    if found is None or not found.submodule_search_locations:
        raise MissingExtraError("nilearn", "demo")
    path = Path(found.submodule_search_locations[0]) / _TEMPLATE
    volume = open_volume(path).values.astype(np.float32)
    volume *= 50_000 / volume.max()
    depth = volume.shape[0]
    first, last = 0.35 * depth, 0.65 * depth
    thick = Grid((slices, *volume.shape[1:]), spacing=((last - first) / slices, 1, 1), origin=(first, 0, 0))
    cut = warp(volume, pull=Affine.identity(3), grid=thick)
    # In pixels of the drifted stack; the image fills most of the field.
    spacing = 1.25 * max(volume.shape[1:]) / size
    origin = [(n - 1) / 2 / spacing - (size - 1) / 2 for n in volume.shape[1:]]
    plane = Grid(cut.shape, spacing=(1, 1 / spacing, 1 / spacing), origin=(0, -origin[0], -origin[1]))
    return to_dataarray(cut, plane, name="brain")


def _drifted(template: xr.DataArray, truth: SliceAffines, size: int, seed: int) -> xr.DataArray:
    """The template moved by the drift, with noise, as a lazy uint16 stack."""
    import dask.array as da

    n = template.shape[0]
    clean = warp(template, push=truth, grid=Grid((n, size, size)), order=1, dtype="float32")
    noise = da.random.default_rng(seed).normal(0, NOISE * 50_000, size=clean.shape, chunks=clean.chunks)
    pixels = da.clip(da.rint(clean.data + noise + 2_000), 0, 65_535).astype(np.uint16)
    return to_dataarray(pixels, Grid((n, size, size)), name="stack")


def _control(template: xr.DataArray, truth: SliceAffines, size: int, seed: int) -> DriftError:
    """The estimator's own error: the middle slice, repeated, with the same drift."""
    n = template.shape[0]
    one = template.isel(z=[n // 2] * n).assign_coords(z=template.z)
    stack = _drifted(one, truth, size, seed + 1)
    return drift_error(align_stack(stack).raw_from_aligned, truth, size)


def _prepared(folder: Path) -> Path:
    """An empty folder for the demo; removes only the output of an earlier demo."""
    marker = folder / _MARKER
    if folder.exists() and any(folder.iterdir()) and not marker.exists():
        raise OutputExistsError(f"{folder} holds other files: give the demo a folder of its own")
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    marker.touch()
    return folder


def _report(page: Path, fit: StackFit, truth: SliceAffines, errors: dict[str, DriftError], written: Written) -> Path:
    """The page: side views before and after, estimated and true drift, errors."""
    from daskreg.reporting import plots
    from daskreg.reporting.page import report

    before, after = (_small(open_volume(p)) for p in (page.with_name("stack.ome.zarr"), written.path))
    return report(
        [fit, written],
        page,
        title="daskreg demo: a drifting stack, aligned out of core",
        figures={
            "Before and after: a slice, and side views through the stack": plots.sides(before, after),
            "Drift: estimated (solid) and true (dashed)": plots.drift(fit, truth=truth),
        },
        facts={name: str(error) for name, error in errors.items()},
    )


def _small(volume: xr.DataArray, most: int = 512) -> NDArray[Any]:
    """A stack small enough to draw: every k-th pixel."""
    step = max(1, -(-max(volume.shape) // most))
    return np.asarray(volume[:, ::step, ::step].values)
