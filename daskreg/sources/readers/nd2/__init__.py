"""ND2: files of Nikon's NIS-Elements, with times, positions and channels."""

from daskreg.sources.readers.nd2.reader import READER

__all__ = ["READER"]
