"""Sampling through displacement fields on CPUs: `coordinates` of some rows of the output, then their voxels.

A call takes so few rows that their coordinates stay in the processor's cache: no array has the size of the output.
What gathers and interpolates is that of `arrays_numba`, and so are the arguments that are not named here.

    field    one step, (vectors, extent, matrices, facts): `vectors` (D, Z, Y, X), whose first axis of nodes has
             length 1 for images; `extent` (2, 3), the shape of the whole field and the first node in `vectors`;
             `matrices` (6, D+1, D+1), numbered below; `facts` = (order, inverse, along), where `along` says that only
             the last index of the nodes changes along a row of the output; `vectors` are turned onward then.
    target   (origin, steps): the first index of the output, and the rows from one index to the next along each axis
             but the last.
    space    scratch of one thread; see `Displaced.space`. Small vectors and matrices are rows of one array, `work`:
             numba counts references to each array that it takes out of a tuple, which costs more than the arithmetic.
    xs       (D, R, W): coordinates of R rows.

Where only the last index of the nodes changes along a row, the vectors are interpolated between rows of nodes once for
the row, and then between two (four) neighbours for each voxel. Everywhere else all neighbours are visited.
All is float64 in a fixed order, from absolute indices, so that no cut of the output changes a bit.
"""

# ruff: noqa: PLR0917 (compiled functions call each other by position)

from __future__ import annotations

from typing import Any

import numpy as np

from daskreg.runtime.compiled import inner, jit
from daskreg.sampling.arrays_numba import (
    as_like,
    clamped,
    columns_within,
    cubic_run,
    gather_at_border,
    gather_run,
    mix_run,
    put_pair,
    row_number,
    whole,
)

NEWTON_STEPS = 40
CLOSE = 1e-9  # of the spacing of the nodes: how well an inverse is solved
SMALL_DETERMINANT = 0.05  # of 1 + du/dp: below, a Newton step may go anywhere
_UNIT = 16  # columns of a row that are looked at together, whether they touch the block
HALVINGS = 5  # of a step that does not come nearer

# The matrices of a step: to the world of its field, to its nodes, onward; products of two of them; and two rows of the
# least and the greatest displacement.
INTO, NODES, ONWARD, DIRECT, ACROSS, LIMITS = range(6)
# Rows of `work`: a point, its place in the field's world, that of the solution, its nodes, its displacement, the
# residual, the step and its end; the leading indices of a row; weights and slopes along z, y, x; two matrices.
X, P, Q, G, U, R, STEP, TRIAL, INDEX, WEIGHTS, SLOPES, GRADIENT, JACOBIAN = 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 15, 18


@inner
def _taps(g: Any, k: Any, extent: Any, order: Any, work: Any, taps: Any) -> Any:
    """Neighbours along axis `k` of (z, y, x) in the crop, and their weights; whether `g` is in the field."""
    n, first = extent[0, k], extent[1, k]
    f = np.floor(g)
    t = g - f
    if order == 1:
        if not (g >= -0.5 and g < n - 0.5):
            return False
        at = np.int64(f)
        work[WEIGHTS + k, 0], work[WEIGHTS + k, 1] = 1 - t, t
        taps[k, 0], taps[k, 1] = min(max(at, 0), n - 1) - first, min(max(at + 1, 0), n - 1) - first
        return True
    if not (g >= 1 and g <= n - 2):
        return False
    s, at = 1 - t, np.int64(f)
    work[WEIGHTS + k, 0], work[WEIGHTS + k, 3] = s * s * s / 6, t * t * t / 6
    work[WEIGHTS + k, 1], work[WEIGHTS + k, 2] = 2 / 3 - t * t * (1 - t / 2), 2 / 3 - s * s * (1 - s / 2)
    for i in range(4):
        taps[k, i] = min(at - 1 + i, n - 1) - first
    return True


@inner
def _around(extent: Any, order: Any, ndim: Any, work: Any, taps: Any) -> Any:
    """Neighbours and weights of the node coordinates in work[G] along all axes; whether they are in the field."""
    lift = 3 - ndim
    if lift:
        taps[0, 0], work[WEIGHTS, 0] = 0, 1.0
    inside = True
    for k in range(lift, 3):
        inside = inside and _taps(work[G, k - lift], k, extent, order, work, taps)
    return inside


