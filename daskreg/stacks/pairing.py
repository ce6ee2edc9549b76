"""All pairs of a stack: spans of slices on workers or in local threads, a checkpoint, and searches for weak pairs."""

from __future__ import annotations

import copy
import logging
import math
import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from daskreg.blocks.tasks import run_tasks
from daskreg.errors import OptionError
from daskreg.stacks.checkpoint import Checkpoint
from daskreg.stacks.execution import Execution
from daskreg.stacks.pair_table import PairTable, SliceFeatures, whole_correlation
from daskreg.stacks.pose_solve import pairs_to_search
from daskreg.stacks.spans import PairTask, SpanResult, StackSpec, fit_edges, fit_span, local_threads, runs, spans
from daskreg.stacks.verdict.mirrored import far_worse, without_mirrored
from daskreg.stacks.verdict.smallest_motion import noise_margin

log = logging.getLogger(__name__)

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Edge = tuple[int, int]

MOST_SEARCHES = 500
"""Pairs of a stack that are searched over all rotations and shifts, at most."""

_PAIRS_PER_TASK = 4


def fit_pairs_of(
    stack: StackSpec,
    execution: Execution,
    *,
    previous: SpanResult | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
) -> tuple[PairTable, SliceFeatures, tuple[int, ...]]:
    """The pairs of all slices, the features of all slices, and which slices are mirrored.

    Args:
        previous: results for the first slices, from when the stack had no others.
        checkpoint: file of finished spans; it is read first, and appended to.

    Raises: OptionError where `previous` is not of this stack.
    """
    file = None if checkpoint is None else Checkpoint(checkpoint, stack)
    finished = [] if previous is None else [previous]
    finished += [] if file is None else file.load()
    missing = np.ones(stack.count, bool)
    results: list[SpanResult] = []
    for part in finished:
        for start, stop in runs(missing[part.start : part.stop]):
            results.append(part.part(part.start + start, part.start + stop))
        missing[part.start : part.stop] = False
    total = stack.count
    execution.report(int(total - missing.sum()), total)

    def on_done(result: SpanResult) -> None:
        # Copied here: a small array from a worker thread keeps all memory of that thread allocated.
        part = copy.deepcopy(result)
        _check_unchanged(part, results)
        missing[part.start : part.stop] = False
        results.append(part)
        if file is not None:
            file.append(part)
        execution.report(int(total - missing.sum()), total)

    client = execution.client
    threads = local_threads(stack.options.device) if client is None else sum(client.nthreads().values())
    work = spans(stack, missing, max(1, threads))
    run_tasks(fit_span, work, client=client, threads=max(1, threads), on_done=on_done, label="pairs")
    results.sort(key=lambda part: part.start)
    pairs = PairTable.joined(part.pairs for part in results)
    features = SliceFeatures.joined(part.features for part in results)
    searched = _with_searched_pairs(stack, pairs, features.blank, execution)
    if stack.line is not None or stack.options.metric != "ncc":
        return searched, features, ()

    def fit_mirrored(edges: list[Edge]) -> PairTable:
        return _fitted_edges(stack, edges[:MOST_SEARCHES], None, execution, mirrored=True)

    kept, mirrored = without_mirrored(searched, features.blank, stack.model, fit_mirrored)
    return kept, features, mirrored


def _with_searched_pairs(stack: StackSpec, pairs: PairTable, blank: Bools, execution: Execution) -> PairTable:
    """The pairs, with weak ones searched over all rotations and shifts where that gives a better fit.

    Each pair (a, c) with a new fit on a path over b is then also fitted from the motion along this path.
    """
    if stack.line is not None:
        return pairs
    wanted = pairs_to_search(pairs, blank, stack.model)
    if stack.options.metric == "ncc":
        wanted = sorted({*wanted, *far_worse(pairs, blank, stack.model)})
    if not wanted:
        return pairs
    if len(wanted) > MOST_SEARCHES:
        log.warning("%d pairs of slices are weak; only %d of them are searched", len(wanted), MOST_SEARCHES)
        wanted = wanted[:MOST_SEARCHES]
    metric, values = stack.options.metric, math.prod(stack.grid.shape)
    searched = better_of(pairs, _fitted_edges(stack, wanted, None, execution), metric, values)
    before = {tuple(e): s for e, s in zip(pairs.edges.tolist(), pairs.scores.tolist(), strict=True)}
    edges: list[Edge] = [(a, b) for a, b in searched.edges.tolist()]
    changed = {e for e, s in zip(edges, searched.scores.tolist(), strict=True) if s != before.get(e)}
    paths = _two_step_motions(changed, dict(zip(edges, searched.matrices, strict=True)))
    if not paths:
        return searched
    return better_of(
        searched, _fitted_edges(stack, list(paths), np.stack(list(paths.values())), execution), metric, values
    )


def _two_step_motions(changed: set[Edge], motions: dict[Edge, Floats]) -> dict[Edge, Floats]:
    """For pairs (a, c), the motion along two other pairs, (a, b) and (b, c), of which one has changed."""
    successors: dict[int, list[int]] = {}
    predecessors: dict[int, list[int]] = {}
    for a, b in motions:
        successors.setdefault(a, []).append(b)
        predecessors.setdefault(b, []).append(a)
    triples = {(a, b, c) for a, b in changed for c in successors.get(b, ())}
    triples |= {(a, b, c) for b, c in changed for a in predecessors.get(b, ())}
    return {(a, c): motions[b, c] @ motions[a, b] for a, b, c in sorted(triples) if (a, c) in motions}


def _fitted_edges(
    stack: StackSpec, edges: list[Edge], initial: Floats | None, execution: Execution, *, mirrored: bool = False
) -> PairTable:
    tables: list[PairTable] = []
    items = [
        PairTask(
            stack,
            tuple(edges[k : k + _PAIRS_PER_TASK]),
            None if initial is None else initial[k : k + _PAIRS_PER_TASK],
            mirrored,
        )
        for k in range(0, len(edges), _PAIRS_PER_TASK)
    ]
    threads = local_threads(stack.options.device)
    run_tasks(fit_edges, items, client=execution.client, threads=threads, on_done=tables.append, label="search")
    return PairTable.joined(tables)


def better_of(old: PairTable, new: PairTable, metric: str, values: int) -> PairTable:
    """Both tables in order; of two fits of a pair the better one, and the new one only if it is so by more than noise.

    Args:
        values: voxels of a slice.
    """
    margin = noise_margin(metric, 1 - new.scores if metric == "ncc" else new.scores, values * new.overlap)
    if metric == "ncc":
        cost = np.concatenate([-whole_correlation(old), margin - whole_correlation(new)])
    else:
        cost = np.concatenate([old.scores, new.scores + margin])
    both = PairTable.joined([old, new])
    order = np.lexsort((np.nan_to_num(cost, nan=np.inf), both.edges[:, 0], both.edges[:, 1]))
    both = both.take(order)
    first = np.ones(len(both), bool)
    first[1:] = (np.diff(both.edges, axis=0) != 0).any(axis=1)
    return both.take(first)


def _check_unchanged(part: SpanResult, results: Sequence[SpanResult]) -> None:
    """The slices before a new span must be the same as when an earlier run read them.

    Raises: OptionError.
    """
    for earlier in results:
        if earlier.stop == part.start and len(part.before):
            n = min(len(part.before), len(earlier.features.digest))
            if not np.array_equal(part.before[-n:], earlier.features.digest[-n:]):
                raise OptionError(
                    f"slices {part.start - n} to {part.start - 1} have changed since they were fitted: "
                    "the earlier fit is of another stack, another channel or another mask"
                )
