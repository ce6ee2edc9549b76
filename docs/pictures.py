"""The figures of the pages: `python docs/pictures.py` writes docs/trend.png."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import scipy.ndimage
from matplotlib.figure import Figure

import daskreg as dr


def specimen(count: int = 80, size: int = 128) -> np.ndarray:
    """A curved rod whose texture follows its curve, (z, y, x)."""
    rng = np.random.default_rng(0)
    grain = scipy.ndimage.gaussian_filter(rng.normal(size=(count, size, size)), (8, 2, 2))
    y, x = np.indices((size, size)) - (size - 1) / 2
    bend = 16 * np.sin(np.linspace(-1.2, 1.2, count) * 2)
    rod = [np.hypot(y, x) < 26 for _ in range(count)]
    core = [np.hypot(y, x - 10) < 7 for _ in range(count)]
    slices = [1 + g / grain.std() * 0.15 + 2 * r + 2 * c for g, r, c in zip(grain, rod, core, strict=True)]
    return moved(slices, [(0, b) for b in bend])


def moved(slices: list[np.ndarray], shifts: list[tuple[float, ...]]) -> np.ndarray:
    return np.stack([scipy.ndimage.shift(s, b, order=1, mode="nearest") for s, b in zip(slices, shifts, strict=True)])


def main() -> None:
    true = specimen()
    jitter = np.random.default_rng(1).normal(size=(len(true), 2)) * 3
    raw = moved(list(true), list(map(tuple, jitter)))
    shown = {"the specimen": true, "raw: every slice shifted": raw}
    for trend, name in (("remove", 'trend="remove"'), ("keep", 'trend="keep"')):
        fit = dr.align_stack(raw, model="translation", trend=trend)
        shown[name] = np.asarray(dr.warp(raw, pull=fit.raw_from_aligned, fill=1))
    figure = Figure(figsize=(11, 3), layout="constrained")
    for ax, (name, volume) in zip(figure.subplots(1, 4), shown.items(), strict=True):
        ax.imshow(volume[:, 64], cmap="gray", vmin=0.5, vmax=5.5)
        ax.set_title(name, fontsize=10)
        ax.set_axis_off()
    figure.savefig(Path(__file__).with_name("trend.png"), dpi=80)


if __name__ == "__main__":
    main()
