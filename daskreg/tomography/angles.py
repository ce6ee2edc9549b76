"""The angles of projections: their unit, and which projections are half a turn apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import InputError, OptionError, ShapeMismatchError, UnitError

Floats = NDArray[np.float64]

LEAST_PROJECTIONS = 8
UNITS = {"radians": 1.0, "radian": 1.0, "rad": 1.0, "degrees": np.pi / 180, "degree": np.pi / 180, "deg": np.pi / 180}
# Degrees from which an axis can be found span at least a good part of half a turn, hundreds; radians hardly
# ever span more than two turns.
_MOST_WITHOUT_UNIT = 4 * np.pi
_FEW_PAIRS = 8
_MOST_EXCESS = 0.05 * np.pi  # 9 degrees


def in_radians(angles: Any, count: int, unit: str | None) -> Floats:
    """(count,) angles in radians.

    Args:
        angles: None for even steps from 0 to a half turn, both included.
        unit: "radians" or "degrees"; None: what a DataArray states in `attrs["units"]`, else radians.

    Raises: UnitError where the unit is not known and the values span more than two turns of radians;
        ShapeMismatchError; InputError where angles are no finite real numbers.
    """
    if angles is None:
        return np.linspace(0, np.pi, count)
    try:
        given = np.asarray(angles)
        if given.dtype.kind not in "biufO":
            raise TypeError
        values = given.astype(np.float64)
    except (TypeError, ValueError):
        raise InputError("the angles are not real numbers") from None
    if values.shape != (count,):
        raise ShapeMismatchError(f"there are {count} projections and angles of shape {values.shape}")
    if not np.isfinite(values).all():
        raise InputError(f"angle {int(np.flatnonzero(~np.isfinite(values))[0])} is not finite")
    if unit is not None and unit not in UNITS:
        raise OptionError(f"unit={unit!r}: use 'radians' or 'degrees'")
    stated = str(getattr(angles, "attrs", {}).get("units", "")).lower()
    known = unit or (stated if stated in UNITS else None)
    span = float(np.ptp(values))
    if known is None and span > _MOST_WITHOUT_UNIT:
        raise UnitError(
            f"the angles span {span:.4g}, which is {span / (2 * np.pi):.1f} turns if they are radians: "
            "add unit='degrees' or unit='radians'"
        )
    return values * UNITS[known or "radians"]


@dataclass(frozen=True)
class OppositePairs:
    """Projections about half a turn apart.

    Args:
        pairs: (K, 2) their indices.
        excess: (K,) angle between them less half a turn, in radians, in [-pi, pi).
    """

    pairs: NDArray[np.intp]
    excess: Floats

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def one_sided(self) -> bool:
        """Whether they differ from half a turn to one side only, as those of a scan of half a turn do."""
        return bool(len(self)) and bool(np.ptp(self.excess) > 1e-9) and not self.excess.min() < 0 < self.excess.max()


def opposite_pairs(radians: Floats, most: int) -> OppositePairs:
    """Pairs half a turn apart, to within two steps of the angles or 9 degrees.

    Where there are few of them, as in a scan of half a turn, also pairs that are at least two steps further from it,
    so that what they show can be extrapolated to exactly half a turn.

    Args:
        most: that are returned, evenly chosen.
    """
    step = float(np.median(np.abs(np.diff(np.sort(radians)))))
    between = radians[None, :] - radians[:, None]
    excess = between % (2 * np.pi) - np.pi
    apart = np.abs(excess)
    nearest = float(apart.min())
    if nearest > max(2.01 * step, _MOST_EXCESS):
        return OppositePairs(np.zeros((0, 2), np.intp), np.zeros(0))
    for further in (0.1 * step, max(2.1 * step, nearest)):
        one, other = np.nonzero(np.triu(apart <= nearest + further, 1))
        if len(one) >= _FEW_PAIRS:
            break
    chosen = np.unique(np.linspace(0, len(one) - 1, min(most, len(one))).astype(int))
    pairs = np.stack([one[chosen], other[chosen]], axis=1)
    return OppositePairs(pairs, excess[pairs[:, 0], pairs[:, 1]])


def check_angles(radians: Floats) -> None:
    """Raise InputError for angles that no volume can be reconstructed from."""
    directions = np.unique(np.round(np.mod(radians, np.pi), 6))
    if len(directions) < LEAST_PROJECTIONS:
        raise InputError(f"the projections have {len(directions)} directions: at least {LEAST_PROJECTIONS} are needed")
    if np.ptp(radians) < np.radians(10):
        raise InputError(
            f"the angles span {np.degrees(np.ptp(radians)):.3g} degrees: check their unit, unit='degrees' or 'radians'"
        )
