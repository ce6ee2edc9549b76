"""Coordinates that go through displacement fields, as tensors: on any device, differentiable in the vectors."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from daskreg.errors import OptionError
from daskreg.geometry import Box
from daskreg.sampling.displacements import Displaced, Displacement

Coordinates = list[Tensor]


def displaced_coordinates(path: Displaced, box: Box, device: torch.device) -> Coordinates:
    """Where the voxels of `box` are sampled along each axis, (1, *box.shape), float64 (float32 where there is none).

    Steps against a field are solved on the CPU, and have no gradient.

    Raises: OptionError where a gradient is wanted of such a step.
    """
    kind = torch.float32 if device.type == "mps" else torch.float64
    ends = enumerate(zip(box.start, box.stop, strict=True))
    indices = [
        torch.arange(a, b, dtype=kind, device=device).reshape(-1, *[1] * (box.ndim - 1 - k)) for k, (a, b) in ends
    ]
    x = [i[None].expand(1, *box.shape) for i in indices]
    for step in path.steps:
        x = _against(step, x) if step.inverse else _along(step, x)
    return x


def wants_gradient(path: Displaced) -> bool:
    """Whether vectors are tensors of which a gradient is wanted."""
    return torch.is_grad_enabled() and any(
        isinstance(step.vectors, Tensor) and step.vectors.requires_grad for step in path.steps
    )


def vectors_of(step: Displacement, device: torch.device) -> Tensor:
    """The vectors as a tensor on a device."""
    if isinstance(step.vectors, Tensor):
        return step.vectors.to(device)
    array = np.asarray(step.vectors)
    return torch.from_numpy(np.array(array, array.dtype.newbyteorder("="), order="C")).to(device)


def _along(step: Displacement, x: Coordinates) -> Coordinates:
    u = _displacement(step, _applied(step.across, x))
    moved = _applied(step.direct, x)
    turn = step.onward[:-1, :-1]
    return [m + sum(float(turn[k, i]) * u[i] for i in range(len(u))) for k, m in enumerate(moved)]


def _against(step: Displacement, x: Coordinates) -> Coordinates:
    if torch.is_grad_enabled() and isinstance(step.vectors, Tensor) and step.vectors.requires_grad:
        raise OptionError("the inverse of a field has no gradient: use the field itself as the pull")
    points = torch.stack([c.detach().flatten() for c in x], -1).double().cpu().numpy()
    vectors = step.vectors.detach().cpu().numpy() if isinstance(step.vectors, Tensor) else step.vectors
    plain = Displaced((replace(step, vectors=vectors),))
    moved = torch.from_numpy(np.ascontiguousarray(plain(points).T)).to(x[0].device, x[0].dtype)
    return [m.reshape(x[0].shape) for m in moved]


def _applied(matrix: Any, x: Coordinates) -> Coordinates:
    """matrix . (x, 1), in the order of operations of the compiled kernels."""
    last, result = len(x) - 1, []
    for k in range(len(x)):
        value = float(matrix[k, 0]) * x[0]
        for i in range(1, last):
            value = value + float(matrix[k, i]) * x[i]
        result.append((value + float(matrix[k, last + 1])) + float(matrix[k, last]) * x[last])
    return result


def _displacement(step: Displacement, g: Coordinates) -> Coordinates:
    """The displacement at node coordinates, zero where they are not in the field."""
    vectors = vectors_of(step, g[0].device).to(g[0].dtype)
    flat = vectors.flatten(1)
    inside: Any = True
    axes = []
    for x, n, first, width in zip(g, step.shape, step.start, vectors.shape[1:], strict=True):
        low, high = (x >= -0.5, x < n - 0.5) if step.order == 1 else (x >= 1, x <= n - 2)
        inside = inside & low & high
        node = x.detach().floor()
        taps = [(node.long() + k).clamp(0, n - 1) - first for k in ((0, 1) if step.order == 1 else (-1, 0, 1, 2))]
        # Outside the field, where the result is not used, there may be no such node.
        axes.append([(i.clamp(0, width - 1), w) for i, w in zip(taps, _weights(x - node, step.order), strict=True)])
    total = [torch.zeros_like(g[0]) for _ in g]
    for corner in product(*axes):
        index: Any = 0
        weight: Any = 1.0
        for (i, w), width in zip(corner, vectors.shape[1:], strict=True):
            index, weight = index * width + i, weight * w
        found = flat[:, index.flatten()].reshape(len(g), *g[0].shape)
        total = [t + weight * f for t, f in zip(total, found, strict=True)]
    return [torch.where(inside, t, 0) for t in total]


def _weights(t: Tensor, order: int) -> list[Tensor]:
    if order == 1:
        return [1 - t, t]
    s = 1 - t
    return [s**3 / 6, 2 / 3 - t * t * (1 - t / 2), 2 / 3 - s * s * (1 - s / 2), t**3 / 6]
