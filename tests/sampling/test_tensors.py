"""Sampling of tensors against the compiled kernels, and its gradients."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage

from daskreg.errors import InvalidTransformError, ShapeMismatchError
from daskreg.geometry import Affine, Box, touched_box
from daskreg.sampling import tensors
from daskreg.sampling.sample import halo, sample

SHAPES = {1: (23,), 2: (23, 31), 3: (9, 13, 11)}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """torch's threads wait for each other in a spin, which takes ages where cores are shared."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def by_torch(block: Any, read: Box, matrix: Any, out: Box, *, order: int = 1, fill: float = 0.0) -> torch.Tensor:
    """The torch kernel, which `sample` spares tensors on a CPU that want no gradient."""
    return tensors.sample_tensor(block, read, matrix, out, order=order, fill=fill)


def case(ndim: int, seed: int = 0, *, dtype: str = "float64") -> tuple[np.ndarray, np.ndarray, Box]:
    rng = np.random.default_rng(seed)
    shape = SHAPES[ndim]
    source = (rng.random((2, *shape)) * 200).astype(dtype)
    matrix = np.eye(ndim + 1)
    matrix[:-1, :-1] += rng.normal(0, 0.25, (ndim, ndim))
    centre = (np.asarray(shape) - 1) / 2
    matrix[:-1, -1] = centre - matrix[:-1, :-1] @ centre + rng.normal(0, 2, ndim)
    return source, matrix, Box((2,) * ndim, tuple(n + 1 for n in reversed(shape)))


@pytest.mark.parametrize("order", [0, 1, 3])
@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float16", "float32", "float64"])
def test_tensors_and_arrays_agree(ndim: int, dtype: str, order: int) -> None:
    for fill in (0, 37.0):
        source, matrix, out = case(ndim, dtype=dtype)
        read = touched_box(matrix, out, SHAPES[ndim], halo(order))
        block = source[(..., *read.slices)]
        expected = sample(block, read, matrix, out, order=order, fill=fill)
        got = by_torch(torch.from_numpy(block), read, matrix, out, order=order, fill=fill).numpy()
        assert got.dtype == block.dtype
        if order == 0:
            np.testing.assert_array_equal(got, expected)
        atol = {"float16": 0.13, "float32": 2e-4, "float64": 2e-5}.get(dtype, 1)
        np.testing.assert_allclose(got.astype(float), expected.astype(float), rtol=0, atol=atol)


@pytest.mark.parametrize("dtype", ["int8", "int32", "uint32", "int64", "uint64"])
def test_other_integers(dtype: str) -> None:
    source, matrix, out = case(2, dtype=dtype)
    source = source // 2
    box = Box.of(SHAPES[2])
    expected = sample(source, box, matrix, out, fill=37)
    np.testing.assert_array_equal(by_torch(torch.from_numpy(source), box, matrix, out, fill=37), expected)


@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize("ndim", [2, 3])
def test_tensors_are_scipys(ndim: int, order: int) -> None:
    source, matrix, _ = case(ndim, 1)
    box = Box.of(SHAPES[ndim])
    got = by_torch(torch.from_numpy(source[0]), box, matrix, box, order=order, fill=-20)
    expected = ndimage.affine_transform(source[0], matrix, order=order, mode="grid-constant", cval=-20)
    # scipy pads with 12 voxels of fill before its prefilter, of which 1e-7 is left.
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-10 if order == 1 else 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("many", [False, True])
def test_gradients(ndim: int, order: int, many: bool) -> None:
    """With respect to voxels and matrices, for one matrix and for one of each pair."""
    shape, out = (4, 5, 4)[:ndim], Box((0, 1, 1)[:ndim], (3, 5, 3)[:ndim])
    torch.manual_seed(0)
    block = torch.rand(2, *shape, dtype=torch.float64, requires_grad=True)
    matrix = torch.eye(ndim + 1, dtype=torch.float64).repeat(2, 1, 1)
    matrix[:, :-1] += 0.13 * torch.randn(2, ndim, ndim + 1, dtype=torch.float64)
    matrix = (matrix if many else matrix[0]).requires_grad_()

    def warped(voxels: torch.Tensor, m: torch.Tensor) -> torch.Tensor:
        return sample(voxels, Box.of(shape), m, out, order=order, fill=0.3)

    assert torch.autograd.gradcheck(warped, (block, matrix), fast_mode=ndim == 3)


