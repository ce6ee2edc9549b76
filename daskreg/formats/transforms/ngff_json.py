"""JSON of OME-NGFF: coordinateTransformations, which map forward, so that the result is `output_from_input`."""

from __future__ import annotations

import json
import re
from pathlib import Path

from daskreg.errors import InvalidTransformError
from daskreg.formats.ngff import TYPES, forward_matrix
from daskreg.formats.transforms.files import TransformFile, write_text
from daskreg.formats.transforms.own import parsed_json
from daskreg.geometry import Affine, Grid
from daskreg.geometry.registry import FileReader, FileWriter, register_reader, register_writer

_TYPE = re.compile(rf'"type"\s*:\s*"(?:{"|".join(TYPES)})"')


def _claims(file: TransformFile) -> bool:
    text = file.text.lstrip()
    return text.startswith(("{", "[")) and '"daskreg/' not in text and bool(_TYPE.search(text))


def _read(file: TransformFile, *, fixed: Grid | None = None) -> Affine:
    parsed = parsed_json(file.text, file.path)
    entries = parsed.get("coordinateTransformations", parsed) if isinstance(parsed, dict) else parsed
    matrix = forward_matrix(entries, None if fixed is None else fixed.ndim)
    if matrix is None:
        raise InvalidTransformError(f"{file.path} holds an identity of unknown dimension")
    return Affine(matrix, unit=None if fixed is None else fixed.unit)


def _write(transform: Affine, path: Path) -> None:
    entry = {"type": "affine", "affine": transform.matrix[:-1].tolist()}
    write_text(json.dumps({"coordinateTransformations": [entry]}, indent=1) + "\n", path)


register_reader(FileReader("NGFF", _claims, _read, takes=("fixed",)))
register_writer((".ngff.json",), FileWriter("NGFF", Affine, "an NGFF transformation holds one affine map", _write))
