"""TIFF with OME metadata, MRC, HDF5 and VTKHDF."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from daskreg.errors import MetadataWarning, MissingExtraError, UnitError
from daskreg.flat.image import FlatFormat, FlatImage, xyz_matrix
from daskreg.formats.ome import LeadAxis
from daskreg.geometry import PIXEL
from daskreg.sources.channels import COLOURS

_NUMBERS = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16", "float32", "float64")
_VTK_TYPES = tuple(name for name in _NUMBERS if name != "float16")
_OME_TYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64")
_MRC_MODES = {"int8": 0, "int16": 1, "float32": 2, "uint16": 6, "float16": 12}
# Units of length as OME-XML spells them.
_OME_UNITS = {
    PIXEL: "pixel", "angstrom": "Å", "nanometer": "nm", "micrometer": "µm", "millimeter": "mm", "centimeter": "cm",
    "meter": "m", "inch": "in",
}  # fmt: skip
_OME_TIMES = {
    "nanosecond": "ns", "microsecond": "µs", "millisecond": "ms", "second": "s", "minute": "min", "hour": "h",
    "day": "d",
}  # fmt: skip


def _check_tiff(image: FlatImage) -> None:
    if image.grid.unit not in _OME_UNITS:
        raise UnitError(f"OME-TIFF has no unit {image.grid.unit}: use one of {', '.join(_OME_UNITS)}")


def _create_tiff(path: Path, image: FlatImage) -> int:
    grid, unit = image.grid, _OME_UNITS[image.grid.unit]
    metadata: dict[str, Any] = {"axes": "".join(image.dims).upper(), "Name": image.name}
    labels = next((axis.labels for axis in image.lead if axis.labels), ())
    # The channels of an image in colour lie one after the other, as those of any other image, but are one image.
    colour = tuple(labels) == COLOURS[:3] and image.dims[-3:-2] == ("c",) and image.dtype.kind == "u"
    planes = math.prod(image.shape[: -3 if colour else -2])
    if grid.unit != PIXEL or set(grid.spacing) != {1.0} or any(grid.origin):
        places: dict[str, Any] = {}
        for name, step, start in zip(grid.names, grid.spacing, grid.origin, strict=True):
            axis = name.upper()
            metadata |= {f"PhysicalSize{axis}": step, f"PhysicalSize{axis}Unit": unit}
            along = start + step * np.arange(grid.shape[0]) if axis == "Z" else np.full(1, start)
            repeated = np.resize(along, planes).tolist()
            places |= {f"Position{axis}": repeated, f"Position{axis}Unit": [unit] * planes}
        metadata["Plane"] = places
    if labels and not colour:
        metadata["Channel"] = {"Name": list(labels)}
    metadata |= _time_increment(image)
    mapped = tifffile.memmap(
        path, shape=image.shape, dtype=image.dtype, bigtiff=True, ome=True, metadata=metadata, byteorder="<",
        photometric="rgb" if colour else "minisblack", planarconfig="separate" if colour else None,
    )  # fmt: skip
    return int(mapped.offset)


def _time_increment(image: FlatImage) -> dict[str, Any]:
    """The distance of times in OME's words; it warns of what is not kept."""
    times = image.lead[image.dims.index("t")] if "t" in image.dims else LeadAxis()
    unit = _OME_TIMES.get(times.unit or "")
    if (times.scale != 1 and unit is None) or times.start != 0:
        what = "a first time other than 0" if unit is not None else f"times without a unit of {', '.join(_OME_TIMES)}"
        warnings.warn(f"OME-TIFF does not hold {what}; it is not written", MetadataWarning, stacklevel=2)
    return {} if unit is None else {"TimeIncrement": times.scale, "TimeIncrementUnit": unit}


def _check_mrc(image: FlatImage) -> None:
    grid = image.grid
    if grid.unit == PIXEL and (set(grid.spacing) != {1.0} or any(grid.origin)):
        raise UnitError("MRC has lengths in angstrom, and the spacing is in pixels: pass unit= to `open`")
    image.ratio("angstrom")


