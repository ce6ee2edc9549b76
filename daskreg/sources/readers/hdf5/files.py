"""HDF5 files, opened for reading."""

from __future__ import annotations

import importlib.util
from typing import Any

from daskreg.errors import MissingExtraError, NotAVolumeError


def open_hdf5(path: str) -> Any:
    """A file, with the further compressions of hdf5plugin where it is installed.

    Raises: MissingExtraError; NotAVolumeError.
    """
    try:
        import h5py
    except ImportError as error:
        raise MissingExtraError("h5py", "formats") from error
    if importlib.util.find_spec("hdf5plugin") is not None:
        importlib.import_module("hdf5plugin")  # has further compressions
    cause: Exception | None = None
    # Reading must work while a detector holds a lock, and where this process has the file open with other flags.
    for locking in (None, False, True, "best-effort"):
        try:
            return h5py.File(path, "r", locking=locking)
        except OSError as error:
            cause = cause or error
            if "lock" not in str(error):
                break
    if _begins_with(path, b"CDF"):
        raise NotAVolumeError(
            f"{path} is netCDF 3, and only netCDF 4 (HDF5) is read: pass a variable of xarray.open_dataset({path!r})"
        ) from cause
    raise NotAVolumeError(f"{path} cannot be read as HDF5: {cause}") from cause


def _begins_with(path: str, magic: bytes) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(len(magic)) == magic
    except OSError:
        return False
