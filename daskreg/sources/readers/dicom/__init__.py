"""DICOM: the slices of a series, in the order of their positions."""

from daskreg.sources.readers.dicom.reader import READER

__all__ = ["READER"]
