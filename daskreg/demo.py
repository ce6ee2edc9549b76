"""The main workflow on real images with a known drift: simulate, align, warp, compare.

Slices of the brain template in the nilearn package are rotated and shifted by a random walk, and get noise.

First, one slice is repeated: all that differs along the stack is motion, and the estimate finds it.

Then the slices of the whole volume are stored as OME-Zarr, aligned, warped out of core on a local cluster, and the
estimated motion is compared with the known one. Images alone cannot distinguish a specimen that changes from slice to
slice from a slow drift. So the error has three parts: from slice to slice, the part faster than 15 slices, and the slow
part, which is caused by the changing anatomy, as the first case shows.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from dask.utils import format_bytes, format_time
from numpy.typing import NDArray

from daskreg.errors import MissingExtraError, OutputExistsError
from daskreg.geometry import Affine, Grid, SliceAffines
from daskreg.reporting.section import Verdict
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

SILENCE = 4.0
"""Seconds after which a step says that it goes on."""

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
                f"one slice   repeated, same drift: {self.control.total:.3f} px left of {self.control.before:.2f} px",
                f"the volume  {self.error}",
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
    from daskreg.cluster import connect
    from daskreg.runtime.memory_watch import MemoryWatch

    started = time.monotonic()
    output = _prepared(local_path(folder))
    template = _template(slices, size)
    truth = random_walk(slices, size, seed)
    one, whole = _one_slice(template), template
    bars = progress and sys.stderr.isatty()
    with _told(show, f"starting {workers} workers ..."):
        client = connect(workers=workers)
    with client:
        with _told(show, "1. one slice, repeated with a known drift: aligning (the first run compiles) ...", bars=bars):
            first = np.asarray(_drifted(one, truth, size, seed + 1).data)
            control = align_stack(first, progress=progress)
        shown = drift_error(control.raw_from_aligned, truth, size)
        show(f"   {shown.total:.3f} px are left of {shown.before:.2f} px")
        with _told(show, f"2. a volume of {slices} x {size} x {size} with the same drift: storing ...", bars=bars):
            write(_drifted(whole, truth, size, seed), output / "stack.ome.zarr", progress=progress)
        stack = open_volume(output / "stack.ome.zarr")
        with _told(show, "   aligning ...", bars=bars):
            fit = align_stack(stack, progress=progress)
        aligned = warp(stack, pull=fit.raw_from_aligned)
        with _told(show, "   warping out of core ...", bars=bars), MemoryWatch.workers(client) as watch:
            written = write(aligned, output / "aligned.ome.zarr", progress=progress)
    error = drift_error(fit.raw_from_aligned, truth, size)
    with _told(show, "drawing the report ..."):
        cases = (_Case(control, first, shown), _Case(fit, stack, error))
        page = _report(output / "report.html", cases, truth, written)
    return DemoResult(
        str(output / "stack.ome.zarr"),
        str(output / "aligned.ome.zarr"),
        str(page),
        tuple(stack.shape),
        error,
        shown,
        fit,
        written,
        watch.above_idle,
        time.monotonic() - started,
    )


@dataclass(frozen=True)
class _Case:
    """A fit, the stack that it is of, and its error."""

    fit: StackFit
    stack: Any
    error: DriftError


@contextmanager
def _told(show: Callable[[str], None], text: str, *, bars: bool = False) -> Iterator[None]:
    """Say what begins, and every four seconds that it goes on; with bars they say that."""
    show(text)
    ended = threading.Event()
    began = time.monotonic()

    def tell() -> None:
        while not ended.wait(SILENCE):
            show(f"   ... {time.monotonic() - began:.0f} s")

    if not bars:
        threading.Thread(target=tell, daemon=True).start()
    try:
        yield
    finally:
        ended.set()


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


def _one_slice(template: xr.DataArray) -> xr.DataArray:
    """The middle slice, repeated: all that differs along the stack is then motion."""
    n = template.shape[0]
    return template.isel(z=[n // 2] * n).assign_coords(z=template.z)


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


def _report(page: Path, cases: tuple[_Case, _Case], truth: SliceAffines, written: Written) -> Path:
    """The page: the case that is solved, the volume with what images cannot tell, and the output."""
    from daskreg.output_page import output_section
    from daskreg.reporting.page import report

    sections = [
        replace(case.fit.section(stack=case.stack, truth=truth), heading=heading, verdict=verdict, table=None)
        for case, heading, verdict in zip(cases, _HEADINGS, map(_verdict, cases, (False, True)), strict=True)
    ]
    output = replace(output_section(Path(written.path), written=written), heading="3. The aligned volume, as written")
    return report(
        [cases[1].fit, written],
        page,
        title="daskreg demo: slices with a known drift, aligned out of core",
        sections=[*sections, output],
        facts={"Dashed lines": "the true drift", "Error, one slice repeated": str(cases[0].error),
               "Error, the volume": str(cases[1].error)},
    )  # fmt: skip


_HEADINGS = (
    "1. One slice, repeated: all that differs along the stack is motion",
    "2. A brain, whose slices differ: motion, and anatomy that changes",
)


def _verdict(case: _Case, changes: bool) -> Verdict:
    """What the figure shows, in words."""
    error = case.error
    if not changes:
        said = f"The drift is found: {error.total:.3f} px are left of {error.before:.2f} px."
        return Verdict(case.fit.ok, f"{said} The lines lie on the truth, which is dashed.")
    said = (
        f"From slice to slice, the drift of {error.before:.1f} px is found to {error.slice_to_slice:.2f} px; slowly, "
        f"the result departs from the truth by {error.slow:.1f} px."
    )
    return Verdict(
        case.fit.ok,
        said,
        "The slow part is no error of the estimate, as case 1 shows: anatomy that leans to one side along the stack "
        'looks like drift, and images cannot tell the two apart. With trend="keep", or anchors=, you say which it is.',
    )