@inner
def _displacement(vectors: Any, extent: Any, order: Any, work: Any, taps: Any) -> Any:
    """The displacement at the node coordinates in work[G], into work[U]; whether they are in the field."""
    ndim, count = len(vectors), 2 if order == 1 else 4
    for c in range(ndim):
        work[U, c] = 0.0
    if not _around(extent, order, ndim, work, taps):
        return False
    for c in range(ndim):
        total = 0.0
        for a in range(count if ndim == 3 else 1):
            for b in range(count):
                z, y, row = np.uint64(taps[0, a]), np.uint64(taps[1, b]), 0.0
                for d in range(count):
                    row += work[WEIGHTS + 2, d] * np.float64(vectors[c, z, y, np.uint64(taps[2, d])])
                total += work[WEIGHTS, a] * work[WEIGHTS + 1, b] * row
        work[U, c] = total
    return True


@inner
def _gradient(vectors: Any, order: Any, work: Any, taps: Any) -> None:
    """du/dg at the point of the last `_displacement`, which was in the field, into work[GRADIENT:]."""
    ndim, count = len(vectors), 2 if order == 1 else 4
    lift = 3 - ndim
    for k in range(ndim):
        row = SLOPES + k + lift
        t = work[G, k] - np.floor(work[G, k])
        if order == 1:
            work[row, 0], work[row, 1] = -1.0, 1.0
        else:
            s = 1 - t
            work[row, 0], work[row, 3] = -s * s / 2, t * t / 2
            work[row, 1], work[row, 2] = t * (1.5 * t - 2), -s * (1.5 * s - 2)
        for c in range(ndim):
            work[GRADIENT + c, k] = 0.0
    for a in range(count if ndim == 3 else 1):
        for b in range(count):
            for d in range(count):
                z, y, x = np.uint64(taps[0, a]), np.uint64(taps[1, b]), np.uint64(taps[2, d])
                wz, wy, wx = work[WEIGHTS, a], work[WEIGHTS + 1, b], work[WEIGHTS + 2, d]
                for c in range(ndim):
                    v = np.float64(vectors[c, z, y, x])
                    work[GRADIENT + c, ndim - 1] += wz * wy * work[SLOPES + 2, d] * v
                    work[GRADIENT + c, ndim - 2] += wz * work[SLOPES + 1, b] * wx * v
                    if not lift:
                        work[GRADIENT + c, 0] += work[SLOPES, a] * wy * wx * v


@inner
def _apply(matrices: Any, which: Any, work: Any, x: Any, out: Any) -> None:
    """work[out] = matrix . (work[x], 1), in the order of operations of `arrays_numba`."""
    ndim = matrices.shape[1] - 1
    for k in range(ndim):
        value = matrices[which, k, 0] * work[x, 0]
        for i in range(1, ndim - 1):
            value = value + matrices[which, k, i] * work[x, i]
        work[out, k] = (value + matrices[which, k, ndim]) + matrices[which, k, ndim - 1] * work[x, ndim - 1]


@inner
def _jacobian(vectors: Any, extent: Any, matrices: Any, order: Any, work: Any, taps: Any) -> None:
    """d(p + u(p))/dp at the node coordinates in work[G], into work[JACOBIAN:]; outside the field the identity."""
    ndim = len(vectors)
    inside = _around(extent, order, ndim, work, taps)
    if inside:
        _gradient(vectors, order, work, taps)
    for c in range(ndim):
        for k in range(ndim):
            total = 1.0 if c == k else 0.0
            if inside:
                for i in range(ndim):
                    total += work[GRADIENT + c, i] * matrices[NODES, i, k]
            work[JACOBIAN + c, k] = total


@inner
def _determinant(ndim: Any, work: Any) -> Any:
    """Of the matrix in work[JACOBIAN:]."""
    m = JACOBIAN
    if ndim == 2:
        return work[m, 0] * work[m + 1, 1] - work[m, 1] * work[m + 1, 0]
    det = 0.0
    for c in range(3):
        a, b = (c + 1) % 3, (c + 2) % 3
        det += work[m + c, 0] * (work[m + a, 1] * work[m + b, 2] - work[m + a, 2] * work[m + b, 1])
    return det


