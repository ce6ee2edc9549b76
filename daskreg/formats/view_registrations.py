"""Where the XML of BigDataViewer and BigStitcher puts the voxels of its views.

The product of a view's affine maps goes from its voxels x, y, z, counted from the centre of the first one, to the
world; the first map of the list is applied last. The world has the unit of the voxel sizes, but that of BigStitcher
counts in the smallest voxel size of the project: its map that is applied first scales a view by its sizes over that.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from xml.etree.ElementTree import Element

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def view_registrations(root: Element) -> dict[tuple[int, int], Floats]:
    """By time point and setup, the (4, 4) map from voxels to the world in the unit of the voxel sizes.

    Raises: ValueError for a map that is not affine, and for numbers that are none.
    """
    products, first = {}, {}
    for entry in root.iterfind("ViewRegistrations/ViewRegistration"):
        key = int(entry.get("timepoint", "0")), int(entry.get("setup", "0"))
        steps = [_matrix(step) for step in entry.iterfind("ViewTransform")]
        product = np.eye(4)
        for step in steps:
            product = product @ step
        products[key] = product
        first[key] = steps[-1] if steps else np.eye(4)
    length = _length_of_world(first, voxel_sizes(root))
    return {key: np.diag([length, length, length, 1.0]) @ product for key, product in products.items()}


def voxel_sizes(root: Element) -> dict[int, Floats]:
    """By setup, the size x, y, z of its voxels; setups that state none are left out. Raises: ValueError."""
    return {
        int(entry.findtext("id") or 0): finite_numbers(text, 3)
        for entry in root.iterfind("SequenceDescription/ViewSetups/ViewSetup")
        if (text := entry.findtext("voxelSize/size")) is not None
    }


def time_points(pattern: str, most: int) -> tuple[int, ...]:
    """The numbers in a pattern such as "0-20:5, 33": single ones, and ranges with a step.

    Raises: ValueError.
    """
    times: list[int] = []
    for word in pattern.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+)(?::([1-9]\d*))?)?", word.replace(" ", "").strip())
        if match is None:
            raise ValueError(f"its times are {pattern[:80]!r}")
        first, last, step = int(match[1]), int(match[2] or match[1]), int(match[3] or 1)
        if len(times) + abs(last - first) // step >= most:
            raise ValueError(f"its times are more than {most}: {pattern[:80]!r}")
        times.extend(range(first, last + 1, step) if first <= last else range(first, last - 1, -step))
    return tuple(dict.fromkeys(times))


def finite_numbers(text: str | None, count: int) -> Floats:
    """The numbers of a text. Raises: ValueError."""
    values = np.array([float(word) for word in (text or "").split()])
    if len(values) != count or not np.isfinite(values).all():
        raise ValueError(f"{(text or '')[:80]!r} are not {count} numbers")
    return values


def _matrix(step: Element) -> Floats:
    kind = step.get("type", "affine")
    if kind != "affine":
        raise ValueError(f"a ViewTransform is of the type {kind[:80]!r}, not affine")
    return np.vstack([finite_numbers(step.findtext("affine"), 12).reshape(3, 4), [0, 0, 0, 1]])


def _length_of_world(first: Mapping[tuple[int, int], Floats], sizes: Mapping[int, Floats]) -> float:
    """What a length of 1 of the world is, in the unit of the voxel sizes: the smallest of them in BigStitcher's."""
    positive = [size for size in sizes.values() if (size > 0).all()]
    smallest = float(min((size.min() for size in positive), default=1.0))
    known = [(matrix, sizes[setup] / smallest) for (_, setup), matrix in first.items() if setup in sizes]
    return smallest if known and _are_scales(known) else 1.0


def _are_scales(maps: Iterable[tuple[Floats, Floats]]) -> bool:
    return all(np.allclose(matrix, np.diag([*scale, 1.0]), rtol=0.01, atol=1e-6) for matrix, scale in maps)
