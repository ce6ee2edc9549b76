"""Whether `fit.sigma` is as large as the errors: rms of the error about the truth, in sigmas, over many pairs.

    python benchmarks/error_bars.py
    python benchmarks/error_bars.py --repetitions 200 --models translation affine --metrics ncc mse
    python benchmarks/error_bars.py --kinds "white 15 %" "gain ramp" --data $DASKREG_DATA

Both images are sampled from one smooth function, a spline of order 5 through a larger photograph that was smoothed
before, at the points of one grid and at those points moved. So the motion is known and no image was interpolated
from the other. Then both get noise of a kind, with a seed. Each repetition has a motion and noise of its own.
A number is sqrt(mean((error / sigma)^2)): 1 where sigma is right, above 1 where it is too small; first for shifts, then
for the other parameters, then for the displacement of the corners against what the covariance predicts, also as the
median. The median error of the corners in pixels follows, and how many fits were ok; all fits count.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
from scipy import ndimage

import daskreg as dr
from daskreg.geometry import Affine, Grid
from daskreg.registration.pose import Pose

Array = np.ndarray
Noise = Callable[[Array, np.random.Generator], Array]

SHAPE = (201, 223)
MODELS, METRICS = ("translation", "rigid", "affine"), ("ncc", "mse")
_PHOTOGRAPHS = ("camera", "moon", "coins", "astronaut", "coffee", "chelsea")
# The step of the images' grid in pixels of the photograph, and the sigma that smooths the photograph before.
_STEP, _SIGMA = 1.6, 1.2
# The largest rotation in radians, shift in pixels, and change of scale and shear.
_TURN, _SHIFT, _STRETCH = 0.05, 4.0, 0.03


@cache
def specimen(number: int, data: Path | None = None) -> Array:
    """The coefficients of a spline of order 5 through a smoothed photograph, or section, of standard deviation 1."""
    image = _photograph(number % len(_PHOTOGRAPHS)) if data is None else _section(number, data)
    image = ndimage.gaussian_filter(image.astype(np.float64), _SIGMA)
    return np.asarray(ndimage.spline_filter((image - image.mean()) / image.std(), order=5, mode="reflect"))


def _photograph(number: int) -> Array:
    from skimage import data

    image = np.asarray(getattr(data, _PHOTOGRAPHS[number])(), dtype=np.float64)
    return image.mean(-1) if image.ndim == 3 else image


def _section(number: int, folder: Path) -> Array:
    """Of lung tissue by electron microscopy, stained tissue, or a computed tomogram of a head."""
    from skimage import io as images

    files = sorted((folder / "stacks/lung_sem").glob("*.png"))[:2]
    files += sorted((folder / "images2d/histology").rglob("*.jpg"))
    image = np.asarray(images.imread(files[number % len(files)]), dtype=np.float64)
    image = image.mean(-1) if image.ndim == 3 else image
    step = max(1, min(image.shape) // 500)
    used = image[: image.shape[0] // step * step, : image.shape[1] // step * step]
    return used.reshape(used.shape[0] // step, step, used.shape[1] // step, step).mean((1, 3))


def sampled(coefficients: Array, motion: Affine, shape: tuple[int, ...], corner: Array) -> Array:
    """The specimen at the points of a grid, moved by `motion`, from `corner` (in pixels of the photograph) on."""
    points = np.stack(np.meshgrid(*[np.arange(n, dtype=float) for n in shape], indexing="ij"), -1)
    at = motion(points.reshape(-1, 2)) * _STEP + corner
    found = ndimage.map_coordinates(coefficients, at.T, order=5, mode="reflect", prefilter=False)
    return np.asarray(found.reshape(shape))


def _white(level: float) -> Noise:
    return lambda image, rng: image + level * np.ptp(image) * rng.standard_normal(image.shape)


def _snr_one(image: Array, rng: np.random.Generator) -> Array:
    return image + image.std() * rng.standard_normal(image.shape)


def _correlated(sigma: float, level: float = 0.3) -> Noise:
    def noise(image: Array, rng: np.random.Generator) -> Array:
        smooth = ndimage.gaussian_filter(rng.standard_normal(image.shape), sigma, mode="wrap")
        return np.asarray(image + level * image.std() * smooth / smooth.std())

    return noise


def _poisson(image: Array, rng: np.random.Generator) -> Array:
    rate = (image - image.min()) / np.ptp(image) * 30 + 1
    return rng.poisson(rate).astype(np.float64)


def _jpeg(image: Array, rng: np.random.Generator) -> Array:
    from PIL import Image

    scaled = (image - image.min()) / np.ptp(image) * 200 + 20 + rng.uniform(0, 10)
    file = io.BytesIO()
    Image.fromarray(np.rint(scaled).astype(np.uint8)).save(file, "JPEG", quality=30)
    return np.asarray(Image.open(file), dtype=np.float64)


def _stripes(image: Array, rng: np.random.Generator) -> Array:
    """An offset of each row, of a tenth of the standard deviation, and of each column."""
    rows, columns = (rng.standard_normal(n) for n in image.shape)
    return np.asarray(image + 0.1 * image.std() * (rows[:, None] + columns))


def _ramp(image: Array, rng: np.random.Generator) -> Array:
    """A gain that rises or falls by up to 20 % from the centre to the corners; brightness from zero."""
    y, x = np.meshgrid(*[np.linspace(-1, 1, n) for n in image.shape], indexing="ij")
    slope = rng.uniform(-0.1, 0.1, 2)
    return np.asarray((image - image.min()) * (1 + slope[0] * y + slope[1] * x))


def _salt(image: Array, rng: np.random.Generator) -> Array:
    hit = rng.random(image.shape) < 0.01
    return np.where(hit, np.where(rng.random(image.shape) < 0.5, image.min(), image.max()), image)


def _other_specimen(image: Array, rng: np.random.Generator) -> Array:
    """Three percent of another photograph."""
    number, corner = rng.integers(len(_PHOTOGRAPHS)), rng.uniform(0, 30, 2)
    other = sampled(specimen(int(number)), Affine(np.eye(3)), image.shape, corner)[:: rng.choice([-1, 1])]
    return np.asarray(image + 0.03 * image.std() / other.std() * other)


KINDS: dict[str, tuple[Noise, Noise]] = {
    **{f"white {level} %": (_white(level / 100),) * 2 for level in (1, 5, 15)},
    "white, SNR 1": (_snr_one,) * 2,
    "correlated 1 px": (_correlated(1.0),) * 2,
    "correlated 2.5 px": (_correlated(2.5),) * 2,
    "Poisson": (_poisson,) * 2,
    "JPEG": (_jpeg,) * 2,
    "stripes": (_stripes,) * 2,
    "gain ramp": (_ramp,) * 2,
    "salt": (_salt,) * 2,
    "another specimen": (lambda image, rng: image, _other_specimen),
}
"""What is added to (fixed, moving)."""
_LITTLE = 0.01


def motion(model: str, grid: Grid, rng: np.random.Generator) -> Affine:
    """A small motion of a model about the centre of the grid."""
    named = dict(zip(("tx", "ty"), rng.uniform(-_SHIFT, _SHIFT, 2), strict=True))
    if model != "translation":
        named["theta"] = rng.uniform(-_TURN, _TURN)
    if model == "affine":
        named |= {name: 1 + rng.uniform(-_STRETCH, _STRETCH) for name in ("sx", "sy")}
        named["shx"] = rng.uniform(-_STRETCH, _STRETCH)
    return Affine.from_parameters(named, ndim=2, centre=grid.centre)


def pair(
    kind: str, model: str, seed: int, shape: tuple[int, ...] = SHAPE, data: Path | None = None
) -> tuple[Array, Array, Affine]:
    """A fixed and a moving image, and the true `moving_from_fixed`."""
    rng = np.random.default_rng([seed, sorted(KINDS).index(kind)])
    grid, coefficients = Grid(shape), specimen(seed, data)
    truth = motion(model, grid, rng)
    room = np.asarray(coefficients.shape) - _STEP * np.asarray(shape)
    corner = room / 2 + rng.uniform(-0.3, 0.3, 2) * np.maximum(room, 0)
    images = [sampled(coefficients, m, shape, corner) for m in (Affine(np.eye(3)), truth.inverse())]
    # All have a little white noise: an image of an experiment is never free of it.
    images = [i + _LITTLE * i.std() * rng.standard_normal(i.shape) for i in images]
    fixed, moving = (add(i, rng) for add, i in zip(KINDS[kind], images, strict=True))
    return fixed.astype(np.float32), moving.astype(np.float32), truth


def compared(fit: dr.PairFit, truth: Affine, grid: Grid) -> tuple[Array, Array, float, float]:
    """(P,) errors over sigma, (P,) bool shifts, the rms error of the corners, and the predicted one."""
    pose = Pose.of(fit.model, grid.ndim)
    true = pose.from_matrices(truth.matrix[None], grid.centre).numpy()[0]
    found = pose.from_matrices(fit.moving_from_fixed.matrix[None], grid.centre).numpy()[0]
    sigma = np.array([fit.sigma[name] for name in pose.names])
    corners = grid.corners()
    points = np.concatenate([corners, np.ones((len(corners), 1))], 1).T
    change = pose.motions(found[None], grid.centre)[1][0][:, :-1] @ points
    predicted = np.einsum("pij,pq,qij->j", change, fit.covariance, change)
    error = ((fit.moving_from_fixed(corners) - truth(corners)) ** 2).sum(1)
    shifts = np.array([name.startswith("t") and name != "theta" for name in pose.names])
    return (found - true) / sigma, shifts, float(np.sqrt(error.mean())), float(np.sqrt(predicted.mean()))


def row(
    kind: str, model: str, metric: str, repetitions: int, *, shape: tuple[int, ...] = SHAPE, data: Path | None = None
) -> dict[str, float]:
    """The figures of one kind, model and metric."""
    grid = Grid(shape)
    shifts, others, corners, predictions, ok = [], [], [], [], 0
    for seed in range(repetitions):
        fixed, moving, truth = pair(kind, model, seed, shape, data)
        fit = dr.register(fixed, moving, model=model, metric=metric)
        errors, of_shift, corner, predicted = compared(fit, truth, grid)
        shifts.append(errors[of_shift])
        others.append(errors[~of_shift])
        corners.append(corner)
        predictions.append(predicted)
        ok += fit.ok

    def rms(values: list[Array] | Array) -> float:
        values = np.asarray(values)
        return float(np.sqrt((values**2).mean())) if values.size else np.nan

    return {
        "shift": rms(shifts),
        "other": rms(others),
        "corner": rms(np.array(corners) / np.array(predictions)),
        "median": float(np.median(np.array(corners) / np.array(predictions))),
        "px": float(np.median(corners)),
        "ok": ok / repetitions,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=40)
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=MODELS)
    parser.add_argument("--metrics", nargs="*", default=["ncc"], choices=METRICS)
    parser.add_argument("--shape", nargs=2, type=int, default=SHAPE)
    parser.add_argument("--data", type=Path, help="folder of real data: sections instead of photographs")
    options = parser.parse_args()
    began = time.perf_counter()
    print(f"{'rms error / sigma':28}{'shift':>8}{'other':>8}{'corner':>8}{'median':>8}{'px':>9}{'ok':>6}")
    outside = rows = 0
    for metric in options.metrics:
        for model in options.models:
            for kind in options.kinds:
                figures = row(kind, model, metric, options.repetitions, shape=tuple(options.shape), data=options.data)
                ratios = [figures[name] for name in ("shift", "other", "corner") if np.isfinite(figures[name])]
                rows, bad = rows + 1, max(*ratios, 1 / min(ratios)) > 1.5
                outside += bad
                text = "".join(f"{figures[name]:8.2f}" for name in ("shift", "other", "corner", "median"))
                mark = " *" if bad else ""
                print(f"{metric} {model:11} {kind:18}{text}{figures['px']:9.4f}{figures['ok']:6.0%}{mark}", flush=True)
    print(f"{outside} of {rows} outside a factor of 1.5; {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
