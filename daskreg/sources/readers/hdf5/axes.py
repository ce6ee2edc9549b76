"""The axes of an HDF5 dataset: their names, and the positions along some of them.

They are stated by dimension scales and labels (netCDF), by NeXus' `axes`, by the `axistags` of ilastik and vigra, or by
the attribute `element_size_um`. Only positions that are lengths are used, so that projections over angles are slices.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from daskreg.errors import GridError, UnitError
from daskreg.geometry import canonical_unit
from daskreg.sources.coordinates import LEAD, SPACE, default_dims, grid_from
from daskreg.sources.description import Coord
from daskreg.sources.readers.hdf5.attributes import as_text, attribute, text_attribute
from daskreg.sources.readers.hdf5.links import member, members
from daskreg.sources.readers.hdf5.storage import Storage

_LENGTHS = ("meter", "angstrom", "inch", "pixel")


def signal_of(group: Any) -> str | None:
    """The name of a NeXus group's data; None where it names none."""
    name = text_attribute(group, "signal")
    if name and name in group:
        return name
    marked = [k for k, below in members(group) if text_attribute(below, "signal") == "1"]
    return marked[0] if len(marked) == 1 else None


def axes_of(dataset: Any, file: Any, inner: str) -> tuple[list[str], dict[str, Coord]]:
    """Names of the stored axes, and the positions along some of them."""
    stated, scales = _dimension_scales(dataset)
    if not any(stated):
        stated = _axistags(dataset)
    if not any(stated):
        group = member(file, inner.rpartition("/")[0])
        is_signal = signal_of(group) == inner.rsplit("/", 1)[-1]
        nexus = _names(attribute(dataset, "axes")) or (_names(attribute(group, "axes")) if is_signal else [])
        if len(nexus) == dataset.ndim:
            stated, scales = nexus, [member(group, n) if n != "." else None for n in nexus]
    names = _known(stated, dataset.ndim)
    coords: dict[str, Coord] = {}
    for k, name in enumerate(names):
        coord = _positions(scales[k], dataset.shape[k], space=name in SPACE)
        if coord is not None:
            coords[name] = coord
    sizes = np.ravel(attribute(dataset, "element_size_um", ()))
    space = [n for n in names if n in SPACE]
    if len(sizes) == len(space) and not coords:
        at = {n: dataset.shape[names.index(n)] for n in space}
        coords = {n: (float(s) * np.arange(at[n]), {"units": "micrometer"}) for n, s in zip(space, sizes, strict=True)}
    return names, coords


def _dimension_scales(dataset: Any) -> tuple[list[str], list[Any]]:
    """Names and scales of the axes; "" and None where there are none."""
    # H5DSget_label trusts the number of labels, so they are read as the attribute that they are.
    labels = [as_text(v) for v in np.ravel(attribute(dataset, "DIMENSION_LABELS", ()))]
    labels = labels if len(labels) == dataset.ndim else [""] * dataset.ndim
    attribute(dataset, "DIMENSION_LIST")  # is checked here; h5py reads it below
    scales = [dim[0] if len(dim) else None for dim in dataset.dims]
    scale_names = ["" if scale is None else scale.name.rsplit("/", 1)[-1] for scale in scales]
    return [label or name for label, name in zip(labels, scale_names, strict=True)], scales


def _axistags(dataset: Any) -> list[str]:
    """The names of the axes as ilastik and vigra write them, in JSON; "" for axes without one."""
    try:
        tags = json.loads(text_attribute(dataset, "axistags") or "{}")
        keys = [str(axis["key"]) for axis in tags["axes"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        keys = []
    return keys if len(keys) == dataset.ndim else [""] * dataset.ndim


def _known(stated: list[str], ndim: int) -> list[str]:
    """The names of axes that are known here; the other axes are named z, y, x from the last one."""
    names = [n.lower() if n.lower() in (*SPACE, *LEAD) else "" for n in stated]
    if not any(names) or len({n for n in names if n}) < sum(map(bool, names)):
        return list(default_dims(ndim))
    free = [n for n in ("x", "y", "z", "t", "c") if n not in names]
    for k in reversed(range(ndim)):
        names[k] = names[k] or free.pop(0)
    return names


def _positions(scale: Any, count: int, *, space: bool) -> Coord | None:
    """Positions along an axis; None where they are no numbers, or in space irregular or no lengths."""
    if scale is None or getattr(scale, "shape", None) != (count,) or scale.dtype.kind not in "iuf" or count < 2:
        return None
    Storage.of(scale)  # checks the files that it is in
    unit = text_attribute(scale, "units") or None
    try:
        canonical = canonical_unit(unit)
    except UnitError:
        canonical = ""
    if space and not canonical.endswith(_LENGTHS):
        return None
    coord = np.asarray(scale[()]), {} if unit is None else {"units": canonical or unit}
    if space:
        try:
            grid_from(["x"], [count], {"x": coord})
        except GridError:
            return None
    return coord


def _names(value: Any) -> list[str]:
    if value is None:
        return []
    if isinstance(value, bytes | str):
        return [n.strip() for n in as_text(value).replace(",", ":").split(":")]
    return [as_text(v) for v in np.ravel(value)]
