"""Motions that are not determined, in words."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Parts of a direction below this share of its length are not named.
_SMALL = 0.2
_ANGLES = {"theta": "turn", "rx": "turn about x", "ry": "turn about y", "rz": "turn about z"}


def in_words(direction: Floats, names: tuple[str, ...], units: Floats) -> str:
    """A direction of motion, such as "shift along (0.00, 1.00) in y, x" or "turn, with shift along ...".

    Args:
        direction: (P,) of the parameters `names`. units: (P,) voxels by which a unit of each moves the farthest corner.
    """
    moved = direction * units
    moved = moved / max(float(np.linalg.norm(moved)), 1e-12)
    axes = [n for n in ("tz", "ty", "tx") if n in names]
    shift = np.array([moved[names.index(n)] for n in axes])
    words = [
        _ANGLES.get(name, name)
        for name, part in sorted(zip(names, moved, strict=True), key=lambda pair: -abs(pair[1]))
        if name not in axes and abs(part) > _SMALL
    ]
    size = float(np.linalg.norm(shift))
    if size > _SMALL:
        unit = shift / size
        unit = unit if unit[np.abs(unit).argmax()] > 0 else -unit
        along = ", ".join(f"{value + 0.0:.2f}" for value in unit)
        words.append(f"shift along ({along}) in {', '.join(n[1] for n in axes)}")
    return ", with ".join(words)
