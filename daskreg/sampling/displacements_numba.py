"""Coordinates that go through displacement fields, on CPUs: of rows of an output, or of points.

A call takes so few rows that their coordinates stay in the processor's cache: no array has the size of the output.
The arguments that are not named here are those of `arrays_numba`.

    field    one step, (vectors, extent, matrices, facts). `vectors` are repeated once beyond each end of the crop:
             (D, Z, Y, X) where `along`, else (Z, Y, X, 4) with components that are not used set to zero. The first
             axis of nodes of images has length 1. `extent` (2, 3): the shape of the whole field, and the node that
             comes first in `vectors`. `matrices` (4, D+1, D+1), numbered below. `facts` = (order, how, along): `how` is
             FORWARD, with vectors in the coordinates after the step, or INVERSE or NODEWISE, with vectors in nodes;
             `along` says that only the last index of the nodes changes along a row of the output.
    target   (origin, steps): the first index of the output, and the rows from one index to the next along each axis
             but the last.
    xs       (R, D, W + LANES): coordinates of R rows; the last LANES columns are scratch.
    space    scratch of one thread; see `Displaced.space`.

Where only the last index of the nodes changes along a row, the vectors are interpolated between rows of nodes once for
the row. Between two nodes the coordinates are then one polynomial of the column, which LANES columns evaluate at once;
its factors are made for all nodes of a row at once.
Everywhere else the neighbours of each voxel are visited, with the components of a vector side by side.
All is float64 in a fixed order, from absolute indices, so that no cut of the output changes a bit.
"""

# ruff: noqa: PLR0917 (compiled functions call each other by position)

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils
from numba.extending import intrinsic

from daskreg.runtime.compiled import inner, jit
from daskreg.sampling.arrays_numba import columns_within, row_number

LANES = 8
SEGMENT = 512  # points whose places among the nodes are computed at once
NEWTON_STEPS = 40
CLOSE = 1e-9  # of the spacing of the nodes: how well an inverse is solved
SMALL_DETERMINANT = 0.05  # of 1 + du/dp: below, a Newton step may go anywhere
HALVINGS = 5  # of a step that does not come nearer

FORWARD, INVERSE, NODEWISE = 0, 1, 2
# The matrices of a step: past its field, to its nodes, from its nodes onward; and two rows with the least and the
# greatest displacement, in nodes.
DIRECT, ACROSS, BACK, LIMITS = range(4)

_FOUR = numba.types.UniTuple(numba.types.float64, 4)
_ZERO = (0.0, 0.0, 0.0, 0.0)


def _instruction(function: Callable[..., Any]) -> Any:
    """`intrinsic`, whose type does not say that the first argument is left out in calls."""
    return intrinsic(function)


def _vector(builder: Any, parts: Any) -> Any:
    kind = ir.VectorType(ir.DoubleType(), len(parts))
    made = ir.Constant(kind, ir.Undefined)
    for k, part in enumerate(parts):
        made = builder.insert_element(made, part, ir.IntType(32)(k))
    return made


def _pointer(context: Any, builder: Any, kind: Any, array: Any, index: Any, lanes: int) -> Any:
    address = builder.gep(context.make_array(kind)(context, builder, array).data, [index])
    return builder.bitcast(address, ir.VectorType(ir.DoubleType(), lanes).as_pointer())


