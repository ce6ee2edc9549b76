"""Registration of point clouds: `icp` estimates the motion between two clouds in 2D or 3D.

register              the entry, `icp`: checks, the pyramid, the initial pose, refinement, status
inputs                points from arrays, Dask arrays and images; `points_from`
fit                   `CloudFit`, the result, and `CloudStatus`
multiresolution       the pyramid of two clouds, and refinement from coarse to fine
global_registration   the initial pose where none is known: candidates are compared
fpfh                  candidate motions from histograms of local shape (3D surfaces)
distance_descriptors  candidate motions from distances between neighbours (the same points measured twice)
rotation_search       candidate poses in every rotation
consensus             groups of matches that agree, among false ones
icp                   iterations from one initial pose: correspondences, weights, steps
icp_numba             its compiled loops
observability         which motions the correspondences determine, and their covariance
surface_consistency   whether two surfaces belong together in a pose
cloud                 one cloud: nearest points, normals, spacing, roughness
cloud_numba           its compiled loops
cached_search         nearest points for queries that move little
kdtree                a k-d tree
kdtree_numba          its compiled loops
brute_force           nearest points on a GPU by torch or Triton
brute_force_triton    its kernel
voxel_grid            downsampling by voxels, in memory and in parts; whether a cloud is a surface
outlier_removal       outliers around a surface, by local density
soft_correspondence   a differentiable loss between clouds, in torch
"""
