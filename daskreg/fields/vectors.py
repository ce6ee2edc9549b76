"""The vectors of a field, wherever they are: a `Source` of (*lead, D, *nodes), with their bounds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import InvalidTransformError, ShapeMismatchError
from daskreg.fields.bounds import VectorBounds, check_finite, vector_bounds
from daskreg.geometry import Box, Grid
from daskreg.runtime.device import loaded
from daskreg.runtime.lazy import Lazy
from daskreg.sources import Source
from daskreg.sources.in_memory import source_in_memory


@dataclass(frozen=True, eq=False)
class Vectors:
    """Vectors at the nodes of a grid, in the world's units and array order.

    Args:
        source: reads (*lead, D, *nodes), float32 or float64.
        lead: number of axes in front of the components: 1 where each slice has vectors of its own, else 0.
    """

    source: Source
    lead: int = 0
    _bounds: Lazy[VectorBounds] = field(default_factory=Lazy, repr=False)

    @property
    def bounds(self) -> VectorBounds:
        """Of all vectors, which are read for it once.

        Raises: InvalidTransformError where one is not finite.
        """
        return self._bounds.get(lambda: vector_bounds(self.source, self.lead))

    def read(self, box: Box | None = None) -> NDArray[Any]:
        """Those of a box of all axes; None: all.

        Raises: InvalidTransformError where one is not finite.
        """
        box = self.source.readable if box is None else box
        values = np.asarray(self.source.read(box))
        check_finite(values, box, self.source.path)
        return values

    @property
    def in_memory(self) -> bool:
        return self.source.in_memory

    def __reduce__(self) -> tuple[Any, ...]:
        return Vectors, (self.source, self.lead)


def vectors_of(value: Any, grid: Grid, lead: int = 0) -> Vectors:
    """The vectors that a caller passed: NumPy, Dask, Zarr, a DataArray or Vectors.

    Args:
        grid: of the nodes; (lead, D, *grid.shape) is needed.

    Raises: ShapeMismatchError; InvalidTransformError where they are no real numbers, or in memory and not finite.
    """
    if isinstance(value, Vectors):
        _check_shape(value.source.shape, grid, lead)
        return value
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    xarray = loaded("xarray")
    if xarray is not None and isinstance(value, xarray.DataArray):
        value = value.data
    if not hasattr(value, "dtype") or not hasattr(value, "shape"):
        try:
            value = np.asarray(value, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise InvalidTransformError(f"vectors must be an array of numbers, not {type(value).__name__}") from error
    _check_shape(tuple(value.shape), grid, lead)
    kind = np.dtype(value.dtype).kind
    if kind not in "iuf":
        raise InvalidTransformError(f"vectors must be real numbers, not {value.dtype}")
    if isinstance(value, np.ndarray):
        value = value.astype(np.float32 if value.dtype in (np.float16, np.float32) else np.float64, copy=True)
        value.flags.writeable = False
        dims = tuple(f"d{k}" for k in range(value.ndim))
        found = Vectors(source_in_memory(value, name="in memory", dims=dims, grid=Grid(value.shape)), lead)
        _ = found.bounds  # raises for NaN here, where they were passed
        return found
    if kind != "f":
        raise InvalidTransformError(f"stored vectors must be float32 or float64, not {value.dtype}: convert them")
    from daskreg.volumes import volume_of  # dask, xarray and zarr, which arrays in memory do not need

    return Vectors(volume_of(value).source, lead)


def _check_shape(shape: tuple[int, ...], grid: Grid, lead: int) -> None:
    """Raise ShapeMismatchError where vectors are not those of the nodes."""
    wanted = (grid.ndim, *grid.shape)
    if len(shape) != len(wanted) + lead or shape[lead:] != wanted:
        slices = "slices, " if lead else ""
        raise ShapeMismatchError(
            f"vectors of shape ({slices}{', '.join(map(str, wanted))}) are needed: {grid.ndim} components, then the "
            f"nodes of the grid; not {shape}"
        )
