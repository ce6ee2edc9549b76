"""Registration of spans of slices: a worker receives a description, and returns a few numbers for each slice.

The pairs of a span are those whose moving slice is in it; the slices before it that they need are
read once more. So spans do not depend on each other, and results do not depend on how the stack was divided.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from daskreg.geometry import Box, Grid
from daskreg.registration.initial_pose import candidates, choose
from daskreg.registration.levenberg_marquardt import LevelObjective
from daskreg.registration.pyramids.masked_pyramids import MaskedPyramids
from daskreg.runtime.device import limit_threads, resolve
from daskreg.sources.in_memory import source_in_memory
from daskreg.sources.source import Source
from daskreg.stacks.common_line import fit_profiles, profiles
from daskreg.stacks.execution import timed
from daskreg.stacks.model import StackModel
from daskreg.stacks.neighbor_registration import ImageSequence, pairs_within
from daskreg.stacks.pair_registration import PairOptions, blank_images
from daskreg.stacks.pair_table import PairTable, SliceFeatures, whole_correlation
from daskreg.stacks.slice_reader import TILE_BYTES, SliceReader
from daskreg.stacks.verdict.bad_voxels import BadVoxels

Ints = NDArray[np.intp]
Bools = NDArray[np.bool_]

_gpu = threading.Lock()

SPAN_BYTES = 288 * 2**20
"""Memory for the slices of a span with their pyramids, on the CPU."""

TRIED = 5
"""Slices, at most, that are aligned to find out how long it takes."""

LONGEST = 32
"""Slices of a span, at most."""

_BYTES_PER_VOXEL = 24
# Slices before a span that are read, at most, to find its first pairs behind blank slices.
_BACK = 32
# Share of a slice that overlaps, below which a search is repeated for poses at which more does.
_FAIR_OVERLAP = 0.5


@dataclass(frozen=True, eq=False)
class StackSpec:
    """The slices, where they are read, and how pairs are registered.

    Args:
        source: its dims are the one at `position` and those of a slice.
        position: of the axis along which the slices lie.
        mask: true where voxels count, of the dims of `source` or of a slice.
        options: its device is what the caller asked for; workers resolve it.
        reach: how many slices apart the images of a pair are at most, blank slices not counted.
        line: the only axis of a slice along which shifts are estimated, from sums across it; None: all axes.
        offset: subtracted from the voxels (see `SliceReader`).
        bad: voxels that hold nothing of the specimen (see `verdict.bad_voxels`).
        striped: the mean of each row and each column is subtracted from every slice (see `verdict.stripes`).
        pattern: of the detector, subtracted from all slices as read after that (see `verdict.subtracted_pattern`).
    """

    source: Source
    position: int
    mask: Source | None
    options: PairOptions
    reach: int
    line: int | None = None
    offset: float = 0.0
    bad: BadVoxels | None = None
    striped: bool = False
    pattern: NDArray[np.float32] | None = None

    @cached_property
    def reader(self) -> SliceReader:
        return SliceReader.of(
            self.source,
            self.position,
            mask=self.mask,
            offset=self.offset,
            bad=self.bad,
            striped=self.striped,
            pattern=self.pattern,
        )

    @property
    def count(self) -> int:
        return self.reader.count

    @cached_property
    def keep(self) -> list[int]:
        """Axes of a slice that are longer than one."""
        return [k for k, n in enumerate(self.reader.grid.shape) if n > 1]

    @cached_property
    def grid(self) -> Grid:
        """The grid of a slice as read, without axes of length one."""
        return self.reader.grid.take(self.keep)

    @cached_property
    def model(self) -> StackModel:
        centre = self.reader.whole.take(self.keep).centre
        return StackModel(self.options.pose, centre, self.grid, self.options.metric, self.line)

    def tensor(self, start: int, stop: int) -> torch.Tensor:
        values = self.reader.span(start, stop)
        return torch.from_numpy(np.ascontiguousarray(values)).reshape(len(values), *self.grid.shape)

    def restricted(self, start: int, stop: int) -> StackSpec:
        """The same with only slices start..stop of arrays in memory, under their own indices."""
        if not self.source.carries_data and (self.mask is None or not self.mask.carries_data):
            return self
        source, mask = (None if s is None else _cut(s, self, start, stop) for s in (self.source, self.mask))
        return replace(self, source=source or self.source, mask=mask)

    def some(self, numbers: Sequence[int]) -> StackSpec:
        """Some slices, read into memory, as a stack of their own."""
        source, mask = (s and _some(s, self, numbers) for s in (self.source, self.mask))
        return replace(self, source=source or self.source, mask=mask)

    def __getstate__(self) -> dict[str, Any]:
        """Without the reader, which holds voxels."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            object.__setattr__(self, name, value)


@dataclass(frozen=True)
class Span:
    """Slices start..stop of a stack, to be registered to the ones before them."""

    stack: StackSpec
    start: int
    stop: int


