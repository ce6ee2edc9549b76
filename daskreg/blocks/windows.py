"""The windows of channels, from the coarsest level, once that is written."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from itertools import product
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from daskreg.blocks.job import Task
from daskreg.blocks.plan import Layout, Plan
from daskreg.blocks.record.ledger import Ledger
from daskreg.blocks.record.own_files import group_attributes, is_v2, metadata_files
from daskreg.blocks.reversed import job_of
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
    coarsest = made.levels[-1]

    def read(box: Box) -> NDArray[Any]:
        array = zarr.open_array(open_store(os.fspath(made.path)), path=str(coarsest.level), mode="r")
        return np.asarray(array[box.slices])

    text = with_windows(ledger.metadata(name), facts, coarsest.layout, read, made.levels[0].task)
    if text is not None:
        ledger.image.put(name, [text], sync=True)


def part_outside(task: Task | None) -> float:
    """The largest part of the voxels of an image that may show nothing of its source: 0 for a copy.

    It is known of some voxels whether they do: of an affine map that leaves the source the corners are enough. A cell
    between such voxels counts as a whole where one of its corners is outside.
    """
    job = job_of(task)
    if job is None or job.makes_labels:  # labels have no contrast
        return 0.0
    # Few, since they are looked up one by one: of images 8 along an axis, of volumes 4, of times and channels 2.
    cells = [2] * len(job.lead_shape) + [8 if job.grid.ndim == 2 else 4] * job.grid.ndim
    places = [[round(k * (n - 1) / c) for k in range(c + 1)] for n, c in zip(job.shape, cells, strict=True)]
    empty = [job.read_box(Box(at, tuple(i + 1 for i in at))).empty for at in product(*places)]
    outside = np.reshape(empty, [c + 1 for c in cells])
    for axis, n in enumerate(cells):
        outside = outside.take(range(n), axis) | outside.take(range(1, n + 1), axis)
    return float(outside.mean())


def with_windows(
    text: bytes,
    facts: Mapping[str, Any],
    layout: Layout,
    read: Callable[[Box], NDArray[Any]],
    task: Task | None,
) -> bytes | None:
    """The metadata of a group with the windows that are not known yet; None where all are.

    Args:
        text: the first of the metadata files.
        facts: "format" of the image.
        layout: of a level. read: gives the voxels of a box of it. task: makes the image; None
            for one that has no fill.
    """
    attributes = group_attributes(facts, text)
    unknown = attributes["daskreg"].pop("windows", [])
    if not unknown:
        return None
    job, outside = job_of(task), part_outside(task)
    fill = 0 if job is None else job.stored_fill
    channels = (attributes if is_v2(facts) else attributes["ome"])[OMERO_KEY]["channels"]
    for number in unknown:
        found = window_of(_voxels(layout, number if len(channels) > 1 else 0, read), fill, outside)
        channels[number]["window"] = found or channels[number]["window"]
    return json.dumps(attributes if is_v2(facts) else {**json.loads(text), "attributes": attributes}, indent=2).encode()


def _voxels(layout: Layout, channel: int, read: Callable[[Box], NDArray[Any]]) -> NDArray[Any]:
    """Voxels of one channel of a level, all or some."""
    inside = [box for _, box in tile(layout.shape, layout.chunks) if _holds(box, layout.dims, channel)]
    most = max(1, MOST_VOXELS // max(1, int(np.prod(layout.chunks))))
    picked = [inside[k] for k in np.unique(np.linspace(0, len(inside) - 1, min(most, len(inside))).astype(int))]
    return np.concatenate([read(_of_channel(box, layout.dims, channel)).reshape(-1) for box in picked])


def _of_channel(box: Box, dims: tuple[str, ...], channel: int) -> Box:
    """The part of a box that is of one channel."""
    start = (channel if d in CHANNEL_AXES else a for d, a in zip(dims, box.start, strict=True))
    stop = (channel + 1 if d in CHANNEL_AXES else b for d, b in zip(dims, box.stop, strict=True))
    return Box(tuple(start), tuple(stop))


def _holds(box: Box, dims: tuple[str, ...], channel: int) -> bool:
    ends = zip(dims, box.start, box.stop, strict=True)
    return all(d not in CHANNEL_AXES or a <= channel < b for d, a, b in ends)
