"""Deformable registration: layers of cubic B-splines after an affine map.

register_bspline    the entry, for images that `register` has read
affine_start        the affine map, or the transform, that layers begin from
metric_choice       whether gain and offset vary over the image, for metric="auto"
fit                 `DeformableFit`, which it returns
estimate            layers between the images of a pyramid
coarse_to_fine      control points from coarse to fine over the levels of a pyramid
contradictions      where aligned images contradict each other, and what of that is left out
local_minima        regions that ended in another minimum are estimated again
solve_level         the solver on one level: Gauss-Newton, with a prior whose weight is estimated
multimodal          what is tried where that does not align images of different modalities
splines             control points over an image, and the layers of splines on them
level_images        a pair on one level: warp and compare
comparison_numba    sums by which a pair is compared, compiled
mutual_information  the joint distribution of two images, for "mi"
noise_model         what the residual says of its noise
cell_sums           the sums over voxels of a Gauss-Newton step, which add over blocks of an image
cell_sums_numba     the same, compiled
system              the linear system of a step
agreement           where aligned images show the same structure
posterior           error bars
judged              the status of a fit
motion_along_structures  whether images determine the motion along their structures
"""