@dataclass(frozen=True)
class SpanResult:
    """The results of slices start..stop: the pairs whose moving slice is among them, and features of the slices.

    before: digests of the `len(before)` slices before the span, as they are now.
    """

    start: int
    stop: int
    pairs: PairTable
    features: SliceFeatures
    before: NDArray[np.uint64]

    def part(self, start: int, stop: int) -> SpanResult:
        """The results of some of the slices."""
        moving = self.pairs.edges[:, 1]
        some = slice(start - self.start, stop - self.start)
        features = SliceFeatures(*(getattr(self.features, f.name)[some] for f in fields(self.features)))
        before = np.concatenate([self.before, self.features.digest[: some.start]])
        return SpanResult(start, stop, self.pairs.take((moving >= start) & (moving < stop)), features, before)

    def first_read(self, number: int, reach: int) -> int:
        """The first of the slices, at the latest, on which the results of a slice depend."""
        fixed = self.pairs.edges[self.pairs.edges[:, 1] == number, 0]
        return int(fixed.min()) if len(fixed) >= reach else first_read(number, reach)


@dataclass(frozen=True)
class PairTask:
    """Pairs (fixed, moving) to be registered from all rotations and shifts, or from (E, D+1, D+1) starts.

    mirrored: with the moving slices mirrored along their last axis, or, where the model does not turn, along either of
        the last two.
    """

    stack: StackSpec
    edges: tuple[tuple[int, int], ...]
    starts: NDArray[np.float64] | None = None
    mirrored: bool = False


