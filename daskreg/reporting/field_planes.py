"""Planes of a transform with displacement fields, sampled for figures: where points go, and how space is stretched.

Only previews are evaluated: at no more than `_SAMPLES` points along each side of a plane, part by part, so that of a
field in a store only what lies around one part is in memory.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from daskreg.errors import GridError, OptionError, ShapeMismatchError
from daskreg.geometry import Grid, Transform, common_unit
from daskreg.geometry.units import PIXEL
from daskreg.reporting.words import symbol
from daskreg.sources.coordinates import SPACE

Floats = NDArray[np.float64]

_SAMPLES = 160  # along the longer side of a plane
_PART = 40  # samples along each side that are evaluated at once


@dataclass(frozen=True, eq=False)
class FieldPlane:
    """One plane of a grid, sampled along its two axes.

    Args:
        name: what is above its row.
        labels: of the axes, with their unit.
        along: places (n,) and (m,) of the samples along the axes: world coordinates, or distances from the first voxel
            where the axes of the grid are turned in the world.
        moved: (n, m, 2) in-plane places to which the samples go.
        way: (n, m, 2) in-plane displacements.
        length: (n, m) of the displacements, in all directions.
        stretch: (n, m) determinants.
        images: (n, m) the fixed and the warped moving image, if there are any.
    """

    name: str
    labels: tuple[str, str]
    along: tuple[Floats, Floats]
    moved: Floats
    way: Floats
    length: Floats
    stretch: Floats
    images: tuple[Floats, Floats] | None

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """As matplotlib takes it, with half a sample around, the first row on top."""
        (y0, y1), (x0, x1) = ((a[0] - half_step(a), a[-1] + half_step(a)) for a in self.along)
        return x0, x1, y1, y0


def folded(stretch: Floats) -> NDArray[np.bool_]:
    """Where a transform with these determinants is no one-to-one map."""
    return np.asarray(~np.isfinite(stretch) | (stretch <= 0))


@dataclass(frozen=True)
class PlaneOfGrid:
    """Where a plane lies: two axes of a grid, the index along the third, and which slice's map it is."""

    grid: Grid
    axes: tuple[int, int]
    third: int | None
    number: int | None
    array_index: tuple[int | None, ...]
    """Index of the plane in images on the grid: None along its two axes."""
    name: str


def field_planes(
    transform: Transform,
    grid: Grid,
    *,
    fixed: Any = None,
    moving: Any = None,
    moving_grid: Grid | None = None,
    slices: Sequence[int] | None = None,
) -> list[FieldPlane]:
    """The planes that `field_plots.field_figure` draws, whose arguments these are."""
    common_unit(grid.unit, transform.unit, "transform and grid")
    found = list(places(transform, grid, slices))
    images = None if fixed is None or moving is None else (fixed, moving, moving_grid or grid)
    if images is not None:
        check_images(transform, grid, images)
    return [sampled_plane(transform, place, images) for place in found]


