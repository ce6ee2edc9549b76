"""What a worker says of itself.

This module travels to the workers as code, since the package may be missing there or be another one: it imports
nothing of the package, and no library but the standard ones.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

LIBRARIES = ("numba", "numpy", "torch", "zarr")
"""Libraries of which another version may give other voxels or other files."""


def facts() -> dict[str, Any]:
    """Facts about the process that calls it, as plain data.

    Returns: host, python, time (seconds since the epoch), source (a hash of the package's source; None: no package),
    and versions of LIBRARIES.
    """
    return {
        "host": platform.node(),
        "python": ".".join(platform.python_version_tuple()[:2]),
        "time": time.time(),
        "source": source_hash(),
        "versions": {name: _version(name) for name in LIBRARIES},
    }


def paths(reads: Sequence[str], writes: Sequence[str]) -> dict[str, Any]:
    """Which of some paths the process that calls it does not see, and to which folders it may not write.

    Args:
        reads, writes: files or folders that it must see, and folders that it must be able to write to.
    """
    return {
        "host": platform.node(),
        "unseen": [path for path in (*reads, *writes) if not os.path.exists(path)],
        "not writable": [path for path in writes if os.path.exists(path) and not os.access(path, os.W_OK)],
    }


def source_hash() -> str | None:
    """A hash of the package's source, without importing it; None where there is no package."""
    try:
        found = importlib.util.find_spec("daskreg")
    except ValueError:
        return None
    if found is None or not found.submodule_search_locations:
        return None
    root = Path(next(iter(found.submodule_search_locations)))
    digest = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        digest.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:12]


def _version(name: str) -> str | None:
    """The version of a library, without its build ("2.13.0+cpu"); None where it is not installed."""
    try:
        return importlib.metadata.version(name).split("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return None
