"""Which parts of an output are being written: each part has a folder in the ledger's, with a lock that ends with it.

The lock of the output guards the locks of its parts: a part is begun, and looks for others at its end, while it has
that lock; a run of the whole output has it from beginning to end.
"""

from __future__ import annotations

import re
from pathlib import Path

from daskreg.blocks.record.lock import locked
from daskreg.errors import OutputBusyError

_PART = re.compile(r"part-(\d+)-of-(\d+)")


def part_folder(folder: Path, number: int, of: int) -> Path:
    """The folder of a part, inside that of the ledger."""
    return folder / f"part-{number}-of-{of}"


def part_folders(folder: Path) -> dict[tuple[int, int], Path]:
    """The folders of all parts that were ever begun, by (number, of)."""
    found = {}
    for item in folder.glob("part-*-of-*"):
        match = _PART.fullmatch(item.name)
        if match and item.is_dir():
            found[int(match[1]), int(match[2])] = item
    return dict(sorted(found.items()))


def active_parts(folder: Path) -> list[tuple[int, int]]:
    """The parts that are being written now. Only to be asked for by who has the output locked."""
    active = []
    for part, path in part_folders(folder).items():
        with locked(path / "lock") as free:
            if not free:
                active.append(part)
    return active


def refuse_parts(folder: Path) -> bool:
    """Raises: OutputBusyError where parts are being written; else nothing is joined: False."""
    if active := active_parts(folder):
        named = ", ".join(f"{number}/{of}" for number, of in active[:5])
        raise OutputBusyError(
            f"parts of this output are being written ({named}): wait until they are done, or end them"
        )
    return False
