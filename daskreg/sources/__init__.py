"""Where voxels come from: descriptions that travel to the workers and are opened there. Zarr and dask; no torch.

Modules, from the bottom up:
    storage       stores and their bytes
    coordinates   names of axes; a Grid from coordinates, and coordinates of a Grid
    dtypes        which types of values an image may have
    chunking      chunks= and shards= as sizes for each axis; the blocks in which arrays are read
    channels      the entry of a lead axis that is meant; which arrays end in colour
    registry      which description made a dask array, by the array's name
    graphs        parts of dask graphs
    source        Source: voxels that can be read in boxes anywhere
    in_memory     the sources of NumPy and dask arrays
    description   what a reader says of a volume, and what was asked of it
    file_formats  the built-in formats: a line for each
    available_readers  the readers of this process, also those of other packages, and which claims a path
    locate        what a path or URL points at
    reader        what a format implements
    readers       a module for each format
    handles       opened files, few and shared
    stored        the source of arrays in files and stores
    describe      a path or an opened Zarr node -> its Description
"""

from daskreg.sources.registry import recall, remember
from daskreg.sources.source import Source, read_block

__all__ = ["Source", "read_block", "recall", "remember"]
