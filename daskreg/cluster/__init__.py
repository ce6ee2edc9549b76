"""One Dask client from nothing, an address or a file; which device; how many threads."""

from __future__ import annotations

from daskreg.cluster.connect import connect

__all__ = ["connect"]
