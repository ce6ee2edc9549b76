"""Where tests of Triton kernels run: on a GPU, or on a CPU with TRITON_INTERPRET=1 set from the start."""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
ON = "cpu" if INTERPRETED else "cuda"
NEEDS_TRITON = pytest.mark.skipif(
    find_spec("triton") is None or not (INTERPRETED or torch.cuda.is_available()), reason="Triton needs a GPU"
)
