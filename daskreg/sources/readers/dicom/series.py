"""The series among DICOM files, and the slices of one as a regular volume.

Slices are sorted by their positions along the normal of their plane, as by ITK; not by numbers, which scanners count in
either direction. The world is DICOM's own, LPS in mm, which is ITK's too.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from daskreg.errors import GridError, NotAVolumeError
from daskreg.sources.readers.dicom.headers import Floats, Slice, read_slice
from daskreg.sources.sequences import is_dicom

_UNEVEN = 0.1
"""Of a voxel, by which a slice may lie off its place: positions that are rounded to 0.1 mm are off by so much where
slices are 0.5 mm apart."""

_TURNED = 1e-3
"""By which directions of slices may differ: a voxel at the end of 1,000."""


def chosen_series(files: Sequence[str], series: str, what: str) -> list[Slice]:
    """The slices of a series, in the order of the files.

    Args:
        series: its UID, or its number, from 0 in the order of DICOM's own numbers; "" where there is one only.
        what: the folder, for messages.

    Raises: NotAVolumeError where there is none, or which one is meant is open.
    """
    found = [one for one in map(read_slice, (file for file in files if is_dicom(file))) if one is not None]
    groups: dict[str, list[Slice]] = {}
    for one in found:
        groups.setdefault(one.series, []).append(one)
    ordered = sorted(groups.values(), key=lambda group: (group[0].number, group[0].series))
    told = "; ".join(_told(number, group) for number, group in enumerate(ordered[:8]))
    if not ordered:
        raise NotAVolumeError(f"{what} holds no image in a DICOM file")
    chosen = [group for number, group in enumerate(ordered) if series in (str(number), group[0].series)]
    if not series and len(ordered) > 1:
        raise NotAVolumeError(f"{what} holds {len(ordered)} DICOM series: {told}; choose one, as by series=1")
    if series and not chosen:
        raise NotAVolumeError(f"{what} holds no DICOM series {series!r}; it holds {told}")
    return chosen[0] if series else ordered[0]


def sorted_slices(slices: Sequence[Slice]) -> list[Slice]:
    """Slices of one plane and layout, in the order of their positions along its normal.

    Raises: NotAVolumeError naming the file that is not like the others.
    """
    layouts = [one.layout for one in slices]
    usual = max(set(layouts), key=layouts.count)
    for one in slices:
        if not (one.position.size and one.axes.size):
            raise NotAVolumeError(f"{one.file} states no position or direction of its slice, and so no order of slices")
        if one.layout != usual:
            raise NotAVolumeError(f"{one.file} has {one.layout}, and the others of its series {usual}: take it out")
    directions = np.array([one.axes for one in slices])
    off = np.abs(directions - np.median(directions, axis=0)).max((1, 2))
    if off.max() > _TURNED:
        other = slices[int(off.argmax())].file
        raise NotAVolumeError(
            f"{other} lies in another plane than others of its series: pass a list of parallel slices"
        )
    normal = _normal(slices[0])
    return sorted(slices, key=lambda one: float(normal @ one.position))


def world_from_index(slices: Sequence[Slice], *, even: bool) -> Floats:
    """The (4, 4) matrix from indices x, y, z to the world of sorted slices.

    The third column goes from the first to the last slice, also where that is not the normal (a tilted gantry).

    Args:
        even: take the slices as evenly spaced, whatever their positions are.

    Raises: GridError naming slices that are missing, or the first of those that are not evenly spaced.
    """
    first = slices[0]
    positions = np.array([one.position for one in slices])
    matrix = np.eye(4)
    matrix[:3, :2] = first.axes * first.spacing
    matrix[:3, 2] = _normal(first) * first.thickness
    matrix[:3, 3] = positions[0]
    if len(slices) == 1:
        return matrix
    if not even:
        _check_even(slices, positions)
    step = (positions[-1] - positions[0]) / (len(slices) - 1)
    if np.linalg.norm(step) > 0:
        matrix[:3, 2] = step
    return matrix


def _check_even(slices: Sequence[Slice], positions: Floats) -> None:
    along = positions @ _normal(slices[0])
    steps = np.diff(along)
    usual = float(np.median(steps))
    names = [os.path.basename(one.file) for one in slices]
    advice = "pass spacing={'z': ...} to take the slices as evenly spaced, or a list of the files that are"
    if steps.min() <= _UNEVEN * usual or usual <= 0:
        k = int(steps.argmin())
        raise GridError(
            f"{names[k]} and {names[k + 1]} lie at the same position ({along[k]:.6g} mm along the normal): the series "
            f"holds several times or echoes; {advice}"
        )
    missing = [(k, round(step / usual) - 1) for k, step in enumerate(steps) if _is_gap(step / usual)]
    if missing:
        told = ", ".join(f"{count} between {names[k]} and {names[k + 1]}" for k, count in missing[:4])
        raise GridError(f"slices are missing, by their distance of {usual:.6g} mm: {told}; {advice}")
    line = positions[0] + np.arange(len(slices))[:, None] * (positions[-1] - positions[0]) / (len(slices) - 1)
    off = np.linalg.norm(positions - line, axis=1) / min(usual, *slices[0].spacing)
    if off.max() > _UNEVEN:
        k = int(np.abs(steps / usual - 1).argmax())
        raise GridError(
            f"the slices are not evenly spaced: {names[k]} and {names[k + 1]} are {steps[k]:.6g} mm apart, most others "
            f"{usual:.6g} mm; {advice}"
        )


def _is_gap(ratio: float) -> bool:
    return ratio > 2 - _UNEVEN and abs(ratio - round(ratio)) <= _UNEVEN


def _normal(one: Slice) -> Floats:
    normal: Floats = np.cross(one.axes[:, 0], one.axes[:, 1])
    return normal / np.linalg.norm(normal)


def _told(number: int, group: Sequence[Slice]) -> str:
    title = f" {group[0].title!r}" if group[0].title else ""
    return f"{number}{title} of {len(group)} files ({group[0].series})"
