"""NIfTI (.nii, .nii.gz, .hdr/.img), through nibabel's headers: the world of ITK, z, y, x."""

from __future__ import annotations

import math
import os
import warnings
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import MetadataWarning, MissingExtraError, NotAVolumeError
from daskreg.geometry import Grid
from daskreg.runtime.messages import reason
from daskreg.sources.channels import named_colours
from daskreg.sources.coordinates import SPACE
from daskreg.sources.description import Coord, Description, OpenOptions
from daskreg.sources.locate import StoreLocation
from daskreg.sources.reader import Reader
from daskreg.sources.readers.file_array import FileArray
from daskreg.sources.readers.mapped import MappedArray, check_size, map_file, map_open_file, unpack
from daskreg.sources.readers.physical import grid_of_header, lps_from_ras, plane_of
from daskreg.sources.source import ArrayIndex, Source
from daskreg.sources.stamps import stamp_of

# Of the stored axes; further ones must have a length of 1.
_AXES = ("x", "y", "z", "t", "c")
_PACKINGS = {".gz": "gzip", ".bz2": "bz2"}
_ROUNDING = 0.1
"""Voxels by which sform and qform may differ. Near half a turn, the first number of a quaternion is the root of a small
difference, whose error is about 2e-4 in single precision: 0.1 voxel at the ends of 1,000."""

_UNITS = {"mm": "millimeter", "micron": "micrometer", "meter": "meter"}
_TIMES = {"sec": "second", "msec": "millisecond", "usec": "microsecond"}


class NiftiReader(Reader):
    """Maps the voxels into memory, from an unpacked copy where the file is packed."""

    def describe(self, location: StoreLocation, options: OpenOptions) -> Description:
        """The image in a NIfTI file; axes t and c are there where they are longer than 1.

        Raises: NotAVolumeError, GridError; MissingExtraError without nibabel.
        """
        path, what = location.root, str(location)
        image = _load(path)
        proxy = image.dataobj
        shape, colours = tuple(proxy.shape), len(proxy.dtype.fields or ())
        names = _names(shape, colours, what)
        shape = (*shape, colours) if colours else shape
        space = [n for n in SPACE if n in names]
        grid, attrs = _grid(image, [shape[names.index(n)] for n in space], what, options)
        times = _times(image.header, shape[names.index("t")]) if "t" in names else None
        _check_size(proxy, what)
        array = FileArray("nifti", path, names, shape, _value_dtype(proxy), stamp_of(_files(path, proxy)))
        coords = ({} if times is None else {"t": times}) | named_colours(colours)
        return array.describe(grid, options, name=_stem(location), attrs=attrs, coords=coords)

    def open(self, path: str) -> MappedArray:
        """The voxels of a file, axes as stored (x first), colours last."""
        proxy = _load(path).dataobj
        dtype, shape = np.dtype(proxy.dtype), tuple(proxy.shape)
        if colours := len(dtype.fields or ()):  # red, green and blue of each voxel together
            dtype, shape = np.dtype(np.uint8), (colours, *shape)
        file, offset = _voxel_file(proxy), int(proxy.offset)
        packing = _packing(file)
        if packing:
            with open(file, "rb") as packed:
                size = offset + math.prod(shape) * dtype.itemsize
                data = map_open_file(unpack(packed, packing, size, file), dtype, shape, offset=offset, order="F")
        else:
            data = map_file(file, dtype, shape, offset=offset, order="F")
        return MappedArray(data.transpose(*range(1, len(shape)), 0) if colours else data, *_slope_intercept(proxy))

    def files(self, path: str) -> tuple[str, ...]:
        proxy: Any = _load(path).dataobj
        return _files(path, proxy)

    def read(self, handle: MappedArray, index: ArrayIndex, source: Source) -> NDArray[Any]:
        return handle.read(index, source.dtype)


READER = NiftiReader()


def check_header(path: str) -> None:
    """Refuse a file whose header is damaged, or that is too short for the voxels that it states.

    Raises: NotAVolumeError; MissingExtraError without nibabel.
    """
    _check_size(_load(path).dataobj, path)


def _check_size(proxy: Any, what: str) -> None:
    voxels = math.prod(proxy.shape) * np.dtype(proxy.dtype).itemsize
    check_size(int(proxy.offset) + voxels, (_voxel_file(proxy),), _packing(_voxel_file(proxy)), what)


def _load(path: str) -> Any:
    try:
        import nibabel
    except ImportError as error:
        raise MissingExtraError("nibabel", "formats") from error
    try:
        image: Any = nibabel.load(path)
    except Exception as error:
        raise NotAVolumeError(f"{path} cannot be read as NIfTI: {reason(error)}") from error
    if not hasattr(getattr(image, "dataobj", None), "offset") or not hasattr(image.header, "get_zooms"):
        raise NotAVolumeError(f"{path} holds no voxels that nibabel can find in the file")
    if not os.path.exists(_voxel_file(image.dataobj)):
        raise NotAVolumeError(f"{path}: its voxels should be in {_voxel_file(image.dataobj)}, which does not exist")
    return image


def _packing(file: str) -> str:
    return _PACKINGS.get(os.path.splitext(file)[1].lower(), "")


