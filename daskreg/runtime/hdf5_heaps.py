"""`HeapCheckedFile`: an HDF5 file, read so that a damaged heap is an error and not a hang.

Texts of variable length lie in global heaps, collections of objects that are preceded by their sizes
(HDF5 File Format Specification 3.0, III.E), and the names of a group in a local heap, whose free blocks are a chain
(III.D). libhdf5 goes from one object to the next by these sizes, and along the chain. Up to 2.0 at least, it does not
end where a size leads it nowhere, or the chain to itself. h5py can read a file through a Python object, which sees each
heap before libhdf5 does.
"""

from __future__ import annotations

import io
import os
from typing import Any

_GLOBAL, _LOCAL, _FILE = b"GCOL", b"HEAP", b"\x89HDF\r\n\x1a\n"
_NO_BLOCK = 1
"""What stands for the block behind the last free one."""

_SUPERBLOCK_AT = (0, *(2**k for k in range(9, 21)))
"""Where HDF5 looks for the beginning of a file, in front of which others may have put something."""


class HeapCheckedFile(io.FileIO):
    """A file for `h5py.File(..., "r")`. OSError where a heap that is read leads nowhere."""

    def __init__(self, path: str) -> None:
        super().__init__(path, "rb")
        self._begin, self._widths = self._superblock()

    def readinto(self, buffer: Any) -> int | None:
        count = super().readinto(buffer)
        data = memoryview(buffer).cast("B")[: count or 0]
        if data[:4] == _GLOBAL:
            _check_heap(data, self._widths[1])
        elif data[:4] == _LOCAL:
            self._check_free_blocks(data)
        return count

    def _read_at(self, at: int, size: int) -> bytes:
        """Bytes at a place, without a change of where the next ones are read; Windows has no `os.pread`."""
        here = self.tell()
        self.seek(at)
        try:
            return self.read(size)
        finally:
            self.seek(here)

    def _superblock(self) -> tuple[int, tuple[int, int]]:
        """Where the file begins, and the bytes of an address and of a length in it; nearly always 0, 8 and 8."""
        for at in _SUPERBLOCK_AT:
            block = self._read_at(at, 16)
            if len(block) == 16 and block.startswith(_FILE):
                widths = block[13:15] if block[8] < 2 else block[9:11]
                return at, (widths[0], widths[1])
        return 0, (8, 8)

    def _check_free_blocks(self, data: memoryview) -> None:
        """Go along the free blocks of a local heap.

        A chain that comes back to a block is found by one that is remembered, and moved on after 1, 2, 4, ... steps
        (Brent 1980, BIT 20, 176), within a few times the steps of its loop.

        Raises: OSError.
        """
        address, width = self._widths
        size, free = (int.from_bytes(data[at : at + width], "little") for at in (8, 8 + width))
        start = self._begin + int.from_bytes(data[8 + 2 * width : 8 + 2 * width + address], "little")
        remembered, moved_at = None, 1
        # A free block takes two lengths at least, so of a chain of more blocks than fit some lie on each other.
        for step in range(min(size, os.fstat(self.fileno()).st_size) // max(1, 2 * width) + 1):
            if free == _NO_BLOCK or free >= size or start + free >= 2**63:
                return  # libhdf5 says what is wrong with a block outside its heap
            if free == remembered:
                break
            if step + 1 == moved_at:
                remembered, moved_at = free, 2 * moved_at
            free = int.from_bytes(self._read_at(start + free, width), "little")
        raise OSError("damaged: the free blocks of a heap are an endless chain")


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