@_instruction
def _plus_vector(typing_context: Any, total: Any, weight: Any, vectors: Any, at: Any) -> Any:
    """total + weight * (the four numbers of the flat `vectors` from `at` on)."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        total, weight, vectors, at = arguments
        sums = _vector(builder, cgutils.unpack_tuple(builder, total, 4))
        found = builder.load(_pointer(context, builder, signature.args[2], vectors, at, 4), align=8)
        sums = builder.fadd(sums, builder.fmul(_vector(builder, [weight] * 4), found))
        parts = [builder.extract_element(sums, ir.IntType(32)(k)) for k in range(4)]
        return context.make_tuple(builder, signature.return_type, parts)

    return _FOUR(_FOUR, numba.types.float64, vectors, at), generate


@_instruction
def _plus(typing_context: Any, total: Any, weight: Any, other: Any) -> Any:
    """total + weight * other, of four numbers each."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        total, weight, other = arguments
        a, b = (_vector(builder, cgutils.unpack_tuple(builder, four, 4)) for four in (total, other))
        sums = builder.fadd(a, builder.fmul(_vector(builder, [weight] * 4), b))
        parts = [builder.extract_element(sums, ir.IntType(32)(k)) for k in range(4)]
        return context.make_tuple(builder, signature.return_type, parts)

    return _FOUR(_FOUR, numba.types.float64, _FOUR), generate


@_instruction
def _put_cell(typing_context: Any, x: Any, at: Any, j: Any, way: Any, poly: Any, cell: Any) -> Any:
    """LANES columns of all coordinates of a row: from column `at` of `x` (D, W), and absolute column `j`, on.

    `poly` (D, 6, cells) has the factors of a line of the column and, with `way`, of a cubic of way . (1, column).
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        x, at, j, way, _, cell = arguments
        double, whole = ir.DoubleType(), ir.IntType(64)
        rows, factors = (context.make_array(signature.args[k])(context, builder, arguments[k]) for k in (0, 4))
        ndim, width = cgutils.unpack_tuple(builder, rows.shape)
        _, terms, cells = cgutils.unpack_tuple(builder, factors.shape)

        def spread(value: Any) -> Any:
            return _vector(builder, [value] * LANES)

        columns = spread(builder.sitofp(j, double))
        columns = builder.fadd(columns, ir.Constant(columns.type, [float(k) for k in range(LANES)]))
        ends = cgutils.unpack_tuple(builder, way, signature.args[3].count)
        t = builder.fadd(spread(ends[0]), builder.fmul(spread(ends[1]), columns)) if ends else None
        with cgutils.for_range(builder, ndim) as loop:
            first = builder.add(builder.mul(builder.mul(loop.index, terms), cells), cell)

            def factor(k: int) -> Any:
                place = builder.add(first, builder.mul(cells, whole(k)))
                return spread(builder.load(builder.gep(factors.data, [place])))

            found = builder.fadd(factor(0), builder.fmul(factor(1), columns))
            if t is not None:
                value = factor(5)
                for k in (4, 3, 2):
                    value = builder.fadd(factor(k), builder.fmul(t, value))
                found = builder.fadd(found, value)
            place = builder.add(builder.mul(loop.index, width), at)
            builder.store(found, _pointer(context, builder, signature.args[0], x, place, LANES), align=8)
        return context.get_dummy_value()

    return numba.types.none(x, at, j, way, poly, cell), generate


@_instruction
def _borrowed(typing_context: Any, array: Any) -> Any:
    """The same array, whose references are not counted, which costs more than the arithmetic of a row."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        same = context.make_array(signature.args[0])(context, builder, arguments[0])
        for name in ("meminfo", "parent"):
            setattr(same, name, cgutils.get_null_value(getattr(same, name).type))
        return same._getvalue()

    return array(array), generate


@inner
def _constant(matrices: Any, which: Any, k: Any, index: Any) -> Any:
    """What does not change along a row in entry `k` of matrix . (index, j, 1)."""
    ndim = matrices.shape[1] - 1
    value = matrices[which, k, 0] * index[0]
    for i in range(1, ndim - 1):
        value = value + matrices[which, k, i] * index[i]
    return value + matrices[which, k, ndim]


@inner
def _ends(n: Any, order: Any) -> Any:
    """From where on, and below which node coordinate, a point lies in a field of `n` nodes along an axis."""
    return (-0.5, n - 0.5) if order == 1 else (1.0, np.nextafter(n - 2.0, np.inf))


