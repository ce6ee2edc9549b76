"""A claim, where there are no locks: it belongs to whoever created the last of some numbered files or objects.

`claim-<n>` is created only where it is not there: by O_EXCL, which is atomic on network file systems too (NFS from
version 3 on), or in an object store by a conditional put. So of several runs that begin at once one has it. To take
over from the claim n is to create n + 1, so not two can do that. The files stay, since a number must not be given
twice; a claim that is given back says so.

The holder writes its file again every few seconds. On its own machine a claim ends with its process; another machine
sees that its file does not change any more.
"""

from __future__ import annotations

import json
import os
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psutil

from daskreg.runtime.machine import process_runs, this_machine
from daskreg.sources.storage.byte_store import ByteStore

BEAT = 5.0
"""Seconds after which the holder of a claim writes it again."""

QUIET = 4 * BEAT
"""Seconds without a change after which a claim of another machine is taken over. Machines are not compared by their
clocks; network file systems may show a change some seconds late."""

REMOTE = 3
"""Times that both are longer in an object store, whose answers may take some tries."""

_held_here: set[str] = set()
"""Claims of this process that have not ended."""


@contextmanager
def claimed(records: ByteStore) -> Iterator[bool]:
    """Claim the output that some records are of, until the block ends; gives whether it was free.

    Raises: OSError where nothing can be put there.
    """
    mine = uuid.uuid4().hex
    _held_here.add(mine)
    try:
        key = _claim(records, mine)
    except BaseException:
        _held_here.discard(mine)
        raise
    if key is None:
        _held_here.discard(mine)
        yield False
        return
    ended = threading.Event()
    beating = threading.Thread(target=_beat, args=(records, key, mine, ended), daemon=True)
    beating.start()
    try:
        yield True
    finally:
        ended.set()
        beating.join()
        _held_here.discard(mine)  # also where the store does not take the next line any more
        with suppress(OSError):
            records.put(key, [json.dumps({"released": True}).encode()])


def _claim(records: ByteStore, mine: str) -> str | None:
    """The key of a new claim; None where a run that is alive has one."""
    while True:
        last = max((int(key[6:]) for key in records.listing("claim-") if key[6:].isdigit()), default=-1)
        if last >= 0 and _held(records, f"claim-{last}"):
            return None
        key = f"claim-{last + 1}"
        if records.create(key, _text(mine, 0)):  # else another run was faster
            return key


def _held(records: ByteStore, key: str) -> bool:
    """Whether the run that has made a claim is still there; waits until that is known."""
    first = _content(records, key)
    if first.get("released"):
        return False
    if first.get("host") == this_machine():
        return _runs(first)
    quiet = QUIET * REMOTE if records.remote else QUIET
    deadline = time.monotonic() + quiet
    while time.monotonic() < deadline:
        time.sleep(min(0.5, quiet / 4))
        now = _content(records, key)
        if now.get("released"):
            return False
        if now.get("host") == this_machine():  # it was empty at first: its process had just made it
            return _runs(now)
        if now != first:
            return True
    return False


def _runs(content: dict[str, Any]) -> bool:
    """Whether a process of this machine is the one that made a claim, and not a later one with its number."""
    if content.get("pid") == os.getpid():
        return content.get("claim") in _held_here
    try:
        return process_runs(int(content["pid"]), content["started"])
    except (KeyError, TypeError, ValueError):
        return False


def _content(records: ByteStore, key: str) -> dict[str, Any]:
    try:
        content = json.loads(bytes(records.get(key) or b""))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _text(mine: str, beat: int) -> bytes:
    """What a claim says; `mine` tells it from those of others (`ByteStore.create`)."""
    pid = os.getpid()
    started = psutil.Process(pid).create_time()
    return json.dumps({"host": this_machine(), "pid": pid, "started": started, "beat": beat, "claim": mine}).encode()


def _beat(records: ByteStore, key: str, mine: str, ended: threading.Event) -> None:
    beat = 0
    while not ended.wait(BEAT * REMOTE if records.remote else BEAT):
        beat += 1
        with suppress(OSError):
            records.put(key, [_text(mine, beat)])
