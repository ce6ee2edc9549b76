"""Coordinates that go through displacement fields, in Triton: those of `displacements_numba`, to the last bit.

Each thread takes the coordinates of its voxel through all steps, in registers, and reads the vectors around it from
the nodes, which neighbouring threads share in the cache: no array has the size of the output. The operations are those
of the compiled kernel in the same order, in float64, so that the voxels of orders 0 and 1 are the CPU's, however the
output is cut. Where only the last index of the nodes changes along a row, the CPU interpolates once for the row; here
each voxel repeats that, in the same terms.

Steps against a field are solved on the CPU (`displaced_tensors`).
"""

# ruff: noqa: PLR0917 (compiled functions call each other by position)

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from daskreg.sampling.displaced_tensors import vectors_of
from daskreg.sampling.displacements import Displaced, Displacement

try:
    import triton
    import triton.language as tl
except ImportError:  # as on a CPU
    triton = None


class Steps(NamedTuple):
    """What `displaced` needs of a path.

    Args:
        table: float64, for each step: the matrices past its field and to its nodes, D rows of D + 1 each; from where
            on and below which node coordinates lie in the field; the first node that is held, and how many, along each
            axis; where its vectors begin.
        vectors: float64, (D, *nodes that are held) of all steps, one after the other, in the coordinates after each.
        cubic: the bit of each step whose vectors are coefficients of B-splines.
        along: whether only the last index of the nodes changes along a row of the output, in the first step.
    """

    table: Tensor
    vectors: Tensor
    number: int
    cubic: int
    along: bool


def steps_of(path: Displaced, device: torch.device) -> Steps:
    """A path that goes against no field, on a device."""
    table, vectors, begin = list[float](), list[Tensor](), 0
    for step in path.steps:
        lower, upper = step.ends
        table += [*step.direct[:-1].ravel(), *step.across[:-1].ravel(), *lower, *upper]
        table += [*step.start, *step.vectors.shape[1:], begin]
        vectors.append(_onward(step, device).flatten())
        begin += len(vectors[-1])
    numbers = torch.tensor(table, dtype=torch.float64).to(device, non_blocking=True)
    whole = vectors[0] if len(vectors) == 1 else torch.cat(vectors)
    cubic = sum(1 << k for k, step in enumerate(path.steps) if step.order == 3)
    return Steps(numbers, whole, len(vectors), cubic, path.steps[0].along_rows)


def _onward(step: Displacement, device: torch.device) -> Tensor:
    """The vectors in the coordinates after the step, summed as on the CPU."""
    vectors, rows = vectors_of(step, device).detach().double(), list[Tensor]()
    for row in step.onward[:-1, :-1].tolist():
        terms = [value * u for value, u in zip(row, vectors, strict=True) if value]
        rows.append(sum(terms[1:], start=terms[0]) if terms else torch.zeros_like(vectors[0]))
    return torch.stack(rows)