@inner
def _weigh(t: Any, order: Any, w: Any) -> None:
    """Weights of the nodes around a point that lies `t` beyond the first, or of four the second, of them."""
    s = 1 - t
    if order == 1:
        w[0], w[1] = s, t
    else:
        w[0], w[3] = s * s * s / 6, t * t * t / 6
        w[1], w[2] = 2 / 3 - t * t * (1 - t / 2), 2 / 3 - s * s * (1 - s / 2)


@inner
def _steepen(t: Any, order: Any, w: Any) -> None:
    """The derivatives of the weights by t."""
    s = 1 - t
    if order == 1:
        w[0], w[1] = -1.0, 1.0
    else:
        w[0], w[3] = -s * s / 2, t * t / 2
        w[1], w[2] = t * (1.5 * t - 2), -s * (1.5 * s - 2)


# --- Rows along an axis of the nodes ------------------------------------------------------------


@inner
def _mix_planes(vectors: Any, order: Any, span: Any, weights: Any, taps: Any, between: Any) -> None:
    """The vectors between the planes of nodes around a row of the output, for each row of nodes around it.

    Loops run from zero over slices: for other bounds, numba tests each index for a negative one, and nothing is done in
    vectors.
    """
    start, stop = span
    count = 2 if order == 1 else 4
    for c in range(len(vectors)):
        for b in range(count):
            line = between[c, b, : stop - start]
            line[:] = 0.0
            for a in range(1 if vectors.shape[1] == 1 else count):
                row, w = vectors[c, taps[0] + a, taps[1] + b, start:stop], weights[0, a]
                for x in range(len(line)):
                    line[x] += w * row[x]


@inner
def _mix_rows(between: Any, order: Any, count: Any, w: Any, mixed: Any) -> None:
    """The vectors between the rows of nodes around a row of the output, at `count` nodes."""
    w0, w1, w2, w3 = w[0], w[1], w[2], w[3]
    for c in range(len(mixed)):
        line, first, second = mixed[c], between[c, 0], between[c, 1]
        if order == 1:
            for x in range(count):
                line[x] = w0 * first[x] + w1 * second[x]
        else:
            third, fourth = between[c, 2], between[c, 3]
            for x in range(count):
                line[x] = (w0 * first[x] + w1 * second[x]) + (w2 * third[x] + w3 * fourth[x])


@inner
def _polynomials(mixed: Any, lines: Any, way: Any, order: Any, cells: Any, poly: Any) -> None:
    """Factors (D, 6, cells + 1) of the coordinates of a row: between each node and the next, and at last outside."""
    low, count = cells[0], cells[1] - cells[0]
    for k in range(len(mixed)):
        u, base, slope = mixed[k], lines[k, 0], lines[k, 1]
        p0, p1 = poly[k, 0, : count + 1], poly[k, 1, : count + 1]
        p0[:], p1[:] = base, slope
        if order == 1:
            for n in range(count):
                a, b = u[n], u[n + 1] - u[n]
                p0[n], p1[n] = (base + a) + (way[0] - np.float64(low + n)) * b, slope + way[1] * b
            continue
        # Two factors at a time: numba does not compute more in vectors, which might overlap.
        before, here, after, last = u[:count], u[1 : count + 1], u[2 : count + 2], u[3 : count + 3]
        p2, p3, p4, p5 = poly[k, 2, :count], poly[k, 3, :count], poly[k, 4, :count], poly[k, 5, :count]
        for n in range(count):
            p2[n], p3[n] = (before[n] + 4 * here[n] + after[n]) / 6, (after[n] - before[n]) / 2
        for n in range(count):
            p4[n] = (before[n] - 2 * here[n] + after[n]) / 2
            p5[n] = (3 * (here[n] - after[n]) + (last[n] - before[n])) / 6


