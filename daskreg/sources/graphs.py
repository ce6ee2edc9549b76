"""Parts of dask graphs, without walking the whole graph for each."""

from __future__ import annotations

from typing import Any

import dask.array as da
from dask._task_spec import GraphNode
from dask.blockwise import Blockwise
from dask.core import flatten, toposort
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer

# Of these types are tasks, collections of tasks, and names of tasks in dask's old form; others are data.
_OLD_TASKS = (tuple, list, dict, set, str, bytes, int, float)


def culled(array: Any) -> da.Array:
    """The array with only those tasks that its blocks need.

    `dask.optimize` would lose the futures of a persisted array, and the layers of a culled
    graph are renamed without their dependencies, so it becomes one layer.
    """
    keys = set(flatten(array.__dask_keys__()))
    tasks = _tasks(array.dask, keys)
    if tasks is None:
        tasks = array.dask.cull(list(keys)).to_dict()
    return da.Array(tasks, array.name, array.chunks, meta=array._meta)


def _tasks(graph: HighLevelGraph, keys: set[Any]) -> dict[Any, Any] | None:
    """The tasks that `keys` need; None where some are of dask's old form, which hides what they need.

    `HighLevelGraph.cull` copies each materialized layer as a whole: 150 ms for a rechunked array
    of 64,000 blocks, where this takes less than one. A run does it for each of its blocks.
    """
    found: dict[Any, Any] = {}
    wanted = set(keys)
    for name in reversed(toposort(graph.dependencies, graph.dependencies)):
        layer = graph.layers[name]
        if isinstance(layer, Blockwise):
            part, dependencies = layer.cull(wanted, ())
            found.update(part)
            wanted.update(*dependencies.values())
            continue
        tasks = layer.mapping if isinstance(layer, MaterializedLayer) else layer
        work = [key for key in wanted if key in tasks]
        while work:
            key = work.pop()
            if key in found or key not in tasks:
                continue
            task = found[key] = tasks[key]
            if isinstance(task, GraphNode):
                wanted.update(task.dependencies)
                work.extend(task.dependencies)
            elif isinstance(task, _OLD_TASKS):
                return None
    return found
