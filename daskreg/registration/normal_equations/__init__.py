"""The normal equations of a Gauss-Newton step, from one pass over the voxels.

sums               which sums are needed, and why
edge_weights       weights of voxels near the edges of an image
part               which voxels of a level are summed
equations          the class for the device of the images; compiled code for CPUs
equations_torch    the same by torch, on any device, and by Triton on GPUs
"""
