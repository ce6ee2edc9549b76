"""`HeapCheckedFile`: an HDF5 file, read so that a damaged heap is an error and not a hang.

Texts of variable length lie in global heaps, collections of objects that are preceded by their sizes
(HDF5 File Format Specification 3.0, III.E). libhdf5 goes from one object to the next by these sizes and, up to 2.0 at
least, does not end where a size leads it nowhere. h5py can read a file through a Python object, which sees each heap
before libhdf5 does.
"""

from __future__ import annotations

import io
from typing import Any

_HEAP, _FILE = b"GCOL", b"\x89HDF\r\n\x1a\n"
_SUPERBLOCK_AT = (0, *(2**k for k in range(9, 21)))
"""Where HDF5 looks for the beginning of a file, in front of which others may have put something."""


class HeapCheckedFile(io.FileIO):
    """A file for `h5py.File(..., "r")`. OSError where a heap that is read leads nowhere."""

    def __init__(self, path: str) -> None:
        super().__init__(path, "rb")
        self._length_size = self._size_of_lengths()

    def readinto(self, buffer: Any) -> int | None:
        count = super().readinto(buffer)
        data = memoryview(buffer).cast("B")[: count or 0]
        if data[:4] == _HEAP:
            _check_heap(data, self._length_size)
        return count

    def _size_of_lengths(self) -> int:
        """Bytes of a length in this file, from its superblock; nearly always 8."""
        for at in _SUPERBLOCK_AT:
            self.seek(at)
            block = self.read(16)
            if len(block) == 16 and block.startswith(_FILE):
                return block[14 if block[8] < 2 else 10]
        return 8


def _check_heap(data: memoryview, width: int) -> None:
    """Go through the objects of a global heap, as far as it was read.

    Args:
        width: bytes of a length.

    Raises: OSError.
    """
    header = 8 + -(-width // 8) * 8  # signature and version, or index and references; then a length; padded
    if len(data) < header:
        return
    size = int.from_bytes(data[8 : 8 + width], "little")
    at, end = header, min(size, len(data))
    while at + header <= end:
        length = int.from_bytes(data[at + 8 : at + 8 + width], "little")
        # The object of index 0 is the free space, whose length counts its own header.
        step = header + -(-length // 8) * 8 if any(data[at : at + 2]) else length
        if not 0 < step <= size:
            raise OSError(f"damaged: an object of {length} bytes in a heap of {size} bytes")
        at += step
