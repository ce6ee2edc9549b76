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
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

SECONDS = 20
"""A file that takes longer counts as a hang. The limit is generous because machines are shared."""

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


def worker(name: str, first: int, count: int) -> None:
    """Read mutations of one format; print a line of JSON for each."""
    from mutations_inputs import FORMATS

    from daskreg.errors import DaskregError
    from daskreg.sources.handles import forget

    warnings.simplefilter("ignore")
    # What asks for more gets a MemoryError instead of the machine's memory.
    resource.setrlimit(resource.RLIMIT_DATA, (8 << 30, 8 << 30))
    resource.setrlimit(resource.RLIMIT_FSIZE, (4 << 30, 4 << 30))
    form = FORMATS[name]
    folder = Path.cwd()
    path = folder / form.name
    form.make(path)
    target = folder / (form.target or form.name)
    original = target.read_bytes()
    form.use(path)
    for number in range(first, first + count):
        forget()
        target.unlink(missing_ok=True)  # a new file: libraries remember those that they have open
        target.write_bytes(mutated(original, random.Random(f"{name} {number}")))
        print(json.dumps({"begin": number}), flush=True)
        before, started = _peak(reset=True), time.monotonic()
        kind, reason = "opened", ""
        try:
            form.use(path)
        except DaskregError as error:
            kind, reason = "typed", str(error)
            if "\n" in reason or len(reason) > 1000:
                kind = "untyped"
                reason = f"a message of {len(reason)} characters in {len(reason.splitlines())} lines"
        except BaseException as error:
            place = traceback.extract_tb(error.__traceback__)
            own = [f"{Path(f.filename).name}:{f.lineno}" for f in place if "daskreg" in f.filename][-1:]
            kind, reason = "untyped", f"{type(error).__name__} {' '.join(own)} {str(error)[:90]!r}"
        line = {"number": number, "kind": kind, "reason": reason, "seconds": time.monotonic() - started}
        print(json.dumps({**line, "peak": _peak() - before}), flush=True)


def _peak(reset: bool = False) -> int:
    """The peak of this process' resident memory, since the last reset; 0 where the system does not tell (not Linux)."""
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def run(name: str, first: int, count: int) -> dict[str, Any]:
    """Outcomes of the mutations of one format."""
    counts: Counter[str] = Counter()
    found: Counter[str] = Counter()
    examples: dict[str, int] = {}
    peak, longest, number, end = 0, 0.0, first, first + count

    def note(kind: str, reason: str, at: int) -> None:
        counts[kind] += 1
        if kind not in ("opened", "typed"):
            found[f"{kind}: {reason}"] += 1
            examples.setdefault(f"{kind}: {reason}", at)

    while number < end:
        folder = tempfile.mkdtemp(prefix="mutations-")
        command = [sys.executable, __file__, "--worker", name, "--first", str(number), "--count", str(end - number)]
        here = Path(__file__).parent
        environment = {**os.environ, "PYTHONPATH": f"{here.parent}{os.pathsep}{here}", "TMPDIR": folder}
        started: int | None = None
        errors = Path(f"{folder}.log")
        with (
            errors.open("w") as log,
            subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, cwd=folder, env=environment, text=True
            ) as process,
        ):
            lines = _reader(process)
            while True:
                try:
                    line = lines.get(timeout=SECONDS if started is not None else 120)
                except queue.Empty:
                    process.kill()
                    note("hang", "", number)
                    number += 1
                    break
                if line is None:
                    break
                answer = json.loads(line)
                if "begin" in answer:
                    started = number = answer["begin"]
                    continue
                note(answer["kind"], answer["reason"], number)
                if answer["peak"] > MEMORY:
                    note("memory", f"{answer['peak'] / 1e9:.1f} GB", number)
                peak, longest = max(peak, answer["peak"]), max(longest, answer["seconds"])
                number, started = number + 1, None
            process.wait()
            if started is not None and process.returncode not in (0, -9):
                note("crash", f"signal {-process.returncode}", number)
                number += 1
            elif started is None and process.returncode:
                raise SystemExit(f"{name}: {errors.read_text()[-2000:]}")
        shutil.rmtree(folder, ignore_errors=True)
        errors.unlink()
    return {"counts": counts, "found": found, "examples": examples, "peak": peak, "longest": longest}


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
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.worker:
        worker(chosen.worker, chosen.first, chosen.count)
        return
    sys.path.insert(0, str(Path(__file__).parent.parent))
    from mutations_inputs import FORMATS

    bad = 0
    print("format              opened   typed untyped  crash  hang memory     peak  longest")
    for name in chosen.only or FORMATS:
        out = run(name, chosen.first, chosen.count)
        n = out["counts"]
        print(
            f"{name:18} {n['opened']:7} {n['typed']:7} {n['untyped']:7} {n['crash']:6} {n['hang']:5} {n['memory']:6} "
            f"{out['peak'] / 1e6:5.0f} MB {out['longest']:6.1f} s",
            flush=True,
        )
        bad += n["untyped"] + n["crash"] + n["hang"] + n["memory"]
        for reason, times in out["found"].most_common(12):
            print(f"    {times} x {reason} (first: {out['examples'][reason]})", flush=True)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
