"""Where the voxels of an N5 array lie: the conventions of N5-Viewer, Paintera, COSEM and BigDataViewer.

N5 itself says nothing of it. A spacing is `resolution` (with `units`) or `pixelResolution`, of the array or its group,
for the finest level; `downsamplingFactors`, or `scales` of the group, say how many of its voxels are one of a level.
COSEM's `transform` places an array by itself, with its axes in NumPy's order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from daskreg.errors import NotAVolumeError
from daskreg.geometry import Grid
from daskreg.sources.coordinates import default_dims, split_dims
from daskreg.sources.description import OpenOptions

Attributes = Mapping[str, Any]


def axis_names(array: Attributes, group: Attributes, ndim: int) -> tuple[str, ...]:
    """Names of the axes in NumPy's order: those stated, else the last of t, c, z, y, x."""
    transform: Any = array.get("transform")
    for names in (transform.get("axes") if isinstance(transform, dict) else None, _reversed(array, group, "axes")):
        if isinstance(names, list) and len(names) == ndim and all(isinstance(n, str) and n for n in names):
            lower = tuple(n.lower() for n in names)
            if len(set(lower)) == ndim:
                return lower
    return default_dims(ndim)


def grid_of(
    names: Sequence[str],
    shape: Sequence[int],
    array: Attributes,
    group: Attributes,
    *,
    level: int,
    options: OpenOptions,
    what: str,
) -> Grid:
    """The grid of an array.

    Args:
        names, shape: of all its axes, in NumPy's order.
        array, group: attributes of the array, and of the group in which it is a level.

    Raises: NotAVolumeError for numbers that are none; GridError, UnitError.
    """
    ndim = len(names)
    transform = array.get("transform")
    if isinstance(transform, dict):
        spacing, origin = (_numbers(transform.get(k), ndim, what, k) for k in ("scale", "translate"))
        units = transform.get("units")
        spacing = np.ones(ndim) if spacing is None else spacing
        origin = np.zeros(ndim) if origin is None else origin
    else:
        base, units = _resolution(array, group, ndim, what)
        factors = _factors(array, group, level, ndim, what)
        offset = _numbers(_reversed(array, group, "offset"), ndim, what, "offset")
        spacing = base * factors
        origin = base * (factors - 1) / 2 + (0 if offset is None else offset)
    unit_of = dict.fromkeys(names) | (
        dict(zip(names, map(str, units), strict=True)) if isinstance(units, list) and len(units) == ndim else {}
    )
    _, space = split_dims(names)
    unit, ratios = options.units_of_axes({d: unit_of[d] for d in space}, what)
    at = [list(names).index(d) for d in space]
    ratio = np.array([ratios[d] for d in space])
    return Grid([shape[k] for k in at], spacing[at] * ratio, origin[at] * ratio, unit=unit, axes=space)


def _resolution(array: Attributes, group: Attributes, ndim: int, what: str) -> tuple[Any, Any]:
    """Spacing of the finest level and units, in NumPy's order."""
    for owner in (array, group):
        stated: Any = owner.get("pixelResolution")
        unit: Any = None
        if isinstance(stated, dict):
            stated, unit = stated.get("dimensions"), stated.get("unit")
        if stated is not None:
            spacing = _numbers(stated[::-1] if isinstance(stated, list) else stated, ndim, what, "pixelResolution")
            return spacing, [unit] * ndim if isinstance(unit, str) else None
    spacing = _numbers(_reversed(array, group, "resolution"), ndim, what, "resolution")
    return np.ones(ndim) if spacing is None else spacing, _reversed(array, group, "units")


def _factors(array: Attributes, group: Attributes, level: int, ndim: int, what: str) -> Any:
    stated = array.get("downsamplingFactors")
    scales = group.get("scales", group.get("downsamplingFactors"))
    if stated is None and isinstance(scales, list) and len(scales) > level:
        stated = scales[level]
    factors = _numbers(stated[::-1] if isinstance(stated, list) else stated, ndim, what, "downsamplingFactors")
    return np.ones(ndim) if factors is None else factors


def _reversed(array: Attributes, group: Attributes, name: str) -> Any:
    """A list of the array, else of its group, which states it in N5's order, in NumPy's."""
    value = array.get(name, group.get(name))
    return value[::-1] if isinstance(value, list) else None


def _numbers(value: Any, ndim: int, what: str, name: str) -> Any:
    if value is None:
        return None
    try:
        numbers = np.array(value, dtype=np.float64)
    except (TypeError, ValueError):
        numbers = np.empty(0)
    if numbers.shape != (ndim,) or not np.isfinite(numbers).all():
        raise NotAVolumeError(f"{what}: {name!r} is {value!r:.100}, not {ndim} numbers")
    return numbers
