"""Stacks with a displacement field for each slice: known jitter with a tear, and EM sections.

    python benchmarks/elastic_stacks.py [--case jitter sections] [--spacing 32]

The jitter: ten slices of 512 x 480 pixels of an EM section whose structures change from slice to slice, with noise of
their own, each moved by a wave of 12 px in either axis, of 200 to 280 px length. Sampled by scipy at points that are
computed in closed form. In slice 6 the part right of an oblique line is torn off and moved by 31 px. Printed: the
median of what is left, about the common field, without the torn part; the processor time.

The sections: mean and least correlation of neighbours over their overlap, and of slices two and three apart. The pairs
that are solved are one and two apart, so that those three apart are held out. Both need DASKREG_DATA.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import matplotlib.image
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

import daskreg as dr

Floats = NDArray[np.float64]
TORN = 6


def sections() -> Floats:
    """(12, 800, 800) EM sections."""
    files = sorted((Path(os.environ.get("DASKREG_DATA", "")) / "stacks" / "lung_sem").glob("*.png"))
    if not files:
        sys.exit("DASKREG_DATA does not name the folder of real data")
    images = [matplotlib.image.imread(f) for f in files]
    return np.stack([i if i.ndim == 2 else i[..., 0] for i in images]).astype(float)


def grid_of(shape: tuple[int, int]) -> Floats:
    return np.moveaxis(np.indices(shape), 0, -1).astype(float)


class Wave:
    """p -> p + a wave of 12 px along each axis."""

    def __init__(self, rng: np.random.Generator) -> None:
        angles, self.phases = rng.uniform(0, 2 * np.pi, (2, 2))
        lengths = 200 * rng.uniform(1, 1.4, 2)
        self.waves = 2 * np.pi / lengths * np.stack([np.sin(angles), np.cos(angles)])

    def __call__(self, p: Floats) -> Floats:
        return p + 12 * np.sin(p @ self.waves + self.phases)


def raw_points(transform: dr.Composite, points: Floats) -> Floats:
    """(N, *shape, 2) where points of the aligned slices are found."""
    poses, *layers = transform.parts
    found = []
    for i, pose in enumerate(poses.matrices):
        at = points.reshape(-1, 2)
        for layer in layers[::-1]:
            vectors = np.asarray(layer.vectors.source.read(layer.vectors.source.readable))[i]
            at = dr.DisplacementField(vectors, layer.grid, order=3)(at)
        found.append((at @ pose[:2, :2].T + pose[:2, 2]).reshape(points.shape))
    return np.stack(found)


def jitter(spacing: float) -> None:
    first, second, third = sections()[[0, 3, 6]]
    rng, grid, shape = np.random.default_rng(0), grid_of((512, 480)), (512, 480)
    away = (np.array(first.shape) - shape) / 2
    waves, stack = [], []
    right = grid[..., 1:] > 0.62 * shape[1] + 0.2 * grid[..., :1]
    for i in range(10):
        angle = 0.25 * i
        change = np.cos(angle) * (second - second.mean()) + np.sin(angle) * (third - third.mean())
        waves.append(Wave(rng))
        at = waves[-1](grid) + np.where(right & (i == TORN), (25.0, -18.0), 0.0) + away
        image = ndimage.map_coordinates(0.75 * first + 0.5 * change, np.moveaxis(at, -1, 0), order=3, mode="mirror")
        stack.append(image + 0.03 * rng.normal(size=shape))
    began = time.process_time()
    fit = dr.align_stack(np.stack(stack).astype(np.float32), model="bspline", spacing=spacing)
    seconds = time.process_time() - began
    points = raw_points(fit.raw_from_aligned, grid)
    seen = np.all((points >= 0) & (points <= np.array(shape) - 1), axis=-1)
    clean = np.stack([wave(p) for wave, p in zip(waves, points, strict=True)]) - grid
    others = [i for i in range(10) if i != TORN]
    left = np.linalg.norm(clean - clean[others].mean(0), axis=-1)
    whole = seen[TORN] & (points[TORN][..., 1] < 0.55 * shape[1])
    print(fit)
    print(f"jitter: median left {np.median(left[others][seen[others]]):.3f} px, in the whole part of the torn slice "
          f"{np.median(left[TORN][whole]):.3f} px, rejected {np.round(fit.rejected, 2)}, {seconds:.0f} s")  # fmt: skip


def em(spacing: float) -> None:
    raw = sections()
    began = time.process_time()
    fit = dr.align_stack(raw.astype(np.float32), model="bspline", spacing=spacing)
    seconds = time.process_time() - began
    points = raw_points(fit.raw_from_aligned, grid_of(raw.shape[1:]))
    images = [ndimage.map_coordinates(a, np.moveaxis(p, -1, 0), order=1) for a, p in zip(raw, points, strict=True)]
    seen = np.all((points >= 0) & (points <= raw.shape[1] - 1), axis=-1)
    print(fit)
    for apart in (1, 2, 3):
        found = [
            np.corrcoef(images[i][both], images[i + apart][both])[0, 1]
            for i in range(len(raw) - apart)
            for both in (seen[i] & seen[i + apart],)
        ]
        print(f"sections: {apart} apart, correlation {np.mean(found):.4f}, least {np.min(found):.4f}")
    print(f"sections: {seconds:.0f} s, outliers {fit.kinds}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs="*", choices=["jitter", "sections"], default=["jitter", "sections"])
    parser.add_argument("--spacing", type=float, default=32)
    options = parser.parse_args()
    for case in options.case:
        {"jitter": jitter, "sections": em}[case](options.spacing)
