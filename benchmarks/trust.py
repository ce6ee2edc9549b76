"""How often a fit is wrong and says ok, and how often it is right and refused: a table of right and wrong by ok or not.

    python benchmarks/trust.py [--scale 1] [--only pairs] [--first 0] [--workers 2] [--list] [--json fits.json]

The cases come from the modules `trust_pairs`, `trust_stacks` and `trust_clouds` beside this file, as far as they exist:
real and synthetic inputs whose right answer is known. A case that does not determine its answer (a lattice,
unrelated images) may be refused also where the answer happens to be right. Fits run in processes of one thread each.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import multiprocessing
import os
import sys
import time
import traceback
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from trust_case import Case, Outcome

_MODULES = ("trust_pairs", "trust_stacks", "trust_clouds")
_PAIRS = _MODULES[0]
_CACHED: dict[tuple[str, float, int], list[Case]] = {}


def all_cases(scale: float, first: int = 0) -> Iterator[tuple[str, int, Case]]:
    """(module, position, case) of the modules that exist; `first`: the first seed of each group of pairs."""
    for name in _MODULES:
        if importlib.util.find_spec(name) is not None:
            for position, case in enumerate(_cases_of(name, scale, first)):
                yield name, position, case


def _cases_of(module: str, scale: float, first: int) -> list[Case]:
    key = module, scale, first
    if key not in _CACHED:
        cases = importlib.import_module(module).cases
        _CACHED[key] = list(cases(scale, first) if module == _PAIRS else cases(scale))
    return _CACHED[key]


def _run(task: tuple[str, float, int, int]) -> tuple[str, int, Outcome, float]:
    module, scale, first, position = task
    case = _cases_of(module, scale, first)[position]
    began = time.perf_counter()
    try:
        outcome = case.fit()
    except Exception as error:  # an error that is not daskreg's own is a failure of its own kind
        traceback.print_exc()
        outcome = Outcome(float("inf"), 0.0, False, f"RAISED {type(error).__name__}")
    return module, position, outcome, time.perf_counter() - began


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def run(scale: float, only: str = "", workers: int = 1, first: int = 0) -> Iterator[tuple[Case, Outcome, float]]:
    """(case, outcome, seconds) of each case whose group contains `only`, as they end."""
    chosen = {(m, k): case for m, k, case in all_cases(scale, first) if only in case.group}
    tasks = [(m, scale, first, k) for m, k in chosen]
    if workers == 1:
        for m, k, outcome, seconds in map(_run, tasks):
            yield chosen[m, k], outcome, seconds
        return
    # One compiled thread in each process, so that processes do not compete.
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"))
    with multiprocessing.get_context("spawn").Pool(workers, _one_thread) as pool:
        for m, k, outcome, seconds in pool.imap_unordered(_run, tasks, chunksize=4):
            yield chosen[m, k], outcome, seconds


def table(results: list[tuple[Case, Outcome, float]]) -> str:
    """Rows of counts for each group, and the totals with the two rates."""
    rows: dict[str, list[tuple[Case, Outcome, float]]] = defaultdict(list)
    for one in results:
        rows[one[0].group].append(one)
    lines = [
        f"{'':44} {'fits':>5} {'right ok':>9} {'right no':>9} {'wrong ok':>9} {'wrong no':>9} {'s/fit':>7}  not ok as"
    ]
    for group, some in [*sorted(rows.items(), key=lambda r: r[0]), ("all", results)]:
        counts = [sum((o.right, o.ok) == kind for _, o, _ in some) for kind in _KINDS]
        names: dict[str, int] = defaultdict(int)
        for _, outcome, _ in some:
            if not outcome.ok:
                names[outcome.status] += 1
        words = ", ".join(f"{n} {name}" for name, n in sorted(names.items(), key=lambda item: -item[1]))
        seconds = sum(s for _, _, s in some) / max(len(some), 1)
        lines.append(f"{group:44} {len(some):5} " + " ".join(f"{c:9}" for c in counts) + f" {seconds:7.2f}  {words}")
    wrong = sum(o.ok and not o.right for _, o, _ in results)
    right = [o for c, o, _ in results if o.right and not c.may_refuse]
    refused = sum(not o.ok for o in right)
    lines.append(f"wrong and ok: {wrong} of {len(results)} fits, {wrong / max(len(results), 1):.2%} (at most 0.5 %)")
    lines.append(
        f"right and refused: {refused} of {len(right)} that are determined, "
        f"{refused / max(len(right), 1):.2%} (at most 2 %)"
    )
    return "\n".join(lines)


_KINDS = ((True, True), (True, False), (False, True), (False, False))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--scale", type=float, default=1.0, help="1: the whole benchmark; 0.02: one or two of each group"
    )
    parser.add_argument("--only", default="", help="groups whose name contains this")
    parser.add_argument("--first", type=int, default=0, help="the first seed of each group of pairs, for new inputs")
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument(
        "--list", action="store_true", help="also print each fit that is wrong and ok, or right and refused, as it ends"
    )
    parser.add_argument("--json", type=Path, help="write every fit to this file")
    options = parser.parse_args()
    results = []
    for case, outcome, seconds in run(options.scale, options.only, options.workers, options.first):
        results.append((case, outcome, seconds))
        if options.list and outcome.ok != outcome.right and (outcome.ok or not case.may_refuse):
            print(f"{case.group} {case.seed}: {outcome.status}, error {outcome.error:.3g}", flush=True)
    if options.json:
        fits = [{"group": c.group, "seed": c.seed, "may_refuse": c.may_refuse, "error": o.error, "right": o.right,
                 "ok": o.ok, "status": o.status, "seconds": s} for c, o, s in results]  # fmt: skip
        options.json.write_text(json.dumps(fits))
    print(table(results))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
