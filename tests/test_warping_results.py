"""What a warped DataArray keeps of its source, and that xarray can write it in every format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import daskreg as dr
from daskreg.volumes import to_dataarray

STILL = dr.Affine.from_parameters(theta=0.05, centre=(8, 9))  # of planes: z is carried
EVERYWHERE = dr.Affine.rotation(rx=0.1)


def series() -> xr.DataArray:
    values = np.random.default_rng(0).random((2, 3, 5, 17, 19)).astype(np.float32)
    coords: dict[str, Any] = {
        "t": ("t", [0.0, 0.5], {"units": "s"}),
        "c": ["DAPI", "GFP", "RFP"],
        "wavelength": ("c", [461, 509, 583], {"units": "nm"}),
        "laser": (("t", "c"), np.arange(6.0).reshape(2, 3)),
        "section": ("z", list("abcde")),
        "row": ("y", np.arange(17)),
        "stage": 4.5,
        "sample": "fly",
    }
    attrs = {"long_name": "cells", "stain": {"of": "nuclei"}, "table": [[1, 2], [3, 4]], "none": None, "days": [1, 2]}
    return xr.DataArray(values, dims=tuple("tczyx"), coords=coords, attrs=attrs, name="image")


def test_coordinates_names_and_attributes_are_kept() -> None:
    source = series()
    found = dr.warp(source, pull=STILL)
    assert found.name == "image"
    for name in ("t", "c", "wavelength", "laser", "section", "stage", "sample"):
        xr.testing.assert_identical(found.coords[name].variable, source.coords[name].variable)
    assert "row" not in found.coords  # rows are sampled anew
    assert found.attrs["long_name"] == "cells"
    assert found.attrs["days"] == [1, 2]
    assert "section" not in dr.warp(source, pull=EVERYWHERE).coords
    assert "section" not in dr.warp(source, pull=STILL, like=dr.Grid((3, 17, 19), origin=(1, 0, 0))).coords
    assert "stage" in dr.warp(source, pull=EVERYWHERE).coords
    one = dr.warp(source.sel(c="GFP").isel(t=1), pull=STILL)
    assert one.c.item() == "GFP"
    assert one.wavelength.item() == 509


TURNED = dr.Affine.rotation(rx=0.3, rz=0.2).linear


@pytest.mark.filterwarnings("ignore::zarr.errors.UnstableSpecificationWarning")  # of texts as coordinates
@pytest.mark.parametrize("kind", ["series", "one channel", "turned", "unnamed", "named as an axis", "bool", "uint16"])
def test_results_are_written_by_xarray_and_opened_where_they_were(tmp_path: Path, kind: str) -> None:
    source = series()
    if kind == "one channel":
        source = source.isel(c=1, t=0)
    elif kind == "turned":
        grid = dr.Grid((5, 17, 19), (2, 1, 1), (3, 4, 5), TURNED, "mm")
        source = to_dataarray(source.values[0, 0], grid, attrs=source.attrs, name="head")
    elif kind in {"unnamed", "named as an axis"}:
        source = source.rename(None if kind == "unnamed" else "stage")
    elif kind in {"bool", "uint16"}:
        source = (source * 1000).astype(kind)
    found = dr.warp(source, pull=dr.Affine.translation(z=0, y=0, x=0.5), like=dr.grid(source))
    found.to_dataset().to_netcdf(tmp_path / "a.nc")
    found.to_dataset().to_zarr(tmp_path / "a.zarr", consolidated=False)
    for again in (xr.load_dataset(tmp_path / "a.nc"), xr.open_zarr(tmp_path / "a.zarr", consolidated=False)):
        stored = again[found.name]
        np.testing.assert_array_equal(stored.values, found.values)
        assert dr.grid(stored).same(dr.grid(found))
        assert set(stored.coords) == set(found.coords)


def test_attributes_that_netcdf_cannot_hold_come_back_in_ome_zarr(tmp_path: Path) -> None:
    found = dr.warp(series().isel(t=0), pull=STILL)
    dr.write(found, tmp_path / "a.zarr", progress=False)
    attrs = dr.open(tmp_path / "a.zarr").attrs
    assert attrs["stain"] == {"of": "nuclei"}
    assert attrs["table"] == [[1, 2], [3, 4]]
