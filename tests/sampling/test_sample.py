"""What `sample`, `halo` and `cast` promise whatever computes them."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from daskreg.errors import InvalidTransformError, OptionError, ShapeMismatchError, UnsupportedDTypeError
from daskreg.geometry import Affine, Box
from daskreg.sampling.cast import cast
from daskreg.sampling.sample import halo, sample
from daskreg.sampling.tensors import sample_tensor

BOX = Box.of((6, 7))
SHIFT = Affine.translation(y=1, x=-2).matrix
TURN = Affine.rotation(0.1).matrix
NATIVE = ["bool", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8"]


def arrays(block: np.ndarray, *args: Any, **options: Any) -> np.ndarray:
    return sample(block, *args, **options)


def tensors(block: np.ndarray, *args: Any, **options: Any) -> np.ndarray:
    return sample(torch.from_numpy(block), *args, **options).numpy()


def by_torch(block: np.ndarray, *args: Any, order: int = 1, fill: float = 0.0) -> np.ndarray:
    """The torch kernel, which `sample` spares tensors on a CPU that want no gradient."""
    return sample_tensor(torch.from_numpy(block), *args, order=order, fill=fill).numpy()


KINDS = [arrays, tensors, by_torch]
EVERY_TYPE = [(kind, dtype) for kind in KINDS for dtype in NATIVE] + [(arrays, ">f4"), (arrays, ">u2")]


@pytest.mark.parametrize("order", [0, 1, 3])
@pytest.mark.parametrize(("kind", "dtype"), EVERY_TYPE)
def test_a_whole_voxel_shift_is_a_copy(kind: Any, dtype: str, order: int) -> None:
    native = np.dtype(dtype).newbyteorder("=")
    info = np.iinfo(dtype) if native.kind in "iu" else None
    rng = np.random.default_rng(0)
    values = rng.integers(info.min, info.max, (6, 7), native, endpoint=True) if info else rng.random((6, 7)) * 2
    block = np.asarray(values).astype(dtype)
    got = kind(block, BOX, SHIFT, Box.of((6, 9)), order=order, fill=1)
    expected = np.ones((6, 9), native)
    expected[:5, 2:] = block[1:]
    assert got.dtype == native
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_whole_voxel_shifts_in_any_number_of_dimensions(kind: Any) -> None:
    block = np.random.default_rng(0).random((2, 3, 4, 2, 3))
    matrix = np.eye(5)
    matrix[:-1, -1] = (1, 0, -1, 2)
    got = kind(block, Box((1, 0, 0, 2), (4, 4, 2, 5)), matrix, Box.of((3, 4, 3, 3)), fill=-1)
    expected = np.full((2, 3, 4, 3, 3), -1.0)
    expected[:, :, :, 1:] = block
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_shows_where_it_has_weight_and_only_there(kind: Any, bad: float) -> None:
    block = np.ones((9, 9), np.float32)
    block[4, 4] = bad
    box = Box.of((9, 9))

    def affected(matrix: Any, order: int = 1) -> list[list[int]]:
        got = kind(block, box, matrix, box, order=order, fill=1)
        wrong = ~np.isfinite(got)
        assert np.array_equal(got[wrong], np.full(wrong.sum(), bad, np.float32), equal_nan=True)
        np.testing.assert_allclose(got[~wrong], 1, atol=1e-6)
        return np.argwhere(wrong).tolist()

    assert affected(Affine.translation(y=2).matrix) == [[2, 4]]
    # Whole along y, between two voxels along x: no neighbour above or below is touched.
    assert affected(Affine.translation(y=1, x=0.25).matrix) == [[3, 3], [3, 4]]
    assert affected(Affine.translation(y=0.5, x=0.5).matrix) == [[3, 3], [3, 4], [4, 3], [4, 4]]
    assert affected(np.array([[-1.0, 0, 8], [0, 1, 0], [0, 0, 1]])) == [[4, 4]]
    assert len(affected(Affine.rotation(0.3).matrix)) in range(2, 7)
    assert affected(Affine.translation(y=0.25, x=0.25).matrix, order=0) == [[4, 4]]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("order", [1, 3])
def test_a_fill_of_nan_marks_what_is_outside(kind: Any, order: int) -> None:
    block = np.random.default_rng(0).random((8, 8)).astype(np.float32)
    box = Box.of((8, 8))
    got = kind(block, box, Affine.translation(x=0.5, y=-2).matrix, box, order=order, fill=np.nan)
    inside = np.zeros((8, 8), bool)
    inside[2:, :7] = True
    np.testing.assert_array_equal(np.isfinite(got), inside)
    assert np.abs(got[inside]).max() < 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("order", [0, 1, 3])
def test_labels_stay_labels(kind: Any, order: int) -> None:
    mask = np.random.default_rng(0).random((6, 7)) > 0.5
    got = kind(mask, BOX, TURN, BOX, order=order, fill=True)
    plain = sample(mask.astype(np.uint8), BOX, TURN, BOX, order=0, fill=1)
    assert got.dtype == bool
    np.testing.assert_array_equal(got, plain.astype(bool))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("order", [0, 1, 3])
def test_nothing_to_read_and_nothing_to_make(kind: Any, order: int) -> None:
    for matrix in (TURN, SHIFT):
        nothing = kind(np.zeros((2, 0, 0), np.uint8), Box((3, 3), (3, 3)), matrix, BOX, order=order, fill=7.4)
        assert nothing.tolist() == np.full((2, 6, 7), 7).tolist()
        empty = kind(np.zeros((6, 7), np.uint8), BOX, matrix, Box((2, 2), (2, 5)), order=order)
        assert empty.shape == (0, 3)
        far = Affine.translation(y=1e300).matrix @ matrix
        assert (kind(np.zeros((6, 7)), BOX, far, BOX, order=order, fill=2) == 2).all()


@pytest.mark.parametrize("order", [0, 1, 3])
def test_strided_and_big_endian_blocks_and_outputs(order: int) -> None:
    rng = np.random.default_rng(0)
    block = rng.random((3, 6, 7)).astype(np.float32)
    expected = sample(block, BOX, TURN, BOX, order=order)
    for same in (block.astype(">f4"), np.asfortranarray(block), block[:, ::-1].copy()[:, ::-1]):
        np.testing.assert_array_equal(sample(same, BOX, TURN, BOX, order=order), expected)
    into = np.zeros((6, 7, 3), np.float32).transpose(2, 0, 1)
    assert sample(block, BOX, TURN, BOX, order=order, out=into) is into
    np.testing.assert_array_equal(into, expected)


def test_one_voxel_thin() -> None:
    """Axes of length one have no second neighbour; halfway to it is half fill."""
    block = np.full((1, 4, 1), 8, np.float32)
    matrix = np.eye(4)
    matrix[:-1, -1] = (0.5, 0, 0.25)
    got = sample(block, Box.of((1, 4, 1)), matrix, Box.of((1, 4, 1)))
    np.testing.assert_allclose(got, np.full((1, 4, 1), 8 * 0.5 * 0.75))
    line = sample(np.arange(5.0), Box.of((5,)), np.array([[0.5, 0.25], [0, 1]]), Box.of((10,)), fill=4)
    np.testing.assert_allclose(line, np.minimum(np.arange(10) * 0.5 + 0.25, 4))


def live(block: np.ndarray) -> torch.Tensor:
    """A tensor that the torch kernel samples."""
    tensor = torch.from_numpy(block)
    return tensor.requires_grad_() if tensor.is_floating_point() else tensor


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy, live])
def test_bad_arguments(kind: Any) -> None:
    block = np.zeros((6, 7), np.float32)
    mixed = np.eye(5) * 0.9
    mixed[:-1, :-1] += 0.01
    mixed[-1, -1] = 1
    with pytest.raises(OptionError, match="order=2"):
        sample(kind(block), BOX, TURN, BOX, order=2)
    with pytest.raises(ShapeMismatchError, match=r"\(6, 7\)"):
        sample(kind(block), Box.of((6, 8)), TURN, BOX)
    with pytest.raises(ShapeMismatchError):
        sample(kind(block), BOX, TURN, Box.of((6, 7, 8)))
    with pytest.raises(InvalidTransformError, match=r"\(3, 3\)"):
        sample(kind(block), BOX, np.eye(4), BOX)
    with pytest.raises(InvalidTransformError, match="NaN"):
        sample(kind(block), BOX, np.full((3, 3), np.nan), BOX)
    with pytest.raises(UnsupportedDTypeError, match="complex64"):
        sample(kind(block.astype(np.complex64)), BOX, TURN, BOX)
    with pytest.raises(ShapeMismatchError, match="3 at most"):
        sample(kind(np.zeros((2, 2, 2, 2))), Box.of((2,) * 4), mixed, Box.of((2,) * 4))


def test_bad_outputs_and_orders() -> None:
    block = np.zeros((6, 7), np.float32)
    with pytest.raises(ShapeMismatchError, match="out must"):
        sample(block, BOX, TURN, BOX, out=np.zeros((6, 7)))
    with pytest.raises(OptionError, match="order"):
        halo(5)
    assert [halo(order) for order in (0, 1, 3)] == [0, 0, 13]


@pytest.mark.slow
def test_arrays_are_sampled_without_torch() -> None:
    code = (
        "import sys, numpy as np; from daskreg.geometry import Box; from daskreg.kernels import sample;"
        "b = Box.of((4, 5)); m = np.array([[1, .1, 0], [0, 1, .5], [0, 0, 1]]);"
        "sample(np.ones((4, 5), 'f4'), b, m, b); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("source", ["f4", "f8", "f2"])
def test_cast_rounds_half_to_even_and_clamps(source: str) -> None:
    values = np.array([[-0.5, 0.5, 1.5], [2.5, -3, 300], [np.nan, np.inf, -np.inf]], source)
    got, clipped = cast(values, "u1")
    assert got.dtype == np.uint8
    assert got.tolist() == [[0, 0, 2], [2, 0, 255], [0, 255, 0]]
    assert clipped == 5


def test_cast_at_the_ends_of_wide_integers() -> None:
    for dtype in ("i4", "u4", "i8", "u8"):
        info = np.iinfo(dtype)
        beyond = np.array([info.min - 2.0**40, info.max + 2.0**40, info.min, 7.0])
        got, clipped = cast(beyond, dtype)
        assert [int(v) for v in got] == [info.min, info.max, info.min, 7]
        assert clipped == (2 if dtype not in ("i8", "u8") else clipped)
    assert cast(np.array([2.0**63], "f8"), "i8") == (np.array([2**63 - 1]), 1)
    assert cast(np.array([3e9], "f4"), "i4")[1] == 1
    assert cast(np.array([2**63 + 5], "u8"), "i8")[0].item() == 2**63 - 1


def test_cast_between_other_types() -> None:
    same = np.arange(4)
    assert cast(same, same.dtype)[0] is same
    narrow, clipped = cast(np.array([-1, 5, 70000]), "u2")
    assert (narrow.tolist(), clipped) == ([0, 5, 65535], 2)
    assert cast(np.array([0.2, 0.7, 3]), bool)[0].tolist() == [False, True, True]
    assert cast(np.array([True, False]), "f4")[0].tolist() == [1.0, 0.0]
    assert cast(np.array(2.5), "i2")[0].shape == ()
    big, clipped = cast(np.full(600_000, 300.0), "u1")
    assert (big.sum(), clipped) == (255 * 600_000, 600_000)
    with pytest.raises(UnsupportedDTypeError):
        cast(np.zeros(2, complex), "u1")
    with pytest.raises(UnsupportedDTypeError):
        cast(np.zeros(2), "U3")
