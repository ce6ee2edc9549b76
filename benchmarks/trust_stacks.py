"""Stacks whose right answer is known, for the confusion table of `trust.py`: related slices, and hostile ones.

An error is that of the poses of the slices that the fit does not name as outliers: the largest distance in pixels
between a corner of a slice and where it belongs, without the motion that all slices share. A fit is right if its error
is at most half a pixel, or at most two pixels and four standard deviations that the fit itself states. Where a slice
must be named and is not, the error is infinite. Stacks of real data are left out where it is not found in DASKREG_DATA.

    python benchmarks/trust_stacks.py [--scale 1] [--only hot]     # the table of stacks alone, and how sigma holds
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent))

from trust_case import Case, Outcome

import daskreg as dr

Floats = NDArray[np.float64]
SHAPE = (144, 168)
SLICES = 10
PHOTOGRAPHS = ("camera", "coins", "moon", "astronaut", "chelsea", "coffee", "rocket", "ihc", "hubble", "retina", "cell")
TOLERANCE, CHANGING_TOLERANCE = 0.5, 2.5
# An error that the fit states itself is not silent: so many of its standard deviations, and so many pixels, at most.
STATED, MOST_STATED = 4.0, 2.0


@cache
def photograph(name: str) -> Floats:
    """A photograph of skimage in grey, reduced to at most 512 pixels."""
    from skimage import data

    names = {"ihc": "immunohistochemistry", "hubble": "hubble_deep_field"}
    image = np.asarray(getattr(data, names.get(name, name))(), dtype=np.float64)
    image = image if image.ndim == 2 else image[..., :3].mean(axis=-1)
    step = max(1, max(image.shape) // 512)
    return image[::step, ::step]


@cache
def brain() -> Floats:
    """Slices of the MNI152 template, through the middle of the head."""
    import nibabel

    volume: Any = nibabel.load(next(data_folder("volumes3d", "mni152").glob("*.nii.gz")))
    return np.moveaxis(np.asarray(volume.dataobj, dtype=np.float64), 2, 0)[60:130]


@cache
def embryo() -> Floats:
    """Slices of an expanded tissue sample, in fluorescence."""
    import zarr

    folder = data_folder("volumes3d", "easi_fish")
    group: Any = zarr.open(next(p for p in sorted(folder.iterdir()) if p.is_dir()))
    while not hasattr(group, "shape"):
        group = group[sorted(group.keys())[0]]
    return np.asarray(group[..., 40:100, :, :]).reshape(-1, *group.shape[-2:])[-60:].astype(np.float64)


def data_folder(*parts: str) -> Path:
    return Path(os.environ.get("DASKREG_DATA", "")).joinpath(*parts)


def motion(dy: float, dx: float, turn: float = 0.0, *, flip: bool = False) -> Floats:
    """Raw from aligned, about the centre of a slice; `turn` in degrees."""
    centre = (np.asarray(SHAPE) - 1) / 2
    c, s = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    linear = np.array([[c, s], [-s, c]]) @ np.diag([1.0, -1.0 if flip else 1.0])
    matrix = np.eye(3)
    matrix[:2, :2], matrix[:2, 2] = linear, centre - linear @ centre + (dy, dx)
    return matrix


def walk(rng: np.random.Generator, count: int, step: float, turn: float = 0.0) -> Floats:
    """(N, 3, 3) a random walk of motions."""
    steps = np.cumsum(rng.normal(size=(count, 3)) * (step, step, turn), axis=0)
    return np.stack([motion(*s) for s in steps])


def moved(scene: Floats, raw_from_aligned: Floats) -> Floats:
    """The middle of a scene as a slice that was moved."""
    pull = np.linalg.inv(raw_from_aligned)
    start = (np.asarray(scene.shape) - SHAPE) / 2
    offset = pull[:2, 2] + start
    return np.asarray(
        scipy.ndimage.affine_transform(scene, pull[:2, :2], offset, SHAPE, order=3, mode="reflect"), np.float64
    )


def scene_of(rng: np.random.Generator, names: tuple[str, ...] = PHOTOGRAPHS) -> Floats:
    """A part of a photograph, larger than a slice by the room for motion."""
    image = photograph(names[int(rng.integers(len(names)))])
    size = np.minimum(np.asarray(SHAPE) + 110, image.shape)
    a, b = (int(rng.integers(0, n - k + 1)) for n, k in zip(image.shape, size, strict=True))
    part = image[a : a + size[0], b : b + size[1]]
    return part if part.std() > 8 else scene_of(rng, names)


def corner_errors(found: Floats, truth: Floats, keep: NDArray[np.intp], *, steps: bool) -> Floats:
    """(len(keep),) distances; `steps`: of each slice from the one before, for specimens that change."""
    h, w = SHAPE[0] - 1, SHAPE[1] - 1
    corners = np.array([[0, 0, h, h], [0, w, 0, w], [1, 1, 1, 1]], dtype=np.float64)
    places = (np.linalg.inv(truth[keep]) @ found[keep] @ corners)[:, :2]
    if steps:
        return np.asarray(np.linalg.norm(np.diff(places, axis=0), axis=1).max(axis=-1))
    apart = np.linalg.norm(places[:, None] - places[None], axis=2).max(axis=-1)
    return np.asarray(apart[np.median(apart, axis=1).argmin()])


def outcome_of(
    stack: NDArray[Any],
    truth: Floats | None,
    *,
    model: str,
    named: tuple[int, ...] = (),
    steps: bool = False,
    metric: str = "ncc",
) -> Outcome:
    """The fit of a stack against the truth; None: no pose is right."""
    tolerance = CHANGING_TOLERANCE if steps else TOLERANCE
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            fit = dr.align_stack(stack, model=model, metric=metric)
        except dr.errors.DaskregError as error:
            return Outcome(np.inf, tolerance, False, type(error).__name__)
        except Exception as error:  # a crash counts as wrong and not said
            return Outcome(np.inf, tolerance, True, type(error).__name__)
    keep = np.setdiff1d(np.arange(len(stack)), fit.outliers)
    error = np.inf
    if truth is not None and set(named) <= set(fit.outliers) and len(keep) > 2:
        error = float(corner_errors(fit.raw_from_aligned.matrices, truth, keep, steps=steps).max())
    return Outcome(error, max(tolerance, min(stated_error(fit, keep), MOST_STATED)), fit.ok, fit.status.name)


def stated_error(fit: dr.StackFit, keep: NDArray[np.intp]) -> float:
    """The largest error of a corner that the sigmas of a fit leave room for."""
    shift = np.hypot(fit.sigma["ty"][keep], fit.sigma["tx"][keep])
    turn = fit.sigma.get("theta", np.zeros(len(fit.scores)))[keep] * np.hypot(*SHAPE) / 2
    return STATED * float(np.nanmax(np.hypot(shift, turn), initial=0.0))


def noisy(rng: np.random.Generator, stack: Floats, share: float = 0.2) -> Floats:
    """With white noise, in standard deviations of the stack."""
    return stack + share * stack.std() * rng.normal(size=stack.shape)


# Related slices: each is a stack, the truth, and options of `outcome_of`.
Input = tuple[NDArray[Any], Floats | None, dict[str, Any]]


def photographs(seed: int, model: str, share: float = 0.2) -> Input:
    """One photograph that drifts, with noise."""
    rng = np.random.default_rng(seed)
    truth = walk(rng, SLICES, 2.0, 1.0 if model == "rigid" else 0.0)
    scene = scene_of(rng)
    return noisy(rng, np.stack([moved(scene, t) for t in truth]), share), truth, {"model": model}


def few_counts(seed: int) -> Input:
    """As many counts as a weak beam gives, uint16."""
    rng = np.random.default_rng(seed)
    truth, scene = walk(rng, SLICES, 2.0), scene_of(rng)
    scene = (scene - scene.mean()) / scene.std() * 3 + 8
    return rng.poisson([moved(scene, t).clip(0.2) for t in truth]).astype(np.uint16), truth, {"model": "translation"}


def flicker(seed: int, metric: str = "ncc") -> Input:
    """Brightness that differs from slice to slice."""
    stack, truth, options = photographs(seed, "translation", 0.05)
    gain = np.random.default_rng(seed).uniform(0.3, 3, SLICES)
    return stack * gain[:, None, None], truth, options | {"metric": metric}


def anatomy(seed: int, source: Callable[[], Floats], stride: int) -> Input:
    """Slices of a real volume, which change from one to the next, moved."""
    rng = np.random.default_rng(seed)
    volume = source()
    first = int(rng.integers(0, len(volume) - SLICES * stride + 1))
    slices = volume[first : first + SLICES * stride : stride]
    truth = walk(rng, SLICES, 1.5, 0.7)
    stack = np.stack([moved(s, t) for s, t in zip(slices, truth, strict=True)])
    return noisy(rng, stack, 0.04), truth, {"model": "rigid", "steps": True}


def texture(rng: np.random.Generator, count: int, along: float, across: float) -> Floats:
    """Slices of a random specimen, larger than a slice; sigmas of its Gaussian correlation in slices and pixels."""
    shape = (count, SHAPE[0] + 40, SHAPE[1] + 40)
    volume = scipy.ndimage.gaussian_filter(rng.normal(size=shape), (along, across, across))
    return np.asarray(volume / volume.std())


def changing(seed: int, along: float) -> Input:
    """A random specimen that changes from slice to slice."""
    rng = np.random.default_rng(seed)
    truth = walk(rng, SLICES, 2.0, 0.7)
    volume = texture(rng, SLICES, along, 2.5) + texture(rng, SLICES, along, 7.0)
    stack = noisy(rng, np.stack([moved(s, t) for s, t in zip(volume, truth, strict=True)]), 0.04)
    return stack, truth, {"model": "rigid", "steps": True}


def with_bad_slices(seed: int) -> Input:
    """A blank slice and a copy, which must be named."""
    stack, truth, options = photographs(seed, "rigid")
    assert truth is not None
    stack[3], stack[7], truth[7] = 0, stack[6], truth[6]
    return stack, truth, options | {"named": (3,)}


def turned(seed: int, *, every: bool) -> Input:
    """Sections mounted by hand: each turned anyhow, or a run of them turned by half a turn."""
    rng = np.random.default_rng(seed)
    angles = rng.uniform(0, 360, SLICES) if every else np.where(np.arange(SLICES) < 4, 0, 180.0)
    truth = np.stack([motion(*rng.normal(size=2), a) for a in angles])
    scene = scene_of(rng)
    y, x = np.indices(scene.shape)
    inside = np.hypot(y - (len(y) - 1) / 2, x - (x.shape[1] - 1) / 2) < 66
    scene = np.where(inside, scene, np.median(scene)) if every else scene
    return noisy(rng, np.stack([moved(scene, t) for t in truth]), 0.04), truth, {"model": "rigid"}


def in_surround(seed: int, share: float, noise: float) -> Input:
    """A specimen that changes slowly, on a share of a dark field, and the noise of the camera."""
    rng = np.random.default_rng(seed)
    truth = walk(rng, SLICES, 2.0, 0.7)
    if seed % 2:
        scene = scene_of(rng)
        volume = np.stack([(scene - scene.mean()) / scene.std()] * SLICES)
    else:
        volume = texture(rng, SLICES, 4.0, 2.5)
    sections = disc(volume.shape[1:], share) * (2 + volume)
    stack = np.stack([moved(s, t) for s, t in zip(sections, truth, strict=True)])
    return stack + noise * rng.normal(size=stack.shape), truth, {"model": "rigid", "steps": True}


def disc(shape: tuple[int, ...], share: float) -> Floats:
    """One within an ellipse on a share of a slice, in the middle of `shape`, and zero around it."""
    y, x = (axis - (n - 1) / 2 for axis, n in zip(np.indices(shape), shape, strict=True))
    return np.asarray(1 / (1 + np.exp(np.hypot(1.1 * y, x / 1.1) - np.sqrt(share * SHAPE[0] * SHAPE[1] / np.pi))))


# Hostile ones.


def unrelated(seed: int) -> Input:
    """Each slice of another photograph, or of another place."""
    rng = np.random.default_rng(seed)
    names = rng.permutation(PHOTOGRAPHS)
    stack = [moved(scene_of(rng, (str(names[k % len(names)]),)), np.eye(3)) for k in range(12)]
    model = ("translation", "rigid", "affine")[seed % 3]
    return np.stack([(s - s.mean()) / s.std() for s in stack]), None, {"model": model}


def shared_outline(seed: int, share: float) -> Input:
    """Sections of one outline on a dark field that have nothing else in common."""
    rng = np.random.default_rng(seed)
    names = rng.permutation(PHOTOGRAPHS)
    stack = []
    for k in range(SLICES):
        own = scene_of(rng, (str(names[k % len(names)]),)) if seed % 2 else texture(rng, 1, 0.0, 3.0)[0]
        section = disc(own.shape, share) * (2 + (own - own.mean()) / own.std())
        stack.append(moved(section, motion(*rng.uniform(-3, 3, 2))))
    noise = (0.02, 0.2)[seed // 2 % 2] * rng.normal(size=(SLICES, *SHAPE))
    return np.stack(stack) + noise, None, {"model": ("translation", "rigid")[seed // 4 % 2]}


def shared_shading(seed: int) -> Input:
    """Unrelated photographs through one lens that darkens the corners."""
    stack, _, options = unrelated(seed)
    y, x = (np.linspace(-1, 1, n) for n in SHAPE)
    shading = 1 - (0.25, 0.45)[seed % 2] * (y[:, None] ** 2 + x**2)
    return (stack - stack.min() + 0.5) * shading, None, options


def scrambled(seed: int) -> Input:
    """Images of the spectrum of one photograph, with random phases."""
    rng = np.random.default_rng(seed)
    amplitude = np.abs(np.fft.fft2(moved(scene_of(rng), np.eye(3))))
    phases = np.angle(np.fft.fft2(rng.normal(size=(SLICES, *SHAPE))))
    stack = np.fft.ifft2(amplitude * np.exp(1j * phases)).real
    return stack, None, {"model": ("translation", "rigid", "affine")[seed % 3]}


def noise_alone(seed: int, sigma: float) -> Input:
    rng = np.random.default_rng(seed)
    stack = np.stack([scipy.ndimage.gaussian_filter(rng.normal(size=SHAPE), sigma) for _ in range(SLICES)])
    return stack / stack.std(), None, {"model": ("translation", "rigid")[seed % 2]}


def lattice(seed: int, *, jump: bool = False) -> Input:
    """A crystal lattice that drifts by far less than half a period; `jump`: one slice by more than a period."""
    rng = np.random.default_rng(seed)
    period, turn = rng.uniform(9, 20), rng.uniform(0, np.pi)
    angles = turn + np.array([0, np.pi / 2] if seed % 2 else [0, np.pi / 3, 2 * np.pi / 3])
    drift = np.cumsum(0.5 * rng.normal(size=(SLICES, 2)), axis=0)
    if jump:
        drift[5] += 1.4 * period
    y, x = np.indices(SHAPE)
    stack = [
        sum(np.cos(2 * np.pi * ((y - a) * np.sin(t) + (x - b) * np.cos(t)) / period) for t in angles) for a, b in drift
    ]
    noise = (0.5, 1.5)[seed // 2 % 2] * rng.normal(size=(SLICES, *SHAPE))
    truth = np.stack([motion(*d) for d in drift])
    return np.stack(stack) + noise, truth, {"model": "translation", "named": (5,) if jump else ()}


def hot_pixels(seed: int, count: int) -> Input:
    """Pixels of the detector that are far too bright."""
    stack, truth, options = photographs(seed, "translation", 0.04)
    counts = (stack - stack.min() + 20).astype(np.uint16)
    at = np.random.default_rng(seed).choice(counts[0].size, count, replace=False)
    counts.reshape(SLICES, -1)[:, at] = (60000, 3000, 500)[seed % 3]
    return counts, truth, options


def coded_gaps(seed: int, dtype: str) -> Input:
    """Gaps between the modules of a detector and dead pixels, with the largest value of the type."""
    stack, truth, options = photographs(seed, "translation", 0.04)
    counts = (stack - stack.min()).astype(dtype)
    counts[:, 60:66], counts[:, :, 90:95] = np.iinfo(dtype).max, np.iinfo(dtype).max
    counts.reshape(SLICES, -1)[:, np.random.default_rng(seed).choice(counts[0].size, 30)] = np.iinfo(dtype).max
    return counts, truth, options


def aperture(seed: int, *, noise: bool) -> Input:
    """A dim scene in a fixed round aperture; outside of it zero, or the noise of the camera."""
    stack, truth, options = photographs(seed, "translation", 0.04)
    y, x = np.indices(SHAPE)
    inside = np.hypot(y - 70, x - 85) < 62
    seen = np.where(inside, 400 + 0.2 * stack, 0.0)
    if noise:
        seen = seen + 3 * np.random.default_rng(seed).normal(size=stack.shape)
    return seen.clip(0).astype(np.uint16), truth, options


def stripes(seed: int, share: float) -> Input:
    """Columns of a camera with offsets, in standard deviations of the scene."""
    stack, truth, options = photographs(seed, "translation", 0.04)
    pattern = np.random.default_rng(seed).normal(size=SHAPE[1]) * share * stack.std()
    return stack + pattern, truth, options


def mirrored(seed: int, slices: tuple[int, ...]) -> Input:
    """Sections that lie upside down on the slide."""
    rng = np.random.default_rng(seed)
    truth, scene = walk(rng, SLICES, 1.0, 0.5), scene_of(rng)
    stack = np.stack([moved(scene, t) for t in truth])
    for k in slices:
        stack[k] = stack[k, :, ::-1]
    return noisy(rng, stack, 0.04), truth, {"model": "rigid", "named": slices}


def swapped(seed: int) -> Input:
    """Two slices in the wrong order: the first of them must be named."""
    stack, truth, options = anatomy(seed, brain, 3) if seed % 2 else changing(seed, 2.5)
    stack[[4, 5]], truth[[4, 5]] = stack[[5, 4]], truth[[5, 4]]
    return stack, truth, options | {"named": (4,)}


# Kind, stacks at scale 1, whether to refuse is right too, whether real data are needed, input.
KINDS: tuple[tuple[str, int, bool, tuple[str, ...], Callable[[int], Input]], ...] = (
    ("photograph, shifts", 14, False, (), partial(photographs, model="translation")),
    ("photograph, rigid", 14, False, (), partial(photographs, model="rigid")),
    ("photograph, 70 % noise", 10, False, (), partial(photographs, model="rigid", share=0.7)),
    ("few counts", 6, False, (), few_counts),
    ("flicker", 6, False, (), flicker),
    ("brain", 10, False, ("volumes3d", "mni152"), partial(anatomy, source=brain, stride=2)),
    ("tissue", 8, False, ("volumes3d", "easi_fish"), partial(anatomy, source=embryo, stride=1)),
    ("random specimen, slow change", 8, False, (), partial(changing, along=4.0)),
    ("random specimen, fast change", 8, False, (), partial(changing, along=1.5)),
    ("blank and copied slices", 6, False, (), with_bad_slices),
    ("turned anyhow", 6, True, (), partial(turned, every=True)),
    ("turned by half from slice 4", 8, True, (), partial(turned, every=False)),
    ("unrelated photographs", 18, True, (), unrelated),
    ("noise, sigma 1", 4, True, (), partial(noise_alone, sigma=1.0)),
    ("noise, sigma 4", 8, True, (), partial(noise_alone, sigma=4.0)),
    ("noise, sigma 12", 6, True, (), partial(noise_alone, sigma=12.0)),
    ("lattice", 12, True, (), lattice),
    ("lattice, one slice a period off", 6, True, (), partial(lattice, jump=True)),
    ("1 hot pixel", 6, False, (), partial(hot_pixels, count=1)),
    ("20 hot pixels", 9, False, (), partial(hot_pixels, count=20)),
    ("gaps of 65535", 5, False, (), partial(coded_gaps, dtype="uint16")),
    ("gaps of 2**32 - 1", 5, False, (), partial(coded_gaps, dtype="uint32")),
    ("aperture", 5, True, (), partial(aperture, noise=False)),
    ("aperture, noisy", 5, True, (), partial(aperture, noise=True)),
    ("column stripes", 8, True, (), partial(stripes, share=0.5)),
    ("mse, flicker", 6, True, (), partial(flicker, metric="mse")),
    ("one slice mirrored", 8, True, (), partial(mirrored, slices=(4,))),
    ("run of slices mirrored", 6, True, (), partial(mirrored, slices=(6, 7, 8, 9))),
    ("two slices swapped", 8, True, ("volumes3d", "mni152"), swapped),
    ("brain, every 6 mm", 10, False, ("volumes3d", "mni152"), partial(anatomy, source=brain, stride=6)),
    ("specimen on 20 %, 30 % noise", 4, False, (), partial(in_surround, share=0.2, noise=0.3)),
    ("specimen on 40 %, 30 % noise", 6, False, (), partial(in_surround, share=0.4, noise=0.3)),
    ("specimen on 40 %, 80 % noise", 6, False, (), partial(in_surround, share=0.4, noise=0.8)),
    ("specimen on 60 %, 80 % noise", 4, False, (), partial(in_surround, share=0.6, noise=0.8)),
    ("unrelated, one outline on 40 %", 8, True, (), partial(shared_outline, share=0.4)),
    ("unrelated, one outline on 60 %", 8, True, (), partial(shared_outline, share=0.6)),
    ("unrelated, one shading", 8, True, (), shared_shading),
    ("scrambled photographs", 8, True, (), scrambled),
)  # fmt: skip


def cases(scale: float, first: int = 0) -> Iterator[Case]:
    """The stacks of the table: about 290 at scale 1, at least one of each kind; `first`: the first seed, below 1000."""
    for number, (kind, count, may_refuse, folder, make) in enumerate(KINDS):
        if folder and not data_folder(*folder).is_dir():
            continue
        for k in range(max(1, round(count * scale))):
            seed = 1000 * number + first + k
            yield Case(f"stacks: {kind}", seed, partial(_fitted, make, seed), may_refuse)


def _fitted(make: Callable[[int], Input], seed: int) -> Outcome:
    stack, truth, options = make(seed)
    return outcome_of(stack, truth, **options)


def disturbed(seed: int, kind: str) -> Input:
    """A photograph that drifts, with one kind of disturbance."""
    import io

    from PIL import Image

    stack, truth, options = photographs(seed, "translation", 0.0)
    rng, size = np.random.default_rng(seed), stack.std()
    if kind in {"white", "sigma 1", "sigma 2.5"}:
        sigma = {"white": 0.0, "sigma 1": 1.0, "sigma 2.5": 2.5}[kind]
        noise = np.stack([scipy.ndimage.gaussian_filter(rng.normal(size=SHAPE), sigma) for _ in stack])
        stack = stack + 0.1 * size * noise / noise.std()
    elif kind == "Poisson":
        stack = rng.poisson(np.clip(stack - stack.min(), 0, None) / np.ptp(stack) * 60 + 2).astype(np.float64)
    elif kind == "JPEG":
        pixels = np.clip(stack + rng.normal(size=stack.shape), 0, 255).astype(np.uint8)
        for k, image in enumerate(pixels):
            file = io.BytesIO()
            Image.fromarray(image).save(file, "JPEG", quality=40)
            stack[k] = np.asarray(Image.open(file), dtype=np.float64)
    elif kind == "rows":  # stripes that differ from slice to slice
        stack = noisy(rng, stack, 0.05) + 0.1 * size * rng.normal(size=(SLICES, SHAPE[0], 1))
    elif kind == "gain ramp":
        ramp = rng.uniform(-0.3, 0.3, size=(SLICES, 1, 1)) * np.linspace(-1, 1, SHAPE[1])
        stack = noisy(rng, stack * (1 + ramp), 0.05)
    elif kind == "salt":
        stack = np.where(rng.random(stack.shape) < 0.01, 255.0, noisy(rng, stack, 0.05))
    else:  # 3 % of another specimen in each slice
        names = rng.permutation(PHOTOGRAPHS)
        others = [moved(scene_of(rng, (str(names[k]),)), np.eye(3)) for k in range(SLICES)]
        stack = stack + 0.03 * size * np.stack([(o - o.mean()) / o.std() for o in others])
    return stack, truth, options


DISTURBANCES = ("white", "sigma 1", "sigma 2.5", "Poisson", "JPEG", "rows", "gain ramp", "salt", "other specimen")


def sigma_ratios(make: Callable[[int], Input], seeds: range) -> tuple[float, float]:
    """Root mean square of the errors of shifts, in sigmas of the fit, and that without a straight drift.

    Of slices that are not named. What a specimen changes at a constant rate, pairs cannot tell from drift, and sigma
    leaves it out.
    """
    ratios: list[Floats] = []
    straight: list[Floats] = []
    for seed in seeds:
        stack, truth, options = make(seed)
        assert truth is not None
        fit = dr.align_stack(stack, model=options["model"])
        keep = np.setdiff1d(np.arange(len(stack)), fit.outliers)
        places = np.linalg.inv(truth[keep]) @ fit.raw_from_aligned.matrices[keep] @ np.append(fit.centre, 1)
        shifts = places[:, :2] - places[:, :2].mean(axis=0)
        sigma = np.stack([fit.sigma["ty"], fit.sigma["tx"]], axis=1)[keep]
        line = np.polynomial.polynomial.polyval(keep, np.polynomial.polynomial.polyfit(keep, shifts, 1)).T
        ratios.append(shifts / sigma)
        straight.append((shifts - line) / sigma)
    whole, rest = (float(np.sqrt(np.mean(np.concatenate(some) ** 2))) for some in (ratios, straight))
    return whole, rest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--only", default="", help="kinds whose name contains this")
    parser.add_argument("--first", type=int, default=0, help="the first seed of each kind, for other inputs")
    options = parser.parse_args()
    table: dict[str, Counter[str]] = {}
    for case in cases(options.scale, options.first):
        if options.only in case.group.removeprefix("stacks: "):
            found = case.fit()
            cell = f"{'right' if found.right else 'WRONG'} {'ok' if found.ok else 'not ok'}"
            row = table.setdefault(case.group, Counter())
            row[cell] += 1
            row[f"{found.status.lower()}"] += 1
            if found.ok != found.right and not (case.may_refuse and found.right):
                print(f"  {case.group}, seed {case.seed}: error {found.error:.2f}, {found.status}", flush=True)
    for group, row in table.items():
        print(f"{group:48}", ", ".join(f"{name} {n}" for name, n in row.items()))
    whole = sum(table.values(), Counter())
    print({name: n for name, n in whole.items() if " " in name})
    for kind, _, _, folder, make in KINDS[:9]:
        if options.only in kind and (not folder or data_folder(*folder).is_dir()):
            seeds = range(options.first, options.first + 4)
            _print_ratios(kind, sigma_ratios(make, seeds))
    for kind in DISTURBANCES if not options.only else ():
        seeds = range(options.first, options.first + 4)
        _print_ratios(kind, sigma_ratios(partial(disturbed, kind=kind), seeds))


def _print_ratios(kind: str, ratios: tuple[float, float]) -> None:
    print(f"{kind:40} errors are {ratios[0]:.2f} sigma, {ratios[1]:.2f} without a straight drift")


if __name__ == "__main__":
    main()
