"""The series of a TIFF file (images that belong together), chosen and checked before they are read."""

from __future__ import annotations

import importlib.util
import math
import os
import re
import warnings
from typing import Any, Literal

import tifffile

from daskreg.errors import MetadataWarning, MissingExtraError, NotAVolumeError
from daskreg.runtime.messages import reason
from daskreg.runtime.regular_files import check_beside
from daskreg.sources.locate import INSIDE, StoreLocation

_ORDERS: dict[str, Literal["little", "big"]] = {"<": "little", ">": "big"}
_SIZES = (256, 257, 258, 277, 339)
"""Tags of width, length, bits, samples and type of a page; short ones, whose values are in the tag."""

FILE_NAME = re.compile(r"""\bFileName\s*=\s*["']([^"'<>]*)["']""")


def open_tiff(path: str) -> tifffile.TiffFile:
    """The file, with those of its set, which OME's metadata name and which have to lie in its folder.

    Raises: NotAVolumeError; OutsideError.
    """
    try:
        tiff = tifffile.TiffFile(path)
        len(tiff.pages)  # goes along the pages' offsets and ends where they form a circle, unlike a loop over pages
        _check_segments(tiff)
        if _appended(tiff):
            tiff.close()
            tiff = tifffile.TiffFile(path, is_shaped=False)
    except Exception as error:
        raise NotAVolumeError(f"{path} cannot be read as TIFF: {reason(error)}") from error
    try:
        for name in FILE_NAME.findall(tiff.ome_metadata or "" if tiff.is_ome else ""):
            check_beside(os.path.join(os.path.dirname(path), name), path)
        for series in tiff.series:
            for file in {page.parent.filehandle.path for page in series.pages if page is not None}:
                check_beside(file, path)
    except BaseException:
        tiff.close()
        raise
    return tiff


def _check_segments(tiff: tifffile.TiffFile) -> None:
    """Refuse more strips or tiles than a file can list: each has an offset and a length of two bytes or more.

    Raises: ValueError.
    """
    page = tiff.pages.first
    segments = math.prod(page.chunked)
    if segments > max(1, tiff.filehandle.size // 4):
        raise ValueError(f"its header states {segments} strips or tiles, more than a file of its size can list")


def _appended(tiff: tifffile.TiffFile) -> bool:
    """Whether images of one page and one shape were appended one after another: they are taken as slices."""
    series = tiff.series
    return len(series) > 1 and all(
        s.kind.lower() == "shaped" and len(s.pages) == len(s.levels) == 1 and (s.shape, s.dtype) == _kind(series[0])
        for s in series
    )


def _kind(series: Any) -> tuple[tuple[int, ...], Any]:
    return series.shape, series.dtype


def chosen_series(tiff: tifffile.TiffFile, location: StoreLocation) -> int:
    """The number of the series that a location names, by its number or name; the first one by default."""
    names = [s.name or "" for s in tiff.series]
    if not names:
        raise NotAVolumeError(f"{location} is a TIFF file without an image")
    listed = ", ".join(f"{k}{f' ({name})' if name else ''}" for k, name in enumerate(names[:6]))
    if location.inner:
        chosen = [k for k, name in enumerate(names) if location.inner in (str(k), name)]
        if not chosen:
            raise NotAVolumeError(f"{location.root} holds no series {location.inner!r}; it holds {listed}")
        return chosen[0]
    if tiff.series[0].kind.lower() == "uniform":
        _check_uniform(tiff, location)
    if len(names) > 1 and not (tiff.is_svs or tiff.is_ndpi):  # beside those scans there are label and overview
        _check_sizes_alternate(tiff, location)
        message = f"{location} holds {len(names)} image series: {listed}; the first is taken; {location}{INSIDE}1"
        warnings.warn(f"{message} names another one", MetadataWarning, stacklevel=3)
    return 0


def _check_uniform(tiff: tifffile.TiffFile, location: StoreLocation) -> None:
    """Refuse a stack of which one page has another size; tifffile looks at some of the pages only.

    Raises: NotAVolumeError naming the first of them.
    """
    form, file, offset = tiff.tiff, tiff.filehandle, tiff.pages.first.offset
    order = _ORDERS[form.byteorder]
    wanted: list[bytes] = []
    for number in range(len(tiff.pages)):
        file.seek(offset)
        count = int.from_bytes(file.read(form.tagnosize), order)
        data = file.read(count * form.tagsize + form.offsetsize)
        tags = [data[k * form.tagsize : (k + 1) * form.tagsize] for k in range(count)]
        sizes = [tag for tag in tags if int.from_bytes(tag[:2], order) in _SIZES]
        wanted = wanted or sizes
        if sizes != wanted:
            raise _odd_page(tiff, tiff.pages[number].aspage(), location)
        offset = int.from_bytes(data[-form.offsetsize :], order)


def _odd_page(tiff: tifffile.TiffFile, page: Any, location: StoreLocation) -> NotAVolumeError:
    first = tiff.series[0]
    return NotAVolumeError(
        f"{location}: page {page.index} of {len(tiff.pages)} has the shape {page.shape} and type {page.dtype}, others "
        f"{first.keyframe.shape} and {first.dtype}: take it out, or write it as a file of its own"
    )


def _check_sizes_alternate(tiff: tifffile.TiffFile, location: StoreLocation) -> None:
    """Refuse a stack of pages of which some in the middle have another size.

    Raises: NotAVolumeError naming the first of them.
    """
    first = tiff.series[0]
    if tiff.is_ome or len(first.pages) < 2:
        return
    numbers = {page.index for page in first.pages if page is not None}
    for number in range(min(numbers), max(numbers)):
        page = tiff.pages[number].aspage()
        if number not in numbers and not page.is_reduced:
            raise _odd_page(tiff, page, location)


def check_codec(page: Any, what: str) -> None:
    """Refuse pages that tifffile cannot decode here.

    Raises: MissingExtraError where imagecodecs would do it; NotAVolumeError.
    """
    odd_bits = isinstance(page.bitspersample, int) and page.bitspersample not in (1, 8, 16, 32, 64)
    try:
        tifffile.TIFF.DECOMPRESSORS[page.compression]
        tifffile.TIFF.UNPREDICTORS[page.predictor]
        if odd_bits and importlib.util.find_spec("imagecodecs") is None:
            raise KeyError(f"{page.bitspersample} bits")
    except KeyError as error:
        if importlib.util.find_spec("imagecodecs") is None:
            raise MissingExtraError("imagecodecs", "formats") from error
        raise NotAVolumeError(f"{what} has a compression that is not read: {reason(error)}") from error
