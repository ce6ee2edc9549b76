"""Numbers among the options of tomography."""

from __future__ import annotations

import math
import operator
from typing import Any

from daskreg.errors import OptionError


def whole_number(name: str, value: Any) -> int:
    """An int, also from NumPy.

    Raises: OptionError.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise OptionError(f"{name}={value!r}: use a whole number") from None


def finite_number(name: str, value: Any, instead: str = "a") -> float:
    """A float.

    Args:
        instead: what else may be passed, before "number".

    Raises: OptionError.
    """
    try:
        if isinstance(value, str | bool):
            raise TypeError
        found = float(value)
    except (TypeError, ValueError):
        raise OptionError(f"{name}={value!r}: use {instead} number") from None
    if not math.isfinite(found):
        raise OptionError(f"{name}={value!r} is not finite")
    return found