def spans(stack: StackSpec, missing: Bools, threads: int) -> list[Span]:
    """The slices that are missing, in spans of about equal length that fit the memory.

    A span is of whole chunks along the stack where these are not too long; there is at least one for each thread.
    """
    most = _most(stack)
    chunk = stack.source.chunks[stack.position]
    found = []
    for start, stop in runs(missing):
        length = max(1, min(most, -(-(stop - start) // threads)))
        length = length // chunk * chunk if 1 < chunk <= length else length
        count = -(-(stop - start) // length)
        ends = [start + min(k * length, stop - start) for k in range(count + 1)]
        found += [Span(stack.restricted(first_read(a, stack.reach), b), a, b) for a, b in pairwise(ends)]
    return found


def first_read(start: int, reach: int) -> int:
    """The first slice that is read for a span, at the earliest: as many before it are blank."""
    return max(0, start - _BACK - reach)


def _most(stack: StackSpec) -> int:
    """Slices of a span that fit the memory, at most."""
    return max(1, min(LONGEST, SPAN_BYTES // _slice_bytes(stack) - stack.reach))


def _slice_bytes(stack: StackSpec) -> int:
    """Memory for a slice with its pyramid."""
    return _BYTES_PER_VOXEL * math.prod(stack.grid.shape)


def span_memory(stack: StackSpec) -> int:
    """Bytes of the longest span, above a process that does nothing."""
    return (min(_most(stack), stack.count) + stack.reach) * _slice_bytes(stack) + TILE_BYTES


def tried_seconds(stack: StackSpec) -> float | None:
    """Seconds of one thread for the pairs of all slices, from a few slices in the middle of the stack; None: of those
    that are not blank there are no pairs."""
    tried = middle(stack.count, min(TRIED, _most(stack)))
    start = tried.start
    span = Span(stack.restricted(first_read(start, stack.reach), tried.stop), start, tried.stop)
    found, seconds = timed(lambda: fit_span(span), before=lambda: fit_span(replace(span, stop=start + 1)))
    seen = np.count_nonzero(~found.features.blank)
    return seconds / seen * stack.count if len(found.pairs) else None


def middle(count: int, some: int) -> range:
    """Numbers of so many slices, or all, in the middle of `count`."""
    start = max(0, count - some) // 2
    return range(start, min(start + some, count))


def fit_span(span: Span) -> SpanResult:
    """Read a span and the slices before it that its pairs need, and register them. Runs on a worker, in one thread."""
    with exclusive(span.stack):
        stack = span.stack
        low = max(0, span.start - stack.reach)
        images = stack.tensor(low, span.stop)
        blank = blank_images(images)
        while low > max(0, span.start - _BACK) and np.count_nonzero(~blank[: span.start - low]) < stack.reach:
            further = max(0, low - stack.reach)
            more = stack.tensor(further, low)
            images, blank = torch.cat([more, images]), np.concatenate([blank_images(more), blank])
            low = further
        lines = None if stack.line is None else profiles(images, stack.line)
        sequence = ImageSequence(images, blank, stack.grid, options_here(stack))
        del images  # what the pyramids do not share
        edges = pairs_within(blank, stack.reach)
        first = span.start - low
        wanted = edges[:, 1] >= first
        if lines is None or stack.line is None:
            pairs = sequence.register(edges, wanted=wanted).shifted(low)
        else:
            pairs = fit_profiles(lines, edges[wanted], stack.grid, stack.line, sequence.options.pose).shifted(low)
        features = sequence.features()
        own = SliceFeatures(*(getattr(features, n)[first:] for n in ("blank", "contrast", "texture", "digest")))
        return SpanResult(span.start, span.stop, pairs, own, features.digest[:first])


def fit_edges(item: PairTask) -> PairTable:
    """Register single pairs. Runs on a worker, in one thread."""
    stack, tables = item.stack, []
    with exclusive(stack):
        for number, (a, b) in enumerate(item.edges):
            one, other = stack.tensor(a, a + 1), stack.tensor(b, b + 1)
            start = None if item.starts is None else item.starts[number]
            mirrors = _mirrors(stack.options) if item.mirrored else [()]
            tried = [_fitted_pair(stack, torch.cat([one, other.flip(axes)]), start) for axes in mirrors]
            tables.append(replace(_best(PairTable.joined(tried)), edges=np.array([[a, b]])))
    return PairTable.joined(tables)


def _mirrors(options: PairOptions) -> list[tuple[int, ...]]:
    """Axes along which a slice is mirrored; a turn makes one mirror image of the other."""
    return [(-1,)] if "rotation" in options.pose.groups else [(-1,), (-2,)]


def _fitted_pair(stack: StackSpec, images: torch.Tensor, start: NDArray[np.float64] | None) -> PairTable:
    """One pair or more of (2, *shape) images, from the best of all rotations and shifts or from one start."""
    sequence = ImageSequence(images, np.zeros(2, bool), stack.grid, options_here(stack))
    p = _searched(sequence) if start is None else sequence.problem.parameters_of(start[None], stack.grid)
    return sequence.register(np.tile([[0, 1]], (len(p), 1)), start=p)


def _best(fits: PairTable) -> PairTable:
    """Of the fits of a pair, the most likely one."""
    return fits if len(fits) == 1 else fits.take([int(np.nan_to_num(whole_correlation(fits)).argmax())])


def _searched(pair: ImageSequence) -> NDArray[np.float64]:
    """(K, P) the best of all rotations and shifts of the second of two images.

    Where little overlaps at the best one, also the best of those at which at least half does: what is near the borders,
    a dark surround, may agree better than a specimen. Unlike `BestCandidate`, without a second search on a finer level:
    the pose graph decides whether to use the pair.
    """
    one, other = torch.tensor([0]), torch.tensor([1])
    levels = [
        replace(level, fixed=level.fixed.take(one), moving=level.moving.take(other))
        for level in pair.levels[: max(2, pair.small)]
    ]
    problem = pair.problem
    pyramids = MaskedPyramids(levels, None, pair.variance[:1], pair.grid)
    motions = candidates(pyramids, "search" if "rotation" in problem.pose.groups else "phase")
    starts = problem.parameters_of(motions, pair.grid)
    best = choose(problem, levels, starts)[0]
    overlap = LevelObjective(problem, levels[min(1, len(levels) - 1)]).evaluate(best).overlap[0]
    if problem.metric != "ncc" or overlap >= _FAIR_OVERLAP:
        return best
    return np.concatenate([best, choose(replace(problem, min_overlap=_FAIR_OVERLAP), levels, starts)[0]])


def local_threads(device: str) -> int:
    """Spans that are registered in this process at once: one for each core, or one for a GPU."""
    from daskreg.runtime.device import cores

    return 1 if resolve(device) != "cpu" else cores()


def options_here(stack: StackSpec) -> PairOptions:
    """The options of its pairs, with the device of this process."""
    return replace(stack.options, device=resolve(stack.options.device))


@contextmanager
def exclusive(stack: StackSpec) -> Iterator[None]:
    """In one thread of a CPU; on a GPU one registration at a time in this process, as it uses most of its memory."""
    gpu = resolve(stack.options.device) != "cpu"
    with limit_threads(None if gpu else 1), _gpu if gpu else nullcontext():
        yield


def _cut(source: Source, stack: StackSpec, start: int, stop: int) -> Source:
    if not source.carries_data or source.ndim < stack.source.ndim:  # a mask of one slice
        return source
    return source.restrict(_slices_of(source, stack, start, stop))


def _some(source: Source, stack: StackSpec, numbers: Sequence[int]) -> Source:
    if source.ndim < stack.source.ndim:
        return source
    values = np.concatenate([source.read(_slices_of(source, stack, n, n + 1)) for n in numbers], stack.position)
    inner = _slices_of(source, stack, 0, len(numbers)).take(range(len(source.lead), source.ndim))
    return source_in_memory(values, name=source.path, dims=source.dims, grid=source.grid.crop(inner))


def _slices_of(source: Source, stack: StackSpec, start: int, stop: int) -> Box:
    lower, upper = [0] * source.ndim, list(source.shape)
    lower[stack.position], upper[stack.position] = start, stop
    return Box(tuple(lower), tuple(upper))


def runs(wanted: Bools) -> Sequence[tuple[int, int]]:
    """Starts and stops of the runs of true entries."""
    edge = np.flatnonzero(np.diff(np.concatenate([[False], wanted, [False]]).astype(np.int8)))
    return list(zip(edge[::2].tolist(), edge[1::2].tolist(), strict=True))
