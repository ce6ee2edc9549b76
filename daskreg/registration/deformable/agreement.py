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

from daskreg.registration.deformable.control_grid import ControlGrid
from daskreg.registration.deformable.level_images import Evaluated, LevelImages, Singles, slopes_of, without_edges
from daskreg.registration.deformable.noise_model import LEAST_SHARE, compared_slopes

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
    """told: (*nodes) of the control points, 0..1: the part of the energy of the gradients that is no noise, of that all
    over the images; zero where these show different structures."""

    control: ControlGrid
    told: Floats

    def of(self, control: ControlGrid) -> Floats:
        """(*nodes) for other control points of the same image: that of the nearest one."""
        if control == self.control:
            return self.told
        points = control.grid.world(np.indices(control.shape).reshape(control.ndim, -1).T)
        nearest = np.clip(np.rint(self.control.grid.index(points)).astype(int), 0, np.asarray(self.control.shape) - 1)
        found: Floats = self.told[tuple(nearest.T)].reshape(control.shape)
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
        return Agreement(control, np.ones(control.shape))

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
    part = (signal / max(shared, LEAST_SHARE) - _BY_CHANCE) / (1 - _BY_CHANCE)
    return Agreement(control, np.where(different, 0.0, np.clip(part, 0, 1)))


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
