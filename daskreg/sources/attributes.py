"""Attributes of arrays that every format of xarray can hold, and their values as JSON."""

from __future__ import annotations

import json
from typing import Any

import numpy as np


def storable(value: Any) -> Any:
    """The value itself where netCDF has such attributes (a text, a number, a row of numbers), else as JSON text.

    What is not JSON either becomes its text.
    """
    if isinstance(value, str | bytes | int | float | np.number | np.bool_):
        return value
    if isinstance(value, list | tuple | np.ndarray):
        try:
            row = np.asarray(value)
        except ValueError:  # of different lengths
            row = np.empty((0, 0))
        if row.ndim == 1 and row.dtype.kind in "biuf":
            return value
    try:
        return json.dumps(value, default=plain)
    except (TypeError, ValueError):
        return str(value)


def as_json(value: Any) -> Any:
    """The value in terms of JSON; what `storable` has made a text of as it was.

    Raises: TypeError, ValueError for what JSON cannot hold.
    """
    if isinstance(value, str) and value[:1] in {"{", "["}:
        try:
            inner = json.loads(value)
            return inner if json.dumps(inner, allow_nan=False) == value else value
        except (ValueError, RecursionError):
            return value
    return json.loads(json.dumps(value, default=plain, allow_nan=False))


def plain(value: Any) -> Any:
    """A NumPy array or number as Python's.

    Raises: TypeError for anything else.
    """
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(type(value).__name__)