@inner
def _solve(ndim: Any, work: Any) -> None:
    """work[STEP] with JACOBIAN . STEP = R, by Cramer's rule; it stays as it is where the determinant is small."""
    m, det = JACOBIAN, _determinant(ndim, work)
    if not det > SMALL_DETERMINANT:
        return
    if ndim == 2:
        work[STEP, 0] = (work[R, 0] * work[m + 1, 1] - work[m, 1] * work[R, 1]) / det
        work[STEP, 1] = (work[m, 0] * work[R, 1] - work[R, 0] * work[m + 1, 0]) / det
        return
    for k in range(3):
        i, j = (k + 1) % 3, (k + 2) % 3
        total = 0.0
        for c in range(3):
            a, b = (c + 1) % 3, (c + 2) % 3
            total += (work[m + a, i] * work[m + b, j] - work[m + a, j] * work[m + b, i]) * work[R, c]
        work[STEP, k] = total / det


@inner
def _residual(vectors: Any, extent: Any, matrices: Any, order: Any, work: Any, taps: Any, q: Any) -> Any:
    """work[R] = q + u(q) - p, for the point in row `q` of `work`; its largest entry, in nodes."""
    ndim = len(vectors)
    _apply(matrices, NODES, work, q, G)
    _displacement(vectors, extent, order, work, taps)
    for k in range(ndim):
        work[R, k] = work[q, k] + work[U, k] - work[P, k]
    worst = 0.0
    for k in range(ndim):
        total = 0.0
        for i in range(ndim):
            total += matrices[NODES, k, i] * work[R, i]
        worst = max(worst, abs(total))
    return worst


@inner
def _against(vectors: Any, extent: Any, matrices: Any, order: Any, work: Any, taps: Any) -> Any:
    """work[Q] with q + u(q) = p: Newton's method, and q - r where the Jacobian folds. The residual, in nodes."""
    ndim = len(vectors)
    for k in range(ndim):
        work[Q, k] = work[P, k]
    worst = _residual(vectors, extent, matrices, order, work, taps, Q)
    for _ in range(NEWTON_STEPS):
        if not worst > CLOSE:
            break
        _jacobian(vectors, extent, matrices, order, work, taps)
        for c in range(ndim):
            work[STEP, c] = work[R, c]
        _solve(ndim, work)
        scale, found = 1.0, worst
        for _ in range(HALVINGS):
            for k in range(ndim):
                least, most = work[P, k] - matrices[LIMITS, 1, k], work[P, k] - matrices[LIMITS, 0, k]
                work[TRIAL, k] = min(max(work[Q, k] - scale * work[STEP, k], least), most)
            found = _residual(vectors, extent, matrices, order, work, taps, TRIAL)
            if found < worst:
                break
            scale *= 0.5
        for k in range(ndim):
            work[Q, k] = work[TRIAL, k]
        worst = found
    return worst


@inner
def _point(vectors: Any, extent: Any, matrices: Any, facts: Any, work: Any, taps: Any) -> None:
    """One step of the point in work[X], in place."""
    ndim = len(vectors)
    if facts[1]:
        _apply(matrices, INTO, work, X, P)
        _against(vectors, extent, matrices, facts[0], work, taps)
        _apply(matrices, ONWARD, work, Q, X)
        return
    _apply(matrices, ACROSS, work, X, G)
    inside = _displacement(vectors, extent, facts[0], work, taps)
    _apply(matrices, DIRECT, work, X, P)
    for k in range(ndim):
        work[X, k] = work[P, k]
        if inside:
            for i in range(ndim):
                work[X, k] += matrices[ONWARD, k, i] * work[U, i]


@inner
def _constant(matrices: Any, which: Any, k: Any, work: Any) -> Any:
    """What does not change along a row in entry `k` of matrix . (index, j, 1)."""
    ndim = matrices.shape[1] - 1
    value = matrices[which, k, 0] * work[INDEX, 0]
    for i in range(1, ndim - 1):
        value = value + matrices[which, k, i] * work[INDEX, i]
    return value + matrices[which, k, ndim]


