"""Results for pairs of slices and for single slices, as tables of columns; and which pairs are reliable."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.registration.estimate import BatchEstimate
from daskreg.registration.verdict.evidence import log_likelihood
from daskreg.stacks.model import StackModel

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
Bools = NDArray[np.bool_]

FIELDS = 8
"""Parts along each axis of an image (3D: half as many) in each of which pairs are compared separately."""

LEAST_OVERLAP = 0.15
LEAST_SCORE = 0.1  # of a correlation
LEAST_RELATIVE_SCORE = 0.3  # of the median of the stack's correlations
LEAST_FIELDS = 8  # in which pairs are compared separately, for their agreement to be judged
MOST_STRETCH = 2.0  # of any direction, between two slices of one specimen
ENOUGH = 0.6  # of the evidence needed, if it is that of tiles: 9 of 1,982 pairs of unrelated slices reach it
_ADDED = "evidence"  # a column that files of earlier versions do not have


@dataclass(frozen=True)
class PairTable:
    """Estimates for pairs of slices, one row each.

    edges: (E, 2) indices (fixed, moving). matrices: (E, D+1, D+1) moving_from_fixed, world.
    covariance: (E, P, P) of the free parameters (see `verdict.pair_errors`). scores: (E,) the
    metric on the finest level of the pair. similarity: (E,) the metric on the finest level that all pairs
    share. overlap: (E,). fields: (E, F) correlation within each field (part) of the fixed image, NaN
    where the contrast or the overlap is too small. evidence: (E,) of tiles, in nats, that the slices belong
    together (see `verdict.pair_evidence`); NaN where it was not asked for, as the fields are enough.
    """

    edges: Ints
    matrices: Floats
    covariance: Floats
    scores: Floats
    similarity: Floats
    overlap: Floats
    fields: NDArray[np.float32]
    evidence: Floats

    def __len__(self) -> int:
        return len(self.edges)

    def take(self, index: Any) -> PairTable:
        return PairTable(*(getattr(self, f.name)[index] for f in fields(self)))

    def shifted(self, by: int) -> PairTable:
        """The same with `by` added to the indices of slices."""
        return PairTable(self.edges + by, *(getattr(self, f.name) for f in fields(self)[1:]))

    @classmethod
    def joined(cls, tables: Iterable[PairTable]) -> PairTable:
        parts = list(tables)
        return cls(*(np.concatenate([getattr(t, f.name) for t in parts]) for f in fields(cls)))

    @classmethod
    def empty(cls, ndim: int, parameters: int) -> PairTable:
        none, size = np.empty(0), ndim + 1
        return cls(
            np.empty((0, 2), np.intp), np.empty((0, size, size)), np.empty((0, parameters, parameters)),
            none, none, none, np.empty((0, field_count(ndim) ** ndim), np.float32), none,
        )  # fmt: skip


@dataclass(frozen=True)
class SliceFeatures:
    """Features of single slices, one row each.

    blank: constant. contrast: standard deviation of a small copy (about 64 voxels), in which noise is averaged
    out. texture: (N, 2) mean squared gradients on the two finest levels. digest: hash of the voxels.
    """

    blank: Bools
    contrast: Floats
    texture: Floats
    digest: NDArray[np.uint64]

    @classmethod
    def joined(cls, parts: Iterable[SliceFeatures]) -> SliceFeatures:
        every = list(parts)
        return cls(*(np.concatenate([getattr(p, f.name) for p in every]) for f in fields(cls)))


def reliable(pairs: PairTable, model: StackModel) -> Bools:
    """Which pairs can be used: enough overlap, a plausible motion, and an agreement that chance does not explain."""
    usable = np.isfinite(pairs.scores) & (pairs.overlap >= LEAST_OVERLAP)
    usable &= np.isfinite(pairs.covariance).all(axis=(1, 2)) & np.isfinite(pairs.matrices).all(axis=(1, 2))
    usable[usable] &= _stretch(pairs.matrices[usable]) <= MOST_STRETCH
    usable &= ~by_chance(pairs, model)
    if model.metric != "ncc" or not usable.any():
        return np.asarray(usable)
    least = max(LEAST_SCORE, LEAST_RELATIVE_SCORE * float(np.median(pairs.scores[usable])))
    return np.asarray(usable & (pairs.scores >= least))


def by_chance(pairs: PairTable, model: StackModel) -> Bools:
    """(E,) which pairs agree by no more than the best of all poses of unrelated slices (see `verdict.evidence`).

    Images that share only slow changes, such as shading or a dark surround, correlate as a whole, not within fields. So
    the evidence is that of the mean correlation of n fields against zero, n / 2 log(1 + t^2 / (n - 1)) with Student's t
    (Wilks 1938). With few fields it is that of the correlation of the whole, with "mse" nothing is said then.

    Fields that hold noise alone, and slices that agree in some places only, make t small: of pairs that are refused so,
    the evidence of tiles counts, whose scale of chance is known (see `verdict.pair_evidence`).
    """
    values = pairs.fields.astype(np.float64)
    known = np.isfinite(values)
    count = np.maximum(known.sum(axis=1), 2)
    mean = np.where(known, values, 0).sum(axis=1) / count
    variance = np.where(known, (values - mean[:, None]) ** 2, 0).sum(axis=1) / (count - 1)
    t = np.maximum(mean, 0) / np.sqrt(np.maximum(variance / count, 1e-12))
    found = count / 2 * np.log1p(t * t / (count - 1))
    # Noise smoothed by a Gaussian of one voxel has this many independent values.
    whole = math.prod(model.grid.shape) / (4 * math.pi) ** (model.grid.ndim / 2)
    scores = np.nan_to_num(pairs.scores) if model.metric == "ncc" else np.ones(len(pairs))
    few = log_likelihood(scores, whole * np.maximum(pairs.overlap, LEAST_OVERLAP))
    related = np.where(known.sum(axis=1) >= LEAST_FIELDS, found, few) > model.needed_evidence
    with np.errstate(invalid="ignore"):
        return np.asarray(~(related | (pairs.evidence > ENOUGH * model.needed_evidence)))


def whole_correlation(pairs: PairTable) -> Floats:
    """(E,) correlations over whole slices that are as likely as those of pairs over what overlaps; NaN where unknown.

    A correlation r of Gaussian images over a share s of a slice has a likelihood of (1 - r^2)^(-s n / 2), against none:
    what does not overlap explains nothing. So a correlation of the whole of 1 - q^2 = (1 - r^2)^s is as likely. Two
    sections in a dark surround correlate by 0.99 also where only the surround overlaps.
    """
    unexplained = np.exp(-2 * log_likelihood(pairs.scores, np.clip(pairs.overlap, 0, 1)))
    return np.asarray(np.sqrt(np.maximum(1 - unexplained, 0)))


def _stretch(matrices: Floats) -> Floats:
    """(E,) the largest factor by which motions stretch or shrink any direction."""
    singular = np.linalg.svd(matrices[:, :-1, :-1], compute_uv=False)
    return np.asarray(np.maximum(singular.max(axis=1), 1 / np.maximum(singular.min(axis=1), 1e-12)))


def table_of(edges: Sequence[tuple[int, int]], fits: Sequence[BatchEstimate]) -> PairTable:
    """Fits of whole pyramids as a table."""
    ndim = fits[0].problem.pose.ndim
    scores = np.concatenate([f.after for f in fits])
    return PairTable(
        np.asarray(edges, dtype=np.intp).reshape(-1, 2),
        np.concatenate([f.matrices for f in fits]),
        np.concatenate([f.covariance for f in fits]),
        scores,
        scores.copy(),
        np.concatenate([f.overlap for f in fits]),
        np.full((len(scores), field_count(ndim) ** ndim), np.nan, np.float32),
        np.full(len(scores), np.nan),
    )


def field_count(ndim: int) -> int:
    """Fields along each axis of an image."""
    return FIELDS if ndim == 2 else FIELDS // 2


def packed(columns: PairTable | SliceFeatures) -> str:
    """Columns as text: a NumPy archive in base64."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{_stored_name(f.name): getattr(columns, f.name) for f in fields(columns)})
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def unpacked(kind: type[Any], text: str) -> Any:
    """Columns of a `kind` (PairTable, SliceFeatures) from what `packed` made; no pickles are read.

    Raises: ValueError, KeyError or OSError where the text is damaged.
    """
    with np.load(io.BytesIO(base64.b64decode(text, validate=True)), allow_pickle=False) as archive:
        columns = {f.name: archive[_stored_name(f.name)] for f in fields(kind) if f.name != _ADDED or _ADDED in archive}
    if kind is PairTable and _ADDED not in columns:
        columns[_ADDED] = np.full(len(columns["edges"]), np.nan)
    return kind(**columns)


def _stored_name(name: str) -> str:
    """A column's name in files: saved fits and checkpoints of earlier versions stay readable."""
    return "likeness" if name == "similarity" else name
