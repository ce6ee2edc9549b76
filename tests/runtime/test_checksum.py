"""The checksum of files: independent of how they are cut, and it tells files apart that end with their own crc32c."""

from __future__ import annotations

import struct
import zlib

import google_crc32c
import numpy as np
import pytest

from daskreg.runtime.checksum import FileChecksum, checksum


def sealed(data: bytes) -> bytes:
    return data + struct.pack("<I", google_crc32c.value(data))


def test_it_is_the_crc32_of_the_sums_of_blocks() -> None:
    data = np.random.default_rng(0).integers(0, 256, 3 * 4096 + 1001, dtype=np.uint8).tobytes()
    padded = data.ljust(4 * 4096, b"\0")
    sums = [sum(struct.unpack("<512Q", padded[k : k + 4096])) % 2**64 for k in range(0, len(padded), 4096)]
    assert checksum(data) == zlib.crc32(struct.pack("<4Q", *sums))
    assert checksum(b"") == 0


@pytest.mark.parametrize("cuts", [(), (1,), (4095, 4096, 4097), (5, 5, 6000, 9000), tuple(range(0, 13000, 77))])
def test_it_does_not_depend_on_the_parts(cuts: tuple[int, ...]) -> None:
    data = np.random.default_rng(1).integers(0, 256, 13_289, dtype=np.uint8)
    whole = FileChecksum()
    for part in np.split(data, cuts):
        whole.update(part)
    assert whole.value() == checksum(data.tobytes())


@pytest.mark.parametrize("size", [1, 100, 5000, 70_000])
def test_files_that_end_with_their_own_crc32c_are_told_apart(size: int) -> None:
    rng = np.random.default_rng(2)
    one, other = (sealed(rng.bytes(size)) for _ in range(2))
    assert google_crc32c.value(one) == google_crc32c.value(other) == 0x48674BC7
    assert checksum(one) != checksum(other)
    assert checksum(one + other) != checksum(other + one) or size < 4096
    for place in rng.integers(0, len(one), 20):
        flipped = bytearray(one)
        flipped[place] ^= 1 << int(rng.integers(8))
        assert checksum(flipped) != checksum(one)