@inner
def _find_edges(line: Any, cells: Any, columns: Any, edges: Any) -> None:
    """The columns at which a row goes from one cell to the next, in the order of the columns."""
    (base, slope), (low, high) = line, cells
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
def _inside(field: Any, index: Any, columns: Any, weights: Any, taps: Any, ends: Any) -> Any:
    """The columns of a row that lie in the field, as (start, stop); the row's neighbours and their weights."""
    _, extent, matrices, facts = field
    ndim, order = matrices.shape[1] - 1, facts[0]
    lift = 3 - ndim
    taps[0], weights[0, 0] = 0, 1.0
    for k in range(ndim - 1):
        g = _constant(matrices, ACROSS, k, index)
        lower, upper = _ends(extent[0, k + lift], order)
        if not (g >= lower and g < upper):
            return columns[0], columns[0]
        node = np.floor(g)
        _weigh(g - node, order, weights[k + lift])
        taps[k + lift] = np.int64(node) - extent[1, k + lift] - (order == 3)
    ends[0, 0], ends[0, 1] = _constant(matrices, ACROSS, ndim - 1, index), matrices[ACROSS, ndim - 1, ndim - 1]
    ends[1, 0], ends[2, 0] = _ends(extent[0, 2], order)
    start, stop = columns_within(ends[:1], ends[1], ends[2], columns)
    return (start, stop) if start < stop else (columns[0], columns[0])


@inner
def _put_cells(x: Any, way: Any, order: Any, poly: Any, edges: Any, cells: Any, j0: Any) -> None:
    """The coordinates of the columns of a row that lie in the field."""
    low, high = cells
    for i in range(high - low):
        at = i if way[1] >= 0 else high - 1 - low - i
        j, stop = edges[i], edges[i + 1]
        if order == 1:
            while j < stop:
                _put_cell(x, j - j0, j, (), poly, at)
                j += LANES
        else:
            t = way[0] - np.float64(low + at), way[1]
            while j < stop:
                _put_cell(x, j - j0, j, t, poly, at)
                j += LANES


@inner
def _along(field: Any, x: Any, index: Any, columns: Any, space: Any, known: Any) -> Any:
    """Coordinates after the first step of one row.

    `known`: to which (base, start, stop) the edges belong, and to which (z, row of nodes) besides what is between the
    planes of nodes; both are used again for the next rows.
    """
    vectors, extent, matrices, facts = field
    weights, taps, mixed, poly, edges, ends = space[:6]
    between, lines = space[11], space[12]
    ndim, order, j0 = len(x), facts[0], columns[0]
    inside = _inside(field, index, columns, weights, taps, ends)
    base, slope = ends[0, 0], ends[0, 1]
    first = extent[1, 2]
    low = high = np.int64(0)
    if inside[0] < inside[1]:
        last = base + slope * np.float64(inside[0]), base + slope * np.float64(inside[1] - 1)
        low, high = np.int64(np.floor(min(last))), np.int64(np.floor(max(last))) + 1
        reach = 0 if order == 1 else 1
        span = low - reach - first, high + reach + 1 - first
        z = _constant(matrices, ACROSS, 0, index) if ndim == 3 else 0.0
        moved = known[0] != base or known[1] != inside[0] or known[2] != inside[1]
        if moved:
            _find_edges((base, slope), (low, high), inside, edges)
        if moved or known[3] != z or known[4] != taps[1]:
            _mix_planes(vectors, order, span, weights, taps, between)
        _mix_rows(between, order, span[1] - span[0], weights[1], mixed)
        known = base, inside[0], inside[1], z, taps[1]
    for k in range(ndim):
        lines[k, 0], lines[k, 1] = _constant(matrices, DIRECT, k, index), matrices[DIRECT, k, ndim - 1]
    _polynomials(mixed, lines, (base, slope), order, (low, high), poly)
    for j in range(columns[0], inside[0], LANES):
        _put_cell(x, j - j0, j, (), poly, high - low)
    _put_cells(x, (base, slope), order, poly, edges, (low, high), j0)
    for j in range(inside[1], columns[1], LANES):
        _put_cell(x, j - j0, j, (), poly, high - low)
    return known


