"""Whether deformable fits of many kinds of images are right, and whether they say so.

    python benchmarks/deformable_kinds.py                                  # each kind once
    python benchmarks/deformable_kinds.py --ndim 2 --seeds 3
    python benchmarks/deformable_kinds.py --kinds lattice sliding dust --seeds 10 --first 20
    python benchmarks/deformable_kinds.py --list                           # the kinds, a line for each

Specimens (beads, lattices, membranes, bodies on black, tissue that slides or tears), recordings (fixed patterns, dust,
frames, scanners, masks) and volumes (light sheets, tomograms), each with a motion that is a closed form. They are made
by the modules `deformable_kinds_*` and `deformable_scenes` beside this file.

A fit is evaluated at a hundred points inside structures: where the fixed image has local contrast, where the truth is
defined, and whose true place is in the moving image.

- Wrong and ok: more than a tenth of the points are off by more than 4 of their standard deviations and by more than 0.5
  pixels, though the fit says `ok`. There should be none.
- Right and refused: the median error is below 0.2 pixels though the fit does not say `ok`. Some of these are wrong in a
  part of the image, and refused with reason.

A fit that is ok and not wrong counts as right; one that is refused and whose median error is larger, as wrong. Some
kinds cannot be fitted (`coarse_spacing`, `inverted_auto`), and are there to be refused.
"""

from __future__ import annotations

import argparse
import time
import traceback
import warnings
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import deformable_kinds_recordings  # noqa: F401  these three fill KINDS
import deformable_kinds_specimens  # noqa: F401
import deformable_kinds_volumes  # noqa: F401
import numpy as np
from deformable_scenes import KINDS, Floats, Pair, local_contrast

import daskreg as dr

POINTS = 100
MARGIN = 12
"""Voxels of the border that are not evaluated; a fifth of short axes at most."""
CATEGORIES = ("ok and right", "ok and wrong", "refused and right", "refused and wrong")


@dataclass(frozen=True)
class Outcome:
    """What a fit said, and its errors.

    Args:
        status: its name, or that of an error.
        errors, sigmas: at the points, world units (pixels of size 1); infinite where there was an error.
    """

    ok: bool
    status: str
    metric: str
    errors: Floats
    sigmas: Floats
    seconds: float

    @property
    def off(self) -> float:
        """The share of the points outside their error bars."""
        return float(np.mean(self.errors > np.maximum(0.5, 4 * np.nan_to_num(self.sigmas))))

    @property
    def category(self) -> str:
        if self.ok:
            return CATEGORIES[1] if self.off > 0.1 else CATEGORIES[0]
        return CATEGORIES[2] if np.median(self.errors) < 0.2 else CATEGORIES[3]

    def __str__(self) -> str:
        middle, most = np.percentile(self.errors, (50, 90))
        sigma = np.nan if np.isnan(self.sigmas).all() else np.nanmedian(self.sigmas)
        word = "" if self.category in (CATEGORIES[0], CATEGORIES[3]) else self.category.upper()
        return (
            f"{self.status:15s} {self.metric:4s} error {middle:6.2f} {most:6.2f} sigma {sigma:6.3f} "
            f"off {self.off:4.0%} {len(self.errors):3d} points {self.seconds:5.1f} s {word}"
        )


def evaluated_points(pair: Pair) -> Floats:
    """(N, ndim) indices of the fixed image at which a fit is compared with the truth."""
    margin = np.array([min(MARGIN, n // 5) for n in pair.clean.shape])
    contrast = local_contrast(pair.clean)
    structures = contrast > 0.25 * np.percentile(contrast, 95)
    if pair.where is not None:
        structures &= pair.where
    points = np.argwhere(structures).astype(float)
    there = points + pair.truth(points.T).T
    kept = _inside(points, pair.fixed.shape, margin) & _inside(there, pair.moving.shape, margin)
    return np.random.default_rng(5).permutation(points[kept])[:POINTS]


def _inside(points: Floats, shape: tuple[int, ...], margin: Floats) -> Any:
    return np.all((points >= margin) & (points <= np.array(shape) - 1 - margin), axis=1)


def outcome(pair: Pair) -> Outcome:
    """Fits a pair, and compares."""
    points = evaluated_points(pair)
    if not len(points):
        raise ValueError("no point is inside of structures: this kind of pair cannot be evaluated")
    fixed, moving = (
        image if spacing is None else dr.open(image, spacing=spacing)
        for image, spacing in ((pair.fixed, pair.fixed_spacing), (pair.moving, pair.moving_spacing))
    )
    began = time.perf_counter()
    try:
        fit = dr.register(fixed, moving, model="bspline", **pair.options)
    except Exception as error:
        if not isinstance(error, dr.errors.DaskregError):  # one that is not daskreg's own
            traceback.print_exc()
        nothing = np.full(len(points), np.inf)
        return Outcome(False, type(error).__name__, "", nothing, nothing, time.perf_counter() - began)
    seconds = time.perf_counter() - began
    world = points * (pair.fixed_spacing or 1)
    truth = (points + pair.truth(points.T).T) * (pair.moving_spacing or 1)
    errors = np.linalg.norm(fit.moving_from_fixed(world) - truth, axis=1)
    sigmas = np.linalg.norm(fit.sigma_at(world), axis=1)
    return Outcome(fit.ok, fit.status.name, fit.metric, errors, sigmas, seconds)


def table(outcomes: Iterable[tuple[str, Outcome]]) -> str:
    """Counts for each kind, and their sums."""
    rows: dict[str, list[Outcome]] = defaultdict(list)
    for name, one in outcomes:
        rows[name].append(one)
    rows["all"] = [one for some in rows.values() for one in some]
    lines = [f"{'':24}{'fits':>5}" + "".join(f"{name:>19}" for name in CATEGORIES) + f"{'s/fit':>8}"]
    for name, some in rows.items():
        counts = [sum(one.category == category for one in some) for category in CATEGORIES]
        seconds = sum(one.seconds for one in some) / max(len(some), 1)
        lines.append(f"{name:24}{len(some):5}" + "".join(f"{count:19}" for count in counts) + f"{seconds:8.1f}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", metavar="NAME", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--seeds", type=int, default=1, help="pairs of each kind")
    parser.add_argument("--first", type=int, default=0, help="the first seed, for new pairs")
    parser.add_argument("--ndim", nargs="+", type=int, choices=(2, 3), default=(2, 3), help="images, volumes, or both")
    parser.add_argument("--list", action="store_true", help="say what the kinds stand for, and end")
    arguments = parser.parse_args()
    kinds = [KINDS[name] for name in arguments.kinds if KINDS[name].ndim in arguments.ndim]
    if arguments.list:
        for kind in kinds:
            print(f"{kind.name:24}{kind.summary}")
        return
    warnings.simplefilter("ignore")
    found = []
    for seed in range(arguments.first, arguments.first + arguments.seeds):
        for kind in kinds:
            one = outcome(kind.pair(seed))
            found.append((kind.name, one))
            print(f"{kind.name:24}{seed:4d} {one}", flush=True)
    print(table(found))


if __name__ == "__main__":
    main()
