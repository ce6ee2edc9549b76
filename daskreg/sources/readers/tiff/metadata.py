"""Where the pixels of a TIFF file lie, as ImageJ, OME and scanners of slides write it beside them."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tifffile

from daskreg.errors import MetadataWarning, UnitError
from daskreg.geometry import canonical_unit, length_ratio

_APERIO_SIZE = re.compile(r"\|\s*MPP\s*=\s*(\d+(?:\.\d+)?)")
_RESOLUTION_UNITS = {2: 25_400.0, 3: 10_000.0}
"""Micrometres, by TIFF's numbers of units: inch and centimetre."""

_OTHER_DISTANCE = 0.05
"""By how much distances of planes may differ and be the same."""

_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})")


@dataclass(frozen=True)
class Placement:
    """What a file states of the spatial axes, by their names; axes of which it says nothing are left out.

    Args:
        spacing, origin: in the unit of the axis; the spacing is negative along an axis that descends.
        units: as they are spelled.
        channels: names.
        times: the distance of times, and its unit as it is spelled.
    """

    spacing: Mapping[str, float] = field(default_factory=dict)
    origin: Mapping[str, float] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    channels: Sequence[str] = ()
    times: tuple[float, str] | None = None


def placement(tiff: tifffile.TiffFile, series: int) -> Placement:
    """What the file states of a series; nothing for files of other programs than ImageJ and OME's."""
    if tiff.is_ome:
        return _ome(tiff, series)
    if tiff.is_imagej:
        return _imagej(tiff)
    if tiff.is_svs or tiff.is_ndpi or tiff.is_scn:  # scanners of Aperio, Hamamatsu and Leica
        return _slide(tiff, series)
    return Placement()


def _slide(tiff: tifffile.TiffFile, series: int) -> Placement:
    """The pixel size of a scan, by Aperio's micrometres per pixel, or by the resolution, which other programs make up.

    The images beside the scan (label, overview) have none.
    """
    found = tiff.series[series]
    page = found.keyframe
    if tiff.is_svs:
        match = _APERIO_SIZE.search(page.description) if series == 0 else None
        size = {"y": float(match[1]), "x": float(match[1])} if match else {}
    else:
        size = {}
        unit = _RESOLUTION_UNITS.get(int(page.tags.valueof("ResolutionUnit", 1) or 1))
        for axis, tag in (("y", "YResolution"), ("x", "XResolution")):
            value = page.tags.valueof(tag)
            if unit and value and value[0] and value[1] and (series == 0 or tiff.is_scn):
                size[axis] = unit * value[1] / value[0]
    known = {axis: value for axis, value in size.items() if np.isfinite(value) and value > 0}
    return Placement(known, units=dict.fromkeys(known, "µm"))


def _ome(tiff: tifffile.TiffFile, series: int) -> Placement:
    images = _listed(tifffile.xml2dict(tiff.ome_metadata or "").get("OME", {}).get("Image", {}))
    # tifffile leaves out images without pixels; then it is not known which is which.
    image = images[series] if len(images) == len(tiff.series) else images[0]
    pixels = image.get("Pixels", {})
    spacing: dict[str, float] = {}
    units: dict[str, str] = {}
    value: Any
    for axis in "ZYX":
        value = pixels.get(f"PhysicalSize{axis}")
        if _is_number(value) and value > 0:
            spacing[axis.lower()] = float(value)
            units[axis.lower()] = str(pixels.get(f"PhysicalSize{axis}Unit", "µm"))
    origin = {}
    for axis, (start, step, unit) in _plane_positions(_listed(pixels.get("Plane", []))).items():
        if axis not in units and step:
            spacing[axis], units[axis] = step, unit
        ratio = _ratio(unit, units.get(axis))
        if ratio is not None:
            origin[axis] = start * ratio
            if step:
                stated = spacing[axis]
                spacing[axis] = math.copysign(stated, step)
                _compare(abs(stated), abs(step * ratio), units[axis])
    channels = [str(c["Name"]) for c in _listed(pixels.get("Channel", [])) if isinstance(c, Mapping) and "Name" in c]
    every = pixels.get("TimeIncrement")
    times = (float(every), str(pixels.get("TimeIncrementUnit", "s"))) if _is_number(every) and every > 0 else None
    return Placement(spacing, origin, units, channels, times)


