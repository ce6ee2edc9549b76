"""Values between voxels: a box of one grid from the voxels of another, in memory, on one device. No dask, no zarr.

sample           the entry: arrays or tensors, any order
arrays           NumPy arrays, by the compiled loops of arrays_numba
tensors          torch tensors, differentiable; tensors_triton is its one kernel on a GPU
tiles            arrays of the host, sampled on a GPU tile after tile
cast             numbers to the type of an output
downsample       block means, nearest voxels and modes, for the levels of a pyramid
"""