# --- All other points ---------------------------------------------------------------------------


@inner
def _apply(matrix: Any, x: Any, start: Any, count: Any, out: Any) -> None:
    """out[:, :count] = matrix . (x, 1), of the points from `start` on, in the order of operations of `arrays_numba`."""
    ndim = len(matrix) - 1
    for k in range(ndim):
        m, offset = matrix[k], matrix[k, ndim]
        for n in range(count):
            value = m[0] * x[0, start + n]
            if ndim == 3:
                value = value + m[1] * x[1, start + n]
            out[k, n] = (value + offset) + m[ndim - 1] * x[ndim - 1, start + n]


@inner
def _lay_down(extent: Any, order: Any, strides: Any, g: Any, count: Any, offsets: Any) -> None:
    """Offsets of the first neighbours of node coordinates, which become the way beyond them; -1 outside the field."""
    ndim = len(g)
    lift = 3 - ndim
    for n in range(count):
        offsets[n] = 0
    for k in range(ndim):
        row, step = g[k], strides[k + lift]
        first = np.float64(extent[1, k + lift] + (order == 3))
        lower, upper = _ends(extent[0, k + lift], order)
        for n in range(count):
            value = row[n]
            node = np.floor(value)
            here = value >= lower and value < upper and offsets[n] >= 0
            offsets[n] = offsets[n] + np.int64(node - first) * step if here else -1
            row[n] = value - node


@inner
def _linear_at(vectors: Any, at: Any, strides: Any, z: Any, y: Any, x: Any, flat: Any) -> Any:
    """The displacement of a point that lies (z, y, x) beyond the node whose vector is at `at`."""
    total = _ZERO
    for a in range(1 if flat else 2):
        wz = 1.0 if flat else (z if a else 1 - z)
        for b in range(2):
            o, w = at + a * strides[0] + b * strides[1], wz * (y if b else 1 - y)
            total = _plus_vector(total, w * (1 - x), vectors, o)
            total = _plus_vector(total, w * x, vectors, o + 4)
    return total


@inner
def _cubic_at(vectors: Any, at: Any, strides: Any, w: Any, flat: Any) -> Any:
    total = _ZERO
    x0, x1, x2, x3 = w[2, 0], w[2, 1], w[2, 2], w[2, 3]
    for a in range(1 if flat else 4):
        for b in range(4):
            o = at + a * strides[0] + b * strides[1]
            line = _plus_vector(_ZERO, x0, vectors, o)
            line = _plus_vector(line, x1, vectors, o + 4)
            line = _plus_vector(line, x2, vectors, o + 8)
            line = _plus_vector(line, x3, vectors, o + 12)
            total = _plus(total, w[0, a] * w[1, b], line)
    return total


@inner
def _linear_slopes_at(vectors: Any, at: Any, strides: Any, w: Any, flat: Any) -> Any:
    """The displacement and its derivatives along z, y, x; the weights of two nodes have the slopes -1 and 1."""
    total, by_z, by_y, by_x = _ZERO, _ZERO, _ZERO, _ZERO
    for a in range(1 if flat else 2):
        plane, plane_y, plane_x = _ZERO, _ZERO, _ZERO
        for b in range(2):
            o, sign = at + a * strides[0] + b * strides[1], 1.0 if b else -1.0
            line = _plus_vector(_plus_vector(_ZERO, w[2, 0], vectors, o), w[2, 1], vectors, o + 4)
            line_x = _plus_vector(_plus_vector(_ZERO, -1.0, vectors, o), 1.0, vectors, o + 4)
            plane, plane_y = _plus(plane, w[1, b], line), _plus(plane_y, sign, line)
            plane_x = _plus(plane_x, w[1, b], line_x)
        total, by_z = _plus(total, w[0, a], plane), _plus(by_z, 0.0 if flat else 1.0 if a else -1.0, plane)
        by_y, by_x = _plus(by_y, w[0, a], plane_y), _plus(by_x, w[0, a], plane_x)
    return total, by_z, by_y, by_x


