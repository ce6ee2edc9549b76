"""Sums over the windows of nodes, and residuals with the gain and offset of these, row by row; see `windows`.

A plane of an image, or some rows of it, at a time. Sums run along y for all x at once, and then along x, once for each
row of nodes. Values of nodes are interpolated along x once for each row of nodes, and then along y for all x at once.

    images   fixed, warped, weight: (y, x) float32.
    windows  for y and x: (first, weights), the first of the four nodes of each voxel (n,), and the values of their
             splines (4, n) float32.
    nodes    (k, nodes y, nodes x) float32: gain, offset, ...
"""

# ruff: noqa: PLR0917 (compiled functions call each other by position)

from __future__ import annotations

from typing import Any

import numpy as np

from daskreg.runtime.compiled import inner, jit


@inner(fastmath={"contract", "reassoc"})
def _add_scaled(out: Any, factor: Any, rows: Any) -> None:
    for q in range(len(rows)):
        total, row = out[q], rows[q]
        for x in range(len(row)):
            total[x] += factor * row[x]


@inner(fastmath={"contract", "reassoc"})
def _add_across(out: Any, rows: Any, along_x: Any) -> None:
    """Sums of rows along x: what one row of nodes still lacks."""
    first, weights = along_x
    for q in range(len(rows)):
        total, row = out[q], rows[q]
        for x in range(len(row)):
            k, value = first[x], row[x]
            total[k] += weights[0, x] * value
            total[k + 1] += weights[1, x] * value
            total[k + 2] += weights[2, x] * value
            total[k + 3] += weights[3, x] * value


@inner(fastmath={"contract", "reassoc"})
def _spread(values: Any, windows: Any, y: Any, lines: Any, begun: Any, out: Any) -> Any:
    """Add a row of values to the four rows of nodes around it.

    lines: (4, k, x) the sums along y of four rows of nodes; what is complete is added to `out` (k, nodes y, nodes x).
    begun: the first row of nodes that is not complete. Returns: the same, now.
    """
    (first, weights), along_x = windows
    while begun < first[y]:
        _add_across(out[:, begun], lines[begun % 4], along_x)
        lines[begun % 4] = np.float32(0)
        begun += 1
    for k in range(4):
        _add_scaled(lines[(begun + k) % 4], weights[k, y], values)
    return begun


@inner(fastmath={"contract", "reassoc"})
def _end(windows: Any, lines: Any, begun: Any, out: Any) -> None:
    for k in range(begun, begun + 4):
        _add_across(out[:, k], lines[k % 4], windows[1])


@jit(fastmath={"contract", "reassoc"})
def sum_moments(images: Any, windows: Any, out: Any) -> None:
    """out: (6, nodes y, nodes x) sums of w, wf, ww, wff, wfw and www, with f fixed, w warped and w the weight."""
    fixed, warped, weight = images
    ny, nx = fixed.shape
    values, lines = np.empty((6, nx), np.float32), np.zeros((4, 6, nx), np.float32)
    begun = windows[0][0][0]
    for y in range(ny):
        f, w, v = fixed[y], warped[y], weight[y]
        for x in range(nx):
            values[0, x] = v[x]
            values[1, x] = v[x] * f[x]
            values[2, x] = v[x] * w[x]
            values[3, x] = v[x] * f[x] * f[x]
            values[4, x] = v[x] * f[x] * w[x]
            values[5, x] = v[x] * w[x] * w[x]
        begun = _spread(values, windows, y, lines, begun, out)
    _end(windows, lines, begun, out)


@inner(fastmath={"contract", "reassoc"})
def _along_x(nodes: Any, along_x: Any, out: Any) -> None:
    """out: (k, nodes y, x)."""
    first, weights = along_x
    for q in range(nodes.shape[0]):
        for j in range(nodes.shape[1]):
            row, line = nodes[q, j], out[q, j]
            for x in range(len(line)):
                k = first[x]
                line[x] = (
                    weights[0, x] * row[k]
                    + weights[1, x] * row[k + 1]
                    + weights[2, x] * row[k + 2]
                    + weights[3, x] * row[k + 3]
                )


@inner(fastmath={"contract", "reassoc"})
def _along_y(lines: Any, along_y: Any, y: Any, out: Any) -> None:
    """out: (k, x) of a row."""
    first, weights = along_y
    k, a, b, c, d = first[y], weights[0, y], weights[1, y], weights[2, y], weights[3, y]
    for q in range(len(out)):
        zero, one, two, three, line = lines[q, k], lines[q, k + 1], lines[q, k + 2], lines[q, k + 3], out[q]
        for x in range(len(line)):
            line[x] = a * zero[x] + b * one[x] + c * two[x] + d * three[x]


@jit(fastmath={"contract", "reassoc"})
def sum_residual(images: Any, windows: Any, nodes: Any, out: Any) -> None:
    """nodes: gain and offset. out: (2, nodes y, nodes x) sums of weight times residual, and of that times warped."""
    fixed, warped, weight = images
    ny, nx = fixed.shape
    between, row = np.empty((2, nodes.shape[1], nx), np.float32), np.empty((2, nx), np.float32)
    values, lines = np.empty((2, nx), np.float32), np.zeros((4, 2, nx), np.float32)
    _along_x(nodes, windows[1], between)
    begun = windows[0][0][0]
    for y in range(ny):
        f, w, v = fixed[y], warped[y], weight[y]
        _along_y(between, windows[0], y, row)
        for x in range(nx):
            residual = v[x] * (f[x] - (row[0, x] * w[x] + row[1, x]))
            values[0, x] = residual
            values[1, x] = residual * w[x]
        begun = _spread(values, windows, y, lines, begun, out)
    _end(windows, lines, begun, out)


@jit(fastmath={"contract", "reassoc"})
def subtract(images: Any, windows: Any, nodes: Any, residual: Any) -> Any:
    """nodes: gain, offset and precision. residual: (y, x) is written.

    Returns: the sum of its squares times weight and precision.
    """
    fixed, warped, weight = images
    ny, nx = fixed.shape
    between, row = np.empty((3, nodes.shape[1], nx), np.float32), np.empty((3, nx), np.float32)
    _along_x(nodes, windows[1], between)
    total = 0.0
    for y in range(ny):
        f, w, v, r = fixed[y], warped[y], weight[y], residual[y]
        _along_y(between, windows[0], y, row)
        part = np.float32(0)
        for x in range(nx):
            r[x] = f[x] - (row[0, x] * w[x] + row[1, x])
            part += v[x] * row[2, x] * r[x] * r[x]
        total += float(part)
    return total


@jit(fastmath={"contract", "reassoc"}, error_model="numpy")
def share(images: Any, windows: Any, nodes: Any) -> None:
    """images: residual and weight; written are the residual / common, and weight precision common^2. nodes: precision
    and common."""
    residual, weight, of_all, counts = images
    ny, nx = residual.shape
    between, row = np.empty((2, nodes.shape[1], nx), np.float32), np.empty((2, nx), np.float32)
    _along_x(nodes, windows[1], between)
    for y in range(ny):
        r, v, scaled, counted = residual[y], weight[y], of_all[y], counts[y]
        _along_y(between, windows[0], y, row)
        for x in range(nx):
            scaled[x] = r[x] / row[1, x]
            counted[x] = v[x] * row[0, x] * row[1, x] * row[1, x]
