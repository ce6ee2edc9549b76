"""The sums over voxels by which a fixed and a warped image are compared, row by row: each voxel is read once or twice.

Images are (rows, x) float32.
"""

# ruff: noqa: PLR0917 (compiled functions call each other by position)

from __future__ import annotations

from typing import Any

import numpy as np

from daskreg.runtime.compiled import jit


@jit(fastmath={"contract", "reassoc"})
def sum_known(images: Any, known: Any, sums: Any, first: Any, stop: Any) -> None:
    """For some rows: what is known of the warped image, and sums over that.

    images: fixed, warped, weight. known: (2, rows, x) written: warped and weight, both zero where warped is NaN.
    sums: (rows, 6) float64 written: of the weight w and of w f, w v, w f f, w f v and w v v, with f fixed, v warped.
    """
    fixed, warped, weight = images
    for row in range(first, stop):
        n = sf = sv = sff = sfv = svv = 0.0
        for x in range(fixed.shape[1]):
            inside = np.isfinite(warped[row, x])
            v = warped[row, x] if inside else np.float32(0)
            w, f = weight[row, x] if inside else np.float32(0), fixed[row, x]
            known[0, row, x], known[1, row, x] = v, w
            n += float(w)
            sf += float(w * f)
            sv += float(w * v)
            sff += float(w * (f * f))
            sfv += float(w * (f * v))
            svv += float(w * (v * v))
        sums[row, 0], sums[row, 1], sums[row, 2] = n, sf, sv
        sums[row, 3], sums[row, 4], sums[row, 5] = sff, sfv, svv


@jit(fastmath={"contract", "reassoc"})
def sum_residual(images: Any, match: Any, residual: Any, sums: Any, first: Any, stop: Any) -> None:
    """For some rows: residual (rows, x) is written, and sums (rows,) of its squares times the weight.

    images: fixed, and what is known, see `sum_known`. match: (2,) float32 gain and offset.
    """
    (fixed, known), (gain, offset) = images, match
    for row in range(first, stop):
        total = 0.0
        for x in range(fixed.shape[1]):
            r = fixed[row, x] - (gain * known[0, row, x] + offset)
            residual[row, x] = r
            total += float(known[1, row, x] * (r * r))
        sums[row] = total
