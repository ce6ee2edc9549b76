"""H: what all aligned projections together say of each, as the reprojection of the volume that is made of them.

Filtered back-projection F makes the volume, A projects it. Detail that is finer than so many angles resolve is in one
projection alone, and the ramp filter would return more of it than there is: 1 - H would be negative, and steps would
lead away from the solution. So the filter is limited there (Radermacher 1992). It also restores what the linear
interpolation of slices and rays takes from fine detail: the residual would have that part of the specimen, more of it
where a projection is shifted and turned less, which turned the axis by a tenth of a degree where pixels are coarse.

With many projections of a half turn, that is nearly what a volume in least squares would show. With few ones, or a
missing wedge, it is not: near the wedge, A F shows a half and less of what was seen, and what is lacking would pull at
the poses. So the volume is then found in least squares, by iterations with F as the preconditioner: the residual after
k of them is a polynomial of A F, that of Chebyshev, which is the smallest one over an interval of eigenvalues (Golub
and Varga 1961). It is linear in the projections, as the normal equations of the poses need.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.tomography.coupling_matrix import coupling_matrix
from daskreg.tomography.projector.reconstruction import fbp_response, filtered, kept_by_interpolation
from daskreg.tomography.projector.slices import SliceProjector

Floats = NDArray[np.float64]
Array = NDArray[Any]

_ITERATIONS = 8
_SMALLEST = 0.1
"""Of the largest eigenvalue: what changes less is left to the residual. Above it, the iterations leave 1/180."""
_POWER_STEPS = 12
_MARGIN = 1.05  # that many steps of the power method find the largest eigenvalue to within this factor
_BACKGROUND = 0.1  # of the largest mean of a column: less is background


@dataclass(frozen=True)
class Reprojection:
    """H of aligned projections (A, U, V).

    Args:
        radians: (A,).
        columns: of the projections.
        centre: the column of the axis.
        iterated: whether the volume is found in least squares, by iterations.
    """

    radians: Floats
    columns: int
    centre: float
    iterated: bool
    projector: SliceProjector = field(init=False)
    response: Array = field(init=False)
    largest: float = field(init=False)

    def __post_init__(self) -> None:
        shape = (self.columns, self.columns)
        projector = SliceProjector(self.radians, shape, self.columns, self.centre, self.radius)
        object.__setattr__(self, "projector", projector)
        response = self._unrestored()
        if not self.iterated:  # the iterations restore it
            response /= kept_by_interpolation(projector)
        object.__setattr__(self, "response", response.astype(np.float32))
        object.__setattr__(self, "largest", self._largest() if self.iterated else 1.0)

    @property
    def radius(self) -> float:
        """Of the disk that all projections see, pixels: corners that some do not see are taken for empty."""
        return min(self.centre, self.columns - 1 - self.centre) + 0.5

    def __call__(self, aligned: Array) -> Array:
        if not self.iterated:
            return self._once(aligned)
        # The recurrence of Saad 2003, algorithm 12.1, for eigenvalues from `low` to `high`.
        high, low = self.largest, _SMALLEST * self.largest
        middle, half = (high + low) / 2, (high - low) / 2
        ratio = middle / half
        rho = 1 / ratio
        change = self._once(aligned) / np.float32(middle)
        seen = change.copy()
        for _ in range(_ITERATIONS):
            following = 1 / (2 * ratio - rho)
            change *= np.float32(following * rho)
            change += np.float32(2 * following / half) * self._once(aligned - seen)
            seen += change
            rho = following
        return seen

    def coupling(self, images: Array) -> Floats:
        """(A, P, A, P) products of (P, A, U, V) images with H of all of them, without iterations."""
        response = self._unrestored().astype(np.float32)
        return coupling_matrix(images, self.radians, response, self.centre, self.radius)

    def _unrestored(self) -> Floats:
        """(A, F) response of filtered back-projection, without what interpolation takes being restored."""
        return fbp_response(self.radians, self.columns, longest=2 * self.radius)

    def _once(self, aligned: Array) -> Array:
        return self.projector.project(self.projector.smear(filtered(aligned, self.response)))

    def _largest(self) -> float:
        """The largest eigenvalue of A F, by the power method on one row."""
        image = np.random.default_rng(0).normal(size=(len(self.radians), self.columns, 1)).astype(np.float32)
        value = 1.0
        for _ in range(_POWER_STEPS):
            image = self._once(image / np.float32(np.linalg.norm(image)))
            value = float(np.linalg.norm(image))
        return _MARGIN * value


def is_cut_off(data: Array) -> bool:
    """Whether (A, V, U) projections do not end in background on both sides of the axis. They then show another mass at
    each angle, which no volume explains; to fit them more closely is of no use."""
    line = data.mean(axis=(0, 1))
    return bool(max(abs(line[0]), abs(line[-1])) >= _BACKGROUND * np.abs(line).max())
