"""The Triton kernels against the compiled ones: on a GPU, or on a CPU with TRITON_INTERPRET=1 set from the start."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from on_triton import INTERPRETED, NEEDS_TRITON, ON

from daskreg.geometry import Affine, Box, touched_box
from daskreg.sampling import tensors, tensors_triton
from daskreg.sampling.sample import halo, sample

pytestmark = [
    NEEDS_TRITON,
    pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning"),  # the interpreter's numpy
]

TURN = Affine.from_parameters(theta=0.3, sx=1.04, tx=1.7, centre=(10, 12)).matrix
STEEP = Affine.from_parameters(theta=1.4, ty=-2.2, centre=(10, 12)).matrix
TILT = Affine.from_parameters({"rx": 0.2, "rz": 0.3, "tx": 1.5}, ndim=3, centre=(2, 10, 12)).matrix
WHOLE = ["uint8", "int8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]
FLOATS = ["float16", "float32", "float64"]


@pytest.fixture(autouse=True)
def triton_even_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensors_triton, "ready", lambda device: True)
    if INTERPRETED:  # few programs
        monkeypatch.setattr(tensors_triton, "_ROWS", 32)
        monkeypatch.setattr(tensors_triton, "_FILTERED", 4096)


def voxels(shape: tuple[int, ...], dtype: str, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).random(shape)
    return values > 0.5 if dtype == "bool" else (values * 120).astype(dtype)


def there(block: np.ndarray, read: Box, matrix: Any, out: Box, **options: Any) -> np.ndarray:
    tensor = torch.from_numpy(np.ascontiguousarray(block)).to(ON)
    return tensors.sample_tensor(tensor, read, matrix, out, **options).cpu().numpy()


def boxes(shape: tuple[int, ...], matrix: np.ndarray) -> tuple[Box, Box]:
    read = Box.of(shape[len(shape) + 1 - len(matrix) :])
    return read, Box(tuple(n // 5 - 2 for n in read.shape), tuple(n + 2 for n in read.shape))


@pytest.mark.parametrize("matrix", [TURN, STEEP, TILT], ids=["slices", "steep", "volume"])
@pytest.mark.parametrize("dtype", ["bool", *WHOLE, *FLOATS])
def test_the_same_bits_as_on_the_cpu(dtype: str, matrix: np.ndarray) -> None:
    block = voxels((5, 20, 25), dtype)
    read, out = boxes(block.shape, matrix)
    for order in (0, 1):
        for fill in (7.0, np.nan, -np.inf) if dtype in FLOATS else (7.0,):
            expected = sample(block, read, matrix, out, order=order, fill=fill)
            got = there(block, read, matrix, out, order=order, fill=fill)
            assert got.dtype == expected.dtype
            np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(
    "dtype", ["uint8", "float32", *([] if INTERPRETED else ["uint16", "int64", "float16", "float64"])]
)
def test_cubic_is_the_cpus_up_to_rounding(dtype: str) -> None:
    block = voxels((2, 7, 9), dtype)
    for matrix in (TURN, TILT):
        read, out = boxes(block.shape, matrix)
        for fill in (7.0, np.nan) if dtype in FLOATS else (7.0,):
            expected = sample(block, read, matrix, out, order=3, fill=fill).astype("f8")
            got = there(block, read, matrix, out, order=3, fill=fill).astype("f8")
            atol = {"float16": 0.13, "float32": 2e-4, "float64": 2e-5}.get(dtype, 1)
            np.testing.assert_allclose(got, expected, rtol=0, atol=atol)


def test_what_is_not_finite_stays_where_it_is() -> None:
    block = voxels((20, 25), "float32")
    block[5, 7], block[12, 20], block[3, 11] = np.nan, np.inf, -np.inf
    half = Affine.translation(x=0.5).matrix  # weights of zero along y
    for matrix in (TURN, half):
        read, out = boxes(block.shape, matrix)
        np.testing.assert_array_equal(
            there(block, read, matrix, out, order=1, fill=0.0), sample(block, read, matrix, out, order=1)
        )


@pytest.mark.parametrize("order", [0, 1] if INTERPRETED else [0, 1, 3])  # the interpreter takes minutes
@pytest.mark.parametrize("many", [1, 2, 5, 9])
def test_each_block_has_its_matrix_or_all_share_one(many: int, order: int) -> None:
    block = voxels((many, 6, 8), "float32")
    matrices = np.stack([TURN @ Affine.translation(x=0.3 * k).matrix for k in range(many)])
    read, out = Box.of((6, 8)), Box((-1, 0), (7, 9))
    alone = [there(block[k : k + 1], read, matrices[k], out, order=order, fill=3.0)[0] for k in range(many)]
    np.testing.assert_array_equal(there(block, read, matrices, out, order=order, fill=3.0), np.stack(alone))
    shared = [there(block[k], read, TURN, out, order=order, fill=3.0) for k in range(many)]
    np.testing.assert_array_equal(there(block, read, TURN, out, order=order, fill=3.0), np.stack(shared))
    views = there(block[0], read, matrices, out, order=order, fill=3.0)
    np.testing.assert_array_equal(views[0], alone[0])


def test_one_block_for_all_is_filtered_once() -> None:
    block = torch.from_numpy(voxels((1, 3, 4), "float32")).to(ON)
    one = tensors_triton.coefficients(block, 2, 0.0, torch.float32)
    many = tensors_triton.coefficients(block.expand(5, 3, 4), 2, 0.0, torch.float32)
    assert many.stride(0) == 0
    np.testing.assert_array_equal(many.cpu(), one.cpu().expand(5, *one.shape[1:]))


@pytest.mark.parametrize("order", [0, 1])
def test_any_cut_is_the_whole_far_from_the_origin(order: int) -> None:
    """Each part of the output from what it reads alone, at indices of 100,000: bit for bit."""
    far = Affine.translation(z=40, y=90_000, x=100_000).matrix
    matrix = far @ TILT @ np.linalg.inv(far)
    read = Box((38, 89_990, 99_985), (46, 90_030, 100_040))
    block = voxels(read.shape, "float32")
    out = Box((40, 90_003, 100_002), (43, 90_017, 100_021))
    whole = there(block, read, matrix, out, order=order, fill=0.0)
    np.testing.assert_array_equal(whole, sample(block, read, matrix, out, order=order))
    assert np.count_nonzero(whole) > 0.9 * whole.size
    for axis, cut in enumerate((41, 90_011, 100_013)):
        start, stop = list(out.start), list(out.stop)
        stop[axis], start[axis] = cut, cut
        for part in (Box(out.start, tuple(stop)), Box(tuple(start), out.stop)):
            some = touched_box(matrix, part, read.stop, halo(order)) & read
            seen = block[some.within(read).slices]
            got = there(seen, some, matrix, part, order=order, fill=0.0)
            np.testing.assert_array_equal(got, whole[part.within(out).slices])


def test_places_far_outside_are_fill() -> None:
    block = voxels((6, 8), "uint16")
    read, out = Box.of((6, 8)), Box((0, 0), (5, 7))
    for scale in (1e9, 1e300):
        matrix = np.diag([scale, -scale, 1.0])
        matrix[:2, 2] = 3.7
        for order in (0, 1):
            expected = sample(block, read, matrix, out, order=order, fill=9)
            np.testing.assert_array_equal(there(block, read, matrix, out, order=order, fill=9), expected)
