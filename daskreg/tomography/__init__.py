"""Tomographic projections: their alignment, the axis of rotation, and the volume.

`align_projections` estimates the pose of each projection, the axis and its centre together; `reconstruct` makes the
volume, lazily. `center_of_rotation` finds the centre of projections that do not move. `align_stack` aligns projections
too, each to its neighbours (along the rotation axis only and without parallax, with `common_line=`).
"""

from daskreg.tomography.align import align_projections
from daskreg.tomography.fit import TiltFit, TiltStatus
from daskreg.tomography.reconstruct import reconstruct
from daskreg.tomography.rotation_axis import center_of_rotation

__all__ = ["TiltFit", "TiltStatus", "align_projections", "center_of_rotation", "reconstruct"]
