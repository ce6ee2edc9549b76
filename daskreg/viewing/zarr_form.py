"""`ZarrForm`: an image as the files of an OME-Zarr, each with the bytes that `write` would store without shards."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory

import zarr

from daskreg.blocks.record.own_files import group_attributes, metadata_files
from daskreg.blocks.windows import with_windows
from daskreg.errors import UnsupportedDTypeError
from daskreg.formats.ome import ImageDetails, LeadAxis, LevelSpec, create_multiscale
from daskreg.formats.omero import OMERO_KEY
from daskreg.sources.storage.direct_chunks import DirectChunks, direct_chunks
from daskreg.viewing.pyramid import Pyramid

CHEAP = 2**26
"""Voxels of level 0 that may be computed for the contrast of the coarsest level, as `write` has it: about a second.
Where it takes more, the contrast is that of some chunks of level 0."""

_KEY = re.compile(r"(\d+)/(?:c/)?(\d+(?:/\d+)*)", re.ASCII)


@dataclass(frozen=True)
class ImageWords:
    """What the metadata of an image say besides its levels.

    Args:
        name: of the image.
        lead: axes of times and channels.
        details: attributes and display settings.
        version: of OME-Zarr.
    """

    name: str
    lead: Sequence[LeadAxis] = ()
    details: ImageDetails | None = None
    version: str = "0.5"


class ZarrForm:
    """The files of an image by their keys. Nothing is computed before it is asked for; safe among threads."""

    def __init__(self, pyramid: Pyramid, words: ImageWords) -> None:
        self.pyramid, self.words = pyramid, words
        self._facts = {"format": f"ome-zarr {words.version}", "number of levels": len(pyramid.layouts)}
        with TemporaryDirectory(prefix="daskreg-view-") as folder:
            image = Path(folder) / "image.zarr"
            create_multiscale(
                image,
                [
                    LevelSpec(p.dims, p.shape, p.dtype, p.chunks, None, grid)
                    for p, grid in zip(pyramid.layouts, pyramid.grids, strict=True)
                ],
                name=words.name,
                lead=words.lead,
                details=words.details,
                method=pyramid.method,
                version=words.version,
                called=words.name,
            )
            self._metadata = {name: (image / name).read_bytes() for name in metadata_files(self._facts)}
            self._chunks = [_chunks_of(image, level) for level in range(len(pyramid.layouts))]

    def is_metadata(self, key: str) -> bool:
        """Whether a file is there without any computing: all metadata but those of the group."""
        return key in self._metadata and key != next(iter(self._metadata))

    def file(self, key: str) -> bytes | None:
        """The bytes of a file; None where the image has none of this name.

        Raises: what computing a chunk raises.
        """
        if key == next(iter(self._metadata)):
            return self._group
        if key in self._metadata:
            return self._metadata[key]
        place = self._place(key)
        if place is None:
            return None
        level, index = place
        return self._chunks[level].encode(self.pyramid.chunk(level, index), self.pyramid.box(level, index))

    def _place(self, key: str) -> tuple[int, tuple[int, ...]] | None:
        """Level and index of the chunk with this key; None where there is none."""
        match = _KEY.fullmatch(key)
        if match is None or len(key) > 200:
            return None
        level, index = int(match[1]), tuple(map(int, match[2].split("/")))
        if level >= len(self.pyramid.layouts):
            return None
        layout = self.pyramid.layouts[level]
        if len(index) != len(layout.shape):
            return None
        inside = all(i * c < n for i, c, n in zip(index, layout.chunks, layout.shape, strict=True))
        named = f"{level}/{self._chunks[level].key(index)}" == key  # of Zarr v2 or v3, without leading zeros
        return (level, index) if inside and named else None

    @cached_property
    def window(self) -> tuple[float, float]:
        """The values of the first channel that are shown as black and white."""
        stored = group_attributes(self._facts, self._group)
        channels = stored.get("ome", stored).get(OMERO_KEY, {}).get("channels", [])
        shown = (
            channels[0]["window"]
            if channels
            else {"start": 0, "end": 1 if self.pyramid.layouts[0].dtype.kind == "b" else 255}
        )
        return float(shown["start"]), float(shown["end"])

    @cached_property
    def _group(self) -> bytes:
        """The metadata of the group, with the windows of the channels."""
        text = next(iter(self._metadata.values()))
        pyramid, level = self.pyramid, len(self.pyramid.layouts) - 1
        if pyramid.voxels_for(level) * pyramid.chunk_count(level) > CHEAP:
            level = 0
        layout, read = pyramid.layouts[level], partial(pyramid.read, level)
        found = with_windows(text, self._facts, layout, read, pyramid.task)
        return text if found is None else found


def _chunks_of(image: Path, level: int) -> DirectChunks:
    """How the chunks of a level are named and encoded."""
    found = direct_chunks(zarr.open_array(str(image), path=str(level), mode="r"))
    if found is None:
        raise UnsupportedDTypeError(f"chunks of {image.name} cannot be made here")
    return found
