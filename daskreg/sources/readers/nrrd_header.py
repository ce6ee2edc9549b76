"""The header of an NRRD file: text of `field: value` lines up to an empty one (teem.sourceforge.net/nrrd/format.html).

It is checked before ITK reads it, whose parser trusts it: unknown kinds, lines of thousands of characters, and lists
of another length than the dimension end the process.
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from daskreg.errors import NotAVolumeError
from daskreg.runtime.regular_files import check_beside

MOST_BYTES = 2**20
"""Of a header, with its keys and values."""

_LONGEST_LINE = 500
"""Characters of a field's line (NrrdIO copies parts of it into buffers of 512)."""

_LARGEST_DIMENSION = 8
_NAMES = {
    1: "signed char, int8, int8_t, unsigned char, uchar, uint8, uint8_t",
    2: "short, short int, signed short, signed short int, int16, int16_t, ushort, unsigned short, unsigned short int, "
    "uint16, uint16_t",
    4: "int, signed int, int32, int32_t, uint, unsigned int, uint32, uint32_t, float",
    8: "longlong, long long, long long int, signed long long, signed long long int, int64, int64_t, ulonglong, "
    "unsigned long long, unsigned long long int, uint64, uint64_t, double",
}
_BYTES = {name: size for size, names in _NAMES.items() for name in names.split(", ")}
_ENCODINGS = ("raw", "txt", "text", "ascii", "hex", "gz", "gzip", "bz2", "bzip2")
_KINDS = {"domain": 0, "space": 0, "time": 0, "list": 0, "point": 0, "vector": 0, "covariant-vector": 0, "normal": 0,
          "stub": 1, "scalar": 1, "complex": 2, "2-vector": 2, "3-color": 3, "rgb-color": 3, "hsv-color": 3,
          "xyz-color": 3, "4-color": 4, "rgba-color": 4, "3-vector": 3, "3-gradient": 3, "3-normal": 3, "4-vector": 4,
          "quaternion": 4, "2d-symmetric-matrix": 3, "2d-matrix": 4, "3d-symmetric-matrix": 6,
          "3d-masked-symmetric-matrix": 7, "3d-matrix": 9, "???": 0, "none": 0}  # fmt: skip
"""Kinds of axes that NrrdIO knows, and the sizes that they must have (0: any)."""

_SPACES = {"right-anterior-superior": 3, "ras": 3, "left-anterior-superior": 3, "las": 3, "left-posterior-superior": 3,
           "lps": 3, "scanner-xyz": 3, "3d-right-handed": 3, "3d-left-handed": 3, "right-anterior-superior-time": 4,
           "rast": 4, "left-anterior-superior-time": 4, "last": 4, "left-posterior-superior-time": 4, "lpst": 4,
           "scanner-xyz-time": 4, "3d-right-handed-time": 4, "3d-left-handed-time": 4}  # fmt: skip

_TEXT_FIELDS = ("content", "sampleunits")
_NUMBER_FIELDS = ("min", "max", "oldmin", "oldmax", "blocksize", "lineskip", "byteskip")
_PER_AXIS = ("spacings", "thicknesses", "axismins", "axismaxs")
_QUOTED = ("labels", "units", "spaceunits")
_CENTERS = ("cell", "node", "none", "???")
_VECTOR = re.compile(r"none|\(\s*[^\s(),]+(?:\s*,\s*[^\s(),]+)*\s*\)")


@dataclass(frozen=True)
class NrrdHeader:
    """A header that was checked.

    Args:
        fields: their values, by names in lower case without blanks.
        end: the byte at which it ends.
        data_files: where the voxels are, if not behind the header.
    """

    fields: dict[str, str]
    end: int
    data_files: tuple[str, ...] = ()
    sizes: tuple[int, ...] = field(default=())

    @property
    def nbytes(self) -> int:
        """Of the voxels."""
        return math.prod(self.sizes) * _BYTES[self.fields["type"].lower()]


def read_header(path: str) -> NrrdHeader:
    """The header of a file, checked, with the files that it names.

    Raises: NotAVolumeError naming what is wrong; OutsideError for voxels in a file outside its folder.
    """
    try:
        fields, listed, end = _fields(path)
        sizes = _check(fields)
        names = _data_files(fields, listed)
    except ValueError as error:
        raise NotAVolumeError(f"{path} is not an NRRD file that can be read: {error}") from error
    files = tuple(os.path.join(os.path.dirname(path), name) for name in names)
    for file in files:
        check_beside(file, path)
    return NrrdHeader(fields, end, files, sizes)