@inner
def _columns_inside(
    line: Any, ends: Any, extent: Any, matrices: Any, order: Any, columns: Any, work: Any, taps: Any
) -> Any:
    """The columns of a row of the output that lie in the field, as (start, stop)."""
    ndim, n = matrices.shape[1] - 1, extent[0, 2]
    lift = 3 - ndim
    if lift:
        taps[0, 0], work[WEIGHTS, 0] = 0, 1.0
    for k in range(ndim - 1):
        if not _taps(_constant(matrices, ACROSS, k, work), k + lift, extent, order, work, taps):
            return columns[0], columns[0]
    line[0, 0], line[0, 1] = _constant(matrices, ACROSS, ndim - 1, work), matrices[ACROSS, ndim - 1, ndim - 1]
    ends[0, 0], ends[1, 0] = (-0.5, n - 0.5) if order == 1 else (1.0, np.nextafter(n - 2.0, np.inf))
    return columns_within(line, ends[0], ends[1], columns)


@inner
def _mix_rows(vectors: Any, order: Any, span: Any, work: Any, taps: Any, mixed: Any) -> None:
    """The vectors between the rows of nodes around a row of the output."""
    ndim, count = len(vectors), 2 if order == 1 else 4
    start, stop = span
    for c in range(ndim):
        line = mixed[c]
        for x in range(start, stop):
            line[x] = 0.0
        for a in range(count if ndim == 3 else 1):
            for b in range(count):
                w, row = work[WEIGHTS, a] * work[WEIGHTS + 1, b], vectors[c, taps[0, a], taps[1, b]]
                for x in range(start, stop):
                    line[x] += w * row[x]


@inner
def _cells(mixed: Any, n: Any, first: Any, order: Any, span: Any, cells: Any) -> None:
    """Polynomials of the displacement along a row between each node and the next, into (D, 4, X)."""
    low, high = span
    for k in range(len(mixed)):
        line, poly = mixed[k], cells[k]
        for cell in range(low, high):
            at, x = cell - low, cell - first
            if order == 1:
                a, b = line[max(x, -first)], line[min(x + 1, n - 1 - first)]
                poly[0, at], poly[1, at] = a, b - a
            else:
                before, a, b, after = (
                    line[x - 1],
                    line[x],
                    line[min(x + 1, n - 1 - first)],
                    line[min(x + 2, n - 1 - first)],
                )
                poly[0, at], poly[1, at] = (before + 4 * a + b) / 6, (b - before) / 2
                poly[2, at], poly[3, at] = (before - 2 * a + b) / 2, (3 * (a - b) + (after - before)) / 6


@inner
def _edges(base: Any, slope: Any, cells: Any, columns: Any, edges: Any) -> None:
    """The columns at which a row goes from one cell to the next, in the order of the columns."""
    low, high = cells
    edges[0], edges[high - low] = columns
    for i in range(1, high - low):
        # Estimated, and then moved to where the computed position passes the node: so it is the same in any cut.
        node = np.float64(low + i if slope > 0 else high - i)
        j = np.int64(min(max(np.ceil((node - base) / slope), columns[0]), columns[1]))
        while j > columns[0] and (base + slope * np.float64(j - 1) >= node) == (slope > 0):
            j -= 1
        while j < columns[1] and (base + slope * np.float64(j) >= node) != (slope > 0):
            j += 1
        edges[i] = j


@inner
def _straight(x: Any, base: Any, slope: Any, columns: Any, j0: Any) -> None:
    for j in range(columns[0], columns[1]):
        x[j - j0] = base + slope * np.float64(j)


@inner
def _bent(x: Any, line: Any, way: Any, poly: Any, at: Any, columns: Any, j0: Any) -> None:
    """base + slope * j and a cubic polynomial of the place between two nodes, `way` from j to that place."""
    base, slope = line
    c0, c1, c2, c3 = poly[0, at], poly[1, at], poly[2, at], poly[3, at]
    for j in range(columns[0], columns[1]):
        t = way[0] + way[1] * np.float64(j)
        x[j - j0] = (base + slope * np.float64(j)) + (c0 + t * (c1 + t * (c2 + t * c3)))


