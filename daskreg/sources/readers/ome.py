"""OME-Zarr metadata (0.1 to 0.5): axes, and spacing and origin of each level. No I/O.

NGFF maps forward: a level's transforms, then those of the whole multiscale, take voxel
indices to the world, each one `scale * x` or `x + translation`.
https://ngff.openmicroscopy.org/0.5/#multiscale-md
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import InputError, InvalidSpacingError, MetadataWarning, NotAVolumeError, OptionError
from daskreg.formats.omero import omero_text
from daskreg.sources.coordinates import CHANNELS, LEAD, SPACE, TIMES, block_factor

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Axis:
    """Name, "space", "time", "channel" or another type, and unit as written."""

    name: str
    type: str
    unit: str | None = None


@dataclass(frozen=True)
class MultiscaleLevel:
    """One resolution: the path of its array, and `origin + scale * index`, the world position along each axis.

    Args:
        has_scale: whether the metadata state it; OME-Zarr up to 0.3 does not.
    """

    path: str
    scale: Floats
    origin: Floats
    has_translation: bool
    has_scale: bool = True


@dataclass(frozen=True)
class Multiscale:
    """One image of an OME-Zarr group.

    Args:
        labels: of the channels.
        is_labels: whether the group says that its voxels are labels.
        header_from_world: of version 0.6, the map from the world of the grids to the coordinate system, if it shears.
        omero: display settings of the channels, as JSON text.
        attributes: of the group.
        direction: what daskreg stores beside the metadata of a turned volume: the columns are the world directions
            of the spatial axes, along which scale and origin are.
    """

    axes: tuple[Axis, ...]
    levels: tuple[MultiscaleLevel, ...]
    name: str | None
    labels: tuple[str, ...]
    direction: Any = None
    is_labels: bool = False
    header_from_world: Any = None
    omero: str | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def level(self, number: int, *, recentre: bool, what: str) -> MultiscaleLevel:
        """One level; a negative number counts from the coarsest.

        A coarser level without a translation is taken as it is, with a warning; with
        `recentre`, its voxels are taken to be means of whole blocks of level 0, and its
        origin moves by (f - 1) / 2 voxels of level 0.

        Raises: OptionError for a level that is not there.
        """
        number = self.number(number, what)
        chosen, finest = self.levels[number], self.levels[0]
        space = np.asarray([a.type == "space" for a in self.axes])
        factor = np.where(space, chosen.scale / finest.scale, 1.0)
        if chosen.has_translation or np.allclose(factor, 1):
            return chosen
        if not recentre:
            warnings.warn(
                f"{what}: level {number} has a scale but no translation, and is used as it is; if it holds "
                f"means of blocks, its position is wrong by {np.array2string((factor - 1)[space] / 2, precision=3)} "
                f"voxels of level 0, and recentre=True corrects it",
                MetadataWarning,
                stacklevel=2,
            )
            return chosen
        moved = chosen.origin + (factor - 1) / 2 * finest.scale
        return MultiscaleLevel(chosen.path, chosen.scale, moved, True)

    def number(self, level: int, what: str) -> int:
        """The number of a level; a negative one counts from the coarsest.

        Raises: OptionError for a level that is not there.
        """
        count = len(self.levels)
        if not -count <= level < count:
            raise OptionError(f"level={level} is not in {what}, which has {count} (0 is the finest)")
        return level % count

    def scaled_by_shapes(self, number: int, shapes: Sequence[Sequence[int]]) -> Multiscale:
        """The same image, with the scale of a level from the shapes of those from the finest one to it."""
        level = self.levels[number]
        factors = [
            block_factor(*sizes) if axis.type == "space" else 1.0
            for axis, sizes in zip(self.axes, zip(*shapes, strict=True), strict=True)
        ]
        scaled = replace(level, scale=self.levels[0].scale * factors)
        return replace(self, levels=tuple(scaled if one is level else one for one in self.levels))


def multiscale(
    attrs: Mapping[str, Any], what: str, of_systems: Callable[..., Multiscale] | None = None
) -> Multiscale | None:
    """The image that a group's attributes describe, or None if they describe none.

    Args:
        of_systems: reads an image of version 0.6, with coordinate systems (`ome_systems.multiscale_of_systems`); None
            refuses it.

    Raises: NotAVolumeError for metadata that is broken or of an unknown version.
    """
    ome = attrs.get("ome")
    block = ome if isinstance(ome, Mapping) else attrs
    images = block.get("multiscales")
    if not images:
        return None
    try:
        if not isinstance(images, list | tuple):
            raise TypeError(f"multiscales is a {type(images).__name__}, not a list")
        if len(images) > 1:
            warnings.warn(
                f"{what} holds {len(images)} multiscale images; the first is taken", MetadataWarning, stacklevel=2
            )
        version = str(block.get("version") or images[0].get("version") or "")
        if of_systems is not None and ("coordinateSystems" in images[0] or version.startswith("0.6")):
            own = attrs.get("daskreg")
            return of_systems(
                images[0], block, what, own.get("coordinate_system") if isinstance(own, Mapping) else None
            )
        own = attrs.get("daskreg")
        return _parse(images[0], block, what, own.get("direction") if isinstance(own, Mapping) else None)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        reason = f"{type(error).__name__}: {error}"
        raise NotAVolumeError(f"{what}: the OME-Zarr metadata cannot be read ({reason})") from error


def _parse(image: Mapping[str, Any], block: Mapping[str, Any], what: str, direction: Any) -> Multiscale:
    version = str(block.get("version") or image.get("version") or "")
    if "coordinateSystems" in image or version.startswith("0.6"):
        raise NotAVolumeError(f"{what} is OME-Zarr {version or 'with coordinate systems'}; versions up to 0.5 are read")
    datasets = image["datasets"]
    axes = tuple(map(axis_of, image.get("axes") or ("t", "c", "z", "y", "x")))
    if not datasets or len({a.name for a in axes}) != len(axes):
        raise NotAVolumeError(f"{what}: a multiscale needs datasets and axes with different names")
    whole = image.get("coordinateTransformations") or ()
    levels = []
    for data in datasets:
        own = data.get("coordinateTransformations") or ()
        scale, origin = _chain([*own, *whole], axes, f"{what}/{data['path']}")
        translated = any(t.get("type") == "translation" for t in own)
        scaled = any(t.get("type") == "scale" for t in own)
        levels.append(MultiscaleLevel(str(data["path"]), scale, origin, translated, scaled))
    name = str(image["name"]) if image.get("name") else None
    labels, omero = channel_labels(block), omero_text(block.get("omero"))
    return Multiscale(axes, tuple(levels), name, labels, direction, "image-label" in block, None, omero)


def channel_labels(block: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the channels; () where none has one."""
    channels = (block.get("omero") or {}).get("channels") or ()
    if not any("label" in c for c in channels):
        return ()
    return tuple(str(c.get("label", k)) for k, c in enumerate(channels))


