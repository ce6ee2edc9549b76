"""OIF and OIB: files of Olympus FluoView, a folder of TIFF images or a compound file with them."""

from daskreg.sources.readers.oif.reader import READER

__all__ = ["READER"]
