"""Where voxels come from: frozen specs that are opened on the worker. zarr and dask; no torch."""

from daskreg.sources.registry import recall, remember
from daskreg.sources.source import Source, read_block

__all__ = ["Source", "read_block", "recall", "remember"]
