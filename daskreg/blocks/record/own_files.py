"""Which files of an output and of its ledger daskreg made. No other file is ever removed.

In an output, these are the metadata files of the group and of its levels, and the files of the units (chunks or shards)
of each level, whose names follow from the layout in the ledger. That also finds files which were written just
before their process was killed. Symbolic links are never taken for files of daskreg, and are not followed.
`record.own_objects` does the same in object stores.
"""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from daskreg.blocks.record.ledger import Ledger
from daskreg.errors import OutputExistsError
from daskreg.formats.ome import V2

_PARTIAL = re.compile(r"(?P<name>.+?)\.[0-9a-f]{16,32}\.partial")
LEDGER = re.compile(r"run\.json|session|.+-\d+-[0-9a-f]{8}\.jsonl|state\.json|cancel")
_PART = re.compile(r"part-\d+-of-\d+")
_LOCKS = re.compile(r"lock|claim-\d+")
_MOVED = re.compile(r"(removed|metadata)-[0-9a-f]{32}")

_METADATA = ("zarr.json",)
_METADATA_V2 = (".zgroup", ".zattrs", ".zarray")


class Counts(tuple[tuple[int, ...], ...]):
    """Number of units of each level along each axis.

    `v2` says whether files have the names of Zarr v2.
    """

    v2: bool = False


def is_v2(facts: Mapping[str, Any]) -> bool:
    """Whether an output with these facts is of Zarr v2."""
    return facts.get("format") == f"ome-zarr {V2}"


def metadata_files(facts: dict[str, Any]) -> list[str]:
    """The metadata files of an output, that with the attributes of the group first."""
    levels = range(facts["number of levels"])
    if is_v2(facts):
        return [".zattrs", ".zgroup", *(f"{level}/.zarray" for level in levels)]
    return ["zarr.json", *(f"{level}/zarr.json" for level in levels)]


def group_attributes(facts: Mapping[str, Any], text: bytes) -> dict[str, Any]:
    """The attributes of the group, out of the first of its metadata files.

    Raises: ValueError, KeyError, TypeError, RecursionError where it is damaged.
    """
    stored = json.loads(text)
    return dict(stored if is_v2(facts) else stored["attributes"])