@inner
def _along(field: Any, xs: Any, r: Any, j0: Any, space: Any) -> None:
    """Coordinates after the first step of one row, where only the last index of the nodes changes."""
    vectors, extent, matrices, facts = field
    work, taps, mixed, line, ends, cells, edges = space
    ndim, order, columns = len(xs), facts[0], (j0, j0 + xs.shape[2])
    inside = _columns_inside(line, ends, extent, matrices, order, columns, work, taps)
    if inside[0] >= inside[1]:
        inside = columns[0], columns[0]
    for k in range(ndim):
        base, slope = _constant(matrices, DIRECT, k, work), matrices[DIRECT, k, ndim - 1]
        _straight(xs[k, r], base, slope, (columns[0], inside[0]), j0)
        _straight(xs[k, r], base, slope, (inside[1], columns[1]), j0)
    if inside[0] >= inside[1]:
        return
    base, slope = line[0, 0], line[0, 1]
    last = base + slope * np.float64(inside[0]), base + slope * np.float64(inside[1] - 1)
    low, high = np.int64(np.floor(min(last))), np.int64(np.floor(max(last))) + 1
    n, first, reach = extent[0, 2], extent[1, 2], 0 if order == 1 else 1
    span = max(low - reach, 0) - first, min(high + reach, n - 1) - first + 1
    _mix_rows(vectors, order, span, work, taps, mixed)
    _cells(mixed, n, first, order, (low, high), cells)
    _edges(base, slope, (low, high), inside, edges)
    for k in range(ndim):
        start, step, x, poly = _constant(matrices, DIRECT, k, work), matrices[DIRECT, k, ndim - 1], xs[k, r], cells[k]
        for i in range(high - low):
            cell = low + i if slope >= 0 else high - 1 - i
            at, some = cell - low, (edges[i], edges[i + 1])
            way = base - np.float64(cell), slope
            if order == 1:
                _straight(x, start + poly[0, at] + way[0] * poly[1, at], step + slope * poly[1, at], some, j0)
            else:
                _bent(x, (start, step), way, poly, at, some, j0)