def _voxel_file(proxy: Any) -> str:
    """The file that holds the voxels: of a .hdr, the .img."""
    return str(getattr(proxy.file_like, "filename", proxy.file_like))


def _files(path: str, proxy: Any) -> tuple[str, ...]:
    return (path,) if _voxel_file(proxy) == path else (path, _voxel_file(proxy))


def _names(shape: tuple[int, ...], colours: int, what: str) -> list[str]:
    """Names of the stored axes, "" for one of length 1 that is dropped."""
    names = [_AXES[k] if k < len(_AXES) else "?" for k in range(len(shape))] + (["c"] if colours else [])
    sizes = (*shape, colours)
    names = ["" if n not in SPACE and s == 1 else n for n, s in zip(names, sizes, strict=False)]
    if len(shape) < 2 or "?" in names or names.count("c") > 1:
        raise NotAVolumeError(f"{what} has the shape {shape}, which is not one of x, y, z, t, channel")
    return names


def _grid(image: Any, shape: list[int], what: str, options: OpenOptions) -> tuple[Grid, dict[str, Any]]:
    header = image.header
    length = header.get_xyzt_units()[0] if hasattr(header, "get_xyzt_units") else "unknown"
    matrix = _lps_from_index(header, what)
    spaced = matrix is not None or any(z not in (0.0, 1.0) for z in header.get_zooms()[: len(shape)])
    # Nearly all files without a unit are in millimetres, and ITK takes them so.
    unit = options.common_unit(_UNITS.get(length, "millimeter" if spaced else None), what)
    if matrix is None:
        zooms = [float(z) or 1.0 for z in header.get_zooms()[: len(shape)]]
        return Grid(shape, zooms[::-1], unit=unit, axes=SPACE[-len(shape) :]), {}
    if len(shape) == 2:
        plane = plane_of(matrix)
        if plane is None:
            message = f"{what}: the plane of this 2D image is turned in space; its coordinates run in the plane"
            warnings.warn(message, MetadataWarning, stacklevel=2)
            plane = np.diag([*np.linalg.norm(matrix[:3, :2], axis=0), 1.0])
        matrix = plane
    return grid_of_header(matrix, shape, unit, what=what)


def _lps_from_index(header: Any, what: str) -> NDArray[np.float64] | None:
    """The header's matrix (sform before qform), x, y, z order; None where it has none that can be used."""
    for form in ("sform", "qform"):
        if not (hasattr(header, f"get_{form}") and header[f"{form}_code"] > 0):
            continue
        matrix = np.asarray(getattr(header, f"get_{form}")(), dtype=np.float64)
        if np.all(np.isfinite(matrix)) and abs(np.linalg.det(matrix[:3, :3])) > 0:
            if form == "sform" and header["qform_code"] > 0:
                _compare_forms(matrix, header, what)
            return lps_from_ras(matrix)
        warnings.warn(f"{what}: its {form} is singular and left out", MetadataWarning, stacklevel=2)
    return None


def _compare_forms(sform: NDArray[np.float64], header: Any, what: str) -> None:
    """Warn where the qform puts some corner of the volume elsewhere than the sform, which is used."""
    qform = np.asarray(header.get_qform(), dtype=np.float64)
    shape = (*header.get_data_shape(), 1, 1)[:3]
    corners = np.array([[*corner, 1.0] for corner in product(*((0, n - 1) for n in shape))])
    apart = np.linalg.norm((corners @ (sform - qform).T)[:, :3], axis=1).max()
    voxel = np.linalg.norm(sform[:3, :3], axis=0).min()
    if not apart <= _ROUNDING * voxel:
        message = (
            f"{what}: its sform (code {header['sform_code']}) and qform (code {header['qform_code']}) differ by up to "
            f"{apart:.3g}; the sform is used, and other programs may take the qform, as ITK does with some codes"
        )
        warnings.warn(message, MetadataWarning, stacklevel=2)


def _slope_intercept(proxy: Any) -> tuple[float, float]:
    return (1.0, 0.0) if proxy.dtype.fields else (float(proxy.slope), float(proxy.inter))


def _value_dtype(proxy: Any) -> np.dtype[Any]:
    """The type of the values: for scaled ones, a float type that holds them."""
    stored = np.dtype(np.uint8 if proxy.dtype.fields else proxy.dtype)
    if _slope_intercept(proxy) == (1.0, 0.0) or stored.kind not in "iuf":
        return stored
    return np.dtype(np.float32 if stored.itemsize <= 2 or stored == np.float32 else np.float64)


def _times(header: Any, count: int) -> Coord | None:
    zooms = header.get_zooms()
    step = float(zooms[3]) if len(zooms) > 3 else 0.0
    unit = _TIMES.get(header.get_xyzt_units()[1]) if hasattr(header, "get_xyzt_units") else None
    if step <= 0 or unit is None:
        return None
    return float(header["toffset"]) + step * np.arange(count), {"units": unit}


def _stem(location: StoreLocation) -> str:
    name = location.name
    for suffix in (*_PACKINGS, ".nii", ".hdr", ".img"):
        name = name.removesuffix(suffix)
    return name
