"""Small images are registered by torch in a process that would have to compile, with the same result."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import ndimage as ndi

import daskreg as dr
from daskreg.registration import pair, score_sums
from daskreg.runtime import torch_instead

POINTS = np.array([[0.0, 0.0], [20.0, 47.0], [39.0, 3.0]])


@pytest.mark.parametrize("options", [{"metric": "mse"}, {"model": "rigid", "fixed_mask": True}])
def test_it_gives_the_same_as_compiled_code(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    scene = ndi.gaussian_filter(np.random.default_rng(3).normal(size=(60, 70)), 2).astype(np.float32)
    fixed, moving = scene[8:51, 9:62], ndi.shift(scene, (-1.3, 2.4), order=3)[8:49, 9:60]
    if options.pop("fixed_mask", False):
        options["fixed_mask"] = mask = np.ones(fixed.shape, bool)
        mask[10:15, 20:30] = False
    compiled = dr.register(fixed, moving, **options)

    def refused(*given: Any, **named: Any) -> None:
        raise AssertionError("compiled code was used")

    monkeypatch.setattr(torch_instead, "SMALL", fixed.size)
    monkeypatch.setattr(pair, "missed", lambda module, ndim: True)
    monkeypatch.setattr(score_sums, "sums_of_part", refused)
    by_torch = dr.register(fixed, moving, **options)
    assert by_torch.ok
    assert compiled.ok
    found, expected = (fit.moving_from_fixed(POINTS) for fit in (by_torch, compiled))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert by_torch.sigma == pytest.approx(compiled.sigma, rel=1e-3)
    monkeypatch.setattr(torch_instead, "SMALL", fixed.size - 1)
    with pytest.raises(AssertionError, match="compiled code was used"):
        dr.register(fixed, moving, **options)
