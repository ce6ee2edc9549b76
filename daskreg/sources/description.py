"""`Description`: what a reader says of a volume, from metadata alone; `OpenOptions`: what was asked of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from daskreg.errors import ChannelError, EmptyArrayError, InvalidSpacingError, NotAVolumeError
from daskreg.formats.omero import OMERO_KEY, only_channel
from daskreg.geometry import Grid, canonical_unit, units_of_axes
from daskreg.sources.channels import entry_number
from daskreg.sources.coordinates import CHANNELS, TIMES, unit_of
from daskreg.sources.source import Source
from daskreg.sources.storage.redact import redact

LONGEST_AXIS = 2**24
"""Voxels along an axis of a stored array: 128 MiB of coordinates, or 16 mm of slices that are 1 nm apart."""

# The attribute of an array whose file says that its voxels are labels.
LABELS = "is_labels"
# Coordinates of one axis: values, attributes.
Coord = tuple[Any, Mapping[str, Any]]


@dataclass(frozen=True)
class OpenOptions:
    """The arguments of `open` that readers need; see `daskreg.open`."""

    level: int = 0
    recentre: bool = False
    spacing: Any = None
    unit: str | None = None
    allow_outside: bool = False
    coordinate_system: str | None = None
    series: int | str | None = None
    shape: Sequence[int] | None = None
    dtype: Any = None

    def spacings(self, names: Sequence[str]) -> dict[str, float]:
        """The spacing asked for, by axis; empty where none was.

        Raises: InvalidSpacingError for a wrong number of values or an axis that is not there.
        """
        if self.spacing is None:
            return {}
        if isinstance(self.spacing, Mapping):
            unknown = [str(k) for k in self.spacing if k not in names]
            if unknown:
                raise InvalidSpacingError(f"spacing names {', '.join(unknown)}, but the axes are {', '.join(names)}")
            return {str(k): float(v) for k, v in self.spacing.items()}
        values = np.asarray(self.spacing, dtype=np.float64)
        if values.ndim and values.shape != (len(names),):
            raise InvalidSpacingError(
                f"spacing needs one number or {len(names)} ({', '.join(names)}), not {self.spacing}"
            )
        return dict(zip(names, np.broadcast_to(values, len(names)).tolist(), strict=True))

    def common_unit(self, unit: str | None, what: str) -> str:
        """The canonical name of a file's unit, or of the one asked for. Raises: UnitError."""
        return canonical_unit(self.unit) if self.unit is not None else unit_of("x", unit, what)

    def units_of_axes(self, units: Mapping[str, str | None], what: str) -> tuple[str, dict[str, float]]:
        """One unit for all axes, and the factors that convert the numbers of each axis to it.

        Args:
            units: by axis, as they are spelled.

        Returns: the unit asked for, without conversion, where there is one.
        Raises: UnitError where one cannot be converted into another.
        """
        if self.unit is not None:
            return canonical_unit(self.unit), dict.fromkeys(units, 1.0)
        unit, factors = units_of_axes([unit_of(axis, u, what) for axis, u in units.items()], f"axes of {what}")
        return unit, dict(zip(units, factors, strict=True))

    def apply(self, grid: Grid) -> Grid:
        """The grid with the spacing and unit asked for; its origin stays the same in voxels."""
        asked = self.spacings(grid.names)
        unit = grid.unit if self.unit is None else canonical_unit(self.unit)
        if not asked:
            return grid if unit == grid.unit else replace_grid(grid, unit=unit)
        spacing = np.asarray([asked.get(n, s) for n, s in zip(grid.names, grid.spacing, strict=True)])
        d = grid.direction_matrix
        offset = (d.T @ np.asarray(grid.origin)) / np.asarray(grid.spacing)
        spaced = replace_grid(grid, spacing=spacing, unit=unit)
        return replace_grid(spaced, origin=d @ (offset * spacing))


