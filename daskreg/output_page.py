"""The page about an output of `write`: whether it is complete, a slice and side views, and what is recorded of it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from dask.utils import format_bytes

from daskreg.blocks.record.ledger import Ledger
from daskreg.errors import InputError, ShapeMismatchError
from daskreg.geometry import Grid
from daskreg.reporting.page import report
from daskreg.reporting.planes import Singles, cut, indices_with_content, places
from daskreg.reporting.section import Section, Verdict, without_empty
from daskreg.reporting.views import Comparison, in_greys
from daskreg.reporting.words import count, duration, listed, symbol
from daskreg.runs.status import RunStatus
from daskreg.runs.status import status as run_status
from daskreg.runs.written import Written
from daskreg.runtime.paths import local_path
from daskreg.volumes import Volume, level_grids, volume_of
from daskreg.volumes import open as open_volume

MOST = 768
"""Voxels along each axis of the pyramid level that is shown, at most."""


def report_output(
    output: str | os.PathLike[str] | Written, page: str | os.PathLike[str], *, before: Any = None, command: str = ""
) -> Path:
    """Write an HTML page about an output, and the same facts as JSON beside it.

    Args:
        output: path of an OME-Zarr image that `write` made, or what `write` returned.
        before: a volume of the same shape, such as the stack that was aligned, to compare it with.
        command: the line of a terminal that made it.

    Returns: the path of the page.
    Raises: OptionError for an output in an object store; InputError where daskreg did not write it; ShapeMismatchError
        for a volume of another shape.
    """
    written = output if isinstance(output, Written) else None
    path = local_path(os.fspath(output.path if isinstance(output, Written) else output).removeprefix("file://"))
    facts = _facts(path)
    title = f"daskreg: {path.name}"
    return report(
        written or facts,
        page,
        title=title,
        sections=[lambda: output_section(path, before=before, written=written)],
        command=command,
    )


def output_section(path: Path, *, before: Any = None, written: Written | None = None) -> Section:
    """What a page shows of an output."""
    status, facts = run_status(str(path)), _facts(path)
    return Section(
        heading="A written volume",
        verdict=_verdict(status, facts),
        comparisons=_pictures(path, before),
        numbers=without_empty(
            [
                ("Blocks", f"{status.done:,} of {status.total:,} are finished"),
                ("Stored", format_bytes(facts["stored"])),
                ("Voxels that did not fit the type, clamped", f"{facts['clipped']:,}" if facts["clipped"] else ""),
                ("Missing chunks of the source, shown as fill", str(facts["missing"] or "")),
                ("Damaged chunks of the source, shown as fill", listed(facts["damaged"], 5)),
                ("Time", "" if written is None else duration(written.seconds)),
                ("Speed", "" if written is None else f"{format_bytes(int(written.throughput))}/s of pixels"),
                ("Store calls tried again", str(status.retries or "")),
            ]
        ),
        settings=tuple((f"Level {k}", _grid_words(grid)) for k, grid in enumerate(level_grids(path))),
        calls=(
            *((("Command", status.command),) if status.command else ()),
            ("Python", f"import daskreg as dr\n\nvolume = dr.open({str(path)!r})"),
        ),
    )


def _facts(path: Path) -> dict[str, Any]:
    """What the ledger beside an output says."""
    ledger = Ledger(path.resolve())
    if not ledger.exists:
        raise InputError(f"{path} has no ledger {ledger.folder.name} next to it: daskreg did not write it as an output")
    entries = list(ledger.entries().values())
    return {
        "output": str(path),
        "blocks": [sum(e.level == k for e in entries) for k in range(1 + max((e.level for e in entries), default=0))],
        "stored": sum(size for entry in entries for _, _, size in entry.files),
        "clipped": sum(entry.clipped for entry in entries),
        "missing": sum(entry.lost.missing for entry in entries if entry.level == 0),
        "damaged": sorted({name for entry in entries for name in entry.lost.damaged}),
    }


def _verdict(status: RunStatus, facts: dict[str, Any]) -> Verdict:
    if status.state != "done":
        said = f"The volume is not complete ({status.state}): {status.done:,} of {status.total:,} blocks are finished."
        return Verdict(False, said, "Run the same call or command again: it makes only the blocks that are missing.")
    filled = facts["missing"] + len(facts["damaged"])
    if filled:
        return Verdict(
            False,
            f"The volume is complete, but {count(filled, 'chunk')} of the source were missing or damaged, and show the "
            "fill value.",
            "If the source can be mended, run the same call or command again: it makes their blocks again.",
        )
    return Verdict(True, f"The volume is complete: all of it is written, in {count(status.total, 'block')}.")


def _grid_words(grid: Grid) -> str:
    size = " × ".join(f"{name} {n:,}" for name, n in zip(grid.names, grid.shape, strict=True))
    return f"{size} voxels of {' × '.join(f'{s:.5g}' for s in grid.spacing)} {symbol(grid.unit)}".rstrip()


def _pictures(path: Path, before: Any) -> tuple[Comparison, ...]:
    """Planes of the finest level that is small, and of what it is compared with."""
    grids = level_grids(path)
    level = next((k for k, grid in enumerate(grids) if max(grid.shape) <= MOST), len(grids) - 1)
    shown = _first_image(volume_of(open_volume(path, level=level)))
    if shown.grid.ndim not in (2, 3):
        return ()
    steps = [-(-n // MOST) for n in shown.grid.shape]
    voxels = shown.array.data
    found = places(shown.grid, steps, indices_with_content(voxels, steps))
    planes: list[tuple[Singles, ...]] = [(cut(voxels, place, steps),) for place in found]
    names: tuple[str, ...] = ("output",)
    other = None if before is None else _first_image(volume_of(before))
    if other is not None and other.grid.shape != grids[0].shape:
        raise ShapeMismatchError(
            f"before has the shape {other.grid.shape} and the output {grids[0].shape}: give a volume of the same "
            "shape, such as warp(before, pull=..., like=output)"
        )
    if other is not None:
        coarser = [-(-a // b) for a, b in zip(other.grid.shape, shown.grid.shape, strict=True)]
        finer = [s * k for s, k in zip(steps, coarser, strict=True)]
        below = [replace(place, index=place.index * coarser[place.axis or 0]) for place in found]
        raw = [cut(other.array.data, place, finer) for place in below]
        planes, names = [(r, p[0]) for r, p in zip(raw, planes, strict=True)], ("before", "after")
    caption = "A slice and side views" + (f", of pyramid level {level}" if level else "")
    return (in_greys(found, planes, caption + ".", names),)


def _first_image(volume: Volume) -> Volume:
    """The first channel at the first time."""
    return volume_of(volume.array.isel(dict.fromkeys(volume.source.lead, 0))) if volume.source.lead else volume
