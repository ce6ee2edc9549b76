"""Which types of values an image may have, and the type in which they are read."""

from __future__ import annotations

from typing import Any

import numpy as np

from daskreg.errors import UnsupportedDTypeError


def image_dtype(dtype: Any, what: str = "the array") -> np.dtype[Any]:
    """The type in which voxels of `dtype` are read.

    Native byte order; float16 becomes float32 (no kernel computes in float16); bool stays bool.

    Raises: UnsupportedDTypeError for complex, object, string, date and structured types.
    """
    try:
        stored = np.dtype(dtype)
    except TypeError as error:
        raise UnsupportedDTypeError(f"{what} has the type {dtype!r}, which is not one of an image") from error
    if stored.kind not in "buif" or stored.itemsize > 8:
        advice = "take .real, .imag or abs() first" if stored.kind == "c" else "convert it, as by .astype('float32')"
        raise UnsupportedDTypeError(f"{what} has the type {stored}; images are bool, integer or float: {advice}")
    if stored == np.dtype("f2"):
        return np.dtype(np.float32)
    native: np.dtype[Any] = stored.newbyteorder("=")
    return native
