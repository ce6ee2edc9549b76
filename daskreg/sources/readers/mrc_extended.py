"""What microscopes of FEI (Thermo Fisher) write behind the header of an MRC file: pixel size and tilt of each image.

Three kinds are known: 1,024 records of 32 floats without a mark, as Xplore3D wrote them, and those marked FEI1 and FEI2
(MRC2014 extended header specification, Thermo Fisher 2018).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_RECORD = 128
_RECORDS = 1024
_UNMARKED = (b"", b"AGAR", b"FEI")
# Of the unmarked records: where the tilt in degrees and the pixel size in metres are.
_TILT, _PIXEL = 0, 11
_METERS = (1e-13, 1e-3)
"""Between which pixel sizes are believed."""


@dataclass(frozen=True)
class FeiImages:
    """The images of a stack.

    Args:
        pixel_size: of y and x, in metres; the same for all images.
        tilts: of each image, in degrees; empty where none is tilted.
    """

    pixel_size: tuple[float, float]
    tilts: tuple[float, ...] = ()


def fei_images(header: Any, extended: bytes, count: int) -> FeiImages | None:
    """What an extended header says of the first `count` images; None for one of another kind.

    Args:
        header: of the file, as mrcfile reads it.
        extended: the bytes behind it, or their beginning.
    """
    kind = bytes(header["exttyp"]).strip(b" \0")
    order = header["nx"].dtype.str[0].replace("|", "=")
    if kind in (b"FEI1", b"FEI2"):
        found = _marked(kind, extended, order, count)
    elif kind in _UNMARKED and int(header["nsymbt"]) == _RECORD * _RECORDS and len(extended) >= count * _RECORD:
        records = np.frombuffer(extended, order + "f4", count * _RECORD // 4).reshape(count, -1)
        found = records[:, _PIXEL], records[:, _PIXEL], records[:, _TILT]
    else:
        found = None
    if found is None:
        return None
    y, x, tilts = (np.asarray(column, np.float64) for column in found)
    sizes = np.stack([y, x])
    believed = bool(np.all(np.isfinite(sizes)) and sizes.min() > _METERS[0] and sizes.max() < _METERS[1])
    if not believed or np.ptp(sizes, axis=1).max() > 1e-3 * sizes.min() or not np.all(np.abs(tilts) <= 360):
        return None
    return FeiImages((float(y[0]), float(x[0])), tuple(tilts.tolist()) if np.any(tilts) else ())


def _marked(kind: bytes, extended: bytes, order: str, count: int) -> tuple[NDArray[Any], ...] | None:
    """Pixel sizes along y and x, and tilts."""
    from mrcfile.dtypes import get_ext_header_dtype

    dtype = get_ext_header_dtype(kind, order)
    size = int(np.frombuffer(extended, order + "i4", 1)[0]) if len(extended) >= 4 else 0
    if dtype is None or size < dtype.itemsize or len(extended) < count * size:
        return None
    rows = [np.frombuffer(extended, dtype, 1, offset=k * size)[0] for k in range(count)]
    return tuple(np.array([row[name] for row in rows]) for name in ("Pixel size Y", "Pixel size X", "Alpha tilt"))
