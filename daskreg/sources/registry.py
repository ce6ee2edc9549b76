"""Which spec made a dask array: looked up by the array's *name*, referenced weakly.

`open` and `warp` build one lazy dask layer around a spec (a `Source`, a `Job`) and remember
the spec under the layer's name. Any operation on the array changes its name, so a name that is
known here stands for the same voxels. The entry lives as long as the dask graph that refers to the spec.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, eq=False)
class Opening:
    """What was passed to `open`: the path or list of paths, and the options that are not the default."""

    path: Any
    options: Mapping[str, Any]


_specs: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()
_by_keeper: dict[int, Any] = {}


def remember(name: str, spec: Any, *, keeper: object | None = None) -> None:
    """Note that the dask array called `name` was made from `spec`.

    Args:
        keeper: a part of the array's graph, as long as which the entry lives. None: the graph refers to `spec` itself
            (not to a copy), and the entry lives as long as `spec`.
    """
    _specs[name] = spec
    if keeper is not None:
        key = id(keeper)
        _by_keeper[key] = spec
        weakref.finalize(keeper, _by_keeper.pop, key, None).atexit = False


def recall(name: str) -> Any | None:
    """The spec remembered under `name`, or None if there is none any more."""
    return _specs.get(name)


def remember_opening(name: str, opening: Opening) -> None:
    """Note how the dask array called `name`, which is remembered, was opened.

    Arrays of one name hold the same voxels at the same places, so the first opening stands for all of them.
    """
    spec = recall(name)
    if spec is not None and recall_opening(name) is None:
        remember(_opening_of(name), opening, keeper=spec)


def recall_opening(name: str) -> Opening | None:
    """How the dask array called `name` was opened; None where that is not known."""
    found = recall(_opening_of(name))
    return found if isinstance(found, Opening) else None


def _opening_of(name: str) -> str:
    return f"opening of {name}"
