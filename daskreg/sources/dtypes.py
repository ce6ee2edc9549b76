"""Which types of values are images, and the type in which they are read."""

from __future__ import annotations

from typing import Any

import numpy as np

from daskreg.errors import UnsupportedDTypeError


def image_dtype(dtype: Any, what: str = "the array") -> np.dtype[Any]:
    """The type in which voxels of `dtype` are handed out.

    Native byte order; float16 becomes float32 (no kernel computes in it); bool stays bool.

    Raises: UnsupportedDTypeError for complex, object, string, date and structured types.
    """
    try:
        given = np.dtype(dtype)
    except TypeError as error:
        raise UnsupportedDTypeError(f"{what} has the type {dtype!r}, which is not one of an image") from error
    if given.kind not in "buif" or given.itemsize > 8:
        advice = "take .real, .imag or abs() first" if given.kind == "c" else "convert it, as by .astype('float32')"
        raise UnsupportedDTypeError(f"{what} has the type {given}; images are bool, integer or float: {advice}")
    if given == np.dtype("f2"):
        return np.dtype(np.float32)
    native: np.dtype[Any] = given.newbyteorder("=")
    return native
