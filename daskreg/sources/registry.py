"""Which spec made a dask array: looked up by the array's *name*, held weakly.

`open` and `warp` build one lazy dask layer around a spec (a `Source`, a `Job`) and remember
the spec under the layer's name. Any operation on the array changes its name, so a known
name means the very same voxels. The entry lives as long as the dask graph that holds the spec.
"""

from __future__ import annotations

import weakref
from typing import Any

_specs: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()
_kept: dict[int, Any] = {}


def remember(name: str, spec: Any, *, keeper: object | None = None) -> None:
    """Note that the dask array called `name` was made from `spec`.

    The graph must hold `spec` itself (not a copy), or `keeper`, a part of the graph, must
    be given: then the entry lives as long as the keeper does.
    """
    _specs[name] = spec
    if keeper is not None:
        key = id(keeper)
        _kept[key] = spec
        weakref.finalize(keeper, _kept.pop, key, None).atexit = False


def recall(name: str) -> Any | None:
    """The spec remembered under `name`, or None if there is none any more."""
    return _specs.get(name)
