"""Where aligned images show the same structure: what their gradients tell around each control point.

Normal equations take gradients for signal, with one part of noise all over the images. Where an image is flat they are
noise alone, and what they seem to tell makes error bars too small.

A pair can also be aligned in one part and show different things in another: a tear, dirt, a region that steps did not
reach. Gradients there have as much energy as elsewhere, and nothing in common. What such voxels tell of the motion is
not known, so that they are no information in the error bars, either.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from daskreg.registration.deformable.cell_sums import diagonal_blocks
from daskreg.registration.deformable.level_images import Evaluated, LevelImages, Singles, slopes_of, without_edges
from daskreg.registration.deformable.noise_model import LEAST_SHARE, compared_slopes
from daskreg.registration.deformable.splines.control_grid import ControlGrid

Floats = NDArray[np.float64]

# A cubic B-spline's share in each of the four cells that it reaches.
_CELLS = np.array([1, 11, 11, 1]) / 24
# Gradients are expected to have this in common before anything is said about them, and have less than this part of
# what is expected where the images differ.
_EXPECTED, _PART = 0.3, 0.5
# So small a part of the signal all over the images is not told from noise around one control point.
_BY_CHANCE = 0.2


@dataclass(frozen=True)
class Agreement:
    """Around each control point: signal: (*nodes) the part of the energy of the gradients that is no noise. different:
    (*nodes) whether the images show different structures. shared: the part that is no noise all over the images."""

    control: ControlGrid
    signal: Floats
    different: NDArray[np.bool_]
    shared: float = 1.0

    def reliability(self, square: Singles, control: ControlGrid) -> Floats:
        """(*nodes, D, D) what J^T J is multiplied by from both sides for error bars: S^T J^T J S.

        Along an edge there is nothing but noise. So the noise, the same along all axes of voxels, is taken from the
        eigenvalues of the block of each control point.

        Args:
            square: J^T J. control: its control points, of the same image.
        """
        signal, different = self._at(self.signal, control), self._at(self.different, control)
        spacing = np.asarray(control.image.spacing)
        blocks = np.moveaxis(diagonal_blocks(square, control.shape), (0, 1), (-2, -1))
        values, vectors = np.linalg.eigh(blocks * np.multiply.outer(spacing, spacing))
        noise = (1 - signal) * values.mean(-1)
        parts = (values - noise[..., None]) / np.maximum(values, 1e-30) / max(self.shared, LEAST_SHARE)
        parts = np.clip((parts - _BY_CHANCE) / (1 - _BY_CHANCE), 0, 1) * ~different[..., None]
        found = np.einsum("...ak,...k,...bk->...ab", vectors, parts, vectors)
        return np.asarray(found * np.divide.outer(spacing, spacing))

    def _at(self, values: NDArray[Any], control: ControlGrid) -> NDArray[Any]:
        """(*nodes) at other control points of the same image: that of the nearest one."""
        if control == self.control:
            return values
        points = control.grid.world(np.indices(control.shape).reshape(control.ndim, -1).T)
        nearest = np.clip(np.rint(self.control.grid.index(points)).astype(int), 0, np.asarray(self.control.shape) - 1)
        found: NDArray[Any] = values[tuple(nearest.T)].reshape(control.shape)
        return found


def agreement_of(images: LevelImages, found: Evaluated, control: ControlGrid) -> Agreement:
    """Of the images of a level, at a transform.

    The noise of the gradients is that of most places: half of the median of their squared differences.
    """
    # Beside voxels that are not known the warped image has no gradient.
    weight, box = without_edges(found.weight), images.fixed_grid.box.slices
    total = _near(weight, control, images)
    seen = total > total.max() * 1e-3
    if not seen.any():
        return Agreement(control, np.ones(control.shape), np.zeros(control.shape, bool))

    def energies(fixed: Singles, moving: Singles) -> tuple[Floats, Floats, Floats, float]:
        # One after another, since each takes as much memory as an image.
        pairs = (fixed, moving), (fixed, fixed), (moving, moving)
        common, ff, mm = (_near(weight * (a * b).sum(0), control, images) for a, b in pairs)
        return common, ff, mm, float(np.median(np.maximum(ff + mm - 2 * common, 0)[seen] / total[seen])) / 2

    common, ff, mm, noise = counted = energies(*compared_slopes(images, found, box))
    signal, shared = 1 - noise * total / np.maximum(ff, 1e-30), float(common.sum()) / max(float(ff.sum()), 1e-30)
    if (local := found.local) is not None:
        # Where nothing is in common, no gradient counts: those of the images themselves, with the same contrast.
        slopes = slopes_of(found.warped, images.fixed_grid.spacing)
        counted = energies(images.gradient, local.gain / local.common * slopes)
    common, ff, mm, noise = counted
    energy = np.sqrt(ff * mm)
    expected = 1 - noise * total / np.maximum(energy, 1e-30)
    different = seen & (expected > _EXPECTED) & (common < _PART * expected * energy)
    return Agreement(control, np.clip(signal, 0, 1), different, shared)


def _near(values: Singles, control: ControlGrid, images: LevelImages) -> Floats:
    """(*nodes) sums over the cells around each control point, which count as its B-spline reaches into them."""
    sums: NDArray[Any] = values
    for axis, n in enumerate(images.fixed.shape):
        table = control.table(axis, images.fixed_grid, 0, n)
        cells = np.add.reduceat(sums, table.starts[:-1], axis=axis, dtype=np.float64)
        # Of a cell without voxels reduceat gives the voxel after it.
        cells[(*(slice(None),) * axis, np.diff(table.starts) == 0)] = 0
        padding = [(0, 0)] * sums.ndim
        # Cell k has the control points k to k + 3.
        after = control.shape[axis] - table.first - cells.shape[axis]
        padding[axis] = (table.first, after)
        sums = ndimage.correlate1d(np.pad(cells, padding), _CELLS, axis=axis, origin=1, mode="constant")
    return sums
