"""Damaged files: whether every reader answers with a typed error, in time and in little memory.

Files of each format are damaged at random (bytes and numbers replaced, parts cut, repeated or nested) and read in
processes of their own. Wanted are 0 errors that are not daskreg's, 0 crashes, 0 hangs, and a peak of memory of less
than 200 MB above that of the process before.

    python benchmarks/mutations.py                    # 5,000 mutations of each format
    python benchmarks/mutations.py --count 40 --only nrrd --only "transform h5"

Mutation k of a format is the same in each run, so a finding can be repeated: `--first K --count 1`.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import random
import resource
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SECONDS = 20
"""A file that takes longer counts as a hang. The limit is generous because machines are shared."""

START_SECONDS = 120
"""How long a process may take to start, and to make its files."""

FEW = 100
"""Up to so many mutations, one process reads all formats."""

MEMORY = 200 * 10**6
"""Bytes that reading a file of a few kB may take."""

NUMBERS = ["0", "-1", "1", "3", "7", "255", "65536", "2147483647", "4294967296", "9223372036854775807", "1e9", "1e308",
           "1e999", "nan", "-inf", "0.5", "", "x", "١", '"', "[]", "{}", "null", "9" * 400]  # fmt: skip
WORDS = [b"../a", b"/etc/hostname", b"\x00", b"\xff\xfe", b"\xed\xa0\x80", b"%s%n", b"\n", b"\n\n", b": ", b"LIST",
         b"true", b"gzip", b"&a [*a]", b"[" * 3000, b'{"a":' * 3000, b"(" * 3000, b"  " * 3000]  # fmt: skip
BYTES = [0, 1, 2, 4, 8, 16, 32, 64, 127, 128, 255]


def mutated(original: bytes, rng: random.Random) -> bytes:
    """The bytes with one to four changes, most of them near the beginning, where headers are."""
    data = bytearray(original)
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        size = max(1, len(data))
        at = min(size - 1, int(rng.expovariate(1 / min(size, 300)))) if rng.random() < 0.8 else rng.randrange(size)
        width = rng.choice([1, 1, 2, 4, 8])
        change = rng.random()
        if change < 0.35:
            data[at : at + width] = bytes(rng.choice(BYTES) for _ in range(width))
        elif change < 0.5:
            data[at : at + width] = rng.choice([0, 1, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1, 65535]).to_bytes(
                8, rng.choice(["little", "big"])
            )[:width]
        elif change < 0.7:
            data = _other_number(data, at, rng)
        elif change < 0.8:
            data[at:at] = rng.choice(WORDS)
        elif change < 0.88:
            del data[at : at + rng.choice([1, 2, 8, 64, size])]
        elif change < 0.96:
            start = rng.randrange(size)
            data[at:at] = data[start : start + rng.choice([4, 30, 200])]
        elif data:
            at = min(at, len(data) - 1)
            data[at] ^= 1 << rng.randrange(8)
    return bytes(data)


def _other_number(data: bytearray, at: int, rng: random.Random) -> bytearray:
    """The text with one number (or word) in place of that which follows a position."""
    while at < len(data) and not chr(data[at]).isalnum():
        at += 1
    end = at
    while end < len(data) and (chr(data[end]).isalnum() or chr(data[end]) in ".-+"):
        end += 1
    return data[:at] + bytearray(rng.choice(NUMBERS).encode()) + data[end:]


def worker(names: list[str], first: int, count: int) -> None:
    """Read mutations of some formats, of the first one from number `first` on; print a line of JSON for each."""
    from mutations_inputs import FORMATS

    warnings.simplefilter("ignore")
    # What asks for more gets a MemoryError instead of the machine's memory.
    resource.setrlimit(resource.RLIMIT_DATA, (8 << 30, 8 << 30))
    resource.setrlimit(resource.RLIMIT_FSIZE, (4 << 30, 4 << 30))
    for k, name in enumerate(names):
        folder = Path(tempfile.mkdtemp(dir=Path.cwd()))
        form = FORMATS[name]
        path = folder / form.name
        form.make(path)
        target = folder / (form.target or form.name)
        original = target.read_bytes()
        form.use(path)
        for number in range(0 if k else first, count):
            target.unlink(missing_ok=True)  # a new file: libraries remember those that they have open
            target.write_bytes(mutated(original, random.Random(f"{name} {number}")))
            print(json.dumps({"format": name, "begin": number}), flush=True)
            print(json.dumps({"format": name, "number": number, **outcome(form.use, path)}), flush=True)


def outcome(use: Callable[[Path], Any], path: Path) -> dict[str, Any]:
    """What reading one file ends with, and what it takes."""
    from daskreg.errors import DaskregError
    from daskreg.sources.handles import forget

    forget()
    before, started = _peak(reset=True), time.monotonic()
    kind, reason = "opened", ""
    try:
        use(path)
    except DaskregError as error:
        kind, reason = "typed", str(error)
        if not reason.isprintable() or len(reason) > 1000:
            kind, reason = "untyped", f"a message of {len(reason)} characters in {len(reason.splitlines())} lines"
    except BaseException as error:
        place = traceback.extract_tb(error.__traceback__)
        own = [f"{Path(f.filename).name}:{f.lineno}" for f in place if "daskreg" in f.filename][-1:]
        kind, reason = "untyped", f"{type(error).__name__} {' '.join(own)} {str(error)[:90]!r}"
    return {"kind": kind, "reason": reason, "seconds": time.monotonic() - started, "peak": _peak() - before}


def _peak(reset: bool = False) -> int:
    """The peak of this process' resident memory, since the last reset; 0 where the system does not tell (not Linux)."""
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


