"""MRC (.mrc, .map, .rec, .st, .ali; packed with gzip or bz2 too), through mrcfile's headers.

Lengths are in angstrom. The first voxel lies at the header's `origin`, and where that is 0, at
its `nstart` voxels (MRC2014 allows both; viewers do the same). IMOD marks its files:
its bytes are unsigned unless a flag says otherwise, and its origin has the other sign
(bio3d.colorado.edu/imod/doc/mrc_format.txt).
"""

from __future__ import annotations

import io
import math
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import MetadataWarning, MissingExtraError, NotAVolumeError
from daskreg.geometry import Grid
from daskreg.runtime.messages import reason
from daskreg.sources.coordinates import SPACE
from daskreg.sources.description import Description, OpenOptions
from daskreg.sources.locate import StoreLocation
from daskreg.sources.reader import Reader
from daskreg.sources.readers.file_array import FileArray
from daskreg.sources.readers.mapped import MappedArray, check_size, map_file, map_open_file, unpack, unpacked_start
from daskreg.sources.readers.mrc_extended import FeiImages, fei_images
from daskreg.sources.source import ArrayIndex, Source

_PACKINGS = {".gz": "gzip", ".bz2": "bz2"}
_HEADER = 1024
_MOST_EXTENDED = 2**26
_ANGSTROMS = 1e10
_EXTENDED = slice(92, 96)  # where the header states the size of the extended one

# What IMOD writes at byte 152 of the header, before its flags; and of those flags two.
_IMOD = 1146047817
_SIGNED, _INVERTED = 1, 4


class MrcReader(Reader):
    """Maps the voxels into memory, from an unpacked copy where the file is packed."""

    def describe(self, location: StoreLocation, options: OpenOptions) -> Description:
        """The image, stack or volume in an MRC file; a file without the map ID is read with a warning.

        Raises: NotAVolumeError, UnsupportedDTypeError (complex); MissingExtraError without mrcfile.
        """
        path, what = location.root, str(location)
        header, problem = _header(path)
        dtype, shape, offset = _layout(header, what)
        check_size(
            offset + math.prod(shape) * dtype.itemsize,
            (path,),
            _packing(path),
            f"{what} ({problem})" if problem else what,
        )
        if problem:
            warnings.warn(f"{what}: {problem}; its header is used as it is", MetadataWarning, stacklevel=2)
        names = _names(header)
        fei = _fei(header, path, shape[0])
        grid = _grid(header, dict(zip(names, shape, strict=True)), fei, what, options)
        attrs = {"tilt_angles": list(fei.tilts)} if fei is not None and fei.tilts else {}
        name = Path(path.removesuffix(Path(path).suffix) if _packing(path) else path).stem
        return FileArray("mrc", path, names, shape, dtype, self.stamp(path)).describe(
            grid, options, name=name, attrs=attrs
        )

    def open(self, path: str) -> MappedArray:
        """The voxels of a file, slowest axis first."""
        header, _ = _header(path)
        dtype, shape, offset = _layout(header, path)
        packing = _packing(path)
        if not packing:
            return MappedArray(map_file(path, dtype, shape, offset=offset))
        size = offset + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        with open(path, "rb") as packed:
            return MappedArray(map_open_file(unpack(packed, packing, size, path), dtype, shape, offset=offset))

    def read(self, handle: MappedArray, index: ArrayIndex, source: Source) -> NDArray[Any]:
        return handle.read(index, source.dtype)


READER = MrcReader()


def _fei(header: Any, path: str, count: int) -> FeiImages | None:
    """What a microscope of FEI wrote behind the header, if anything."""
    size = min(int(header["nsymbt"]), _MOST_EXTENDED)
    if size <= 0:
        return None
    with open(path, "rb") as file:
        return fei_images(header, unpacked_start(file, _packing(path), _HEADER + size)[_HEADER:], count)


def _header(path: str) -> tuple[Any, str]:
    """The header, and what is wrong with it, if anything ("")."""
    try:
        import mrcfile
    except ImportError as error:
        raise MissingExtraError("mrcfile", "formats") from error
    try:
        with open(path, "rb") as file:
            start = bytearray(unpacked_start(file, _packing(path), _HEADER))
        extended = bytes(start[_EXTENDED])
        start[_EXTENDED] = bytes(4)  # what follows the header is not wanted, which may be anything
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            header = mrcfile.mrcinterpreter.MrcInterpreter(
                io.BytesIO(start), permissive=True, header_only=True
            ).header.copy()
        header["nsymbt"] = np.frombuffer(extended, header["nsymbt"].dtype)[0]
    except Exception as error:
        raise NotAVolumeError(f"{path} cannot be read as MRC: {reason(error)}") from error
    return header, "; ".join(str(w.message) for w in caught if issubclass(w.category, RuntimeWarning))


