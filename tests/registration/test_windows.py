"""Sums over the windows of nodes, against products of matrices of the splines."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.interpolate import BSpline

from daskreg.registration.local_contrast.windows import Windows

Floats = NDArray[np.float64]


def splines(voxels: int, apart: float) -> Floats:
    """(voxels, nodes) of nodes that begin one distance before the image."""
    cells = round(voxels / apart)
    place = (np.arange(voxels) + 0.5) * cells / voxels
    return np.asarray(BSpline.design_matrix(place, np.arange(-3.0, cells + 4.0), 3).toarray())


def summed(values: Floats, matrices: list[Floats]) -> Floats:
    for axis, matrix in enumerate(matrices):
        values = np.moveaxis(np.tensordot(matrix.T, values, (1, axis)), 0, axis)
    return values


def interpolated(nodes: Floats, matrices: list[Floats]) -> Floats:
    return summed(nodes, [matrix.T for matrix in matrices])


@pytest.mark.parametrize(("shape", "apart"), [((7, 15, 26), (5, 6, 7)), ((530, 11), (8, 5))])
def test_sums_and_what_is_between_nodes(shape: tuple[int, ...], apart: tuple[float, ...]) -> None:
    rng = np.random.default_rng(0)
    windows, matrices = Windows.of(shape, apart), [splines(n, a) for n, a in zip(shape, apart, strict=True)]
    f, w = rng.normal(size=(2, *shape)).astype(np.float32)
    weight = rng.integers(0, 2, shape).astype(np.float32)
    nodes = rng.uniform(0.5, 2, (4, *(m.shape[1] for m in matrices))).astype(np.float32)
    gain, offset, precision, common = (interpolated(one, matrices) for one in nodes)
    close = {"rtol": 2e-4, "atol": 2e-4}

    products = (weight, weight * f, weight * w, weight * f * f, weight * f * w, weight * w * w)
    np.testing.assert_allclose(windows.moments(f, w, weight), [summed(x, matrices) for x in products], **close)
    residual = f - (gain * w + offset)
    sums = [summed(weight * residual * x, matrices) for x in (1, w)]
    np.testing.assert_allclose(windows.residual_moments(f, w, weight, nodes[:2]), sums, **close)
    found, square = windows.residual(f, w, weight, nodes[:3])
    np.testing.assert_allclose(found, residual, **close)
    np.testing.assert_allclose(square, (weight * precision * residual**2).sum(), rtol=1e-4)
    of_all, counts = windows.shared(found, weight, nodes[2:])
    np.testing.assert_allclose(of_all, residual / common, **close)
    np.testing.assert_allclose(counts, weight * precision * common**2, **close)

    box = tuple(slice(n // 3, n - 1) for n in shape)
    part, _ = windows.part(box).residual(f[box], w[box], weight[box], nodes[:3])
    np.testing.assert_allclose(part, residual[box], **close)
    np.testing.assert_allclose(windows.part(box).at_voxels(nodes[0]), gain[box], **close)
