"""The inputs of `icp`: points from arrays, from Dask arrays larger than memory, and from images."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import scipy.ndimage
from numpy.typing import ArrayLike, NDArray

from daskreg.clouds.voxel_grid import VoxelSums
from daskreg.errors import DaskregWarning, DegenerateImageError, OptionError, ShapeMismatchError, UnsupportedDTypeError

Floats = NDArray[np.float64]

# A Dask array of more points is downsampled by voxels.
_MOST_POINTS = 500_000
# Of coordinates in this range, float32 holds the values, and float64 their squares and cubes.
_LEAST_VALUE, _LARGEST_VALUE = 1e-30, 1e30


def as_points(value: ArrayLike, name: str) -> Floats:
    """(N, D) float64 points in memory, D in 2, 3, without the rows that are not finite (with a warning).

    A Dask array of more than half a million points is downsampled by voxels, block by block on
    the current scheduler, so that it is never in memory as a whole.

    Args:
        name: of the cloud, for errors and warnings.

    Raises: UnsupportedDTypeError, ShapeMismatchError, DegenerateImageError.
    """
    array: Any = value
    if hasattr(array, "detach"):
        array = array.detach().cpu()
    if hasattr(array, "map_blocks") and hasattr(array, "variable"):  # a DataArray, which may hold a Dask array
        array = array.data
    if isinstance(array, np.ma.MaskedArray) and array.dtype.kind in "fiub":
        array = np.ma.filled(array.astype(np.float64), np.nan)
    if not hasattr(array, "map_blocks"):
        array = np.asarray(array)
    if array.dtype.kind not in "fiub":
        raise UnsupportedDTypeError(f"the {name} has dtype {array.dtype}; points are real numbers")
    if array.ndim != 2 or array.shape[1] not in (2, 3):
        raise ShapeMismatchError(f"the {name} has shape {array.shape}; (N, 2) or (N, 3) points are needed")
    points, dropped = _from_dask(array) if hasattr(array, "map_blocks") else _finite(array)
    if dropped:
        warnings.warn(
            f"{dropped} of {array.shape[0]} points of the {name} hold NaN or infinity and were dropped",
            DaskregWarning,
            stacklevel=5,
        )
    if len(points) < points.shape[1]:
        raise DegenerateImageError(f"the {name} has {len(points)} points; at least {points.shape[1]} are needed")
    if (points[0] == points[-1]).all() and not np.ptp(points, axis=0).any():
        raise DegenerateImageError(f"all points of the {name} are at one place, so nothing can be matched")
    if not _LEAST_VALUE < np.max(np.abs(points)) < _LARGEST_VALUE:
        raise DegenerateImageError(f"the {name} reaches to {np.max(np.abs(points)):.0e}: give it in another unit")
    return points


def points_from(
    volume: Any, *, threshold: float | None = None, log: float | None = None, channel: int | str | None = None
) -> Floats:
    """(N, D) landmarks of an image in world coordinates, array order (z, y, x).

    So `icp` gives the initial transform of a registration:

        fit = dr.icp(dr.points_from(fixed, threshold=t), dr.points_from(moving, threshold=t))
        dr.register(fixed, moving, init=fit)

    Args:
        volume: what `register` takes: a DataArray, an array or a tensor, 2D or 3D. One that is
            larger than the memory budget is read as block means.
        threshold: points of the surface at this value, between voxels by linear interpolation.
        log: centres of bright blobs of about this standard deviation, in world units: the maxima of
            the scale-normalised Laplacian of the Gaussian (Lindeberg 1998), brightest first.
        channel: number or name, where there are channels.

    Raises: OptionError unless exactly one of threshold and log is given; DegenerateImageError where
        there are no such points; and the errors of reading an image.
    """
    # Imported here because it imports torch, which `icp` of arrays does not need.
    from daskreg.registration.images import read_image

    if (threshold is None) == (log is None):
        raise OptionError("give either threshold= (points of a surface) or log= (centres of blobs)")
    image = read_image(volume, what="volume", channel=channel)
    values = image.values.numpy().astype(np.float64) + image.offset
    if threshold is not None:
        index, feature = _crossings(values, threshold), f"crosses {threshold}"
    else:
        index, feature = _blobs(values, float(log or 0.0), image.grid.spacing), f"is a bright blob of sigma {log}"
    if not len(index):
        raise DegenerateImageError(
            f"nothing in the image {feature}; its values lie from {values.min()} to {values.max()}"
        )
    return np.asarray(image.grid.world(index), dtype=np.float64)


def _crossings(values: Floats, threshold: float) -> Floats:
    """(N, D) fractional indices at which lines between neighbouring voxels cross the threshold."""
    found = []
    above = values >= threshold
    for axis in range(values.ndim):
        low = [slice(None)] * values.ndim
        high = list(low)
        low[axis], high[axis] = slice(None, -1), slice(1, None)
        at = np.nonzero(above[tuple(low)] != above[tuple(high)])
        a, b = values[tuple(low)][at], values[tuple(high)][at]
        index = np.stack(at, axis=1).astype(np.float64)
        index[:, axis] += (threshold - a) / (b - a)
        found.append(index)
    return np.concatenate(found)


def _blobs(values: Floats, sigma: float, spacing: tuple[float, ...]) -> Floats:
    """(N, D) fractional indices of the maxima of the Laplacian's response."""
    if not sigma > 0:
        raise OptionError(f"log is the standard deviation of the blobs, above zero, not {sigma}")
    sizes = [sigma / abs(step) for step in spacing]
    response = np.zeros(values.shape)
    for axis, size in enumerate(sizes):
        orders = [2 if k == axis else 0 for k in range(values.ndim)]
        response -= size**2 * scipy.ndimage.gaussian_filter(values, sizes, order=orders, mode="nearest")
    peaks = response == scipy.ndimage.maximum_filter(response, size=[2 * max(1, round(s)) + 1 for s in sizes])
    # Noise has maxima too: those of blobs are above three standard deviations of the response.
    inner = tuple(slice(1, -1) for _ in sizes)
    strong = np.zeros_like(peaks)
    strong[inner] = peaks[inner] & (response[inner] > 3 * np.std(response))
    index = np.argwhere(strong)
    index = index[np.argsort(-response[tuple(index.T)], kind="stable")]
    refined = index.astype(np.float64)
    for axis in range(values.ndim):
        step = np.eye(values.ndim, dtype=np.int64)[axis]
        before, middle, after = (response[tuple((index + k * step).T)] for k in (-1, 0, 1))
        curvature = before - 2 * middle + after
        refined[:, axis] += np.where(curvature < 0, 0.5 * (before - after) / np.minimum(curvature, -1e-300), 0.0)
    return refined


