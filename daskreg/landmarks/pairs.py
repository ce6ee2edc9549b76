"""Pairs of landmarks from files."""

from __future__ import annotations

import re
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import DaskregError, InputError, OptionError, ShapeMismatchError
from daskreg.formats.point_rows import axis_columns, has_names, is_number, read_rows
from daskreg.formats.point_tables import PointTable, read_table
from daskreg.formats.transforms import read_bytes
from daskreg.geometry import default_axes
from daskreg.runtime.messages import reason
from daskreg.runtime.paths import local_path

Floats = NDArray[np.float64]

_FIXED = ("fixed", "target", "fix", "reference", "ref")
_MOVING = ("moving", "source", "mvg", "mov")


@dataclass(frozen=True)
class LandmarkPairs:
    """Corresponding points of a fixed and a moving image.

    Attributes:
        fixed, moving: (N, D) in array order (z, y, x), in the world of their file.
        names: of the pairs, or ().
        unit: of the points, where the format has one.
    """

    fixed: Floats
    moving: Floats
    names: tuple[str, ...] = ()
    unit: str | None = None


def read_pairs(
    path: str | PathLike[str], moving: str | PathLike[str] | None = None, *, axes: str | None = None
) -> LandmarkPairs:
    """Pairs from one file that holds both points, or from a file of the fixed points and one of the moving points.

    One file: BigWarp's landmarks (its target is fixed; pairs that are not active are left out), or a table with columns
    named as fixed_x, fixed_y, moving_x, moving_y (also `target` and `source`), or without names: the fixed point, then
    the moving one, each x, y, z. Two files: CSV with columns x, y, z or axis-0, axis-1 (napari), Slicer's, elastix
    points, GeoJSON. Rows are paired in their order, or by their labels where both files have the same ones.

    Args:
        axes: order of the columns of a table without names, such as "zyx"; by default x, y, z.

    Raises: InputError where a file holds no pairs that can be read; ShapeMismatchError where two files do not pair.
    """
    if moving is None:
        return _one_file(local_path(path), axes)
    first, second = (read_table(p, axes=axes) for p in (path, moving))
    if first.points.shape != second.points.shape:
        raise ShapeMismatchError(
            f"{path} holds points of shape {first.points.shape}, {moving} of {second.points.shape}: they do not pair"
        )
    if first.in_voxels or second.in_voxels:
        raise InputError(f"{path if first.in_voxels else moving} holds voxel indices: save points of the world")
    order = _by_label(first, second)
    return LandmarkPairs(first.points, second.points[order], first.labels, first.unit or second.unit)


def _by_label(first: PointTable, second: PointTable) -> list[int]:
    """Rows of the second table in the order of the first one's labels; in their own order where labels differ."""
    labels = second.labels
    if len(set(labels)) == len(labels) > 0 and sorted(labels) == sorted(first.labels):
        return [labels.index(label) for label in first.labels]
    return list(range(len(second.points)))


def _one_file(path: Path, axes: str | None) -> LandmarkPairs:
    try:
        rows, _ = read_rows(read_bytes(path).decode("utf-8-sig", errors="replace"))
        return _bigwarp(rows) if _is_bigwarp(rows[-1]) else _table(rows, axes)
    except (DaskregError, Warning) as error:
        raise type(error)(f"{path}: {error}") from error
    except Exception as error:
        raise InputError(
            f"{path} holds no pairs that can be read ({type(error).__name__}: {reason(error)}); "
            "of a file with one point in a row, give that of the moving points too"
        ) from error


def _is_bigwarp(row: list[str]) -> bool:
    return len(row) in (6, 8) and row[1].lower() in ("true", "false")


def _bigwarp(rows: list[list[str]]) -> LandmarkPairs:
    """Name, active, the moving point and the target, each x, y, z; a point that was not set is infinite."""
    ndim = (len(rows[-1]) - 2) // 2
    active = [row for row in rows if len(row) > 1 and row[1].lower() == "true"]
    values = np.array([[float(cell) for cell in row[2:]] for row in active]).reshape(-1, 2 * ndim)
    known = np.isfinite(values).all(axis=1)
    if not known.any():
        raise InputError("none of its pairs is active and set in both images")
    names = tuple(row[0] for row, good in zip(active, known, strict=True) if good)
    return LandmarkPairs(values[known, ndim:][:, ::-1], values[known, :ndim][:, ::-1], names)


def _table(rows: list[list[str]], axes: str | None) -> LandmarkPairs:
    if has_names(rows):
        fixed, moving = (_columns(rows[0], words) for words in (_FIXED, _MOVING))
        rows = rows[1:]
    else:
        count = next((k for k, cell in enumerate(rows[0]) if not is_number(cell)), len(rows[0]))
        if count not in (4, 6):
            raise InputError(f"its rows begin with {count} numbers, and pairs without names of columns have 4 or 6")
        ndim = count // 2
        order = axes or "".join(default_axes(ndim))[::-1]
        if sorted(order) != sorted(default_axes(ndim)):
            raise OptionError(f"axes {axes!r} do not name {ndim} columns")
        fixed = [order.index(axis) for axis in default_axes(ndim)]
        moving = [column + ndim for column in fixed]
    if len(fixed) != len(moving):
        raise InputError(f"its fixed points have {len(fixed)} columns, the moving ones {len(moving)}")
    a, b = (np.array([[float(row[column]) for column in columns] for row in rows]) for columns in (fixed, moving))
    return LandmarkPairs(a, b)


def _columns(names: list[str], words: tuple[str, ...]) -> list[int]:
    """Columns, in array order, of the names that hold one of the words."""
    chosen = [k for k, name in enumerate(names) if set(re.split(r"[^a-z0-9]+", name.lower())) & set(words)]
    if not chosen:
        raise InputError(f"none of its columns {', '.join(names)} is named after {' or '.join(words[:2])}")
    columns = axis_columns([names[k] for k in chosen])
    return [chosen[columns[axis]] for axis in default_axes(len(columns))]
