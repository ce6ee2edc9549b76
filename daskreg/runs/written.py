"""`Written`: what a run that writes an image has done."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dask.utils import format_bytes, format_time

from daskreg.blocks.plan import Plan
from daskreg.blocks.run_levels import RunTotals
from daskreg.errors import DaskregWarning
from daskreg.geometry.notebook_table import table
from daskreg.reporting.words import count


@dataclass(frozen=True)
class Written:
    """What a run did.

    Args:
        path: of the OME-Zarr image.
        shapes: of its levels.
        blocks: made in this run.
        skipped: blocks that an earlier run had finished.
        changed: finished blocks that were made again because their source or transform had changed.
        bytes_read: decoded bytes that came out of the source.
        bytes_written: bytes of pixels before compression.
        stored: bytes of the files written.
        clipped: voxels that did not fit the type of the output, or were NaN, where that is another one than the
            type of the source: they have the end of its range, or 0. What cubic interpolation (`order=3`) overshoots
            of integers is clamped to the range of their own type before that, and is not counted.
        retries: store calls that failed at first and were tried again.
        missing: chunks of the source that are not stored, which the output shows as the fill value (where
            several blocks read one, each counts). Blocks of earlier runs are counted, too.
        damaged: names of the chunks that could not be decoded and are shown as the fill value, as
            `open(corrupt="fill")` asks; likewise.
        remaining: blocks that other parts have yet to make (`write(part=)`); 0 where the image is complete.
    """

    path: str
    shapes: tuple[tuple[int, ...], ...]
    blocks: int
    skipped: int
    changed: int
    seconds: float
    bytes_read: int
    bytes_written: int
    stored: int
    clipped: int
    retries: int = 0
    missing: int = 0
    damaged: tuple[str, ...] = ()
    remaining: int = 0

    @property
    def throughput(self) -> float:
        """Bytes of pixels written a second."""
        return self.bytes_written / self.seconds if self.seconds > 0 else 0.0

    def __repr__(self) -> str:
        size = " x ".join(map(str, self.shapes[0]))
        again = f", {self.skipped} were there" if self.skipped else ""
        again += f", {self.changed} made again" if self.changed else ""
        again += f", {self.remaining} are left to other parts" if self.remaining else ""
        notes = f", {self.clipped} voxels clipped" if self.clipped else ""
        notes += f", {self.retries} store calls tried again" if self.retries else ""
        notes += f", {self.missing} missing chunks read as fill" if self.missing else ""
        notes += f", {len(self.damaged)} damaged chunks read as fill" if self.damaged else ""
        return (
            f"Written({self.path}: {size}, {count(len(self.shapes), 'level')}; {count(self.blocks, 'block')}{again}; "
            f"{format_bytes(self.bytes_written)} in {format_time(self.seconds)}, "
            f"{format_bytes(int(self.throughput))}/s{notes})"
        )

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        rows = [
            ["volume", f"{' x '.join(map(str, self.shapes[0]))}, {count(len(self.shapes), 'level')}"],
            ["blocks", f"{self.blocks:,} made, {self.skipped:,} were there"],
            ["pixels", f"{format_bytes(self.bytes_written)}, stored as {format_bytes(self.stored)}"],
            ["time", f"{format_time(self.seconds)}, {format_bytes(int(self.throughput))}/s"],
        ]
        notes = {
            "left to other parts": self.remaining,
            "voxels clipped": self.clipped,
            "missing chunks, shown as fill": self.missing,
            "damaged chunks, shown as fill": len(self.damaged),
            "store calls tried again": self.retries,
        }
        return table(f"Written: {self.path}", [*rows, *([name, f"{n:,}"] for name, n in notes.items() if n)])

    def to_json(self) -> dict[str, Any]:
        """What a file of JSON holds of it; `from_json` reads it."""
        return {"type": "Written", **asdict(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Written:
        """What `to_json` gave. Raises: KeyError, TypeError for other mappings."""
        values = {name: value for name, value in data.items() if name != "type"}
        values["shapes"] = tuple(map(tuple, values["shapes"]))
        values["damaged"] = tuple(values["damaged"])
        return cls(**values)


def written(made: Plan, runs: Sequence[RunTotals], *, seconds: float, remaining: int = 0) -> Written:
    """The result of one or several runs over the blocks of a plan."""
    first, last = runs[0], runs[-1]
    return Written(
        made.path,
        tuple(level.layout.shape for level in made.levels),
        sum(one.blocks for one in runs),
        first.skipped,
        sum(one.changed for one in runs),
        seconds,
        sum(one.bytes_read for one in runs),
        sum(one.bytes_written for one in runs),
        sum(one.stored for one in runs),
        sum(one.clipped for one in runs),
        sum(one.retries for one in runs),
        last.missing,
        tuple(sorted(last.damaged)),
        remaining,
    )


def warn_of(
    result: Written, *, dtype: Any, stacklevel: int, remedy: str = "the same command makes their blocks again"
) -> None:
    """Warn of voxels that were clamped, and of chunks that are shown as the fill value.

    Args:
        remedy: what makes them good once missing chunks exist.
    """
    messages = []
    if result.clipped:
        messages.append(f"{result.clipped} voxels did not fit {dtype} and were clamped")
    if result.missing:
        messages.append(
            f"{result.missing} chunks of the source are not stored and are shown as the fill value; once they exist, "
            f"{remedy}"
        )
    if result.damaged:
        named = ", ".join(result.damaged[:3])
        more = f" and {len(result.damaged) - 3} more" if len(result.damaged) > 3 else ""
        messages.append(f"{len(result.damaged)} damaged chunks were read as the fill value: {named}{more}")
    for message in messages:
        warnings.warn(message, DaskregWarning, stacklevel=stacklevel + 1)
