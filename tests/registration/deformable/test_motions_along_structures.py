"""Images of rings or tubes do not determine motions along these, and a field between them is not `ok`."""

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
    """Brightness that varies with the distance from an axis, everywhere, or in a part of the middle."""
    places = np.indices(shape) - np.reshape(shape, (-1, *[1] * len(shape))) / 2
    distance = np.hypot(*places[-2:])
    if kind == "rings":
        return np.interp(distance, np.arange(400), ndimage.gaussian_filter1d(rng.normal(size=400), 2.5))
    texture = ndimage.gaussian_filter(rng.normal(size=shape), 2.5)
    if kind == "texture":
        return texture
    return (3 + texture / texture.std()) * ndimage.gaussian_filter((distance < 40).astype(float), 1)


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
def test_bent_rings_do_not_determine_a_field(start: str, metric: str) -> None:
    options = {"init": dr.Affine.identity(2)} if start == "identity" else {}
    fit, errors = fit_of("rings", (150, 171), metric=metric, **options)
    assert np.median(errors) > 0.5
    assert fit.status is FitStatus.UNDETERMINED


@pytest.mark.slow
def test_neither_do_bent_tubes() -> None:
    fit, errors = fit_of("rings", (40, 45, 51), metric="ncc", init=dr.Affine.identity(3))
    assert np.median(errors) > 0.5
    assert fit.status is FitStatus.UNDETERMINED


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "shape"), [("texture", (150, 171)), ("texture", (40, 45, 51)), ("small object", (300, 310))]
)
def test_textures_do_wherever_they_are(kind: str, shape: tuple[int, ...]) -> None:
    init = dr.Affine.identity(len(shape))
    fit, errors = fit_of(kind, shape, metric="ncc", init=init, **({"spacing": 12} if kind == "small object" else {}))
    assert fit.ok
    assert kind != "texture" or np.median(errors) < 0.1


@pytest.mark.slow
def test_so_they_do_beside_a_part_that_was_left_out() -> None:
    fixed, moving, _ = pair("texture", (200, 230))
    moving[:60, :60] = image("texture", (60, 60), np.random.default_rng(7)) * moving.std() * 8
    fit = dr.register(fixed, moving, model="bspline", metric="ncc", init=dr.Affine.identity(2))
    assert fit.rejected > 0
    assert fit.ok


@pytest.mark.slow
def test_neither_do_rings_that_are_read_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_voxel_budget", lambda: 100**2)
    fit, errors = fit_of("rings", (150, 171), metric="ncc", init=dr.Affine.identity(2), resolution="full")
    assert (fit.resolution, fit.reduced) == ("full", ((1, 1), (1, 1)))
    assert np.median(errors) > 0.5
    assert fit.status is FitStatus.UNDETERMINED
    assert "along them" in str(fit)
