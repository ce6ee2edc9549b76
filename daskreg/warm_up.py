"""Compile what is needed later: each case is the smallest use of a part, in a process of its own."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import OptionError, RunError
from daskreg.geometry import Affine
from daskreg.runtime.device import cores


def image(shape: tuple[int, ...], seed: int = 0) -> NDArray[np.float32]:
    """Smooth noise."""
    from scipy.ndimage import gaussian_filter

    return np.asarray(gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2), dtype=np.float32)


def _pull(ndim: int) -> Affine:
    matrix = np.eye(ndim + 1)
    matrix[-2, -3], matrix[-2, -1] = 0.1, 1.5
    return Affine(matrix)


def _warp(ndim: int) -> None:
    from daskreg.warping import warp

    pull = _pull(ndim)
    pixels = image((40, 32, 24)[:ndim])
    numbers = (pixels - pixels.min()) / np.ptp(pixels) * 255
    for dtype, order in itertools.product(("float32", "uint8", "uint16"), (1, 0, 3)):
        np.asarray(warp(numbers.astype(dtype), pull=pull, order=order))


def _slices() -> None:
    from daskreg.geometry import SliceAffines
    from daskreg.warping import warp

    maps = np.stack([Affine.translation(y=0.5 * k, x=-0.3 * k).matrix for k in range(4)])
    for dtype in ("float32", "uint8", "uint16"):
        np.asarray(warp(image((4, 40, 32)).astype(dtype), pull=SliceAffines(maps)))


def _register(ndim: int) -> None:
    from scipy.ndimage import shift

    from daskreg.registration.register import register

    fixed = image((96, 96) if ndim == 2 else (32, 40, 36))
    register(fixed, shift(fixed, (1.5, -1, 0.7)[:ndim], order=1, mode="nearest"))


def _align() -> None:
    from daskreg.stacks.align import align_stack

    one = image((96, 96))
    align_stack(np.stack([np.roll(one, k % 3, 0) for k in range(6)]))


def _icp() -> None:
    from daskreg.clouds.register import icp

    points = np.random.default_rng(0).normal(size=(500, 3)) * (1, 2, 3)
    icp(points, points + 0.01)


CASES: dict[str, dict[str, tuple[Callable[..., None], tuple[Any, ...]]]] = {
    "register": {"register 2D": (_register, (2,)), "register 3D": (_register, (3,))},
    "warp": {"warp 2D": (_warp, (2,)), "warp 3D": (_warp, (3,)), "warp slices": (_slices, ())},
    "align": {"align": (_align, ())},
    "icp": {"icp": (_icp, ())},
}
"""The processes of each case."""


def warm_up(cases: Sequence[str] = (), *, jobs: int | None = None) -> Iterator[tuple[str, float]]:
    """Compile what these cases need, all of them by default, and keep it where numba keeps compiled code.

    Args:
        jobs: processes at once; None: one for each core.

    Returns: what was done, and the seconds that it took, as it ends.
    Raises: OptionError for an unknown case, RunError where a process fails.
    """
    unknown = [case for case in cases if case not in CASES]
    if unknown:
        raise OptionError(f"{', '.join(unknown)}: not one of {', '.join(CASES)}")
    names = [name for case in cases or CASES for name in CASES[case]]
    with ThreadPoolExecutor(jobs or cores()) as pool:
        for future in as_completed([pool.submit(_in_process, name) for name in names]):
            yield future.result()


def _in_process(name: str) -> tuple[str, float]:
    began = time.monotonic()
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "daskreg.warm_up", name]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if ended.returncode:
        raise RunError(f"warm-up of {name} failed: {(ended.stderr.strip() or 'no output').splitlines()[-1]}")
    return name, time.monotonic() - began


if __name__ == "__main__":
    for group in CASES.values():
        if sys.argv[1] in group:
            work, arguments = group[sys.argv[1]]
            work(*arguments)
