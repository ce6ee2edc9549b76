"""Motions proposed by local shape: descriptors of surfaces, matched, and the consensus among the matches.

A descriptor is a histogram of angles between a point's normal and those around it, smoothed
over the neighbours (Rusu et al., FPFH, 2009). Ours takes only what does not change when a
normal changes its sign, so that nothing has to decide which side of a thin or open surface is
out. Matches that preserve each other's distances and angles support each other, and the
support that two of them share tells true from false even where nine of ten are false (Chen et
al., SC2-PCR, CVPR 2022). There is no chance in it.
"""

# ruff: noqa: PLR0917 (compiled functions call each other by position)

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.clouds.cloud import Cloud, Floats
from daskreg.clouds.icp import closest_rigid
from daskreg.runtime.compiled import jit
from daskreg.runtime.threads import shares

BINS = 11
# Neighbours in a descriptor, and the radius that holds them in spacings.
_AROUND, _REACH = 90, 5.0
# Matches that vote, seeds of motions, and matches that each motion is solved from.
_MATCHES, _SEEDS, _SUPPORT = 800, 100, 24
# Distances and angles that a true pair of matches preserves: in spacings, as a difference of cosines.
_LENGTHS, _COSINES = 1.2, 0.25


@jit
def _to(points: Any, i: Any, j: Any, line: Any) -> Any:
    """Fill the line (3,) from point i to j and return its length; 0 where j is none, or at the same place."""
    if j == len(points):
        return 0.0
    length = 0.0
    for d in range(3):
        line[d] = points[j, d] - points[i, d]
        length += line[d] * line[d]
    return np.sqrt(length)


@jit
def _histograms(points: Any, normals: Any, indices: Any, first: Any, stop: Any, out: Any) -> None:
    """Fill rows `first` to `stop` of out (N, 3 BINS) from each point's neighbours."""
    line = np.empty(3)
    for i in range(first, stop):
        number = 0
        for j in indices[i]:
            length = _to(points, i, j, line)
            if length == 0.0:
                continue
            mine, other, both = 0.0, 0.0, 0.0
            for d in range(3):
                mine += normals[i, d] * line[d] / length
                other += normals[j, d] * line[d] / length
                both += normals[i, d] * normals[j, d]
            # With either normal turned round, the product of the three keeps its sign.
            turn = np.sign(mine * other * both) * (1 - min(abs(both), 1.0))
            out[i, min(int(abs(mine) * BINS), BINS - 1)] += 1
            out[i, BINS + min(int(abs(other) * BINS), BINS - 1)] += 1
            out[i, 2 * BINS + min(int((turn + 1) / 2 * BINS), BINS - 1)] += 1
            number += 1
        for b in range(3 * BINS):
            out[i, b] /= max(number, 1)


@jit
def _smoothed(points: Any, indices: Any, raw: Any, first: Any, stop: Any, out: Any) -> None:
    """Each histogram with those around it, the nearer the more."""
    line = np.empty(3)
    for i in range(first, stop):
        total = 0.0
        for j in indices[i]:
            length = _to(points, i, j, line)
            if length == 0.0:
                continue
            weight = 1 / length
            total += weight
            for b in range(3 * BINS):
                out[i, b] += weight * raw[j, b]
        for b in range(3 * BINS):
            out[i, b] = np.sqrt((out[i, b] / max(total, 1e-300) + raw[i, b]) / 2)


def descriptors(cloud: Cloud, radius: float) -> NDArray[np.float32]:
    """(N, 3 BINS) square roots of histograms, so that Euclidean distances are Hellinger's."""
    k = min(_AROUND, len(cloud))
    _, indices = cloud.tree.query(cloud.points, k, limit=radius)
    raw, out = np.zeros((2, len(cloud), 3 * BINS))
    shares(lambda a, b: _histograms(cloud.points, cloud.normals, indices, a, b, raw), len(cloud))
    shares(lambda a, b: _smoothed(cloud.points, indices, raw, a, b, out), len(cloud))
    return out.astype(np.float32)


