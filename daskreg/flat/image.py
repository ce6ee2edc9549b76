"""`FlatImage`: what is to be written; `FlatFormat`: how a format lays a file out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import GridError, OptionError, ShapeMismatchError, UnitError, UnsupportedDTypeError
from daskreg.formats.ome import LeadAxis
from daskreg.geometry import PIXEL, Grid, length_ratio

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class FlatImage:
    """A volume without its voxels.

    Args:
        dims: of the stored axes, the slowest first: times and channels, then those of space.
        shape: along them.
        dtype: of a voxel, little-endian in the file.
        grid: of the last axes.
        lead: what is known of the axes in front.
        name: of the image.
    """

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    grid: Grid
    lead: Sequence[LeadAxis]
    name: str

    @property
    def lead_dims(self) -> tuple[str, ...]:
        return self.dims[: len(self.dims) - self.grid.ndim]

    def ratio(self, unit: str) -> float:
        """The factor from the lengths of the grid to a unit; 1 for pixels.

        Raises: UnitError where the grid's unit is no length.
        """
        if self.grid.unit == PIXEL:
            return 1.0
        ratio = length_ratio(self.grid.unit, unit)
        if ratio is None:
            raise UnitError(f"{self.grid.unit} is no length that can be written in {unit}: pass unit= to `open`")
        return ratio


@dataclass(frozen=True)
class FlatFormat:
    """One format.

    Args:
        title: in messages.
        suffixes: of its files, in lower case.
        dtypes: that it holds, by NumPy's names.
        create: makes a new file at a path, with its header and of its whole size, and gives the byte at which the
            voxels begin; they follow in C order.
        lead: names of the axes in front of those of space that it holds, in the order in which they may come.
        turned: whether it states how the axes are turned in the world; else descending ones are stored from their
            other end, and turned ones are refused.
        spatial: numbers of axes of space that it holds.
        named: whether it states the names of the axes of space; else they are (z,) y and x.
        check_units: raises UnitError for lengths that it cannot state.
    """

    title: str
    suffixes: tuple[str, ...]
    dtypes: tuple[str, ...]
    create: Callable[[Path, FlatImage], int]
    lead: tuple[str, ...] = ()
    turned: bool = False
    spatial: tuple[int, ...] = (2, 3)
    named: bool = False
    check_units: Callable[[FlatImage], object] | None = None

    def check_options(self, given: Mapping[str, Any]) -> None:
        """Raise OptionError for options that a single file does not have; "auto" and None are none.

        Args:
            given: by the name of `daskreg.write`.
        """
        names = [name for name, value in given.items() if value not in ("auto", None)]
        if names:
            raise OptionError(
                f"{', '.join(f'{name}=' for name in names)}: of OME-Zarr; a {self.title} file has none: leave "
                f"{'it' if len(names) == 1 else 'them'} out, or write to a name that ends in .ome.zarr"
            )

    def check(self, image: FlatImage) -> None:
        """Raises: UnsupportedDTypeError, ShapeMismatchError, GridError, UnitError for what the format cannot hold."""
        if image.dtype.name not in self.dtypes:
            raise UnsupportedDTypeError(
                f"{self.title} does not hold {image.dtype.name}: convert to one of {', '.join(self.dtypes)}"
            )
        front = [self.lead.index(d) if d in self.lead else -1 for d in image.lead_dims]
        if -1 in front or front != sorted(front) or image.grid.ndim not in self.spatial:
            held = f"times and channels ({', '.join(self.lead)}) and " if self.lead else ""
            raise ShapeMismatchError(
                f"{self.title} holds {held}{' or '.join(map(str, self.spatial))} axes of space, not "
                f"({', '.join(image.dims)}): write one index of the others at a time, or OME-Zarr"
            )
        names = ("z", "y", "x")[-image.grid.ndim :]
        if not self.named and image.grid.names != names:
            raise GridError(
                f"{self.title} does not state names of axes, and ({', '.join(image.grid.names)}) would be read as "
                f"({', '.join(names)}): write HDF5 or OME-Zarr, or rename them"
            )
        if not self.turned and image.grid.direction is not None:
            raise GridError(
                f"{self.title} cannot state that the axes are turned in the world: write .nii, .nrrd or .mha, or warp "
                "to a grid that is not turned"
            )
        if self.check_units is not None:
            self.check_units(image)


def xyz_matrix(grid: Grid, ratio: float) -> Floats:
    """(4, 4) from indices i, j, k to ITK's world (LPS) x, y, z; in 2D the third axis stays as it is."""
    made = np.eye(4)
    matrix = grid.matrix
    turned = matrix[:-1, :-1][::-1, ::-1] * ratio
    made[: grid.ndim, : grid.ndim] = turned
    made[: grid.ndim, 3] = matrix[:-1, -1][::-1] * ratio
    return made


def preallocated(path: Path, header: bytes, nbytes: int) -> int:
    """Make a file of a header and so many bytes; gives the length of the header."""
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + nbytes)
    return len(header)
