"""What is drawn of the drift of a stack: shifts, angles, scores and cycle errors along the slices, and its outliers.

Fits are known by their attributes only: `raw_from_aligned`, `centre`, and if there are any `sigma` (parameter name ->
one number for each slice), `outliers` and `bridged` (indices), `kinds` (index -> kind of outlier), `breaks`, and
`scores` and `cycles` (one for each slice).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import ShapeMismatchError
from daskreg.geometry import as_transform
from daskreg.geometry.parameters import parameters_from_matrix
from daskreg.reporting.chart import Line
from daskreg.reporting.words import symbol

Floats = NDArray[np.float64]

_ANGLES = ("theta", "rx", "ry", "rz")
_NAMES = {"theta": "rotation"}


@dataclass(frozen=True)
class Panel:
    """Lines that share a vertical axis, and its label with the unit."""

    label: str
    lines: tuple[Line, ...]


def panels(fit: Any, truth: Any = None) -> list[Panel]:
    """Shifts, then angles, scales and shears that are not at rest, then scores and cycle errors.

    Args:
        truth: raw_from_clean, a SliceAffines or (N, D+1, D+1) matrices, in the frame in which its first slice has
            the pose of the fit.
    """
    matrices = np.asarray(fit.raw_from_aligned.matrices)
    centre = np.asarray(fit.centre, dtype=np.float64)
    estimated = trajectories(matrices, centre)
    true = None if truth is None else trajectories(_in_frame_of(matrices, truth), centre)
    unit = symbol(getattr(fit.raw_from_aligned, "unit", None))
    sigma = getattr(fit, "sigma", None) or {}
    found = []
    for names in _groups(estimated):
        lines = []
        for name in names:
            width = None if name not in sigma else _numbers(sigma[name]) * (np.degrees(1) if name in _ANGLES else 1)
            of_truth = None if true is None else true[name]
            lines.append(Line(_NAMES.get(name, _spelled(name)), estimated[name], width, of_truth))
        found.append(Panel(_label(names[0], unit), tuple(lines)))
    metric = str(getattr(fit, "metric", "score"))
    for attribute, label in (("scores", f"agreement with neighbours ({metric})"), ("cycles", f"cycle error ({unit})")):
        values = _numbers(getattr(fit, attribute, ()))
        if values.shape == (len(matrices),) and np.isfinite(values).any():
            found.append(Panel(label, (Line(label.partition(" (")[0], values),)))
    return found


def marks(fit: Any) -> dict[str, list[int]]:
    """Outlier slices by kind; slices without a fit of their own; slices before which nothing joins the stack."""
    kinds = {int(i): str(kind) for i, kind in (getattr(fit, "kinds", None) or {}).items()}
    found: dict[str, list[int]] = {}
    bridged = {int(i) for i in getattr(fit, "bridged", ())}
    for i in sorted({*map(int, getattr(fit, "outliers", ())), *kinds, *bridged}):
        found.setdefault(kinds.get(i, "interpolated" if i in bridged else "outlier"), []).append(i)
    breaks = [int(i) for i in getattr(fit, "breaks", ())]
    return found | ({"break": breaks} if breaks else {})


def trajectories(matrices: Floats, centre: Floats) -> dict[str, Floats]:
    """Parameters by name along the slices; angles in degrees, without jumps of 360 degrees."""
    rows = [parameters_from_matrix(m, centre) for m in matrices]
    found = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    for name in _ANGLES:
        if name in found:
            found[name] = np.degrees(np.unwrap(found[name]))
    return found


def _spelled(name: str) -> str:
    if name in _ANGLES:
        return f"about {name[1]}"
    return f"along {name[1:]}" if name[0] in "ts" and not name.startswith("sh") else name


def _groups(found: Mapping[str, Floats]) -> list[list[str]]:
    """Names that share a panel: shifts, then angles that are not all zero, then scales and shears that vary."""
    varies = {name: np.ptp(values) > 1e-9 for name, values in found.items()}
    angles = [n for n in _ANGLES if n in found]
    scales = [n for n in ("sx", "sy", "sz") if n in found]
    groups = (
        [n for n in ("tx", "ty", "tz") if n in found],
        angles if any(np.any(found[n]) for n in angles) else [],
        scales if any(varies[n] for n in scales) else [],
        [n for n in found if n.startswith("sh") and varies[n]],
    )
    return [g for g in groups if g]


def _label(name: str, unit: str) -> str:
    if name in ("tx", "ty", "tz"):
        return f"shift ({unit})"
    return "shear" if name.startswith("sh") else {"s": "scale", "t": "rotation (°)", "r": "rotation (°)"}[name[0]]


def _numbers(values: Any) -> Floats:
    return np.asarray([np.nan if v is None else v for v in values], dtype=np.float64)


def _in_frame_of(estimated: Floats, truth: Any) -> Floats:
    """The true matrices, such that the first one is that of the estimate."""
    true = as_transform(truth).to_matrices()
    if true.shape != estimated.shape:
        raise ShapeMismatchError(f"truth has shape {true.shape}, the fit {estimated.shape}")
    return np.asarray(true @ np.linalg.inv(true[0]) @ estimated[0])