def unit_counts(facts: dict[str, Any]) -> Counts:
    """From the facts of a layout (`Ledger.layout`)."""
    counts = []
    for level in range(facts["number of levels"]):
        unit = facts.get(f"level {level} shards") or facts[f"level {level} chunks"]
        counts.append(tuple(-(-n // u) for n, u in zip(facts[f"level {level} shape"], unit, strict=True)))
    made = Counts(counts)
    made.v2 = is_v2(facts)
    return made


def foreign_files(folder: Path, counts: Counts) -> Iterator[str]:
    """Paths inside an output that daskreg did not make; of a foreign folder, the folder alone."""
    for path, made in _below(folder, (), counts):
        if not made:
            yield os.path.relpath(path, folder)


def remove_partials(output: Path, counts: Counts) -> None:
    """Remove temporary files that a killed process left in an output."""
    for path, made in _below(output, (), counts):
        if made and path.endswith(".partial"):
            Path(path).unlink(missing_ok=True)


def remove_output(ledger: Ledger) -> None:
    """Remove an output and what its ledger records; only for outputs that daskreg made.

    The output is first moved into the ledger's folder, in one step, so that a kill never leaves half of it.

    Raises: OutputExistsError that names files which daskreg did not make; then nothing is removed.
    """
    counts = unit_counts(ledger.layout()["facts"])
    if ledger.output.exists():
        foreign = list(islice(foreign_files(ledger.output, counts), 4))
        if foreign:
            raise OutputExistsError(
                f"{ledger.output} holds what daskreg did not make ({listed(foreign)}): move that away first, or choose "
                "another path; nothing was removed"
            )
        ledger.output.rename(ledger.folder / f"removed-{uuid.uuid4().hex}")
    for item in list(ledger.folder.iterdir()):
        if _MOVED.fullmatch(item.name) and item.is_dir() and not item.is_symlink():
            remove_made(item, counts)
    clear_ledger(ledger)


def remove_made(folder: Path, counts: Counts) -> None:
    """Remove the files of an output from a folder, and the folders that are empty then."""
    for path, made in _below(folder, (), counts):
        if made:
            Path(path).unlink(missing_ok=True)
    for parent, _, _ in os.walk(folder, topdown=False):
        if not os.listdir(parent):
            os.rmdir(parent)


def clear_ledger(ledger: Ledger) -> None:
    """Remove the files of a ledger, `run.json` last; those by which this process has locked it stay."""
    for part in [item for item in ledger.folder.iterdir() if _PART.fullmatch(item.name) and item.is_dir()]:
        for item in part.iterdir():
            if LEDGER.fullmatch(_whole_name(item.name)) or _LOCKS.fullmatch(item.name):
                item.unlink()
        with suppress(OSError):  # it holds what daskreg did not make
            part.rmdir()
    for item in sorted(ledger.folder.iterdir(), key=lambda item: item.name == "run.json"):
        if LEDGER.fullmatch(_whole_name(item.name)) and item.is_file():
            item.unlink()


def remove_empty_ledger(ledger: Ledger) -> None:
    """Remove the folder of a ledger, where nothing but locks is in it."""
    if ledger.exists or foreign_beside(ledger):
        return
    for item in ledger.folder.iterdir():
        item.unlink(missing_ok=True)
    ledger.folder.rmdir()


def foreign_beside(ledger: Ledger) -> list[str]:
    """What is in the folder of a ledger that has no `run.json`, other than what a run makes before that file."""
    names = (item.name for item in ledger.folder.iterdir() if item.is_dir() or not before_run(item.name))
    return sorted(names)


def lacks_run_alone(ledger: Ledger) -> bool:
    """Whether a folder holds the files of a ledger but its `run.json`, which was lost (as after a power failure)."""
    names = [item.name for item in ledger.folder.iterdir() if item.is_file()]
    journals = any(name.endswith(".jsonl") for name in names)
    return journals and all(
        LEDGER.fullmatch(_whole_name(name)) or _PART.fullmatch(name) for name in foreign_beside(ledger)
    )


def listed(names: list[str], most: int = 3) -> str:
    """For messages: the first of some names."""
    return ", ".join(names[:most]) + (" and more" if len(names) > most else "")


def _below(folder: str | Path, parts: tuple[str, ...], counts: Counts) -> Iterator[tuple[str, bool]]:
    """Files below a folder of an output, and folders that are not daskreg's; each with whether daskreg made it.

    Args:
        parts: of the path from the output to the folder.
    """
    with os.scandir(folder) as items:
        entries = list(items)
    for item in entries:
        if not item.is_dir(follow_symlinks=False):
            yield item.path, item.is_file(follow_symlinks=False) and is_made(parts, item.name, counts)
        elif _made_folder((*parts, item.name), counts):
            yield from _below(item.path, (*parts, item.name), counts)
        else:
            yield item.path, False


def is_made(parts: tuple[str, ...], name: str, counts: Counts) -> bool:
    """Whether a file in a folder of an output has one of the names that daskreg gives."""
    partial = _PARTIAL.fullmatch(name)
    name = _whole_name(name)
    known = name in (_METADATA_V2 if counts.v2 else _METADATA)
    if known or (partial and name == "zarr"):  # zarr-python's own temporary files
        return not parts or (len(parts) == 1 and _made_folder(parts, counts))
    whole = (*parts, name)
    before = 1 if counts.v2 else 2
    return len(whole) > before and _made_folder(whole, counts) and len(whole) == before + len(counts[int(whole[0])])


def _made_folder(parts: tuple[str, ...], counts: Counts) -> bool:
    """Whether parts of a path are those of a level, of its chunks, or the first of the numbers of a unit."""
    level, rest = _number(parts[0]), parts[1:]
    if level is None or level >= len(counts):
        return False
    numbers = [_number(part) for part in (rest if counts.v2 else rest[1:])]
    return (not rest or counts.v2 or rest[0] == "c") and all(
        i is not None and i < n for i, n in zip(numbers, [*counts[level], *[0] * len(numbers)], strict=False)
    )


def _number(text: str) -> int | None:
    return int(text) if re.fullmatch(r"0|[1-9][0-9]{0,18}", text) else None


def is_record(key: str) -> bool:
    """Whether a key below a ledger is of its records, or of those of a part of its run, whose claims are among them."""
    part, _, name = key.rpartition("/")
    if not part:
        return bool(LEDGER.fullmatch(name))
    return bool(_PART.fullmatch(part) and (LEDGER.fullmatch(name) or _LOCKS.fullmatch(name)))


def before_run(name: str) -> bool:
    whole = _whole_name(name)
    return bool(_LOCKS.fullmatch(whole)) or (name != whole and whole == "run.json")


def _whole_name(name: str) -> str:
    """The name of a file; of a temporary one, that of the file that it was to become."""
    partial = _PARTIAL.fullmatch(name)
    return partial["name"] if partial else name