def matched(target: NDArray[np.float32], source: NDArray[np.float32], most: int) -> NDArray[np.int64]:
    """(M, 2) rows (target, source) of nearest descriptors: first the mutual ones, then the more distinct."""
    products = source @ target.T
    squares = np.sum(source**2, axis=1)[:, None] + np.sum(target**2, axis=1)[None] - 2 * products
    forth, back = squares.argmin(axis=1), squares.argmin(axis=0)
    rows = np.arange(len(source))
    two = np.partition(squares, 1, axis=1)[:, :2]
    mutual = back[forth] == rows
    order = np.lexsort((two[:, 0] / np.maximum(two[:, 1], 1e-12), ~mutual))[:most]
    return np.stack([forth[order], order], axis=1)


@jit
def _compatible(p: Any, n: Any, q: Any, m: Any, lengths: Any, cosines: Any, first: Any, stop: Any, out: Any) -> None:
    """1 where matches i and j preserve the distance and the angles between them."""
    count = len(p)
    a, b = np.empty(3), np.empty(3)
    for i in range(first, stop):
        for j in range(count):
            la, lb = 0.0, 0.0
            for d in range(3):
                a[d], b[d] = p[j, d] - p[i, d], q[j, d] - q[i, d]
                la += a[d] * a[d]
                lb += b[d] * b[d]
            la, lb = np.sqrt(la), np.sqrt(lb)
            if abs(la - lb) > lengths or min(la, lb) < 2 * lengths:
                continue
            nn, mm, ni, mi, nj, mj = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
            for d in range(3):
                nn += n[i, d] * n[j, d]
                mm += m[i, d] * m[j, d]
                ni += n[i, d] * a[d]
                mi += m[i, d] * b[d]
                nj += n[j, d] * a[d]
                mj += m[j, d] * b[d]
            if (
                abs(abs(nn) - abs(mm)) < cosines
                and abs(abs(ni) / la - abs(mi) / lb) < cosines
                and abs(abs(nj) / la - abs(mj) / lb) < cosines
            ):
                out[i, j] = 1


def proposals(target: Cloud, source: Cloud, spacing: float) -> Floats:
    """(S, 4, 4) motions, target from source, each solved from matches that support each other.

    Both are 3D surfaces, thinned to about the same `spacing`.
    """
    normals_t, normals_s = target.normals, source.normals
    radius = _REACH * spacing
    pairs = matched(descriptors(target, radius), descriptors(source, radius), _MATCHES)
    p, n = target.points[pairs[:, 0]], normals_t[pairs[:, 0]]
    q, m = source.points[pairs[:, 1]], normals_s[pairs[:, 1]]
    support = np.zeros((len(pairs), len(pairs)), dtype=np.float32)
    shares(lambda a, b: _compatible(p, n, q, m, _LENGTHS * spacing, _COSINES, a, b, support), len(pairs))
    best, weights = consensus(support, least=4)
    return closest_rigid(p[best], q[best], weights)


def consensus(support: NDArray[np.float32], *, least: int) -> tuple[NDArray[np.int64], Floats]:
    """(S, K) matches that go together, and their weights, of (M, M) whether two agree; `least` must."""
    shared = support * (support @ support)  # how many others both of a compatible pair agree with
    seeds = np.argsort(-shared.sum(axis=1), kind="stable")[:_SEEDS]
    k = min(_SUPPORT, len(support) - 1)
    rows = shared[seeds]
    best = np.argpartition(-rows, k, axis=1)[:, :k]
    weights = np.take_along_axis(rows, best, axis=1).astype(np.float64)
    best = np.concatenate([seeds[:, None], best], axis=1)
    weights = np.concatenate([weights.max(axis=1, keepdims=True), weights], axis=1)
    good = np.count_nonzero(weights, axis=1) >= least
    return best[good], weights[good]
