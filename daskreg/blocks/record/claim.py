"""A claim to a folder, for file systems without locks: it belongs to whoever created the last of its numbered files.

`claim-<n>` is created exclusively (O_EXCL), which is atomic on network file systems too (NFS from version 3 on). So of
several runs that begin at once one has it. To take over from the claim n is to create n + 1, so not two can do that.
The files stay, since a number must not be given twice; a claim that is given back says so.

The holder writes its file again every few seconds. On its own machine a claim ends with its process; another machine
sees that its file does not change any more.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from daskreg.runtime.atomic import replace_text

BEAT = 5.0
"""Seconds after which the holder of a claim writes it again."""

QUIET = 4 * BEAT
"""Seconds without a change after which a claim of another machine is taken over. Machines are not compared by their
clocks; network file systems may show a change some seconds late."""


@contextmanager
def claimed(folder: Path) -> Iterator[bool]:
    """Claim a folder until the block ends; gives whether it was free.

    Raises: OSError where no file can be made in it.
    """
    file = _claim(folder)
    if file is None:
        yield False
        return
    ended = threading.Event()
    beating = threading.Thread(target=_beat, args=(file, ended), daemon=True)
    beating.start()
    try:
        yield True
    finally:
        ended.set()
        beating.join()
        with suppress(OSError):
            replace_text(file, json.dumps({"released": True}))


def _claim(folder: Path) -> Path | None:
    """The file of a new claim; None where a run that is alive has one."""
    while True:
        last = max((int(file.name[6:]) for file in folder.glob("claim-*") if file.name[6:].isdigit()), default=-1)
        if last >= 0 and _held(folder / f"claim-{last}"):
            return None
        file = folder / f"claim-{last + 1}"
        try:
            descriptor = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            continue  # another run was faster
        with os.fdopen(descriptor, "w") as opened:
            opened.write(_text(0))
        return file


def _held(file: Path) -> bool:
    """Whether the run that has made a claim is still there; waits until that is known."""
    first = _content(file)
    if first.get("released"):
        return False
    if first.get("host") == _host():
        return _runs(first)
    deadline = time.monotonic() + QUIET
    while time.monotonic() < deadline:
        time.sleep(min(0.5, QUIET / 4))
        now = _content(file)
        if now.get("released"):
            return False
        if now.get("host") == _host():  # it was empty at first: its process had just made it
            return _runs(now)
        if now != first:
            return True
    return False


def _runs(content: dict[str, Any]) -> bool:
    """Whether a process of this machine is the one that made a claim, and not a later one with its number."""
    try:
        return bool(psutil.Process(int(content["pid"])).create_time() == content["started"])
    except (psutil.Error, KeyError, TypeError, ValueError):
        return False


def _content(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _text(beat: int) -> str:
    pid = os.getpid()
    return json.dumps({"host": _host(), "pid": pid, "started": psutil.Process(pid).create_time(), "beat": beat})


def _host() -> str:
    """The name of this machine, and when it was started, as far as the system says that."""
    with suppress(OSError):
        return f"{socket.gethostname()} {Path('/proc/sys/kernel/random/boot_id').read_text().strip()}"
    return socket.gethostname()


def _beat(file: Path, ended: threading.Event) -> None:
    beat = 0
    while not ended.wait(BEAT):
        beat += 1
        with suppress(OSError):
            replace_text(file, _text(beat))