def _compare(stated: float, between: float, unit: str) -> None:
    if not math.isclose(stated, between, rel_tol=_OTHER_DISTANCE):
        message = f"PhysicalSizeZ is {stated:.4g} {unit}, and the positions of planes are {between:.4g} {unit} apart"
        warnings.warn(f"{message}; the former is used; spacing= replaces it", MetadataWarning, stacklevel=3)


def _plane_positions(planes: Sequence[Any]) -> dict[str, tuple[float, float, str]]:
    """By axis, the position of the first plane, the step from plane to plane (0: none or uneven), and the unit.

    Only lengths count: without a unit, positions are relative to "a reference frame" of the microscope.
    """
    first: dict[int, Mapping[str, Any]] = {}
    for plane in planes:
        if isinstance(plane, Mapping) and plane.get("TheC", 0) == plane.get("TheT", 0) == 0:
            first.setdefault(int(plane.get("TheZ", 0)), plane)
    found = {}
    for axis in "ZYX":
        rows = [(k, p[f"Position{axis}"], str(p.get(f"Position{axis}Unit"))) for k, p in sorted(first.items())
                if _is_number(p.get(f"Position{axis}"))]  # fmt: skip
        if not rows or rows[0][0] != 0 or len({unit for _, _, unit in rows}) != 1:
            continue
        places = np.asarray([place for _, place, _ in rows], np.float64)
        step = 0.0
        if axis == "Z" and len(places) > 1 and [k for k, _, _ in rows] == list(range(len(places))):
            mean = float(places[-1] - places[0]) / (len(places) - 1)
            step = mean if mean and np.allclose(np.diff(places), mean, rtol=_OTHER_DISTANCE, atol=0) else 0.0
        found[axis.lower()] = float(places[0]), step, rows[0][2]
    return found


def _imagej(tiff: tifffile.TiffFile) -> Placement:
    metadata: Mapping[str, Any] = tiff.imagej_metadata or {}
    unit = _unescaped(metadata.get("unit"))
    spacing: dict[str, float] = {}
    for axis, tag in (("y", "YResolution"), ("x", "XResolution")):
        value = tiff.pages.first.tags.valueof(tag)
        if value and value[0] and value[1]:
            spacing[axis] = value[1] / value[0]
    if unit is None and set(spacing.values()) == {1.0}:
        spacing.clear()
    depth: Any = metadata.get("spacing")
    if _is_number(depth) and depth:
        spacing["z"] = abs(float(depth))  # ImageJ ignores the sign, too
    own = {axis: _unescaped(metadata.get(f"{axis}unit")) or unit for axis in "zyx"}
    units = {axis: name for axis, name in own.items() if name is not None}
    # ImageJ's origin is the pixel that lies at 0.
    zeros = {axis: metadata.get(f"{axis}origin") for axis in "zyx"}
    origin = {a: -float(k) * spacing[a] for a, k in zeros.items() if a in spacing and _is_number(k) and k}
    every: Any = metadata.get("finterval")
    unit_of_time = _unescaped(metadata.get("tunit")) or "s"
    times = (float(every), unit_of_time) if _is_number(every) and every > 0 else None
    return Placement(spacing, origin, units, times=times)


def _unescaped(value: Any) -> str | None:
    """A unit as ImageJ writes it, with Java's escapes for letters beyond ASCII; None for none."""
    text = _ESCAPE.sub(lambda match: chr(int(match[1], 16)), str(value or ""))
    return text or None


def _ratio(unit: str, other: str | None) -> float | None:
    """The factor from one unit to another; None where it is not known."""
    try:
        return None if other is None else length_ratio(canonical_unit(unit), canonical_unit(other))
    except UnitError:
        return None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
