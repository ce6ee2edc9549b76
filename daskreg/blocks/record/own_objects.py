"""Which objects of an output and of its ledger daskreg made, in an object store. No other object is ever removed.

The names are those of `record.own_files`. There is no rename that removes an output in one step: the entries of the
ledger go first, so that an output of which some objects are gone is never taken for finished, and `run.json` last.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from daskreg.blocks.record.journals import ENTRIES
from daskreg.blocks.record.ledger import Ledger
from daskreg.blocks.record.own_files import Counts, before_run, is_made, is_record, listed, metadata_files, unit_counts
from daskreg.errors import OutputExistsError


def foreign_objects(ledger: Ledger, counts: Counts) -> Iterator[str]:
    """Keys inside an output that daskreg did not make."""
    for key in ledger.image.listing():
        *parts, name = key.split("/")
        if not is_made(tuple(parts), name, counts):
            yield key


def remove_objects(ledger: Ledger) -> None:
    """Remove an output and what its ledger records; only for outputs that daskreg made.

    Raises: OutputExistsError that names objects which daskreg did not make; then nothing is removed.
    """
    foreign = list(islice(foreign_objects(ledger, unit_counts(ledger.facts())), 4))
    if foreign:
        raise OutputExistsError(
            f"{ledger.place} holds what daskreg did not make ({listed(foreign)}): move that away first, or choose "
            "another URL; nothing was removed"
        )
    ledger.records.delete(list(ledger.records.listing(ENTRIES)))
    keys = list(ledger.image.listing())
    metadata = set(metadata_files(ledger.facts()))
    ledger.image.delete([key for key in keys if key not in metadata])
    ledger.image.delete([key for key in keys if key in metadata])
    clear_records(ledger)


def clear_records(ledger: Ledger) -> None:
    """Remove the objects of a ledger, `run.json` last; those by which this process has claimed it stay."""
    keys = [key for key in ledger.records.listing() if key.startswith(ENTRIES) or is_record(key)]
    ledger.records.delete([key for key in keys if key != "run.json"])
    ledger.records.delete(["run.json"])


def foreign_records(ledger: Ledger) -> list[str]:
    """What is at the place of a ledger that has no `run.json`, other than what a run makes before that object."""
    return sorted({key for key in ledger.records.listing() if not before_run(key) and not key.startswith(ENTRIES)})