@inner
def _cubic_slopes_at(vectors: Any, at: Any, strides: Any, w: Any, s: Any, flat: Any) -> Any:
    """The displacement and its derivatives along z, y, x."""
    total, by_z, by_y, by_x = _ZERO, _ZERO, _ZERO, _ZERO
    x0, x1, x2, x3 = w[2, 0], w[2, 1], w[2, 2], w[2, 3]
    s0, s1, s2, s3 = s[2, 0], s[2, 1], s[2, 2], s[2, 3]
    for a in range(1 if flat else 4):
        plane, plane_y, plane_x = _ZERO, _ZERO, _ZERO
        for b in range(4):
            o = at + a * strides[0] + b * strides[1]
            line = _plus_vector(_ZERO, x0, vectors, o)
            line = _plus_vector(line, x1, vectors, o + 4)
            line = _plus_vector(line, x2, vectors, o + 8)
            line = _plus_vector(line, x3, vectors, o + 12)
            line_x = _plus_vector(_ZERO, s0, vectors, o)
            line_x = _plus_vector(line_x, s1, vectors, o + 4)
            line_x = _plus_vector(line_x, s2, vectors, o + 8)
            line_x = _plus_vector(line_x, s3, vectors, o + 12)
            plane, plane_y = _plus(plane, w[1, b], line), _plus(plane_y, s[1, b], line)
            plane_x = _plus(plane_x, w[1, b], line_x)
        total, by_z = _plus(total, w[0, a], plane), _plus(by_z, s[0, a], plane)
        by_y, by_x = _plus(by_y, w[0, a], plane_y), _plus(by_x, w[0, a], plane_x)
    return total, by_z, by_y, by_x


@inner
def _strides(vectors: Any) -> Any:
    return 4 * vectors.shape[1] * vectors.shape[2], 4 * vectors.shape[2], 4


@inner
def _forward(field: Any, x: Any, start: Any, count: Any, space: Any) -> None:
    """Some points of `x` through a field whose vectors are in the coordinates after the step, in place."""
    vectors, extent, matrices, facts = field
    weights, g, moved, offsets = space[0], space[6], space[7], space[8]
    ndim, order, flat, strides = len(x), facts[0], len(x) == 2, _strides(vectors)
    numbers = vectors.reshape(-1)
    _apply(matrices[ACROSS], x, start, count, g)
    _apply(matrices[DIRECT], x, start, count, moved)
    _lay_down(extent, order, strides, g, count, offsets)
    weights[0, 0] = 1.0
    for n in range(count):
        u, at = _ZERO, offsets[n]
        if at >= 0:
            if order == 1:
                u = _linear_at(numbers, at, strides, g[0, n], g[ndim - 2, n], g[ndim - 1, n], flat)
            else:
                for k in range(ndim):
                    _weigh(g[k, n], order, weights[k + 3 - ndim])
                u = _cubic_at(numbers, at, strides, weights, flat)
        x[0, start + n], x[1, start + n] = moved[0, n] + u[0], moved[1, n] + u[1]
        if not flat:
            x[2, start + n] = moved[2, n] + u[2]