def _fields(path: str) -> tuple[dict[str, str], list[str], int]:
    """The fields; the names of files after `data file: LIST`; and where the header ends."""
    fields: dict[str, str] = {}
    listed: list[str] = []
    with Path(path).open("rb") as file:
        if not file.readline(80).startswith(b"NRRD000"):
            raise ValueError("it does not start with NRRD000")
        while file.tell() < MOST_BYTES:
            line = file.readline(MOST_BYTES)
            text = line.decode("latin-1").strip("\r\n")
            if not text:
                if line or "datafile" in fields:
                    return fields, listed, file.tell()
                raise ValueError("its header does not end")
            if listed or fields.get("datafile", "").upper().startswith("LIST"):
                listed.append(text.strip())
            elif not text.startswith("#"):
                _add(fields, text)
    raise ValueError(f"its header has more than {MOST_BYTES} bytes")


def _add(fields: dict[str, str], text: str) -> None:
    name, colon, value = text.partition(":")
    if not text.isprintable() or not colon:
        raise ValueError(f"{text[:40]!r} is no line of a header")
    if value.startswith("="):
        return  # a key and its value, which say nothing of the array
    name = name.lower().replace(" ", "")
    if len(text) > _LONGEST_LINE or not value.startswith(" ") or not value.strip():
        raise ValueError(f"{text[:40]!r} is no field with a value")
    if name in fields:
        raise ValueError(f"the field {name} is there twice")
    fields[{"centerings": "centers"}.get(name, name)] = value.strip()


def _check(fields: dict[str, str]) -> tuple[int, ...]:
    """The sizes. Raises: ValueError."""
    for needed in ("type", "dimension", "sizes", "encoding"):
        if needed not in fields:
            raise ValueError(f"it has no field {needed}")
    count = int(fields["dimension"])
    sizes = tuple(map(int, fields["sizes"].split()))
    if not 1 <= count <= _LARGEST_DIMENSION or len(sizes) != count or min(sizes) < 1 or max(sizes) >= 2**31:
        raise ValueError(f"sizes {fields['sizes']} of dimension {count}")
    if fields["type"].lower() not in _BYTES or fields["encoding"].lower() not in _ENCODINGS:
        raise ValueError(f"type {fields['type']}, encoding {fields['encoding']}")
    known = _SPACES.get(fields.get("space", "").lower(), 0)
    if "space" in fields and not known:
        raise ValueError(f"space {fields['space']}")
    space = known or int(fields.get("spacedimension", 0))
    if not 0 <= space <= _LARGEST_DIMENSION:
        raise ValueError(f"space dimension {space}")
    for name, value in fields.items():
        _check_field(name, value, sizes, space)
    return sizes


def _check_field(name: str, value: str, sizes: tuple[int, ...], space: int) -> None:
    """Raises: ValueError for a field that does not fit the axes, or is not known."""
    count, words = len(sizes), value.lower().split()
    if name in ("type", "dimension", "sizes", "encoding", "space", "spacedimension", "datafile", *_TEXT_FIELDS):
        return
    if name in _NUMBER_FIELDS:
        good = len(words) == 1 and _are_numbers(words)
    elif name in _PER_AXIS:
        good = len(words) == count and _are_numbers(words)
    elif name in _QUOTED:
        good = value.count('"') == 2 * (space if name == "spaceunits" else count) and value[0] == value[-1] == '"'
    elif name == "kinds":
        good = len(words) == count and all(
            w in _KINDS and _KINDS[w] in (0, n) for w, n in zip(words, sizes, strict=True)
        )
    elif name == "centers":
        good = len(words) == count and set(words) <= set(_CENTERS)
    elif name == "endian":
        good = value.lower() in ("little", "big")
    else:
        vectors = {"spacedirections": count, "spaceorigin": 1, "measurementframe": space}.get(name)
        good = vectors is not None and _are_vectors(value, vectors, space)
    if not good:
        raise ValueError(f"{name}: {value[:60]!r}")


def _are_vectors(value: str, count: int, length: int) -> bool:
    vectors = _VECTOR.findall(value)
    parts = [v.strip("() ").split(",") for v in vectors if v != "none"]
    whole = not _VECTOR.sub("", value).strip()
    return whole and len(vectors) == count and all(len(p) == length and _are_numbers(p) for p in parts)


def _are_numbers(words: list[str]) -> bool:
    try:
        return all(abs(float(word)) < 1e300 or math.isnan(float(word)) for word in words)
    except ValueError:
        return False


def _data_files(fields: dict[str, str], listed: list[str]) -> list[str]:
    """The names of the files that hold the voxels. Raises: ValueError for a series of files without an end."""
    value = fields.get("datafile", "")
    words = value.split()
    if value.upper().startswith("LIST"):
        return listed
    if "%" not in value:
        return [value] if value else []
    if len(words) < 4 or not re.fullmatch(r"[^%]*%0?\d{0,2}d[^%]*", words[0]):
        raise ValueError(f"data file: {value[:60]!r}")
    first, last, step = (int(word) for word in words[1:4])
    numbers = range(first, last + (1 if step > 0 else -1), step) if step else range(0)
    if not 0 < len(numbers) <= MOST_BYTES:
        raise ValueError(f"data file: {value[:60]!r}")
    return [words[0] % number for number in numbers]
