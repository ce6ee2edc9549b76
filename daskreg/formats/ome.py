"""Create OME-Zarr 0.5 (Zarr v3) multiscale images: metadata and empty arrays, no pixels."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any, Literal

import numpy as np
import zarr
from numpy.typing import ArrayLike
from zarr.codecs import BloscCodec, Crc32cCodec

from daskreg.errors import MetadataWarning, OptionError, ShapeMismatchError, UnitError
from daskreg.geometry import PIXEL, Grid, canonical_unit

VERSIONS = ("0.5",)
_LEAD_TYPES = {"t": "time", "time": "time", "c": "channel", "channel": "channel"}


@dataclass(frozen=True)
class LevelSpec:
    """One level to create: arrays are named 0, 1, 2, ... by position."""

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunks: tuple[int, ...]
    shards: tuple[int, ...] | None
    grid: Grid


@dataclass(frozen=True)
class LeadAxis:
    """An axis in front of the spatial ones: value = start + scale * index, its unit, names of its entries."""

    scale: float = 1.0
    start: float = 0.0
    unit: str | None = None
    labels: tuple[str, ...] = ()


def lead_axis(name: str, values: ArrayLike | None, unit: str | None = None) -> LeadAxis:
    """The axis with these coordinates; if they are not equally spaced, it has none, with a warning."""
    if values is None:
        return LeadAxis()
    x = np.asarray(values)
    if x.dtype.kind in "UO":
        return LeadAxis(labels=tuple(map(str, x.tolist())))
    if x.dtype.kind in "iuf" and np.all(np.isfinite(x)):
        step = float(x[-1] - x[0]) / (len(x) - 1) if len(x) > 1 else 1.0
        if step > 0 and np.allclose(x, x[0] + step * np.arange(len(x)), rtol=0, atol=1e-6 * step):
            return LeadAxis(step, float(x[0]), _known_unit(unit))
    warnings.warn(
        f"the coordinates of axis {name} do not rise in equal steps, which OME-Zarr cannot store; they are not written",
        MetadataWarning,
        stacklevel=4,
    )
    return LeadAxis()


def _known_unit(unit: str | None) -> str | None:
    try:
        name = canonical_unit(unit)
    except UnitError:
        return None
    return None if name == PIXEL else name


def check_axes(dims: Sequence[str], spatial: int) -> None:
    """Raise ShapeMismatchError for axes that OME-Zarr does not hold."""
    lead = [_LEAD_TYPES.get(d, "other") for d in dims[: len(dims) - spatial]]
    if not 2 <= spatial <= 3 or lead.count("time") > 1 or len(lead) - lead.count("time") > 1:
        raise ShapeMismatchError(
            f"OME-Zarr holds 2 or 3 axes of space, at most one of time and one of channels, not ({', '.join(dims)}): "
            "write one index of the others at a time"
        )


def codecs(dtype: np.dtype[Any]) -> list[Any]:
    """The default codecs: fast zstd over shuffled bits, and a checksum that reading verifies.

    zstd at level 1 with bitshuffle encodes 1.4 times as fast as at level 3 for a few percent
    more bytes. Blocks of 1 MiB rather than blosc's choice make it a quarter faster to encode,
    twice as fast to decode, and smaller (docs/engine.md). Without the crc32c a flipped bit is
    read as wrong data, silently.
    """
    shuffle: Literal["bitshuffle", "noshuffle"] = "bitshuffle" if dtype.itemsize > 1 else "noshuffle"
    return [BloscCodec(cname="zstd", clevel=1, shuffle=shuffle, blocksize=2**20), Crc32cCodec()]


def create_multiscale(
    path: str | PathLike[str],
    levels: Sequence[LevelSpec],
    *,
    name: str,
    lead: Sequence[LeadAxis] = (),
    attributes: dict[str, Any] | None = None,
    method: str = "mean",
    version: str = "0.5",
    called: str = "",
) -> None:
    """Create the group and the empty arrays of a multiscale image.

    Chunks of nothing but the fill value are written too, so that a missing file means a missing block.

    Args:
        lead: the axes in front of the spatial ones (time, channel); () counts them from 0.
        attributes: further attributes of the group.
        method: how levels are made, stated in the metadata.
        called: what messages call the image; by default its path.

    Raises: OptionError for a version that is not written.
    """
    if version not in VERSIONS:
        raise OptionError(f"version={version!r}: OME-Zarr {', '.join(VERSIONS)} is written")
    image = multiscale_metadata(levels, name=name, lead=lead, method=method)
    extra = dict(attributes or {})
    grid = levels[0].grid
    if grid.direction is not None:
        warnings.warn(
            f"{called or path}: OME-Zarr {version} cannot store that the axes are turned in the world; the direction "
            "is kept in the attribute 'daskreg', which other readers ignore",
            MetadataWarning,
            stacklevel=2,
        )
        extra["daskreg"] = {**extra.get("daskreg", {}), "direction": [list(row) for row in grid.direction]}
    ome = {"version": version, "multiscales": [image], **_channels(lead, levels[0].dtype)}
    group = zarr.create_group(str(path), zarr_format=3, attributes={"ome": ome, **extra})
    for number, level in enumerate(levels):
        group.create_array(
            str(number),
            shape=level.shape,
            chunks=level.chunks,
            shards=level.shards,
            dtype=level.dtype,
            compressors=codecs(level.dtype),
            dimension_names=level.dims,
            config={"write_empty_chunks": True},
        )


def multiscale_metadata(
    levels: Sequence[LevelSpec], *, name: str, lead: Sequence[LeadAxis] = (), method: str = "mean"
) -> dict[str, Any]:
    """One entry of `multiscales`: axes, and for each level its scale and translation."""
    first = levels[0]
    front = first.dims[: len(first.dims) - first.grid.ndim]
    known = list(lead) or [LeadAxis()] * len(front)
    datasets = []
    for number, level in enumerate(levels):
        # Along the volume's own axes, which are those of the world unless the direction is oblique.
        origin = level.grid.direction_matrix.T @ np.asarray(level.grid.origin)
        scale = {"type": "scale", "scale": [*(a.scale for a in known), *level.grid.spacing]}
        translation = {"type": "translation", "translation": [*(a.start for a in known), *origin.tolist()]}
        datasets.append({"path": str(number), "coordinateTransformations": [scale, translation]})
    unit = {} if first.grid.unit == PIXEL else {"unit": first.grid.unit}
    axes = [
        {"name": d} | ({"type": _LEAD_TYPES[d]} if d in _LEAD_TYPES else {}) | ({"unit": a.unit} if a.unit else {})
        for d, a in zip(front, known, strict=True)
    ]
    axes += [{"name": d, "type": "space"} | unit for d in first.grid.names]
    return {"name": name, "axes": axes, "datasets": datasets, "type": method}


def _channels(lead: Sequence[LeadAxis], dtype: np.dtype[Any]) -> dict[str, Any]:
    """The block "omero", which names channels; its other fields are required by the specification."""
    labels = next((axis.labels for axis in lead if axis.labels), ())
    if not labels:
        return {}
    low, high = (np.iinfo(dtype).min, np.iinfo(dtype).max) if dtype.kind in "iu" else (0, 1)
    window = {"min": int(low), "max": int(high), "start": int(low), "end": int(high)}
    return {"omero": {"channels": [{"label": n, "color": "FFFFFF", "active": True, "window": window} for n in labels]}}
