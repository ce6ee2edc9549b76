"""The registry is weak: it knows a spec for as long as a graph holds it."""

from __future__ import annotations

import gc
from dataclasses import dataclass

import dask.array as da
import numpy as np
import pytest

from daskreg.sources import recall, remember


@dataclass(frozen=True)
class Spec:
    value: int

    def __call__(self, block_id):
        return np.full((2,), self.value)


def lazy(spec, name):
    array = da.map_blocks(spec.__call__, chunks=((2, 2),), dtype=int, meta=np.empty(0, int), name=name)
    remember(name, spec)
    return array


@pytest.mark.slow
def test_alive_while_the_array_lives_and_gone_after():
    array = lazy(Spec(3), "registry-1")
    gc.collect()
    assert recall("registry-1") == Spec(3)
    derived = array + 1
    del array
    gc.collect()
    assert recall("registry-1") is not None, "a graph built on it still holds it"
    np.testing.assert_array_equal(derived.compute(), 4)
    del derived
    gc.collect()
    assert recall("registry-1") is None


@pytest.mark.slow
def test_a_keeper_holds_a_spec_that_the_graph_does_not():
    array = da.from_array(np.arange(4), name="registry-2")
    remember("registry-2", Spec(1), keeper=array.dask.layers["registry-2"])
    gc.collect()
    assert recall("registry-2") == Spec(1)
    del array
    gc.collect()
    assert recall("registry-2") is None


def test_an_unknown_name_is_none():
    assert recall("registry-nothing") is None
