"""Which parts of an output are being written: each part has a folder in the ledger's, with a lock that ends with it.
In an object store, it is a claim.

The lock of the output guards the locks of its parts: a part is begun, and looks for others at its end, while it has
that lock; a run of the whole output has it from beginning to end.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from daskreg.blocks.record.claim import claimed
from daskreg.blocks.record.lock import locked
from daskreg.errors import OutputBusyError
from daskreg.runs.record import RecordFolder
from daskreg.sources.storage.object_bytes import ObjectBytes

MOST_AT_ONCE = 64
"""Parts that are looked at together."""

_PART = re.compile(r"part-(\d+)-of-(\d+)")


def part_folder(folder: RecordFolder, number: int, of: int) -> RecordFolder:
    """The folder of a part, inside that of the ledger."""
    name = f"part-{number}-of-{of}"
    return folder / name if isinstance(folder, Path) else ObjectBytes(folder.where(name))


def part_folders(folder: RecordFolder) -> dict[tuple[int, int], RecordFolder]:
    """The folders of all parts that were ever begun, by (number, of)."""
    if isinstance(folder, Path):
        names = [item.name for item in folder.glob("part-*-of-*") if item.is_dir()]
    else:
        names = folder.names("")
    matches = filter(None, map(_PART.fullmatch, names))
    parts = sorted((int(match[1]), int(match[2])) for match in matches)
    return {part: part_folder(folder, *part) for part in parts}


@contextmanager
def part_locked(folder: RecordFolder) -> Iterator[bool]:
    """Lock a part, whose folder is made, until the block ends; gives whether it was free.

    Raises: OSError.
    """
    if isinstance(folder, Path):
        folder.mkdir(exist_ok=True)
    with locked(folder / "lock") if isinstance(folder, Path) else claimed(folder) as free:
        yield free


def active_parts(folder: RecordFolder) -> list[tuple[int, int]]:
    """The parts that are being written now. Only to be asked for by who has the output locked.

    All are looked at together: where there are no locks, a claim of another machine takes seconds to look at.
    """
    parts = part_folders(folder)
    if not parts:
        return []
    with ThreadPoolExecutor(min(len(parts), MOST_AT_ONCE)) as pool:
        return [part for part, free in zip(parts, pool.map(_is_free, parts.values()), strict=True) if not free]


def _is_free(part: RecordFolder) -> bool:
    with part_locked(part) as free:
        return free


def refuse_parts(folder: RecordFolder) -> bool:
    """Raises: OutputBusyError where parts are being written; else nothing is joined: False."""
    if active := active_parts(folder):
        named = ", ".join(f"{number}/{of}" for number, of in active[:5])
        raise OutputBusyError(
            f"parts of this output are being written ({named}): wait until they are done, or end them"
        )
    return False
