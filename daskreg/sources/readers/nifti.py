"""NIfTI (.nii, .nii.gz, .hdr/.img), through nibabel's headers: the world of ITK, z, y, x."""

from __future__ import annotations

import math
import os
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import MetadataWarning, MissingExtraError, NotAVolumeError
from daskreg.geometry import Grid
from daskreg.sources.coordinates import SPACE
from daskreg.sources.found import Coord, Found, Wish
from daskreg.sources.locate import Place, file_stamp
from daskreg.sources.readers.mapped import Mapped, mapped, over, unpacked
from daskreg.sources.readers.physical import lps_from_ras, placed, plane_of
from daskreg.sources.source import Source
from daskreg.sources.stored import Stored, found_of

# Of the stored axes; further ones must have a length of 1.
_AXES = ("x", "y", "z", "t", "c")
_PACKINGS = {".gz": "gzip", ".bz2": "bz2"}
_UNITS = {"mm": "millimeter", "micron": "micrometer", "meter": "meter"}
_TIMES = {"sec": "second", "msec": "millisecond", "usec": "microsecond"}


def open_handle(path: str) -> Mapped:
    """The voxels of a file, axes as stored (x first), colours last."""
    proxy = _load(path).dataobj
    dtype, shape = np.dtype(proxy.dtype), tuple(proxy.shape)
    if colours := len(dtype.fields or ()):  # red, green and blue of each voxel together
        dtype, shape = np.dtype(np.uint8), (colours, *shape)
    file, offset = _file(proxy), int(proxy.offset)
    packing = _PACKINGS.get(os.path.splitext(file)[1].lower())
    if packing:
        with open(file, "rb") as packed:
            size = offset + math.prod(shape) * dtype.itemsize
            data = over(unpacked(packed, packing, size, file), dtype, shape, offset=offset, order="F")
    else:
        data = mapped(file, dtype, shape, offset=offset, order="F")
    return Mapped(np.moveaxis(data, 0, -1) if colours else data, *_line(proxy))


def read(handle: Mapped, index: tuple[int | slice, ...], source: Source) -> NDArray[Any]:
    """`handle[index]` as values."""
    return handle.read(index, source.dtype)


def describe(place: Place, wish: Wish) -> Found:
    """The image in a NIfTI file; axes t and c are there where they are longer than 1.

    Raises: NotAVolumeError, GridError; MissingExtraError without nibabel.
    """
    where = str(place)
    image = _load(place.root)
    proxy = image.dataobj
    shape, colours = tuple(proxy.shape), len(proxy.dtype.fields or ())
    names = _names(shape, colours, where)
    shape = (*shape, colours) if colours else shape
    space = [n for n in SPACE if n in names]
    grid, attrs = _grid(image, [shape[names.index(n)] for n in space], where, wish)
    times = _times(image.header, shape[names.index("t")]) if "t" in names else None
    stamp = file_stamp(place.root) + ("" if _file(proxy) == place.root else file_stamp(_file(proxy)))
    stored = Stored("nifti", place.root, names, shape, _values(proxy), stamp)
    return found_of(stored, grid, wish, name=_stem(place), attrs=attrs, coords={} if times is None else {"t": times})


def _load(path: str) -> Any:
    try:
        import nibabel
    except ImportError as error:
        raise MissingExtraError("nibabel", "formats") from error
    try:
        image = nibabel.load(path)
    except Exception as error:
        raise NotAVolumeError(f"{path} cannot be read as NIfTI: {error}") from error
    if not hasattr(getattr(image, "dataobj", None), "offset"):
        raise NotAVolumeError(f"{path} holds no voxels that nibabel can find in the file")
    return image


def _file(proxy: Any) -> str:
    """The file that holds the voxels: of a .hdr, the .img."""
    return str(getattr(proxy.file_like, "filename", proxy.file_like))


def _names(shape: tuple[int, ...], colours: int, where: str) -> list[str]:
    """Names of the stored axes, "" for one of length 1 that is dropped."""
    names = [_AXES[k] if k < len(_AXES) else "?" for k in range(len(shape))] + (["c"] if colours else [])
    sizes = (*shape, colours)
    names = ["" if n not in SPACE and s == 1 else n for n, s in zip(names, sizes, strict=False)]
    if len(shape) < 2 or "?" in names or names.count("c") > 1:
        raise NotAVolumeError(f"{where} has the shape {shape}, which is not one of x, y, z, t, channel")
    return names


def _grid(image: Any, shape: list[int], where: str, wish: Wish) -> tuple[Grid, dict[str, Any]]:
    header = image.header
    length = header.get_xyzt_units()[0] if hasattr(header, "get_xyzt_units") else "unknown"
    matrix = _lps_from_index(header, where)
    spaced = matrix is not None or any(z not in (0.0, 1.0) for z in header.get_zooms()[: len(shape)])
    # Nearly all files without a unit are in millimetres, and ITK takes them so.
    unit = wish.common({"x": _UNITS.get(length, "millimeter" if spaced else None)}, where)
    if matrix is None:
        zooms = [float(z) or 1.0 for z in header.get_zooms()[: len(shape)]]
        return Grid(shape, zooms[::-1], unit=unit, axes=SPACE[-len(shape) :]), {}
    if len(shape) == 2:
        plane = plane_of(matrix)
        if plane is None:
            message = f"{where}: the plane of this 2D image is turned in space; its coordinates run in the plane"
            warnings.warn(message, MetadataWarning, stacklevel=2)
            plane = np.diag([*np.linalg.norm(matrix[:3, :2], axis=0), 1.0])
        matrix = plane
    return placed(matrix, shape, unit, where=where)


def _lps_from_index(header: Any, where: str) -> NDArray[np.float64] | None:
    """The header's best matrix (sform before qform), x, y, z order; None where it states none that can be used."""
    for form in ("sform", "qform"):
        if not (hasattr(header, f"get_{form}") and header[f"{form}_code"] > 0):
            continue
        matrix = np.asarray(getattr(header, f"get_{form}")(), dtype=np.float64)
        if np.all(np.isfinite(matrix)) and abs(np.linalg.det(matrix[:3, :3])) > 0:
            return lps_from_ras(matrix)
        warnings.warn(f"{where}: its {form} is singular and left out", MetadataWarning, stacklevel=2)
    return None


def _line(proxy: Any) -> tuple[float, float]:
    return (1.0, 0.0) if proxy.dtype.fields else (float(proxy.slope), float(proxy.inter))


def _values(proxy: Any) -> np.dtype[Any]:
    """The type of the values: of scaled ones a float that holds them."""
    stored = np.dtype(np.uint8 if proxy.dtype.fields else proxy.dtype)
    if _line(proxy) == (1.0, 0.0) or stored.kind not in "iuf":
        return stored
    return np.dtype(np.float32 if stored.itemsize <= 2 or stored == np.float32 else np.float64)


def _times(header: Any, count: int) -> Coord | None:
    zooms = header.get_zooms()
    step = float(zooms[3]) if len(zooms) > 3 else 0.0
    unit = _TIMES.get(header.get_xyzt_units()[1]) if hasattr(header, "get_xyzt_units") else None
    if step <= 0 or unit is None:
        return None
    return float(header["toffset"]) + step * np.arange(count), {"units": unit}


def _stem(place: Place) -> str:
    name = place.name
    for suffix in (*_PACKINGS, ".nii", ".hdr", ".img"):
        name = name.removesuffix(suffix)
    return name
