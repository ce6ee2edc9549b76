"""Reading fits that were saved as JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import InvalidTransformError, OptionError
from daskreg.formats.transforms import read_json, transform_from_file
from daskreg.geometry import Affine

T = TypeVar("T")


def read_saved(path: str | PathLike[str], kind: str, what: str, made: Callable[[Affine, Mapping[str, Any]], T]) -> T:
    """A fit with an affine transform, out of the JSON that its `save` wrote.

    Args:
        kind: of the fit. what: it is of, for messages.
        made: makes it of its transform and the other facts.

    Raises: InvalidTransformError where the file is not that of such a fit.
    """
    data = read_json(path)
    transform = transform_from_file(data, str(path))
    if not isinstance(transform, Affine) or data.get("kind") != kind:
        raise InvalidTransformError(f"{path} is not the fit of {what}")
    try:
        return made(transform, data)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidTransformError(f"{path} is damaged, or of another version: {error!r}") from error


def points_to_show(given: Mapping[str, Any], held: Sequence[Any]) -> tuple[NDArray[Any], ...]:
    """The points of a fit that are drawn: those that it holds, else those that are given by name.

    Raises: OptionError where there are none: a fit that was loaded holds none.
    """
    found = tuple(one if mine is None else mine for one, mine in zip(given.values(), held, strict=True))
    if any(points is None for points in found):
        raise OptionError(f"this fit was loaded and does not hold its points: plot({', '.join(given)})")
    return tuple(map(np.asarray, found))


def numbers(values: Any, missing: float = np.nan) -> NDArray[np.float64]:
    """Numbers of JSON, which has neither NaN nor infinity: null stands for `missing`."""
    found = np.asarray(values, dtype=object)
    return np.asarray(np.where(found == None, missing, found), dtype=np.float64)  # noqa: E711 (for each element)
