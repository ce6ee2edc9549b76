"""The windows of channels, from the coarsest level, once that is written."""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from daskreg.blocks.plan import LevelPlan, Plan
from daskreg.blocks.record.ledger import Ledger
from daskreg.blocks.record.own_files import group_attributes, is_v2, metadata_files
from daskreg.formats.ome import CHANNEL_AXES
from daskreg.formats.omero import OMERO_KEY, window_of
from daskreg.geometry import Box, tile
from daskreg.sources.storage.stores import open_store

MOST_VOXELS = 2**24
"""Voxels of a channel that are looked at, in evenly spread chunks where the coarsest level has more."""


def set_windows(made: Plan) -> None:
    """Give the channels of a complete image the windows that the source did not state."""
    ledger = Ledger(made.path)
    facts = ledger.facts()
    name = metadata_files(facts)[0]
    stored = json.loads(ledger.metadata(name))
    attributes = group_attributes(facts, ledger.metadata(name))
    unknown = attributes["daskreg"].pop("windows", [])
    if not unknown:
        return
    channels = (attributes if is_v2(facts) else attributes["ome"])[OMERO_KEY]["channels"]
    for number in unknown:
        found = window_of(_voxels(made.levels[-1], made.path, number if len(channels) > 1 else 0))
        channels[number]["window"] = found or channels[number]["window"]
    text = json.dumps(attributes if is_v2(facts) else {**stored, "attributes": attributes}, indent=2)
    ledger.image.put(name, [text.encode()], sync=True)


def _voxels(level: LevelPlan, path: str, channel: int) -> NDArray[Any]:
    """Voxels of one channel of a level that is written, all or some."""
    layout = level.layout
    array = zarr.open_array(open_store(os.fspath(path)), path=str(level.level), mode="r")
    inside = [box for _, box in tile(layout.shape, layout.chunks) if _holds(box, layout.dims, channel)]
    most = max(1, MOST_VOXELS // max(1, int(np.prod(layout.chunks))))
    picked = [inside[k] for k in np.unique(np.linspace(0, len(inside) - 1, min(most, len(inside))).astype(int))]
    parts: list[NDArray[Any]] = []
    for box in picked:
        index = tuple(channel if d in CHANNEL_AXES else s for d, s in zip(layout.dims, box.slices, strict=True))
        parts.append(np.asarray(array[index]).reshape(-1))
    return np.concatenate(parts)


def _holds(box: Box, dims: tuple[str, ...], channel: int) -> bool:
    ends = zip(dims, box.start, box.stop, strict=True)
    return all(d not in CHANNEL_AXES or a <= channel < b for d, a, b in ends)
