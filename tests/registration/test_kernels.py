"""The types of the kernels that are compiled ahead are those of the calls."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
from numba import typeof

from daskreg.registration import pair, register, score_sums_numba


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(40, 50), (20, 24, 26)])
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
def test_each_kernel_is_called_with_the_types_it_is_compiled_for(
    shape: tuple[int, ...], masked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = {kernel.py_func: types for kernel, types in score_sums_numba.kernels(len(shape))}
    called = {}

    def recorded(kernel):
        def call(*arguments):
            called[kernel.py_func] = tuple(map(typeof, arguments))
            return kernel(*arguments)

        return call

    places = {"sums_of_chunks": "normal_equations.equations", "motions": "pose"}
    for kernel, _ in score_sums_numba.kernels(len(shape)):
        name, home = kernel.py_func.__name__, kernel.py_func.__module__
        place = f"daskreg.registration.{places[name]}" if name in places else home
        monkeypatch.setattr(importlib.import_module(place), name, recorded(kernel))
    for ahead in (register, "begin"), (pair, "take_part"):  # which ask the kernels whether they are kept
        monkeypatch.setattr(*ahead, lambda *_: None)
    ends = np.add(shape, 4)
    scene = np.random.default_rng(0).normal(size=ends).astype(np.float32)
    for axis in range(len(shape)):
        scene = np.cumsum(scene, axis)
    fixed, moving = (scene[tuple(slice(k, k + n) for n in shape)].copy() for k in (1, 2))
    if masked:
        fixed[:3] = np.nan
    fixed[(9,) * len(shape)] = moving[(9,) * len(shape)] = 1e6  # hot in both
    register.register(fixed, moving, levels=1, max_iterations=3)
    assert called == listed
