"""TIFF: the series of a file, their pyramids, and where ImageJ and OME say that pixels lie."""

from daskreg.sources.readers.tiff.reader import READER

__all__ = ["READER"]
