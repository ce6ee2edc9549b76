"""N5: arrays whose axes are stored in the order x, y, z, and pyramids of them."""

from daskreg.sources.readers.n5.reader import READER

__all__ = ["READER"]
