"""FBP, SIRT, CGLS, and the lazy volume: against ellipsoids whose line integrals are known."""

from __future__ import annotations

import sys
from dataclasses import replace

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from ellipsoids import Ellipsoids

import daskreg as dr
from daskreg import lazy_warp
from daskreg.errors import (
    DegenerateImageError,
    InputError,
    MissingExtraError,
    OptionError,
    RepeatedReadWarning,
    ShapeMismatchError,
)
from daskreg.geometry import SliceAffines
from daskreg.tomography import TiltFit, TiltStatus, reconstruct
from daskreg.tomography.projector.reconstruction import angle_weights, cgls, fbp, sirt
from daskreg.tomography.projector.slices import SliceProjector

reconstruct_module = sys.modules["daskreg.tomography.reconstruct"]

SIZE = 40
BODY = Ellipsoids(SIZE, count=6, seed=2)
HALF = np.linspace(0, np.pi, 64, endpoint=False)
TURN = np.linspace(0, 2 * np.pi, 128, endpoint=False)
WEDGE = np.radians(np.arange(-60, 60.1, 2))


@pytest.fixture(scope="module")
def truth():
    return BODY.volume((11, SIZE, SIZE))


def projected(angles, **options):
    return BODY.project(angles, (11, SIZE), **options)


def error(volume, truth):
    return float(np.sqrt(((np.asarray(volume) - truth) ** 2).mean()) / truth.std())


def test_angles_stand_for_the_gaps_beside_them():
    assert angle_weights(HALF) == pytest.approx(np.pi / 64)
    assert angle_weights(TURN).sum() == pytest.approx(np.pi)
    assert angle_weights(WEDGE) == pytest.approx(np.radians(2))  # nothing stands for the wedge
    uneven = angle_weights(np.array([0.0, 0.1, 0.3, 0.4]))
    assert uneven[1] == pytest.approx(0.15)


@pytest.mark.parametrize("angles", [HALF, TURN], ids=["half", "turn"])
@pytest.mark.parametrize("centre", [19.5, 22.25])
def test_fbp(angles, centre, truth):
    volume = reconstruct(projected(angles, axis=centre), angles, centre=centre)
    assert error(volume, truth) < 0.2
    middle = (5, slice(14, 26), slice(14, 26))
    assert np.asarray(volume)[middle].mean() == pytest.approx(truth[middle].mean(), rel=0.05)


def test_iterations_and_windows(truth):
    projector = SliceProjector(HALF, (SIZE, SIZE), SIZE)
    sums = np.ascontiguousarray(projected(HALF).transpose(0, 2, 1))
    volumes = {
        "sirt": sirt(projector, sums, iterations=60),
        "cgls": cgls(projector, sums, iterations=15),
        "hann": fbp(projector, sums, window="hann"),
    }
    off = {name: error(volume.transpose(2, 0, 1), truth) for name, volume in volumes.items()}
    assert off["sirt"] < 0.2
    assert off["cgls"] < 0.15
    assert off["hann"] < 0.35
    assert sirt(projector, sums, iterations=3, minimum=0.0).min() >= 0


def test_a_missing_wedge_is_better_with_iterations(truth):
    """And limits of the values are better still."""
    sums = projected(WEDGE)
    off = {
        "fbp": error(reconstruct(sums, WEDGE), truth),
        "cgls": error(reconstruct(sums, WEDGE, method="cgls"), truth),
        "sirt": error(reconstruct(sums, WEDGE, method="sirt", minimum=0.0, iterations=60), truth),
    }
    assert off["sirt"] < off["cgls"] < off["fbp"]


