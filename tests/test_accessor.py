"""`array.daskreg` is the functions of the package, whichever package is imported first."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import daskreg as dr


def image() -> xr.DataArray:
    y, x = np.arange(7) * 0.5 + 3, np.arange(9) * 2.0
    return xr.DataArray(np.random.default_rng(0).random((7, 9)), {"y": y, "x": x}, ("y", "x"))


def test_grid_and_warp_are_those_of_the_package() -> None:
    array, pull = image(), dr.Affine.translation(x=1.0, y=0.25)
    assert array.daskreg.grid == dr.grid(array)
    assert array.daskreg.grid.spacing == (0.5, 2.0)
    xr.testing.assert_identical(array.daskreg.warp(pull=pull, order=3), dr.warp(array, pull=pull, order=3))


def test_write_and_plan(tmp_path: Path) -> None:
    array = image()
    assert "y 7 x x 9" in repr(array.daskreg.plan(tmp_path / "a.zarr", levels=1))
    array.daskreg.write(tmp_path / "a.zarr", levels=1, progress=False)
    np.testing.assert_array_equal(dr.open(tmp_path / "a.zarr").values, array.values)
    with array.daskreg.serve(levels=1) as server:
        np.testing.assert_array_equal(dr.open(server.url).values, array.values)
    assert "methods: warp, plan, write, serve" in repr(array.daskreg)


@pytest.mark.parametrize("first", ["daskreg, xarray", "xarray, daskreg"])
def test_the_order_of_imports_does_not_matter(first: str) -> None:
    code = (
        f"import sys, {first}\n"
        "assert type(xarray.__spec__.loader).__module__ == '_frozen_importlib_external'\n"
        "assert xarray.DataArray([[1.0, 2], [3, 4]]).daskreg.grid.shape == (2, 2)\n"
        "assert not any('daskreg' in type(finder).__module__ for finder in sys.meta_path)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(dr.__file__).parents[1])}
    subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", code], check=True, env=environment)
