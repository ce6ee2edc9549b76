"""Errors of pairs that come from what neighbouring voxels share: a specimen that changes, correlated noise.

The covariance of a pair takes the residual as white noise. Where the specimen changes from one slice to the next, the
residual is an image itself, and shifts the optimum by more. The scores J^T r of the fields of an image, which are about
independent, show by how much: their scatter gives the variance of the sum (the sandwich estimator, with fields as
clusters; Huber 1967, Liang and Zeger 1986). Its outer matrix is that of the gradients of both images together, since
their noise, unlike that of the gradient of one, is independent.

Such errors close: where b differs from a, the pairs (a, b) and (b, c) err in a way that (a, c) repeats, so that cycles
do not show them, and more pairs do not reduce them. Two kinds differ in how they grow with the distance of the slices:
the error of the place of each slice by its noise (not at all), and that by change (with each step, a random walk). The
variances v1 and v2 of pairs that are one and two steps apart tell them apart. Where v2 > 2 v1, as in real anatomy, the
errors of consecutive steps are correlated, by v2 / (2 v1) - 1, and the walk is that of an autoregression.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from daskreg.registration.normal_equations.equations_torch import NormalEquationsTorch
from daskreg.registration.pyramids.pyramid import PyramidLevel
from daskreg.stacks.model import StackModel
from daskreg.stacks.pair_table import PairTable
from daskreg.stacks.pose_graph import PoseGraph, pose_covariance

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
Bools = NDArray[np.bool_]

# Correlation of the errors of consecutive steps, at most: from pairs of one and two steps no more can be told.
_MOST_ALIKE = 0.5
# Share of the information that noise in the gradients takes away, at most.
_LEAST_COMMON = 0.05


def shift_variance(pairs: PyramidLevel, maps: Floats, fields: int, *, gain: bool) -> Floats:
    """(B,) variances of the shifts, summed over the axes, in squared world units, by the scatter of the fields' scores.

    Args:
        maps: (B, D, D+1) from xi to moving indices.
        fields: along each axis.
        gain: the metric allows a gain and an offset.
    """
    equations = NormalEquationsTorch(pairs)
    moved, weight = equations.warp(torch.from_numpy(maps))
    fixed, axes = pairs.fixed.values, tuple(range(1, moved.ndim))
    total = weight.sum(axes, keepdim=True).clamp_min(1e-6)
    f, w = (v - (weight * v).sum(axes, keepdim=True) / total if gain else v for v in (fixed, moved))
    scale = (weight * f * w).sum(axes, keepdim=True) / (weight * w * w).sum(axes, keepdim=True).clamp_min(1e-9)
    rest = f - scale * w if gain else f - w
    gradient, other = _gradient(fixed, axes), _gradient(moved, axes)
    normal = torch.einsum("bi...,bj...->bij", weight[:, None] * gradient, gradient).double()
    common = torch.einsum("bi...,bi...->b", weight[:, None] * gradient, other).double()
    common = common * (scale.flatten().double() if gain else 1.0)
    share = (common / normal.diagonal(dim1=1, dim2=2).sum(1).clamp_min(1e-12)).clamp(_LEAST_COMMON, 1.0)
    pool: Any = {3: functional.adaptive_avg_pool2d, 4: functional.adaptive_avg_pool3d}[moved.ndim]
    size = tuple(min(fields, n) for n in moved.shape[1:])
    voxels = moved[0].numel() / np.prod(size)
    scores = pool(weight[:, None] * gradient * rest[:, None], size).flatten(2).double() * voxels
    middle = torch.einsum("bif,bjf->bij", scores, scores)
    inverse = torch.linalg.pinv(normal, hermitian=True, rtol=1e-6)
    variance = (inverse @ middle @ inverse).diagonal(dim1=1, dim2=2).sum(1) / share**2
    return np.asarray(variance.cpu().numpy()) * pairs.step**2


def _gradient(images: Tensor, axes: tuple[int, ...]) -> Tensor:
    """(B, D, *shape) central differences."""
    parts = [torch.gradient(images, dim=k)[0] if images.shape[k] > 1 else torch.zeros_like(images) for k in axes]
    return torch.stack(parts, 1)


def hidden_covariance(pairs: PairTable, nodes: Ints, model: StackModel, poses: Floats, free: Bools) -> Floats:
    """(N, Q, Q) covariance of the poses, in the algebra, from errors that cycles do not show.

    Args:
        pairs: those that are used.
        nodes: (N,) slices of the graph.
        poses: (N, D+1, D+1) of these.
        free: (N,) all, or those that are not fixed.
    """
    algebra = model.algebra
    out = np.zeros((len(nodes), algebra.size, algebra.size))
    positions = np.searchsorted(nodes, pairs.edges)
    step = np.diff(positions, axis=1)[:, 0]
    if model.axis is not None or not (step == 1).any():
        return out
    p = model.pose.from_matrices(pairs.matrices, model.centre, model.projection.half_extent).numpy()
    tangent = algebra.tangents(pairs.matrices, model.pose.motions(p, model.centre)[1])
    covariance = tangent @ pairs.covariance @ np.swapaxes(tangent, 1, 2) * (1 + pairs.excess)[:, None, None]
    size = np.trace(covariance, axis1=1, axis2=2)
    one, two = (float(np.median(size[step == k])) if (step == k).any() else np.nan for k in (1, 2))
    growth = two / one if np.isfinite(two) and one > 0 else 2.0
    own = float(np.clip(2 - growth, 0, 1))
    alike = float(np.clip(growth / 2 - 1, 0, _MOST_ALIKE))
    long = (1 + alike) / (1 - alike)
    near = np.flatnonzero(step == 1)
    number = np.zeros(len(nodes))
    for k in range(2):
        np.add.at(out, positions[near, k], covariance[near] * own / 2)
        np.add.at(number, positions[near, k], 1)
    out /= np.maximum(number, 1)[:, None, None]
    out[~free] = 0
    # Gaps between slices that no direct pair joins are as wide as the widest step.
    missing = np.setdiff1d(np.arange(len(nodes) - 1), positions[near, 0])
    widest = covariance[near[size[near].argmax()]]
    every = np.concatenate([covariance[near], np.tile(widest, (len(missing), 1, 1))]) * max(1 - own, 1e-6) * long
    edges = np.concatenate([positions[near], np.stack([missing, missing + 1], axis=1)])
    eye = np.tile(np.eye(poses.shape[-1]), (len(edges), 1, 1))
    floor = (1e-6 * algebra.reach) ** 2 * np.eye(algebra.size)
    chain = PoseGraph(len(nodes), edges, eye, np.asarray(np.linalg.inv(every + floor), np.float64), algebra)
    return np.asarray(out + pose_covariance(chain, poses, np.ones(len(edges)), free))
