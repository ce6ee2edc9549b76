"""Volumes, transforms and fits as lines of text. Angles are in degrees."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import singledispatch
from typing import Any

import numpy as np
from dask.utils import format_bytes

from daskreg.geometry import Affine, Grid, SliceAffines, Transform
from daskreg.reporting.words import duration, listed

ANGLES = ("theta", "rx", "ry", "rz")


def fit_lines(fit: Any) -> Iterator[str]:
    """A fit in a few lines: its repr, or for a fit of clouds the main results."""
    if fit.kind != "cloud":
        yield from repr(fit).splitlines()
        return
    status = fit.status.name.lower()
    yield f"{type(fit).__name__}({status}: {fit.method}, {fit.iterations} iterations, {duration(fit.seconds)}"
    yield f"  target from source: {fit.transform.describe()}"
    yield f"  rmse {fit.rmse:.5g}, inliers {fit.fitness:.1%})"


@singledispatch
def transform_lines(transform: Transform) -> Iterator[str]:
    """A transform as text; for `SliceAffines`, the range of each parameter that is not constant at rest."""
    yield repr(transform)


@transform_lines.register
def _(transform: Affine) -> Iterator[str]:
    yield f"affine   {transform.ndim}D, {transform.unit or 'any unit'}: {transform.describe()}"


@transform_lines.register
def _(transform: SliceAffines) -> Iterator[str]:
    unit = transform.unit or "any unit"
    yield f"slices   {len(transform)} along {transform.axis!r}, {transform.ndim}D maps, {unit}"
    rows = [affine.decompose() for affine in transform]
    for name in rows[0]:
        values = np.array([row[name] for row in rows])
        rest = 1.0 if name.startswith("s") and not name.startswith("sh") else 0.0
        if np.abs(values - rest).max() > 1e-12:
            low, high = (parameter_words({name: float(v)}) for v in (values.min(), values.max()))
            yield f"         {low} to {high.removeprefix(name + ' ')}"


def parameter_words(parameters: Mapping[str, float]) -> str:
    """Parameters by name, angles in degrees."""
    return ", ".join(
        f"{name} {math.degrees(value) + 0.0:.4g} deg" if name in ANGLES else f"{name} {value + 0.0:.5g}"
        for name, value in parameters.items()
    )


def volume_lines(array: Any, grid: Grid) -> Iterator[str]:
    """A lazy volume: axes, type and size, and its grid."""
    axes = ", ".join(f"{dim} {size}" for dim, size in array.sizes.items())
    yield f"axes     {axes}; {array.dtype}, {format_bytes(array.nbytes)}"
    yield from _lead_lines(array)
    yield from grid_lines(grid)


def _lead_lines(array: Any) -> Iterator[str]:
    """Names of channels, and the times, where the file says them."""
    for dim in (dim for dim in array.dims if dim in array.coords):
        labels = array.coords[dim]
        if labels.dtype.kind == "U":
            yield f"{dim:8} {listed(labels.values, 20)}"
        elif dim == "t" and labels.size > 1:
            yield f"{dim:8} {labels.values[0]:g} to {labels.values[-1]:g} {labels.attrs.get('units', '')}".rstrip()


def grid_lines(grid: Grid) -> Iterator[str]:
    for label, values in (("spacing", grid.spacing), ("origin", grid.origin)):
        words = ", ".join(f"{name} {value:.6g}" for name, value in zip(grid.names, values, strict=True))
        yield f"{label:8} {words} {grid.unit}"
    if grid.direction is not None:
        yield f"turned   {[[round(v, 6) for v in row] for row in grid.direction]}"
