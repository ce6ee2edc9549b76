"""The axis of rotation: of a phantom whose axis is known, and of a real tooth."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
import scipy.ndimage

import daskreg as dr
from daskreg.errors import DegenerateImageError, OptionError, ShapeMismatchError


def sinogram(axis, *, columns=180, angles=None, rows=3):
    """Projections of blobs about column `axis`: sums of Gaussians, exact at any angle."""
    rng = np.random.default_rng(0)
    turns = np.linspace(0, np.pi, 181) if angles is None else angles
    x = np.arange(columns)
    out = np.zeros((len(turns), rows, columns))
    for _ in range(14):
        radius, phase, width, weight = rng.uniform(0, 55), rng.uniform(0, 2 * np.pi), rng.uniform(2, 6), rng.random()
        place = axis + radius * np.cos(turns + phase)
        blob = weight * np.exp(-0.5 * ((x - place[:, None]) / width) ** 2)
        out += blob[:, None] * rng.uniform(0.5, 1.5, size=(1, rows, 1))
    return out


@pytest.mark.parametrize("method", ["auto", "pairs", "sinogram"])
@pytest.mark.parametrize("axis", [89.5, 81.3, 97.75])
def test_a_known_axis_is_found(method, axis):
    noise = np.random.default_rng(1).normal(size=(181, 3, 180)) * 0.02
    assert dr.tomography.center_of_rotation(sinogram(axis) + noise, method=method) == pytest.approx(axis, abs=0.3)


def test_pairs_are_exact_without_noise():
    assert dr.tomography.center_of_rotation(sinogram(84.6)) == pytest.approx(84.6, abs=0.01)
    assert dr.tomography.center_of_rotation(sinogram(84.6)[:, 0]) == pytest.approx(84.6, abs=0.01)
    assert dr.tomography.center_of_rotation(da.from_array(sinogram(84.6))) == pytest.approx(84.6, abs=0.01)


def test_a_whole_turn_has_many_pairs():
    turns = np.linspace(0, 2 * np.pi, 120, endpoint=False)
    data = sinogram(86.2, angles=turns)
    data[0] += np.random.default_rng(0).normal(size=data[0].shape)
    assert dr.tomography.center_of_rotation(data, turns, method="pairs") == pytest.approx(86.2, abs=0.02)


def test_flats_and_darks():
    attenuation = sinogram(83.0) / 4
    beam = scipy.ndimage.gaussian_filter(np.random.default_rng(2).random((3, 180)), 2) * 900 + 200
    raw = beam * np.exp(-attenuation) + 50
    found = dr.tomography.center_of_rotation(raw, flats=np.stack([beam + 50] * 2), darks=np.full((2, 3, 180), 50.0))
    assert found == pytest.approx(83.0, abs=0.01)


def test_what_cannot_be_used():
    data, wedge = sinogram(89.5), np.radians(np.linspace(-60, 60, 181))
    for method, told in (("pairs", "half a turn"), ("sinogram", "span 121 degrees"), ("best", "auto, pairs")):
        with pytest.raises(OptionError, match=told):
            dr.tomography.center_of_rotation(data, wedge, method=method)
    with pytest.raises(ShapeMismatchError, match="181 projections"):
        dr.tomography.center_of_rotation(data, wedge[1:])
    with pytest.raises(ShapeMismatchError, match="angles, rows, columns"):
        dr.tomography.center_of_rotation(data[0, 0])
    with pytest.raises(DegenerateImageError, match="constant"):
        dr.tomography.center_of_rotation(np.ones((10, 3, 40)))


@pytest.mark.parametrize("method", ["auto", "pairs", "sinogram"])
def test_the_tooth(data, method):
    import h5py

    with h5py.File(data / "tomography" / "tooth" / "tooth.h5") as file:
        exchange = {name: file["exchange"][name][...] for name in ("data", "data_white", "data_dark", "theta")}
    found = dr.tomography.center_of_rotation(
        exchange["data"], np.radians(exchange["theta"]), method=method, flats=exchange["data_white"],
        darks=exchange["data_dark"],
    )  # fmt: skip
    print(f"tooth, {method}: {found:.2f}")
    assert found == pytest.approx(296, abs=1.0)


def test_projections_align_along_their_axis_by_the_common_line():
    """Shifts along the tilt axis, free of what the tilt does across it."""
    rng = np.random.default_rng(5)
    rows = rng.uniform(0.3, 1, size=(96, 14))
    turns = np.radians(np.arange(-60, 61, 4))
    x = np.arange(180)
    blobs = np.zeros((len(turns), 96, 180))
    for k in range(14):
        place = 89.5 + rng.uniform(0, 50) * np.cos(turns + rng.uniform(0, 6))
        profile = np.exp(-0.5 * ((x - place[:, None]) / 5) ** 2)
        blobs += (
            scipy.ndimage.gaussian_filter1d(rows[:, k] * (np.arange(96) % 17 < 9), 2)[None, :, None] * profile[:, None]
        )
    shifts = rng.normal(size=len(turns)) * 4
    stack = np.stack(
        [scipy.ndimage.shift(b, (s, 0), order=3, mode="nearest") for b, s in zip(blobs, shifts, strict=True)]
    )
    fit = dr.align_stack(stack, model="translation", common_line="y")
    found = fit.parameters["ty"]
    assert fit.ok
    assert np.abs((found - found.mean()) - (shifts - shifts.mean())).max() < 0.2
    assert np.all(fit.parameters["tx"] == 0)
    assert np.all(fit.sigma["ty"] > 0)
