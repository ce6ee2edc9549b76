"""The types of the kernels that are compiled ahead are those of the calls."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numba import typeof

from daskreg.geometry import Grid
from daskreg.registration import score_sums, score_sums_numba
from daskreg.registration.pyramids import filters_numba
from daskreg.registration.pyramids.pyramid import PyramidLevel, image_batch


@pytest.mark.parametrize("shape", [(13, 17), (7, 9, 11)])
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
def test_each_kernel_is_called_with_the_types_it_is_compiled_for(
    shape: tuple[int, ...], masked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels, called = score_sums_numba.late_kernels(len(shape)), {}
    ndim, values = len(shape), torch.rand((2, 1, *shape))

    def recorded(name: str) -> Callable[..., None]:
        return lambda *arguments: called.update({name: tuple(map(typeof, arguments))})

    for kernel, _ in kernels:
        module = score_sums_numba if kernel is score_sums_numba.score_sums else filters_numba
        monkeypatch.setattr(module, kernel.py_func.__name__, recorded(kernel.py_func.__name__))
    weight = torch.ones((1, *shape)) if masked else None
    level = PyramidLevel(*(image_batch(v, Grid(shape), weight) for v in values), 1.0)
    score_sums.score_sums(level, np.eye(ndim, ndim + 1)[None], (5,) * ndim)
    filters_numba.mean_square_gradient(values[0].numpy(), None if weight is None else weight.numpy(), 2)
    filters_numba.dilated(np.ones((1, *shape), bool), 2)
    assert called == {kernel.py_func.__name__: types for kernel, types in kernels}
