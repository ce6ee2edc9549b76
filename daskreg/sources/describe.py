"""`describe`: a path or an opened Zarr node -> what is there. Only metadata is read."""

from __future__ import annotations

import importlib
from os import PathLike
from typing import Any

import zarr

from daskreg.sources.found import Found, Wish
from daskreg.sources.locate import locate

# One module for each format, with `describe(place, wish) -> Found`. A further format is such a
# module, its suffix in locate.py and its reader in handles.py.
FORMATS = {"zarr": "daskreg.sources.readers.zarr_open"} | {
    kind: f"daskreg.sources.readers.{kind}" for kind in ("tiff", "nifti", "itk", "mrc", "hdf5")
}


def describe(source: str | PathLike[str] | zarr.Array[Any] | zarr.Group, wish: Wish) -> Found:
    """What is at a path or URL, or in an opened Zarr array or group.

    Raises: NotAVolumeError and the other input errors.
    """
    if isinstance(source, zarr.Array | zarr.Group):
        kind, place = "zarr", importlib.import_module(FORMATS["zarr"]).place_of(source)
    else:
        kind, place = locate(source)
    found: Found = importlib.import_module(FORMATS[kind]).describe(place, wish)
    return found
