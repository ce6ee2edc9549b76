"""The k-d tree of `daskreg.clouds` beside scipy.spatial.cKDTree, on what `icp` asks of it.

    python benchmarks/kdtree.py [--points 10000 100000 1000000] [--rounds 7] [--threads 2]

Clouds are a surface with noise, and a filled cube. Four tasks, as `icp` has them:

build          the tree of the target;
self 14        the 14 neighbours of each point of the tree, from which normals are estimated;
nearest 1, 4   of a cloud of the same size and shape that was moved by a tenth of its spacing: 1 for the judgement of
               the result, 4 for the first round of the iteration (later rounds reuse them).

All queries come in the order of the leaves of a tree, so that they use caches well. "all" is the sum of the tasks.
The trees take turns on every task; the figures are medians over the rounds. SciPy's tree is built with its default
options, and with `balanced_tree=False, compact_nodes=False`, which builds faster; the last column compares with the
better of the two.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from daskreg.clouds.kdtree import KDTree
from daskreg.runtime.threads import use_threads

Floats = NDArray[np.float64]
TASKS = ("build", "self 14", "nearest 1", "nearest 4")


def surface(count: int, seed: int) -> Floats:
    """Points on an ellipsoid with bumps, with noise of 1 % of its size."""
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(count, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    bumps = 1 + 0.2 * np.sin(3 * points[:, :1]) + 0.15 * np.cos(4 * points[:, 1:2] + 1)
    return np.asarray(points * bumps * [1.0, 0.8, 0.6] + 0.01 * rng.normal(size=points.shape))


def cube(count: int, seed: int) -> Floats:
    return np.random.default_rng(seed).random((count, 3))


def own_tasks(points: Floats, queries: Floats) -> dict[str, Callable[[], Any]]:
    tree = KDTree.of(points)
    return {
        "build": lambda: KDTree.of(points),
        "self 14": lambda: tree.query_self(14),
        "nearest 1": lambda: tree.query(queries, 1),
        "nearest 4": lambda: tree.query(queries, 4),
    }


def scipy_tasks(points: Floats, queries: Floats, threads: int, **options: bool) -> dict[str, Callable[[], Any]]:
    tree = cKDTree(points, **options)
    own = points[tree.indices]
    return {
        "build": lambda: cKDTree(points, **options),
        "self 14": lambda: tree.query(own, 14, workers=threads),
        "nearest 1": lambda: tree.query(queries, 1, workers=threads),
        "nearest 4": lambda: tree.query(queries, 4, workers=threads),
    }


def seconds(function: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    function()
    return time.perf_counter() - begun


def compare(points: Floats, queries: Floats, rounds: int, threads: int) -> dict[str, tuple[float, float, float]]:
    """Median seconds of each task, and of all: ours, SciPy's with its defaults, and SciPy's built fast."""
    trees = (
        own_tasks(points, queries),
        scipy_tasks(points, queries, threads),
        scipy_tasks(points, queries, threads, balanced_tree=False, compact_nodes=False),
    )
    times: dict[str, list[list[float]]] = {task: [[] for _ in trees] for task in TASKS}
    for number in range(rounds + 1):  # the first round, in which code is compiled, does not count
        for task in TASKS:
            for k, tree in enumerate(trees):
                taken = seconds(tree[task])
                if number:
                    times[task][k].append(taken)
    medians = {task: [statistics.median(taken) for taken in times[task]] for task in TASKS}
    medians["all"] = [sum(medians[task][k] for task in TASKS) for k in range(len(trees))]
    return {task: (row[0], row[1], row[2]) for task, row in medians.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    print("seconds: ours, SciPy's with its defaults, SciPy's built fast; how many times faster ours is")
    with use_threads(args.threads):
        for make in (surface, cube):
            for count in args.points:
                target, source = make(count, 0), make(count, 1)
                source = source[KDTree.of(source).order] + 0.1 * count ** (-1 / 3)
                for task, row in compare(target, source, args.rounds, args.threads).items():
                    own, default, fast = row
                    print(
                        f"{make.__name__:8} {count:8} {task:10} {own:9.4f} {default:9.4f} {fast:9.4f}"
                        f"   {min(default, fast) / own:5.2f}",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
