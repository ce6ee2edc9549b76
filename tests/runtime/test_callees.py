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

# A warp calls functions that are optimised by themselves too, the filters such as are not.
CODE = """
import hashlib, numpy as np, daskreg as dr
from daskreg.registration.pyramids.filters_numba import mean_square_gradient
from daskreg.registration.pyramids.gaussian_numba import smoothed
image = np.random.default_rng(0).normal(size=(37, 53)).astype(np.float32)
pull = dr.Affine(np.array([[0.98, 0.13, 1.7], [-0.11, 1.02, -2.3], [0, 0, 1]]))
taps = np.array([0.11, 0.23, 0.31, 0.23, 0.11], np.float32)
smooth = smoothed(image[None], None, (taps, taps))[0]
for found in (np.asarray(dr.warp(image, pull=pull)), smooth, mean_square_gradient(image[None], None, 1)):
    print(hashlib.sha256(found.tobytes()).hexdigest())
"""


@pytest.mark.slow
def test_what_was_compiled_and_what_is_read_give_the_same_bytes(tmp_path: Path) -> None:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "NUMBA_NUM_THREADS": "1"}
    command, found = [sys.executable, "-c", CODE], []
    for _ in range(2):
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        found.append(ended.stdout.split())
    assert found[0] == found[1]
    assert len(set(found[0])) == 3


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
