"""A setup of a BigDataViewer project as a volume in the world of its registration.

A `Source.path` is `project.xml::/setup/level`.
"""

from __future__ import annotations

import math
import os
import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import MetadataWarning, NotAVolumeError, OptionError
from daskreg.geometry import Box
from daskreg.sources.coordinates import SPACE
from daskreg.sources.description import Description, OpenOptions
from daskreg.sources.locate import INSIDE, StoreLocation
from daskreg.sources.reader import Reader, box_of
from daskreg.sources.readers.bdv.project import Floats, Project, Setup, read_project
from daskreg.sources.readers.file_array import FileArray
from daskreg.sources.readers.hdf5.attributes import reading_attributes
from daskreg.sources.readers.hdf5.files import open_hdf5
from daskreg.sources.readers.hdf5.links import member
from daskreg.sources.readers.hdf5.stacked import StackedDatasets
from daskreg.sources.readers.mapped import check_memory
from daskreg.sources.readers.n5.array import N5Array, attributes
from daskreg.sources.readers.physical import grid_of_header
from daskreg.sources.source import ArrayIndex, Source
from daskreg.sources.storage.counters import count_missing

_OTHER_SIZE = 0.25
"""By how much a registration may change the size of voxels without a word."""


@dataclass(frozen=True)
class StackedN5:
    """Arrays of the times of a setup; None for one that is not stored."""

    arrays: tuple[N5Array | None, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def read(self, box: Box) -> NDArray[Any]:
        """The voxels of a box of the axes t, c (of length 1), z, y, x."""
        out = np.zeros(box.shape, self.dtype)
        for k, t in enumerate(range(box.start[0], box.stop[0])):
            array = self.arrays[t]
            if array is None:
                count_missing(f"timepoint {t}")
            else:
                out[k, 0] = array.read(Box(box.start[2:], box.stop[2:]))
        return out


class BdvReader(Reader):
    """Reads the HDF5 file or the N5 folder of a project."""

    def describe(self, location: StoreLocation, options: OpenOptions) -> Description:
        """A setup, the first one by default (with a warning where there are several), at a level.

        Raises: NotAVolumeError, OptionError, OutsideError, GridError, UnitError; MissingExtraError without h5py.
        """
        path = location.root
        project = read_project(path)
        setup = _chosen(project, location)
        factors = _factors(project, setup)
        if not -len(factors) <= options.level < len(factors):
            raise OptionError(f"level={options.level} is not in {path}, which has {len(factors)} (0 is the finest)")
        level = options.level % len(factors)
        data, chunks = _data(project, setup, level)
        finest = _registration(project, setup, path)
        scale = np.diag([*factors[level], 1.0])
        scale[:3, 3] = (factors[level] - 1) / 2
        unit = options.common_unit(setup.unit, path)
        grid, attrs = grid_of_header(finest @ scale, data.shape[2:], unit, what=path)
        inside = f"{path}{INSIDE}{setup.number}/{level}"
        names = ["t" if data.shape[0] > 1 else "", "", *SPACE]
        array = FileArray("bdv", inside, names, data.shape, data.dtype, self.stamp(inside), (1, 1, *chunks))
        name = setup.name or location.name.removesuffix(".xml")
        return array.describe(grid, replace(options, level=0), name=name, attrs=attrs)

    def open(self, path: str) -> StackedDatasets | StackedN5:
        file, _, inner = path.partition(INSIDE)
        number, level = (int(word) for word in inner.split("/"))
        project = read_project(file)
        setup = next(one for one in project.setups if one.number == number)
        return _data(project, setup, level)[0]

    def files(self, path: str) -> tuple[str, ...]:
        file, _, inner = path.partition(INSIDE)
        project = read_project(file)
        if project.kind != "hdf5":
            return (file,)
        setup, level = (int(word) for word in inner.split("/"))
        parts: set[str] = set()  # the voxels may be in further files, to which that of the project has links
        with reading_attributes(), open_hdf5(project.data) as data:
            for time in project.times:
                member(data, _cells(time, setup, level), passed=parts)
        return (file, project.data, *sorted(parts))

    def read(self, handle: StackedDatasets | StackedN5, index: ArrayIndex, source: Source) -> NDArray[Any]:
        return handle.read(box_of(index))[tuple(slice(None) if isinstance(s, slice) else 0 for s in index)]


READER = BdvReader()


def _chosen(project: Project, location: StoreLocation) -> Setup:
    told = ", ".join(f"{one.number}{f' ({one.name})' if one.name else ''}" for one in project.setups[:6])
    if location.inner:
        chosen = [one for one in project.setups if location.inner in (str(one.number), one.name)]
        if not chosen:
            raise NotAVolumeError(f"{location.root} has no setup {location.inner!r}; it has {told}")
        return chosen[0]
    if len(project.setups) > 1:
        message = f"{location} has {len(project.setups)} setups: {told}; the first is taken; series= names another one"
        warnings.warn(message, MetadataWarning, stacklevel=3)
    return project.setups[0]


def _registration(project: Project, setup: Setup, path: str) -> Floats:
    """The map from voxels x, y, z to the world, that of the first time."""
    found = [project.registrations.get((time, setup.number)) for time in project.times]
    stated = [one for one in found if one is not None]
    if not stated:
        return np.diag([*(np.ones(3) if setup.spacing is None else setup.spacing[::-1]), 1.0])
    if any(not np.allclose(one, stated[0], rtol=1e-6, atol=1e-9) for one in stated):
        message = f"{path}: the registrations of setup {setup.number} differ between times; that of the first is taken"
        warnings.warn(message, MetadataWarning, stacklevel=3)
    if setup.spacing is not None:
        sizes = np.linalg.norm(stated[0][:3, :3], axis=0)[::-1]
        if not np.allclose(sizes, setup.spacing, rtol=_OTHER_SIZE):
            told = " x ".join(f"{size:.4g}" for size in sizes), " x ".join(f"{size:.4g}" for size in setup.spacing)
            message = (
                f"{path}: voxels of setup {setup.number} are stated to be {told[1]} (z, y, x), and its registration"
            )
            warnings.warn(
                f"{message} makes them {told[0]}, which is used; spacing= replaces it", MetadataWarning, stacklevel=3
            )
    return stated[0]


def _factors(project: Project, setup: Setup) -> Floats:
    """(levels, 3) how many voxels of the finest level are one of each, along x, y, z."""
    if project.kind == "hdf5":
        with open_hdf5(project.data) as file:
            table = member(file, f"s{setup.number:02d}/resolutions")
            factors = np.array(table[:64], dtype=np.float64) if getattr(table, "ndim", 0) == 2 else np.ones((1, 3))
    else:
        stated = attributes(os.path.join(project.data, f"setup{setup.number}"), project.data)
        factors = np.array(stated.get("downsamplingFactors", [[1, 1, 1]])[:64], dtype=np.float64)
    if factors.ndim != 2 or factors.shape[1:] != (3,) or not len(factors) or not (factors >= 1).all():
        raise NotAVolumeError(f"{project.data} has the levels {factors.tolist()!s:.100} of setup {setup.number}")
    return factors


def _data(project: Project, setup: Setup, level: int) -> tuple[StackedDatasets | StackedN5, tuple[int, ...]]:
    """The voxels of a level, and their chunks.

    Raises: NotAVolumeError where none of the times is there.
    """
    if project.kind == "n5":
        return _n5(project, setup, level)
    file = open_hdf5(project.data)

    def name(t: int, _c: int) -> str:
        return _cells(project.times[t], setup.number, level)

    with reading_attributes():
        times = range(len(project.times))
        first: Any = next((d for t in times if (d := member(file, name(t, 0))) is not None), None)
    if getattr(first, "ndim", 0) != 3 or first.dtype.kind not in "iuf":
        raise NotAVolumeError(f"{project.data} holds no voxels of setup {setup.number} at level {level}")
    if first.chunks:
        check_memory(math.prod(first.chunks) * first.dtype.itemsize, f"a chunk of {project.data}")
    # BigDataViewer writes numbers of 16 bits as signed ones, and reads them as unsigned ones.
    dtype = np.dtype(np.uint16) if first.dtype.str[1:] == "i2" else first.dtype.newbyteorder("=")
    shape = (len(project.times), 1, *first.shape)
    return StackedDatasets(file, name, shape, dtype), first.chunks or (1, *first.shape[1:])


def _cells(time: int, setup: int, level: int) -> str:
    """The name of a dataset in HDF5."""
    return f"t{time:05d}/s{setup:02d}/{level}/cells"


def _n5(project: Project, setup: Setup, level: int) -> tuple[StackedN5, tuple[int, ...]]:
    folders = [f"{project.data}/setup{setup.number}/timepoint{time}/s{level}" for time in project.times]
    arrays = tuple(N5Array.of(f, project.data) if os.path.isdir(f) else None for f in folders)
    first = next((one for one in arrays if one is not None), None)
    if first is None or len(first.shape) != 3:
        raise NotAVolumeError(f"{project.data} holds no voxels of setup {setup.number} at level {level}")
    if any(one is not None and (one.shape, one.dtype) != (first.shape, first.dtype) for one in arrays):
        raise NotAVolumeError(f"{project.data}: the times of setup {setup.number} differ in shape or type")
    return StackedN5(arrays, (len(arrays), 1, *first.shape), first.dtype.newbyteorder("=")), first.chunks