def axis_of(axis: Any) -> Axis:
    """An axis as the metadata write it: a name, or a mapping with its type and unit."""
    if isinstance(axis, str):
        axis = {"name": axis}
    name = str(axis["name"])
    low = name.lower()
    guess = "time" if low in TIMES else "channel" if low in CHANNELS else "space" if low not in LEAD else ""
    return Axis(name, str(axis.get("type") or guess), axis.get("unit"))


def _chain(transforms: Sequence[Mapping[str, Any]], axes: Sequence[Axis], what: str) -> tuple[Floats, Floats]:
    scale, origin = np.ones(len(axes)), np.zeros(len(axes))
    for t in transforms:
        kind = t.get("type")
        if kind == "identity":
            continue
        if kind not in ("scale", "translation") or kind not in t:
            raise NotAVolumeError(
                f"{what}: a coordinate transformation of type {kind!r} is not read; scale and translation are"
            )
        values = np.asarray(t[kind], dtype=np.float64)
        if values.shape != scale.shape:
            raise NotAVolumeError(f"{what}: the {kind} has {values.size} numbers for {len(axes)} axes")
        _check_numbers(kind, values, axes, what)
        if kind == "scale":
            scale, origin = scale * values, origin * values
        else:
            origin = origin + values
    return scale, origin


def _check_numbers(kind: str, values: Floats, axes: Sequence[Axis], what: str) -> None:
    for axis, v in zip(axes, values.tolist(), strict=True):
        if not np.isfinite(v) or (kind == "scale" and v <= 0):
            raise InvalidSpacingError(f"{what}: the {kind} along {axis.name} is {v}; correct the metadata")


def spatial(axes: Sequence[Axis], what: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the lead axes and of the spatial ones, in the order in which they are handed out."""
    space = [a.name for a in axes if a.type == "space"]
    if not 1 <= len(space) <= 3:
        raise NotAVolumeError(f"{what}: {len(space)} axes of type space ({', '.join(space)}); 2 or 3 are needed")
    if set(space) <= set(SPACE):
        space.sort(key=SPACE.index)
    lead = [a for a in axes if a.type != "space"]
    lead.sort(key=lambda a: {"time": 0, "channel": 2}.get(a.type, 1))
    return tuple(a.name for a in lead), tuple(space)
