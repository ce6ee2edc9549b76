"""Cubic splines where voxels are not finite: NaN in the support of the kernel, elsewhere as if the runs were alone."""

from __future__ import annotations

from itertools import product
from typing import Any

import dask.array as da
import numpy as np
import pytest
import torch
from scipy import ndimage

import daskreg as dr
from daskreg.errors import OptionError
from daskreg.geometry import Affine, Box
from daskreg.sampling.arrays import spline_of
from daskreg.sampling.sample import sample
from daskreg.sampling.tensors import sample_tensor

SPIN = Affine.rotation(0.21).matrix @ np.array([[1.13, 0.05, -2.3], [-0.02, 0.91, 1.7], [0, 0, 1]])


def arrays(block: np.ndarray, *args: Any, **options: Any) -> np.ndarray:
    return sample(block, *args, **options)


def by_torch(block: np.ndarray, *args: Any, order: int = 3, fill: float = 0.0) -> np.ndarray:
    return sample_tensor(torch.from_numpy(block), *args, order=order, fill=fill).numpy()


KINDS = [arrays, by_torch]


def holed(shape: tuple[int, ...], *, seed: int = 0, dtype: str = "f8") -> np.ndarray:
    """Random voxels with single gaps, a row of them, a lonely voxel between two, and a large block of them."""
    rng = np.random.default_rng(seed)
    image = rng.normal(size=shape)
    image.flat[rng.choice(image.size, max(2, image.size // 200), replace=False)] = np.nan
    image[..., 5, 3:9] = np.inf
    image[..., 9, [4, 6]] = -np.inf
    image[..., shape[-2] // 2 :, : shape[-1] // 5] = np.nan
    return image.astype(dtype)


def expected(image: np.ndarray, matrix: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """By SciPy: every run filtered on its own; NaN where a voxel with weight is not finite; the fill is 0 outside."""
    pad, ndim = 16, image.ndim
    padded = np.pad(image, pad)
    coefficients, finite = np.where(np.isfinite(padded), padded, 0), np.isfinite(padded)
    for axis in range(ndim):
        lines, valid = np.moveaxis(coefficients, axis, -1), np.moveaxis(finite, axis, -1)
        for at in np.ndindex(lines.shape[:-1]):
            runs, count = ndimage.label(valid[at])
            for k in range(1, count + 1):
                run = runs == k
                if run.sum() > 1:
                    lines[at][run] = ndimage.spline_filter1d(lines[at][run], 3, mode="mirror")
    points = np.einsum("ij,j...->i...", matrix[:-1, :-1], np.indices(shape)) + matrix[:-1, -1].reshape(-1, *[1] * ndim)
    result = ndimage.map_coordinates(coefficients, points + pad, order=3, prefilter=False)
    node, t = np.floor(points).astype(int), points - np.floor(points)
    for steps in product((-1, 0, 1, 2), repeat=ndim):
        place = [np.clip(node[k] + s + pad, 0, padded.shape[k] - 1) for k, s in enumerate(steps)]
        weighted = np.all([(t[k] > 0) | (s < 2) for k, s in enumerate(steps)], axis=0)
        result[weighted & ~finite[tuple(place)]] = np.nan
    return result


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize(
    "matrix", [SPIN, Affine.translation(y=0.5, x=0.25).matrix, Affine.translation(y=2, x=0.3).matrix]
)
def test_planes(kind: Any, dtype: str, matrix: np.ndarray) -> None:
    image = holed((31, 43), dtype=dtype)
    got = kind(image, Box.of(image.shape), matrix, Box.of((37, 29)), order=3)
    wanted = expected(image.astype("f8"), matrix, (37, 29))
    np.testing.assert_array_equal(np.isnan(got), np.isnan(wanted))
    assert 0.03 < np.isnan(got).mean() < 0.6
    np.testing.assert_allclose(got, wanted, atol=1e-5 if dtype == "f4" else 1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_volumes(kind: Any) -> None:
    image = holed((14, 17, 22), dtype="f8")
    matrix = np.eye(4)
    matrix[:3, :3] += np.random.default_rng(2).normal(size=(3, 3)) * 0.1
    matrix[:3, 3] = 0.7, -1.2, 0.4
    got = kind(image, Box.of(image.shape), matrix, Box.of((9, 20, 15)), order=3)
    wanted = expected(image, matrix, (9, 20, 15))
    np.testing.assert_array_equal(np.isnan(got), np.isnan(wanted))
    np.testing.assert_allclose(got, wanted, atol=1e-7)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_voxel_reaches_four_along_each_axis_whatever_the_chunks(bad: float) -> None:
    image = np.random.default_rng(0).normal(size=(90, 117)).astype("f4")
    image[40, 59] = bad
    push = Affine.translation(y=0.25, x=0.5)
    whole = dr.warp(image, push=push, order=3)
    assert np.argwhere(np.isnan(whole)).min(0).tolist() == [39, 58]
    assert np.isnan(whole).sum() == 16
    for source, chunks in ((17, (23, 31)), (60, (60, 40))):
        lazy = dr.warp(da.from_array(image, chunks=source), push=push, order=3, chunks=chunks).compute()
        np.testing.assert_allclose(lazy, whole, atol=1e-6 * np.ptp(image[np.isfinite(image)]))
    np.testing.assert_allclose(dr.warp(torch.from_numpy(image), push=push, order=3).numpy(), whole, atol=1e-5)


def test_chunks_do_not_matter_with_many_gaps() -> None:
    volume = np.stack([holed((61, 53), seed=k) for k in range(4)])
    slices = dr.SliceAffines(np.stack([Affine.rotation(0.05 * k + 0.1).matrix for k in range(4)]))
    whole = dr.warp(volume, pull=slices, order=3)
    for chunks in ((1, 20, 53), (4, 61, 13)):
        lazy = dr.warp(da.from_array(volume, chunks=(2, 25, 25)), pull=slices, order=3, chunks=chunks).compute()
        np.testing.assert_allclose(lazy, whole, atol=1e-6 * 8)


def test_what_is_beside_a_gap_is_hardly_changed_by_it() -> None:
    """On a smooth image; and where the points are voxels, they keep their values."""
    y, x = np.mgrid[:40, :47]
    image = np.sin(y / 4) + np.cos(x / 5) + 100
    gapped = image.copy()
    gapped[17, 20], gapped[25:, 30:34] = np.nan, np.nan
    push = Affine.translation(y=0.4, x=0.3)
    with_gap, without = (dr.warp(v, push=push, order=3) for v in (gapped, image))
    assert np.nanmax(np.abs(with_gap - without)) < 0.05
    mirrored = sample(
        gapped, Box.of((40, 47)), np.array([[-1.0, 0, 39], [0, -1, 46], [0, 0, 1]]), Box.of((40, 47)), order=3
    )
    known = np.isfinite(mirrored)
    assert (~known).sum() == 9 + 6 * 16
    np.testing.assert_allclose(mirrored[known], gapped[::-1, ::-1][known], atol=1e-9)


def test_coefficients_that_are_kept_give_the_same() -> None:
    """Also with a first axis that is a batch, for which those of the volume are not used."""
    sideways = Affine.translation(z=1, y=0.3, x=2.6).matrix
    for image, matrix in ((holed((24, 31)), SPIN), (np.nan_to_num(holed((5, 22, 26), dtype="f4")), sideways)):
        box = Box.of(image.shape)
        spline = spline_of(image, box, fill=np.nan)
        for out in (box, Box((1,) * box.ndim, tuple(n - 3 for n in image.shape))):
            plain = sample(image, box, matrix, out, order=3, fill=np.nan)
            kept = sample(image, box, matrix, out, order=3, fill=np.nan, spline=spline)
            np.testing.assert_allclose(kept, plain, atol=1e-6)
    line, box = holed((24, 40))[9], Box.of((40,))
    spline, shift = spline_of(line, box, fill=np.nan), np.array([[1, 0.3], [0, 1]])
    kept = sample(line, box, shift, box, order=3, fill=np.nan, spline=spline)
    np.testing.assert_array_equal(kept, sample(line, box, shift, box, order=3, fill=np.nan))
    with pytest.raises(OptionError, match="edge"):
        sample(line, box, shift, box, order=3, fill=np.nan, edge="clamp", spline=spline)


def test_a_gradient_passes_beside_gaps() -> None:
    image = torch.from_numpy(holed((24, 31))).requires_grad_()
    box = Box.of((24, 31))
    result = sample(image, box, SPIN, box, order=3)
    result[torch.isfinite(result)].sum().backward()
    assert image.grad is not None
    assert image.grad[torch.isfinite(image)].abs().sum() > 0
    assert torch.isfinite(image.grad).all()
