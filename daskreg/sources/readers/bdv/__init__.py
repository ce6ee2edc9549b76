"""BigDataViewer and BigStitcher: an XML file, and the HDF5 file or N5 folder beside it."""

from daskreg.sources.readers.bdv.reader import READER

__all__ = ["READER"]