def _create_mrc(path: Path, image: FlatImage) -> int:
    try:
        import mrcfile
    except ImportError as error:
        raise MissingExtraError("mrcfile", "formats") from error
    grid, ratio = image.grid, image.ratio("angstrom")
    with mrcfile.new_mmap(path, image.shape, mrc_mode=_MRC_MODES[image.dtype.name], overwrite=True) as file:
        if grid.unit != PIXEL:
            sizes = (*grid.spacing[::-1], grid.spacing[0])[:3]
            file.voxel_size = tuple(ratio * s for s in sizes)
            for name, start in zip(grid.names, grid.origin, strict=True):
                file.header.origin[name] = ratio * start
        # Below the minimum: these statistics are not known (MRC2014).
        file.header.dmin, file.header.dmax, file.header.dmean, file.header.rms = 0, -1, -2, -1
        return int(file.header.nbytes + file.extended_header.nbytes)


def _create_hdf5(path: Path, image: FlatImage) -> int:
    try:
        import h5py
    except ImportError as error:
        raise MissingExtraError("h5py", "formats") from error
    with h5py.File(path, "w") as file:
        data = _one_run(h5py, file, b"data", image.shape, image.dtype)
        file.attrs["default"] = "data"
        for k, name in enumerate(image.dims):
            data.dims[k].label = name
            values, unit = _positions(image, k)
            if values is None:
                continue
            scale = file.create_dataset(name, data=values)
            if unit is not None:
                scale.attrs["units"] = unit
            scale.make_scale(name)
            data.dims[k].attach_scale(scale)
        file.flush()
        return int(data.id.get_offset())


def _one_run(h5py: Any, group: Any, name: bytes, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
    """A dataset whose voxels lie one after another, in room that the file has from the beginning."""
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_layout(h5py.h5d.CONTIGUOUS)
    layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    layout.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    kind = h5py.h5t.py_create(dtype.newbyteorder("<"), logical=True)
    return h5py.Dataset(h5py.h5d.create(group.id, name, kind, h5py.h5s.create_simple(shape), dcpl=layout))


def _create_vtkhdf(path: Path, image: FlatImage) -> int:
    """ParaView's image: the group VTKHDF with one array of its points; VTK knows no units, and ignores `units`."""
    try:
        import h5py
    except ImportError as error:
        raise MissingExtraError("h5py", "formats") from error
    grid, matrix = image.grid, xyz_matrix(image.grid, 1.0)
    shape = (1,) * (3 - grid.ndim) + image.shape
    spacing = np.ones(3)
    spacing[: grid.ndim] = grid.spacing[::-1]
    name = image.name.replace("/", "_").strip(".") or "data"

    def text(value: str) -> Any:
        return np.bytes_(value.encode("ascii", "replace"))

    with h5py.File(path, "w") as file:
        group = file.create_group("VTKHDF")
        group.attrs["Version"] = np.asarray((2, 0), np.int64)
        group.attrs["Type"] = text("ImageData")
        group.attrs["WholeExtent"] = np.asarray([k for n in shape[::-1] for k in (0, n - 1)], np.int64)
        group.attrs["Origin"] = matrix[:3, 3]
        group.attrs["Spacing"] = spacing
        group.attrs["Direction"] = (matrix[:3, :3] / spacing).ravel()
        points = group.create_group("PointData")
        points.attrs["Scalars"] = text(name)
        data = _one_run(h5py, points, name.encode(), shape, image.dtype)
        if grid.unit != PIXEL:
            data.attrs["units"] = text(grid.unit)
        file.flush()
        return int(data.id.get_offset())


def _positions(image: FlatImage, axis: int) -> tuple[Any, str | None]:
    """The coordinates along an axis, and their unit; None where they only count."""
    k = axis - len(image.lead_dims)
    if k >= 0:
        grid = image.grid
        return grid.origin[k] + grid.spacing[k] * np.arange(grid.shape[k]), grid.unit
    lead = image.lead[axis]
    if lead.labels:
        return [label.encode() for label in lead.labels], None
    return lead.start + lead.scale * np.arange(image.shape[axis]), lead.unit


SCIENCE = (
    FlatFormat(
        "TIFF", (".tif", ".tiff", ".btf", ".tf8"), _OME_TYPES, _create_tiff, lead=("t", "c"), check_units=_check_tiff
    ),
    FlatFormat(
        "MRC", (".mrc", ".mrcs", ".map", ".rec", ".st", ".ali"), tuple(_MRC_MODES), _create_mrc, check_units=_check_mrc
    ),
    FlatFormat(
        "HDF5", (".h5", ".hdf5", ".hdf", ".he5"), (*_NUMBERS, "bool"), _create_hdf5, lead=("t", "c"), named=True
    ),
    FlatFormat("VTKHDF", (".vtkhdf",), _VTK_TYPES, _create_vtkhdf, turned=True),
)
