"""Files of ANTs, `0GenericAffine.mat`: ITK's transforms as variables of MATLAB version 4.

Each transform is two columns of numbers: its parameters, named as its type, and `fixed`, its fixed parameters (of an
affine map the centre). The layout is that of vnl_matlab_write, with which ITK writes them.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from daskreg.errors import InvalidTransformError
from daskreg.formats.transforms.files import TransformFile
from daskreg.formats.transforms.itk_types import TransformRecord, check_types, from_records, to_records
from daskreg.geometry import Affine, SliceAffines, Transform
from daskreg.geometry.registry import FileReader, FileWriter, register_reader, register_writer
from daskreg.runtime.atomic import replacing

_HEAD = 20
# The type of a variable by its code: 0 float64, 10 float32, both column by column; 1000 more in big-endian order.
_DTYPES = {0: "<f8", 10: "<f4", 1000: ">f8", 1010: ">f4"}
_MOST_NUMBERS = 1000
_LONGEST_NAME = 100


def _order(head: bytes) -> str | None:
    """Byte order of the header of a variable: five 32-bit numbers (type, rows, columns, imaginary, length of name)."""
    for order in "<>":
        if len(head) >= _HEAD:
            kind, rows, columns, imaginary, length = struct.unpack(f"{order}5i", head[:_HEAD])
            small = 0 <= rows <= _MOST_NUMBERS and columns in (0, 1) and imaginary == 0 and 0 < length <= _LONGEST_NAME
            if kind in _DTYPES and (kind < 1000) == (order == "<") and small:
                return order
    return None


def _read(file: TransformFile) -> Transform:
    data, variables = file.data, list[tuple[str, list[float]]]()
    while data:
        order = _order(data)
        if order is None:
            raise InvalidTransformError(f"{file.path} is not a MATLAB file of version 4, as ANTs writes them")
        kind, rows, columns, _, length = struct.unpack(f"{order}5i", data[:_HEAD])
        name = data[_HEAD : _HEAD + length].rstrip(b"\x00").decode("ascii")
        start = _HEAD + length
        values = np.frombuffer(data, dtype=_DTYPES[kind], count=rows * columns, offset=start)
        variables.append((name, [float(v) for v in values]))
        data = data[start + values.nbytes :]
    pairs = zip(variables[::2], variables[1::2], strict=True)
    records = [TransformRecord(name, parameters, fixed) for (name, parameters), (_, fixed) in pairs]
    check_types(records, str(file.path))
    return from_records(records)


def _write(transform: Transform, path: Path) -> None:
    with replacing(path) as partial, partial.open("wb") as file:
        for record in to_records(transform):
            for name, values in ((record.type, record.parameters), ("fixed", record.fixed)):
                words = name.encode("ascii") + b"\x00"
                file.write(struct.pack("<5i", 0, len(values), 1, 0, len(words)) + words)
                file.write(np.asarray(values, dtype="<f8").tobytes())


register_reader(FileReader("ANTs", lambda file: _order(file.head) is not None, _read))
register_writer(
    (".mat", "*genericaffine.mat"),
    FileWriter("ANTs", (Affine, SliceAffines), "a file of ANTs holds affine maps, not a field", _write),
)
