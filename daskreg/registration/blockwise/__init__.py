"""Pairs that are larger than memory, registered at full resolution, block by block.

estimate      the way from the coarse images to the estimate of every voxel
register      what `register(resolution="full")` calls
inputs        the images, described
coarse        the coarse images
noise         how much is smoothed
image, pair   the voxels of a box, as a level in memory would have them; the blocks
slabs         the voxels of a block, slab after slab
sums          the sums of a block
voxels        passes over all blocks, and the bricks
work          where the blocks are worked on
checkpoint    finished blocks in a file

Of layers of B-splines:

register_layers           what `register(model="bspline", resolution="full")` calls
layers, layer_passes      the solver, and its passes over all blocks
layer_pair                the voxels of a box, and where the layers lead
layer_match               gain and offset around each voxel
layer_sums, layer_noise   the sums of a block; the noise
"""
