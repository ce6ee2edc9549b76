"""The axis of rotation: of phantoms whose axis is known, and of a real tooth."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
import scipy.ndimage
import xarray as xr

import daskreg as dr
from daskreg.errors import DaskregWarning, DegenerateImageError, InputError, OptionError, ShapeMismatchError, UnitError


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


@pytest.mark.slow
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


def blobs(axis, angles, *, columns=203, radius=62, seed=4, rows=2):
    """(angles, rows, columns) projections of Gaussian blobs about an axis that may be near a border: closed form."""
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(-0.7, 0.7, (2, 18)) * radius
    width, mass = rng.uniform(2, 7, 18), rng.uniform(0.4, 1.5, (rows, 18))
    place = axis + np.cos(angles)[:, None] * x + np.sin(angles)[:, None] * y
    profiles = np.exp(-0.5 * ((np.arange(columns) - place[..., None]) / width[:, None]) ** 2)
    return np.einsum("rk,akx->arx", mass, profiles)


TURN = np.linspace(0, 2 * np.pi, 240, endpoint=False)
find = dr.tomography.center_of_rotation


def test_degrees_are_asked_for_and_never_taken_for_radians():
    angles = np.linspace(-10, 170, 181)
    data = blobs(93.4, np.radians(angles))
    with pytest.raises(UnitError, match=r"span 180.*unit='degrees'"):
        find(data, angles)
    with pytest.raises(UnitError):  # a tilt series
        find(data[:121], angles[:121])
    assert find(data, angles, unit="degrees") == pytest.approx(93.4, abs=0.02)
    named = xr.DataArray(angles, dims="angle", attrs={"units": "deg"})
    assert find(data, named) == pytest.approx(93.4, abs=0.02)
    with pytest.raises(OptionError, match="unit='turns'"):
        find(data, angles, unit="turns")
    helix = np.linspace(0, 8 * np.pi, 500)
    assert find(blobs(93.4, helix), helix, unit="radians") == pytest.approx(93.4, abs=0.02)
    with pytest.raises(InputError, match="angle 3 is not finite"):
        find(data, np.where(np.arange(181) == 3, np.nan, np.radians(angles)))


@pytest.mark.parametrize("axis", [18.0, 33.7, 101.25, 181.4])
def test_a_whole_turn_finds_an_axis_near_a_border(axis):
    noise = np.random.default_rng(0).normal(size=(240, 2, 203)) * 0.1
    assert find(blobs(axis, TURN) + noise, TURN) == pytest.approx(axis, abs=0.1)


@pytest.mark.parametrize("last", [180.0, 179.0, 178.3, 177.5])
@pytest.mark.parametrize("axis", [52.3, 118.8, 148.6])
def test_half_a_turn_that_lacks_a_step_or_two(axis, last):
    angles = np.radians(np.linspace(0, last, 160))
    assert find(blobs(axis, angles), angles) == pytest.approx(axis, abs=0.06)


@pytest.mark.parametrize("axis", [-12.0, 9.0, 195.0])
def test_an_axis_that_half_a_turn_does_not_show_is_not_certain(axis):
    angles = np.linspace(0, np.pi, 161)
    with pytest.warns(DaskregWarning, match="not certain"):
        find(blobs(axis, angles), angles)


@pytest.mark.slow
def test_an_axis_outside_of_what_is_searched_is_not_certain():
    with pytest.warns(DaskregWarning, match="not certain"):
        find(blobs(-25.0, TURN), TURN)


@pytest.mark.parametrize("with_flats", [False, True])
@pytest.mark.parametrize("angles", [TURN, np.linspace(0, np.pi, 161)], ids=["turn", "half"])
def test_voxels_and_columns_that_are_missing(angles, with_flats):
    """Lost voxels in a pair, a dead column, a lost projection, a flat with a hole: as if they were not there."""
    rng = np.random.default_rng(3)
    attenuation = blobs(110.6, angles) / 3
    counts = rng.poisson(3e4 * np.exp(-attenuation)).astype(float)
    flats = np.full((3, 2, 203), 3e4)
    counts[0, 0, 90:93], counts[-1, 1, 5], counts[7, 0, 100] = np.nan, np.inf, -np.inf
    counts[:, :, 121] = 0
    counts[40] = np.nan
    flats[:, 1, 60], flats[0, 0, 30] = 0, np.nan
    found = find(counts, angles, flats=flats) if with_flats else find(counts, angles)
    assert found == pytest.approx(110.6, abs=0.1)
    counts[:] = np.nan
    with pytest.raises(DegenerateImageError, match="not finite"):
        find(counts, angles)


@pytest.mark.parametrize(("angles", "error"), [(TURN, 0.02), (np.linspace(0, np.pi, 161), 0.5)], ids=["turn", "half"])
def test_stripes_of_the_detector(angles, error):
    """They match their mirror image about the middle column, where the axis is not."""
    data = blobs(88.3, angles)
    rng = np.random.default_rng(8)
    data += 0.5 * data.std() * rng.normal(size=203) + 0.02 * rng.normal(size=data.shape)
    assert find(data, angles) == pytest.approx(88.3, abs=error)


@pytest.mark.slow
def test_noise_alone_has_no_axis():
    noise = np.random.default_rng(0).normal(size=(181, 4, 203))
    with pytest.warns(DaskregWarning, match="not certain"):
        find(noise)
    with pytest.warns(DaskregWarning, match="not certain"):
        find(noise, np.linspace(0, 2 * np.pi, 181))


def test_the_tooth_through_a_damaged_detector(data):
    """A real scan of half a turn: the axis moves by less than a quarter of a column."""
    import h5py

    with h5py.File(data / "tomography" / "tooth" / "tooth.h5") as file:
        raw, white, dark, theta = (file["exchange"][k][...] for k in ("data", "data_white", "data_dark", "theta"))
    options = {"unit": "degrees", "flats": white, "darks": dark}
    whole = find(raw, theta, **options)
    damaged = raw.astype(float)
    damaged[:, :, 301] = 0
    damaged[0, :, 200:204] = np.nan
    white = white.copy()
    white[:, 0, 333] = 0
    assert find(damaged, theta, **options | {"flats": white}) == pytest.approx(whole, abs=0.25)
    cut = raw[:, :, 180:]  # the axis at a quarter of the columns
    assert find(cut, theta, unit="degrees", flats=white[:, :, 180:], darks=dark[:, :, 180:]) == pytest.approx(
        whole - 180, abs=0.5
    )


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
