"""Interpolation: the voxels of a box of one grid from those of another, in memory, on one device. No dask, no zarr.

sample           the entry: arrays or tensors, any order
arrays           NumPy arrays, by compiled loops
arrays_numba     the compiled loops
arrays_numpy     the same in NumPy, for little work where nothing is compiled yet
tensors          torch tensors, differentiable
tensors_triton   tensors on a GPU without a gradient, by two kernels in Triton
tiles            what a tile is: the arguments of `sample`
tile_sampler     one tile after another, on the CPU or a GPU
tile_pipeline    tiles to a GPU and back, several in flight
cast             numbers to the type of an output
downsample       block means, nearest voxels and modes, for the levels of a pyramid
"""
