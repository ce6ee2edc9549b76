"""Imaris files: HDF5 with times, channels and a pyramid."""

from daskreg.sources.readers.imaris.reader import READER

__all__ = ["READER"]
