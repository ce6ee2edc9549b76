"""Looking at volumes of any size: a read-only OME-Zarr over HTTP whose chunks are computed when they are asked for.

held_source    stored chunks of a source, held for the next chunk that needs them
coarse_source  coarse levels that are sampled from those of the source
chunk_cache    the voxels of chunks, as many as fit a number of bytes
pyramid        the levels of an image that is computed chunk by chunk, as `write` would make them
checkerboard   two images on one grid, as squares of one and the other
zarr_form      an image as the files of an OME-Zarr, with the bytes that `write` would store
http_server    these files by URL, on this machine only
serve          `serve`: volumes, warps and plans by URL
neuroglancer   a page of the viewer neuroglancer that shows them
"""

from __future__ import annotations

from daskreg.viewing.serve import Server, serve

__all__ = ["Server", "serve"]
