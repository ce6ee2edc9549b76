"""`align_stack`: bring the slices of a stack, or the volumes of a series, into one frame.

Pairs of slices are fitted in batches and composed along the stack; what could not be fitted
is bridged from its neighbours and named. Slices are read a few at a time and shrunk to about
a thousand voxels a side, so the stack may be larger than memory; the result is in world units
and applies to every level of it.

    fit = daskreg.align_stack(stack)
    aligned = daskreg.warp(stack, pull=fit.raw_from_aligned)
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from daskreg.cluster.device import resolve
from daskreg.errors import (
    ChannelError,
    DaskregWarning,
    DegenerateImageError,
    EmptyMaskError,
    MissingExtraError,
    OptionError,
    ShapeMismatchError,
)
from daskreg.fits import Fit
from daskreg.geometry import SliceAffines
from daskreg.geometry.pose import parameter_names, parameters_from_matrix
from daskreg.kernels.course import mean_pose, slow_part
from daskreg.kernels.descend import check_metric
from daskreg.kernels.pose import Pose
from daskreg.kernels.stack import Found, PairOptions, Slices, against_mean, against_one, against_previous
from daskreg.sources.coordinates import CHANNELS
from daskreg.sources.planes import SliceReader
from daskreg.sources.source import Source
from daskreg.volumes import as_dataarray, source_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]

REFERENCES = ("previous", "first", "mean")
TRENDS = ("remove", "keep")
_RGB, _THIN = (3, 4), 16


class StackStatus(Enum):
    """How an estimate ended; the value says what to do about it."""

    CONVERGED = "every slice was fitted"
    BRIDGED = "some slices could not be fitted and stand in line with their neighbours: look at fit.outliers"
    BROKEN = "at some places no fit leads from slice to slice, and no motion was assumed: look at fit.breaks"
    FAILED = "hardly any slice could be fitted: try another model or metric, masks, or a coarser level"


@dataclass(frozen=True, eq=False, repr=False)
class StackFit(Fit):
    """Where each slice of the aligned stack is found in the raw one.

    Args:
        raw_from_aligned: one map of world points for each slice:
            `warp(stack, pull=fit.raw_from_aligned)` aligns the stack, any channel, any level.
        centre: (D,) world point, array order, about which parameters are given.
        status: how it ended; its value names the remedy.
        scores: (N,) the metric of the pair that placed each slice, NaN where none did.
        sigma: (N,) one standard deviation of each free parameter against the reference, NaN where
            unknown; of the noise of the images only, not of what changes from slice to slice.
        outliers: slices without a fit of their own (blank, masked, unlike their neighbours),
            which stand in line with their neighbours.
        breaks: slices before which no fit was found and no motion was assumed.
        seconds: what it took.
    """

    kind: ClassVar[str] = "stack"
    raw_from_aligned: SliceAffines
    centre: Floats
    status: StackStatus
    scores: Floats
    sigma: Mapping[str, Floats]
    outliers: tuple[int, ...]
    breaks: tuple[int, ...]
    model: str | tuple[str, ...]
    metric: str
    reference: str | int
    trend: str
    smooth: float
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether every slice has a place that a fit, or both its neighbours, vouch for."""
        return self.status in (StackStatus.CONVERGED, StackStatus.BRIDGED)

    @property
    def parameters(self) -> dict[str, Floats]:
        """(N,) of every parameter of `raw_from_aligned` by name, about `centre`; radians, world units."""
        rows = [parameters_from_matrix(m, self.centre) for m in self.raw_from_aligned.matrices]
        return {name: np.array([row[name] for row in rows]) for name in rows[0]}

    @property
    def transform(self) -> SliceAffines:
        return self.raw_from_aligned

    def facts(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _FACTS}

    def rows(self) -> list[dict[str, Any]]:
        """One mapping for each slice: parameters (radians, world units), score, sigmas, outlier."""
        names = _moving(self.model, len(self.centre))
        courses = {name: course for name, course in self.parameters.items() if name in names}
        return [
            {
                "slice": i,
                **{name: float(course[i]) for name, course in courses.items()},
                "score": float(self.scores[i]),
                **{f"sigma_{name}": float(values[i]) for name, values in self.sigma.items()},
                "outlier": i in self.outliers,
            }
            for i in range(len(self.raw_from_aligned))
        ]

    def to_dataframe(self) -> pd.DataFrame:
        """The rows as a pandas table, indexed by slice.

        Raises: MissingExtraError without pandas.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise MissingExtraError("pandas", "report") from error
        return pd.DataFrame(self.rows()).set_index("slice")

    def plot(self, *, truth: Any = None) -> Figure:
        """The course of shifts, angles and scores; `truth`: raw_from_clean, drawn dashed."""
        from daskreg import plotting

        return plotting.drift(self, truth=truth)

    def __repr__(self) -> str:
        shift = np.abs(np.stack([c for n, c in self.parameters.items() if n in ("tx", "ty", "tz")])).max()
        score = f"{np.nanmedian(self.scores):.4g}" if np.isfinite(self.scores).any() else "unknown"
        named = [
            f"{what} {_listed(found)}"
            for what, found in (("outliers", self.outliers), ("breaks", self.breaks))
            if found
        ]
        ending = "" if self.ok else f"\n  {self.status.value}"
        return (
            f"StackFit({self.status.name.lower()}: {len(self.scores)} slices along {self.raw_from_aligned.axis!r}, "
            f"{self.model} against {self.reference!r}, median {self.metric} {score}, "
            f"shifts up to {shift:.4g} {self.raw_from_aligned.unit or 'pixel'}, {self.seconds:.2g} s"
            f"{''.join('; ' + n for n in named)}){ending}"
        )


_FACTS = (
    "centre", "status", "scores", "sigma", "outliers", "breaks", "model", "metric", "reference", "trend", "smooth",
    "seconds",
)  # fmt: skip


def align_stack(
    stack: Any,
    *,
    model: str | Sequence[str] = "rigid",
    reference: str | int = "previous",
    metric: str = "ncc",
    trend: str = "remove",
    smooth: float = 15,
    mask: Any = None,
    axis: int | str = 0,
    channel: int | str | None = None,
    max_iterations: int = 50,
    tolerance: float = 1e-3,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
    seed: int = 0,
) -> StackFit:
    """Find where each slice of the aligned stack lies in the raw one.

    Args:
        stack: DataArray (lazy or not), NumPy or dask array; voxels that are NaN do not count.
        model: "translation", "rigid", "similarity", "affine", or groups, as in `register`.
        reference: "previous" (each slice to the one before; the first keeps its place),
            "first", a slice's number (all slices to that one), or "mean" (to the mean of the
            aligned slices, a few times; the mean motion is then none).
        metric: "ncc" or "mse".
        trend: of the slow course of the slices, images alone cannot tell drift from the
            specimen's own shape. "remove" makes neighbours match; "keep" leaves what is slower
            than `smooth` slices as it is in the raw stack and takes out only what is faster.
        smooth: period in slices at which half of a motion counts as slow.
        mask: array of the shape of the stack or of one slice, positive where voxels count.
        axis: along which slices follow: a number among the spatial axes, or a name such as "z"
            or "t" (the volumes of a series are aligned in 3D).
        channel: number or label, for stacks with channels.
        max_iterations: for each level of a pair's pyramid.
        tolerance: voxels; a pair stops when a step moves no corner by more.
        device: "auto" (a GPU where there is one), "cpu", "cuda", "cuda:1".
        progress: called with (pairs done, pairs in all).
        seed: of what is random; today nothing is.

    Returns: a StackFit; look at `fit.ok` and `fit.outliers`.

    Raises: OptionError for unknown options; ChannelError, EmptyMaskError, DegenerateImageError,
        ShapeMismatchError, GridError for stacks that cannot be used.
    """
    began = time.perf_counter()
    _check_options(reference, metric, trend, smooth)
    source, position = _source(stack, axis, channel)
    reader = SliceReader.of(source, position, mask=_mask(mask, source, position))
    whole = reader.whole
    keep = [k for k, n in enumerate(reader.grid.shape) if n > 1]
    if len(keep) < 2:
        raise DegenerateImageError(f"slices of shape {whole.shape} are lines or points, not images")
    options = PairOptions(Pose.of(model, len(keep)), metric, max_iterations, tolerance, resolve(device))
    slices = Slices(reader.read, reader.count, reader.grid.take(keep), whole.take(keep).centre, options, progress)
    if isinstance(reference, int) and not 0 <= reference < reader.count:
        raise OptionError(f"reference={reference}: the stack has slices 0 to {reader.count - 1}")
    _warn_if_flat(source.dims[position], reader, keep)
    found = _found(slices, reference)
    if found.blank.all():
        raise (EmptyMaskError if mask is not None else DegenerateImageError)(
            "every slice is "
            + ("masked or constant where the mask leaves something" if mask is not None else "constant")
        )
    poses = _framed(found, slices, trend, smooth, mean=reference == "mean")
    if len(keep) < whole.ndim:
        poses = _embedded(poses, whole.ndim, keep)
    names = tuple(whole.names)
    return StackFit(
        raw_from_aligned=SliceAffines(poses, source.dims[position], names, whole.unit),
        centre=whole.centre,
        status=_status(found),
        scores=found.scores,
        sigma=dict(zip(options.pose.names, np.sqrt(found.variance).T, strict=True)),
        outliers=tuple(np.flatnonzero(~found.fitted).tolist()),
        breaks=tuple(found.breaks),
        model=model if isinstance(model, str) else options.pose.groups,
        metric=metric,
        reference=reference,
        trend=trend,
        smooth=float(smooth),
        seconds=time.perf_counter() - began,
    )


def _check_options(reference: Any, metric: str, trend: str, smooth: float) -> None:
    if reference == "neighbors":
        raise OptionError(
            'reference="neighbors" is not there yet: use "previous", "first", "mean" or a slice\'s number'
        )
    if isinstance(reference, bool) or not (isinstance(reference, int | np.integer) or reference in REFERENCES):
        raise OptionError(f"reference={reference!r}: use {', '.join(REFERENCES)} or the number of a slice")
    check_metric(metric)
    if trend not in TRENDS:
        raise OptionError(f"trend={trend!r}: use {' or '.join(TRENDS)}")
    if not smooth >= 2:
        raise OptionError(f"smooth={smooth}: a period of at least 2 slices is needed")


def _source(stack: Any, axis: int | str, channel: int | str | None) -> tuple[Source, int]:
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


def _mask(mask: Any, source: Source, position: int) -> Source | None:
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


def _warn_if_flat(dim: str, reader: SliceReader, keep: Sequence[int]) -> None:
    if reader.count == 1:
        warnings.warn(f"the stack has one slice along {dim}; there is nothing to align", DaskregWarning, stacklevel=3)
    if len(keep) < reader.grid.ndim:
        thin = ", ".join(reader.grid.names[k] for k in range(reader.grid.ndim) if k not in keep)
        warnings.warn(f"slices have length 1 along {thin} and are aligned in 2D", DaskregWarning, stacklevel=3)


def _found(slices: Slices, reference: str | int) -> Found:
    if reference == "mean":
        return against_mean(slices)
    if reference == "previous":
        return against_previous(slices)
    return against_one(slices, None if reference == "first" else int(reference))


def _framed(found: Found, slices: Slices, trend: str, smooth: float, *, mean: bool) -> Floats:
    """The poses in the frame that the reference and the trend ask for."""
    weight = found.fitted.astype(np.float64)
    poses = found.poses
    if trend == "keep":
        return np.asarray(poses @ np.linalg.inv(slow_part(poses, weight, smooth, slices.frame)))
    if mean and found.fitted.any():
        return np.asarray(poses @ np.linalg.inv(mean_pose(poses, weight, slices.frame)))
    return poses


def _embedded(poses: Floats, ndim: int, keep: Sequence[int]) -> Floats:
    out = np.tile(np.eye(ndim + 1), (len(poses), 1, 1))
    index = np.array([*keep, ndim])
    out[:, index[:, None], index] = poses
    return out


def _status(found: Found) -> StackStatus:
    if found.fitted.sum() < max(1, (~found.blank).sum() / 2) or (len(found.fitted) > 1 and found.fitted.sum() < 2):
        return StackStatus.FAILED
    if found.breaks:
        return StackStatus.BROKEN
    return StackStatus.CONVERGED if found.fitted.all() else StackStatus.BRIDGED


def _moving(model: str | Sequence[str], ndim: int) -> set[str]:
    """Names of the parameters that the model lets go."""
    pose = Pose.of(model, ndim)
    return {name for group, names in parameter_names(ndim).items() if group in pose.groups for name in names}


def _listed(indices: ArrayLike, most: int = 8) -> str:
    values = np.asarray(indices).tolist()
    return ", ".join(map(str, values[:most])) + (f", ... ({len(values)} in all)" if len(values) > most else "")
