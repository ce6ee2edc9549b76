"""The poses of projections: where each pixel of an aligned projection is found in the raw one.

(A, 3, 3) matrices of indices (row, column), about the middle of the detector. In aligned projections the axis of
rotation is the middle column. What no projection can show is the gauge: a shift of the volume along the axis is one row
shift of all projections, a shift across it is a column shift that goes with the cosine and the sine of the angle, and a
larger volume is one magnification of all projections.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

MODELS: dict[str, tuple[str, ...]] = {
    "translation": ("ty", "tx"),
    "rigid": ("ty", "tx", "theta"),
    "similarity": ("ty", "tx", "theta", "scale"),
}
"""Parameters of each projection. Where `theta`, the turn in radians, is none of them, all have that of the axis."""

_HALF_A_TURN = 0.95 * np.pi
_NEAR_MIDDLE = 0.05  # of the columns: how far from the middle an axis is mounted


def span_of(radians: Floats) -> float:
    """Radians that evenly spaced projections stand for: from the first to the last, and one step more."""
    return float(np.ptp(radians) + np.median(np.diff(np.sort(radians))))


def spans_half_a_turn(radians: Floats) -> bool:
    return span_of(radians) >= _HALF_A_TURN


def increments(values: Floats, names: tuple[str, ...]) -> Floats:
    """(A, 3, 3) motions of the aligned frame, about its middle, from (A, P) values of the parameters in `names`.

    `scale` is the logarithm of the magnification.
    """
    by_name = dict(zip(names, values.T, strict=True))
    zero = np.zeros(len(values))
    theta, scale = by_name.get("theta", zero), np.exp(by_name.get("scale", zero))
    found = np.tile(np.eye(3), (len(values), 1, 1))
    found[:, 0, 0] = found[:, 1, 1] = scale * np.cos(theta)
    found[:, 0, 1], found[:, 1, 0] = scale * np.sin(theta), -scale * np.sin(theta)
    found[:, 0, 2], found[:, 1, 2] = by_name.get("ty", zero), by_name.get("tx", zero)
    return found


def shifts_of(poses: Floats) -> Floats:
    """(A, 2) shifts in the aligned frame, rows and columns: what is applied before the turn."""
    return np.asarray(np.linalg.solve(poses[:, :2, :2], poses[:, :2, 2:])[..., 0], dtype=np.float64)


def turns_of(poses: Floats) -> Floats:
    """(A,) theta, radians."""
    return np.asarray(np.arctan2(poses[:, 0, 1], poses[:, 0, 0]))


def scales_of(poses: Floats) -> Floats:
    """(A,) logarithms of the magnifications."""
    return np.asarray(np.log(np.abs(np.linalg.det(poses[:, :2, :2]))) / 2)


def waves(radians: Floats) -> Floats:
    """(A, 2) the column shifts of a volume that is shifted by one voxel along x and along y."""
    return np.stack([np.cos(radians), np.sin(radians)], axis=1)


def without_gauge(poses: Floats, radians: Floats, used: NDArray[np.bool_], extent: float | None = None) -> Floats:
    """The poses for which the row shifts of `used` projections have the mean 0, and their column shifts, less a
    constant, no part that goes with the cosine and sine of the angle, and their magnifications the geometric mean 1.
    The volume is shifted and magnified accordingly."""
    larger = np.full((len(poses), 1), -scales_of(poses)[used].mean())
    poses = np.asarray(poses @ increments(larger, ("scale",)))
    shifts = shifts_of(poses)
    parts = constant_and_waves(shifts[:, 1], radians, used, extent)
    move = np.zeros((len(poses), 3))
    move[:, 0] = -shifts[used, 0].mean()
    move[:, 1] = -waves(radians) @ parts[1:]
    return np.asarray(poses @ increments(move[:, :2], ("ty", "tx")))


def fitted_waves(columns: Floats, radians: Floats) -> tuple[Floats, Floats]:
    """The (A, 3) basis of a constant, cosine and sine, and the (3,) factors of the column shifts in it, in least
    squares."""
    basis = np.column_stack([np.ones(len(radians)), waves(radians)])
    return basis, np.asarray(np.linalg.lstsq(basis, columns, rcond=1e-6)[0])


def constant_and_waves(
    columns: Floats, radians: Floats, used: NDArray[np.bool_], extent: float | None = None
) -> Floats:
    """(3,) the constant, and the factors of cosine and sine, of the column shifts, in least squares.

    With less than half a turn, a constant and a cosine are alike, and drift looks like both. The constant is then held
    near the middle, as far as the shifts that are left, and their correlation between neighbours, leave it open.

    Args:
        extent: columns of the detector; None: nothing is held.
    """
    order = np.flatnonzero(used)[np.argsort(radians[used], kind="stable")]
    seen = columns[order]
    basis, parts = fitted_waves(seen, radians[order])
    if spans_half_a_turn(radians[order]) or extent is None:
        return parts
    left = seen - basis @ parts
    following = float(left[1:] @ left[:-1]) / max(float(left @ left), 1e-30)
    following = float(np.clip(following, 0, 0.99))
    variance = float(left @ left) / len(left) * (1 + following) / (1 - following)
    normal = basis.T @ basis
    normal[0, 0] += variance / (_NEAR_MIDDLE * extent) ** 2
    return np.asarray(np.linalg.lstsq(normal, basis.T @ seen, rcond=1e-12)[0])


def sigma_of_constant(columns: Floats, radians: Floats, used: NDArray[np.bool_]) -> float:
    """Standard deviation of the constant of `constant_and_waves`, if the shifts that are left are independent."""
    basis, parts = fitted_waves(columns[used], radians[used])
    left = columns[used] - basis @ parts
    return float(np.sqrt(np.mean(left**2) * np.linalg.pinv(basis.T @ basis)[0, 0]))


@dataclass(frozen=True)
class Fixed:
    """What is not estimated.

    Args:
        turn: theta of the axis, radians, or None.
        centre: of the axis from the middle of the detector, pixels, or None.
        extent: columns of the detector.
    """

    turn: float | None
    centre: float | None
    extent: float

    @property
    def held(self) -> tuple[str, ...]:
        """Parameters of each projection whose mean is not estimated."""
        return tuple(name for name, value in (("theta", self.turn), ("tx", self.centre)) if value is not None)

    def applied(self, poses: Floats, radians: Floats, used: NDArray[np.bool_]) -> Floats:
        """The poses in the gauge, with the axis, or the mean of the turns, at the fixed angle and centre."""
        if self.turn is not None:
            back = np.full((len(poses), 1), self.turn - turns_of(poses)[used].mean())
            poses = np.asarray(poses @ increments(back, ("theta",)))
        poses = without_gauge(poses, radians, used, self.extent)
        if self.centre is None:
            return poses
        off = self.centre - constant_and_waves(shifts_of(poses)[:, 1], radians, used, self.extent)[0]
        return np.asarray(poses @ increments(np.full((len(poses), 1), off), ("tx",)))


@dataclass(frozen=True)
class Level:
    """Projections whose pixels are means of `factor` x `factor` pixels (of one row, where there are few).

    Args:
        shape: (rows, columns) of the detector.
        factors: (rows, columns) that were averaged.
        rows: the first row of the level and the one after the last, of a block of rows; None: all.
    """

    shape: tuple[int, int]
    factors: tuple[int, int]
    rows: tuple[int, int] | None = None

    @property
    def binned_shape(self) -> tuple[int, int]:
        rows = self.whole_rows if self.rows is None else self.rows[1] - self.rows[0]
        return rows, self.shape[1] // self.factors[1]

    @property
    def whole_rows(self) -> int:
        """Rows of the level, in all blocks."""
        return self.shape[0] // self.factors[0]

    @property
    def first(self) -> int:
        """The first row."""
        return 0 if self.rows is None else self.rows[0]

    @property
    def reach(self) -> float:
        """From the middle to the farther edge of the detector, columns of the level: by how much a turn of one radian
        moves pixels."""
        return max(self.whole_rows * self.factors[0] / self.factors[1], self.binned_shape[1]) / 2

    @property
    def middle(self) -> Floats:
        """(2,) where the middle of the detector is, in pixels of this level (from the first row)."""
        place = [((n - 1) / 2 - (f - 1) / 2) / f for n, f in zip(self.shape, self.factors, strict=True)]
        return np.array(place) - (self.first, 0)

    def binned(self, poses: Floats) -> Floats:
        """Poses about the middle of the detector, in its pixels, as maps of this level's indices."""
        scale = np.diag([*self.factors, 1.0])
        scale[:2, 2] = -self.middle * self.factors
        return np.asarray(np.linalg.inv(scale) @ poses @ scale)

    def indices(self, poses: Floats) -> Floats:
        """Poses about the middle of the detector as maps of its indices."""
        centred = np.eye(3)
        centred[:2, 2] = -(np.array(self.shape) - 1) / 2
        return np.asarray(np.linalg.inv(centred) @ poses @ centred)
