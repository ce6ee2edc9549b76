"""VTKHDF: images of VTK and ParaView in HDF5."""

from daskreg.sources.readers.vtkhdf.reader import READER

__all__ = ["READER"]
