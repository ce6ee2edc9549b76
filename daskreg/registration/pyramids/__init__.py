"""Images in memory, from full size to coarse: filters, flat borders, pyramids.

pyramid            ImageBatch, PyramidLevel and how levels are made
masked_pyramids    the pyramids of a pair with all voxels and without flat borders
filters            sums, scaling, block means, dilation and Gaussians over whole images
flat_borders       regions of one value at the border of an image
"""
