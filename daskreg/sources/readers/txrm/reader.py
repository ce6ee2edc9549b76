"""Files of Zeiss' X-ray microscopes, through olefile: compound files with a stream for each image.

    ImageInfo/ImageWidth, ImageHeight, NoOfImages, DataType (int32), PixelSize (float32, micrometres), Angles (float32)
    ImageData1/Image1 ... ImageData1/Image100, ImageData2/Image101 ...

Rows are taken in the order in which they are stored. `.txm` is a reconstruction; of projections (`.txrm`) the slices
have the spacing of the pixels, and `attrs["tilt_angles"]` are their angles in degrees. Flat fields are not divided by.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import NotAVolumeError
from daskreg.geometry import Grid
from daskreg.sources.description import Description, OpenOptions
from daskreg.sources.locate import StoreLocation
from daskreg.sources.readers.file_array import FileArray
from daskreg.sources.readers.frames import FrameReader, Frames, frame_chunks
from daskreg.sources.readers.mapped import check_size

_TYPES = {2: "<i1", 3: "<u1", 4: "<i2", 5: "<u2", 6: "<i4", 7: "<u4", 10: "<f4", 11: "<f8"}
_PER_FOLDER = 100
_MOST_NUMBERS = 2**24
"""Bytes of numbers that are read of a stream: four million angles."""


@dataclass(frozen=True)
class _Header:
    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    pixel: float
    angles: tuple[float, ...]


class TxrmReader(FrameReader):
    """Reads images by olefile."""

    title, library, extra = "TXRM", "olefile", "txrm"

    def open_by(self, library: Any, path: str) -> Any:
        return library.OleFileIO(path)

    def describe(self, location: StoreLocation, options: OpenOptions) -> Description:
        """The images of a file as a volume, or the image where it holds one.

        Raises: NotAVolumeError; MissingExtraError.
        """
        path = location.root
        with self.opened(path) as file:
            header = _read_header(file, path)
            for number in (1, header.shape[0]):
                if not file.exists(_stream(number)):
                    raise NotAVolumeError(f"{path} lacks image {number} of {header.shape[0]}")
        check_size(math.prod(header.shape) * header.dtype.itemsize, (path,), "", str(location))
        names = ["z" if header.shape[0] > 1 else "", "y", "x"]
        space = [n for n in names if n]
        shape = header.shape[-len(space) :]
        stated = math.isfinite(header.pixel) and header.pixel > 0
        grid = Grid(shape, header.pixel, unit="um", axes=space) if stated else Grid(shape, axes=space)
        attrs = {"tilt_angles": list(header.angles)} if header.angles else {}
        array = FileArray(
            "txrm", path, names, header.shape, header.dtype, self.stamp(path), frame_chunks(header.shape, 1)
        )
        return array.describe(options.apply(grid), options, name=os.path.splitext(location.name)[0], attrs=attrs)

    def frames(self, file: Any, path: str, inner: str) -> Frames:
        header = _read_header(file, path)

        def image(index: tuple[int, ...]) -> NDArray[Any]:
            with file.openstream(_stream(index[0] + 1)) as stream:
                return np.frombuffer(stream.read(), header.dtype)

        return Frames(header.shape, header.dtype, 1, image)


READER = TxrmReader()


def _stream(number: int) -> str:
    return f"ImageData{-(-number // _PER_FOLDER)}/Image{number}"


def _read_header(file: Any, path: str) -> _Header:
    """Raises: NotAVolumeError."""
    try:
        width, height, code = (
            int(_numbers(file, name, "<i4")[0]) for name in ("ImageWidth", "ImageHeight", "DataType")
        )
        counts = [_numbers(file, name, "<i4") for name in ("NoOfImages", "ImagesTaken")]
        pixel, angles = (_numbers(file, name, "<f4") for name in ("PixelSize", "Angles"))
    except Exception as error:
        raise READER.damaged(path, error) from error
    # A scan that was ended early states how many images it should have had, and how many were taken.
    known = [int(c[0]) for c in counts if len(c) and c[0] > 0]
    count = min(known, default=1)
    if min(width, height) <= 0:
        raise NotAVolumeError(f"{path} states images of {height} x {width} pixels")
    if code not in _TYPES:
        raise NotAVolumeError(f"{path} states the type {code} of its voxels, of which {sorted(_TYPES)} are read")
    turned = angles[:count].tolist() if len(angles) >= count and np.ptp(angles[:count]) > 0 else []
    finite = all(map(math.isfinite, turned))
    return _Header(
        (count, height, width),
        np.dtype(_TYPES[code]),
        float(pixel[0]) if len(pixel) else 0.0,
        tuple(turned) if finite else (),
    )


def _numbers(file: Any, name: str, dtype: str) -> NDArray[Any]:
    """Numbers of a stream; none where there is none."""
    stream = f"ImageInfo/{name}"
    if not file.exists(stream):
        return np.empty(0, dtype)
    with file.openstream(stream) as opened:
        data = opened.read(_MOST_NUMBERS)
    itemsize = np.dtype(dtype).itemsize
    return np.frombuffer(data[: len(data) // itemsize * itemsize], dtype)
