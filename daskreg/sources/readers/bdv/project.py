"""What the XML of BigDataViewer says: setups (views of one camera), times, where their voxels lie and are stored."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import DaskregError, NotAVolumeError
from daskreg.formats.view_registrations import finite_numbers, time_points, view_registrations
from daskreg.runtime.messages import reason
from daskreg.runtime.regular_files import check_beside, read_small

_LARGEST_XML = 2**26
_MOST_TIMES = 1_000_000
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Setup:
    """One setup.

    Args:
        size: of the finest level, z, y, x.
        spacing: z, y, x; None where it is not stated.
    """

    number: int
    name: str
    size: tuple[int, ...]
    spacing: Floats | None
    unit: str | None


@dataclass(frozen=True)
class Project:
    """The content of an XML file.

    Args:
        kind: "hdf5" or "n5".
        data: path of the file or folder with the voxels.
        times: numbers of the time points.
        registrations: (4, 4) x, y, z maps from voxels to the world in the unit of the setups, by time and setup.
    """

    kind: str
    data: str
    setups: tuple[Setup, ...]
    times: tuple[int, ...]
    registrations: dict[tuple[int, int], Floats]


def read_project(path: str) -> Project:
    """An XML file of BigDataViewer.

    Raises: NotAVolumeError for another one, or voxels that are stored in a way that is not read; OutsideError for
        voxels outside its folder.
    """
    try:
        text = read_small(Path(path), _LARGEST_XML)
        if b"<!DOCTYPE" in text or b"<!ENTITY" in text:
            raise ValueError("it defines XML entities")
        root = ElementTree.fromstring(text)  # noqa: S314 (no entities: see above)
        if root.tag != "SpimData":
            raise NotAVolumeError(f"{path} is no project of BigDataViewer: its first element is {root.tag[:80]}")
        return _project(root, path)
    except DaskregError:
        raise
    except (ElementTree.ParseError, ValueError, OSError, TypeError) as error:
        raise NotAVolumeError(f"{path} is no project of BigDataViewer that can be read: {reason(error)}") from error


def _project(root: ElementTree.Element, path: str) -> Project:
    loader = root.find("SequenceDescription/ImageLoader")
    form = "" if loader is None else loader.get("format", "")
    kind = {"bdv.hdf5": "hdf5", "bdv.n5": "n5"}.get(form)
    place = None if loader is None or kind is None else loader.find(kind)
    if kind is None or place is None:
        raise NotAVolumeError(f"{path} has its voxels as {form!r}; bdv.hdf5 and bdv.n5 are read")
    base = os.path.join(os.path.dirname(path), (root.findtext("BasePath") or ".").strip())
    data = os.path.normpath(os.path.join(base, (place.text or "").strip()))
    check_beside(data, path)
    setups = tuple(_setup(entry) for entry in root.iterfind("SequenceDescription/ViewSetups/ViewSetup"))
    if not setups:
        raise NotAVolumeError(f"{path} has no setups")
    return Project(kind, data, setups, _times(root.find("SequenceDescription/Timepoints")), view_registrations(root))


def _setup(entry: ElementTree.Element) -> Setup:
    spacing = entry.findtext("voxelSize/size")
    return Setup(
        int(entry.findtext("id") or 0),
        (entry.findtext("name") or "").strip(),
        tuple(int(word) for word in reversed((entry.findtext("size") or "").split())),
        None if spacing is None else finite_numbers(spacing, 3)[::-1],
        (entry.findtext("voxelSize/unit") or "").strip() or None,
    )


def _times(entry: ElementTree.Element | None) -> tuple[int, ...]:
    if entry is None:
        return (0,)
    if entry.get("type") == "range":
        first, last = (int(entry.findtext(tag) or 0) for tag in ("first", "last"))
        if not 0 <= last - first < _MOST_TIMES:
            raise ValueError(f"its times go from {first} to {last}")
        return tuple(range(first, last + 1))
    if entry.get("type") == "list":
        return tuple(int(time.findtext("id") or 0) for time in entry.iterfind("Timepoint")) or (0,)
    return time_points(entry.findtext("integerpattern") or "0", _MOST_TIMES)