@inner
def _index_of(row: Any, origin: Any, steps: Any, work: Any) -> None:
    """The leading indices of a row of the output, into work[INDEX]."""
    rest = row
    for i in range(len(steps)):
        work[INDEX, i] = np.float64(origin[i] + rest // steps[i])
        rest = rest % steps[i]


@jit
def coordinates(field: Any, target: Any, xs: Any, rows: Any, given: Any, space: Any) -> None:
    """Coordinates of rows of the output after one step, into `xs` (D, R, W), R rows from `rows[0]` on.

    With `given`, the points that are in `xs` already are taken through the step, whatever `target` and `rows`.
    """
    ndim, count, width = xs.shape
    (origin, steps), work, taps = target, space[0], space[1]
    vectors, extent, matrices, facts = field
    j0 = origin[-1]
    for r in range(count):
        if not given:
            _index_of(row_number(rows[0] + r, rows), origin, steps, work)
            if facts[2]:
                _along(field, xs, r, j0, space)
                continue
            for k in range(ndim - 1):
                xs[k, r, :] = work[INDEX, k]
            for j in range(width):
                xs[ndim - 1, r, j] = np.float64(j0 + j)
        for j in range(width):
            for k in range(ndim):
                work[X, k] = xs[k, r, j]
            _point(vectors, extent, matrices, facts, work, taps)
            for k in range(ndim):
                xs[k, r, j] = work[X, k]


@jit
def determinants(field: Any, points: Any, out: Any, space: Any) -> None:
    """Multiply `out` (N,) by how much the field stretches space at (N, D) points, which are taken through the step."""
    work, taps = space[0], space[1]
    vectors, extent, matrices, facts = field
    for n in range(len(points)):
        for k in range(len(vectors)):
            work[X, k] = points[n, k]
        _point(vectors, extent, matrices, facts, work, taps)
        _jacobian(vectors, extent, matrices, facts[0], work, taps)
        stretch = _determinant(len(vectors), work)
        if facts[1]:
            out[n] *= 1 / stretch if stretch != 0.0 else np.inf
        else:
            out[n] *= stretch
        for k in range(len(vectors)):
            points[n, k] = work[X, k]


@inner
def _count_within(x: Any, columns: Any, lower: Any, upper: Any) -> Any:
    count = 0
    for j in range(columns[0], columns[1]):
        count += (x[j] >= lower) & (x[j] < upper)
    return count


@inner
def _touches(xs: Any, r: Any, columns: Any, bounds: Any) -> Any:
    """2 where all columns of row `r` lie in the block with all neighbours, 0 where none touches it, else 1."""
    every, n = True, columns[1] - columns[0]
    for k in range(len(xs)):
        every = every and _count_within(xs[k, r], columns, bounds[2, k], bounds[3, k]) == n
    if every:
        return 2
    for j in range(columns[0], columns[1]):
        here = True
        for k in range(len(xs)):
            here = here and xs[k, r, j] >= bounds[0, k] and xs[k, r, j] < bounds[1, k]
        if here:
            return 1
    return 0


@inner
def _run(xs: Any, r: Any, start: Any, longest: Any, bounds: Any, safe: Any) -> Any:
    """The columns from `start` on that touch the block alike, at most `longest`: (how, stop).

    With `safe`, all are known to lie in the block with all neighbours.
    """
    width = xs.shape[2]
    if safe:
        return 2, min(start + longest, width)
    stop = min(start + _UNIT, width)
    how = _touches(xs, r, (start, stop), bounds)
    while stop < width and stop - start < longest:
        end = min(stop + _UNIT, width, start + longest)
        if _touches(xs, r, (stop, end), bounds) != how:
            break
        stop = end
    return how, stop


@inner
def _lay_down(xs: Any, r: Any, columns: Any, source: Any, offsets: Any, weights: Any, unit: Any) -> None:
    """Offsets into the block, and the weights of the next neighbours."""
    strides, first, like, start = source[1], source[2], offsets[0], columns[0]
    last = len(strides) - 1
    base, y_step = first[last] + first[last - 1] * np.float64(strides[last - 1]), np.float64(strides[last - 1])
    wy, wx = weights[last - 1], weights[last]
    if last == 1:
        for j in range(columns[1] - start):
            y, x = xs[0, r, start + j], xs[1, r, start + j]
            fy, fx = np.floor(y), np.floor(x)
            offsets[j] = whole((fy * y_step + fx) - base, like)
            wy[j] = min(as_like(y - fy, unit[0]), unit[1])
            wx[j] = min(as_like(x - fx, unit[0]), unit[1])
    else:
        wz, z_step = weights[0], np.float64(strides[0])
        base += first[0] * z_step
        for j in range(columns[1] - start):
            z, y, x = xs[0, r, start + j], xs[1, r, start + j], xs[2, r, start + j]
            fz, fy, fx = np.floor(z), np.floor(y), np.floor(x)
            offsets[j] = whole((fz * z_step + (fy * y_step + fx)) - base, like)
            wz[j] = min(as_like(z - fz, unit[0]), unit[1])
            wy[j] = min(as_like(y - fy, unit[0]), unit[1])
            wx[j] = min(as_like(x - fx, unit[0]), unit[1])


@inner
def _lay_down_near(xs: Any, r: Any, columns: Any, bounds: Any, weights: Any, unit: Any, touched: Any) -> None:
    """Weights alone; whether each voxel touches the block."""
    for j in range(columns[1] - columns[0]):
        here = True
        for k in range(len(xs)):
            x = xs[k, r, columns[0] + j]
            here = here and x >= bounds[0, k] and x < bounds[1, k]
        touched[j] = here
        for k in range(len(xs)):
            x = xs[k, r, columns[0] + j]
            weights[k, j] = min(as_like(x - np.floor(x), unit[0]), unit[1]) if here else unit[2]


@inner
def _gather_edge(block: Any, source: Any, xs: Any, near: Any, weights: Any, consts: Any, touched: Any) -> None:
    """The neighbours of voxels at the border, of which some are fill."""
    first, shape, last, fill = source[2], source[0], len(source[0]) - 1, consts[1]
    for j in range(xs.shape[1]):
        if not touched[j]:
            for r in range(len(near)):
                put_pair(fill, fill, near[r], j)
            continue
        y = np.int64(np.floor(xs[last - 1, j]) - first[last - 1])
        x = np.int64(np.floor(xs[last, j]) - first[last])
        z = np.int64(np.floor(xs[0, j]) - first[0]) if last == 2 else np.int64(0)
        if consts[5]:
            y = clamped(y, shape[last - 1], weights[last - 1], j)
            x = clamped(x, shape[last], weights[last], j)
            if last == 2:
                z = clamped(z, shape[0], weights[0], j)
        gather_at_border(block, source, (z, y, x), near, j, fill)


@jit
def nearest(blocks: Any, source: Any, xs: Any, out: Any, scratch: Any, consts: Any, rows: Any, safe: Any) -> None:
    bounds = source[3]
    offsets, weights, _, _, _ = scratch
    width = out.shape[2]
    for number in range(rows[0], rows[1]):
        row, r, start = row_number(number, rows), number - rows[0], 0
        for k in range(len(xs)):
            for j in range(width):
                xs[k, r, j] = np.floor(xs[k, r, j] + 0.5)
        while start < width:
            how, stop = _run(xs, r, start, len(offsets), bounds, safe)
            x = xs[:, r, start:stop]
            if how == 2:
                _lay_down(xs, r, (start, stop), source, offsets, weights, consts[2])
            for b in range(len(blocks)):
                block, part = blocks[b], out[b, row, start:stop]
                for j in range(stop - start):
                    if how == 2:
                        part[j] = block[np.uint64(offsets[j])]
                        continue
                    offset, here = 0.0, how == 1
                    for k in range(len(x)):
                        here = here and x[k, j] >= bounds[2, k] and x[k, j] < bounds[3, k]
                        offset += (x[k, j] - source[2][k]) * np.float64(source[1][k])
                    part[j] = block[np.uint64(np.int64(offset))] if here else consts[1]
            start = stop


@jit
def linear(blocks: Any, source: Any, xs: Any, out: Any, scratch: Any, consts: Any, rows: Any, safe: Any) -> None:
    bounds = source[3]
    offsets, weights, near, touched, ahead = scratch
    width = out.shape[2]
    for number in range(rows[0], rows[1]):
        row, r, start = row_number(number, rows), number - rows[0], 0
        while start < width:
            how, stop = _run(xs, r, start, len(offsets), bounds, safe)
            x = xs[:, r, start:stop]
            if how == 2:
                _lay_down(xs, r, (start, stop), source, offsets, weights, consts[2])
            elif how == 1:
                _lay_down_near(xs, r, (start, stop), bounds, weights, consts[2], touched)
            for b in range(len(blocks)):
                part = out[b, row, start:stop]
                if how == 0:
                    part[:] = consts[1]
                    continue
                if how == 2:
                    gather_run(blocks[b], offsets, near, source[1], stop - start, ahead)
                else:
                    _gather_edge(blocks[b], source, x, near, weights, consts, touched)
                mix_run(near, weights, source[1], part, consts)
                if how == 1:
                    for j in range(stop - start):
                        if not touched[j]:
                            part[j] = consts[1]
            start = stop


@jit
def cubic(blocks: Any, source: Any, xs: Any, out: Any, scratch: Any, consts: Any, rows: Any, safe: Any) -> None:
    """Samples of spline coefficients, which reach so far around the block that voxels without them are fill."""
    bounds = source[3]
    offsets, weights, _, touched, _ = scratch
    width = out.shape[2]
    for number in range(rows[0], rows[1]):
        row, r = row_number(number, rows), number - rows[0]
        for start in range(0, width, len(offsets)):
            stop = min(start + len(offsets), width)
            x = xs[:, r, start:stop]
            for j in range(stop - start):
                here = True
                for k in range(len(x)):
                    here = here and x[k, j] >= bounds[2, k] and x[k, j] < bounds[3, k]
                touched[j] = here
                if not here:
                    for k in range(len(x)):
                        x[k, j] = bounds[2, k]
            _lay_down(xs, r, (start, stop), source, offsets, weights, consts[2])
            for b in range(len(blocks)):
                part = out[b, row, start:stop]
                cubic_run(blocks[b], offsets, weights, source[1], part, consts)
                for j in range(stop - start):
                    if not touched[j]:
                        part[j] = consts[1]
