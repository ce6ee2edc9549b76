"""Lines of a ledger in objects that are never written again, here in the files of a folder."""

from __future__ import annotations

import re
from pathlib import Path

from daskreg.blocks.record.journals import MOST_OBJECTS, ObjectJournals
from daskreg.blocks.record.ledger_entry import entry_now, parsed_lines
from daskreg.sources.storage.folder_bytes import FolderBytes


def test_the_latest_entry_of_a_block_is_the_last_one_after_objects_were_put_together(tmp_path: Path) -> None:
    """Names of objects do not sort as their times do: 10 comes before 9."""
    journals = ObjectJournals(FolderBytes(tmp_path))
    for number in range(MOST_OBJECTS + 5):
        block = 7 if number in {9, 10} else number
        entry = entry_now(0, (block,), f"made {number}", {}, session=1)._replace(written=float(number))
        journals.append(entry.line)
    journals.compact()
    [text] = list(journals.texts())
    found = {entry.block: entry.fingerprint for entry in parsed_lines(text.decode())}
    assert found[(7,)] == "made 10"
    assert len(found) == MOST_OBJECTS + 5 - 2
    assert all(re.match(r"made \d+", name) for name in found.values())
