"""The chunks of a PNG file, checked before ITK reads them: libpng takes the memory that a chunk states, up to 2 GiB.

https://www.w3.org/TR/png-3/#5Chunk-layout
"""

from __future__ import annotations

import os
from pathlib import Path

from daskreg.errors import NotAVolumeError

_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def check_png(path: str) -> None:
    """Look whether every chunk lies in the file.

    Raises: NotAVolumeError.
    """
    size = os.path.getsize(path)
    with Path(path).open("rb") as file:
        if file.read(8) != _SIGNATURE:
            raise NotAVolumeError(f"{path} is not a PNG file: it does not begin as one")
        while len(head := file.read(8)) == 8 and head[4:] != b"IEND":
            end = file.tell() + int.from_bytes(head[:4], "big") + 4
            if end > size:
                raise NotAVolumeError(f"{path} is damaged: its {head[4:]!r} ends at byte {end}, the file at {size}")
            file.seek(end)
