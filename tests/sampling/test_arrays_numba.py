"""Sampling of arrays against scipy, and against itself in other blocks and threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage
from strategies import affines, ndims

from daskreg.geometry import Affine, Box, touched_box
from daskreg.sampling import arrays_numba
from daskreg.sampling.sample import halo, sample

Floats = NDArray[np.float64]
RANGE = 200.0


def random_map(rng: np.random.Generator, ndim: int, shape: tuple[int, ...]) -> Floats:
    """Rotation, scale, shear and a shift of some voxels about the middle of an image, or a reflection."""
    linear = np.eye(ndim) + rng.normal(0, 0.3, (ndim, ndim))
    linear[:, 0] *= rng.choice([-1, 1])
    matrix = np.eye(ndim + 1)
    matrix[:-1, :-1] = linear
    centre = (np.asarray(shape) - 1) / 2
    matrix[:-1, -1] = centre - linear @ centre + rng.normal(0, 3, ndim)
    return matrix


def random_case(seed: int, ndim: int, dtype: str) -> tuple[NDArray[Any], Box, Floats, Box]:
    """An odd block that lies anywhere, a matrix, and an output box of another shape."""
    rng = np.random.default_rng(seed)
    size = 40 if ndim == 2 else 17
    shape = tuple(rng.integers(3, size, ndim).tolist())
    read = Box.of(shape).shift(rng.integers(0, 30, ndim).tolist())
    block = (rng.random(shape) * RANGE - (RANGE / 2 if dtype.startswith("i") else 0)).astype(dtype)
    matrix = random_map(rng, ndim, shape)
    matrix[:-1, -1] += read.start - matrix[:-1, :-1] @ read.start
    out = Box.of(rng.integers(3, size, ndim).tolist()).shift(
        (np.array(read.start) + rng.integers(-4, 4, ndim)).tolist()
    )
    return block, read, matrix, out


def by_scipy(block: NDArray[Any], read: Box, matrix: Floats, out: Box, *, order: int, fill: float) -> Floats:
    """scipy's answer for the whole source, which is fill outside of the block."""
    start = np.asarray(out.start, np.float64)
    offset = matrix[:-1, -1] + matrix[:-1, :-1] @ start - read.start
    return np.asarray(
        ndimage.affine_transform(
            block.astype(np.float64), matrix[:-1, :-1], offset, out.shape, order=order, mode="grid-constant", cval=fill
        )
    )


def by_rounding(block: NDArray[Any], read: Box, matrix: Floats, out: Box, *, fill: float) -> NDArray[Any]:
    """Order 0: the voxel at floor(x + 0.5)."""
    index = np.meshgrid(*[np.arange(a, b) for a, b in zip(out.start, out.stop, strict=True)], indexing="ij")
    result = np.full(out.shape, fill, block.dtype)
    inside, places = np.ones(out.shape, bool), []
    for k in range(read.ndim):
        x = matrix[k, 0] * index[0]
        for j in range(1, read.ndim):
            x = x + matrix[k, j] * index[j]
        i = np.floor(x + matrix[k, -1] + 0.5).astype(int)
        inside &= (i >= read.start[k]) & (i < read.stop[k])
        places.append(i - read.start[k])
    result[inside] = block[tuple(p[inside] for p in places)]
    return result


def clamped(values: Floats, dtype: np.dtype[Any]) -> Floats:
    return values if dtype.kind == "f" else np.clip(values, np.iinfo(dtype).min, np.iinfo(dtype).max)


@pytest.mark.parametrize(
    ("ndim", "dtype"),
    [(2, "int16"), *((ndim, name) for ndim in (2, 3) for name in ("uint8", "uint16", "float32", "float64"))],
)
@pytest.mark.parametrize("fill", [0.0, 37.0])
def test_linear_is_scipys(ndim: int, dtype: str, fill: float) -> None:
    for seed in range(8):
        block, read, matrix, out = random_case(seed, ndim, dtype)
        got = sample(block, read, matrix, out, fill=fill)
        expected = by_scipy(block, read, matrix, out, order=1, fill=fill)
        assert got.dtype == block.dtype
        # Integers: half a step, and what float32 weights may tip over.
        tolerance = 1e-5 * RANGE if block.dtype.kind == "f" else 0.5 + 1e-4 * RANGE
        np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "float64"])
@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("fill", [0.0, 37.0])
def test_cubic_is_scipys(ndim: int, dtype: str, fill: float) -> None:
    for seed in range(8):
        block, read, matrix, out = random_case(100 + seed, ndim, dtype)
        got = sample(block, read, matrix, out, order=3, fill=fill)
        expected = clamped(by_scipy(block, read, matrix, out, order=3, fill=fill), block.dtype)
        tolerance = 1e-6 * RANGE if block.dtype.kind == "f" else 0.5 + 1e-4 * RANGE
        np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance)


