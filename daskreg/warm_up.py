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
from daskreg.runtime.compile_ahead import compile_first
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
    pixels[tuple(n // 2 for n in pixels.shape)] = np.nan
    np.asarray(warp(pixels, pull=pull, order=3))


def _slices() -> None:
    from daskreg.geometry import SliceAffines
    from daskreg.warping import warp

    maps = np.stack([Affine.translation(y=0.5 * k, x=-0.3 * k).matrix for k in range(4)])
    for dtype in ("float32", "uint8", "uint16"):
        np.asarray(warp(image((4, 40, 32)).astype(dtype), pull=SliceAffines(maps)))


def _field(ndim: int) -> None:
    from daskreg.fields import DisplacementField
    from daskreg.geometry import Grid
    from daskreg.warping import warp

    shape = (40, 32, 24)[:ndim]
    nodes = Grid(tuple(n // 4 for n in shape), 4.0)
    vectors = np.stack([image(nodes.shape, k) for k in range(ndim)])
    for field_order, order in ((1, 1), (1, 0), (1, 3), (3, 1)):
        field = DisplacementField(vectors, nodes, order=field_order)
        for pull in (field, field.inverse(), _pull(ndim) @ field):
            np.asarray(warp(image(shape), pull=pull, order=order))


def _register(ndim: int, **options: Any) -> None:
    from scipy.ndimage import shift

    from daskreg.registration.register import register

    fixed = image((96, 96) if ndim == 2 else (32, 40, 36))
    register(fixed, shift(fixed, (1.5, -1, 0.7)[:ndim], order=1, mode="nearest"), **options)


def _borders() -> None:
    from daskreg.registration.pyramids.flat_borders_numba import connected_with_border

    for shape in ((64, 60), (16, 20, 18)):  # winding, so that it is not found by two sweeps
        connected_with_border(np.random.default_rng(0).random(shape) < 0.6)


def _deformable(ndim: int) -> None:
    _register(ndim, model="bspline", metric="lncc")  # which also compares images as "ncc" does


def _mutual_information() -> None:
    _register(2, metric="mi")


def _project() -> None:
    import torch

    from daskreg.tomography.projector.posed import backproject, project, projection_matrices

    shape, seen, angles = (12, 16, 16), (14, 18), np.linspace(0, 3, 7)
    for tilt in (0.0, 0.3):  # whole slices, and rays across them
        matrices = projection_matrices(angles, shape, seen, tilt=tilt).requires_grad_()
        volume = torch.from_numpy(image(shape)).requires_grad_()
        backproject(project(volume, matrices, seen), matrices, shape).square().sum().backward()


def _reconstruct() -> None:
    from daskreg.tomography.reconstruct import reconstruct

    np.asarray(reconstruct(image((9, 24, 32)), np.linspace(0, 160, 9), unit="deg"))


def _align_projections() -> None:
    from daskreg.tomography.align import align_projections

    for rows in (12, 1):
        align_projections(image((16, rows, 24)), np.linspace(0, 170, 16), unit="deg", max_steps=1)


def _global_icp() -> None:
    from daskreg.clouds.register import icp

    rng = np.random.default_rng(0)
    directions = rng.normal(size=(3000, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    surface = directions * (1 + 0.3 * np.sin(3 * directions[:, :1]) + 0.2 * directions[:, 1:2] ** 2) * (1, 2, 3)
    icp(surface, surface[:, [1, 0, 2]] * (1, -1, 1) + 0.2, init="global")


def _align() -> None:
    from daskreg.stacks.align import align_stack

    one = image((96, 96))
    align_stack(np.stack([np.roll(one, k % 3, 0) for k in range(6)]))


def _icp() -> None:
    from daskreg.clouds.register import icp

    points = np.random.default_rng(0).normal(size=(500, 3)) * (1, 2, 3)
    icp(points, points + 0.01)


CASES: dict[str, dict[str, tuple[Callable[..., None], tuple[Any, ...]]]] = {
    "register": {"register 2D": (_register, (2,)), "register 3D": (_register, (3,)), "flat borders": (_borders, ())},
    "deformable": {
        "deformable 2D": (_deformable, (2,)),
        "deformable 3D": (_deformable, (3,)),
        "field 2D": (_field, (2,)),
        "field 3D": (_field, (3,)),
    },
    "mutual information": {"mutual information": (_mutual_information, ())},
    "warp": {"warp 2D": (_warp, (2,)), "warp 3D": (_warp, (3,)), "warp slices": (_slices, ())},
    "align": {"align": (_align, ())},
    "icp": {"icp": (_icp, ()), "icp, any pose": (_global_icp, ())},
    "tomography": {
        "projector": (_project, ()),
        "reconstruction": (_reconstruct, ()),
        "projections": (_align_projections, ()),
    },
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
    compile_first()
    for group in CASES.values():
        if sys.argv[1] in group:
            work, arguments = group[sys.argv[1]]
            work(*arguments)
