"""Volumes as single files that other tools read: a header, then all voxels one after another, uncompressed.

image     what is to be written, and what a format is
medical   NIfTI, NRRD, MetaImage
science   TIFF with OME metadata, MRC, HDF5
formats   which format a suffix means
write     the voxels, slab after slab, resumably
"""
