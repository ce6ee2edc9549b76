"""Displacement fields of all slices of a stack, solved together: `align_stack(model="bspline")`.

request        from a request to its fit: poses, then fields
task           the fields, as a task where the voxels are
fit            `ElasticStackFit`, which it returns
estimate       control points from coarse to fine over the levels of a pyramid
solve          the solver on one level: Gauss-Newton for all slices, with a prior whose weight is estimated
layers         the maps while they are estimated
slice_images   slices on one level, warped
pair_terms     what a pair contributes: residual, normal equations, noise, local agreement
robust         weights of pairs, place by place
joint_system   the linear system of a step
uncertainty    error bars
judge          slices that are torn or unlike their neighbours, and the status
"""