# Of a type, the kernel takes only the size and the fill.
NEAREST = [(1, "uint8"), (2, "uint8"), (2, "float32"), (2, "int64"), (3, "uint8"), (3, "int16"), (3, "float32")]


@pytest.mark.parametrize(("ndim", "dtype"), NEAREST)
def test_nearest_rounds_half_up(ndim: int, dtype: str) -> None:
    for seed in range(8):
        block, read, matrix, out = random_case(seed, max(ndim, 2), dtype)
        if ndim == 1:
            block, read, matrix, out = block[0], read.take([1]), matrix[1:, 1:], out.take([1])
        got = sample(block, read, matrix, out, order=0, fill=9)
        np.testing.assert_array_equal(got, by_rounding(block, read, matrix, out, fill=9))


def test_nearest_at_ties() -> None:
    """Labels on a grid of twice the spacing are all ties: up, not half to even."""
    labels = np.arange(10, dtype=np.uint16)[None].repeat(4, 0)
    matrix = np.array([[2, 0, 0.5], [0, 2, 0.5], [0, 0, 1]])
    got = sample(labels, Box.of((4, 10)), matrix, Box.of((2, 6)), order=0, fill=99)
    assert got.tolist() == [[1, 3, 5, 7, 9, 99]] * 2
    np.testing.assert_array_equal(got[:, :5], ndimage.affine_transform(labels, matrix, order=0)[:2, :5])


