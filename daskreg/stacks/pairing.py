"""All pairs of a stack: spans on workers or in threads here, what is kept of earlier runs, and second looks."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.blocks.tasks import run_tasks
from daskreg.errors import OptionError
from daskreg.stacks.checkpoint import Checkpoint
from daskreg.stacks.pair_table import Looks, PairTable
from daskreg.stacks.pose_solve import unmet
from daskreg.stacks.spans import Edges, SpanDone, StackSpec, fit_edges, fit_span, local_threads, spans

log = logging.getLogger(__name__)

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Edgelist = list[tuple[int, int]]

MOST_SECOND_LOOKS = 500


@dataclass(frozen=True)
class Where:
    """client: a distributed Client, or None for local threads. progress: called with (done, in all)."""

    client: Any
    progress: Callable[[int, int], None] | None = None

    def done(self, count: int, total: int) -> None:
        if self.progress is not None:
            self.progress(count, total)


def pairs_of(
    stack: StackSpec, where: Where, *, earlier: SpanDone | None = None, checkpoint: str | os.PathLike[str] | None = None
) -> tuple[PairTable, Looks]:
    """The pairs of all slices, and their looks.

    Args:
        earlier: of the first slices, when the stack had no others.
        checkpoint: file of finished spans; read first, appended to.

    Raises: OptionError where `earlier` is not of this stack.
    """
    kept = None if checkpoint is None else Checkpoint(checkpoint, stack)
    done = [] if earlier is None else [earlier]
    done += [] if kept is None else kept.load()
    missing = np.ones(stack.count, bool)
    found: list[SpanDone] = []
    for part in done:
        if missing[part.start : part.stop].all():
            missing[part.start : part.stop] = False
            found.append(part)
    total = stack.count
    where.done(int(total - missing.sum()), total)

    def on_done(result: SpanDone) -> None:
        # Copied in this thread: small arrays that are kept would hold on to the memory in which threads work.
        part = copy.deepcopy(result)
        _check_before(part, found)
        missing[part.start : part.stop] = False
        found.append(part)
        if kept is not None:
            kept.append(part)
        where.done(int(total - missing.sum()), total)

    threads = local_threads(stack.options.device) if where.client is None else sum(where.client.nthreads().values())
    work = spans(stack, missing, max(1, threads))
    run_tasks(fit_span, work, client=where.client, threads=max(1, threads), on_done=on_done, label="pairs")
    found.sort(key=lambda part: part.start)
    pairs = PairTable.joined(part.pairs for part in found)
    looks = Looks.joined(part.looks for part in found)
    return _looked_twice(stack, pairs, looks.blank, where), looks


def _looked_twice(stack: StackSpec, pairs: PairTable, blank: Bools, where: Where) -> PairTable:
    """Search wider where no good pair leads from slice to slice, and then for the pairs over what was found."""
    if stack.line is not None:
        return pairs
    wanted = unmet(pairs, blank, stack.model)
    if not wanted:
        return pairs
    if len(wanted) > MOST_SECOND_LOOKS:
        log.warning("%d pairs of slices have little in common; %d get a second look", len(wanted), MOST_SECOND_LOOKS)
        wanted = wanted[:MOST_SECOND_LOOKS]
    looked = _merged(pairs, _edges_fitted(stack, wanted, None, where))
    before = {tuple(e): s for e, s in zip(pairs.edges.tolist(), pairs.scores.tolist(), strict=True)}
    news = {e for e, s in zip(map(tuple, looked.edges.tolist()), looked.scores.tolist(), strict=True)
            if s != before.get(e)}  # fmt: skip
    motions = dict(zip(map(tuple, looked.edges.tolist()), looked.matrices, strict=True))
    over = _ways_over(news, motions)
    return _merged(looked, _edges_fitted(stack, list(over), np.stack(list(over.values())), where)) if over else looked


def _ways_over(news: set[tuple[int, int]], motions: dict[tuple[int, int], Floats]) -> dict[tuple[int, int], Floats]:
    """Pairs (a, c) that there are, and the motion over two others, (a, b) and (b, c), of which one is new."""
    after: dict[int, list[int]] = {}
    before: dict[int, list[int]] = {}
    for a, b in motions:
        after.setdefault(a, []).append(b)
        before.setdefault(b, []).append(a)
    triples = {(a, b, c) for a, b in news for c in after.get(b, ())}
    triples |= {(a, b, c) for b, c in news for a in before.get(b, ())}
    return {(a, c): motions[b, c] @ motions[a, b] for a, b, c in sorted(triples) if (a, c) in motions}


def _edges_fitted(stack: StackSpec, edges: Edgelist, starts: Floats | None, where: Where) -> PairTable:
    tables: list[PairTable] = []
    items = [
        Edges(stack, tuple(edges[k : k + 4]), None if starts is None else starts[k : k + 4])
        for k in range(0, len(edges), 4)
    ]
    threads = local_threads(stack.options.device)
    run_tasks(fit_edges, items, client=where.client, threads=threads, on_done=tables.append, label="second-look")
    return PairTable.joined(tables)


def _merged(old: PairTable, new: PairTable) -> PairTable:
    """Both tables in order; of two fits of a pair the one with the higher correlation."""
    both = PairTable.joined([old, new])
    order = np.lexsort((-np.nan_to_num(both.scores, nan=-np.inf), both.edges[:, 0], both.edges[:, 1]))
    both = both.take(order)
    first = np.ones(len(both), bool)
    first[1:] = (np.diff(both.edges, axis=0) != 0).any(axis=1)
    return both.take(first)


def _check_before(part: SpanDone, found: Sequence[SpanDone]) -> None:
    """Slices in front of a new span must be what they were when an earlier run saw them."""
    for earlier in found:
        if earlier.stop == part.start and len(part.before):
            n = min(len(part.before), len(earlier.looks.digest))
            if not np.array_equal(part.before[-n:], earlier.looks.digest[-n:]):
                raise OptionError(
                    f"slices {part.start - n} to {part.start - 1} are not what they were when they were fitted: "
                    "the earlier fit is of another stack, another channel or another mask"
                )
