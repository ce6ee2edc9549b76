"""The inputs of `align_stack`: one channel of a stack, its axis and its mask, as sources; and anchors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import ChannelError, EmptyMaskError, OptionError, ShapeMismatchError
from daskreg.geometry import Affine, common_unit
from daskreg.sources.coordinates import CHANNELS
from daskreg.sources.source import Source
from daskreg.stacks.spans import StackSpec
from daskreg.volumes import as_dataarray, source_of

Floats = NDArray[np.float64]

_RGB, _THIN = (3, 4), 16


def source_along(stack: Any, axis: int | str, channel: int | str | None) -> tuple[Source, int]:
    """The source of one channel, and the position of the axis among its dims."""
    if hasattr(stack, "detach"):  # a tensor
        stack = stack.detach().cpu().numpy()
    array = as_dataarray(_with_colours_named(stack))
    source = source_of(array)
    dim = _axis_name(source, axis)
    for lead in source.lead:
        if lead != dim:
            source = source.pick(lead, _index(array, lead, channel))
    if len(source.dims) < 3:
        raise ShapeMismatchError(f"one image with axes {source.dims} is not a stack of slices along {dim!r}")
    return source, source.dims.index(dim)


def _with_colours_named(stack: Any) -> Any:
    """A bare array of pictures with colours at the end gets names for its axes."""
    if not isinstance(stack, np.ndarray) or stack.ndim != 4 or stack.shape[-1] not in _RGB:
        return stack
    import xarray as xr

    return xr.DataArray(stack, dims=("z", "y", "x", "c")) if min(stack.shape[1:3]) > _THIN else stack


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


def _index(array: Any, dim: str, channel: int | str | None) -> int:
    """Which entry of a lead dim to use; never guessed.

    Raises: ChannelError.
    """
    size = int(array.sizes[dim])
    if dim.lower() in CHANNELS and channel is not None:
        labels = [str(v) for v in array.coords[dim].values] if dim in array.coords else []
        if isinstance(channel, str) and channel in labels:
            return labels.index(channel)
        if isinstance(channel, str) or not -size <= channel < size:
            raise ChannelError(
                f"the stack has no channel {channel!r}; there are {', '.join(labels) or f'0 to {size - 1}'}"
            )
        return int(channel) % size
    if size == 1:
        return 0
    advice = "pass channel=" if dim.lower() in CHANNELS else f"choose one with .isel({dim}=...)"
    raise ChannelError(f"the stack has {size} entries along {dim!r}; {advice} (one is never guessed)")


def mask_source(mask: Any, source: Source, position: int) -> Source | None:
    """The mask as a source of the stack's dims, or of a slice's.

    Raises: ShapeMismatchError, EmptyMaskError.
    """
    if mask is None:
        return None
    data = mask.detach().cpu().numpy() if hasattr(mask, "detach") else getattr(mask, "data", mask)
    data = data if hasattr(data, "dask") else np.asarray(data) > 0
    inner = [k for k in range(source.ndim) if k != position]
    if tuple(data.shape) not in (source.shape, tuple(source.shape[k] for k in inner)):
        raise ShapeMismatchError(f"mask has shape {tuple(data.shape)}, but the stack has {source.shape}")
    if isinstance(data, np.ndarray) and not data.any():
        raise EmptyMaskError("mask leaves no voxel")
    dims = source.dims if data.ndim == source.ndim else tuple(source.dims[k] for k in inner)
    kind = "array" if isinstance(data, np.ndarray) else "dask"
    return Source(kind, "mask", data, (), dims, tuple(data.shape), data.dtype, tuple(data.shape), source.grid)


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
        affine = anchor if isinstance(anchor, Affine) else Affine(anchor)
        common_unit(affine.unit, whole.unit, f"the anchor of slice {number} and the stack")
        if affine.ndim != whole.ndim:
            raise ShapeMismatchError(f"the anchor of slice {number} is {affine.ndim}D, slices are {whole.ndim}D")
        index = np.array([*spec.keep, whole.ndim])
        pose = affine.matrix[np.ix_(index, index)]
        corner = np.append(model.centre + model.projection.half_extent, 1)
        difference = np.abs((model.projection.project(pose[None])[0] - pose) @ corner).max()
        if difference > 1e-3 * min(spec.grid.spacing):
            raise OptionError(
                f"the anchor of slice {number} is no motion of the model {spec.options.pose.groups}: use another model "
                "or an anchor without the motions that the model leaves out"
            )
        poses[int(number)] = pose
    return poses
