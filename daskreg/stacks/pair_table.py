"""What is known of pairs of slices and of single ones, as columns; and which pairs to believe."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.geometry import Grid
from daskreg.registration.estimate import BatchEstimate

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
Bools = NDArray[np.bool_]

FIELDS = 8
"""Fields along each axis of an image (3D: half as many) in which pairs are compared by themselves."""

LEAST_OVERLAP = 0.15
LEAST_SCORE, LEAST_SHARE = 0.1, 0.3  # of correlation, and of the median of the stack's correlations
CHANCE = 5  # standard deviations by which a correlation must beat that of noise


@dataclass(frozen=True)
class PairTable:
    """Fits of pairs, one row each.

    edges: (E, 2) indices (fixed, moving). matrices: (E, D+1, D+1) moving_from_fixed, world.
    covariance: (E, P, P) of the free parameters, of the noise of the images. scores: (E,) the
    metric. likeness: (E,) the metric on a level that all pairs share. overlap: (E,). fields:
    (E, F) correlation within fields of the fixed image, NaN where there is too little to see.
    """

    edges: Ints
    matrices: Floats
    covariance: Floats
    scores: Floats
    likeness: Floats
    overlap: Floats
    fields: NDArray[np.float32]

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
            none, none, none, np.empty((0, field_count(ndim) ** ndim), np.float32),
        )  # fmt: skip


@dataclass(frozen=True)
class Looks:
    """What single slices look like, one row each.

    blank: constant. contrast: of a small copy (about 64 voxels), which noise does not reach.
    texture: (N, 2) mean squared slopes on the two finest levels. digest: of the voxels.
    """

    blank: Bools
    contrast: Floats
    texture: Floats
    digest: NDArray[np.uint64]

    @classmethod
    def joined(cls, parts: Iterable[Looks]) -> Looks:
        every = list(parts)
        return cls(*(np.concatenate([getattr(p, f.name) for p in every]) for f in fields(cls)))


def good(pairs: PairTable, grid: Grid, metric: str) -> Bools:
    """Which pairs say something: enough overlap, and a correlation that is not chance."""
    found = np.isfinite(pairs.scores) & (pairs.overlap >= LEAST_OVERLAP)
    found &= np.isfinite(pairs.covariance).all(axis=(1, 2))
    if metric != "ncc" or not found.any():
        return np.asarray(found)
    # Noise smoothed by a Gaussian of one voxel has this many independent values.
    values = math.prod(grid.shape) / (4 * math.pi) ** (grid.ndim / 2)
    chance = np.minimum(CHANCE / np.sqrt(values * np.maximum(pairs.overlap, LEAST_OVERLAP)), 0.5)
    least = max(LEAST_SCORE, LEAST_SHARE * float(np.median(pairs.scores[found])))
    return np.asarray(found & (pairs.scores >= np.maximum(chance, least)))


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
    )


def field_count(ndim: int) -> int:
    return FIELDS if ndim == 2 else FIELDS // 2


def packed(columns: PairTable | Looks) -> str:
    """Columns as text: a NumPy archive in base64."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{f.name: getattr(columns, f.name) for f in fields(columns)})
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def unpacked(kind: type[Any], text: str) -> Any:
    """Columns of a `kind` (PairTable, Looks) from what `packed` made; no pickles are read.

    Raises: ValueError, KeyError or OSError where the text is damaged.
    """
    with np.load(io.BytesIO(base64.b64decode(text, validate=True)), allow_pickle=False) as archive:
        return kind(*(archive[f.name] for f in fields(kind)))
