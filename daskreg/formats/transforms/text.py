"""Plain text: the rows of a matrix, as `numpy.savetxt` writes them.

A line of comment may name the order of the axes, as in `# axes x y z`; without one it is array order, as everywhere in
daskreg. The map is `moving_from_fixed` in the world.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from daskreg.errors import InvalidTransformError
from daskreg.formats.transforms.files import TransformFile, numbers, write_text
from daskreg.geometry import Affine, default_axes
from daskreg.geometry.registry import FileReader, FileWriter, register_reader, register_writer
from daskreg.geometry.transform import checked_matrices, reversed_axes

_AXES = re.compile(r"axes[ :=]+([xyz](?:[ ,]*[xyz])+)")
_UNIT = re.compile(r"unit[ :=]+(\w+)")


def _claims(file: TransformFile) -> bool:
    rows = len(file.rows)
    return len(file.widths) == 1 and file.widths <= {rows, rows + 1} and rows in (2, 3, 4)


def _read(file: TransformFile) -> Affine:
    matrix = checked_matrices(np.array(file.rows), 2)
    names = default_axes(len(matrix) - 1)
    axes, unit = _AXES.search(file.comments), _UNIT.search(file.comments)
    order = tuple(re.sub(r"[ ,]", "", axes[1])) if axes else names
    if order == names[::-1]:
        matrix = reversed_axes(matrix)
    elif order != names:
        raise InvalidTransformError(f"{file.path}: axes {' '.join(order)} are not those of a {len(names)}D map")
    return Affine(matrix, unit=unit[1] if unit else None)


def _write(transform: Affine, path: Path) -> None:
    names = transform.axes or default_axes(transform.ndim)
    unit = f", unit {transform.unit}" if transform.unit else ""
    lines = [f"# moving_from_fixed, axes {' '.join(names)}{unit}", *map(numbers, transform.matrix)]
    write_text("\n".join([*lines, ""]), path)


register_reader(FileReader("text", _claims, _read), last=True)
register_writer((".matrix.txt",), FileWriter("text", Affine, "plain text holds one matrix", _write))
