"""Separable convolution on CPUs, one axis at a time, by compiled code in a small pool."""

# ruff: noqa: PLR0917 (compiled functions call each other by position)

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.kernels.sample_numba import jit
from daskreg.kernels.threads import spread

Singles = NDArray[np.float32]

# Fewer voxels than this are not worth waking a thread for.
_SMALL = 1 << 16


def convolve_axis(values: Singles, taps: Singles, axis: int, *, normalised: bool, threads: int = 1) -> Singles:
    """Convolve along one axis with an odd number of symmetric taps, zero outside.

    normalised: divide by the sum of the taps that fall inside.
    """
    n = values.shape[axis]
    outer = int(np.prod(values.shape[:axis], dtype=np.int64))
    source = np.ascontiguousarray(values).reshape(outer, n, -1)
    out = np.empty_like(source)
    scale = 1 / tap_sums(n, taps) if normalised else np.ones(n, np.float32)
    if threads == 1 or values.size < _SMALL:
        _convolve(source, taps, scale, out, 0, outer * n)
    else:
        ends = np.linspace(0, outer * n, threads + 1).astype(int)
        parts = zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)
        spread(threads, lambda part: _convolve(source, taps, scale, out, *part), parts)
    return out.reshape(values.shape)


def tap_sums(n: int, taps: Singles) -> Singles:
    """(n,) sums of the taps that fall inside an axis of n voxels."""
    radius = len(taps) // 2
    return np.asarray(np.convolve(np.ones(n), taps)[radius : radius + n], dtype=np.float32)


@jit(fastmath={"contract"})
def _convolve(source: Any, taps: Any, scale: Any, out: Any, first: Any, stop: Any) -> None:
    """Rows `first` to `stop` of the (outer, n, inner) arrays, counted over outer and n."""
    _, n, inner = source.shape
    radius = len(taps) // 2
    if inner == 1:
        for line in range(first // n, -(-stop // n)):
            begin, end = max(first - line * n, 0), min(stop - line * n, n)
            _convolve_line(source[line, :, 0], taps, scale, out[line, :, 0], begin, end)
        return
    for row in range(first, stop):
        line, i = row // n, row % n
        target = out[line, i]
        target[:] = np.float32(0)
        for k in range(max(0, radius - i), min(len(taps), n + radius - i)):
            tap, near = taps[k] * scale[i], source[line, i + k - radius]
            for j in range(inner):
                target[j] += tap * near[j]


@jit(fastmath={"contract"})
def _convolve_line(source: Any, taps: Any, scale: Any, out: Any, begin: Any, end: Any) -> None:
    n, radius = len(source), len(taps) // 2
    out[begin:end] = np.float32(0)
    for k in range(len(taps)):
        low, high = max(begin, radius - k), min(end, n + radius - k)
        tap = taps[k]
        for j in range(low, high):
            out[j] += tap * source[j + k - radius]
    for j in range(begin, end):
        out[j] *= scale[j]