def _finite(array: NDArray[Any]) -> tuple[Floats, int]:
    """The rows that are finite, as float64, and how many are not."""
    points = np.ascontiguousarray(array, dtype=np.float64)
    if np.isfinite(points.sum()):
        return points, 0
    finite = np.isfinite(points).all(axis=1)
    return (points, 0) if finite.all() else (points[finite], int(np.count_nonzero(~finite)))


def _from_dask(array: Any) -> tuple[Floats, int]:
    """The points of a Dask array, downsampled if there are many, and how many were not finite.

    Each block is reduced to voxels of one grid, and the voxels of two blocks are merged until one part is left; where
    there are too many voxels, their side is doubled. The result does not depend on the chunks.
    """
    from dask.base import compute
    from dask.delayed import delayed

    if array.shape[0] <= _MOST_POINTS:  # False for an unknown size, which is NaN
        return _finite(array.compute())
    blocks = [row[0] for row in array.rechunk({1: -1}).to_delayed()]
    finite = delayed(_finite)
    bounds = compute(*[delayed(_bounds)(finite(block)) for block in blocks])
    dropped, known = sum(b[2] for b in bounds), [b for b in bounds if b[0] is not None]
    if not known:
        return np.zeros((0, array.shape[1])), dropped
    low, high = np.min([b[0] for b in known], axis=0), np.max([b[1] for b in known], axis=0)
    size = float(np.max(high - low)) * 2.0**-12 or 1.0
    parts = [delayed(VoxelSums.of)(finite(block)[0], low, size, _MOST_POINTS) for block in blocks]
    while len(parts) > 1:
        pairs = [parts[k : k + 2] for k in range(0, len(parts), 2)]
        parts = [delayed(VoxelSums.merged)(pair, _MOST_POINTS) for pair in pairs]
    return compute(parts[0])[0].means, dropped


def _bounds(finite: tuple[Floats, int]) -> tuple[Any, Any, int]:
    """Lowest and highest coordinates of a result of `_finite`, None where it has no points, and how many it dropped."""
    points, dropped = finite
    return (points.min(axis=0), points.max(axis=0), dropped) if len(points) else (None, None, dropped)
