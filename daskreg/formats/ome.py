"""Create multiscale OME-Zarr images: metadata and empty arrays, no pixels.

Version 0.4 is of Zarr v2, 0.5 and 0.6 are of Zarr v3. Versions up to 0.5 have no rotations; 0.6 states them as an
affine transformation from the system along the axes of the volume to that of the world.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from typing import Any, Literal

import numcodecs
import numpy as np
import zarr
from numpy.typing import ArrayLike
from zarr.codecs import BloscCodec, Crc32cCodec

from daskreg.errors import MetadataWarning, OptionError, ShapeMismatchError, UnitError
from daskreg.formats.omero import OMERO_KEY, channel_settings
from daskreg.geometry import PIXEL, Grid, canonical_unit

VERSIONS = ("0.4", "0.5", "0.6")
V2 = "0.4"
"""The version whose arrays are of Zarr v2, which has no shards and no checksums."""

INTRINSIC, WORLD = "intrinsic", "world"
"""Coordinate systems of version 0.6: along the axes of the volume, and that of the world."""

OWN_KEYS = ("ome", "multiscales", "omero", "image-label", "labels", "bioformats2raw.layout", "daskreg")
"""Attributes of a group that describe the image itself."""

_LEAD_TYPES = {"t": "time", "time": "time", "c": "channel", "channel": "channel"}
CHANNEL_AXES = tuple(name for name, kind in _LEAD_TYPES.items() if kind == "channel")


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


@dataclass(frozen=True)
class ImageDetails:
    """What an image keeps besides its voxels and their places.

    Args:
        attributes: of the group.
        omero: display settings of the source, one for each channel.
        is_labels: whether the voxels are labels.
    """

    attributes: Mapping[str, Any] = field(default_factory=dict)
    omero: Mapping[str, Any] | None = None
    is_labels: bool = False


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
    run: str = "",
    details: ImageDetails | None = None,
    method: str = "mean",
    version: str = "0.5",
    called: str = "",
) -> None:
    """Create the group and the empty arrays of a multiscale image.

    Chunks of nothing but the fill value are written too, so that a missing file means a missing block.

    Args:
        lead: the axes in front of the spatial ones (time, channel); () counts them from 0.
        run: identifies the run that writes the image.
        method: how levels are made, stated in the metadata.
        called: what messages call the image; by default its path.

    Raises: OptionError for a version that is not written.
    """
    if version not in VERSIONS:
        raise OptionError(f"version={version!r}: OME-Zarr {', '.join(VERSIONS)} is written")
    details = details or ImageDetails()
    own: dict[str, Any] = {"run": run}
    first = levels[0]
    direction = None if first.grid.direction is None else [list(row) for row in first.grid.direction]
    image = multiscale_metadata(levels, name=name, lead=lead, method=method)
    if version == "0.6":
        image = with_coordinate_systems(image, first.grid)
        own |= {} if direction is None else {"coordinate_system": WORLD}
    elif direction is not None:
        warnings.warn(
            f"{called or path}: OME-Zarr {version} cannot store that the axes are turned in the world; the direction "
            "is kept in the attribute 'daskreg', which other readers ignore (version='0.6' stores it)",
            MetadataWarning,
            stacklevel=2,
        )
        own["direction"] = direction
    block: dict[str, Any] = {"multiscales": [image]}
    if details.is_labels:
        block["image-label"] = {}
    elif first.dtype.kind != "b":
        names = next((axis.labels for axis in lead if axis.labels), ())
        block[OMERO_KEY], own["windows"] = channel_settings(_channel_count(first), first.dtype, names, details.omero)
    kept = {key: value for key, value in details.attributes.items() if key not in OWN_KEYS}
    if version == V2:
        image["version"] = version
        attributes = {**block, **kept, "daskreg": own}
    else:
        attributes = {"ome": {"version": version, **block}, **kept, "daskreg": own}
    group = zarr.create_group(str(path), zarr_format=2 if version == V2 else 3, attributes=attributes)
    for number, level in enumerate(levels):
        _create_array(group, str(number), level, version)


def _create_array(group: zarr.Group, name: str, level: LevelSpec, version: str) -> None:
    always: Any = {"write_empty_chunks": True}
    if version == V2:
        group.create_array(
            name,
            shape=level.shape,
            chunks=level.chunks,
            dtype=level.dtype,
            compressors=numcodecs.Blosc(cname="zstd", clevel=1, shuffle=_shuffle(level.dtype), blocksize=2**20),
            chunk_key_encoding={"name": "v2", "separator": "/"},
            fill_value=0,
            config=always,
        )
        return
    group.create_array(
        name,
        shape=level.shape,
        chunks=level.chunks,
        shards=level.shards,
        dtype=level.dtype,
        compressors=codecs(level.dtype),
        dimension_names=level.dims,
        config=always,
    )


def _shuffle(dtype: np.dtype[Any]) -> int:
    return int(numcodecs.Blosc.BITSHUFFLE if dtype.itemsize > 1 else numcodecs.Blosc.NOSHUFFLE)


def _channel_count(level: LevelSpec) -> int:
    """Channels of an image: the length of that axis, or 1."""
    front = level.dims[: len(level.dims) - level.grid.ndim]
    return next((n for d, n in zip(front, level.shape, strict=False) if _LEAD_TYPES.get(d) == "channel"), 1)


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


def with_coordinate_systems(image: Mapping[str, Any], grid: Grid) -> dict[str, Any]:
    """The same entry in the terms of version 0.6 (RFC-5).

    Levels lead to the system "intrinsic", along the axes of the volume. Where these are turned in the world, an
    affine transformation leads from there to "world".
    """
    axes = [{"discrete": axis.get("type") == "channel"} | axis for axis in image["axes"]]
    turned = grid.direction is not None
    datasets = []
    for data in image["datasets"]:
        steps = data["coordinateTransformations"]
        ends = {"input": {"path": data["path"]}, "output": {"name": INTRINSIC}}
        whole = {"type": "sequence", **ends, "transformations": steps}
        datasets.append({"path": data["path"], "coordinateTransformations": [whole]})
    systems = [{"name": name, "axes": axes} for name in ((INTRINSIC, WORLD) if turned else (INTRINSIC,))]
    made = {key: value for key, value in image.items() if key != "axes"}
    made |= {"coordinateSystems": systems, "datasets": datasets}
    if turned:
        matrix = np.eye(len(axes), len(axes) + 1)
        first = len(axes) - grid.ndim
        matrix[first:, first:-1] = grid.direction_matrix
        ends = {"input": {"name": INTRINSIC}, "output": {"name": WORLD}}
        affine = {"type": "affine", **ends, "affine": matrix.tolist()}
        made["coordinateTransformations"] = [affine]
    return made
