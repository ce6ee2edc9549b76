"""Projections of slices across a rotation axis that is parallel to the columns of the detector, in memory.

Slices are (Y, X, Z), projections (A, U, Z): what one rotation projects in the same way is the last axis. A voxel at
(y, x) is seen at column centre + (x - cx) cos(angle) + (y - cy) sin(angle), where (cy, cx) is the middle of the slices.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
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
        radius: voxels that are so far from the middle of a slice, or further, are empty: `smear` leaves them so, and
            `project` of one slice does not look at them; None: of all voxels.
    """

    radians: Floats
    shape: tuple[int, int]
    columns: int
    centre: float | None = None
    radius: float | None = None

    def project(self, slices: Array) -> Array:
        """(Y, X, Z) slices as (A, U, Z) line integrals, in units of a voxel."""
        sums = np.zeros((len(self.radians), self.columns, slices.shape[2]), slices.dtype)
        for number, group in enumerate(self._groups):
            planes, part = np.ascontiguousarray(slices.swapaxes(0, group.axis)), np.zeros_like(sums[group.chosen])
            if slices.shape[2] == 1:
                within = self._within[number]
                work = partial(kernels.project_slice, _within_zeros(planes), group.lines, within, part[..., 0])
            else:
                work = partial(kernels.project_slices, planes, group.lines, part)
            shares(work, len(part))
            sums[group.chosen] = part * group.length[:, None, None].astype(slices.dtype)
        return sums

    def backproject(self, sums: Array) -> Array:
        """The adjoint of `project`."""
        total = np.zeros((*self.shape, sums.shape[2]), sums.dtype)
        for group in self._groups:
            part = sums[group.chosen] * group.length[:, None, None].astype(sums.dtype)
            planes = np.zeros_like(total.swapaxes(0, group.axis), order="C")
            shares(partial(kernels.backproject_slices, part, group.lines, planes), len(planes))
            total += planes.swapaxes(0, group.axis)
        return total

    def smear(self, sums: Array) -> Array:
        """(Y, X, Z) of each voxel the sum of the projections where it is seen: the backprojection of FBP."""
        total = np.zeros((*self.shape, sums.shape[2]), sums.dtype)
        cosine, sine = np.cos(self.radians), np.sin(self.radians)
        start = self.axis - cosine * (self.shape[1] - 1) / 2 - sine * (self.shape[0] - 1) / 2
        lines = np.stack([sine, cosine, start], axis=1)
        sums, inside = np.ascontiguousarray(sums), self._inside
        if sums.shape[2] == 1:
            shares(partial(kernels.smear_slice, _within_zeros(sums), lines.T.copy(), inside, total[..., 0]), len(total))
        else:
            shares(partial(kernels.smear_slices, sums, lines, inside, total), len(total))
        return total

    @property
    def axis(self) -> float:
        """The column of the axis."""
        return (self.columns - 1) / 2 if self.centre is None else self.centre

    @cached_property
    def _inside(self) -> NDArray[np.int64]:
        """(Y, 2) the first voxel of each row of a slice within the radius, and the one after the last."""
        height, width = self.shape
        if self.radius is None:
            return np.tile(np.array([0, width]), (height, 1))
        reach = np.sqrt(np.maximum(self.radius**2 - (np.arange(height) - (height - 1) / 2) ** 2, 0))
        middle = (width - 1) / 2
        ends = np.stack([np.floor(middle - reach) + 1, np.ceil(middle + reach)], axis=1)
        return np.asarray(np.clip(ends, 0, width), dtype=np.int64)

    @cached_property
    def _groups(self) -> tuple[_Rays, ...]:
        """The rays that follow y most, and those that follow x."""
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
            groups.append(_Rays(axis, chosen, lines, np.abs(slope)))
        return tuple(groups)

    @cached_property
    def _within(self) -> tuple[NDArray[np.int64], ...]:
        """(A, U, 2) of each group, the first step of each ray near the disk of the radius, and the one after the last.

        Only projections of one slice need them: they are as many numbers as four rows of the projections.
        """
        found, off = [], np.arange(self.columns) - self.axis
        for group in self._groups:
            steps, angles = self.shape[group.axis], self.radians[group.chosen]
            if self.radius is None:
                found.append(np.tile(np.array([0, steps]), (len(angles), self.columns, 1)))
                continue
            cosine, sine = np.cos(angles), np.sin(angles)
            across, along = (cosine, sine) if group.axis == 0 else (sine, cosine)
            half = np.abs(across)[:, None] * np.sqrt(np.maximum((self.radius + 1) ** 2 - off**2, 0))
            place = steps / 2 - 0.5 + along[:, None] * off
            ends = np.stack([np.floor(place - half), np.ceil(place + half) + 1], axis=-1)
            found.append(np.asarray(np.clip(ends, 0, steps), dtype=np.int64))
        return tuple(found)


@dataclass(frozen=True)
class _Rays:
    """Rays that follow an axis of the slices most.

    Args:
        chosen: their projections.
        lines: see `projector_numba.project_slices`.
        length: of a step.
    """

    axis: int
    chosen: NDArray[np.intp]
    lines: Floats
    length: Floats


def _within_zeros(one: Array) -> Array:
    """(N, 1 + M + 2) of an (N, M, 1) array, with zeros before and after."""
    wide = np.zeros((len(one), one.shape[1] + 3), one.dtype)
    wide[:, 1:-2] = one[..., 0]
    return wide