def test_the_volume_is_lazy_and_the_same_in_any_blocks(tmp_path):
    sums = projected(HALF).astype(np.float32)
    spacing = {"dims": ("angle", "y", "x"), "coords": {"y": np.arange(11) * 2.0 + 7, "x": np.arange(SIZE) * 2.0}}
    array = xr.DataArray(da.from_array(sums, chunks=(8, 4, 9)), **spacing)
    volume = reconstruct(array, HALF, rows=3)
    assert isinstance(volume.data, da.Array)
    assert volume.dims == ("z", "y", "x")
    assert dr.grid(volume).spacing == (2.0, 2.0, 2.0)
    assert dr.grid(volume).origin == (7.0, -39.0, -39.0)
    whole = reconstruct(sums, HALF).values
    np.testing.assert_allclose(volume.values, whole / 2, atol=1e-6)  # per unit of length
    dr.write(volume, tmp_path / "volume.ome.zarr", progress=False)
    np.testing.assert_array_equal(dr.open(tmp_path / "volume.ome.zarr").values, volume.values)


@pytest.mark.parametrize(("axis", "chunks"), [("y", (64, 8, SIZE)), ("x", (64, SIZE, 8))])
def test_each_row_is_read_and_aligned_once(axis, chunks, tmp_path, monkeypatch):
    """Where the source can be read by rows, but for those beside a block from which cubic splines bring something."""
    shape = (64, 64, SIZE) if axis == "y" else (64, SIZE, 64)
    reads, warps, run_block = [], [], lazy_warp.run_block

    def counted(block):
        reads.append(block.size)
        return block

    def aligned(job, box):
        warps.append(box.size)
        return run_block(job, box)

    monkeypatch.setattr(lazy_warp, "run_block", aligned)
    sums = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    meta = np.empty((0, 0, 0), np.float32)
    lazy = da.from_array(sums, chunks=chunks).map_blocks(counted, dtype=np.float32, meta=meta)
    fit = replace(no_motion(HALF), rotation_axis=axis, middle=tuple((n - 1) / 2 for n in shape[1:]))
    for options, most in (({"axis": axis}, 1.0), ({"fit": fit}, 2.5)):
        reads.clear()
        dr.write(reconstruct(lazy, HALF, rows=16, **options), tmp_path / "v.zarr", progress=False, overwrite=True)
        assert sum(reads) <= most * sums.size
    assert sum(warps) == sums.size


def test_projections_that_are_read_several_times_are_named(tmp_path):
    dr.write(projected(HALF)[:, :8].astype(np.float32), tmp_path / "scan.zarr", chunks=(1, 8, SIZE), progress=False)
    stored = dr.open(tmp_path / "scan.zarr")
    with pytest.warns(RepeatedReadWarning, match=r"scan.zarr.* chunks of 8 of 8 rows, .* 4 blocks .* about 4 times"):
        reconstruct(stored, HALF, rows=2)
    reconstruct(stored, HALF)
    reconstruct(stored, HALF, rows=4)


@pytest.mark.parametrize("size", [SIZE, 80])
def test_a_block_has_the_rows_whose_slices_fit(size, monkeypatch):
    """Seven images of the size of its sinograms or slices, whichever are larger."""
    monkeypatch.setattr(reconstruct_module, "_BLOCK_BYTES", 4 * 7 * 80**2 * 3)
    rows = reconstruct(projected(HALF), HALF, size=size).chunks[0][0]
    assert rows == (80**2 * 3) // max(size**2, 64 * SIZE)


@pytest.mark.parametrize("axis", ["y", "x"])
def test_rows_without_values_are_alike_in_any_blocks(axis):
    """A gap of the detector over several blocks, rows without beam, and a row of one projection."""
    sums, flats = projected(HALF), np.ones((11, SIZE))
    sums[:, 4:8] = np.nan
    sums[9, 1] = np.nan
    flats[10] = 0
    raw = np.exp(-sums)
    if axis == "x":
        raw, flats = raw.swapaxes(1, 2), flats.T
    whole, split = (reconstruct(raw, HALF, axis=axis, flats=flats, rows=rows).values for rows in (11, 1))
    assert np.isfinite(whole).all()
    np.testing.assert_allclose(split, whole, atol=1e-6)


def test_channels_first_and_last():
    sums = np.stack([projected(HALF) * k for k in (1, 2, 5)]).astype(np.float32)
    first = reconstruct(sums, HALF)
    last = reconstruct(np.moveaxis(sums, 0, -1), HALF, channel_axis=-1)
    assert first.shape == last.shape == (3, 11, SIZE, SIZE)
    np.testing.assert_array_equal(first.values, last.values)
    np.testing.assert_allclose(first.values[2], 5 * first.values[0], atol=1e-4)


