"""Images for the confusion table of `trust.py`: real ones, crops of them with a known motion, noise and patterns."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

import daskreg as dr

Floats = NDArray[np.float64]

PHOTOGRAPHS = (
    "camera", "astronaut", "chelsea", "coffee", "rocket", "coins", "moon", "cell", "hubble_deep_field",
    "immunohistochemistry", "retina", "clock", "page", "text", "brick", "grass", "gravel",
)  # fmt: skip
"""Of scikit-image. The last three are textures without objects."""


@cache
def photograph(name: str) -> Floats:
    """One of PHOTOGRAPHS in grey, with mean 0 and variance 1, at most about 600 voxels a side."""
    from skimage import data

    image = np.asarray(getattr(data, name)(), dtype=np.float64)
    image = image[..., :3].mean(-1) if image.ndim == 3 else image
    return _standard(image[:: max(1, image.shape[0] // 600), :: max(1, image.shape[1] // 600)])


def data_folder() -> Path | None:
    """The folder of real data, where it is known."""
    folder = os.environ.get("DASKREG_DATA")
    return Path(folder) if folder else None


@cache
def microscopy() -> dict[str, Floats]:
    """Sections and slices of DASKREG_DATA: electron microscopy, histology, heads, tilt series. Empty without it."""
    root = data_folder()
    if root is None:
        return {}
    from skimage.io import imread

    found = {}
    for path in sorted((root / "stacks/lung_sem").glob("*.png"))[::3]:
        found[f"section {path.stem[-2:]}"] = imread(path)[::2, ::2]
    found["lesion HE"] = imread(root / "images2d/histology/lesions_/scale-5pc/Izd2-29-041-w35_HE.jpg").mean(-1)
    found["tissue"] = imread(root / "images2d/histology/images/artificial_reference.jpg").mean(-1)[::2, ::2]
    found["head"] = np.asarray(dr.open(root / "images2d/ct_head/CT_2D_head_fixed.mha"))
    found["PC12"] = imread(root / "stacks/pc12/pc12-unreg.tif")[0]
    volume = next((root / "volumes3d/mni152").glob("*.nii*"), None)
    if volume is not None:
        whole = np.asarray(dr.open(volume))
        found["template slice"] = np.squeeze(whole)[len(np.squeeze(whole)) // 2]
    return {name: _standard(np.asarray(image, dtype=np.float64)) for name, image in found.items()}


@cache
def volumes() -> dict[str, Floats]:
    """Volumes of 64 to 100 voxels a side: parts of those of DASKREG_DATA, and a synthetic one."""
    rng = np.random.default_rng(3)
    found = {"synthetic": textured((80, 88, 84), rng)}
    root = data_folder()
    if root is not None:
        for name, pattern in (("template", "volumes3d/mni152/*.nii*"), ("head", "volumes3d/niivue/chris_t1.nii.gz")):
            path = next(root.glob(pattern), None)
            if path is not None:
                found[name] = _standard(np.squeeze(np.asarray(dr.open(path), dtype=np.float64))[::2, ::2, ::2])
    return found


def textured(shape: tuple[int, ...], rng: np.random.Generator, sigmas: tuple[float, ...] = (1, 3, 9)) -> Floats:
    """Noise with structure of several sizes."""
    parts = [ndimage.gaussian_filter(rng.normal(size=shape), s) for s in sigmas]
    return _standard(np.asarray(sum(p / p.std() for p in parts)))


def _standard(image: Floats) -> Floats:
    return (image - image.mean()) / image.std()


def motion(rng: np.random.Generator, model: str, ndim: int, *, turn: float, shift: float, side: float) -> dr.Affine:
    """A random motion of a model about the centre of an image of `side` voxels: turn in degrees, shift in voxels."""
    centre = np.full(ndim, (side - 1) / 2)
    names = "xyz"[:ndim]
    p = {f"t{n}": rng.uniform(-shift, shift) for n in names}
    if model != "translation":
        angles = ("theta",) if ndim == 2 else ("rx", "ry", "rz")
        p |= {n: np.radians(rng.uniform(-turn, turn)) / (1 if ndim == 2 else 2) for n in angles}
    if model == "similarity":
        p |= dict.fromkeys([f"s{n}" for n in names], rng.uniform(0.9, 1.12))
    if model == "affine":
        p |= {f"s{n}": rng.uniform(0.93, 1.08) for n in names} | {
            "shx" if ndim == 2 else "shxy": rng.uniform(-0.06, 0.06)
        }
    return dr.Affine.from_parameters(p, ndim=ndim, centre=centre)


def crop(scene: Floats, origin: Floats, move: dr.Affine, shape: tuple[int, ...]) -> Floats:
    """`shape` voxels of the scene such that voxel move(p) shows the point p + origin; NaN beyond the scene."""
    back = move.inverse().matrix
    return np.asarray(
        ndimage.affine_transform(
            scene, back[:-1, :-1], back[:-1, -1] + origin, output_shape=shape, order=3, mode="constant", cval=np.nan
        )
    )


def pair_of(
    scene: Floats, rng: np.random.Generator, model: str, *, shape: tuple[int, ...], turn: float, shift: float
) -> tuple[Floats, Floats, dr.Affine]:
    """Two crops of a scene and the motion between them, moving from fixed."""
    room = np.asarray(scene.shape) - np.asarray(shape)
    origin = np.floor(rng.uniform(0.3, 0.7, scene.ndim) * np.maximum(room, 0))
    move = motion(rng, model, scene.ndim, turn=turn, shift=shift, side=float(min(shape)))
    fixed = scene[tuple(slice(int(o), int(o) + n) for o, n in zip(origin, shape, strict=True))]
    return fixed, crop(scene, origin, move, shape), move


def overlapping(scene: Floats, rng: np.random.Generator, share: float, side: int) -> tuple[Floats, Floats, dr.Affine]:
    """Two crops that share a part of their area, side by side or one above the other."""
    axis = int(rng.integers(2))
    away = np.zeros(2)
    away[axis] = round(side * (1 - share))
    room = np.asarray(scene.shape) - side - away
    if room.min() < 0:
        axis, away = 1 - axis, away[::-1]
        room = np.asarray(scene.shape) - side - away
    origin = np.floor(rng.uniform(0, 1, 2) * np.maximum(room, 0)).astype(int)
    boxes = [tuple(slice(int(a), int(a) + side) for a in origin + move) for move in (0 * away, away)]
    return scene[boxes[0]], scene[boxes[1]], dr.Affine.translation(y=-away[0], x=-away[1])


Noise = Callable[[Floats, np.random.Generator], Floats]


def white(size: float) -> Noise:
    return lambda image, rng: image + rng.normal(0, size, image.shape)


def correlated(size: float, sigma: float) -> Noise:
    def add(image: Floats, rng: np.random.Generator) -> Floats:
        noise = ndimage.gaussian_filter(rng.normal(size=image.shape), sigma)
        return image + size * noise / noise.std()

    return add


def poisson(image: Floats, rng: np.random.Generator) -> Floats:
    low, high = np.nanmin(image), np.nanmax(image)
    mean = 30 * (image - low) / (high - low)
    return np.where(np.isfinite(image), rng.poisson(np.nan_to_num(mean)), np.nan)


def jpeg(image: Floats, rng: np.random.Generator) -> Floats:
    from PIL import Image

    low, high = np.nanmin(image), np.nanmax(image)
    grey = np.nan_to_num((image - low) / (high - low) * 255).clip(0, 255).astype(np.uint8)
    memory = io.BytesIO()
    Image.fromarray(grey).save(memory, format="JPEG", quality=int(rng.integers(20, 60)))
    return np.where(np.isfinite(image), np.asarray(Image.open(memory), dtype=np.float64), np.nan)


def stripes(image: Floats, rng: np.random.Generator) -> Floats:
    return image + rng.normal(0, 0.25, image.shape[-1]) + rng.normal(0, 0.1, image.shape)


def ramp(image: Floats, rng: np.random.Generator) -> Floats:
    y, x = np.meshgrid(*[np.linspace(-1, 1, n) for n in image.shape], indexing="ij")
    a, b = rng.uniform(-0.3, 0.3, 2)
    return (image + 3) * (1 + a * y + b * x) + rng.normal(0, 0.1, image.shape)


def salt(image: Floats, rng: np.random.Generator) -> Floats:
    return np.where(rng.random(image.shape) < 0.01, 8.0, image + rng.normal(0, 0.1, image.shape))


def vignette(shape: tuple[int, ...]) -> Floats:
    """Falls from 1 at the centre to about 0.3 in the corners."""
    square: Any = sum(
        np.square(np.linspace(-1, 1, n)).reshape([-1 if k == a else 1 for k in range(len(shape))])
        for a, n in enumerate(shape)
    )
    return np.asarray(1 / (1 + square))
