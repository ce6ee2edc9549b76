"""ITK transform files, text (`.tfm`, `.txt`) and HDF5 (`.h5`): one map, a composite, or a series."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import InvalidTransformError, MissingExtraError
from daskreg.formats.transforms.files import numbers
from daskreg.formats.transforms.files import write_text as write_file
from daskreg.formats.transforms.itk_types import TransformRecord, check_types, from_records, to_records
from daskreg.geometry import Affine, SliceAffines, Transform
from daskreg.geometry.registry import FileReader, FileWriter, register_reader, register_writer
from daskreg.runtime.atomic import replacing
from daskreg.runtime.hdf5_heaps import HeapCheckedFile

HEADER = "#Insight Transform File V1.0"

_MOST_PARAMETERS = 2**27
_LONGEST_TYPE = 1000


def read_text(text: str, name: str) -> Transform:
    """The map in a text file: of a composite the product, of a series SliceAffines."""
    fields: list[dict[str, str]] = []
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if line.startswith("#") or not colon:
            continue
        if key.strip() == "Transform":
            fields.append({})
        if fields:
            fields[-1][key.strip()] = value.strip()
    # Types first: what is not read is refused by its type, before its numbers are parsed.
    types = [TransformRecord(f["Transform"]) for f in fields]
    check_types(types, name)
    try:
        records = [
            TransformRecord(f["Transform"], _numbers(f, "Parameters"), _numbers(f, "FixedParameters")) for f in fields
        ]
    except ValueError as error:
        raise InvalidTransformError(f"{name}: {error}") from error
    return _made(records, name)


def write_text(records: Sequence[TransformRecord]) -> str:
    """The text of some transforms."""
    lines = [HEADER]
    for number, record in enumerate(records):
        lines += [f"#Transform {number}", f"Transform: {record.type}"]
        lines += [f"Parameters: {numbers(record.parameters)}", f"FixedParameters: {numbers(record.fixed)}"]
    return "\n".join([*lines, ""])


def read_hdf5(path: Path) -> Transform:
    """The map in an HDF5 file (`.h5`), as ITK and ANTs write composites.

    Raises: MissingExtraError without h5py.
    """
    h5py = _h5py()
    try:
        with HeapCheckedFile(str(path)) as checked, h5py.File(checked, "r") as file:
            return _read_group(file["TransformGroup"], str(path))
    except (OSError, KeyError, TypeError) as error:
        raise InvalidTransformError(f"{path} is not an HDF5 file of an ITK transform: {error}") from error


def write_hdf5(records: Sequence[TransformRecord], path: Path) -> None:
    """A file of some transforms.

    Raises: MissingExtraError without h5py.
    """
    h5py = _h5py()
    with h5py.File(path, "w") as file:
        text = h5py.string_dtype("ascii")
        file.create_dataset("ITKVersion", data=["5.0.0"], dtype=text)
        file.create_dataset("HDFVersion", data=[h5py.version.hdf5_version], dtype=text)
        for number, record in enumerate(records):
            group = file.create_group(f"TransformGroup/{number}")
            group.create_dataset("TransformType", data=[record.type], dtype=text)
            group.create_dataset("TransformParameters", data=np.asarray(record.parameters, dtype=np.float64))
            group.create_dataset("TransformFixedParameters", data=np.asarray(record.fixed, dtype=np.float64))


def _read_group(group: Any, name: str) -> Transform:
    members = [group[k] for k in sorted((k for k in group if k.isdigit()), key=int)]
    types = [_type(member["TransformType"], name) for member in members]
    check_types([TransformRecord(t) for t in types], name)
    records = [
        TransformRecord(t, _values(m, "Parameters"), _values(m, "FixedParameters"))
        for t, m in zip(types, members, strict=True)
    ]
    return _made(records, name)


def _made(records: Sequence[TransformRecord], name: str) -> Transform:
    """The map of a file, or an error that names the file."""
    try:
        return from_records(records)
    except InvalidTransformError as error:
        raise InvalidTransformError(f"{name}: {error}") from error


def _numbers(fields: dict[str, str], key: str) -> list[float]:
    return [float(v) for v in fields.get(key, "").split()]


def _values(member: Any, key: str) -> NDArray[np.float64] | Sequence[float]:
    # ITK 4 writes the names without the "s" of "Transform".
    numbers = member.get(f"Transform{key}", member.get(f"Tranform{key}"))
    if numbers is None:
        return []
    if numbers.size > _MOST_PARAMETERS:
        raise InvalidTransformError(
            f"{numbers.size} parameters are more than daskreg reads: save the field as an image"
        )
    found: NDArray[np.float64] = np.asarray(numbers[()], np.float64)
    return found


def _type(dataset: Any, path: str) -> str:
    """The type of a transform.

    Raises: InvalidTransformError where its length cannot be that of a type: libhdf5 takes memory by the stated length.
    """
    length, where = dataset.dtype.itemsize, dataset.id.get_offset()
    if dataset.dtype.kind == "O" and where is not None:
        with open(path, "rb") as file:
            file.seek(where)
            length = int.from_bytes(file.read(4), "little")
    if length > _LONGEST_TYPE:
        raise InvalidTransformError(f"{path} states a type of transform of {length} characters")
    return _text(dataset[0])


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _h5py() -> Any:
    try:
        import h5py
    except ImportError as error:
        raise MissingExtraError("h5py", "formats") from error
    return h5py


def write_records(records: Sequence[TransformRecord], path: Path) -> None:
    """A file of some transforms that appears whole or not at all: HDF5 by the suffix, else text."""
    if path.suffix.lower() != ".h5":
        write_file(write_text(records), path)
        return
    with replacing(path) as partial:
        write_hdf5(records, partial)


def _write_file(transform: Transform, path: Path) -> None:
    write_records(to_records(transform), path)


_AFFINE = (Affine, SliceAffines)
_LIMIT = "an ITK file holds an affine map, a series of them, or a chain with fields"

register_reader(FileReader("ITK", lambda file: file.head.startswith(b"\x89HDF\r\n\x1a\n"), lambda f: read_hdf5(f.path)))
register_reader(
    FileReader(
        "ITK", lambda file: file.text.startswith("#Insight Transform File"), lambda f: read_text(f.text, str(f.path))
    )
)
register_writer((".tfm", ".txt", ".h5"), FileWriter("ITK", _AFFINE, _LIMIT, _write_file))
