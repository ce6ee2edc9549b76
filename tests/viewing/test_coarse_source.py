"""Coarse levels that are sampled from those of the source show what `write` would make of all voxels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from scipy.ndimage import gaussian_filter, minimum_filter
from skimage import data

import daskreg as dr
from daskreg.viewing import pyramid

COUNT = 11


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two channels of a smooth stack that drifts, anisotropic, with a pyramid of its own."""
    image = gaussian_filter(data.camera()[:333, :417].astype(float), 3)
    stack = np.stack([np.roll(image, k, axis=1) for k in range(COUNT)])
    array = xr.DataArray(np.stack([stack, stack[:, ::-1]]), dims=("c", "z", "y", "x"))
    array = array.assign_coords(
        {k: np.arange(array.sizes[k]) * 2.0 + 5 for k in ("y", "x")} | {"z": np.arange(COUNT) * 4.0}
    )
    path = tmp_path_factory.mktemp("coarse") / "stack.ome.zarr"
    dr.write(array.astype("uint16"), path, levels=4, progress=False, client=False)
    return path


def smooth_drift() -> dr.SliceAffines:
    """A turn and a shift that change slowly from slice to slice."""
    maps = [
        dr.Affine.from_parameters(theta=0.1 + 0.002 * k, ty=3.0 * k, tx=-7.0, centre=(300, 400)).matrix
        for k in range(COUNT)
    ]
    return dr.SliceAffines(np.stack(maps))


def oblique() -> dr.Affine:
    return dr.Affine.from_parameters(rx=0.08, ry=0.05, tx=9.0, tz=3.0, centre=(20, 300, 400), ndim=3)


CASES = {
    "slices": ({"channel": 1}, smooth_drift),
    "channels": ({}, smooth_drift),
    "volume": ({"channel": 0}, oblique),
    "part": ({"channel": 1}, lambda: dr.Affine.translation(y=11, x=3)),
}


@pytest.mark.parametrize("name", CASES)
def test_a_sampled_level_is_near_the_exact_one(name: str, stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It lies at the same place, and differs by the smoothing of one more interpolation."""
    options, pull = CASES[name]
    warped = dr.warp(dr.open(stored, **options), pull=pull())
    monkeypatch.setattr(pyramid, "MOST", 2**14)
    layout: dict[str, Any] = {"levels": 3, "chunks": {"z": 2, "y": 64, "x": 64}}
    with dr.serve(warped, **layout) as server, dr.serve(warped, exact=True, **layout) as whole:
        assert server.images["stack.ome.zarr"].pyramid.sampled
        assert "coarse levels of the source" in repr(server)
        assert not whole.images["stack.ome.zarr"].pyramid.sampled
        for level in server.images["stack.ome.zarr"].pyramid.sampled:
            found, exact = (dr.open(one.url, level=level).values.astype(float) for one in (server, whole))
            inside = minimum_filter(np.minimum(found, exact), (1,) * (exact.ndim - 3) + (3, 5, 5)) > 0  # away from fill
            assert inside.mean() > 0.1
            off = {step: rms(np.roll(found, step, -1) - exact, inside) for step in (-1, 0, 1)}
            assert off[0] < 0.4 * min(off[-1], off[1])
            assert off[0] < 0.12 * exact[inside].std()


def rms(difference: np.ndarray[Any, Any], where: np.ndarray[Any, Any]) -> float:
    return float(np.sqrt(np.mean(difference[where] ** 2)))


def test_a_copy_shows_the_levels_that_are_stored(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyramid, "MOST", 2**10)
    with dr.serve(str(stored), levels=4, chunks=64) as server:
        assert server.images["stack.ome.zarr"].pyramid.sampled == (1, 2, 3)
        for level in (1, 2, 3):
            np.testing.assert_array_equal(dr.open(server.url, level=level).values, dr.open(stored, level=level).values)


def test_there_is_none_where_the_slices_are_others_or_there_is_no_pyramid(
    stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pyramid, "MOST", 2**10)
    volume = dr.open(stored, channel=0)
    np.save(tmp_path / "plain.npy", volume.values)
    field = dr.DisplacementField(np.zeros((3, *volume.shape)), dr.grid(volume))
    for source in (volume + 1, volume[1:], str(tmp_path / "plain.npy"), volume.values, dr.warp(volume, pull=field)):
        with dr.serve(source, levels=3, chunks=64) as server:
            assert not next(iter(server.images.values())).pyramid.sampled


@pytest.mark.parametrize("how", ["spacing", "origin"])
def test_levels_of_another_grid_are_not_taken(how: str, stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the caller says that voxels lie elsewhere than the file has it."""
    opened = dr.open(stored, channel=1, spacing=(4.0, 3.0, 3.0)) if how == "spacing" else dr.open(stored, channel=1)
    if how == "origin":
        opened = opened.assign_coords(x=opened.x + 50)
    monkeypatch.setattr(pyramid, "MOST", 2**14)
    with dr.serve(dr.warp(opened, pull=smooth_drift()), chunks=64) as server:
        assert not next(iter(server.images.values())).pyramid.sampled
