"""HDF5 and NeXus: datasets of a file, their axes, and where their voxels are stored."""

from daskreg.sources.readers.hdf5.reader import READER

__all__ = ["READER"]
