"""`array.daskreg`: what daskreg does with a DataArray, as methods of the array."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import xarray as xr

    from daskreg.geometry import Grid


def register() -> None:
    """Give every DataArray the attribute `daskreg`."""
    import xarray as xr

    xr.register_dataarray_accessor("daskreg")(DataArrayMethods)


class DataArrayMethods:
    """The grid of a DataArray, and `warp`, `plan`, `write` and `serve` of it.

    >>> import numpy as np, xarray as xr, daskreg as dr
    >>> image = xr.DataArray(np.ones((4, 5)), dims=("y", "x"))
    >>> image.daskreg.grid.shape
    (4, 5)
    >>> image.daskreg.warp(pull=dr.Affine.translation(x=1)).shape
    (4, 5)
    """

    def __init__(self, array: xr.DataArray) -> None:
        self._array = array

    @property
    def grid(self) -> Grid:
        """Where the voxels lie: `daskreg.grid(array)`."""
        from daskreg.volumes import grid

        return grid(self._array)

    @property
    def warp(self) -> Callable[..., xr.DataArray]:
        """`daskreg.warp` of this array: `array.daskreg.warp(pull=fit.moving_from_fixed, like=fixed)`."""
        from daskreg.warping import warp

        return partial(warp, self._array)

    @property
    def plan(self) -> Callable[..., Any]:
        """`daskreg.plan` of this array: `array.daskreg.plan("out.ome.zarr")`."""
        from daskreg.writing import plan

        return partial(plan, self._array)

    @property
    def write(self) -> Callable[..., Any]:
        """`daskreg.write` of this array: `array.daskreg.write("out.ome.zarr")`."""
        from daskreg.writing import write

        return partial(write, self._array)

    @property
    def serve(self) -> Callable[..., Any]:
        """`daskreg.serve` of this array: `array.daskreg.serve().url`."""
        from daskreg.viewing.serve import serve

        return partial(serve, self._array)

    def __repr__(self) -> str:
        return f"{self.grid}\nmethods: warp, plan, write, serve (help(daskreg.warp), ...)"
