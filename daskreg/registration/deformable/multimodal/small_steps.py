"""Many small steps along the gradient of the metric, for motions that Gauss-Newton steps do not find.

Where structures moved farther than they are large, and neighbours in other directions, the equations of a Gauss-Newton
step hold for few voxels, and its prior, which takes for noise what is not aligned, forbids the rest. Short steps along
the gradient need neither: each moves what it can a little and leaves what it does not know where it is (fluid
registration: Christensen et al. 1996; greedy SyN: Avants et al. 2008).

The gradient is the sum of that by motions of the fixed and of the moving image (symmetric forces: Vercauteren et al.
2009), so that edges of either image count. It is smoothed by the B-splines of control points two voxels apart, about
as by the Gaussian of SyN, so that no step bends more finely than that.
"""

from __future__ import annotations

import numpy as np

from daskreg.geometry import Grid
from daskreg.registration.deformable.cell_sums import cell_sums
from daskreg.registration.deformable.level_images import LevelImages
from daskreg.registration.deformable.splines.control_grid import ControlGrid, control_grids
from daskreg.registration.deformable.splines.layers import Layers, limits_of

_APART = 2.0
"""Voxels of a level between control points."""
_LENGTH = 0.2
"""Voxels of a level that the control point with the longest step moves."""


def control_of_small_steps(image: Grid, level: Grid) -> ControlGrid:
    """The control points over an image for steps on a level."""
    return control_grids(image, [_APART * h for h in level.spacing])[-1]


def small_steps(images: LevelImages, layers: Layers, count: int) -> Layers:
    """The layers after so many steps on a level."""
    limits = limits_of(layers.control)
    for _ in range(count):
        found = images.evaluate(layers.transform)
        uphill = sum(
            cell_sums(
                forces,
                layers.control,
                images.fixed_grid,
                images.fixed_grid.box,
                coefficients=layers.current if np.any(layers.current) else None,
                with_square=False,
            ).linear
            for forces in (images.residuals(found), images.slopes(found))
        )
        longest = float(np.sqrt(np.sum(uphill**2, axis=0)).max())
        if not longest > 0:
            break
        step = uphill * (_LENGTH * images.step / longest)
        if np.any(np.abs(layers.current + step) > limits):
            layers = layers.finish()
        layers = layers.clipped(layers.current + step)
    return layers
