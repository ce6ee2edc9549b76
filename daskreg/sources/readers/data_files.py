"""The files that the headers of MetaImage and NRRD name as those of the voxels.

MetaImage: `ElementDataFile = LOCAL`, a name, `LIST` with a name a line, or a pattern with the first and last number and
a step (itk.org/Wiki/ITK/MetaIO/Documentation). NRRD: `data file:` likewise (teem.sourceforge.net/nrrd/format.html).
"""

from __future__ import annotations

import os
from collections.abc import Iterator

_KEYS = (b"elementdatafile", b"data file", b"datafile")
_HEADER = 2**20
_MOST = 100_000


def data_files(path: str) -> tuple[str, ...]:
    """The files beside a header that hold its voxels, also those that are missing; () where they follow the header.

    Raises: OSError.
    """
    with open(path, "rb") as file:
        lines = file.read(_HEADER).split(b"\n")
    for number, line in enumerate(lines):
        key, separator, value = line.partition(b"=" if b"=" in line.partition(b":")[0] else b":")
        if separator and key.strip().lower() in _KEYS:
            names = _names(value.strip().decode("utf-8", "replace"), lines[number + 1 :])
            folder = os.path.dirname(path)
            return tuple(os.path.join(folder, name) for name in names)
        if not line.strip() and path.lower().endswith(("rrd", "hdr")):  # the end of a header of NRRD
            break
    return ()


def _names(value: str, below: list[bytes]) -> Iterator[str]:
    if value.upper() == "LOCAL" or not value:
        return
    if value.split(maxsplit=1)[0].upper() == "LIST":
        for line in below[:_MOST]:
            if name := line.strip().decode("utf-8", "replace"):
                yield name
    elif "%" in value:
        pattern, *numbers = value.split()
        try:
            first, last, step = map(int, [*numbers, "1"][:3])
            yield from (pattern % n for n in range(first, last + 1, max(1, step))[:_MOST])
        except (ValueError, TypeError):
            yield value
    else:
        yield value
