"""`open_store`: the Zarr store at a path or URL, with retries."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from zarr.abc.store import Store
from zarr.storage import FsspecStore, LocalStore, ZipStore

from daskreg.errors import MissingExtraError
from daskreg.runtime.regular_files import outside_allowed
from daskreg.sources.storage.access import is_object_url
from daskreg.sources.storage.confined import ConfinedStore
from daskreg.sources.storage.redact import is_url
from daskreg.sources.storage.retrying import RetryingStore
from daskreg.sources.storage.zarr_objects import ZarrObjects


def open_store(path: str | PathLike[str], mode: str = "r") -> RetryingStore:
    """The store at a local path, a .zip file or a URL, with retries.

    Args:
        mode: "r" reads only; any other mode may write.

    Raises: MissingExtraError where the library for the URL is not installed; OptionError for one with credentials.
    """
    text = str(path)
    read_only = mode == "r"
    if is_url(text):
        return RetryingStore(_remote(text, read_only))
    local = Path(text.removeprefix("file://"))
    if local.suffix == ".zip" and not local.is_dir():
        return RetryingStore(ZipStore(local, mode="r" if read_only else "a", read_only=read_only))
    kind = ConfinedStore if read_only and not outside_allowed() else LocalStore
    return RetryingStore(kind(local, read_only=read_only))


def _remote(url: str, read_only: bool) -> Store:
    if is_object_url(url):
        return ZarrObjects(url, read_only=read_only)
    try:
        return FsspecStore.from_url(url, read_only=read_only)
    except ImportError as error:
        scheme = url.split("://", 1)[0]
        raise MissingExtraError(f"fsspec with support for {scheme}://", "remote") from error
