"""The figures of the pages: `python docs/pictures.py` writes docs/trend.png and docs/images/deformable.png."""

from __future__ import annotations

import importlib.util
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


def bent_brain() -> tuple[np.ndarray, np.ndarray]:
    """A slice of MNI152 (of the nilearn package), pixels of 2 mm: bent, and as it is, both with noise."""
    spec = importlib.util.find_spec("nilearn")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("nilearn, whose brain is on docs/images/deformable.png")
    path = Path(spec.origin).parent / "datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
    moving = np.asarray(dr.open(path)[95, ::2, ::2], float)
    rng = np.random.default_rng(0)
    bend = np.stack([scipy.ndimage.gaussian_filter(rng.normal(size=moving.shape), 10) for _ in range(2)])
    bend *= 3 / np.abs(bend).max(axis=(1, 2), keepdims=True)
    fixed = scipy.ndimage.map_coordinates(moving, np.indices(moving.shape) + bend, order=3, mode="nearest")
    return fixed + rng.normal(0, 3, fixed.shape), moving + rng.normal(0, 3, moving.shape)


def deformable() -> None:
    """A pair before and after layers of B-splines, and by how much areas change."""
    fixed, moving = bent_brain()
    fit = dr.register(fixed, moving, model="bspline").raise_if_failed()
    left = [fixed - dr.warp(moving, pull=t, like=fixed) for t in (fit.affine, fit)]
    factors = np.asarray(fit.moving_from_fixed.jacobian(dr.Grid(fixed.shape)))
    figure = Figure(figsize=(11, 3.1), layout="constrained")
    axes = figure.subplots(1, 4)
    axes[0].imshow(fixed, cmap="gray")
    for ax, difference in zip(axes[1:3], left, strict=True):
        ax.imshow(difference, cmap="PuOr", vmin=-120, vmax=120)
    shown = axes[3].imshow(factors, cmap="PiYG", vmin=0.6, vmax=1.4)
    figure.colorbar(shown, ax=axes[3], shrink=0.8)
    titles = "fixed", "difference: affine map", 'difference: model="bspline"', "areas change by"
    for ax, title in zip(axes, titles, strict=True):
        ax.set_title(title, fontsize=10)
        ax.set_axis_off()
    figure.savefig(Path(__file__).parent / "images" / "deformable.png", dpi=80)


def main() -> None:
    trend()
    deformable()


def trend() -> None:
    """A curved specimen, aligned with and without its trend."""
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
