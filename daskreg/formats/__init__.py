"""Files: transforms of daskreg and of other tools, point clouds, OME-Zarr metadata.

transforms/   transform files: what is saved, and `load`, which reads all of them
ngff          coordinateTransformations of OME-NGFF as matrices
ngff_systems  coordinate systems of OME-Zarr 0.6
ome           new OME-Zarr images: metadata and empty arrays
points        point clouds: `.npy`, `.ply`, `.pcd` and text
pcd           PCD files
"""