if triton is not None:

    @triton.jit
    def position(m, axis: tl.constexpr, z, y, x, NDIM: tl.constexpr):  # type: ignore[no-untyped-def]
        """The coordinate along an axis that a matrix gives, in the CPU's order of operations."""
        at = m + axis * (NDIM + 1)
        if NDIM == 3:
            return tl.load(at) * z + tl.load(at + 1) * y + tl.load(at + 3) + tl.load(at + 2) * x
        else:
            return tl.load(at) * y + tl.load(at + 2) + tl.load(at + 1) * x

    @triton.jit
    def _weights(t, two_thirds, CUBIC: tl.constexpr):  # type: ignore[no-untyped-def]
        """Of the nodes around a point that lies `t` beyond the first, or of four the second, of them."""
        s = 1 - t
        if CUBIC:
            w1, w2 = two_thirds - t * t * (1 - t / 2), two_thirds - s * s * (1 - s / 2)
            return s * s * s / 6, w1, w2, t * t * t / 6
        else:
            return s, t

    @triton.jit
    def _held(node, count, stride):  # type: ignore[no-untyped-def]
        """Where a node is, or the last one before it that is held."""
        return tl.minimum(tl.maximum(node, 0), count - 1) * stride

    @triton.jit
    def _around(g, ends, stride, two_thirds, axis: tl.constexpr, NDIM: tl.constexpr, CUBIC: tl.constexpr):  # type: ignore[no-untyped-def]
        """Along one axis: whether a point is in the field; where the nodes around it are, and their weights."""
        inside = (g >= tl.load(ends + axis)) & (g < tl.load(ends + NDIM + axis))
        low = tl.floor(tl.where(inside, g, 1.0))
        node, count = (low - tl.load(ends + 2 * NDIM + axis)).to(tl.int64), _count(ends, axis, NDIM)
        weights = _weights(g - low, two_thirds, CUBIC)
        here, after = _held(node, count, stride), _held(node + 1, count, stride)
        if CUBIC:
            return inside, (_held(node - 1, count, stride), here, after, _held(node + 2, count, stride)), weights
        else:
            return inside, (here, after), weights

    @triton.jit
    def _count(ends, axis: tl.constexpr, NDIM: tl.constexpr):  # type: ignore[no-untyped-def]
        """How many nodes are held along an axis."""
        return tl.load(ends + 3 * NDIM + axis).to(tl.int64)

    @triton.jit
    def _chosen(four, k):  # type: ignore[no-untyped-def]
        """One of four, in a loop: unrolled, the loads around a point in a spline take minutes to compile."""
        return tl.where(k < 2, tl.where(k == 0, four[0], four[1]), tl.where(k == 2, four[2], four[3]))

    @triton.jit
    def _two_nodes(u, near, b: tl.constexpr, c: tl.constexpr, NDIM: tl.constexpr):  # type: ignore[no-untyped-def]
        """Between the planes of nodes."""
        inside, places, weights = near
        at = u + (places[1][b] + places[2][c])
        if NDIM == 2:
            return tl.load(at, mask=inside, other=0.0)
        else:
            first, second = tl.load(at + places[0][0], mask=inside, other=0.0), at + places[0][1]
            return weights[0][0] * first + weights[0][1] * tl.load(second, mask=inside, other=0.0)

    @triton.jit
    def _four_nodes(u, near, NDIM: tl.constexpr):  # type: ignore[no-untyped-def]
        """Between the planes and the rows of nodes, in each of four columns: two rows after the other two."""
        inside, places, weights = near
        columns, zero = places[2], weights[2][0] * 0.0
        n0, n1, n2, n3 = zero, zero, zero, zero
        e0, e1, e2, e3 = zero, zero, zero, zero
        for k in range(4):
            at, w, odd = u + _chosen(places[1], k), _chosen(weights[1], k), k % 2 == 1
            if NDIM == 2:
                u0, u1 = tl.load(at + columns[0], inside, 0.0), tl.load(at + columns[1], inside, 0.0)
                u2, u3 = tl.load(at + columns[2], inside, 0.0), tl.load(at + columns[3], inside, 0.0)
            else:
                u0, u1, u2, u3 = zero, zero, zero, zero
                for plane in range(4):
                    here, wz = at + _chosen(places[0], plane), _chosen(weights[0], plane)
                    u0 += wz * tl.load(here + columns[0], inside, 0.0)
                    u1 += wz * tl.load(here + columns[1], inside, 0.0)
                    u2 += wz * tl.load(here + columns[2], inside, 0.0)
                    u3 += wz * tl.load(here + columns[3], inside, 0.0)
            u0, u1, u2, u3 = w * u0, w * u1, w * u2, w * u3
            n0, n1 = tl.where(odd, n0 + (e0 + u0), n0), tl.where(odd, n1 + (e1 + u1), n1)
            n2, n3 = tl.where(odd, n2 + (e2 + u2), n2), tl.where(odd, n3 + (e3 + u3), n3)
            e0, e1, e2, e3 = u0, u1, u2, u3
        return n0, n1, n2, n3

    @triton.jit
    def _along_row(u, near, line, way, x, NDIM: tl.constexpr, CUBIC: tl.constexpr):  # type: ignore[no-untyped-def]
        """A line of the column `x` and a displacement, which is a polynomial of the way beyond a node: another line."""
        if CUBIC:
            before, a, b, after = _four_nodes(u, near, NDIM)
            t = way[0] + way[1] * x
            value = (before - 2 * a + b) / 2 + t * ((3 * (a - b) + (after - before)) / 6)
            value = (before + 4 * a + b) / 6 + t * ((b - before) / 2 + t * value)
            return (line[0] + line[1] * x) + value
        else:
            w = near[2][1]
            a = w[0] * _two_nodes(u, near, 0, 0, NDIM) + w[1] * _two_nodes(u, near, 1, 0, NDIM)
            b = w[0] * _two_nodes(u, near, 0, 1, NDIM) + w[1] * _two_nodes(u, near, 1, 1, NDIM) - a
            return ((line[0] + a) + way[0] * b) + (line[1] + way[1] * b) * x

    @triton.jit
    def _anywhere(u, near, NDIM: tl.constexpr, CUBIC: tl.constexpr):  # type: ignore[no-untyped-def]
        """The displacement along one axis."""
        inside, places, weights = near
        columns, wx = places[2], weights[2]
        total = wx[0] * 0.0
        if CUBIC:
            for k in range(16 if NDIM == 3 else 4):
                at, w = u + _chosen(places[1], k % 4), _chosen(weights[1], k % 4)
                if NDIM == 3:
                    at, w = at + _chosen(places[0], k // 4), _chosen(weights[0], k // 4) * w
                line = wx[0] * tl.load(at + columns[0], inside, 0.0) + wx[1] * tl.load(at + columns[1], inside, 0.0)
                line += wx[2] * tl.load(at + columns[2], inside, 0.0)
                line += wx[3] * tl.load(at + columns[3], inside, 0.0)
                total += w * line
        else:
            for k in tl.static_range(4 if NDIM == 3 else 2):
                at, w = u + places[1][k % 2], weights[1][k % 2]
                if NDIM == 3:
                    at, w = at + places[0][k // 2], weights[0][k // 2] * w
                total += (w * wx[0]) * tl.load(at + columns[0], inside, 0.0)
                total += (w * wx[1]) * tl.load(at + columns[1], inside, 0.0)
        return total

    @triton.jit
    def _line(m, axis: tl.constexpr, z, y, NDIM: tl.constexpr):  # type: ignore[no-untyped-def]
        """The coordinate along an axis that a matrix gives, as a line of the column: a constant and a slope."""
        at = m + axis * (NDIM + 1)
        if NDIM == 3:
            return tl.load(at) * z + tl.load(at + 1) * y + tl.load(at + 3), tl.load(at + 2)
        else:
            return tl.load(at) * y + tl.load(at + 2), tl.load(at + 1)

    @triton.jit
    def _moved(  # type: ignore[no-untyped-def]
        z, y, x, step, u, near, axis: tl.constexpr, NDIM: tl.constexpr, CUBIC: tl.constexpr, ALONG: tl.constexpr
    ):
        """The coordinate along an axis after a step, by its row of the table."""
        plain = position(step, axis, z, y, x, NDIM)
        if ALONG:
            across = step + NDIM * (NDIM + 1)
            constant, slope = _line(across, NDIM - 1, z, y, NDIM)
            way = (constant - tl.floor(constant + slope * x), slope)
            found = _along_row(u, near, _line(step, axis, z, y, NDIM), way, x, NDIM, CUBIC)
        else:
            found = plain + _anywhere(u, near, NDIM, CUBIC)
        return tl.where(near[0], found, plain)

    @triton.jit
    def _step(z, y, x, step, vectors, two_thirds, NDIM: tl.constexpr, CUBIC: tl.constexpr, ALONG: tl.constexpr):  # type: ignore[no-untyped-def]
        across = step + NDIM * (NDIM + 1)
        ends = across + NDIM * (NDIM + 1)
        width, height = _count(ends, NDIM - 1, NDIM), _count(ends, NDIM - 2, NDIM)
        at_y, at_x = position(across, NDIM - 2, z, y, x, NDIM), position(across, NDIM - 1, z, y, x, NDIM)
        in_y, rows, wy = _around(at_y, ends, width, two_thirds, NDIM - 2, NDIM, CUBIC)
        in_x, columns, wx = _around(at_x, ends, 1, two_thirds, NDIM - 1, NDIM, CUBIC)
        u, size = vectors + tl.load(ends + 4 * NDIM).to(tl.int64), height * width
        if NDIM == 3:
            at_z = position(across, 0, z, y, x, NDIM)
            in_z, planes, wz = _around(at_z, ends, height * width, two_thirds, 0, NDIM, CUBIC)
            near = (in_z & in_y & in_x, (planes, rows, columns), (wz, wy, wx))
            size = size * _count(ends, 0, NDIM)
            new_z = _moved(z, y, x, step, u, near, 0, NDIM, CUBIC, ALONG)
        else:
            near, new_z = (in_y & in_x, (rows, rows, columns), (wy, wy, wx)), z
        new_y = _moved(z, y, x, step, u + (NDIM - 2) * size, near, NDIM - 2, NDIM, CUBIC, ALONG)
        return new_z, new_y, _moved(z, y, x, step, u + (NDIM - 1) * size, near, NDIM - 1, NDIM, CUBIC, ALONG)

    @triton.jit
    def displaced(  # type: ignore[no-untyped-def]
        z, y, x, table, vectors, two_thirds,
        NDIM: tl.constexpr, STEPS: tl.constexpr, CUBIC: tl.constexpr, ALONG: tl.constexpr,
    ):  # fmt: skip
        """Points (y, x) or (z, y, x) after all steps; see `Steps`."""
        for k in tl.static_range(STEPS):
            row = table + k * (2 * NDIM * (NDIM + 1) + 4 * NDIM + 1)
            z, y, x = _step(z, y, x, row, vectors, two_thirds, NDIM, (CUBIC >> k) % 2 == 1, ALONG and k == 0)
        return z, y, x
