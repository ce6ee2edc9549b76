"""The header of a MetaImage file (.mha, .mhd): lines of `Name = value`, the last of which says where the voxels are.

It is checked before ITK reads it: ITK takes the name of a file, and a pattern for many, as they are.
(github.com/Kitware/MetaIO, metaImage.cxx)
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path

from daskreg.errors import NotAVolumeError
from daskreg.runtime.regular_files import check_beside

_MOST_BYTES = 2**16
_LONGEST_LINE = 500
_MOST_FILES = 100_000
_LARGEST = 1e100  # products of two such numbers are finite: of others, ITK's decomposition does not end
_MOST_CHANNELS = 1000
_BYTES = {"char": 1, "uchar": 1, "ascii_char": 1, "short": 2, "ushort": 2, "int": 4, "uint": 4, "long": 4, "ulong": 4,
          "long_long": 8, "ulong_long": 8, "float": 4, "double": 8}  # fmt: skip
_TRUTHS = ("true", "false", "t", "f", "1", "0")
_PER_AXIS = ("offset", "position", "origin", "elementspacing", "elementsize", "centerofrotation")
_SQUARE = ("transformmatrix", "rotation", "orientation")
_FLAGS = ("binarydata", "compresseddata", "binarydatabyteordermsb", "elementbyteordermsb")
_COUNTS = ("compresseddatasize", "headersize", "elementnumberofchannels", "sequenceid")


@dataclass(frozen=True)
class MetaImageHeader:
    """A header that was checked.

    Args:
        fields: values by name in lower case.
        end: the byte at which it ends.
        data_files: where the voxels are, if not behind the header.
        nbytes: of the voxels.
    """

    fields: dict[str, str]
    end: int
    data_files: tuple[str, ...]
    nbytes: int

    @property
    def plain(self) -> bool:
        """Whether the voxels are neither compressed nor text, so that ITK reads boxes of them."""
        packed = self.fields.get("compresseddata", "false")[0].lower() in "t1"
        return not packed and self.fields.get("binarydata", "true")[0].lower() in "t1"


def read_header(path: str) -> MetaImageHeader:
    """The header of a file, checked, with the files that it names.

    Raises: NotAVolumeError naming what is wrong; OutsideError for voxels in a file outside its folder.
    """
    try:
        fields, names, end = _fields(path)
        shape = _check(fields)
        names = names or _series(fields["elementdatafile"])
    except ValueError as error:
        raise NotAVolumeError(f"{path} is not a MetaImage file that can be read: {error}") from error
    files = tuple(os.path.join(os.path.dirname(path), name) for name in names)
    for file in files:
        check_beside(file, path)
    size = _BYTES[fields["elementtype"].lower().removeprefix("met_").removesuffix("_array")]
    return MetaImageHeader(fields, end, files, math.prod(shape) * size)


def _fields(path: str) -> tuple[dict[str, str], list[str], int]:
    """The fields; the names of files that follow `LIST`; and where the header ends."""
    fields: dict[str, str] = {}
    with Path(path).open("rb") as file:
        while "elementdatafile" not in fields:
            line = file.readline(_LONGEST_LINE + 1)
            text = line.decode("latin-1").strip()
            name, equal, value = (part.strip() for part in text.partition("="))
            if not line or len(line) > _LONGEST_LINE or file.tell() > _MOST_BYTES:
                raise ValueError("its header does not end")
            if not text or text.startswith("#"):
                continue
            if not equal or not text.isprintable() or not re.fullmatch(r"[A-Za-z][\w ]*", name):
                raise ValueError(f"{text[:40]!r} is no line of a header")
            fields[name.lower()] = value
        listed = []
        if fields["elementdatafile"].split()[:1] == ["LIST"]:
            rest = file.read(_MOST_BYTES * 64)
            listed = [name.strip() for name in rest.decode("latin-1").splitlines() if name.strip()]
            if not listed:
                raise ValueError("ElementDataFile = LIST, and no names")
        return fields, listed, file.tell()


def _check(fields: dict[str, str]) -> tuple[int, ...]:
    """The sizes, channels last. Raises: ValueError."""
    for needed in ("ndims", "dimsize", "elementtype"):
        if needed not in fields:
            raise ValueError(f"it has no field {needed}")
    count = int(fields["ndims"])
    sizes = tuple(map(int, fields["dimsize"].split()))
    if not 1 <= count <= 8 or len(sizes) != count or min(sizes) < 1 or max(sizes) >= 2**31:
        raise ValueError(f"DimSize {fields['dimsize'][:60]} of {count} dimensions")
    kind = fields["elementtype"].lower()
    if not kind.startswith("met_") or kind.removeprefix("met_").removesuffix("_array") not in _BYTES:
        raise ValueError(f"ElementType {fields['elementtype'][:40]}")
    channels = int(fields.get("elementnumberofchannels", 1))
    if not 1 <= channels <= _MOST_CHANNELS:
        raise ValueError(f"ElementNumberOfChannels {channels}")
    for name, value in fields.items():
        words = value.split()
        wanted = count if name in _PER_AXIS else count * count if name in _SQUARE else None
        if wanted is not None and (len(words) != wanted or not all(math.isfinite(float(word)) for word in words)):
            raise ValueError(f"{name} has not {wanted} numbers")
        if wanted is not None and any(abs(float(word)) > _LARGEST for word in words):
            raise ValueError(f"{name} is {value[:40]!r}")
        if name in _FLAGS and value.lower() not in _TRUTHS:
            raise ValueError(f"{name} is {value[:40]!r}")
        if name in _COUNTS and not -1 <= int(value.split()[0] if value else -2) < 2**62:
            raise ValueError(f"{name} is {value[:40]!r}")
    return (*sizes, channels)


def _series(value: str) -> list[str]:
    """The files that `ElementDataFile` names: one, or a series by a pattern. Raises: ValueError."""
    words = value.split()
    if value.upper() == "LOCAL":
        return []
    if "%" not in value:
        if not value:
            raise ValueError("ElementDataFile is empty")
        return [value]
    if not 3 <= len(words) <= 4 or not re.fullmatch(r"[^%]*%0?\d{0,2}d[^%]*", words[0]):
        raise ValueError(f"ElementDataFile is {value[:60]!r}")
    first, last, step = (*map(int, words[1:]), 1)[:3]
    numbers = range(first, last + 1, step) if step > 0 else range(0)
    if not 0 < len(numbers) <= _MOST_FILES:
        raise ValueError(f"ElementDataFile is {value[:60]!r}")
    return [words[0] % number for number in numbers]