def _layout(header: Any, what: str) -> tuple[np.dtype[Any], tuple[int, ...], int]:
    """Type and shape of the voxels, slowest axis first, and the byte at which they begin."""
    from mrcfile.utils import data_dtype_from_header

    shape = tuple(int(header[n]) for n in ("nz", "ny", "nx"))
    try:
        dtype: np.dtype[Any] = np.dtype(data_dtype_from_header(header))
    except ValueError as error:
        raise NotAVolumeError(f"{what} cannot be read as MRC: {error}") from error
    if dtype == np.int8 and (_imod_flags(header) or 0) & _SIGNED == 0 and _holds_unsigned(header):
        dtype = np.dtype(np.uint8)
    if min(shape) < 1 or int(header["nsymbt"]) < 0:
        raise NotAVolumeError(f"{what} cannot be read as MRC: its header states a shape of {shape}")
    return dtype, shape, _HEADER + int(header["nsymbt"])


def _imod_flags(header: Any) -> int | None:
    """The flags of IMOD; None in files of other programs."""
    stamp, flags = np.frombuffer(header.tobytes(), header["nx"].dtype, 2, 152).tolist()
    return int(flags) if stamp == _IMOD else None


def _holds_unsigned(header: Any) -> bool:
    """Whether bytes without a flag are unsigned: those of IMOD are, and those whose stated maximum is above int8."""
    return _imod_flags(header) is not None or float(header["dmax"]) > np.iinfo(np.int8).max


def _names(header: Any) -> list[str]:
    """Names of the stored axes, slowest first: mapc, mapr, maps say which is x (1), y or z."""
    order = [int(header[n]) for n in ("maps", "mapr", "mapc")]
    return ["xyz"[k - 1] for k in order] if sorted(order) == [1, 2, 3] else list(SPACE)


def _grid(header: Any, sizes: dict[str, int], fei: FeiImages | None, what: str, options: OpenOptions) -> Grid:
    spacing, known = _spacing(header, fei, what)
    names = _names(header)
    starts = dict(zip(names, (float(header[n]) for n in ("nzstart", "nystart", "nxstart")), strict=True))
    origin = np.array([float(header["origin"][k]) for k in "zyx"])
    flags = _imod_flags(header)
    if flags is not None and not flags & _INVERTED:
        origin = -origin
    if not np.any(origin) or not np.all(np.isfinite(origin)):
        origin = spacing * np.array([starts[k] for k in "zyx"])
    angles = [float(header["cellb"][k]) for k in ("alpha", "beta", "gamma")]
    if known and any(angles) and not np.allclose(angles, 90, atol=0.01):
        message = f"{what}: the cell's angles are {angles}, not 90 degrees; voxels are taken as boxes all the same"
        warnings.warn(message, MetadataWarning, stacklevel=2)
    unit = options.common_unit("angstrom" if known else None, what)
    return Grid([sizes[k] for k in "zyx"], spacing, origin + 0.0, unit=unit, axes=SPACE)


def _spacing(header: Any, fei: FeiImages | None, what: str) -> tuple[NDArray[np.float64], bool]:
    """Sizes of a voxel along z, y, x, and whether they are known (in angstrom).

    The pixel size of a microscope's images counts where the header has none, or the 1 angstrom that programs put there
    for none. Along an axis without a size, it is taken to be the smallest of the others.
    """
    cells = np.array([float(header["cella"][k]) for k in "zyx"])
    counts = np.array([float(header[f"m{k}"]) for k in "zyx"])
    good = np.isfinite(cells) & (cells > 0) & (counts > 0)
    spacing = cells / np.where(good, counts, 1)
    if fei is not None and np.allclose(spacing[good], 1, atol=1e-4):
        y, x = (size * _ANGSTROMS for size in fei.pixel_size)
        return np.array([min(y, x), y, x]), True
    if not good.any():
        return np.ones(3), False
    if not good.all():
        lacking = ", ".join(k for k, there in zip("zyx", good, strict=True) if not there)
        message = (
            f"{what}: no voxel size along {lacking}; {spacing[good].min():g} angstrom, as along the others, is taken"
        )
        warnings.warn(message, MetadataWarning, stacklevel=2)
        spacing = np.where(good, spacing, spacing[good].min())
    return spacing, True


def _packing(path: str) -> str:
    return _PACKINGS.get(os.path.splitext(path)[1].lower(), "")
