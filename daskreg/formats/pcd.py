"""Points from PCD files (Point Cloud Library): ascii, binary and binary_compressed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_KINDS = {"F": "f", "I": "i", "U": "u"}
_MAX_BYTES = 1 << 31


def read_pcd(content: bytes) -> NDArray[np.float64]:
    """(N, D) float64 columns x, y, z (those that the file has), in that order.

    Raises: ValueError, KeyError: the content is not such a file.
    """
    fields: dict[str, list[str]] = {}
    rest = content
    while "DATA" not in fields:
        line, found, rest = rest.partition(b"\n")
        if not found:
            raise ValueError("its header does not end")
        words = line.decode("ascii", errors="replace").split()
        if words and not words[0].startswith("#"):
            fields[words[0]] = words[1:]
    missing = {"FIELDS", "SIZE", "TYPE", "POINTS"} - fields.keys()
    if missing:
        raise ValueError(f"its header has no {', '.join(sorted(missing))}")
    names, count = fields["FIELDS"], int(fields["POINTS"][0])
    many = [int(n) for n in fields.get("COUNT", ["1"] * len(names))]
    kinds = [_KINDS[kind] + size for kind, size in zip(fields["TYPE"], fields["SIZE"], strict=True)]
    axes = [name for name in ("x", "y", "z") if name in names]
    if count < 1 or axes[:2] != ["x", "y"]:
        raise ValueError(f"it has {count} points with {', '.join(names)}")
    encoding = fields["DATA"][0]
    if encoding == "ascii":
        starts = np.cumsum([0, *many])
        lines = [line for line in rest.decode("ascii").splitlines() if line.strip()][:count]
        if len(lines) < count:
            raise ValueError(f"it ends after {len(lines)} of {count} points")
        rows = np.loadtxt(lines, ndmin=2)
        return np.asarray(rows[:, [int(starts[names.index(axis)]) for axis in axes]], dtype=np.float64)
    # Fields may share a name ("_" for padding), so they are named by their numbers.
    layout = np.dtype([(str(i), "<" + k, (n,)) for i, (k, n) in enumerate(zip(kinds, many, strict=True))])
    if encoding == "binary":
        records = np.frombuffer(rest, dtype=layout, count=count)
        columns = [records[str(names.index(axis))][:, 0] for axis in axes]
    elif encoding == "binary_compressed":
        packed, size = (int(n) for n in np.frombuffer(rest, "<u4", 2))
        if size != count * layout.itemsize or size > _MAX_BYTES:
            raise ValueError(f"{size} bytes where {count} points need {count * layout.itemsize}")
        plain = _lzf(rest[8 : 8 + packed], size)
        sizes = [count * layout[i].itemsize for i in range(len(names))]
        starts = np.cumsum([0, *sizes])
        columns = []
        for axis in axes:
            i = names.index(axis)
            columns.append(np.frombuffer(plain[starts[i] : starts[i + 1]], "<" + kinds[i])[:: many[i]])
    else:
        raise ValueError(f"its data are {encoding}")
    return np.stack([np.asarray(column, dtype=np.float64) for column in columns], axis=1)


def _lzf(packed: bytes, size: int) -> bytes:
    """Unpack Marc Lehmann's LZF: runs of literals, and copies of earlier output."""
    out, i = bytearray(), 0
    while i < len(packed):
        control = packed[i]
        i += 1
        if control < 32:
            out += packed[i : i + control + 1]
            i += control + 1
            continue
        length = control >> 5
        if length == 7:
            length += packed[i]
            i += 1
        start = len(out) - ((control & 31) << 8) - packed[i] - 1
        i += 1
        if start < 0:
            raise ValueError("its compressed data are broken")
        for k in range(start, start + length + 2):  # may overlap with the bytes that it appends
            out.append(out[k])
    if len(out) != size:
        raise ValueError(f"its compressed data hold {len(out)} bytes, not {size}")
    return bytes(out)
