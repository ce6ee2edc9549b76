"""Pairs of images for the confusion table of `trust.py`: related ones that must be right and ok, and hostile ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import trust_images as im
from numpy.typing import NDArray
from scipy import ndimage
from trust_case import Case, Outcome

import daskreg as dr

Floats = NDArray[np.float64]
Pair = tuple[Floats, Floats, dr.Affine | None]
"""Fixed, moving, and moving from fixed; None where nothing is right."""

TOLERANCE = 2.0  # voxels of the farthest corner
_MODELS = ("translation", "rigid", "similarity", "affine")
_OBJECTS, _TEXTURES = im.PHOTOGRAPHS[:14], im.PHOTOGRAPHS[14:]


@dataclass(frozen=True)
class Group:
    """One row of the table: `count` seeds at scale 1, of inputs that `make` gives for (rng, model)."""

    name: str
    count: int
    make: Callable[[np.random.Generator, str], Pair]
    models: tuple[str, ...] = _MODELS
    may_refuse: bool = False
    options: tuple[tuple[str, Any], ...] = ()


def cases(scale: float, first: int = 0) -> Iterator[Case]:
    """About 1,500 cases at scale 1, of seeds from `first` on."""
    for group in (*_related(), *_hostile()):
        for seed in range(first, first + max(1, round(scale * group.count))):
            yield Case(f"pairs: {group.name}", seed, partial(_fit, group, seed), group.may_refuse)


def _fit(group: Group, seed: int) -> Outcome:
    rng = np.random.default_rng([seed, *group.name.encode()])
    model = group.models[seed % len(group.models)]
    fixed, moving, truth = group.make(rng, model)
    options = dict(group.options)
    many = options.pop("many", False)
    try:
        fixed, moving = fixed.astype(np.float32), moving.astype(np.float32)
        if many:
            fit = dr.register_many(fixed[None], moving[None], model=model, **options)[0]
        else:
            fit = dr.register(fixed, moving, model=model, **options)
    except dr.errors.DaskregError as error:
        return Outcome(math.inf, TOLERANCE, False, type(error).__name__)
    corners = np.stack(np.meshgrid(*[(0, n - 1) for n in fixed.shape], indexing="ij"), -1).reshape(-1, fixed.ndim)
    error = math.inf
    if truth is not None:
        error = float(np.linalg.norm(fit.moving_from_fixed(corners) - truth(corners), axis=1).max())
    return Outcome(error, TOLERANCE, fit.ok, fit.status.name)


def _scene(rng: np.random.Generator, names: tuple[str, ...] = im.PHOTOGRAPHS) -> Floats:
    return im.photograph(str(rng.choice(names)))


def _shape(scene: Floats, rng: np.random.Generator, share: float = 0.62) -> tuple[int, ...]:
    return tuple(int(n * share * rng.uniform(0.85, 1.0)) for n in scene.shape)


def _photographs(
    rng: np.random.Generator, model: str, *, noise: im.Noise, turn: float = 15, shift: float = 0.1
) -> Pair:
    return _noisy(_scene(rng), rng, model, noise=noise, turn=turn, shift=shift)


def _noisy(
    scene: Floats,
    rng: np.random.Generator,
    model: str,
    *,
    noise: im.Noise,
    turn: float,
    shift: float,
    share: float = 0.62,
) -> Pair:
    shape = _shape(scene, rng, share)
    fixed, moving, truth = im.pair_of(scene, rng, model, shape=shape, turn=turn, shift=shift * min(shape))
    return noise(fixed, rng), noise(moving, rng), truth


def _sections(rng: np.random.Generator, model: str, *, size: float) -> Pair:
    scenes = im.microscopy() or {"texture": im.textured((300, 330), rng)}
    scene = scenes[str(rng.choice(list(scenes)))]
    return _noisy(scene, rng, model, noise=im.white(size), turn=12, shift=0.08, share=0.7)


def _volumes(rng: np.random.Generator, model: str) -> Pair:
    scenes = im.volumes()
    scene = scenes[str(rng.choice(list(scenes)))]
    return _noisy(scene, rng, model, noise=im.white(rng.uniform(0.02, 0.5)), turn=10, shift=0.08, share=0.65)


def _whole_heads(rng: np.random.Generator, model: str) -> Pair:
    """An object on a dark background: nothing is cut off."""
    if not im.microscopy():
        return _small(rng, model)
    scene = im.microscopy()[str(rng.choice(["head", "template slice"]))]
    scene = np.pad(scene, 20, mode="edge")
    return _noisy(scene, rng, model, noise=im.white(0.05), turn=12, shift=0.05, share=1.0)


def _small(rng: np.random.Generator, model: str) -> Pair:
    scene = _scene(rng)[::4, ::4] if rng.random() < 0.5 else im.textured((96, 90), rng, (2, 5))
    return _noisy(scene, rng, model, noise=im.white(0.05), turn=8, shift=0.06, share=0.7)


def _blobs(rng: np.random.Generator, model: str) -> Pair:
    """A few bright spots of different size on black."""
    scene = np.zeros((150, 160))
    for _ in range(12):
        spot = np.zeros_like(scene)
        spot[tuple(rng.integers(30, 120, 2))] = 1
        spot = ndimage.gaussian_filter(spot, rng.uniform(2, 5))
        scene += rng.uniform(0.5, 1) * spot / spot.max()
    return _noisy(scene, rng, model, noise=im.white(0.02), turn=10, shift=0.04, share=0.9)


def _other_specimen(rng: np.random.Generator, model: str) -> Pair:
    fixed, moving, truth = _photographs(rng, model, noise=im.white(0.03))
    return fixed, moving + 0.3 * im.textured(moving.shape, rng, (2.0,)), truth


def _overlap(rng: np.random.Generator, model: str, *, share: float) -> Pair:
    scene = _scene(rng)
    fixed, moving, truth = im.overlapping(scene, rng, share, int(rng.integers(150, 170)))
    return im.white(0.02)(fixed, rng), im.white(0.02)(moving, rng), truth


def _related() -> list[Group]:
    search = (("init", "search"),)
    noises = {
        "white noise 0.3": im.white(0.3),
        "white noise 1": im.white(1.0),
        "correlated noise, sigma 1": im.correlated(0.4, 1.0),
        "correlated noise, sigma 2.5": im.correlated(0.3, 2.5),
        "Poisson": im.poisson,
        "JPEG": im.jpeg,
        "stripes": im.stripes,
        "gain ramps": im.ramp,
        "salt": im.salt,
    }
    groups = [Group("photographs", 160, partial(_photographs, noise=im.white(0.03)))]
    groups += [Group(f"photographs, {n}", 36, partial(_photographs, noise=f)) for n, f in noises.items()]
    groups += [
        Group("white noise 3", 36, partial(_photographs, noise=im.white(3.0)), may_refuse=True),
        Group("another specimen's 30 %", 24, _other_specimen),
        Group(
            "any rotation",
            48,
            partial(_photographs, noise=im.white(0.05), turn=180, shift=0.05),
            _MODELS[1:3],
            options=search,
        ),
        Group("sections and slices", 80, partial(_sections, size=0.1)),
        Group("sections and slices, noise 1", 40, partial(_sections, size=1.0)),
        Group("whole heads", 24, _whole_heads),
        Group("volumes", 32, _volumes, ("translation", "rigid", "affine")),
        Group("small images", 48, _small),
        Group("spots on black", 32, _blobs),
        Group("overlap 75 %", 32, partial(_overlap, share=0.75), _MODELS[:2]),
        Group("overlap 50 %", 48, partial(_overlap, share=0.5), _MODELS[:2]),
        Group("overlap 35 %", 48, partial(_overlap, share=0.35), _MODELS[:2], may_refuse=True),
        Group("mse", 32, partial(_photographs, noise=im.white(0.03)), options=(("metric", "mse"),)),
        Group(
            "mae",
            12,
            partial(_photographs, noise=im.white(0.03), turn=5, shift=0.05),
            _MODELS[:2],
            options=(("metric", "mae"),),
        ),
        Group("mi", 12, _inverted_near, _MODELS[:2], options=(("metric", "mi"),)),
        Group("register_many", 48, partial(_photographs, noise=im.white(0.1)), options=(("many", True),)),
    ]
    return groups


def _inverted_near(rng: np.random.Generator, model: str) -> Pair:
    fixed, moving, truth = _photographs(rng, model, noise=im.white(0.03), turn=5, shift=0.05)
    return fixed, -moving, truth


def _unrelated(rng: np.random.Generator, model: str) -> Pair:
    from skimage import transform

    a, b = rng.choice(_OBJECTS + _TEXTURES, 2, replace=False)
    shape = (int(rng.integers(180, 260)), int(rng.integers(180, 260)))
    fixed, moving = (transform.resize(im.photograph(str(name)), shape, anti_aliasing=True) for name in (a, b))
    return fixed, moving, None


def _smooth(rng: np.random.Generator, model: str) -> Pair:
    shape, sigma = (int(rng.integers(100, 220)), int(rng.integers(100, 220))), rng.uniform(1, 25)
    fixed, moving = (ndimage.gaussian_filter(rng.normal(size=shape), sigma) for _ in range(2))
    return fixed / fixed.std(), moving / moving.std(), None


def _unrelated_volumes(rng: np.random.Generator, model: str) -> Pair:
    sigma = rng.uniform(1, 5)
    fixed, moving = (ndimage.gaussian_filter(rng.normal(size=(40, 48, 44)), sigma) for _ in range(2))
    return fixed / fixed.std(), moving / moving.std(), None


def _inverted(rng: np.random.Generator, model: str) -> Pair:
    fixed, moving, _ = _photographs(rng, model, noise=im.white(0.02), turn=5, shift=0.05)
    return fixed, -moving, None


def _mirrored(rng: np.random.Generator, model: str) -> Pair:
    fixed, moving, _ = _noisy(_scene(rng, _OBJECTS), rng, model, noise=im.white(0.02), turn=5, shift=0.05)
    return fixed, moving[:, ::-1], None


def _gain(rng: np.random.Generator, model: str) -> Pair:
    fixed, moving, truth = _noisy(_scene(rng, _OBJECTS), rng, model, noise=im.white(0.02), turn=8, shift=0.08)
    return fixed, moving * rng.uniform(1.3, 3) + rng.uniform(0.5, 2), truth


def _lattice(rng: np.random.Generator, model: str, *, defects: float) -> Pair:
    y, x = np.mgrid[:300, :300]
    period = rng.uniform(9, 40)
    scene = np.cos(2 * np.pi * y / period) + np.cos(2 * np.pi * x / period)
    scene = scene + defects * ndimage.gaussian_filter(rng.normal(size=scene.shape), 1.5) / 0.19
    return _shifted_crops(scene, rng, size=rng.uniform(0.05, 0.4), reach=40)


def _shifted_crops(scene: Floats, rng: np.random.Generator, *, size: float, reach: int) -> Pair:
    away = rng.integers(-reach, reach + 1, 2)
    room = 60
    fixed = scene[room:-room, room:-room]
    moving = scene[room + away[0] : scene.shape[0] - room + away[0], room + away[1] : scene.shape[1] - room + away[1]]
    return (
        im.white(size)(fixed, rng),
        im.white(size)(moving, rng),
        dr.Affine.translation(y=-float(away[0]), x=-float(away[1])),
    )


def _lines(rng: np.random.Generator, model: str) -> Pair:
    y, x = np.mgrid[:300, :300] - 150.0
    angle = rng.choice([0, np.pi / 2, rng.uniform(0, np.pi)])
    u = y * np.cos(angle) + x * np.sin(angle)
    profile = int(rng.integers(4))
    scene = (np.sin(2 * np.pi * u / 40), np.tanh(u / 4), 1 - np.exp(-((u / 9) ** 2)), ndimage.gaussian_filter1d(
        rng.normal(size=700), 3)[(np.round(u) + 300).astype(int)] * 4)[profile]  # fmt: skip
    return _shifted_crops(scene, rng, size=rng.choice([0.02, 0.1, 0.3]), reach=8)


def _wheels(rng: np.random.Generator, model: str) -> Pair:
    """Wheels, gears, flowers and flanges: a turn by a part of a whole one fits as well."""
    y, x = np.mgrid[:280, :280] - 139.5 - rng.uniform(-15, 15, 2)[:, None, None]
    r, angle, number = np.hypot(y, x), np.arctan2(y, x), int(rng.integers(3, 25))
    scene = (
        np.tanh((70 + 8 * np.tanh(3 * np.cos(number * angle)) - r) / 2) - np.tanh((18 - r) / 2),
        np.exp(-(((r - 80) / 5) ** 2)) + (r < 80) * np.exp(-((np.sin(number * angle / 2) * r / 4) ** 2)),
        np.exp(-(((r - 50 - 20 * np.cos(number * angle)) / 8) ** 2)),
        np.tanh((85 - r) / 2) - 2 * np.exp(-(((r - 55) / 6) ** 2)) * (np.cos(number * angle) > 0.4),
    )[int(rng.integers(4))]
    fixed, moving, truth = im.pair_of(
        (scene - scene.mean()) / scene.std(), rng, model, shape=(250, 240), turn=40, shift=10
    )
    return im.white(0.05)(fixed, rng), im.white(0.05)(moving, rng), truth


def _only_vignetting(rng: np.random.Generator, model: str) -> Pair:
    shape = (int(rng.integers(150, 220)), int(rng.integers(150, 220)))
    light = im.vignette(shape)
    fixed, moving = (light * (8 + rng.uniform(0.1, 1) * im.textured(shape, rng)) for _ in range(2))
    return fixed, moving, None


def _only_camera(rng: np.random.Generator, model: str) -> Pair:
    """Different specimens, and a pattern of the detector in both that is a third as strong."""
    shape = (int(rng.integers(150, 220)), int(rng.integers(150, 220)))
    pattern = rng.normal(0, 0.3, shape) if rng.random() < 0.5 else rng.normal(0, 0.3, (1, shape[1]))
    fixed, moving = (im.textured(shape, rng) + pattern for _ in range(2))
    return fixed, moving, None


def _low_texture(rng: np.random.Generator, model: str) -> Pair:
    """Faint, smooth structure under noise."""
    scene = im.textured((260, 280), rng, (rng.uniform(3, 12),))
    return _noisy(scene, rng, model, noise=im.white(rng.uniform(2, 10)), turn=5, shift=0.06, share=0.7)


def _hostile() -> list[Group]:
    two, rest = _MODELS[:2], {"may_refuse": True}
    return [
        Group("unrelated photographs", 160, _unrelated, _MODELS[1:], **rest),
        Group("unrelated, mse", 24, _unrelated, _MODELS[1:], options=(("metric", "mse"),), **rest),
        Group("unrelated, search", 24, _unrelated, _MODELS[1:], options=(("init", "search"),), **rest),
        Group("unrelated, register_many", 24, _unrelated, _MODELS[1:], options=(("many", True),), **rest),
        Group("independent smooth noise", 60, _smooth, **rest),
        Group("unrelated volumes", 16, _unrelated_volumes, ("rigid", "affine"), **rest),
        Group("inverted contrast", 40, _inverted, **rest),
        Group("mirrored", 40, _mirrored, **rest),
        Group("mse with another gain", 36, _gain, options=(("metric", "mse"),), **rest),
        Group("overlap 20 %", 40, partial(_overlap, share=0.2), two, **rest),
        Group("overlap 12 %", 40, partial(_overlap, share=0.12), two, **rest),
        Group("lattice", 40, partial(_lattice, defects=0.0), two, **rest),
        Group("lattice, faint defects", 40, partial(_lattice, defects=0.02), two, **rest),
        Group("lattice, clear defects", 40, partial(_lattice, defects=0.3), two, **rest),
        Group("lines and edges", 60, _lines, two, **rest),
        Group("wheels", 48, _wheels, _MODELS[1:], **rest),
        Group("only vignetting in common", 24, _only_vignetting, **rest),
        Group("only the detector in common", 24, _only_camera, two, **rest),
        Group("low texture", 48, _low_texture, **rest),
    ]
