"""Candidate motions from the local shape of surfaces: point feature histograms are matched, and true matches agree.

A descriptor is a histogram of the angles between a point's normal and those of its neighbours, smoothed
over the neighbours (Rusu et al., FPFH, 2009). Only angles are used that do not change when a normal changes its
sign, so the outside of a thin or open surface need not be known. Groups of matches that preserve
each other's distances and angles give the motions (`consensus`). Nothing is random.
"""

# ruff: noqa: PLR0917 (compiled functions call each other by position)

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.clouds.cloud import Cloud, Floats
from daskreg.clouds.consensus import consensus
from daskreg.clouds.icp import fit_rigid
from daskreg.runtime.compiled import inner, jit
from daskreg.runtime.threads import shares

BINS = 11
# The most neighbours in a descriptor, and the radius they are within, in spacings.
_NEIGHBOURS, _RADIUS = 90, 5.0
# Matches that are compared with each other.
_MATCHES = 800
# The largest differences of distances, in spacings, and of cosines between two matches that agree.
_LENGTHS, _COSINES = 1.2, 0.25


@inner
def _line(points: Any, i: Any, j: Any, line: Any) -> Any:
    """Fill the vector (3,) from point i to j and return its length; 0 where j is no point, or at the same place."""
    if j == len(points):
        return 0.0
    length = 0.0
    for d in range(3):
        line[d] = points[j, d] - points[i, d]
        length += line[d] * line[d]
    return np.sqrt(length)


@jit
def _histograms(points: Any, normals: Any, rows: Any, first: Any, stop: Any, out: Any) -> None:
    """Fill rows `first` to `stop` of out (N, 3 BINS): histograms over the neighbours `rows` (N, K) of each point."""
    line = np.empty(3)
    for i in range(first, stop):
        number = 0
        for j in rows[i]:
            length = _line(points, i, j, line)
            if length == 0.0:
                continue
            own, other, both = 0.0, 0.0, 0.0
            for d in range(3):
                own += normals[i, d] * line[d] / length
                other += normals[j, d] * line[d] / length
                both += normals[i, d] * normals[j, d]
            # When either normal changes its sign, the product of the three cosines keeps its own.
            signed = np.sign(own * other * both) * (1 - min(abs(both), 1.0))
            out[i, min(int(abs(own) * BINS), BINS - 1)] += 1
            out[i, BINS + min(int(abs(other) * BINS), BINS - 1)] += 1
            out[i, 2 * BINS + min(int((signed + 1) / 2 * BINS), BINS - 1)] += 1
            number += 1
        for b in range(3 * BINS):
            out[i, b] /= max(number, 1)


@jit
def _smooth(points: Any, rows: Any, raw: Any, first: Any, stop: Any, out: Any) -> None:
    """Square roots of the mean of each histogram and its neighbours', which are weighed by 1 / distance."""
    line = np.empty(3)
    for i in range(first, stop):
        total = 0.0
        for j in rows[i]:
            length = _line(points, i, j, line)
            if length == 0.0:
                continue
            weight = 1 / length
            total += weight
            for b in range(3 * BINS):
                out[i, b] += weight * raw[j, b]
        for b in range(3 * BINS):
            out[i, b] = np.sqrt((out[i, b] / max(total, 1e-300) + raw[i, b]) / 2)


def fpfh(cloud: Cloud, radius: float) -> NDArray[np.float32]:
    """(N, 3 BINS) square roots of histograms, so that Euclidean distances between them are Hellinger distances."""
    k = min(_NEIGHBOURS, len(cloud))
    _, rows = cloud.tree.query(cloud.points, k, limit=radius)
    raw, out = np.zeros((2, len(cloud), 3 * BINS))
    shares(lambda a, b: _histograms(cloud.points, cloud.normals, rows, a, b, raw), len(cloud))
    shares(lambda a, b: _smooth(cloud.points, rows, raw, a, b, out), len(cloud))
    return out.astype(np.float32)


def match(target: NDArray[np.float32], source: NDArray[np.float32], most: int) -> NDArray[np.int64]:
    """(M, 2) rows (target, source) of nearest descriptors: mutual ones first, then those with a worse second best."""
    products = source @ target.T
    squares = np.sum(source**2, axis=1)[:, None] + np.sum(target**2, axis=1)[None] - 2 * products
    nearest, back = squares.argmin(axis=1), squares.argmin(axis=0)
    rows = np.arange(len(source))
    two = np.partition(squares, 1, axis=1)[:, :2]
    mutual = back[nearest] == rows
    order = np.lexsort((two[:, 0] / np.maximum(two[:, 1], 1e-12), ~mutual))[:most]
    return np.stack([nearest[order], order], axis=1)


@jit
def _compatible(p: Any, n: Any, q: Any, m: Any, lengths: Any, cosines: Any, first: Any, stop: Any, out: Any) -> None:
    """Fill rows `first` to `stop` of out (M, M): 1 where matches i and j preserve distance and angles.

    Args:
        p, n: (M, 3) target points and normals of the matches.
        q, m: (M, 3) source points and normals.
        lengths, cosines: the largest differences.
    """
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


def motions_by_fpfh(target: Cloud, source: Cloud, spacing: float) -> Floats:
    """(S, 4, 4) motions, target from source, each fitted to a group of matches that agree.

    Both clouds are 3D surfaces, downsampled to about the same `spacing`.
    """
    target_normals, source_normals = target.normals, source.normals
    radius = _RADIUS * spacing
    pairs = match(fpfh(target, radius), fpfh(source, radius), _MATCHES)
    p, n = target.points[pairs[:, 0]], target_normals[pairs[:, 0]]
    q, m = source.points[pairs[:, 1]], source_normals[pairs[:, 1]]
    compatible = np.zeros((len(pairs), len(pairs)), dtype=np.float32)
    shares(lambda a, b: _compatible(p, n, q, m, _LENGTHS * spacing, _COSINES, a, b, compatible), len(pairs))
    groups, weights = consensus(compatible, least=4)
    return fit_rigid(p[groups], q[groups], weights)
