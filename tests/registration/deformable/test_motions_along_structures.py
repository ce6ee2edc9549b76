"""Images of lines, rings or layers do not determine motions along these, and a field between them is not `ok`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

import daskreg as dr
from daskreg.registration import images
from daskreg.registration.verdicts import FitStatus

Floats = NDArray[np.float64]


def image(kind: str, shape: tuple[int, ...], rng: np.random.Generator) -> Floats:
    """Brightness that varies with the distance from an axis, with one coordinate, or everywhere."""
    places = np.indices(shape) - np.reshape(shape, (-1, *[1] * len(shape))) / 2
    distance = {"rings": np.hypot(*places[-2:]), "lines": places[-1] + shape[-1]}.get(kind)
    if distance is None:
        return ndimage.gaussian_filter(rng.normal(size=shape), 2.5)
    return np.interp(distance, np.arange(400), ndimage.gaussian_filter1d(rng.normal(size=400), 2.5))


def pair(kind: str, shape: tuple[int, ...]) -> tuple[Floats, Floats, Floats]:
    """An image bent by waves of 2 voxels and four distances of control points, the image, and the field."""
    rng = np.random.default_rng(0)
    moving = image(kind, shape, rng)
    moving = moving / moving.std()
    places = np.indices(shape).astype(float)
    field = np.stack([2 * np.sin(2 * np.pi * (places[k] + places[k - 1]) / 70 + k) for k in range(len(shape))])
    fixed = ndimage.map_coordinates(moving, places + field, order=5, mode="mirror")
    fixed, moving = (one + 0.03 * rng.normal(size=shape) for one in (fixed, moving))
    return fixed, moving, field


def fit_of(kind: str, shape: tuple[int, ...], **options: Any) -> tuple[Any, Floats]:
    """The fit, and its errors inside the image, voxels."""
    fixed, moving, field = pair(kind, shape)
    fit = dr.register(fixed, moving, model="bspline", **options)
    inner = np.indices(shape).reshape(len(shape), -1).T[:: fixed.size // 500].astype(float)
    inner = inner[np.all((inner > 8) & (inner < np.array(shape) - 9), axis=1)]
    truth = field[(slice(None), *inner.astype(int).T)].T
    return fit, np.linalg.norm(fit.moving_from_fixed(inner) - inner - truth, axis=1)


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["ncc", "lncc"])
@pytest.mark.parametrize("start", ["identity", "affine map"])
@pytest.mark.parametrize("kind", ["rings", "lines", "texture"])
def test_bent_lines_and_rings_do_not_determine_a_field(kind: str, start: str, metric: str) -> None:
    options = {"init": dr.Affine.identity(2)} if start == "identity" else {}
    fit, errors = fit_of(kind, (150, 171), metric=metric, **options)
    assert (np.median(errors) < 0.1) == fit.ok == (kind == "texture")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["rings", "lines", "texture"])
def test_neither_do_bent_tubes_and_layers(kind: str) -> None:
    fit, errors = fit_of(kind, (40, 45, 51), metric="ncc", init=dr.Affine.identity(3))
    assert (np.median(errors) < 0.1) == fit.ok == (kind == "texture")


@pytest.mark.slow
def test_neither_do_rings_that_are_read_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_voxel_budget", lambda: 100**2)
    fit, errors = fit_of("rings", (150, 171), metric="ncc", init=dr.Affine.identity(2), resolution="full")
    assert (fit.resolution, fit.reduced) == ("full", ((1, 1), (1, 1)))
    assert np.median(errors) > 0.5
    assert fit.status is FitStatus.UNDETERMINED
    assert "along them" in str(fit)