def test_an_axis_along_the_rows_and_flats():
    sums = projected(HALF)
    beam, dark = np.random.default_rng(0).uniform(500, 900, (1, 11, SIZE)), np.full((2, 11, SIZE), 30.0)
    raw = beam * np.exp(-sums) + 30
    expected = reconstruct(sums, HALF).values
    found = reconstruct(raw, HALF, flats=beam + 30, darks=dark)
    np.testing.assert_allclose(found.values, expected, atol=1e-4)
    one = reconstruct(raw, HALF, flats=beam[0] + 30, darks=dark[0])
    np.testing.assert_allclose(one.values, found.values, atol=1e-6)
    lying = reconstruct(raw.swapaxes(1, 2), HALF, axis="x", flats=beam[0].T + 30, darks=dark[0].T)
    np.testing.assert_allclose(lying.values, expected, atol=1e-4)
    lying = reconstruct(sums.swapaxes(1, 2), HALF, axis="x")
    np.testing.assert_allclose(lying.values, expected, atol=1e-6)


@pytest.mark.parametrize("angles", [TURN, WEDGE], ids=["turn", "wedge"])
def test_astra_reconstructs_the_same(angles):
    """Off the middle: ASTRA's linear projector is Joseph's too, and the axis is where it is here."""
    pytest.importorskip("astra", reason="astra-toolbox is not installed")
    sums = projected(angles, axis=21.25)[:, 4:7]
    for most, options in (
        (0.05, {"window": "hann"}),
        (1e-3, {"method": "sirt", "iterations": 20, "minimum": 0.0}),
        (0.01, {"method": "cgls"}),
    ):
        ours, theirs = (
            reconstruct(sums, angles, centre=21.25, engine=engine, size=36, **options).values
            for engine in ("daskreg", "astra")
        )
        assert np.sqrt(((ours - theirs) ** 2).mean()) < most * ours.std()


def test_astra_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "astra", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'daskreg\[astra\]'"):
        reconstruct(projected(HALF), HALF, engine="astra")


def test_one_fit_is_for_all_channels():
    """Channels first and last, with flats and darks, by the poses of one fit, outliers left out."""
    fit = replace(no_motion(HALF), kinds={7: "unlike"})
    moved = fit.projections_from_aligned.matrices.copy()
    moved[:, :, 2] += np.random.default_rng(5).uniform(-1, 1, (64, 3)) * (1, 1, 0)
    fit = replace(fit, projections_from_aligned=SliceAffines(moved, "z", ("y", "x")))
    beam, dark = np.full((2, 11, SIZE), 700.0), np.full((11, SIZE), 20.0)
    channels = np.stack([(beam[0] - dark) * np.exp(-k * projected(HALF)) + dark for k in (1.0, 0.3)])
    options = {"fit": fit, "flats": beam, "darks": dark}
    first = reconstruct(channels, **options).values
    last = reconstruct(np.moveaxis(channels, 0, -1), channel_axis=-1, **options).values
    np.testing.assert_array_equal(first, last)
    for found, channel in zip(first, channels, strict=True):
        np.testing.assert_allclose(found, reconstruct(channel, **options).values, atol=1e-6)
    np.testing.assert_allclose(first[1], 0.3 * first[0], atol=1e-4)
    spoilt = channels.copy()
    spoilt[:, 7] = 1e3
    np.testing.assert_allclose(reconstruct(spoilt, **options).values, first, atol=1e-6)


