"""Projections of slices across a rotation axis that is parallel to the columns of the detector, in memory.

Slices are (Y, X, Z), projections (A, U, Z): what one rotation projects in the same way is the last axis. A voxel at
(y, x) is seen at column centre + (x - cx) cos(angle) + (y - cy) sin(angle), where (cy, cx) is the middle of the slices.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.runtime.threads import shares
from daskreg.tomography.projector import projector_numba as kernels

Floats = NDArray[np.float64]
Array = NDArray[Any]


@dataclass(frozen=True)
class SliceProjector:
    """A projector of slices and its exact adjoint, float32 or float64.

    Args:
        radians: (A,) angles.
        shape: (Y, X) of a slice.
        columns: of the detector.
        centre: the column of the axis; None: the middle one.
    """

    radians: Floats
    shape: tuple[int, int]
    columns: int
    centre: float | None = None

    def project(self, slices: Array) -> Array:
        """(Y, X, Z) slices as (A, U, Z) line integrals, in units of a voxel."""
        sums = np.zeros((len(self.radians), self.columns, slices.shape[2]), slices.dtype)
        for axis, chosen, lines, length in self._groups():
            planes, part = np.ascontiguousarray(slices.swapaxes(0, axis)), np.zeros_like(sums[chosen])
            if slices.shape[2] == 1:
                shares(partial(kernels.project_slice, _within_zeros(planes), lines, part[..., 0]), len(part))
            else:
                shares(partial(kernels.project_slices, planes, lines, part), len(part))
            sums[chosen] = part * length[:, None, None].astype(slices.dtype)
        return sums

    def backproject(self, sums: Array) -> Array:
        """The adjoint of `project`."""
        total = np.zeros((*self.shape, sums.shape[2]), sums.dtype)
        for axis, chosen, lines, length in self._groups():
            part = sums[chosen] * length[:, None, None].astype(sums.dtype)
            planes = np.zeros_like(total.swapaxes(0, axis), order="C")
            shares(partial(kernels.backproject_slices, part, lines, planes), len(planes))
            total += planes.swapaxes(0, axis)
        return total

    def smear(self, sums: Array) -> Array:
        """(Y, X, Z) of each voxel the sum of the projections where it is seen: the backprojection of FBP."""
        total = np.zeros((*self.shape, sums.shape[2]), sums.dtype)
        cosine, sine = np.cos(self.radians), np.sin(self.radians)
        start = self.axis - cosine * (self.shape[1] - 1) / 2 - sine * (self.shape[0] - 1) / 2
        lines = np.stack([sine, cosine, start], axis=1)
        sums = np.ascontiguousarray(sums)
        if sums.shape[2] == 1:
            shares(partial(kernels.smear_slice, _within_zeros(sums), lines.T.copy(), total[..., 0]), len(total))
        else:
            shares(partial(kernels.smear_slices, sums, lines, total), len(total))
        return total

    @property
    def axis(self) -> float:
        """The column of the axis."""
        return (self.columns - 1) / 2 if self.centre is None else self.centre

    def _groups(self) -> list[tuple[int, NDArray[np.intp], Floats, Floats]]:
        """Of the rays that follow y most (axis 0), and of those that follow x (axis 1).

        Returns: for each the axis, which projections, their lines, and the lengths of a step.
        """
        cosine, sine = np.cos(self.radians), np.sin(self.radians)
        along_x = np.abs(sine) > np.abs(cosine)
        cy, cx = (n / 2 - 0.5 for n in self.shape)
        groups = []
        for axis, chosen in enumerate((np.flatnonzero(~along_x), np.flatnonzero(along_x))):
            if not len(chosen):
                continue
            across, along = (cosine, sine) if axis == 0 else (sine, cosine)
            middle, other = (cx, cy) if axis == 0 else (cy, cx)
            across, along = across[chosen], along[chosen]
            slope, step = 1 / across, -along / across
            lines = np.stack([slope, step, middle - self.axis * slope - other * step], axis=1)
            groups.append((axis, chosen, lines, np.abs(slope)))
        return groups


def _within_zeros(one: Array) -> Array:
    """(N, 1 + M + 2) of an (N, M, 1) array, with zeros before and after."""
    return np.pad(one[..., 0], ((0, 0), (1, 2)))
