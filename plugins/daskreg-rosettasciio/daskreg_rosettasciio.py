"""Files of electron microscopes for daskreg, through RosettaSciIO: `file.dm3::/1` is the second signal of a file."""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dask
import numpy as np
from numpy.typing import NDArray

from daskreg.errors import MetadataWarning, UnitError
from daskreg.geometry import PIXEL, canonical_unit, length_ratio
from daskreg.readers import (
    ArrayIndex,
    Coord,
    Description,
    FileArray,
    Grid,
    MissingExtraError,
    NotAVolumeError,
    OpenOptions,
    Reader,
    Source,
    StoreLocation,
    check_size,
)

MODULES = {
    ".dm3": "digitalmicrograph",
    ".dm4": "digitalmicrograph",
    ".emd": "emd",
    ".ser": "tia",
    ".hspy": "hspy",
}
"""RosettaSciIO's module for each suffix."""

INSIDE = "::/"
PACKED_RATIO = "gzip"
"""HDF5 files may be packed."""

Signal = Mapping[str, Any]


class RosettaReader(Reader):
    """Reads signals of two axes, and stacks of them."""

    suffixes = tuple(MODULES)
    has_paths = True

    def describe(self, location: StoreLocation, options: OpenOptions) -> Description:
        """A signal that is an image, the first one by default (with a warning where there are several).

        Raises: NotAVolumeError for spectra, and a signal that is not there.
        """
        path = location.root
        number, signal = _chosen(_signals(path), location)
        data, axes = signal["data"], list(signal["axes"])
        names = _names(axes, data.shape, str(location))
        packing = PACKED_RATIO if path.lower().endswith((".emd", ".hspy")) else ""
        check_size(math.prod(data.shape) * data.dtype.itemsize, (path,), packing, str(location))
        by_name = dict(zip(names, axes, strict=True))
        space = [d for d in ("z", "y", "x") if d in by_name]
        sizes = dict(zip(names, data.shape, strict=True))
        chunks = tuple(max(c) for c in data.chunks) if hasattr(data, "chunks") else data.shape
        what = f"{path}{INSIDE}{number}"
        array = FileArray(
            "rosettasciio", what, names, tuple(data.shape), np.dtype(data.dtype), self.stamp(path), chunks
        )
        grid = options.apply(_grid(by_name, space, [sizes[d] for d in space]))
        coords: dict[str, Coord] = {}
        if "t" in by_name:
            axis = by_name["t"]
            coords["t"] = (axis["offset"] + axis["scale"] * np.arange(sizes["t"]), {"units": str(axis["units"])})
        return array.describe(grid, options, name=_title(signal) or location.name, coords=coords)

    def open(self, path: str) -> Any:
        file, _, number = path.partition(INSIDE)
        return _signals(file)[int(number)]["data"]

    def read(self, handle: Any, index: ArrayIndex, source: Source) -> NDArray[Any]:
        with dask.config.set(scheduler="synchronous"):
            return np.asarray(handle[index])


READER = RosettaReader()


def _signals(path: str) -> list[Signal]:
    """What a file holds, without its voxels where RosettaSciIO can leave them there.

    Raises: NotAVolumeError; MissingExtraError without a library that a format needs.
    """
    name = f"rsciio.{MODULES[Path(path).suffix.lower()]}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tags that it does not know
            read = importlib.import_module(name).file_reader
            try:
                return list(read(path, lazy=True))
            except ValueError as error:
                if "lazy" not in str(error).lower():
                    raise
                return list(read(path, lazy=False))
    except ImportError as error:
        raise MissingExtraError(str(error.name), "formats") from error
    except Exception as error:
        raise NotAVolumeError(
            f"{path} cannot be read by RosettaSciIO ({type(error).__name__}: {_line(error)})"
        ) from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _title(signal: Signal) -> str:
    return str(signal.get("metadata", {}).get("General", {}).get("title") or "")


def _is_image(signal: Signal) -> bool:
    return len(_signal_axes(signal["axes"])) == 2 and signal["data"].dtype.kind in "biuf"


def _signal_axes(axes: Sequence[Signal]) -> list[Signal]:
    """The axes of a signal, without those along which it was repeated; of files that do not say so, the last two."""
    stated = [axis for axis in axes if axis.get("navigate") is False]
    return stated if len(stated) != len(axes) else list(axes[-2:])


def _chosen(signals: Sequence[Signal], location: StoreLocation) -> tuple[int, Signal]:
    """The signal that a location names, and its number."""
    images = [k for k, signal in enumerate(signals) if _is_image(signal)]
    told = ", ".join(f"{k} ({_title(signals[k])})" for k in images[:8])
    if location.inner:
        found = [k for k in images if location.inner in (str(k), _title(signals[k]))]
        if not found:
            raise NotAVolumeError(f"{location.root} holds no image {location.inner!r}; it holds {told}")
        return found[0], signals[found[0]]
    if not images:
        kinds = "; ".join(", ".join(str(axis.get("name")) for axis in signal["axes"]) for signal in signals[:4])
        raise NotAVolumeError(f"{location} holds no image of real numbers; the axes of its signals are {kinds}")
    if len(images) > 1:
        message = f"{location} holds {len(images)} images: {told}; the first is taken; series= names another one"
        warnings.warn(message, MetadataWarning, stacklevel=3)
    return images[0], signals[images[0]]


def _names(axes: Sequence[Signal], shape: Sequence[int], what: str) -> list[str]:
    """Names of the stored axes: y and x are the last ones, before them a time or slices.

    Raises: NotAVolumeError.
    """
    names = ["y", "x"]
    for axis, size in zip(axes[-3::-1], shape[-3::-1], strict=True):
        time = _unit(axis, "second") or "time" in str(axis.get("name")).lower()
        name = "t" if time else "z"
        if name in names:
            name = "" if size == 1 else "?"
        names.insert(0, name)
    if len(axes) != len(shape) or "?" in names:
        known = ", ".join(str(axis.get("name")) for axis in axes)
        raise NotAVolumeError(f"{what} has the axes ({known}) of {tuple(shape)}: times, slices, y and x are read")
    return names


def _unit(axis: Signal, like: str) -> str | None:
    """The unit of an axis if it is a time ("second") or a length ("meter"); None otherwise."""
    text = str(axis.get("units") or "")
    try:
        unit = canonical_unit(text)
    except UnitError:
        return None
    if unit == PIXEL:
        return None
    length = length_ratio(unit, "meter") is not None
    times = unit.endswith("second") or unit in ("minute", "hour", "day")
    return unit if (length if like == "meter" else times) else None


def _grid(axes: Mapping[str, Signal], space: Sequence[str], shape: Sequence[int]) -> Grid:
    unit = _unit(axes["x"], "meter")
    if unit is None:
        return Grid(shape, axes=space)
    spacing, origin = [], []
    for d in space:
        own = _unit(axes[d], "meter")
        ratio = None if own is None else length_ratio(own, unit)
        # Slices that are no lengths apart, such as tilts, are drawn one pixel apart.
        step = float(axes["x"]["scale"]) if ratio is None else ratio * float(axes[d]["scale"])
        spacing.append(step)
        origin.append(0.0 if ratio is None else ratio * float(axes[d]["offset"]))
    if not all(math.isfinite(s) and s > 0 for s in spacing) or not all(map(math.isfinite, origin)):
        return Grid(shape, axes=space)
    return Grid(shape, spacing, origin, unit=unit, axes=space)
