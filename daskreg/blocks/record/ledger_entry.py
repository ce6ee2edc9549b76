"""`LedgerEntry`: what the ledger says of one finished block, as a line of JSON."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

CRC32C, XXH3 = "crc32c", "xxh3-64"
"""Names of the checksums of files. Chunks end with their own crc32c, and the crc32c of data and its own crc32c is one
constant, so it does not tell two files apart: it is read in ledgers of earlier versions only."""


@dataclass(frozen=True)
class LostChunks:
    """Chunks of the source that a block shows as the fill value.

    Args:
        missing: how many are not stored.
        damaged: names of those that could not be decoded.
    """

    missing: int = 0
    damaged: tuple[str, ...] = ()


NOTHING_LOST = LostChunks()


class LedgerEntry(NamedTuple):
    """A finished block. The order of the fields is that of the values in a line of the ledger.

    A named tuple, since a ledger may have a million: a frozen dataclass takes five times as long to make.

    Args:
        level: of the pyramid.
        block: its index in the tiling of the level.
        fingerprint: of the pixels (source, transform, sampling).
        files: (key in the store, checksum, bytes) of each file that was written.
        clipped: voxels clamped when casting to integers.
        written: seconds since the epoch.
        lost: chunks of the source that it shows as the fill value.
        bytes_read: decoded bytes that came out of the source.
        retries: store calls that were tried again.
        run: id of the run that made it; empty in ledgers of earlier versions.
        session: number of the session that made it; 0 in ledgers of earlier versions.
        check: name of the checksum.
        source: changes when what it was made of does: times and sizes of the source's chunks, or the checksums of the
            level below; empty where that is not known, and in ledgers of earlier versions.
    """

    level: int
    block: tuple[int, ...]
    fingerprint: str
    files: tuple[tuple[str, int, int], ...]
    clipped: int = 0
    written: float = 0.0
    lost: LostChunks = NOTHING_LOST
    bytes_read: int = 0
    retries: int = 0
    run: str = ""
    session: int = 0
    check: str = CRC32C
    source: str = ""

    def is_of(self, run: str) -> bool:
        """Whether a run made it, and not one whose output has been replaced since, by a task that went on."""
        return self.run in {run, ""}

    @property
    def stored(self) -> int:
        """Bytes of its files."""
        return sum(size for _, _, size in self.files)

    @property
    def line(self) -> str:
        """The line of JSON that `parsed` reads: values in their order, which is read twice as fast as with names."""
        lost = [self.lost.missing, self.lost.damaged] if self.lost != NOTHING_LOST else None
        return json.dumps({"v": self._replace(lost=lost)}, separators=(",", ":"))  # type: ignore[arg-type]

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> LedgerEntry:
        """Raises: ValueError, KeyError, TypeError, AttributeError, OverflowError for what is no entry."""
        values = data.get("v")
        return cls._of_names(data) if values is None else cls._of_values(values)

    @classmethod
    def _of_values(cls, values: list[Any]) -> LedgerEntry:
        level, block, fingerprint, files, clipped, written, lost, nbytes, retries, run, session, check, source = values
        return cls(
            int(level),
            tuple([int(i) for i in block]),
            str(fingerprint),
            tuple([(_store_key(key), int(sum_), int(size)) for key, sum_, size in files]),
            int(clipped),
            float(written),
            NOTHING_LOST if lost is None else LostChunks(int(lost[0]), tuple(map(str, lost[1]))),
            int(nbytes),
            int(retries),
            sys.intern(run),
            int(session),
            sys.intern(check),
            str(source),
        )

    @classmethod
    def _of_names(cls, data: dict[str, Any]) -> LedgerEntry:
        """Of a line of versions 1 and 2."""
        get, lost = data.get, data.get("lost")
        return cls(
            int(data["level"]),
            tuple([int(i) for i in data["block"]]),
            str(data["fingerprint"]),
            tuple([(_store_key(key), int(crc), int(size)) for key, crc, size in data["files"]]),
            int(data["clipped"]),
            float(data["written"]),
            _lost(lost) if lost and (lost.get("missing") or lost.get("damaged")) else NOTHING_LOST,
            int(get("bytes_read", 0)),
            int(get("retries", 0)),
            str(get("run", "")),
            int(get("session", 0)),
            str(get("check", CRC32C)),
            str(get("source", "")),
        )


def _lost(data: dict[str, Any]) -> LostChunks:
    return LostChunks(int(data.get("missing", 0)), tuple(map(str, data.get("damaged", ()))))


def entry_now(
    level: int,
    block: tuple[int, ...],
    fingerprint: str,
    files: dict[str, tuple[int, int]],
    *,
    clipped: int = 0,
    lost: LostChunks = NOTHING_LOST,
    bytes_read: int = 0,
    retries: int = 0,
    run: str = "",
    session: int = 0,
    source: str = "",
) -> LedgerEntry:
    """The entry of a block whose files were written just now."""
    listed = tuple((key, crc, size) for key, (crc, size) in sorted(files.items()))
    now = time.time()
    return LedgerEntry(
        level, block, fingerprint, listed, clipped, now, lost, bytes_read, retries, run, session, XXH3, source
    )


_NOT_AN_ENTRY = (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError)
_AT_ONCE = 500
"""Lines that are parsed by one call."""


def parsed(line: bytes | str) -> LedgerEntry | None:
    """The entry of a line; None for a blank or torn one, and for any other that holds no entry."""
    if not line:
        return None
    try:
        return LedgerEntry.from_json(json.loads(line))
    except _NOT_AN_ENTRY:
        return None


def parsed_lines(text: str) -> Iterator[LedgerEntry]:
    """The entries of all lines that hold one."""
    lines = [line for line in text.split("\n") if line]
    for start in range(0, len(lines), _AT_ONCE):
        some = lines[start : start + _AT_ONCE]
        try:
            items = json.loads(f"[{','.join(some)}]")
            if len(items) != len(some):  # a line with a comma between two entries
                raise ValueError(len(items))
            entries = [LedgerEntry.from_json(item) for item in items]
        except _NOT_AN_ENTRY:  # a line among them is torn
            entries = [entry for line in some if (entry := parsed(line)) is not None]
        yield from entries


def _store_key(key: str) -> str:
    """The key of a file.

    Raises: ValueError for one that names no file inside a store.
    """
    if "\0" in key or key.startswith("/") or ".." in key or not key.isprintable():
        raise ValueError(f"{key!r} is no key of a store")
    return key
