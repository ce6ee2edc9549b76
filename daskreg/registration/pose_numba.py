"""Matrices and derivatives of poses, compiled: Gauss-Newton needs them at every step."""

# ruff: noqa: PLR0917 (compiled functions call each other by position)

from __future__ import annotations

from typing import Any

import numpy as np

from daskreg.runtime.compiled import fragment, jit
from daskreg.runtime.intrinsics import zeros


@fragment(allocates=True)
def _zeros(n: Any) -> Any:
    return zeros((n, n), np.float64)


@fragment(allocates=True)
def _eye(n: Any) -> Any:
    out = _zeros(n)
    for i in range(n):
        out[i, i] = 1.0
    return out


@fragment(allocates=True)
def _product(a: Any, b: Any) -> Any:
    n = len(a)
    out = _zeros(n)
    for i in range(n):
        for j in range(n):
            for k in range(n):
                out[i, j] += a[i, k] * b[k, j]
    return out


@fragment
def _copy_column(a: Any, column: Any, factor: Any, out: Any, target: Any) -> None:
    """Without a slice on the left, which takes seconds to compile."""
    for i in range(len(a)):
        out[i, target] = a[i, column] * factor


@fragment(allocates=True)
def _rotation(angle: Any, axis: Any, ndim: Any, derivative: Any) -> Any:
    """An elementary rotation about `axis` (2D: the only one) in x, y, z order, or its derivative."""
    out = _zeros(ndim) if derivative else _eye(ndim)
    i, j = (0, 1) if ndim == 2 else ((axis + 1) % 3, (axis + 2) % 3)
    c, s = (-np.sin(angle), np.cos(angle)) if derivative else (np.cos(angle), np.sin(angle))
    out[i, i] = out[j, j] = c
    out[i, j], out[j, i] = -s, s
    return out


@fragment
def _store(linear: Any, shift: Any, centre: Any, constant: Any, factor: Any, out: Any) -> None:
    """Add `factor` times x -> linear (x - c) + shift + constant c, in x, y, z order, to a matrix in array order."""
    ndim = len(centre)
    for i in range(ndim):
        offset = shift[ndim - 1 - i] + constant * centre[i]
        for j in range(ndim):
            value = linear[ndim - 1 - i, ndim - 1 - j]
            out[i, j] += factor * value
            offset -= value * centre[j]
        out[i, ndim] += factor * offset
    out[ndim, ndim] += factor * constant


@jit
def motions(q: Any, embedding: Any, shears: Any, centre: Any, matrices: Any, derivatives: Any) -> None:
    """Fill (B, D+1, D+1) matrices and (B, P, D+1, D+1) derivatives, both zero before.

    q: (B, F) all parameters, by group: rotation, translation, scale, shear. embedding: (P, F) dq/dp of the free
    parameters. shears: (S, 2) row and column of each shear, in x, y, z order. centre: (D,), array order.
    """
    ndim = len(centre)
    angles = 1 if ndim == 2 else 3
    zero, still = _zeros(ndim), zeros(ndim, np.float64)
    for b in range(len(q)):
        p = q[b]
        rotation, shear, scale = _eye(ndim), _eye(ndim), _zeros(ndim)
        for k in range(angles):
            rotation = _product(_rotation(p[k], k, ndim, k < 0), rotation)
        for k in range(ndim):
            scale[k, k] = p[angles + ndim + k]
        for k in range(len(shears)):
            shear[shears[k, 0], shears[k, 1]] += p[angles + 2 * ndim + k]
        sheared, scaled = _product(rotation, shear), _product(shear, scale)
        _store(_product(sheared, scale), p[angles : angles + ndim], centre, 1.0, 1.0, matrices[b])
        for f in range(q.shape[1]):
            linear, shift = zero.copy(), still.copy()
            if f < angles:
                derived = _eye(ndim)
                for k in range(angles):
                    derived = _product(_rotation(p[k], k, ndim, k == f), derived)
                linear = _product(derived, scaled)
            elif f < angles + ndim:
                shift[f - angles] = 1.0
            elif f < angles + 2 * ndim:
                k = f - angles - ndim
                _copy_column(sheared, k, 1.0, linear, k)
            else:
                row, column = shears[f - angles - 2 * ndim]
                _copy_column(rotation, row, scale[column, column], linear, column)
            for free in range(len(embedding)):
                if embedding[free, f] != 0:
                    _store(linear, shift, centre, 0.0, embedding[free, f], derivatives[b, free])
