"""`warp`: sample a volume through a transform, lazily.

dask, xarray and zarr are imported only for what is not a NumPy array, with `daskreg.lazy_warp` and `daskreg.volumes`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from operator import matmul
from typing import Any

import numpy as np

from daskreg.blocks.job import Job, run_block
from daskreg.errors import EmptyOutputError, OptionError, UnsupportedDTypeError, check_flags
from daskreg.geometry import Affine, Box, Grid, Transform, as_transform, default_axes
from daskreg.sampling.cast import cast
from daskreg.sampling.sample import clamps, halo
from daskreg.sources.in_memory import source_of_numpy
from daskreg.sources.source import Source

ORDERS = (0, 1, 3)


def warp(
    source: Any,
    *unsaid: Any,
    pull: Any = None,
    push: Any = None,
    like: Any = None,
    grid: Grid | str | None = None,
    order: int = 1,
    fill: float = 0,
    edge: str = "fill",
    chunks: str | int | Sequence[int] | Mapping[str, int] = "auto",
    dtype: Any = None,
    device: str = "auto",
    allow_empty: bool = False,
) -> Any:
    """Sample `source` through a transform.

    `pull=t` samples at t(output point): `warp(moving, pull=fit.moving_from_fixed, like=fixed)`
    registers, `warp(stack, pull=fit.raw_from_aligned)` aligns. `push=t` moves the content by
    t (it samples at the inverse). Exactly one must be given.

    A `SliceAffines` warps each slice by its own map; a 2D `Affine` on a volume warps every
    slice in its plane; a sequence of transforms is composed, `[a_from_b, b_from_c]` being
    `a_from_b @ b_from_c`, into one interpolation. Channels and times are all warped.

    Args:
        source: DataArray, dask or NumPy array, or a torch tensor. Spatial axes come last; but a NumPy or dask array
            with one axis more than the transform, whose last one has 3 or 4 entries, is in colour, as in `register`.
        like: a volume or Grid whose grid is the output's.
        grid: the output's Grid, or "union" / "intersection" of where the transform brings
            the source's voxels. Default: the source's own grid.
        order: 0 nearest (labels), 1 linear, 3 cubic spline. Boolean arrays use 0.
        fill: value outside the source.
        edge: of the outermost voxels, which reach half a voxel beyond their centres: "fill" mixes them with the fill up
            to one voxel beyond the centre, so that the result is continuous (SciPy's grid-constant); "clamp" gives that
            half their own value, and everything beyond is fill (as ITK).
        chunks: of the lazy result.
        dtype: of the output; default the source's. Casting to integers rounds half to even
            and clamps.
        device: "auto", "cpu" or "cuda[:i]", resolved where blocks run.
        allow_empty: allow an output that has only the fill value.

    Returns: the same kind as `source`; lazy (dask-backed) unless NumPy or a tensor. A DataArray keeps name, attributes
    and coordinates, except those along axes that are sampled anew.

    Raises: OptionError, InvalidTransformError, ShapeMismatchError, UnitError, GridError, or
    EmptyOutputError where the output would have no voxel of the source.
    """
    check_flags(allow_empty=allow_empty)
    if unsaid:
        raise OptionError(
            "warp(image, transform) does not say which way: for a fit of register or align_stack, warp(image, "
            "pull=fit); to move the content by a transform, warp(image, push=transform)"
        )
    transform = _one_pull(pull, push)
    if type(source).__module__.partition(".")[0] == "torch":
        return _warp_tensor(source, transform, like=like, grid=grid, order=order, fill=fill, edge=edge)
    colour_ndim = transform.array_ndim + 1
    if in_memory := isinstance(source, np.ndarray):
        spec, colour_last = source_of_numpy(source, colour_ndim=colour_ndim)
    else:
        from daskreg.volumes import volume_of

        volume = volume_of(source, colour_ndim=colour_ndim)
        spec = volume.source
    out = _output_grid(spec.grid, spec.dims, transform, like, grid)
    job = make_job(spec, transform, out, order=order, fill=fill, edge=edge, dtype=dtype, device=device)
    if not allow_empty and _all_fill(job):
        lower, upper = out.extent
        raise EmptyOutputError(
            f"the output from {lower.tolist()} to {upper.tolist()} {out.unit} would hold no voxel of the source "
            f"({spec.grid}); check the transform's direction (pull or push) and units, or pass allow_empty=True"
        )
    if in_memory:
        made = run_block(job, Box.of(job.shape), parallel=True)
        return np.moveaxis(made, 0, -1) if colour_last else made
    from daskreg.lazy_warp import warped_like

    return warped_like(source, volume, job, chunks)


def make_job(
    spec: Source,
    pull: Transform | None,
    out: Grid,
    *,
    order: int = 1,
    fill: float = 0,
    edge: str = "fill",
    dtype: Any = None,
    device: str = "auto",
) -> Job:
    """The description of one warp of `spec` onto `out`; `pull=None` copies.

    Raises: OptionError for an unknown order, edge or device, UnsupportedDTypeError for a dtype.
    """
    clamps(edge)  # raises for others
    if order not in ORDERS:
        raise OptionError(f"order={order!r}: use 0 (nearest), 1 (linear) or 3 (cubic)")
    if not (isinstance(device, str) and (device in {"auto", "cpu", "cuda"} or device.startswith("cuda:"))):
        raise OptionError(f"device={device!r}: use 'auto', 'cpu', 'cuda' or 'cuda:1'")
    wanted = _output_dtype(spec.dtype if dtype is None else dtype)
    _check_fill(fill, wanted)
    if spec.dtype.kind == "b":
        order = 0
    pull = Affine.identity(spec.grid.ndim) if pull is None else pull
    mapping = pull.index_map(out, spec.grid, spec.dims)
    return Job(spec, mapping, out, order, float(fill), wanted, device, edge)


def _output_dtype(dtype: Any) -> np.dtype[Any]:
    try:
        wanted: np.dtype[Any] = np.dtype(dtype)
    except TypeError as error:
        raise UnsupportedDTypeError(f"dtype={dtype!r} is not a type; use an integer or float type") from error
    if wanted.kind not in "buif" or wanted.itemsize > 8:
        raise UnsupportedDTypeError(f"dtype {wanted} cannot hold an image; use an integer or float type")
    return wanted.newbyteorder("=")


def _check_fill(fill: Any, dtype: np.dtype[Any]) -> None:
    """Raise OptionError for a fill that the output's type cannot hold: clamped, it would look like a voxel."""
    try:
        value = float(fill)
    except (TypeError, ValueError) as error:
        raise OptionError(f"fill={fill!r} is not a number") from error
    if dtype.kind != "f" and cast(np.asarray([value]), dtype)[1]:
        raise OptionError(f"fill={fill} is not a value of {dtype}; pass another, or dtype='float32'")


def _one_pull(pull: Any, push: Any) -> Transform:
    if (pull is None) == (push is None):
        raise OptionError("give exactly one of pull= (where to sample) and push= (how the content moves)")
    transform = _composed(push if pull is None else pull)
    return transform.inverse() if pull is None else transform


def _composed(value: Any) -> Transform:
    """One transform, composed of what the caller passed: a transform, a fit, a matrix, or a sequence of them."""
    if not isinstance(value, (list, tuple)):
        return as_transform(value)
    if not value:
        raise OptionError("an empty list of transforms has no dimension; pass Affine.identity(ndim)")
    composed: Transform = reduce(matmul, [_composed(v) for v in value])
    return composed


def _output_grid(source: Grid, dims: tuple[str, ...], pull: Transform, like: Any, grid: Grid | str | None) -> Grid:
    if like is not None and grid is not None:
        raise OptionError("give like= or grid=, not both")
    if like is not None:
        return like if isinstance(like, Grid) else _grid_of(like)
    if grid is None or isinstance(grid, Grid):
        return grid or source
    if grid not in {"union", "intersection"}:
        raise OptionError(f"grid={grid!r}: give a Grid, 'union' or 'intersection'")
    return _warped_grid(source, dims, pull, grid)


def _grid_of(value: Any) -> Grid:
    from daskreg.volumes import volume_of

    return volume_of(value).grid


def _warped_grid(source: Grid, dims: tuple[str, ...], pull: Transform, which: str) -> Grid:
    """The source's grid, cropped or extended to where the transform brings its voxels."""
    bounds = pull.warped_bounds(source, dims)
    if which == "union":
        start, stop = np.floor(bounds.lower + 1e-6), np.ceil(bounds.upper - 1e-6) + 1
    else:
        start, stop = np.ceil(bounds.inner_lower - 1e-6), np.floor(bounds.inner_upper + 1e-6) + 1
    box = Box(tuple(start.tolist()), tuple(stop.tolist()))
    if box.empty:
        raise EmptyOutputError("the transforms leave no voxel that all of them reach: use grid='union'")
    return source.crop(box)


def _all_fill(job: Job) -> bool:
    """Whether no voxel of the output is sampled from a voxel of the source."""
    return job.mapping.read_box(Box.of(job.shape), job.source.shape, halo(0)).empty


def _warp_tensor(
    tensor: Any, pull: Transform, *, like: Any, grid: Grid | str | None, order: int, fill: float, edge: str
) -> Any:
    """Warp a tensor, differentiably in its voxels; voxels have spacing one."""
    import torch

    from daskreg.sampling.sample import sample

    spatial = min(tensor.ndim, max(pull.array_ndim, 2))
    names = tuple(f"d{k}" for k in range(tensor.ndim - spatial)) + default_axes(spatial)
    source = Grid(tensor.shape[tensor.ndim - spatial :])
    out = _output_grid(source, names, pull, like, grid)
    mapping = pull.index_map(out, source, names)
    shape = tuple(tensor.shape[: tensor.ndim - spatial]) + out.shape
    result = torch.full(shape, float(fill), dtype=tensor.dtype, device=tensor.device)
    axes = (*mapping.carried, *mapping.sampled)
    for piece in mapping.pieces(Box.of(shape), tuple(tensor.shape), halo(order)):
        block = tensor[piece.read.slices].permute(axes)
        sampled = sample(
            block,
            piece.read.take(mapping.sampled),
            piece.coordinates,
            piece.out.take(mapping.sampled),
            order=order,
            fill=fill,
            edge=edge,
        )
        result[piece.out.slices] = sampled.permute(tuple(np.argsort(axes)))
    return result
