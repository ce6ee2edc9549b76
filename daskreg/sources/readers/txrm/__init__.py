"""TXRM, TXM and XRM: projections and reconstructions of Zeiss' (Xradia's) X-ray microscopes."""

from daskreg.sources.readers.txrm.reader import READER

__all__ = ["READER"]