@inner
def _field_at(nodes: Any, h: Any) -> Any:
    """The displacement at node coordinates (z, y, x), which may lie outside, and its derivatives; all in nodes.

    `nodes`: (the flat vectors, extent, strides, order, whether it is an image, weights, their derivatives).
    """
    numbers, extent, strides, order, flat, weights, slopes = nodes
    at = np.int64(0)
    weights[0, 0], slopes[0, 0] = 1.0, 0.0
    for k in range(1 if flat else 0, 3):
        lower, upper = _ends(extent[0, k], order)
        if not (h[k] >= lower and h[k] < upper):
            return _ZERO, _ZERO, _ZERO, _ZERO
        node = np.floor(h[k])
        _weigh(h[k] - node, order, weights[k])
        _steepen(h[k] - node, order, slopes[k])
        at += (np.int64(node) - extent[1, k] - (order == 3)) * strides[k]
    if order == 1:
        return _linear_slopes_at(numbers, at, strides, weights, flat)
    return _cubic_slopes_at(numbers, at, strides, weights, slopes, flat)


@inner
def _jacobian(found: Any, flat: Any) -> Any:
    """1 + du/dp as three rows (z, y, x), of an image the identity along z."""
    _, z, y, x = found
    if flat:
        return (1.0, 0.0, 0.0), (0.0, 1 + y[0], x[0]), (0.0, y[1], 1 + x[1])
    return (1 + z[0], y[0], x[0]), (z[1], 1 + y[1], x[1]), (z[2], y[2], 1 + x[2])


@inner
def _cross(a: Any, b: Any) -> Any:
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


@inner
def _determinant(m: Any) -> Any:
    c = _cross(m[1], m[2])
    return m[0][0] * c[0] + m[0][1] * c[1] + m[0][2] * c[2]


@inner
def _residual(h: Any, found: Any, g: Any, flat: Any) -> Any:
    """h + u(h) - g."""
    u = found[0]
    if flat:
        return 0.0, h[1] + u[0] - g[1], h[2] + u[1] - g[2]
    return h[0] + u[0] - g[0], h[1] + u[1] - g[1], h[2] + u[2] - g[2]


@inner
def _size(r: Any) -> Any:
    return max(abs(r[0]), abs(r[1]), abs(r[2]))


@inner
def _newton_step(m: Any, r: Any) -> Any:
    """The solution of m . step = r, by Cramer's rule; r itself where the determinant is small."""
    det = _determinant(m)
    if not det > SMALL_DETERMINANT:
        return r
    a, b, c = _cross(m[1], m[2]), _cross(m[2], m[0]), _cross(m[0], m[1])
    return (
        (a[0] * r[0] + b[0] * r[1] + c[0] * r[2]) / det,
        (a[1] * r[0] + b[1] * r[1] + c[1] * r[2]) / det,
        (a[2] * r[0] + b[2] * r[1] + c[2] * r[2]) / det,
    )


@inner
def _clamped(h: Any, step: Any, scale: Any, g: Any, limits: Any, flat: Any) -> Any:
    """h - scale * step, as far as a displacement between the limits may have led to g."""
    lift = 1 if flat else 0
    z = 0.0 if flat else min(max(h[0] - scale * step[0], g[0] - limits[1, 0]), g[0] - limits[0, 0])
    y = min(max(h[1] - scale * step[1], g[1] - limits[1, 1 - lift]), g[1] - limits[0, 1 - lift])
    x = min(max(h[2] - scale * step[2], g[2] - limits[1, 2 - lift]), g[2] - limits[0, 2 - lift])
    return z, y, x


@inner
def _solve(nodes: Any, limits: Any, g: Any) -> Any:
    """h with h + u(h) = g, in nodes: Newton's method, and h - r where the Jacobian folds."""
    flat = nodes[4]
    h = g
    found = _field_at(nodes, h)
    r = _residual(h, found, g, flat)
    for _ in range(NEWTON_STEPS):
        if not _size(r) > CLOSE:
            break
        step, scale, worst, start = _newton_step(_jacobian(found, flat), r), 1.0, _size(r), h
        for _ in range(HALVINGS):
            h = _clamped(start, step, scale, g, limits, flat)
            found = _field_at(nodes, h)
            r = _residual(h, found, g, flat)
            if _size(r) < worst:
                break
            scale *= 0.5
    return h, found


