"""Motions that are larger than the structures: whether any region is left at others, and whether blocks say the same.

    python benchmarks/deformable_strong.py
    python benchmarks/deformable_strong.py --seeds 10 --amplitudes 10 14 18 --metrics ncc lncc --spacings 25 40
    python benchmarks/deformable_strong.py --no-blocks

Textures of 600 x 701 pixels with structures of about ten pixels, moved by waves of 190 pixels or more, with a tenth of
noise. Errors are those at points whose true place is in the moving image. Blocks begin on coarse images of 2^16 pixels,
a sixth of all, and read 0.8 MB at a time. `share` is that of the points at which the two fits differ by more than 0.05
pixels; pairs are counted if both fits are `ok`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import dask.array as da
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates

import daskreg as dr
from daskreg.registration import images
from daskreg.registration.blockwise import coarse, estimate, layer_passes, pair, register, register_layers, slabs

Floats = NDArray[np.float64]
SHAPE = (600, 701)
COARSE_VOXELS, BLOCK_BYTES, SLAB_BYTES = 1 << 16, 800_000, 200_000


def waves(most: float, length: float, seed: int) -> Callable[[Floats], Floats]:
    """(N, 2) displacements by two waves along each axis, of `most` pixels together."""
    rng = np.random.default_rng(seed + 100)
    phases, directions = rng.uniform(0, 2 * np.pi, (2, 2)), rng.normal(size=(2, 2, 2))
    directions *= 2 * np.pi / length / np.linalg.norm(directions, axis=2, keepdims=True)

    def moved(points: Floats) -> Floats:
        return np.stack([most * np.sin(points @ directions[k].T + phases[k]).mean(-1) for k in range(2)], -1)

    return moved


def pair_of(field: Callable[[Floats], Floats], seed: int) -> list[NDArray[np.float32]]:
    """Fixed and moving image."""
    rng = np.random.default_rng(seed)
    moving = gaussian_filter(rng.normal(size=SHAPE), 4)
    points = np.moveaxis(np.indices(SHAPE), 0, -1).reshape(-1, 2).astype(float)
    fixed = map_coordinates(moving, (points + field(points)).T, order=3, mode="mirror").reshape(SHAPE)
    return [(x + 0.1 * moving.std() * rng.normal(size=SHAPE)).astype(np.float32) for x in (fixed, moving)]


@contextmanager
def little_memory() -> Iterator[None]:
    """In which images do not fit the memory, and blocks are small."""
    values = {
        "COARSE_VOXELS": (COARSE_VOXELS, (coarse, register)),
        "LAYER_VOXELS": (COARSE_VOXELS, (coarse, register_layers)),
        "BLOCK_BYTES": (BLOCK_BYTES, (estimate, register, layer_passes, register_layers)),
        "SLAB_BYTES": (SLAB_BYTES, (slabs, pair, coarse)),
    }
    patches = [patch.object(module, name, value) for name, (value, some) in values.items() for module in some]
    patches.append(patch.object(images, "available_memory", lambda: 0))
    for one in patches:
        one.start()
    try:
        yield
    finally:
        for one in patches:
            one.stop()


def fits(both: list[NDArray[np.float32]], *, blocks: bool, options: dict[str, Any]) -> list[Any]:
    """In memory, and by blocks."""
    found = [dr.register(*both, model="bspline", **options)]
    if blocks:
        chunks = (100, SHAPE[1]), (SHAPE[0], 100)
        some = [da.from_array(x, chunks=c) for x, c in zip(both, chunks, strict=True)]
        with little_memory():
            found.append(dr.register(*some, model="bspline", resolution="full", **options))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--amplitudes", type=float, nargs="+", default=(10, 14, 18))
    parser.add_argument("--metrics", nargs="+", default=("ncc", "lncc"))
    parser.add_argument("--spacings", type=float, nargs="+", default=(25, 40))
    parser.add_argument("--blocks", action=argparse.BooleanOptionalAction, default=True)
    arguments = parser.parse_args()
    points = np.stack(np.meshgrid(*(np.arange(20.0, n - 20, 10) for n in SHAPE), indexing="ij"), -1).reshape(-1, 2)
    worst: dict[str, list[float]] = {"memory": [], "blocks": []}
    shares: dict[str, list[float]] = {metric: [] for metric in arguments.metrics}
    refused = {"memory": 0, "blocks": 0}
    for seed in range(arguments.seeds):
        for amplitude in arguments.amplitudes:
            field = waves(amplitude, 190.0 + 20 * seed, seed)
            both, there = pair_of(field, seed), points + field(points)
            inside = np.all((there >= 0) & (there <= np.array(SHAPE) - 1), axis=1)
            for metric in arguments.metrics:
                for spacing in arguments.spacings:
                    began = time.perf_counter()
                    found = fits(both, blocks=arguments.blocks, options={"metric": metric, "spacing": spacing})
                    seconds, mapped = time.perf_counter() - began, [x.moving_from_fixed(points[inside]) for x in found]
                    text = f"{seed} {amplitude:4.0f} px {metric:4s} {spacing:3.0f}"
                    for name, fit, one in zip(worst, found, mapped, strict=False):
                        left = np.linalg.norm(one - there[inside], axis=1)
                        median, most = np.median(left), np.quantile(left, 0.99)
                        text += f" | {name} {fit.status.name:12s} {median:6.3f} 99 % {most:6.2f} most {left.max():6.2f}"
                        if fit.ok:
                            worst[name].append(float(left.max()))
                        else:
                            refused[name] += 1
                    if len(found) == 2 and all(fit.ok for fit in found):
                        apart = np.linalg.norm(mapped[0] - mapped[1], axis=1)
                        shares[metric].append(float(np.mean(apart > 0.05)))
                        text += f" | share {shares[metric][-1]:.3f} apart 99 % {np.quantile(apart, 0.99):.3f}"
                    print(f"{text} | {seconds:.1f} s", flush=True)
    for name, some in worst.items():
        if some:
            wrong = sum(one > 1 for one in some)
            print(f"{name}: {len(some)} ok, {refused[name]} not; {wrong} of the ok ones are off by a pixel somewhere")
    for metric, some in shares.items():
        if some:
            print(
                f"{metric}: {np.mean(some):.4f} of the points differ by more than 0.05 pixels, {max(some):.3f} at most"
            )


if __name__ == "__main__":
    main()
