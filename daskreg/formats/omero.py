"""Display settings of channels: the block "omero" of OME-Zarr, with names, colours and windows."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

OMERO_KEY = "omero"
"""The block in the metadata; also the attribute of an array that keeps it, as JSON text."""

SATURATED = 0.35
"""Percent of the voxels outside of a window, half at each end, as ImageJ's automatic contrast has it."""

MOST_CHANNELS = 256
"""Images with more channels get no settings: they are spectra rather than colours."""

# For one, two, three and more channels: grey, two that make white, red green blue, and all six.
_COLOURS = {1: ("FFFFFF",), 2: ("FF00FF", "00FF00"), 3: ("FF0000", "00FF00", "0000FF")}
_MANY = ("00FFFF", "FFFF00", "FF00FF", "FF0000", "00FF00", "0000FF")


def channel_settings(
    count: int, dtype: np.dtype[Any], names: Sequence[str], kept: Mapping[str, Any] | None
) -> tuple[dict[str, Any], list[int]]:
    """The block for an image of `count` channels, and the numbers of those whose window is yet to be found.

    Args:
        names: of the channels; () where they have none.
        kept: the block of the source, which is kept where it has as many channels.
    """
    known = kept if kept is not None and len(kept["channels"]) == count else {}
    if count > MOST_CHANNELS:
        return dict(known) or {"channels": []}, []
    colours = _COLOURS.get(count, _MANY)
    channels: list[dict[str, Any]] = []
    unknown = []
    for number in range(count):
        given = dict(known["channels"][number]) if known else {}
        made: dict[str, Any] = {"active": True, "color": colours[number % len(colours)]}
        if number < len(names):
            given["label"] = names[number]
        if not is_window(given.get("window")):
            given["window"] = _whole_range(dtype)
            unknown.append(number)
        channels.append(made | given)
    return {**known, "channels": channels}, unknown


def is_window(value: Any) -> bool:
    """Whether it is a complete window of numbers."""
    try:
        ends = [float(value[key]) for key in ("min", "max", "start", "end")]
    except (KeyError, TypeError, ValueError):
        return False
    return all(map(math.isfinite, ends)) and ends[2] < ends[3]


def window_of(voxels: NDArray[Any], fill: float = 0, outside: float = 0) -> dict[str, Any] | None:
    """A window that saturates few of some voxels; None where none of them is finite.

    Args:
        outside: the largest part of the voxels, from 0 to 1, that may show nothing of the source, but `fill`. So many
            of those with this value do not count: an image that was moved has the contrast of the one that it was made
            of. Others with this value are background.
    """
    finite = voxels[np.isfinite(voxels)] if voxels.dtype.kind == "f" else voxels.reshape(-1)
    if not finite.size:
        return None
    measured = np.delete(finite, np.flatnonzero(finite == fill)[: math.ceil(outside * finite.size)])
    low, high = np.percentile(measured if measured.size else finite, (SATURATED / 2, 100 - SATURATED / 2)).tolist()
    least, most = float(finite.min()), float(finite.max())
    if not low < high:
        low, high = least, most
    if not low < high:
        high = low + 1
    ends = {"min": least, "max": max(most, high), "start": low, "end": high}
    if voxels.dtype.kind != "f":
        start, end = math.floor(low), math.ceil(high)
        return {"min": int(least), "max": max(math.ceil(ends["max"]), end), "start": start, "end": max(end, start + 1)}
    return ends


def omero_text(block: Any) -> str | None:
    """The block of a group as JSON text, an attribute that every format of xarray can hold; None where it is none."""
    channels = block.get("channels") if isinstance(block, Mapping) else None
    if not isinstance(channels, list | tuple) or not all(isinstance(one, Mapping) for one in channels):
        return None
    try:
        return json.dumps(block, allow_nan=False) if channels else None
    except ValueError:
        return None


def omero_of(text: Any, channel: Any = None) -> dict[str, Any] | None:
    """The block out of such a text; None where it is none.

    Args:
        channel: name of the one that was taken; None where all were.
    """
    try:
        block: dict[str, Any] = json.loads(text, parse_constant=_refuse)
        labels = [str(one.get("label", k)) for k, one in enumerate(block["channels"])]
    except (TypeError, ValueError, KeyError, AttributeError):
        return None
    if len(labels) > 1 and str(channel) in labels:
        block["channels"] = [block["channels"][labels.index(str(channel))]]
    return block


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number of JSON")


def only_channel(text: Any, number: int) -> str | None:
    """The text with the settings of one channel; None where there are none."""
    block = omero_of(text)
    if block is None or not 0 <= number < len(block["channels"]):
        return None
    return json.dumps({**block, "channels": [block["channels"][number]]})


def _whole_range(dtype: np.dtype[Any]) -> dict[str, Any]:
    low, high = (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)) if dtype.kind in "iu" else (0, 1)
    return {"min": low, "max": high, "start": low, "end": high}
