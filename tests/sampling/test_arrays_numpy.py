"""The kernels in NumPy are those of numba to each bit, and are used only where they are sooner."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numba import typeof
from scipy import ndimage

from daskreg.geometry import Box
from daskreg.sampling import arrays_numba, arrays_numpy
from daskreg.sampling.sample import sample

RNG = np.random.default_rng(0)
OBLIQUE = {
    2: np.array([[0.9, -0.2, 1.3], [0.25, 1.1, -2.6], [0, 0, 1]]),
    3: np.array([[0.9, -0.2, 0.1, 1.3], [0.25, 1.1, 0, -2.6], [-0.1, 0.3, 0.8, 0.5], [0, 0, 0, 1]]),
}


@pytest.fixture
def in_numpy(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Nothing is compiled yet; what a second process would have been asked for."""
    asked: list[tuple[Any, ...]] = []
    monkeypatch.setattr(arrays_numpy, "may_do_without", lambda: True)
    monkeypatch.setattr(arrays_numpy, "seems_kept", lambda source, name: False)
    monkeypatch.setattr(arrays_numpy, "begin_unasked", lambda *case: asked.append(case))
    monkeypatch.setattr(arrays_numpy, "done", arrays_numpy._Done())
    return asked


def both(monkeypatch: pytest.MonkeyPatch, *given: Any, **options: Any) -> tuple[Any, Any]:
    by_numpy = sample(*given, **options)
    assert arrays_numpy.done.voxels > 0
    monkeypatch.setattr(arrays_numpy, "may_do_without", lambda: False)
    return by_numpy, sample(*given, **options)


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("dtype", ["float32", "uint8", "uint16"])
@pytest.mark.parametrize("ndim", [2, 3])
def test_the_bits_are_those_of_compiled_code(
    ndim: int, dtype: str, order: int, in_numpy: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of odd blocks in a batch, at borders and beyond, where voxels are not finite, and of rows in several chunks."""
    monkeypatch.setattr(arrays_numpy, "_CHUNK", 40)
    shape = (7, 9, 5)[-ndim:]
    block = (RNG.normal(size=(2, *shape)) * 50 + 100).astype(dtype)
    if dtype == "float32":
        block[RNG.random(block.shape) < 0.1] = np.nan
        block[RNG.random(block.shape) < 0.1] = np.inf
    read = Box((-2, 3, 1)[:ndim], tuple(np.add((-2, 3, 1)[:ndim], shape)))
    out = Box((-3, -1, 0)[:ndim], (9, 12, 11)[:ndim])
    for matrix, edge in product((OBLIQUE[ndim], np.round(OBLIQUE[ndim] * 2) / 2), ("fill", "clamp")):
        given = block, read, matrix, out
        a, b = both(monkeypatch, *given, order=order, fill=7, edge=edge)
        np.testing.assert_array_equal(a.view(f"u{a.itemsize}"), b.view(f"u{b.itemsize}"))
        monkeypatch.setattr(arrays_numpy, "may_do_without", lambda: True)
    assert in_numpy[0][1:] == (ndim, (block.dtype if order else np.dtype(f"u{block.itemsize}")).str, order)


@pytest.mark.parametrize("dtype", ["int32", "uint64", "float64", "int16"])
def test_they_are_those_of_scipy(dtype: str, in_numpy: list[Any]) -> None:
    image = (RNG.normal(size=(9, 13)) * 50 + 500).astype(dtype)
    box, matrix = Box.of(image.shape), OBLIQUE[2]
    for order in (0, 1):
        found = sample(image, box, matrix, box, order=order, fill=3)
        exact = ndimage.affine_transform(
            image.astype(float), matrix, image.shape, order=order, mode="grid-constant", cval=3
        )
        rounded = 0 if dtype == "float64" else 0.5
        np.testing.assert_allclose(found, exact, rtol=0, atol=rounded + (1e-4 if dtype == "int16" else 1e-10))
    assert arrays_numpy.done.voxels == 4 * image.size


def test_they_end_where_compiling_is_worth_while(in_numpy: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def sooner(order: int, voxels: int) -> bool:
        return arrays_numpy.is_sooner(order, np.dtype("f4"), 2, voxels)

    most = arrays_numpy.AT_ONCE
    assert [sooner(1, most), sooner(1, most + 1), sooner(3, 1)] == [True, False, False]
    for _ in range(arrays_numpy.ALTOGETHER // most - 1):
        assert sooner(0, most)
    assert not sooner(1, 1)
    monkeypatch.setattr(arrays_numpy, "done", arrays_numpy._Done())
    assert sooner(1, 1)
    monkeypatch.setattr(arrays_numpy, "seems_kept", lambda source, name: name == "linear")
    assert [sooner(0, 1), sooner(1, 1)] == [True, False]


@pytest.mark.slow
@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("dtype", ["float32", "uint8", "uint16"])
def test_what_is_compiled_meanwhile_is_what_is_called(
    ndim: int, order: int, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = np.dtype(dtype if order else f"u{np.dtype(dtype).itemsize}")
    ((kernel, types),) = arrays_numba.kernels(ndim, stored.str, order)
    called = []
    monkeypatch.setattr(arrays_numba, kernel.py_func.__name__, lambda *given: called.append(tuple(map(typeof, given))))
    block = np.zeros((5, 6, 7)[:ndim], dtype)
    sample(block, Box.of(block.shape), OBLIQUE[ndim], Box.of(block.shape), order=order)
    assert called == [types]


@pytest.mark.slow
def test_the_first_warp_imports_neither_numba_nor_dask_arrays(tmp_path: Path) -> None:
    code = """
import sys, numpy as np, daskreg as dr
from daskreg.runtime import compile_ahead
compile_ahead.start = lambda *case: print(*case)
image = np.arange(30, dtype=np.float32).reshape(5, 6)
print(dr.warp(image, pull=dr.Affine.translation(x=0.5))[0, :2])
print(set(sys.modules) & {"numba", "xarray", "zarr", "dask.array", "pandas", "torch", "scipy", "distributed"})
"""
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root, "NUMBA_CACHE_DIR": str(tmp_path), "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    told = ended.stdout.splitlines()
    assert told[-2:] == ["[0.5 1.5]", "set()"], ended.stderr
    assert told[:-2] in ([], ["daskreg.sampling.arrays_numba 2 <f4 1"])  # none on one core
