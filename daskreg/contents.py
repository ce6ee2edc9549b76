"""What an image is made of, before it is written or shown: its task, its axes of times and channels, its attributes."""

from __future__ import annotations

from contextlib import suppress

import xarray as xr

from daskreg.blocks.job import Job, Task
from daskreg.blocks.reversed import stored_upright
from daskreg.formats.ome import CHANNEL_AXES, ImageDetails, LeadAxis, check_axes, lead_axis
from daskreg.formats.omero import OMERO_KEY, omero_of
from daskreg.sources.attributes import as_json
from daskreg.sources.description import LABELS
from daskreg.sources.registry import recall
from daskreg.volumes import Volume
from daskreg.warping import make_job


def task_of(volume: Volume) -> Task:
    """The warp that made a lazy array if daskreg did, else a copy of its pixels."""
    check_axes(volume.source.dims, volume.source.grid.ndim)
    return stored_upright(warp_or_copy(volume))


def warp_or_copy(volume: Volume) -> Job:
    """The same, in the order of the array's indices."""
    array, spec = volume.array, volume.source
    known = recall(getattr(array.data, "name", ""))
    if isinstance(known, Job) and (known.shape, known.dims) == (array.shape, spec.dims) and known.grid.same(spec.grid):
        return known
    # A copy is the same with any order; that of labels is one of the nearest voxels.
    return make_job(spec, None, spec.grid, order=0 if array.attrs.get(LABELS) is True else 1)


def details_of(array: xr.DataArray) -> ImageDetails:
    """What an image keeps of the attributes of an array, as far as JSON can hold them."""
    channel = next((v.item() for k, v in array.coords.items() if v.ndim == 0 and str(k) in CHANNEL_AXES), None)
    attributes = {}
    for key, value in array.attrs.items():
        with suppress(TypeError, ValueError):
            if key not in (OMERO_KEY, LABELS, "direction"):
                attributes[str(key)] = as_json(value)
    return ImageDetails(attributes, omero_of(array.attrs.get(OMERO_KEY), channel), array.attrs.get(LABELS) is True)


def lead_axes_of(array: xr.DataArray, task: Task) -> list[LeadAxis]:
    """The axes of times and channels, with what their coordinates say."""
    lead = [str(d) for d in array.dims[: array.ndim - task.grid.ndim]]
    return [
        lead_axis(d, array.coords[d].values, array.coords[d].attrs.get("units")) if d in array.coords else LeadAxis()
        for d in lead
    ]
