"""Read back every file of an image that daskreg wrote, and check that it exists, is unchanged, and decodes."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import google_crc32c
import xxhash
import zarr

from daskreg.blocks.record.ledger import Ledger
from daskreg.blocks.record.ledger_entry import CRC32C, LedgerEntry
from daskreg.errors import NotAVolumeError, StoreError
from daskreg.geometry import Box, tile
from daskreg.runtime.device import cores
from daskreg.runtime.paths import shown, unusable
from daskreg.runtime.progress import ByteProgress
from daskreg.runtime.threads import in_threads
from daskreg.sources.storage.access import is_object_url
from daskreg.sources.storage.direct_chunks import direct_chunks
from daskreg.sources.storage.retrying import EmptyValueError
from daskreg.sources.storage.stores import open_store

Index = tuple[int, ...]


def verify_output(path: str | os.PathLike[str], progress: ByteProgress | None = None) -> Iterator[str]:
    """Check an image against its ledger, a few blocks at a time; yields a line for each thing wrong.

    Each level must be an array of the recorded shape, type and chunks. Each of its blocks must be in
    the ledger, and each file of a block must exist, hold the bytes that were written (size and
    checksum), and decode. Ledgers of earlier versions have a crc32c, which is the same for all files of one size.

    Raises: NotAVolumeError where there is no ledger beside `path`.
    """
    text = os.fspath(path).removeprefix("file://")
    if not is_object_url(text):
        if reason := unusable(text, room=len(".daskreg")):
            raise NotAVolumeError(f"{shown(text)} cannot be read: {reason}")
        text = os.path.realpath(text)
    ledger = Ledger(text)
    if not ledger.exists:
        raise NotAVolumeError(f"{path} has no ledger ({ledger.records.where()}) beside it: daskreg did not write it")
    facts, entries = ledger.facts(), ledger.entries()
    checks = []
    for level, block in enumerate(ledger.block_shapes()):
        shape = Box.of(facts[f"level {level} shape"]).shape
        array = _opened(ledger, level)
        wrong = _metadata(array, facts, level) if array is not None else f"level {level}: the array cannot be opened"
        if wrong:
            yield wrong
            continue
        checks.append((level, array, shape, block))
    work = (
        (ledger, entries.get((level, index)), level, index, array, box)
        for level, array, shape, block in checks
        for index, box in tile(shape, block)
    )
    total = sum(math.prod(-(-n // b) for n, b in zip(shape, block, strict=True)) for _, _, shape, block in checks)
    nbytes = 0

    def check(item: tuple[Any, ...]) -> tuple[list[str], int]:
        return _block(*item)

    with closing(in_threads(cores(), check, work, in_order=True)) as checked:
        for done, (problems, size) in enumerate(checked, 1):
            yield from problems
            nbytes += size
            if progress is not None:
                progress(done, total, nbytes)


def _block(  # noqa: PLR0917
    ledger: Ledger, entry: LedgerEntry | None, level: int, index: Index, array: zarr.Array[Any], box: Box
) -> tuple[list[str], int]:
    """What is wrong with one block, and how many bytes its files have."""
    if entry is None:
        return [f"level {level}, block {index}: not finished"], 0
    problems = []
    for key, crc, size in entry.files:
        problem = _file(
            ledger, key, crc, size, google_crc32c.value if entry.check == CRC32C else xxhash.xxh3_64_intdigest
        )
        if problem:
            problems.append(f"{key}: {problem}")
    if not problems:
        try:
            chunks = direct_chunks(array)
            if chunks is None:
                array[box.slices]
            else:
                chunks.read(box)
        except Exception as error:
            problems.append(f"level {level}, block {index}: does not decode ({type(error).__name__}: {error})")
    return problems, sum(size for _, _, size in entry.files)


def _file(ledger: Ledger, key: str, written: int, size: int, check: Callable[[Any], int]) -> str | None:
    """What is wrong with one file; None where nothing is."""
    try:
        data = ledger.image.get(key) if ledger.remote else (ledger.output / key).read_bytes()
    except FileNotFoundError:
        return "missing"
    except EmptyValueError:
        data = b""
    except OSError as error:
        return f"cannot be read ({error})"
    if data is None:
        return "missing"
    if len(data) != size:
        return f"{len(data)} bytes, {size} were written"
    return None if check(data) == written else "its bytes have changed (checksum)"


def _opened(ledger: Ledger, level: int) -> zarr.Array[Any] | None:
    try:
        store = open_store(ledger.place) if ledger.remote else ledger.output
        return zarr.open_array(store, path=str(level), mode="r")
    except StoreError:
        raise
    except Exception:
        return None


def _metadata(array: zarr.Array[Any], facts: dict[str, Any], level: int) -> str | None:
    """The first difference between an array's metadata and the ledger; None where they agree."""
    for name, value in (("shape", array.shape), ("dtype", array.dtype.str), ("chunks", array.chunks)):
        recorded = facts[f"level {level} {name}"]
        if (list(value) if isinstance(value, tuple) else value) != recorded:
            return f"level {level}: its {name} is {value}, and {recorded} was written"
    return None
