"""What the header of a DICOM file says of its slice, without its pixels."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import MissingExtraError, NotAVolumeError
from daskreg.runtime.messages import reason

Floats = NDArray[np.float64]

_TAGS = [
    "SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "ImagePositionPatient", "ImageOrientationPatient",
    "PixelSpacing", "SpacingBetweenSlices", "SliceThickness", "Rows", "Columns", "SamplesPerPixel", "BitsAllocated",
    "BitsStored", "HighBit", "PixelRepresentation", "PhotometricInterpretation", "NumberOfFrames", "RescaleSlope",
    "RescaleIntercept",
]  # fmt: skip
_DEFLATED = "1.2.840.10008.1.2.1.99"


@dataclass(frozen=True, eq=False)
class Slice:
    """The header of one file.

    Args:
        series, number, title: UID, number and description of its series.
        position: (3,) x, y, z of the first pixel's centre, in mm, LPS; empty where it is not stated.
        axes: (3, 2) directions of increasing column and row numbers; empty where they are not stated.
        spacing: (2,) of columns and rows, in mm.
        thickness: the distance to the next slice, as far as one file states it.
        shape: rows, columns, and samples where there are several.
        dtype: of the stored numbers, of which the lower `bits` count.
        slope, intercept: value = slope * number + intercept.
        syntax: UID of the transfer syntax.
    """

    file: str
    series: str
    number: int
    title: str
    position: Floats
    axes: Floats
    spacing: Floats
    thickness: float
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    bits: int
    slope: float
    intercept: float
    syntax: str

    @property
    def layout(self) -> tuple[Any, ...]:
        """What all slices of a volume have in common."""
        return self.shape, self.dtype, self.bits


def pydicom() -> Any:
    """The library. Raises: MissingExtraError."""
    try:
        import pydicom as library
    except ImportError as error:
        raise MissingExtraError("pydicom", "dicom") from error
    return library


def read_slice(file: str) -> Slice | None:
    """The header of a file; None where it holds no image (a report, a plan, the index of a disk).

    Raises: NotAVolumeError for what is no DICOM file, is damaged, or has several frames or a table of colours.
    """
    library = pydicom()
    try:
        with warnings.catch_warnings(action="ignore"):  # of values that are spelled against the rules
            meta = library.filereader.read_file_meta_info(file)
            if meta.get("TransferSyntaxUID") == _DEFLATED:
                raise NotAVolumeError(f"{file} is deflated as a whole; such files are not read")
            header = library.dcmread(file, stop_before_pixels=True, specific_tags=_TAGS)
            return _slice(file, header) if "Rows" in header and "Columns" in header else None
    except NotAVolumeError:
        raise
    except Exception as error:
        raise NotAVolumeError(f"{file} cannot be read as DICOM ({type(error).__name__}: {reason(error)})") from error


def _slice(file: str, header: Any) -> Slice:
    if int(header.get("NumberOfFrames") or 1) > 1:
        raise NotAVolumeError(f"{file} holds {header.NumberOfFrames} frames: open it alone, as a volume of its own")
    if header.get("PhotometricInterpretation") == "PALETTE COLOR":
        raise NotAVolumeError(f"{file} has a table of colours, which is not read: convert it")
    allocated, stored = int(header.BitsAllocated), int(header.get("BitsStored") or header.BitsAllocated)
    high = header.get("HighBit")
    if allocated not in (8, 16, 32) or not 0 < stored <= allocated or (high is not None and int(high) != stored - 1):
        raise NotAVolumeError(f"{file} has pixels of {stored} in {allocated} bits up to bit {high}, which is not read")
    samples = int(header.get("SamplesPerPixel") or 1)
    shape = (int(header.Rows), int(header.Columns), *([samples] if samples > 1 else []))
    orientation = _numbers(header, "ImageOrientationPatient", 6)
    if orientation.size and np.linalg.norm(np.cross(orientation[:3], orientation[3:])) < 0.1:
        raise ValueError("the directions of its rows and columns span no plane")
    spacing = _numbers(header, "PixelSpacing", 2)
    if not (spacing > 0).all():
        raise ValueError(f"PixelSpacing is {header.PixelSpacing}")
    slope, thickness = header.get("RescaleSlope"), header.get("SpacingBetweenSlices") or header.get("SliceThickness")
    return Slice(
        file=file,
        series=str(header.get("SeriesInstanceUID") or ""),
        number=int(header.get("SeriesNumber") or 0),
        title=str(header.get("SeriesDescription") or ""),
        position=_numbers(header, "ImagePositionPatient", 3),
        axes=orientation.reshape(-1, 3).T,
        spacing=spacing[::-1] if spacing.size else np.ones(2),
        thickness=abs(float(thickness or 1)),
        shape=shape,
        dtype=np.dtype(f"{'i' if header.get('PixelRepresentation') == 1 else 'u'}{allocated // 8}"),
        bits=stored,
        slope=_slope(slope),
        intercept=_finite("RescaleIntercept", header.get("RescaleIntercept") or 0),
        syntax=str(header.file_meta.TransferSyntaxUID),
    )


def _slope(value: Any) -> float:
    """The rescale slope; 1 where it is not stated, or is 0, which would make all voxels alike (ITK does the same)."""
    return 1.0 if value is None or value == "" else _finite("RescaleSlope", value) or 1.0


def _finite(name: str, value: Any) -> float:
    if not math.isfinite(float(value)):
        raise ValueError(f"{name} is {value}")
    return float(value)


def _numbers(header: Any, name: str, count: int) -> Floats:
    """The values of an element; none where it is not there or empty.

    Raises: ValueError for another number of values, or one that is not finite.
    """
    values = header.get(name)
    if values is None or values == "":
        return np.empty(0)
    numbers = np.array([float(value) for value in values])
    if numbers.shape != (count,) or not np.isfinite(numbers).all():
        raise ValueError(f"{name} is {values}")
    return numbers
