"""Displacement fields in Triton against the compiled kernel: on a GPU, or on a CPU with TRITON_INTERPRET=1."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from on_triton import INTERPRETED, NEEDS_TRITON, ON

from daskreg.geometry import Affine, Box, Grid
from daskreg.sampling import tensors, tensors_triton
from daskreg.sampling.displacements import Displaced, Displacement
from daskreg.sampling.sample import sample

pytestmark = [
    NEEDS_TRITON,
    pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning"),  # the interpreter's numpy
]

SHAPE = (9, 13, 17)
# What mixes no axes, so that only the last index of the nodes changes along a row, and what mixes all.
STRETCH = {2: np.diag([1.1, -0.9, 1.0]), 3: np.diag([0.8, 1.1, -0.9, 1.0])}
STRETCH[2][:2, 2], STRETCH[3][:3, 3] = (-1.3, 15.2), (1.1, -0.7, 15.2)
TURN = {
    2: Affine.from_parameters(theta=0.3, sx=1.04, tx=1.7, centre=(6, 8)).matrix,
    3: Affine.from_parameters({"rx": 0.2, "rz": 0.3, "tx": 1.5}, ndim=3, centre=(4, 6, 8)).matrix,
}


@pytest.fixture(autouse=True)
def triton_even_here(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("torch did the work")

    monkeypatch.setattr(tensors_triton, "ready_for_fields", lambda device: True)
    monkeypatch.setattr(tensors, "displaced_coordinates", refuse)
    if INTERPRETED:  # few programs
        monkeypatch.setattr(tensors_triton, "_ROWS", 32)
        monkeypatch.setattr(tensors_triton, "_FILTERED", 4096)


def step_of(ndim: int, order: int, into: np.ndarray, *, seed: int = 0) -> Displacement:
    """Through a field that ends inside of the image, on an oblique, anisotropic grid in a mirrored world."""
    grid = Grid((6, 7, 8)[-ndim:], (1.6, 2.1, 2.3)[-ndim:], (0.4, -1.2, 1.3)[-ndim:])
    vectors = np.random.default_rng(seed).uniform(-1.5, 1.5, (ndim, *grid.shape)).astype("f4")
    onward = Affine.from_parameters({"theta": -0.2} if ndim == 2 else {"ry": -0.2}, ndim=ndim).matrix
    return Displacement(into, grid.inverse_matrix, onward, vectors, (0,) * ndim, grid.shape, order)


def both(path: Displaced, block: np.ndarray, out: Box, order: int, **options: object) -> tuple[np.ndarray, np.ndarray]:
    read = Box.of(block.shape[block.ndim - out.ndim :])
    expected = sample(block, read, path, out, order=order, **options)
    options["clamp"] = options.pop("edge", "fill") == "clamp"
    found = tensors.sample_tensor(
        torch.from_numpy(block).to(ON), read, path, out, order=order, **{"fill": 0.0, **options}
    )
    return expected, found.cpu().numpy()


DTYPES = ["float32"] if INTERPRETED else ["uint8", "uint16", "int32", "float16", "float32", "float64"]


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("kind", [1, 3])
@pytest.mark.parametrize("way", [STRETCH, TURN], ids=["along rows", "oblique"])
def test_the_same_bits_as_on_the_cpu(ndim: int, kind: int, way: dict[int, np.ndarray]) -> None:
    path = Displaced((step_of(ndim, kind, way[ndim]),))
    shape = SHAPE[-ndim:]
    out = Box((3, -1, -1)[-ndim:], (5, 14, 19)[-ndim:])
    for dtype in DTYPES:
        block = (np.random.default_rng(1).random((2, *shape)) * 120).astype(dtype)
        for order in (0, 1):
            expected, found = both(path, block, out, order, fill=7.0)
            assert found.dtype == expected.dtype
            np.testing.assert_array_equal(found, expected)
            assert 0.3 < np.mean(expected != 7) < 1
            straight = sample(block, Box.of(shape), plain(path), out, order=order, fill=7.0)
            assert np.mean(straight != expected) > 0.1  # the field counts


def plain(path: Displaced) -> np.ndarray:
    """What is left of a path without its fields."""
    return np.linalg.multi_dot([np.eye(path.ndim + 1), *(step.direct for step in path.steps[::-1])])


@pytest.mark.parametrize("ndim", [2] if INTERPRETED else [2, 3])
def test_a_chain_of_fields_is_one_interpolation(ndim: int) -> None:
    first, second = step_of(ndim, 1, STRETCH[ndim]), step_of(ndim, 3, np.eye(ndim + 1), seed=1)
    shape = SHAPE[-ndim:]
    block = (np.random.default_rng(1).random(shape) * 120).astype("u2")
    out = Box((3, -1, -1)[-ndim:], (5, 14, 19)[-ndim:])
    for steps in ((first, second), (second, first)):
        for edge in ("fill", "clamp"):
            expected, found = both(Displaced(steps), block, out, 1, fill=7.0, edge=edge)
            np.testing.assert_array_equal(found, expected)


def test_cubic_is_the_cpus_up_to_rounding() -> None:
    block = (np.random.default_rng(1).random(SHAPE[1:]) * 120).astype("f4")
    expected, found = both(Displaced((step_of(2, 3, TURN[2]),)), block, Box((-1, -1), (14, 19)), 3, fill=7.0)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-4)


def test_a_part_reads_its_vectors_alone_and_has_the_same_bits() -> None:
    """Any cut of the output, with a crop of the nodes that it needs, far from the origin, of vectors in big-endian."""
    home = Affine.translation(y=-90_000, x=-100_000).matrix
    block = (np.random.default_rng(1).random(SHAPE[1:]) * 120).astype("f4")
    for way in (STRETCH[2], TURN[2]):
        step = step_of(2, 1, way @ home)
        out = Box((90_000, 100_000), (90_013, 100_017))
        whole = both(Displaced((step,)), block, out, 1)[1]
        half = Box((90_000, 100_009), out.stop)
        index = np.stack(np.meshgrid(*map(np.arange, half.start, half.stop), indexing="ij"), -1) @ step.across[:2, :2].T
        node = np.floor(index + step.across[:2, 2]).reshape(-1, 2)
        start = np.clip(node.min(0), 0, np.subtract(step.shape, 1)).astype(int)
        stop = np.clip(node.max(0) + 2, start + 1, step.shape).astype(int)
        assert np.any(start > 0) or np.any(stop < step.shape)
        crop = step.vectors[:, start[0] : stop[0], start[1] : stop[1]].astype(">f8")
        part = both(Displaced((replace(step, vectors=crop, start=tuple(start)),)), block, half, 1)[1]
        np.testing.assert_array_equal(part, whole[:, 9:])


def test_vectors_may_be_a_tensor_on_the_device() -> None:
    step = step_of(2, 1, TURN[2])
    block, out = (np.random.default_rng(1).random(SHAPE[1:]) * 120).astype("f4"), Box((0, 0), (13, 17))
    there = Displaced((replace(step, vectors=torch.from_numpy(step.vectors).to(ON)),))
    found = tensors.sample_tensor(torch.from_numpy(block).to(ON), Box.of(block.shape), there, out, order=1, fill=0.0)
    np.testing.assert_array_equal(found.cpu(), sample(block, Box.of(block.shape), Displaced((step,)), out, order=1))
