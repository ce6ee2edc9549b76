"""The first `register` and the first `warp` of a fresh machine: nothing is compiled yet, and nothing imported.

    python benchmarks/first_run.py                     # three rounds, seconds
    python benchmarks/first_run.py --checkout OTHER    # of another copy of the package, in turn with this one

Each run is a process of its own, with empty folders for compiled code and for the locks of the host.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

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


def first(checkout: Path, call: str) -> list[float]:
    """Seconds of the import, of the call, and of both."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        environment = os.environ | {"PYTHONPATH": str(checkout), "NUMBA_CACHE_DIR": folder, "TMPDIR": folder}
        command = [sys.executable, "-c", _RUN, call]
        done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=True)
    return [float(word) for word in done.stdout.split()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--checkout", type=Path, help="another copy of the package")
    options = parser.parse_args()
    copies = [HERE] if options.checkout is None else [options.checkout.resolve(), HERE]
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
