"""The inputs of `align_stack`: one channel of a stack, its axis and its mask, as sources; anchors; checked options."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import EmptyMaskError, OptionError, ShapeMismatchError, check_number, check_whole
from daskreg.geometry import as_affine, shared_unit
from daskreg.registration.problem import check_metric
from daskreg.runtime.paths import local_path
from daskreg.sources.coordinates import CHANNELS
from daskreg.sources.in_memory import source_in_memory
from daskreg.sources.registry import recall_opening
from daskreg.sources.source import Source
from daskreg.stacks.spans import StackSpec
from daskreg.volumes import mask_array, volume_of

Floats = NDArray[np.float64]

REFERENCES = ("neighbors", "previous", "first", "mean")
TRENDS = ("remove", "keep")
_MOST_NEIGHBORS = 16


def source_along(stack: Any, axis: int | str, channel: int | str | None) -> tuple[Source, int]:
    """The source of one channel, and the position of the axis among its dims."""
    volume = volume_of(stack, colour_ndim=4)
    source = volume.source
    dim = _axis_name(source, axis)
    for lead, entry in volume.only_entries(channel, owner="the stack", besides=dim).items():
        source = source.pick(lead, entry)
    if len(source.dims) < 3:
        raise ShapeMismatchError(f"one image with axes {source.dims} is not a stack of slices along {dim!r}")
    return source, source.dims.index(dim)


def channel_of(stack: Any, channel: int | str | None) -> int | str | None:
    """The channel that is used, as it was passed or as `daskreg.open` chose it; None where neither named one."""
    opening = recall_opening(str(getattr(getattr(stack, "data", None), "name", "")))
    used = channel if channel is not None or opening is None else opening.options.get("channel")
    return used if isinstance(used, int | str) else None


def _axis_name(source: Source, axis: int | str) -> str:
    if isinstance(axis, str):
        if axis not in source.dims:
            raise OptionError(f"axis={axis!r}: the stack has axes {', '.join(source.dims)}")
        return axis
    series = [d for d in source.lead if d.lower() not in CHANNELS]
    if source.grid.ndim == 2 and axis == 0 and series:
        return series[0]
    if not -source.grid.ndim <= axis < source.grid.ndim:
        raise OptionError(f"axis={axis}: the stack has the spatial axes {', '.join(source.grid.names)}")
    return source.grid.names[axis]


def mask_source(mask: Any, source: Source, position: int) -> Source | None:
    """The mask as a source of the stack's dims, or of a slice's.

    Raises: ShapeMismatchError, EmptyMaskError.
    """
    if mask is None:
        return None
    data = mask_array(mask)
    inner = [k for k in range(source.ndim) if k != position]
    if tuple(data.shape) not in (source.shape, tuple(source.shape[k] for k in inner)):
        raise ShapeMismatchError(f"mask has shape {tuple(data.shape)}, but the stack has {source.shape}")
    if isinstance(data, np.ndarray) and not data.any():
        raise EmptyMaskError("mask leaves no voxel")
    dims = source.dims if data.ndim == source.ndim else tuple(source.dims[k] for k in inner)
    return source_in_memory(data, name="mask", dims=dims, grid=source.grid)


def anchor_poses(
    anchors: Mapping[int, Any] | None, spec: StackSpec, reference: str | int, trend: str
) -> dict[int, Floats]:
    """Poses of anchored slices, on the axes that are aligned.

    Raises: OptionError, UnitError, ShapeMismatchError.
    """
    if not anchors:
        return {}
    if reference not in ("neighbors", "previous") or trend == "keep":
        raise OptionError('anchors need reference="neighbors" or "previous", and trend="remove"')
    whole, model = spec.reader.whole, spec.model
    poses = {}
    for number, anchor in anchors.items():
        if isinstance(number, bool) or not isinstance(number, int | np.integer) or not 0 <= number < spec.count:
            raise OptionError(f"anchors: there is no slice {number!r}, but 0 to {spec.count - 1}")
        affine = as_affine(anchor, what=f"the anchor of slice {number}")
        shared_unit(affine.unit, whole.unit, f"the anchor of slice {number} and the stack")
        if affine.ndim != whole.ndim:
            raise ShapeMismatchError(f"the anchor of slice {number} is {affine.ndim}D, slices are {whole.ndim}D")
        index = np.array([*spec.keep, whole.ndim])
        pose = affine.matrix[np.ix_(index, index)]
        corner = np.append(model.centre + model.projection.half_extent, 1)
        difference = np.abs((model.projection.project(pose[None])[0] - pose) @ corner).max()
        if difference > 1e-3 * min(spec.grid.spacing):
            raise OptionError(
                f"the anchor of slice {number} is not a motion of the model {spec.options.pose.groups}: use another "
                "model or an anchor without the motions that the model leaves out"
            )
        poses[int(number)] = pose
    return poses


def check_options(reference: Any, metric: str, trend: str, smooth: float, neighbors: int) -> None:
    """Raises: OptionError for values that no stack allows."""
    if isinstance(reference, bool) or not (isinstance(reference, int | np.integer) or reference in REFERENCES):
        raise OptionError(f"reference={reference!r}: use {', '.join(REFERENCES)} or the number of a slice")
    check_metric(metric)
    if trend not in TRENDS:
        raise OptionError(f"trend={trend!r}: use {' or '.join(TRENDS)}")
    check_number("smooth", smooth, 2, of="slices")
    check_whole("neighbors", neighbors, 1, _MOST_NEIGHBORS)


def check_reference(reference: str | int, spec: StackSpec, previous: Any, checkpoint: Any) -> None:
    """Raises: OptionError for a slice that the stack has not, and for options that need pairs of neighbours."""
    if not isinstance(reference, str) and not 0 <= reference < spec.count:
        raise OptionError(f"reference={reference}: the stack has slices 0 to {spec.count - 1}")
    if reference not in ("neighbors", "previous") and not (previous is None and checkpoint is None):
        raise OptionError(f"previous= and checkpoint= need pairs of neighbours, not reference={reference!r}")


def check_files(save: str | os.PathLike[str] | None, checkpoint: str | os.PathLike[str] | None) -> None:
    """Raises: OptionError for files that cannot be written as they are named."""
    for file in (save, checkpoint):
        if file is not None:
            local_path(file)
    if save is not None and Path(save).suffix.lower() != ".json":
        raise OptionError(f"save={os.fspath(save)!r}: the file of a fit must end in .json")
