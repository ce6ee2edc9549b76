"""Transforms of StackReg's family: text of MultiStackReg and TurboReg, and `.npy` of pystackreg.

All are a pull, in pixels x, y, of which the first is at 0. The texts hold landmarks in the source (raw) image and where
they lie in the target. In a text of MultiStackReg about one stack, the target is the neighbouring slice, so
the map of a slice is the product of all those on the way to the anchor slice; about two stacks (`1` in its
third line), each map is that of a slice to the other stack.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import InvalidTransformError
from daskreg.formats.transforms.files import TransformFile, write_text
from daskreg.geometry import Affine, Grid, SliceAffines, Transform
from daskreg.geometry.pixels import from_index, plane, to_index
from daskreg.geometry.registry import FileReader, FileWriter, register_reader, register_writer
from daskreg.geometry.transform import checked_matrices, reversed_axes
from daskreg.runtime.atomic import replacing

Floats = NDArray[np.float64]

MULTI = "MultiStackReg Transformation File"
_SLICES = re.compile(r"Source img:\s*(\d+)\s+Target img:\s*(\d+)")
_POINTS = {"TRANSLATION": 1, "RIGID_BODY": 3, "SCALED_ROTATION": 2, "AFFINE": 3}
# Where the landmarks of written files are, in the target.
_LANDMARKS = np.array([[0.0, 0.0], [256.0, 0.0], [0.0, 256.0]])
_GRIDS = ("fixed", "moving")


def _from_landmarks(model: str, source: Floats, target: Floats) -> Floats:
    """(3, 3), x first, from target to source, of (3, 2) landmarks of which a model uses one, two or three."""
    m = np.eye(3)
    if model == "AFFINE":
        m[:2] = np.linalg.solve(np.column_stack([target, np.ones(3)]), source).T
        return m
    turn = 1 + 0j
    if model == "RIGID_BODY":  # the first is the centre, the two others give the angle
        a, b = (complex(*(p[2] - p[1])) for p in (source, target))
        turn = (a / abs(a)) / (b / abs(b))
    elif model == "SCALED_ROTATION":
        turn = complex(*(source[1] - source[0])) / complex(*(target[1] - target[0]))
    m[:2, :2] = [[turn.real, -turn.imag], [turn.imag, turn.real]]
    m[:2, 2] = source[0] - m[:2, :2] @ target[0]
    return m


def _model(word: str, path: Path) -> str:
    if word.strip() not in _POINTS:
        raise InvalidTransformError(f"{path}: {word.strip()!r} is not one of {', '.join(_POINTS)}")
    return word.strip()


def _points(lines: list[str], path: Path) -> Floats:
    """(3, 2) landmarks; what a model does not use is zero."""
    points = np.zeros((3, 2))
    for row, line in enumerate(lines):
        words = line.split()
        if len(words) != 2:
            raise InvalidTransformError(f"{path} is damaged: {line!r} is not a landmark")
        points[row] = [float(word) for word in words]
    return points


def _read_multi(file: TransformFile, *, fixed: Grid | None = None, moving: Grid | None = None) -> Transform:
    lines = [line for line in file.text.splitlines() if line.strip()]
    local = dict[int, Floats]()
    anchor = 1
    for first in range(3, len(lines), 8):
        block = lines[first : first + 8]
        if len(block) < 8 or not (slices := _SLICES.search(block[1])):
            raise InvalidTransformError(f"{file.path} is damaged: a block of 8 lines begins at {block[0]!r}")
        number, anchor = int(slices[1]), int(slices[2])
        points = _points(block[2:5], file.path), _points(block[5:8], file.path)
        local[number] = _from_landmarks(_model(block[0], file.path), *points)
    if not local:
        raise InvalidTransformError(f"{file.path} holds no transform")
    alone = lines[2].strip() == "1"
    pull = local if alone else _chained(local, anchor)
    if min(pull) != 1 or max(pull) != len(pull):
        raise InvalidTransformError(f"{file.path} has {len(pull)} slices, numbered {min(pull)} to {max(pull)}")
    matrices = np.stack([pull[number] for number in sorted(pull)])
    return from_index(reversed_axes(matrices), plane(fixed), plane(moving))


def _chained(local: dict[int, Floats], anchor: int) -> dict[int, Floats]:
    """The map of each slice (from the aligned stack), from those between neighbours."""
    pull = {anchor: np.eye(3)}
    for step in (-1, 1):
        number = anchor + step
        while number in local:
            pull[number] = local[number] @ pull[number - step]
            number += step
    if missing := sorted(local.keys() - pull.keys()):
        raise InvalidTransformError(f"slices {missing} are not linked to slice {anchor} by those between them")
    return pull


def _read_turboreg(file: TransformFile, *, fixed: Grid | None = None, moving: Grid | None = None) -> Transform:
    lines = [line.strip() for line in file.text.splitlines() if line.strip()]
    model = _model(lines[1], file.path)
    points = []
    for title in ("Refined source landmarks", "Target landmarks"):
        start = lines.index(title) + 1
        points.append(_points(lines[start : start + _POINTS[model]], file.path))
    return from_index(reversed_axes(_from_landmarks(model, *points)), plane(fixed), plane(moving))


def _read_npy(file: TransformFile, *, fixed: Grid | None = None, moving: Grid | None = None) -> Transform:
    # Mapped, so that a header that states more than the file holds is an error, and no allocation.
    loaded = np.array(np.load(file.path, mmap_mode="r", allow_pickle=False))
    matrices = checked_matrices(loaded, 3 if loaded.ndim == 3 else 2)
    if matrices.shape[-1] != 3:
        raise InvalidTransformError(f"pystackreg's matrices are (3, 3) or (N, 3, 3), not {matrices.shape}")
    return from_index(reversed_axes(matrices), plane(fixed), plane(moving))


def _pixel_matrices(transform: Transform, fixed: Grid | None, moving: Grid | None) -> Floats:
    if transform.ndim != 2:
        raise InvalidTransformError(f"StackReg moves 2D slices, not {transform.ndim}D volumes")
    return reversed_axes(to_index(transform, plane(fixed), plane(moving)))


def _write_multi(transform: Transform, path: Path, *, fixed: Grid | None = None, moving: Grid | None = None) -> None:
    """Each slice by itself, as of two stacks, so that no slice has to stay."""
    lines = [MULTI, "File Version 1.0", "1"]
    for number, m in enumerate(_pixel_matrices(transform, fixed, moving).reshape(-1, 3, 3), start=1):
        lines += ["AFFINE", f"Source img: {number} Target img: 1"]
        for points in (_LANDMARKS @ m[:2, :2].T + m[:2, 2], _LANDMARKS):
            lines += [*(f"{float(x)!r}\t{float(y)!r}" for x, y in points), ""]
    write_text("\n".join([*lines, ""]), path)


def _write_npy(transform: Transform, path: Path, *, fixed: Grid | None = None, moving: Grid | None = None) -> None:
    with replacing(path) as partial, partial.open("wb") as file:
        np.save(file, _pixel_matrices(transform, fixed, moving))


_LIMIT = "StackReg's files hold affine maps of slices"

register_reader(FileReader("MultiStackReg", lambda file: file.text.startswith(MULTI), _read_multi, takes=_GRIDS))
register_reader(
    FileReader(
        "TurboReg",
        lambda file: file.text.startswith("Transformation") and "Refined source landmarks" in file.text,
        _read_turboreg,
        takes=_GRIDS,
    )
)
register_reader(FileReader("pystackreg", lambda file: file.head.startswith(b"\x93NUMPY"), _read_npy, takes=_GRIDS))
register_writer(
    ("transformationmatri*.txt",),
    FileWriter("MultiStackReg", (Affine, SliceAffines), _LIMIT, _write_multi, takes=_GRIDS),
)
register_writer((".npy",), FileWriter("pystackreg", (Affine, SliceAffines), _LIMIT, _write_npy, takes=_GRIDS))
