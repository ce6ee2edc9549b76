"""Motions longer than structures, with "mi": what search and small steps add to steps from coarse to fine, and harm.

    python benchmarks/far_motions.py
    python benchmarks/far_motions.py --only camera cat coarse

camera, astronaut, coffee, cat: one colour of a photograph and a function of another (or of the same), of which one was
deformed by a field of at most 15 pixels that changes within 60, with 2 % noise. coarse, inverted: images of which only
structures of 14 pixels are the same, deformed by at most 6, and finer textures are not; four pairs of each. tissue: the
same, with textures only where the common image is bright. unrelated: textures. Each prints the median error before, of
steps from coarse to fine alone, and with all that `register` does; for unrelated images the status. What is alike by
chance is followed where the error after is larger than that of the steps alone. Two sections with landmarks, and stains
of one section, are in `deformable.py` (histology, he-far, prospc-far).

    python benchmarks/far_motions.py --halves

prints how well halves of unrelated textures agree on what was searched, at most, and halves of related ones, at least.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from deformable import smooth_field
from numpy.typing import NDArray
from scipy import ndimage
from skimage import data

import daskreg as dr
from daskreg.registration.deformable.level_images import LevelImages
from daskreg.registration.deformable.multimodal.displacement_search import Searched, search
from daskreg.registration.deformable.multimodal.far_motions import FarMotions
from daskreg.registration.deformable.splines.control_grid import control_grids
from daskreg.registration.deformable.splines.layers import Layers
from daskreg.registration.pyramids.pyramid import ImageBatch, PyramidLevel

Floats = NDArray[np.float64]
SHAPE = (260, 300)


def photograph(name: str) -> tuple[Floats, Floats]:
    """Two images of one thing in different brightness."""
    image = np.asarray(getattr(data, "chelsea" if name == "cat" else name)(), float) / 255
    if name == "camera":
        return image, np.exp(-3 * image)
    if name == "cat":
        return image[..., 0], np.abs(image[..., 2] - 0.45)
    return image[..., 0], 1 - image[..., 2] ** (2 if name == "astronaut" else 1)


def deformed(image: Floats, u: Floats) -> Floats:
    return np.asarray(ndimage.map_coordinates(image, np.indices(image.shape) + u, order=3, mode="mirror"))


def known(name: str) -> Iterator[tuple[Floats, Floats, Floats | None]]:
    first, moving = photograph(name)
    rng = np.random.default_rng(0)
    u = smooth_field(first.shape, 15, 60, rng)
    yield *(one + 0.02 * one.std() * rng.normal(size=one.shape) for one in (deformed(first, u), moving)), u


def textured(kind: str) -> Iterator[tuple[Floats, Floats, Floats | None]]:
    for seed, (size, fine) in enumerate([(7, 1), (7, 1), (7, 2), (10, 2)]):
        rng = np.random.default_rng(seed)

        def texture(sigma: float, rng: np.random.Generator = rng) -> Floats:
            found = ndimage.gaussian_filter(rng.normal(size=SHAPE), sigma)
            return np.asarray(found / found.std())

        u, common = smooth_field(SHAPE, 6, 100, rng), texture(size)
        if kind == "unrelated":
            yield texture(fine), texture(fine), None
            continue
        amount = 0.7 * ((common > 0) if kind == "tissue" else np.ones(SHAPE))
        moving = (np.exp(-common) if kind == "inverted" else common) + amount * texture(fine)
        yield deformed(common, u) + deformed(amount, u) * texture(fine), moving, u


CASES: dict[str, Callable[[str], Iterator[tuple[Floats, Floats, Floats | None]]]] = {
    **dict.fromkeys(("camera", "astronaut", "coffee", "cat"), known),
    **dict.fromkeys(("coarse", "inverted", "tissue", "unrelated"), textured),
}


@contextmanager
def steps_alone() -> Iterator[None]:
    after: Any = FarMotions.after
    FarMotions.after = lambda self, solved: solved  # type: ignore[method-assign]
    try:
        yield
    finally:
        FarMotions.after = after  # type: ignore[method-assign]


def agreement(fixed: Floats, moving: Floats) -> Searched:
    """Of halves of the images, on a level that is these images."""
    grid = dr.Grid(fixed.shape)
    f, m = (ImageBatch(torch.from_numpy(one.astype(np.float32)[None]), None, grid) for one in (fixed, moving))
    images = LevelImages.of(PyramidLevel(f, m, 1.0, (0.0,) * grid.ndim), "mi")
    control = control_grids(grid, (4.0,) * grid.ndim)[-1]
    return search(images, Layers.start(dr.Affine.identity(grid.ndim), control).transform, grid)


def halves(count: int = 8) -> None:
    for shape in ((96, 96), (110, 130), (200, 220), (24, 26, 28)):
        for size in (1, 1.5, 2.5, 4, 6, 8, 10) if len(shape) == 2 else (1, 1.5, 2.5, 4):
            rng = np.random.default_rng(int(10 * size))
            unrelated, related, u = [], [], np.zeros((len(shape), *shape))
            u[0] = 4 - len(shape) / 2
            u[0] *= np.sin(2 * np.pi * np.indices(shape)[1] / shape[1])
            for _ in range(count):
                one, other = (ndimage.gaussian_filter(rng.normal(size=shape), size, mode="mirror") for _ in range(2))
                one, other = one / one.std(), other / other.std()
                unrelated.append(agreement(one, other))
                related.append(agreement(deformed(one, u), np.exp(-one)))
            most, least = max(x.agreement for x in unrelated), min(x.agreement for x in related)
            wrong, right = (sum(x.confirmed for x in them) for them in (unrelated, related))
            needed = max(x.needed for x in unrelated)
            print(
                f"{shape}, structures of {size}: unrelated {most:.2f} at most, {wrong} of {count} confirmed;", end=" "
            )
            print(f"related {least:.2f} at least, {right} confirmed; up to {needed:.2f} needed", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=CASES, nargs="*", default=list(CASES))
    parser.add_argument("--halves", action="store_true", help="only how well halves agree")
    arguments = parser.parse_args()
    if arguments.halves:
        halves()
        return
    for name in arguments.only:
        for fixed, moving, u in CASES[name](name):
            options: dict[str, Any] = {"model": "bspline", "metric": "mi", "init": dr.Affine.identity(2)}
            with steps_alone():
                steps = dr.register(fixed, moving, **options)
            fit = dr.register(fixed, moving, **options)
            if u is None:
                print(f"{name}: {steps.status.name}, {fit.status.name}", flush=True)
                continue
            points = np.moveaxis(np.indices(u.shape[1:]).astype(float), 0, -1)[20:-20, 20:-20].reshape(-1, 2)[::31]
            truth = u[(slice(None), *points.astype(int).T)].T
            errors = [
                float(np.median(np.linalg.norm(transform(points) - points - truth, axis=1)))
                for transform in (options["init"], steps.moving_from_fixed, fit.moving_from_fixed)
            ]
            print(f"{name}: {errors[0]:.2f}, {errors[1]:.2f}, {errors[2]:.2f} px", end=" ")
            print(f"{steps.status.name}, {fit.status.name}, least volume {fit.jacobian[0]:.2f}", flush=True)


if __name__ == "__main__":
    main()