def test_pixels_and_projections_without_values(truth):
    """Dead pixels, a dead row, and lost projections, with and without a fit; one slice is as good as the others."""
    sums = projected(HALF)
    sums[:, 5, 17] = np.nan
    sums[9, 4] = np.inf
    sums[[3, 40]] = np.nan
    fit = no_motion(HALF)
    for volume in (reconstruct(sums, HALF), reconstruct(sums, fit=fit), reconstruct(sums, HALF, rows=2)):
        slices = [error(found, seen) for found, seen in zip(np.asarray(volume), truth, strict=True)]
        assert slices[5] < 1.1 * max(slices[4], slices[6])
    lying = reconstruct(sums.swapaxes(1, 2), HALF, axis="x")
    np.testing.assert_allclose(lying.values, reconstruct(sums, HALF).values, atol=1e-6)
    with pytest.raises(DegenerateImageError, match="3 of 64"):
        reconstruct(np.where(np.arange(64)[:, None, None] < 3, 1.0, np.nan) * np.ones((64, 11, SIZE)), HALF).compute()


def test_a_part_of_the_detector_is_where_its_coordinates_say():
    """The axis stays the middle of the detector of the fit."""
    sums, fit = projected(HALF), no_motion(HALF)
    whole = reconstruct(sums, fit=fit).values
    for part in (np.s_[:, :, :35], np.s_[:, 2:]):
        with pytest.raises(ShapeMismatchError, match=r"the fit \(5.0, 19.5\).*coordinates"):
            reconstruct(sums[part], fit=fit)
    named = xr.DataArray(sums, dims=("z", "y", "x"), coords={"y": np.arange(11.0), "x": np.arange(float(SIZE))})
    part = reconstruct(named[:, 2:9, 3:], fit=fit, size=SIZE)
    np.testing.assert_allclose(part.values[:, 14:26, 14:26], whole[2:9, 14:26, 14:26], atol=0.05 * whole.max())


def no_motion(angles):
    zeros, middle = np.zeros(len(angles)), (SIZE - 1) / 2
    return TiltFit(
        projections_from_aligned=SliceAffines(np.tile(np.eye(3), (len(angles), 1, 1)), "z", ("y", "x")),
        angles=angles,
        rotation_axis="y",
        axis=0.0,
        centre=middle,
        sigma={"ty": zeros, "tx": zeros, "axis": 0.0, "centre": 0.0},
        residuals=zeros,
        kinds={},
        status=TiltStatus.CONVERGED,
        agreement=1.0,
        noise=0.1,
        disagreement=1.0,
        model="translation",
        middle=(5.0, middle),
        binning=1,
        steps=1,
        seconds=1.0,
    )


def test_what_cannot_be_reconstructed():
    sums = projected(HALF)
    for options, told in (
        ({"method": "art"}, "fbp, sirt, cgls"),
        ({"engine": "tomopy"}, "daskreg, astra"),
        ({"window": "tukey"}, "ramp"),
        ({"iterations": 5}, "sirt"),
        ({"method": "cgls", "iterations": 0}, "1 or more"),
        ({"minimum": 0}, "minimum= is for"),
        ({"fit": "fit.json"}, "TiltFit"),
        ({"darks": sums}, "without flats"),
        ({"centre": "auto"}, "number"),
        ({"centre": np.nan}, "finite"),
        ({"centre": 500}, "outside"),
        ({"axis": "z"}, "down the columns"),
        ({"order": 2}, "1 or 3"),
        ({"method": "sirt", "iterations": 2.5}, "whole number"),
        ({"rows": 2.5}, "whole number"),
        ({"size": 0}, "1 or more"),
        ({"channel_axis": "c"}, "whole number"),
        ({"fit": no_motion(HALF), "axis": "y"}, "the fit has the axis"),
    ):
        with pytest.raises(OptionError, match=told):
            reconstruct(sums, HALF, **options)
    with pytest.raises(OptionError, match="needs angles"):
        reconstruct(sums)
    with pytest.raises(ShapeMismatchError, match="64 projections"):
        reconstruct(sums, HALF[1:])
    with pytest.raises(InputError, match="directions"):
        reconstruct(sums, np.repeat(HALF[:4], 16))
    for flats in (sums[:1, 1:], sums[None, :1], sums[0].T):
        with pytest.raises(ShapeMismatchError, match="11 rows, 40 columns"):
            reconstruct(sums, HALF, flats=flats)
