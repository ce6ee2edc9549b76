"""Stack alignment side by side with pystackreg: time, and what is left of a known drift.

    python benchmarks/stacks.py [--size 512] [--slices 50] [--repeats 3] [--out stacks.json]

The slices are those of the MNI152 template that nilearn ships, moved by a rigid random walk.
Three stacks: one slice repeated (the estimator's own error), different slices (anatomy that
changes along the stack cannot be told from slow drift), and different slices without any
drift (what is invented). The tools take turns, and the median of their times counts.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from oracles import pystackreg_stack, random_walk, residuals

Floats = NDArray[Any]


def brain(size: int, slices: int) -> Floats:
    """Central slices of the template, most of a field of `size` x `size`."""
    import nibabel

    found = importlib.util.find_spec("nilearn")
    if found is None or not found.submodule_search_locations:
        sys.exit("nilearn is needed for its template: pip install 'daskreg[bench]'")
    place = Path(found.submodule_search_locations[0]) / "datasets" / "data"
    image: Any = nibabel.load(next(place.glob("mni_icbm152_t1_tal_nlin_sym_09a*.nii.gz")))
    volume = np.asarray(image.dataobj, dtype=np.float32).transpose(2, 1, 0)
    first, last = 0.3 * len(volume), 0.6 * len(volume)
    factor = size / 1.25 / max(volume.shape[1:])
    out = np.zeros((slices, size, size), np.float32)
    for i, z in enumerate(np.linspace(first, last, slices)):
        low = int(z)
        plane = (1 - (z - low)) * volume[low] + (z - low) * volume[low + 1]
        big = scipy.ndimage.zoom(plane, factor, order=1)
        start = [(size - n) // 2 for n in big.shape]
        out[i, start[0] : start[0] + big.shape[0], start[1] : start[1] + big.shape[1]] = big
    return out


def drifted(slices: Floats, drift: Floats) -> Floats:
    pulls = np.linalg.inv(drift)
    return np.stack(
        [scipy.ndimage.affine_transform(s, m[:2, :2], m[:2, 2], order=3) for s, m in zip(slices, pulls, strict=True)]
    )


def daskreg_stack(stack: Floats) -> Floats:
    import daskreg

    return daskreg.align_stack(stack).raw_from_aligned.matrices


TOOLS: dict[str, Callable[[Floats], Floats]] = {"daskreg": daskreg_stack, "pystackreg": pystackreg_stack}


def measured(stack: Floats, truth: Floats, repeats: int) -> dict[str, dict[str, float]]:
    """Each tool in turn, `repeats` times: median seconds and residuals."""
    times: dict[str, list[float]] = {name: [] for name in TOOLS}
    left = {}
    for _ in range(repeats):
        for name, tool in TOOLS.items():
            began = time.perf_counter()
            found = tool(stack)
            times[name].append(time.perf_counter() - began)
            left[name] = residuals(found, truth, stack.shape[1:])
    return {name: {"seconds": statistics.median(times[name]), **left[name]} for name in TOOLS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--slices", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    clean = brain(options.size, options.slices)
    step = options.size / 256
    drift = random_walk(options.slices, clean.shape[1:], step=step, turn=0.5, seed=options.seed)
    still = np.tile(np.eye(3), (options.slices, 1, 1))
    middle = np.repeat(clean[options.slices // 2][None], options.slices, axis=0)
    cases = {
        "one slice repeated, drifted": (drifted(middle, drift), drift),
        "different slices, drifted": (drifted(clean, drift), drift),
        "different slices, no drift": (clean, still),
    }
    daskreg_stack(clean[:3])  # compiled code is loaded once
    print(f"{options.slices} slices of {options.size} x {options.size}, {os.cpu_count()} cores, {platform.machine()}")
    print(f"drift before: {residuals(still, drift, clean.shape[1:])['all']:.2f} px")
    results = {}
    for case, (stack, truth) in cases.items():
        results[case] = measured(stack, truth, options.repeats)
        print(case)
        for name, row in results[case].items():
            print(
                f"  {name:<11} {row['seconds']:7.2f} s   left {row['all']:7.3f} px   "
                f"faster than 15 slices {row['fast']:6.4f} px   slow part {row['slow']:7.3f} px"
            )
    if options.out:
        options.out.write_text(json.dumps({"options": vars(options) | {"out": None}, "results": results}, indent=1))


if __name__ == "__main__":
    main()
