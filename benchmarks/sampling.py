"""How fast images are sampled in memory, side by side with other tools: Mvoxel/s.

    python benchmarks/sampling.py
    python benchmarks/sampling.py --size 2 --dtype uint16 --order 3

A rotation by some degrees with a little scale and shear, of a 2D image, of a stack of slices
that share it, and of a volume, into an output that exists already where a tool can do that.
All run in the same process, one after the other in every round, so that the ratios of the
medians hold where the machine is busy. OpenCV interpolates with weights of 1/32 (5 bits).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch.nn import functional

from daskreg.geometry import Affine, Box
from daskreg.geometry.normalised import theta_from_index
from daskreg.sampling.sample import sample

Runs = dict[str, Callable[[], Any]]


def affine_2d(shape: tuple[int, ...]) -> np.ndarray:
    centre = tuple((n - 1) / 2 for n in shape)
    named = {"theta": 0.1, "tx": 3.3, "ty": -2.1, "sx": 1.02, "sy": 0.97, "shx": 0.03}
    return np.array(Affine.from_parameters(named, ndim=2, centre=centre).matrix)


def affine_3d(shape: tuple[int, ...]) -> np.ndarray:
    centre = tuple((n - 1) / 2 for n in shape)
    named = {"rx": 0.1, "ry": -0.07, "rz": 0.13, "tx": 3.3, "tz": -1.2, "sx": 1.02, "sy": 0.98, "shxy": 0.02}
    return np.array(Affine.from_parameters(named, ndim=3, centre=centre).matrix)


def with_torch(image: np.ndarray, matrix: np.ndarray) -> Runs:
    """Our kernel for tensors, and what one writes without it: `affine_grid` and `grid_sample` in float32.

    Ours is given a matrix that wants a gradient, since `sample` takes other tensors as arrays on CPUs.
    """
    box = Box.of(image.shape)
    tensor, live = torch.from_numpy(image), torch.from_numpy(matrix).requires_grad_()
    plain = tensor.float()[None, None]
    theta = torch.from_numpy(theta_from_index(matrix, image.shape, image.shape)).float()[None]

    def by_hand() -> Any:
        return functional.grid_sample(
            plain, functional.affine_grid(theta, list(plain.shape), False), align_corners=False
        )

    runs: Runs = {"torch (daskreg)": lambda: sample(tensor, box, live, box, order=ORDER)}
    return runs | ({"torch grid_sample": by_hand} if ORDER == 1 else {})


def with_cv2(image: np.ndarray, matrix: np.ndarray, out: np.ndarray) -> Runs:
    try:
        import cv2
    except ImportError:
        return {}
    if ORDER == 3:
        return {}
    x_first = np.ascontiguousarray(matrix[[1, 0]][:, [1, 0, 2]])
    how = (cv2.INTER_LINEAR if ORDER == 1 else cv2.INTER_NEAREST) | cv2.WARP_INVERSE_MAP
    slices = image if image.ndim == 3 else image[None]
    into = out if image.ndim == 3 else out[None]

    def run() -> None:
        for source, target in zip(slices, into, strict=True):
            cv2.warpAffine(source, x_first, source.shape[::-1], dst=target, flags=how)

    return {"cv2.warpAffine": run}


def runs_of(image: np.ndarray, matrix: np.ndarray) -> Runs:
    box, out = Box.of(image.shape), np.empty_like(image)
    runs: Runs = {
        "numba": lambda: sample(image, box, matrix, box, order=ORDER, out=out, parallel=True),
        "numba, one thread": lambda: sample(image, box, matrix, box, order=ORDER, out=out),
        "scipy": lambda: ndimage.affine_transform(image, matrix, order=ORDER, mode="grid-constant", output=out),
    }
    flat = image.ndim == 2 or np.array_equal(matrix[0], [1, 0, 0, 0])
    runs |= with_cv2(image, matrix[-3:, -3:], out) if flat else {}
    return runs if image.ndim == 3 and flat else runs | with_torch(image, matrix)


def compare(title: str, image: np.ndarray, matrix: np.ndarray, rounds: int) -> None:
    runs = runs_of(image, matrix)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for name in runs:
        runs[name]()  # compiles, and fills caches
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    print(f"{title}: {' x '.join(map(str, image.shape))} {image.dtype}, order {ORDER}")
    ours = statistics.median(seconds["numba"])
    size = image.size / 1e6
    for name, values in seconds.items():
        median = statistics.median(values)
        rates = f"{size / median:8.1f} Mvoxel/s (best {size / min(values):8.1f})"
        print(f"  {name:20s} {rates}  {median / ours:6.2f} x numba's time")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--size", type=float, default=1.0, help="scale of the sides (default 1: 1024^2, 16 x 512^2, 128^3)"
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--order", type=int, default=1, choices=(0, 1, 3))
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()
    global ORDER  # noqa: PLW0603
    ORDER = options.order
    rng = np.random.default_rng(0)

    def image(*shape: int) -> np.ndarray:
        return (rng.random(shape) * 250).astype(options.dtype)

    wide, side, deep = (int(n * options.size) for n in (1024, 512, 128))
    compare("2D", image(wide, wide), affine_2d((wide, wide)), options.rounds)
    stacked = np.eye(4)
    stacked[1:, 1:] = affine_2d((side, side))
    compare("slices", image(16, side, side), stacked, options.rounds)
    compare("3D", image(deep, deep, deep), affine_3d((deep,) * 3), options.rounds)


ORDER = 1

if __name__ == "__main__":
    main()
