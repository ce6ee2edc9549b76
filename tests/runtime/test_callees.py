"""A process that compiles computes bit for bit what one computes that reads what was compiled."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from daskreg.runtime.compiled import fragment, inner, jit

WARP = """
import hashlib, numpy as np, daskreg as dr
image = np.random.default_rng(0).normal(size=(37, 53)).astype(np.float32)
pull = dr.Affine(np.array([[0.98, 0.13, 1.7], [-0.11, 1.02, -2.3], [0, 0, 1]]))
print(hashlib.sha256(np.asarray(dr.warp(image, pull=pull)).tobytes()).hexdigest())
"""
SUMS = """
import hashlib, numpy as np
import torch
from daskreg.geometry import Grid
from daskreg.registration.normal_equations.equations import normal_equations_of
from daskreg.registration.pyramids.pyramid import PyramidLevel, image_batch
rng = np.random.default_rng(0)
voxels = torch.from_numpy(rng.normal(size=(2, 1, 61, 83)).astype(np.float32))
images = [image_batch(values, Grid((61, 83))) for values in voxels]
sums = normal_equations_of(PyramidLevel(*images, 1.0))(np.array([[[29.0, 2.0, 31.3], [-1.5, 40.0, 39.6]]]))
print(hashlib.sha256(b"".join(getattr(sums, name).tobytes() for name in ("scalars", "j", "jj"))).hexdigest())
"""


@pytest.mark.slow
@pytest.mark.parametrize("code", [WARP, SUMS], ids=["warp", "sums"])
def test_what_was_compiled_and_what_is_read_give_the_same_bytes(code: str, tmp_path: Path) -> None:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "NUMBA_NUM_THREADS": "1"}
    command, found = [sys.executable, "-c", code], []
    for _ in range(2):
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        found.append(ended.stdout)
    assert found[0] == found[1] != ""


def test_no_machine_code_is_made_of_a_function_for_callers() -> None:
    @inner
    def half(x: Any) -> Any:
        return x / 2

    @fragment
    def halves(values: Any, out: Any) -> None:
        for k in range(len(values)):
            out[k] = half(values[k])

    @jit
    def kernel(values: Any) -> Any:
        out = np.empty_like(values)
        halves(values, out)
        return out

    np.testing.assert_array_equal(kernel(np.arange(5.0)), np.arange(5) / 2)
    for function in (half, halves):
        (compiled,) = function.overloads.values()
        engine = compiled.library.codegen._engine
        assert not engine.is_symbol_defined(compiled.fndesc.mangled_name)
