"""Parts of dask graphs: the same values, few tasks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
from dask.highlevelgraph import HighLevelGraph

from daskreg.sources.graphs import culled

VALUES = np.arange(40 * 50.0).reshape(40, 50)

CHANGES: dict[str, Callable[[da.Array], da.Array]] = {
    "plain": lambda a: a,
    "arithmetic": lambda a: a * 2 + 1,
    "slice": lambda a: a[3:, ::-2],
    "rechunk": lambda a: a.rechunk((7, 11)),
    "transpose": lambda a: (a + a.T[:1, :1]).T,
    "overlap": lambda a: a.map_overlap(lambda b: b, depth=1),
    "stack": lambda a: da.stack([a, a + 1])[1],
    "concatenate": lambda a: da.concatenate([a, a + 1], axis=1),
    "coarsen": lambda a: da.coarsen(np.mean, a, {0: 2, 1: 5}),
    "reshape": lambda a: a.reshape(2000)[None],
    "mean": lambda a: a - a.mean(axis=0),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_parts_have_the_values_of_the_whole(change: Callable[[da.Array], da.Array]) -> None:
    array = change(da.from_array(VALUES, chunks=(10, 10)))
    expected = change(da.from_array(VALUES, chunks=-1)).compute()
    for part in (np.s_[:5, :5], np.s_[7:19, 3:17], np.s_[-1:, -1:]):
        small = culled(array[part])
        np.testing.assert_array_equal(small.compute(scheduler="sync"), expected[part])
        assert len(small.dask) < len(array.dask) + 10


def test_a_stack_of_images_leaves_the_others_behind() -> None:
    def image(k: int) -> np.ndarray:
        return np.full((8, 8), k)

    images = [da.from_delayed(dask.delayed(image)(k), (8, 8), int).rechunk(4) for k in range(50)]
    for joined in (da.stack(images), da.concatenate(images).reshape(50, 8, 8)):
        small = culled(joined[7:8, :3])
        assert len(small.dask) < 20
        assert (small.compute(scheduler="sync") == 7).all()


def test_a_graph_of_many_tasks_is_not_walked(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> None:
        raise AssertionError("the whole graph is walked")

    array = da.from_array(VALUES, chunks=(5, 5)).rechunk((7, 7))[1:]
    monkeypatch.setattr(HighLevelGraph, "cull", refused)
    assert len(culled(array[:3, :3]).dask) < 20