@dataclass
class Tally:
    """Outcomes of the mutations of one format; `found` and `examples` by what went wrong."""

    counts: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)
    examples: dict[str, int] = field(default_factory=dict)
    peak: int = 0
    longest: float = 0.0

    def note(self, kind: str, reason: str, at: int) -> None:
        self.counts[kind] += 1
        if kind not in ("opened", "typed"):
            self.found[f"{kind}: {reason}"] += 1
            self.examples.setdefault(f"{kind}: {reason}", at)

    def add(self, answer: dict[str, Any]) -> None:
        self.note(answer["kind"], answer["reason"], answer["number"])
        if answer["peak"] > MEMORY:
            self.note("memory", f"{answer['peak'] / 1e9:.1f} GB", answer["number"])
        self.peak, self.longest = max(self.peak, answer["peak"]), max(self.longest, answer["seconds"])

    @property
    def bad(self) -> int:
        return sum(self.counts[kind] for kind in ("untyped", "crash", "hang", "memory"))


def run(names: list[str], first: int, count: int) -> dict[str, Tally]:
    """Outcomes of the mutations of some formats, in one process that is started again where it crashed or hung."""
    tallies = {name: Tally() for name in names}
    at, number, end = 0, first, first + count
    while at < len(names):
        with tempfile.TemporaryDirectory(prefix="mutations-", ignore_cleanup_errors=True) as folder:
            answer, ending = _worker_answers(names[at:], number, end, folder, tallies)
        if answer is None:
            if ending:
                raise SystemExit(ending)
            break
        at, number = names.index(answer["format"]), answer["begin"]
        tallies[names[at]].note(*ending.split(": "), number)
        number += 1
        if number == end:
            at, number = at + 1, first
    return tallies


def _worker_answers(
    names: list[str], first: int, end: int, folder: str, tallies: dict[str, Tally]
) -> tuple[dict[str, Any] | None, str]:
    """Let a process work, and count what it says. Returns: the mutation at which it ended early, if it did, and how."""
    here = Path(__file__).parent
    command = [sys.executable, __file__, "--worker", *names, "--first", str(first), "--count", str(end)]
    environment = {**os.environ, "PYTHONPATH": f"{here.parent}{os.pathsep}{here}", "TMPDIR": folder}
    errors = Path(folder) / "stderr"
    begun: dict[str, Any] | None = None
    with (
        errors.open("w") as log,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, cwd=folder, env=environment, text=True
        ) as process,
    ):
        lines = _reader(process)
        while True:
            try:
                line = lines.get(timeout=SECONDS if begun else START_SECONDS)
            except queue.Empty:
                process.kill()
                return begun, "hang: "
            if line is None:
                break
            answer = json.loads(line)
            if "begin" in answer:
                begun = answer
            else:
                begun = None
                tallies[answer["format"]].add(answer)
        process.wait()
    if begun:
        return begun, f"crash: signal {-process.returncode}"
    return None, errors.read_text()[-2000:] if process.returncode else ""


def _reader(process: subprocess.Popen[str]) -> queue.Queue[str | None]:
    """Lines that a process prints, and None at its end."""
    lines: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        for line in process.stdout or ():
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=5000, help="mutations of each format")
    parser.add_argument("--first", type=int, default=0, help="number of the first one")
    parser.add_argument("--only", action="append", default=[], help="a format; may be repeated")
    parser.add_argument("--worker", nargs="+", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.worker:
        worker(chosen.worker, chosen.first, chosen.count)
        return
    sys.path.insert(0, str(Path(__file__).parent.parent))
    from mutations_inputs import FORMATS

    names = chosen.only or list(FORMATS)
    bad = 0
    print("format              opened   typed untyped  crash  hang memory     peak  longest")
    for some in [names] if chosen.count <= FEW else [[name] for name in names]:
        for name, tally in run(some, chosen.first, chosen.count).items():
            n = tally.counts
            print(
                f"{name:18} {n['opened']:7} {n['typed']:7} {n['untyped']:7} {n['crash']:6} {n['hang']:5} "
                f"{n['memory']:6} {tally.peak / 1e6:5.0f} MB {tally.longest:6.1f} s",
                flush=True,
            )
            bad += tally.bad
            for reason, times in tally.found.most_common(12):
                print(f"    {times} x {reason} (first: {tally.examples[reason]})", flush=True)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
