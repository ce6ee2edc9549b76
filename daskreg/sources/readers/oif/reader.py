"""Olympus' OIF and OIB files, through oiffile: a TIFF image for each plane, named after its channel, depth and time.

`s_C001Z002T003.tif` is channel 1, slice 2, time 3. Pixel sizes are those of the reference image, the distance of slices
and times that of their axes' first and last positions.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from daskreg.errors import NotAVolumeError, UnitError
from daskreg.geometry import Grid, canonical_unit, length_ratio
from daskreg.runtime.regular_files import check_beside
from daskreg.sources.coordinates import split_dims
from daskreg.sources.description import Coord, Description, OpenOptions
from daskreg.sources.locate import StoreLocation
from daskreg.sources.readers.file_array import FileArray
from daskreg.sources.readers.frames import FrameReader, Frames, frame_chunks
from daskreg.sources.readers.oif.compound import check_chains

_IMAGE = re.compile(r"s_((?:[A-Z]\d{3,})+)\.tif", re.IGNORECASE)
_INDEX = re.compile(r"([A-Z])(\d{3,})", re.IGNORECASE)
_NAMES = {"T": "t", "Z": "z", "C": "c"}
_MOST_AXES = 9


@dataclass(frozen=True)
class _Planes:
    """The images of a file: axes in front of a plane, their sizes, and the image of each index."""

    codes: tuple[str, ...]
    counts: tuple[int, ...]
    files: Mapping[tuple[int, ...], str]
    plane: tuple[int, int]
    dtype: np.dtype[Any]


class OifReader(FrameReader):
    """Reads planes by oiffile and tifffile."""

    title, library, extra = "OIF or OIB", "oiffile", "oif"

    def open_by(self, library: Any, path: str) -> Any:
        check_chains(path)
        return library.OifFile(path)

    def describe(self, location: StoreLocation, options: OpenOptions) -> Description:
        """The image of the file.

        Raises: NotAVolumeError where planes are missing, or for other axes than times, channels and those of space;
            MissingExtraError; OutsideError for images outside of the folder of the file.
        """
        path = location.root
        with self.opened(path) as file:
            try:
                planes = _planes(file, path)
                names = [*(_NAMES[code] for code in planes.codes), "y", "x"]
                grid = _grid(file.mainfile, names, (*planes.counts, *planes.plane))
                coords = _coords(file.mainfile, names, planes.counts)
            except NotAVolumeError:
                raise
            except Exception as error:
                raise self.damaged(path, error) from error
        for name in self.files(path)[1:]:
            check_beside(name, path)
        shape = (*planes.counts, *planes.plane)
        array = FileArray(
            "oif", path, names, shape, planes.dtype, self.stamp(path), frame_chunks(shape, len(shape) - 2)
        )
        name = os.path.splitext(location.name)[0]
        return array.describe(options.apply(grid), options, name=name, coords=coords)

    def files(self, path: str) -> tuple[str, ...]:
        """The file, and the images of an OIF, which are in a folder beside it."""
        folder = f"{path}.files"
        if not path.lower().endswith(".oif") or not os.path.isdir(folder):
            return (path,)
        return (path, *sorted(os.path.join(folder, name) for name in os.listdir(folder) if _IMAGE.fullmatch(name)))

    def frames(self, file: Any, path: str, inner: str) -> Frames:
        planes = _planes(file, path)
        shape = (*planes.counts, *planes.plane)
        return Frames(shape, planes.dtype, len(planes.counts), lambda index: _image(file, planes.files[index]))


READER = OifReader()


def _image(file: Any, name: str) -> NDArray[Any]:
    with file.open_file(name) as stream, tifffile.TiffFile(stream, name=name) as tiff:
        return np.asarray(tiff.pages.first.asarray())


def _planes(file: Any, path: str) -> _Planes:
    """The images by their index.

    Raises: NotAVolumeError.
    """
    found: dict[tuple[tuple[str, int], ...], str] = {}
    for name in file.glob():
        match = _IMAGE.fullmatch(os.path.basename(name.replace("\\", "/")))
        if match:
            found[tuple((code.upper(), int(n)) for code, n in _INDEX.findall(match[1]))] = name
    orders = {tuple(code for code, _ in key) for key in found}
    if len(orders) != 1:
        raise NotAVolumeError(f"{path} holds no images of one kind; they are {sorted(found.values())[:4]}")
    (codes,) = orders
    unknown = [code for code in codes if code not in _NAMES]
    if unknown or len(set(codes)) != len(codes):
        raise NotAVolumeError(f"{path} has the axes {', '.join(codes)}, of which only T, Z and C are read")
    numbers = [sorted({key[k][1] for key in found}) for k in range(len(codes))]
    counts = tuple(map(len, numbers))
    files = {tuple(numbers[k].index(n) for k, (_, n) in enumerate(key)): name for key, name in found.items()}
    if len(files) != math.prod(counts):
        missing = next(index for index in np.ndindex(*counts) if index not in files)
        told = "".join(f"{code}{numbers[k][i]:03}" for k, (code, i) in enumerate(zip(codes, missing, strict=True)))
        raise NotAVolumeError(f"{path} lacks the image s_{told}.tif")
    with file.open_file(files[(0,) * len(counts)]) as stream, tifffile.TiffFile(stream) as tiff:
        page = tiff.pages.first  # of a damaged file, the chain of pages may have no end
        if page.dtype is None or len(page.shape) != 2 or page.nbytes > tiff.filehandle.size * 2**10:
            raise NotAVolumeError(f"{path}: its images have the shape {page.shape}, which is none of a plane")
        return _Planes(codes, counts, files, (int(page.shape[0]), int(page.shape[1])), np.dtype(page.dtype))


def _grid(main: Mapping[str, Any], names: Sequence[str], shape: Sequence[int]) -> Grid:
    _, space = split_dims(list(names))
    sizes = dict(zip(names, shape, strict=True))
    image = main.get("Reference Image Parameter", {})
    steps = {
        d: (image.get(f"{key}ConvertValue"), image.get(f"{key}Unit")) for d, key in (("y", "Height"), ("x", "Width"))
    }
    steps["z"] = _step(main, "Z", sizes.get("z", 1))
    spacing = []
    for d in space:
        value, unit = steps[d]
        try:
            ratio = length_ratio(canonical_unit(str(unit)), "micrometer")
        except UnitError:
            ratio = None
        if ratio is None or not isinstance(value, int | float) or not math.isfinite(value) or not value:
            return Grid([sizes[k] for k in space], axes=space)
        spacing.append(abs(value) * ratio)
    return Grid([sizes[d] for d in space], spacing, unit="um", axes=space)


def _step(main: Mapping[str, Any], code: str, count: int) -> tuple[float | None, str | None]:
    """The distance along an axis, and its unit; None where it is not stated."""
    for number in range(_MOST_AXES):
        axis = main.get(f"Axis {number} Parameters Common", {})
        if axis.get("AxisCode") == code:
            start, end = axis.get("StartPosition"), axis.get("EndPosition")
            if isinstance(start, int | float) and isinstance(end, int | float) and count > 1:
                return float(end - start) / (count - 1), str(axis.get("UnitName"))
    return None, None


def _coords(main: Mapping[str, Any], names: Sequence[str], counts: Sequence[int]) -> dict[str, Coord]:
    coords: dict[str, Coord] = {}
    sizes = dict(zip(names, counts, strict=False))
    labels = [str(main.get(f"Channel {k + 1} Parameters", {}).get("CH Name")) for k in range(sizes.get("c", 0))]
    if labels and "None" not in labels and len(set(labels)) == len(labels):
        coords["c"] = (np.asarray(labels), {})
    step, unit = _step(main, "T", sizes.get("t", 1))
    if "t" in sizes and step is not None and math.isfinite(step) and step > 0 and unit:
        coords["t"] = (step * np.arange(sizes["t"]), {"units": unit})
    return coords
