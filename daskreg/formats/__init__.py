"""Files: transforms of daskreg and of other tools, point clouds, OME-Zarr metadata."""
