"""Tomographic projections: the axis of rotation, which a reconstruction needs.

Projections that drift are aligned by `align_stack(projections, model="translation")`, or, along the
rotation axis only and without parallax, with `common_line=`.
"""

from daskreg.tomography.rotation_axis import center_of_rotation

__all__ = ["center_of_rotation"]