@inner
def _by_nodes(field: Any, x: Any, start: Any, count: Any, stretch: Any, space: Any) -> None:
    """Some points of `x` through a field whose vectors are in nodes, or against it, in place.

    `stretch` (N,) is multiplied by how much space is stretched there, where it is not empty.
    """
    vectors, extent, matrices, (order, how, _) = field
    g, moved, limits, ndim, flat = space[6], space[7], matrices[LIMITS], len(x), len(x) == 2
    nodes = vectors.reshape(-1), extent, _strides(vectors), order, flat, space[0], space[9]
    _apply(matrices[ACROSS], x, start, count, g)
    _apply(matrices[DIRECT], x, start, count, moved)
    for n in range(count):
        p = (0.0, g[0, n], g[1, n]) if flat else (g[0, n], g[1, n], g[2, n])
        if how == INVERSE:
            q, found = _solve(nodes, limits, p)
            way = (q[1] - p[1], q[2] - p[2], 0.0) if flat else (q[0] - p[0], q[1] - p[1], q[2] - p[2])
        else:
            found = _field_at(nodes, p)
            way = found[0][0], found[0][1], found[0][2]
        for k in range(ndim):
            back = matrices[BACK, k]
            x[k, start + n] = moved[k, n] + (
                back[0] * way[0] + back[1] * way[1] + (back[2] * way[2] if not flat else 0.0)
            )
        if len(stretch):
            det = _determinant(_jacobian(found, flat))
            if how == INVERSE:
                det = 1 / det if det != 0.0 else np.inf
            stretch[start + n] *= det


# --- What is called -----------------------------------------------------------------------------


@inner
def _index_of(row: Any, origin: Any, steps: Any, index: Any) -> None:
    """The leading indices of a row of the output."""
    rest = row
    for i in range(len(steps)):
        index[i] = np.float64(origin[i] + rest // steps[i])
        rest = rest % steps[i]


@jit
def coordinates(field: Any, target: Any, xs: Any, rows: Any, given: Any, stretch: Any, space: Any) -> None:
    """Coordinates of rows of the output after one step, into `xs`; see `row_number` for `rows`.

    With `given`, the points that are in `xs` already are taken through the step. `stretch` (N,) is multiplied by how
    much the field stretches space at the N points of a row, where it is not empty (then the step is not FORWARD).
    """
    (origin, steps), facts = target, field[3]
    field = _borrowed(field[0]), _borrowed(field[1]), _borrowed(field[2]), facts
    s, xs, stretch = space, _borrowed(xs), _borrowed(stretch)
    space = (
        *(_borrowed(s[0]), _borrowed(s[1]), _borrowed(s[2]), _borrowed(s[3]), _borrowed(s[4]), _borrowed(s[5])),
        *(_borrowed(s[6]), _borrowed(s[7]), _borrowed(s[8]), _borrowed(s[9]), _borrowed(s[10]), _borrowed(s[11])),
        _borrowed(s[12]),
    )
    index = space[10]
    ndim, width, j0 = xs.shape[1], xs.shape[2] - LANES, origin[-1]
    known = np.nan, np.int64(0), np.int64(0), 0.0, np.int64(0)
    for r in range(rows[1] - rows[0]):
        x = xs[r]
        if not given:
            _index_of(row_number(rows[0] + r, rows), origin, steps, index)
            if facts[2]:
                known = _along(field, x, index, (j0, j0 + width), space, known)
                continue
            for k in range(ndim - 1):
                x[k, :] = index[k]
            for j in range(width):
                x[ndim - 1, j] = np.float64(j0 + j)
        for start in range(0, width, SEGMENT):
            count = min(SEGMENT, width - start)
            if facts[1] == FORWARD:
                _forward(field, x, start, count, space)
            else:
                _by_nodes(field, x, start, count, stretch, space)