@dataclass(frozen=True)
class Description:
    """A volume as a reader describes it, from metadata alone.

    Args:
        lead_coords: coordinates of some of the lead axes, by name.
        read_unit: size, along the source's dims, of what is best read as a whole: the stored chunk, or the shard;
            () for arrays in memory.
    """

    source: Source
    name: str | None = None
    attrs: Mapping[str, Any] = field(default_factory=dict)
    lead_coords: Mapping[str, Coord] = field(default_factory=dict)
    read_unit: tuple[int, ...] = ()

    def choose(self, channel: int | str | None, time: int | None) -> Description:
        """The volume at one channel and one time, whose axes are dropped; None keeps them.

        Raises: ChannelError for one that is not there, naming those that are.
        """
        chosen = self
        for what, value, names in (("channel", channel, CHANNELS), ("time", time, TIMES)):
            if value is not None:
                dim = next((d for d in chosen.source.lead if d.lower() in names), None)
                if dim is None:
                    raise ChannelError(f"{what}={value!r} was asked for, but the dims are {chosen.source.dims}")
                chosen = chosen._at(dim, chosen._entry(dim, value, what))
        return chosen

    def _at(self, dim: str, index: int) -> Description:
        at = self.source.dims.index(dim)
        attrs = dict(self.attrs)
        if dim.lower() in CHANNELS and (settings := only_channel(attrs.pop(OMERO_KEY, None), index)):
            attrs[OMERO_KEY] = settings
        return replace(
            self,
            attrs=attrs,
            source=self.source.pick(dim, index),
            lead_coords={k: v for k, v in self.lead_coords.items() if k != dim},
            read_unit=self.read_unit[:at] + self.read_unit[at + 1 :],
        )

    def _entry(self, dim: str, value: int | str, what: str) -> int:
        count = self.source.shape[self.source.dims.index(dim)]
        labels = self.lead_coords[dim][0] if dim in self.lead_coords else ()
        return entry_number(value, dim=dim, count=count, labels=labels, what=what)


def replace_grid(grid: Grid, *, spacing: Any = None, origin: Any = None, unit: str | None = None) -> Grid:
    """A grid with some of its fields exchanged."""
    return Grid(
        grid.shape,
        grid.spacing if spacing is None else spacing,
        grid.origin if origin is None else origin,
        grid.direction,
        unit or grid.unit,
        grid.names,
    )


def check_shape(dims: Sequence[str], shape: Sequence[int], what: str) -> None:
    """Refuse arrays without axes, and axes of length zero.

    Raises: NotAVolumeError, EmptyArrayError.
    """
    if not shape:
        raise NotAVolumeError(f"{what} is a single number, without axes")
    for dim, n in zip(dims, shape, strict=True):
        if n != n:  # noqa: PLR0124 (NaN)
            raise NotAVolumeError(f"axis {dim} of {what} has an unknown length; call compute_chunk_sizes() first")
        if n == 0:
            raise EmptyArrayError(f"axis {dim} of {what} has length 0; every axis needs at least one voxel")


def check_stored(described: Description) -> None:
    """Refuse axes of a stored array that are longer than any volume's, whose coordinates are in memory as float64, and
    chunks without a voxel.

    Raises: NotAVolumeError.
    """
    source = described.source
    if min((*source.chunks, *described.read_unit), default=1) < 1:
        raise NotAVolumeError(f"{redact(source.path)} states chunks of {source.chunks} voxels; each side needs one")
    for dim, n in zip(source.dims, source.shape, strict=True):
        if n > LONGEST_AXIS:
            raise NotAVolumeError(
                f"axis {dim} of {redact(source.path)} has the length {n}; at most {LONGEST_AXIS} is read"
            )


def ordered(dims: Sequence[str], values: Sequence[Any], order: Sequence[str]) -> tuple[Any, ...]:
    """Values that belong to `dims`, in the order of some of these names."""
    return tuple(values[list(dims).index(d)] for d in order)
