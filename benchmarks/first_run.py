"""The first `register` and the first `warp` of a fresh machine: nothing is compiled yet, and nothing imported.

    python benchmarks/first_run.py                     # three rounds, seconds
    python benchmarks/first_run.py --checkout OTHER    # of another copy of the package, in turn with this one
    python benchmarks/first_run.py --fields DATA       # a script that finds one field, beside greedy
    python benchmarks/first_run.py --fields DATA --greedy PYTHON    # one that has picsl-greedy and SimpleITK

Each run is a process of its own, with empty folders for compiled code and for the locks of the host.

With `--fields`, compiled code is there, and the time is that of the whole process: Python's start and end, the imports,
and the registration of the pair of `deformable.py --only brain`. greedy is not given an affine map, and looks for none;
its settings are those of `deformable_peer.py`. So one run of daskreg looks for none either, and one does.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from deformable import brain

HERE = Path(__file__).parents[1]

_RUN = """
import sys, time
import numpy as np
from scipy.ndimage import gaussian_filter
scene = gaussian_filter(np.random.default_rng(0).normal(size=(280, 280)), 2).astype(np.float32)
fixed, moving = (scene[k : k + 256, j : j + 256] for k, j in ((10, 10), (8, 13)))
began = time.perf_counter()
import daskreg as dr
function = getattr(dr, sys.argv[1])
imported = time.perf_counter()
if sys.argv[1] == "register":
    assert function(fixed, moving).ok
else:
    np.asarray(function(fixed, pull=dr.Affine.translation(y=1.5, x=0.3)))
ended = time.perf_counter()
print(f"{imported - began:.2f} {ended - imported:.2f} {ended - began:.2f}")
"""

_FIELD = """
import sys
import numpy as np
import daskreg as dr
init = dr.Affine.identity(3) if sys.argv[1] == "no affine map" else "auto"
fit = dr.register(np.load("fixed.npy"), np.load("moving.npy"), model="bspline", metric="ncc", init=init)
assert fit.ok
"""

_FIELD_BY_GREEDY = """
import sys
sys.path.append(sys.argv[1])
import numpy as np
from deformable_peer import greedy
greedy(np.load("fixed.npy"), np.load("moving.npy"), np.ones(3))
"""


def first(checkout: Path, call: str) -> list[float]:
    """Seconds of the import, of the call, and of both."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        environment = os.environ | {"PYTHONPATH": str(checkout), "NUMBA_CACHE_DIR": folder, "TMPDIR": folder}
        command = [sys.executable, "-c", _RUN, call]
        done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=True)
    return [float(word) for word in done.stdout.split()]


def fields(data: Path, copies: list[Path], python: str, rounds: int) -> None:
    """Print the seconds of processes that find one field each."""
    plain = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    runs = {
        f"{copy.name}: daskreg, {how}": ([sys.executable, "-c", _FIELD, how], plain | {"PYTHONPATH": str(copy)})
        for copy in copies
        for how in ("affine map", "no affine map")
    }
    runs["greedy"] = [os.path.abspath(python), "-c", _FIELD_BY_GREEDY, str(Path(__file__).parent)], plain
    with tempfile.TemporaryDirectory() as folder:
        for name, image in zip(("fixed", "moving"), brain(data)[0], strict=True):
            np.save(Path(folder, name), image.astype(np.float32))
        for number in range(rounds + 1):
            for name, (command, environment) in runs.items():
                began = time.perf_counter()
                subprocess.run(command, env=environment, cwd=folder, capture_output=True, check=True)
                if number:  # the first round compiles
                    print(f"{name}: {time.perf_counter() - began:.2f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--checkout", type=Path, help="another copy of the package")
    parser.add_argument("--fields", type=Path, metavar="DATA", help="the folder of the data")
    parser.add_argument(
        "--greedy", default=sys.executable, metavar="PYTHON", help="that has picsl-greedy and SimpleITK"
    )
    options = parser.parse_args()
    copies = [HERE] if options.checkout is None else [options.checkout.resolve(), HERE]
    if options.fields is not None:
        fields(options.fields, copies, options.greedy, options.rounds)
        return
    for _ in range(options.rounds):
        for call in ("register", "warp"):
            for copy in copies:
                imported, called, both = first(copy, call)
                print(
                    f"{copy.name}: {call}: import {imported:.2f} s, call {called:.2f} s, together {both:.2f} s",
                    flush=True,
                )


if __name__ == "__main__":
    main()
