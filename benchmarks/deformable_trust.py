"""Whether deformable fits say so where the field is finer than the control points follow.

    python benchmarks/deformable_trust.py            # 72 fits
    python benchmarks/deformable_trust.py --metric auto --gradient
    python benchmarks/deformable_trust.py --metric auto --replaced
    python benchmarks/deformable_trust.py --metric auto --along

Photographs and textures, deformed by sums of plane waves: of several distances of control points ("long", which these
follow) or about two ("short", which they do not). A fit is wrong where it says `ok` and a tenth of the
points inside is farther off than 4 of its standard deviations and 0.5 pixels; a right one is refused where it is not
`ok` though its median error is below 0.2 pixels and a tenth of the points at most is off by that.

`--metric` takes the place of "ncc", `--only` has the cases of some metrics alone, and `--gradient` makes the moving
image three times as bright and as rich in contrast at one corner as at the opposite one. `--replaced` has another
texture in a sixth of the moving image. `--along` has rings and lines, which do not determine motions along them.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage import color, data

import daskreg as dr

Floats = NDArray[np.float64]

SHAPE = (200, 230)
IMAGES = ("camera", "astronaut", "coffee", "chelsea", "rocket", "coins", "moon", "brick", "grass", "gravel",
          "cloud", "shape")  # fmt: skip
ALONG = ("rings", "lines")
MARGIN = 24


@dataclass(frozen=True)
class Case:
    """name: of the image. spacing: of the control points that register is asked for. wave: of the field, in these."""

    number: int
    name: str
    metric: str
    spacing: float | None
    wave: float
    noise: float

    @property
    def distance(self) -> float:
        return self.spacing or max(8.0, max(SHAPE) / 24)

    @property
    def long(self) -> bool:
        return self.wave > 4


def cases(count: int, first: int = 0, names: Sequence[str] = IMAGES) -> Iterator[Case]:
    for k in range(first, first + count):
        rng = np.random.default_rng(1000 + k)
        wave = float(rng.uniform(6, 12) if k % 2 else rng.uniform(1.4, 2.6))
        spacing = (None, 14.0, 24.0)[(k // 2) % 3]
        metric = ("ncc", "ncc", "lncc", "mse")[(k // 6) % 4]
        yield Case(k, names[(k // 2) % len(names)], metric, spacing, wave, float(rng.choice([0.01, 0.03, 0.1])))


def picture(case: Case, rng: np.random.Generator) -> Floats:
    """An image with a margin on each side, of variance 1."""
    size = [n + 2 * MARGIN for n in SHAPE]
    if case.name == "cloud":
        found = ndimage.gaussian_filter(rng.normal(size=size), 3)
    elif case.name in ALONG:  # brightness that varies with one coordinate
        y, x = np.indices(size) - np.reshape(size, (2, 1, 1)) / 2
        profile = ndimage.gaussian_filter1d(rng.normal(size=sum(size)), rng.uniform(2, 6))
        found = np.interp(np.hypot(y, x) if case.name == "rings" else x + size[1] / 2, np.arange(sum(size)), profile)
    elif case.name == "shape":  # a texture inside an ellipse
        y, x = (np.linspace(-1.25, 1.25, n) for n in size)
        inside = ndimage.gaussian_filter((y[:, None] ** 2 + x**2 < 1).astype(float), 1)
        texture = ndimage.gaussian_filter(rng.normal(size=size), 1.5)
        found = inside * (2 + texture / texture.std())
    else:
        image = np.asarray(getattr(data, case.name)(), float)
        gray = color.rgb2gray(image / 255) if image.ndim == 3 else image / 255
        while min(gray.shape[0] / size[0], gray.shape[1] / size[1]) > 1.8:
            gray = gray[: gray.shape[0] // 2 * 2, : gray.shape[1] // 2 * 2]
            gray = (gray[::2, ::2] + gray[1::2, ::2] + gray[::2, 1::2] + gray[1::2, 1::2]) / 4
        gray = np.pad(gray, [(0, max(0, s - n)) for s, n in zip(size, gray.shape, strict=True)], mode="reflect")
        start = [int(rng.integers(0, n - s + 1)) for n, s in zip(gray.shape, size, strict=True)]
        found = gray[start[0] : start[0] + size[0], start[1] : start[1] + size[1]]
    return np.asarray((found - found.mean()) / found.std())


def waves(case: Case, rng: np.random.Generator) -> Floats:
    """(2, *SHAPE) displacements: of each component two waves, without folds."""
    length = case.wave * case.distance
    most = min(4.0, 0.55 * length / (2 * np.pi)) / 2
    points = np.indices(SHAPE).astype(float)
    field = np.zeros((2, *SHAPE))
    for axis in range(2):
        for _ in range(2):
            angle, phase = rng.uniform(0, np.pi), rng.uniform(0, 2 * np.pi)
            along = np.cos(angle) * points[0] + np.sin(angle) * points[1]
            field[axis] += most * np.sin(2 * np.pi * along / length + phase)
    return field


def pair(case: Case) -> tuple[Floats, Floats, Floats]:
    """Fixed, moving, and the field of fixed points."""
    rng = np.random.default_rng(case.number)
    image, field = picture(case, rng), waves(case, rng)
    fixed = ndimage.map_coordinates(image, np.indices(SHAPE) + MARGIN + field, order=5, mode="mirror")
    moving = image[MARGIN:-MARGIN, MARGIN:-MARGIN]
    fixed, moving = (one + case.noise * rng.normal(size=SHAPE) for one in (fixed, moving))
    return fixed, moving, field


@dataclass(frozen=True)
class Outcome:
    """errors, off: of points inside, pixels, and whether they are outside their error bars."""

    ok: bool
    status: str
    errors: Floats
    sigmas: Floats
    seconds: float

    @property
    def off(self) -> float:
        return float(np.mean(self.errors > np.maximum(0.5, 4 * self.sigmas)))

    @property
    def wrong(self) -> bool:
        return self.ok and self.off > 0.1

    @property
    def right(self) -> bool:
        return bool(np.percentile(self.errors, 90) < 0.2)


def outcome(case: Case, images: tuple[Floats, Floats, Floats], fit: Any, seconds: float) -> Outcome:
    rng = np.random.default_rng(5)
    points = rng.integers(12, np.array(SHAPE) - 12, (40, 2))
    away = fit.moving_from_fixed(points.astype(float)) - points
    truth = images[2][:, points[:, 0], points[:, 1]].T
    sigmas = np.linalg.norm(fit.sigma_at(points.astype(float)), axis=1)
    return Outcome(fit.ok, fit.status.name, np.linalg.norm(away - truth, axis=1), sigmas, seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=72)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--metric", default="ncc", help='in place of "ncc"')
    parser.add_argument("--only", nargs="*", default=("ncc", "lncc", "mse"), help="the cases with these metrics")
    parser.add_argument("--gradient", action="store_true", help="of brightness, in the moving image")
    parser.add_argument("--replaced", action="store_true", help="another texture in a sixth of the moving image")
    parser.add_argument("--along", action="store_true", help="rings and lines in place of photographs and textures")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    found = []
    for case in cases(arguments.count, arguments.first, ALONG if arguments.along else IMAGES):
        if case.metric not in arguments.only:
            continue
        metric = arguments.metric if case.metric == "ncc" else case.metric
        fixed, moving, field = pair(case)
        if arguments.gradient:
            y, x = (np.linspace(0, 1, n) for n in SHAPE)
            moving = (moving - moving.min()) * (0.5 + 0.5 * (y[:, None] + x))
        if arguments.replaced:
            there = tuple(slice(round(0.55 * n), round(0.95 * n)) for n in SHAPE)
            texture = ndimage.gaussian_filter(np.random.default_rng(case.number).normal(size=SHAPE), 1.5)[there]
            moving[there] = moving.mean() + moving.std() * texture / texture.std()
        images = fixed, moving, field
        began = time.perf_counter()
        options = {} if case.spacing is None else {"spacing": case.spacing}
        fit = dr.register(fixed, moving, model="bspline", metric=metric, init=dr.Affine.identity(2), **options)
        one = outcome(case, images, fit, time.perf_counter() - began)
        found.append((case, one))
        low, high = np.percentile(one.errors, (50, 90))
        word = "WRONG" if one.wrong else "REFUSED" if one.right and not one.ok else ""
        print(
            f"{case.number:3d} {case.name:10s} {fit.metric:5s} spacing {case.distance:4.1f} wave {case.wave:4.1f} "
            f"noise {case.noise:.2f}: {one.status:12s} error {low:5.2f} {high:5.2f} sigma {np.median(one.sigmas):5.3f} "
            f"off {one.off:4.0%} {one.seconds:4.1f} s {word}",
            flush=True,
        )
    for name, long in (("long", True), ("short", False)):
        some = [one for case, one in found if case.long == long]
        ok, wrong = sum(one.ok for one in some), sum(one.wrong for one in some)
        right, refused = sum(one.right for one in some), sum(one.right and not one.ok for one in some)
        seconds = sum(one.seconds for one in some)
        print(
            f"{name}: {len(some)} fits, {ok} ok, {wrong} of them wrong; {right} right, {refused} of them refused;",
            end=" ",
        )
        print(f"{seconds:.0f} s")


if __name__ == "__main__":
    main()
