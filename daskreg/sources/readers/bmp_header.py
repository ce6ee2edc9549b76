"""The header of a BMP file, checked before ITK reads it, which takes its sizes as they are."""

from __future__ import annotations

import os
import struct
from pathlib import Path

from daskreg.errors import NotAVolumeError

_HEADER = struct.Struct("<2sIHHIIiiHHI")
_PLAIN = (0, 3)  # as rows, and with masks of bits; ITK writes past the ends of its memory for runs that are too long


def check_bmp(path: str) -> None:
    """Refuse a file whose pixels cannot be where its header says.

    Raises: NotAVolumeError.
    """
    with Path(path).open("rb") as file:
        head = file.read(_HEADER.size)
    if len(head) < _HEADER.size or head[:2] != b"BM":
        raise NotAVolumeError(f"{path} is not a BMP file that can be read")
    _, _, _, _, offset, info, width, height, planes, bits, compression = _HEADER.unpack(head)
    stored = os.stat(path).st_size - offset
    row = -(-width * bits // 32) * 4 if width > 0 else 0
    if not (info >= 40 and planes == 1 and bits in (1, 4, 8, 16, 24, 32) and compression in _PLAIN):
        raise NotAVolumeError(f"{path} is not a BMP file that can be read")
    if row < 1 or not 0 < abs(height) * row <= stored or offset < 14 + info:
        raise NotAVolumeError(f"{path} is shorter than its header says ({width} x {height} pixels of {bits} bits)")