def places(transform: Transform, grid: Grid, slices: Sequence[int] | None) -> Iterator[PlaneOfGrid]:
    """The planes that are shown.

    Raises: ShapeMismatchError, GridError for a grid that is not of the transform; OptionError for slices that it
        does not have.
    """
    count = getattr(transform, "slices", None)
    if (count is None and grid.ndim != transform.ndim) or grid.ndim not in (2, 3):
        raise ShapeMismatchError(f"a {transform.ndim}D transform is not shown on a grid of {grid.ndim} axes")
    if count is not None:
        stack = stack_axis(transform, grid)
        inside = [k for k in range(3) if k != stack]
        plane = grid.take(inside) if grid.ndim == 3 else grid
        for k in dict.fromkeys((0, count // 2, count - 1)) if slices is None else _numbers(slices, count):
            index = tuple(None if a in inside else int(k) for a in range(3))
            yield PlaneOfGrid(plane, (0, 1), None, int(k), index, f"slice {k}")
    elif grid.ndim == 2:
        yield PlaneOfGrid(grid, (0, 1), None, None, (None, None), "")
    else:
        for third in range(3):
            y, x = (k for k in range(3) if k != third)
            middle = grid.shape[third] // 2
            index = tuple(middle if k == third else None for k in range(3))
            yield PlaneOfGrid(grid, (y, x), third, None, index, f"{grid.names[third]} = {middle}, ")


def stack_axis(transform: Any, grid: Grid) -> int:
    """Position, among the three axes of a stack, of that along which there is a field for each slice.

    Args:
        grid: of the stack or, with two axes, of a slice.
    """
    axis: Any = getattr(transform, "axis", 0)
    if transform.ndim != 2:
        raise ShapeMismatchError(f"fields of 2D slices are shown, not of {transform.ndim}D ones")
    if isinstance(axis, str):
        known = axis in grid.names
        if known != (grid.ndim == 3):
            raise GridError(
                f"the transform has a field for each slice along {axis!r}, and the grid has the axes {grid.names}"
            )
        if known:
            return grid.names.index(axis)
        return SPACE.index(axis) if {axis, *grid.names} == set(SPACE) else 0
    if not -3 <= axis < 3:
        raise GridError(f"the transform has a field for each slice along axis {axis}, and a stack has three axes")
    return int(axis) % 3


def _numbers(slices: Any, count: int) -> list[int]:
    """Numbers of slices, checked."""
    try:
        numbers = [operator.index(k) for k in slices]
    except TypeError as error:
        raise OptionError(f"slices={slices!r}: give numbers of slices, as in (0, 5)") from error
    if not numbers or not all(0 <= k < count for k in numbers):
        raise OptionError(f"slices={slices!r}: name some of 0 to {count - 1}")
    return numbers


def check_images(transform: Any, grid: Grid, images: tuple[Any, Any, Grid]) -> None:
    """Raise ShapeMismatchError or UnitError for images that do not lie on their grids."""
    fixed, moving, moving_grid = images
    count = getattr(transform, "slices", None)
    common_unit(grid.unit, moving_grid.unit, "grids of fixed and moving")
    if moving_grid.ndim not in (grid.ndim, transform.ndim):
        raise ShapeMismatchError(f"moving_grid has {moving_grid.ndim} axes, the grid {grid.ndim}")
    for name, image, lies_on in (("fixed", fixed, grid), ("moving", moving, moving_grid)):
        shape, expected = tuple(np.shape(image)), list(lies_on.shape)
        if count is not None:
            stack = stack_axis(transform, grid)
            if lies_on.ndim == 2:  # the grid of a slice
                expected.insert(stack, count)
            elif lies_on.shape[stack] != count:
                raise ShapeMismatchError(f"{name} has {lies_on.shape[stack]} slices, the transform {count}")
        if shape != tuple(expected):
            raise ShapeMismatchError(f"{name} has shape {shape}, but on its grid it would have {tuple(expected)}")


def sampled_plane(transform: Transform, place: PlaneOfGrid, images: tuple[Any, Any, Grid] | None) -> FieldPlane:
    grid, axes = place.grid, place.axes
    sides = [(grid.shape[k] - 1) * grid.spacing[k] for k in axes]
    longest = max(*sides, 1e-300)
    counts = [max(2, round(_SAMPLES * side / longest)) if side else 1 for side in sides]
    index = np.zeros((*counts, grid.ndim))
    for k, axis in enumerate(axes):
        along = np.linspace(0, grid.shape[axis] - 1, counts[k])
        index[..., axis] = along[:, None] if k == 0 else along
    if place.third is not None:
        index[..., place.third] = grid.shape[place.third] // 2
    moved, stretch = _evaluated(transform, grid, index, place.number)
    spacing = np.asarray(grid.spacing)
    origin = np.asarray(grid.origin) if grid.direction is None else np.zeros(grid.ndim)
    start = (origin + index * spacing)[..., list(axes)]
    end, way = origin + grid.index(moved) * spacing, (grid.index(moved) - index) * spacing
    if is_chain(transform):
        way = _less_affine(index * spacing, way)
    shown = None
    if images is not None:
        shown = _plane_of(images[0], place.array_index, index[..., list(axes)]), _moved_image(images, moved, place)
    return FieldPlane(
        name=f"{place.name}{''.join(grid.names[k] for k in axes)}" if place.third is not None else place.name,
        labels=(_label(grid, axes[0]), _label(grid, axes[1])),
        along=(start[:, 0, 0], start[0, :, 1]),
        moved=end[..., list(axes)],
        way=way[..., list(axes)],
        length=np.linalg.norm(way, axis=-1),
        stretch=stretch,
        images=shown,
    )


def _evaluated(transform: Transform, grid: Grid, index: Floats, number: int | None) -> tuple[Floats, Floats]:
    """Where samples go, and the determinants there, part by part."""
    moved, stretch = np.empty(index.shape), np.empty(index.shape[:2])
    affine: Any = None if hasattr(transform, "determinants") else np.linalg.det(transform.to_matrices())
    for a, b in product(*(range(0, n, _PART) for n in index.shape[:2])):
        part = (slice(a, a + _PART), slice(b, b + _PART))
        points = grid.world(index[part]).reshape(-1, grid.ndim)
        numbered = () if number is None else (np.full(len(points), number),)
        moved[part] = transform(points, *numbered).reshape(index[part].shape)
        if affine is None:
            found = transform.determinants(points, number or 0)  # type: ignore[attr-defined]
        else:
            found = np.full(len(points), affine if number is None else affine[number])
        stretch[part] = found.reshape(stretch[part].shape)
    return moved, stretch


def _less_affine(points: Floats, way: Floats) -> Floats:
    """What the affine map that fits displacements best in the plane leaves of them."""
    design = np.c_[points.reshape(-1, points.shape[-1]), np.ones(points[..., 0].size)]
    found = np.linalg.lstsq(design, way.reshape(-1, way.shape[-1]), rcond=None)[0]
    return np.asarray((way.reshape(-1, way.shape[-1]) - design @ found).reshape(way.shape))


def is_chain(transform: Transform) -> bool:
    return len(getattr(transform, "parts", ())) > 1


def _plane_of(image: Any, plane: tuple[int | None, ...], index: Floats) -> Floats:
    """Samples of one plane of an image: the nearest voxels."""
    taken: Any = tuple(slice(None) if k is None else k for k in plane)
    values = np.asarray(image[taken])
    y, x = (np.rint(index[..., k]).astype(int) for k in (0, 1))
    return np.asarray(values[y, x], np.float64)


def _moved_image(images: tuple[Any, Any, Grid], moved: Floats, place: PlaneOfGrid) -> Floats:
    """The moving image at the points to which samples went, linear; NaN outside."""
    _, image, grid = images
    if place.number is not None:
        inside = [k for k, i in enumerate(place.array_index) if i is None]
        image = image[tuple(slice(None) if k in inside else place.number for k in range(3))]
        grid = grid.take(inside) if grid.ndim == 3 else grid
    at = grid.index(moved)
    low = np.clip(np.floor(at.reshape(-1, grid.ndim).min(axis=0)).astype(int) - 1, 0, grid.shape)
    high = np.clip(np.ceil(at.reshape(-1, grid.ndim).max(axis=0)).astype(int) + 2, low, grid.shape)
    taken: Any = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    block = np.asarray(image[taken], np.float64)
    if not block.size:
        return np.full(at.shape[:-1], np.nan)
    return np.asarray(ndimage.map_coordinates(block, np.moveaxis(at - low, -1, 0), order=1, cval=np.nan))


def half_step(places: Floats) -> float:
    """Half of the distance between samples."""
    return float(places[1] - places[0]) / 2 if len(places) > 1 else 0.5


def unit_name(grid: Grid) -> str:
    return "pixels" if grid.unit == PIXEL else symbol(grid.unit) or grid.unit


def _label(grid: Grid, axis: int) -> str:
    turned = "" if grid.direction is None else ", from the first voxel"
    return f"{grid.names[axis]} ({unit_name(grid)}{turned})"