@pytest.mark.parametrize("dtype", ["int8", "int32", "uint32", "int64", "uint64", "float16"])
def test_other_types(dtype: str) -> None:
    """The same voxels, whatever holds them; wide integers keep their digits."""
    block, read, matrix, out = random_case(5, 2, "uint8")
    expected = sample((block // 2).astype(np.float64), read, matrix, out, fill=3)
    got = sample((block // 2).astype(dtype), read, matrix, out, fill=3)
    assert got.dtype == dtype
    np.testing.assert_allclose(got, expected, atol=0.06 if dtype == "float16" else 0.5)
    if np.dtype(dtype).itemsize >= 4:
        base = 2**30 if np.dtype(dtype).itemsize == 4 else 2**50
        far = sample(block.astype(dtype) + np.dtype(dtype).type(base), read, matrix, out, fill=base)
        near = sample(block.astype(np.float64), read, matrix, out)
        np.testing.assert_allclose((far - np.dtype(dtype).type(base)).astype(float), near, atol=0.8)


@pytest.mark.parametrize("dtype", ["uint8", "int64", "uint64"])
def test_integers_are_clamped(dtype: str) -> None:
    """A cubic overshoots at an edge, and the largest 64-bit integers are no floats."""
    info = np.iinfo(dtype)
    step = np.full((12, 12), info.min, dtype)
    step[:, 6:] = info.max
    matrix = Affine.translation(x=0.3, y=0.2).matrix
    for order in (1, 3) if dtype == "uint8" else (1,):
        got = sample(step, Box.of((12, 12)), matrix, Box((3, 1), (9, 10)), order=order)
        assert (got[:, 0] <= info.min + (info.max - info.min) // 20).all()
        assert (got[:, -1] >= info.max - (info.max - info.min) // 20).all()
        assert (np.diff(got[0].astype(float)) >= 0).all() or order == 3


@pytest.mark.slow
@pytest.mark.parametrize("order", [0, 1])
@settings(max_examples=40)
@given(data=st.data())
def test_any_cut_into_blocks_is_bit_identical(order: int, data: st.DataObject) -> None:
    ndim = data.draw(ndims)
    shape = tuple(data.draw(st.lists(st.integers(1, 24 if ndim == 2 else 12), min_size=ndim, max_size=ndim)))
    matrix = data.draw(affines(ndim)).matrix.copy()
    centre = (np.asarray(shape) - 1) / 2
    matrix[:-1, -1] = 0.1 * matrix[:-1, -1] + centre - matrix[:-1, :-1] @ centre
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    source = rng.random(shape).astype(np.float32)
    whole = sample(source, Box.of(shape), matrix, Box.of(shape), order=order, fill=0.5)
    box = Box.of(shape)
    for _ in range(3):
        start = rng.integers(0, shape)
        part = Box(tuple(start.tolist()), tuple((start + rng.integers(1, 9, ndim)).tolist())) & box
        read = touched_box(matrix, part, shape, halo(order))
        got = sample(source[read.slices], read, matrix, part, order=order, fill=0.5)
        np.testing.assert_array_equal(got, whole[part.slices])


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("dtype", ["float32", "uint16"])
def test_cubic_blocks_agree_through_the_halo(ndim: int, dtype: str) -> None:
    rng = np.random.default_rng(ndim)
    shape = (90, 101) if ndim == 2 else (50, 41, 44)
    source = (rng.random(shape) * RANGE).astype(dtype)
    matrix = random_map(rng, ndim, shape)
    box = Box.of(shape)
    whole = sample(source, box, matrix, box, order=3, fill=RANGE / 2)
    for _ in range(4):
        start = rng.integers(0, shape)
        part = Box(tuple(start.tolist()), tuple((start + 13).tolist())) & box
        read = touched_box(matrix, part, shape, halo(3))
        got = sample(source[read.slices], read, matrix, part, order=3, fill=RANGE / 2)
        atol = 1e-6 * RANGE if dtype == "float32" else 1
        np.testing.assert_allclose(got.astype(float), whole[part.slices].astype(float), rtol=0, atol=atol)


@pytest.mark.parametrize("order", [0, 1, 3])
def test_parallel_and_threaded_calls_are_the_same(order: int) -> None:
    rng = np.random.default_rng(0)
    stack = rng.random((19, 80, 97)).astype(np.float32)
    turn = np.eye(4)
    turn[1:, 1:] = random_map(rng, 2, stack.shape[1:])
    turn[0, -1] = 2
    tilt = random_map(rng, 3, stack.shape)
    box = Box.of(stack.shape)
    for matrix in (turn, tilt):
        alone = sample(stack, box, matrix, box, order=order)
        together = sample(stack, box, matrix, box, order=order, parallel=True)
        np.testing.assert_array_equal(together, alone)
        with ThreadPoolExecutor(4) as pool:
            jobs = [pool.submit(sample, stack, box, matrix, box, order=order, parallel=k % 2 == 0) for k in range(8)]
            assert all(np.array_equal(job.result(), alone) for job in jobs)


@pytest.mark.parametrize("order", [0, 1, 3])
def test_a_batch_is_each_of_it(order: int) -> None:
    rng = np.random.default_rng(0)
    blocks = rng.random((2, 9, 14, 15)).astype(np.float32)
    flat = random_map(rng, 2, (14, 15))
    box = Box.of((14, 15))
    got = sample(blocks, box, flat, box, order=order)
    for index in np.ndindex(2, 9):
        np.testing.assert_array_equal(got[index], sample(blocks[index], box, flat, box, order=order))
    volume, tilt = Box.of((9, 14, 15)), random_map(rng, 3, (9, 14, 15))
    got = sample(blocks, volume, tilt, volume, order=order)
    for b in range(2):
        np.testing.assert_array_equal(got[b], sample(blocks[b], volume, tilt, volume, order=order))


@pytest.mark.parametrize("order", [0, 1, 3])
def test_slices_that_stay_in_their_plane_are_taken_as_a_batch(order: int) -> None:
    rng = np.random.default_rng(0)
    volume = rng.random((7, 20, 21)).astype(np.float32)
    plane = random_map(rng, 2, (20, 21))
    matrix = np.eye(4)
    matrix[1:, 1:] = plane
    matrix[0, -1] = -3
    read, out = Box((1, 0, 0), (7, 20, 21)), Box((2, 1, 3), (12, 17, 18))
    got = sample(np.stack([volume, volume])[:, 1:], read, matrix, out, order=order, fill=5)
    expected = by_scipy(volume[1:], read, matrix, out, order=order, fill=5) if order else None
    for z in range(2, 12):
        inside = 1 <= z - 3 < 7
        slices = sample(volume[z - 3], read.take([1, 2]), plane, out.take([1, 2]), order=order, fill=5) if inside else 5
        assert (got[:, z - 2] == slices).all()
    if order:
        np.testing.assert_allclose(got[1], expected, atol=1e-5)


def test_compiling_needs_no_place_for_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """numba refuses `cache=True` where it may write nowhere; the kernels then live without."""
    njit = numba.njit

    def refusing(*, cache: bool = False, **options: Any) -> Any:
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return njit(**options)

    monkeypatch.setattr(numba, "njit", refusing)
    assert arrays_numba.jit(lambda x: x + 1)(1) == 2


def test_read_only_blocks_are_not_compiled_for_anew() -> None:
    block, read, matrix, out = random_case(0, 2, "float32")
    expected = sample(block, read, matrix, out)
    known = len(arrays_numba.linear.signatures)
    for array in (block, matrix):
        array.flags.writeable = False
    np.testing.assert_array_equal(sample(block, read, matrix, out), expected)
    assert len(arrays_numba.linear.signatures) == known
