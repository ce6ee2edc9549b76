"""Files: transforms of daskreg and of other tools, point clouds, OME-Zarr metadata.

transforms/   transform files: what is saved, and `load`, which reads all of them
ngff          coordinateTransformations of OME-NGFF as matrices
ngff_systems  coordinate systems of OME-Zarr 0.6
ngff_scene    scenes of OME-Zarr 0.6, written
ome           new OME-Zarr images: metadata and empty arrays
points        point clouds: `.npy`, `.ply`, `.pcd`, `.las` and text
las           LAS and LAZ files
point_rows    tables as text: their cells, and which columns are coordinates
point_tables  tables of points that keep their other columns when the points are moved
pcd           PCD files
"""
