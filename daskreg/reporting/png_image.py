"""A picture of 8-bit colours as a PNG file in memory, and as the address of an image in a page; needs no library.

PNG as in RFC 2083: one chunk of compressed rows, each of which stores its difference from the row above.
"""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np
from numpy.typing import NDArray


def encoded(colours: NDArray[np.floating]) -> bytes:
    """The file of (H, W) greys, or (H, W, 3) red, green, blue, from 0 to 1."""
    pixels = np.rint(np.clip(np.nan_to_num(colours), 0, 1) * 255).astype(np.uint8)
    if pixels.ndim == 3 and bool((pixels == pixels[..., :1]).all()):
        pixels = pixels[..., 0]
    height, width = pixels.shape[:2]
    rows = pixels.reshape(height, -1)
    up = np.full((height, 1), 2, np.uint8)  # the filter of each row: minus the row above
    filtered = np.hstack([up, np.diff(rows, axis=0, prepend=np.zeros_like(rows[:1]))])
    header = struct.pack(">IIBBBBB", width, height, 8, 0 if pixels.ndim == 2 else 2, 0, 0, 0)
    body = _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(filtered.tobytes(), 9)) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def data_uri(png: bytes) -> str:
    """The address that embeds a PNG file in a page."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
