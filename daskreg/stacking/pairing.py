"""All pairs of a stack: spans on workers or in threads here, what is kept of earlier runs, and second looks."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.blocks.tasks import run_tasks
from daskreg.errors import OptionError
from daskreg.kernels.pairtable import Looks, PairTable, good
from daskreg.stacking.checkpoint import Checkpoint
from daskreg.stacking.placing import unmet
from daskreg.stacking.work import Edges, SpanDone, StackSpec, fit_edges, fit_span, local_threads, spans

log = logging.getLogger(__name__)

Bools = NDArray[np.bool_]

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

    def on_done(part: SpanDone) -> None:
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
    """Search wider where no good pair leads from slice to slice."""
    if stack.line is not None:
        return pairs
    wanted = unmet(pairs, good(pairs, stack.grid, stack.options.metric), blank)
    if not wanted:
        return pairs
    if len(wanted) > MOST_SECOND_LOOKS:
        log.warning("%d pairs of slices have nothing in common; %d get a second look", len(wanted), MOST_SECOND_LOOKS)
        wanted = wanted[:MOST_SECOND_LOOKS]
    tables: list[PairTable] = []
    items = [Edges(stack, tuple(wanted[k : k + 4])) for k in range(0, len(wanted), 4)]
    threads = local_threads(stack.options.device)
    run_tasks(fit_edges, items, client=where.client, threads=threads, on_done=tables.append, label="second-look")
    new = PairTable.joined(tables)
    again = {tuple(e) for e in new.edges.tolist()}
    first = np.array([tuple(e) not in again for e in pairs.edges.tolist()], dtype=bool)
    joined = PairTable.joined([pairs.take(first), _better(pairs.take(~first), new)])
    return joined.take(np.lexsort((joined.edges[:, 0], joined.edges[:, 1])))


def _better(old: PairTable, new: PairTable) -> PairTable:
    """Of two fits of a pair the one with the higher correlation."""
    scores = dict(zip(map(tuple, old.edges.tolist()), old.scores.tolist(), strict=True))
    wins = np.array(
        [not v <= scores.get(tuple(e), -np.inf) for e, v in zip(new.edges.tolist(), new.scores, strict=True)]
    )
    beaten = {tuple(e) for e in new.edges[wins].tolist()}
    left = np.array([tuple(e) not in beaten for e in old.edges.tolist()], dtype=bool)
    return PairTable.joined([new.take(wins), old.take(left)])


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
