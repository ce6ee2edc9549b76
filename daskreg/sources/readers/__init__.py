"""The formats. Each module has a `READER`, which `sources.reader.Reader` describes; `sources.file_formats` lists them.

    zarr           Zarr v2 and v3 (metadata in zarr_metadata: plain arrays, OME-Zarr by ome, xarray's layout by cf)
    tiff           TIFF, ImageJ, OME-TIFF
    hdf5           HDF5, NeXus, netCDF 4
    nifti          NIfTI and Analyze
    itk            NRRD, MetaImage and images that ITK reads (boxes of NRRD files by nrrd)
    mrc            MRC, IMOD

Shared by several:
    file_array     a plain array in a file, and its Description
    mapped         files mapped into memory, unpacked before if packed
    physical       a Grid from a header's matrix
    cf             coordinate arrays beside a variable (xarray, netCDF)

A module is imported when the first file of its format is opened.
"""