def test_the_gradient_of_a_shift_at_whole_voxels_is_there() -> None:
    """The copy of whole voxels must not cut the graph."""
    matrix = torch.eye(3, dtype=torch.float64, requires_grad=True)
    block = torch.arange(20.0).reshape(4, 5)
    sample(block, Box.of((4, 5)), matrix, Box((1, 1), (3, 4))).sum().backward()
    assert matrix.grad is not None
    assert matrix.grad[0, 2] != 0
    live = block.clone().requires_grad_()
    sample(live, Box.of((4, 5)), np.eye(3), Box((1, 1), (3, 4))).sum().backward()
    assert live.grad is not None
    assert live.grad.sum() == 6
    live.grad = None
    sample(live, Box.of((4, 5)), Affine.rotation(0.1).matrix, Box.of((4, 5)), order=0).sum().backward()
    assert live.grad.sum() > 10


@pytest.mark.parametrize("order", [0, 1, 3])
def test_each_pair_has_its_matrix(order: int) -> None:
    source, first, out = case(2)
    second = case(2, 1)[1]
    box = Box.of(SHAPES[2])
    matrices = np.stack([first, second])
    pairs = torch.from_numpy(source)
    expected = [by_torch(pairs[k], box, matrices[k], out, order=order, fill=5) for k in range(2)]
    got = by_torch(pairs, box, matrices, out, order=order, fill=5)
    np.testing.assert_allclose(got, torch.stack(expected), atol=1e-9)
    shared = sample(pairs[0], box, torch.from_numpy(matrices), out, order=order, fill=5)
    np.testing.assert_allclose(shared[0], expected[0], atol=1e-9)
    assert shared.shape == got.shape
    with pytest.raises(ShapeMismatchError, match="3 matrices"):
        sample(pairs, box, np.concatenate([matrices, matrices[:1]]), out, order=order)
    with pytest.raises(InvalidTransformError):
        sample(pairs, box, matrices[None], out, order=order)


@pytest.mark.parametrize("order", [0, 1, 3])
@pytest.mark.parametrize("ndim", [2, 3])
def test_pieces_are_the_whole(ndim: int, order: int, monkeypatch: pytest.MonkeyPatch) -> None:
    source, matrix, out = case(ndim, dtype="float32")
    block, box = torch.from_numpy(source), Box.of(SHAPES[ndim])
    whole = by_torch(block, box, matrix, out, order=order)
    monkeypatch.setattr(tensors, "_PIECE", 400)
    assert torch.equal(by_torch(block, box, matrix, out, order=order), whole)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_float32_keeps_its_digits_in_wide_blocks(dtype: torch.dtype) -> None:
    """A steep ramp far from the origin shows an error of coordinates as one of values."""
    n = 4096
    ramp = (torch.arange(n) % 2).to(dtype).expand(3, n).contiguous()
    matrix = Affine.translation(x=0.3137).matrix
    got = by_torch(ramp, Box.of((3, n)), matrix, Box((0, n - 100), (3, n - 2)))
    exact = sample(ramp.double().numpy(), Box.of((3, n)), matrix, Box((0, n - 100), (3, n - 2)))
    np.testing.assert_allclose(got.double(), exact, atol=2 * torch.finfo(dtype).eps)


def test_types_and_outputs() -> None:
    source, matrix, out = case(2, dtype="float32")
    block, box = torch.from_numpy(source), Box.of(SHAPES[2])
    live = sample(block.requires_grad_(), box, matrix, out)
    plain = sample(block.detach(), box, matrix, out)
    assert live.requires_grad
    np.testing.assert_allclose(live.detach(), plain, atol=200 * 31 * 2e-7)
    with torch.no_grad():
        assert torch.equal(sample(block, box, torch.from_numpy(matrix), out), plain)
    np.testing.assert_array_equal(plain, sample(source, box, matrix, out))
    into = torch.empty_like(plain)
    assert sample(block.detach(), box, matrix, out, out=into) is into
    assert torch.equal(into, plain)
    step = torch.zeros(12, 12, dtype=torch.uint8)
    step[:, 6:] = 255
    half = Affine.translation(x=0.5).matrix
    overshooting = by_torch(step, Box.of((12, 12)), half, Box((3, 2), (9, 10)), order=3)
    assert (int(overshooting.min()), int(overshooting.max())) == (0, 255)
    assert set(by_torch(step, Box.of((12, 12)), half, Box.of((12, 11))).unique().tolist()) == {0, 128, 255}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")
@pytest.mark.parametrize("order", [0, 1, 3])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_cuda_agrees(order: int, dtype: str) -> None:
    for ndim in (2, 3):
        source, matrix, out = case(ndim, dtype=dtype)
        box = Box.of(SHAPES[ndim])
        expected = sample(source, box, matrix, out, order=order, fill=3)
        got = by_torch(torch.from_numpy(source).cuda(), box, matrix, out, order=order, fill=3).cpu().numpy()
        atol = 0 if order == 0 else 1 if dtype != "float32" else 2e-4
        np.testing.assert_allclose(got.astype(float), expected.astype(float), rtol=0, atol=atol)
