"""Compound files of Microsoft (OLE, MS-CFB), which some microscopes write: a small file system of streams."""

from __future__ import annotations

import struct
from itertools import pairwise
from pathlib import Path

SECTOR, MINI, CUTOFF = 512, 64, 4096
END, FREE, FAT, NONE = 0xFFFFFFFE, 0xFFFFFFFF, 0xFFFFFFFD, 0xFFFFFFFF


def write_compound(path: Path, streams: dict[str, bytes]) -> Path:
    """A file of version 3 with streams by their paths, such as "ImageInfo/Angles"."""
    sectors: list[bytes] = []
    chains: list[int] = []

    def put(data: bytes) -> int:
        first, count = len(sectors), max(1, -(-len(data) // SECTOR))
        sectors.extend(data[k * SECTOR : (k + 1) * SECTOR].ljust(SECTOR, b"\0") for k in range(count))
        chains.extend([*range(first + 1, first + count), END])
        return first

    small, small_chains = b"", list[int]()
    places: dict[str, int] = {}
    for name, data in streams.items():
        if len(data) >= CUTOFF:
            places[name] = put(data)
            continue
        first, count = len(small) // MINI, max(1, -(-len(data) // MINI))
        small += data.ljust(count * MINI, b"\0")
        small_chains += [*range(first + 1, first + count), END]
        places[name] = first
    root = put(small)
    small_table = put(struct.pack(f"<{len(small_chains)}I", *small_chains))
    small_count = -(-len(small_chains) * 4 // SECTOR)
    directory = put(_directory(streams, places, root, len(small)))
    count = next(n for n in range(1, 110) if len(sectors) + n <= n * SECTOR // 4)
    table = [*chains, *[FAT] * count]
    encoded = struct.pack(f"<{len(table)}I", *table).ljust(count * SECTOR, b"\xff")
    first_table = len(sectors)
    magic = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
    header = struct.pack("<8s16sHHHHH6sIIII", magic, b"", 0x3E, 3, 0xFFFE, 9, 6, b"", 0, count, directory, 0)
    header += struct.pack("<IIIIII", CUTOFF, small_table, small_count, END, 0, first_table)
    header += struct.pack("<108I", *range(first_table + 1, first_table + count), *[FREE] * (109 - count))
    path.write_bytes(header + b"".join(sectors) + encoded)
    return path


def _directory(streams: dict[str, bytes], places: dict[str, int], root: int, small: int) -> bytes:
    """The entries: the root, its folders and streams, each the right neighbour of the one before it."""
    folders: dict[str, list[str]] = {"": []}
    for name in streams:
        folder, _, _ = name.rpartition("/")
        if folder and folder not in folders:
            folders[folder] = []
            folders[""].append(folder)
        folders[folder].append(name)
    order = ["", *folders[""], *(name for folder, names in folders.items() if folder for name in names)]
    numbers = {name: k for k, name in enumerate(order)}
    right = {a: numbers[b] for names in folders.values() for a, b in pairwise(names)}
    entries = b""
    for name in order:
        title = (name.rpartition("/")[2] or "Root Entry").encode("utf-16-le") + b"\0\0"
        kind = 5 if not name else 1 if name in folders else 2
        child = numbers[folders[name][0]] if folders.get(name) else NONE
        start, size = (root, small) if not name else (places.get(name, 0), len(streams.get(name, b"")))
        entries += struct.pack(
            "<64sHBBIII36sIQ", title, len(title), kind, 1, NONE, right.get(name, NONE), child, b"", start, size
        )
    return entries + (b"\0" * 68 + struct.pack("<III", NONE, NONE, NONE) + b"\0" * 48) * (-len(order) % 4)
