"""What runs on a GPU gives what the CPU gives. Skipped where there is none.

`DASKREG_TEST_ON=cpu` runs these tests on the CPU, to see that they are sound themselves.
"""

from __future__ import annotations

import logging
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from oracles import random_walk, residuals
from phantoms import blobs
from scipy import ndimage

import daskreg as dr
import daskreg.reg_torch as reg
from daskreg.clouds.cloud import Cloud
from daskreg.clouds.soft_correspondence import soft_correspondence_loss
from daskreg.errors import OptionError
from daskreg.geometry import Affine, Box, Grid, SliceAffines
from daskreg.registration.metrics import LOSSES
from daskreg.registration.normal_equations import equations_triton
from daskreg.registration.normal_equations.edge_weights import scaling
from daskreg.registration.normal_equations.equations import NormalEquationsNumba
from daskreg.registration.normal_equations.equations_torch import NormalEquationsTorch, NormalEquationsTriton
from daskreg.registration.pyramids import filters
from daskreg.registration.pyramids.pyramid import PyramidLevel, image_batch
from daskreg.runtime.device import resolve
from daskreg.sampling import tensors, tensors_triton
from daskreg.sampling.sample import sample
from daskreg.sampling.tile_pipeline import TilePipeline
from daskreg.sampling.tile_sampler import tile_sampler
from daskreg.sampling.tiles import Tile
from daskreg.stacks.pair_registration import phase_shifts

ON = "cuda" if torch.cuda.is_available() else os.environ.get("DASKREG_TEST_ON", "")
pytestmark = pytest.mark.skipif(not ON, reason="there is no GPU here")

TURN = Affine.from_parameters(theta=0.3, sx=1.04, tx=1.7, centre=(20, 25)).matrix
TILT = Affine.from_parameters({"rx": 0.2, "rz": 0.3, "tx": 1.5}, ndim=3, centre=(6, 20, 25)).matrix
DTYPES = ["bool", "uint8", "int16", "uint16", "int32", "uint32", "int64", "float16", "float32", "float64"]


def voxels(shape: tuple[int, ...], dtype: str, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).random(shape)
    return values > 0.5 if dtype == "bool" else (values * 120).astype(dtype)


def close(got: Any, expected: np.ndarray, order: int) -> None:
    """Orders 0 and 1 are the same to the last bit; cubic up to rounding, which may turn a half."""
    found = np.asarray(got)
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    if order < 3 or expected.dtype == bool:
        np.testing.assert_array_equal(found, expected)
    elif expected.dtype.kind == "f":
        atol = {2: 0.15, 4: 2e-4, 8: 2e-5}[expected.dtype.itemsize]
        np.testing.assert_allclose(found.astype("f8"), expected.astype("f8"), rtol=0, atol=atol)
    else:
        apart = np.abs(found.astype("f8") - expected.astype("f8"))
        assert apart.max() <= 1
        assert (apart > 0).mean() < 1e-2


def apart(a: Affine, b: Affine, grid: Grid) -> float:
    """Voxels between the images of the farthest corner."""
    ends = np.array(np.meshgrid(*[(0, n - 1) for n in grid.shape], indexing="ij")).reshape(grid.ndim, -1).T
    return float(np.linalg.norm(grid.index(a(grid.world(ends))) - grid.index(b(grid.world(ends))), axis=1).max())


# --- sampling -------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [0, 1, 3])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("matrix", [TURN, TILT], ids=["slices", "volume"])
def test_voxels_of_every_type(matrix: np.ndarray, dtype: str, order: int) -> None:
    for fill in (7.0, float("nan")) if dtype.startswith("float") else (7.0,):
        block = voxels((12, 40, 50), dtype)
        box = Box.of(block.shape[3 - len(matrix) + 1 :])
        out = Box(tuple(n // 5 for n in box.shape), tuple(n + 2 for n in box.shape))
        expected = sample(block, box, matrix, out, order=order, fill=fill)
        got = sample(torch.from_numpy(block).to(ON), box, matrix, out, order=order, fill=fill)
        assert got.device.type == ON
        close(got.cpu().numpy(), expected, order)


@pytest.mark.parametrize("order", [1, 3])
def test_voxels_that_are_not_finite_stay_where_they_are(order: int) -> None:
    block = voxels((40, 50), "float32")
    block[5, 7], block[20, 30], block[33, 11] = np.nan, np.inf, -np.inf
    box = Box.of(block.shape)
    expected = sample(block, box, TURN, box, order=order)
    got = sample(torch.from_numpy(block).to(ON), box, TURN, box, order=order).cpu().numpy()
    if order == 1:
        np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))
        np.testing.assert_array_equal(np.isinf(got), np.isinf(expected))
    both = np.isfinite(expected) & np.isfinite(got)
    np.testing.assert_allclose(got[both], expected[both], atol=2e-4)


def test_whole_steps_are_copies_and_bfloat16_is_known() -> None:
    block = voxels((3, 9, 8), "uint16")
    out = Box((2, -1), (11, 6))
    shift = Affine.translation(x=2, y=-3).matrix
    expected = sample(block, Box.of((9, 8)), shift, out, fill=5)
    np.testing.assert_array_equal(
        sample(torch.from_numpy(block).to(ON), Box.of((9, 8)), shift, out, fill=5).cpu().numpy(), expected
    )
    half = torch.from_numpy(voxels((40, 50), "float32")).to(torch.bfloat16)
    box = Box.of((40, 50))
    exact = sample(half.float().numpy(), box, TURN, box)
    np.testing.assert_allclose(sample(half.to(ON), box, TURN, box).float().cpu(), exact, atol=0.6)


@pytest.mark.parametrize("order", [1, 3])
def test_gradients_are_those_of_the_cpu(order: int) -> None:
    found = []
    for device in ("cpu", ON):
        block = torch.from_numpy(voxels((2, 20, 24), "float64")).to(device).requires_grad_()
        matrix = torch.from_numpy(np.stack([TURN, TURN @ Affine.translation(x=0.3).matrix])).to(device).requires_grad_()
        out = sample(block, Box.of((20, 24)), matrix, Box.of((18, 21)), order=order)
        (out * torch.linspace(0, 1, out.numel(), dtype=out.dtype, device=device).reshape(out.shape)).sum().backward()
        found.append((block.grad.cpu(), matrix.grad.cpu()))
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9 * float(a.abs().max()))


def test_triton_takes_over_and_torch_does_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    if ON == "cuda":
        assert tensors_triton.ready(torch.device("cuda", 0))
    for dtype in ("uint8", "uint16", "float32"):
        block = voxels((12, 40, 50), dtype)
        for matrix, order in ((TURN, 0), (TILT, 0), (TURN, 1), (TILT, 1), (TILT, 3)):
            box = Box.of(block.shape[4 - len(matrix) :])
            found = []
            for ready in (tensors_triton.ready, lambda device: False):
                monkeypatch.setattr(tensors_triton, "ready", ready)
                found.append(sample(torch.from_numpy(block).to(ON), box, matrix, box, order=order).cpu().numpy())
            monkeypatch.undo()
            if order == 0:
                np.testing.assert_array_equal(*found)
            np.testing.assert_allclose(*(f.astype("f8") for f in found), atol=1 if dtype[0] == "u" else 2e-4)


def test_pieces_of_a_large_output(monkeypatch: pytest.MonkeyPatch) -> None:
    block = torch.from_numpy(voxels((12, 40, 50), "float32")).to(ON)
    whole = sample(block, Box.of(block.shape), TILT, Box.of((12, 44, 51)))
    monkeypatch.setattr(tensors, "_PIECE", 5000)
    assert torch.equal(sample(block, Box.of(block.shape), TILT, Box.of((12, 44, 51))), whole)


# --- tiles on their way ---------------------------------------------------------------------


def tiles(shape: tuple[int, ...], matrix: np.ndarray, dtype: str, order: int, count: int) -> list[Tile]:
    read = Box.of(shape[len(shape) - len(matrix) + 1 :])
    steps = [np.eye(len(matrix)) for _ in range(count)]
    for k, step in enumerate(steps):
        step[:-1, -1] = 0.37 * k
    out = Box((0,) * len(read.shape), read.shape)
    return [Tile(voxels(shape, dtype, k), read, matrix @ step, out, order, 7.0) for k, step in enumerate(steps)]


def alone(piece: Tile) -> Any:
    return sample(piece.block, piece.read_box, piece.matrix, piece.out_box, order=piece.order, fill=piece.fill)


@pytest.mark.parametrize("order", [0, 1, 3])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("matrix", [TURN, TILT], ids=["slices", "volume"])
def test_many_tiles_in_three_streams(matrix: np.ndarray, dtype: str, order: int) -> None:
    """What was given may be overwritten at once, and every round gives the same bits."""
    pieces = tiles((12, 90, 110), matrix, dtype, order, 9)
    expected = [alone(p) for p in pieces]
    rounds = []
    for _ in range(2):
        pipeline = TilePipeline(torch.device(ON), tile_bytes=60_000)
        outs = [np.full_like(e, 99) for e in expected]
        for piece, out in zip(pieces, outs, strict=True):
            block = piece.block.copy()
            pipeline.put(Tile(block, piece.read_box, piece.matrix, piece.out_box, order, 7.0), out)
            block[...] = 111
        pipeline.finish()
        rounds.append(outs)
    for a, b, e in zip(*rounds, expected, strict=True):
        np.testing.assert_array_equal(a, b)
        close(a, e, order)


def test_large_tiles_that_overlap() -> None:
    """Copies and work of tiles that take milliseconds, with results that go into parts of an array."""
    block = voxels((160, 256, 256), "float32")
    wide = np.zeros((*block.shape, 2), "float32")
    tilt = Affine.from_parameters({"rx": 0.1, "rz": 0.2}, ndim=3, centre=(80, 128, 128)).matrix
    with tile_sampler(ON) as sampler:
        box = Box.of(block.shape)
        sampler.put(Tile(block, box, tilt, box, 1, 0.0), wide[..., 0])
        sampler.put(Tile(block.transpose(0, 2, 1), Box.of((160, 256, 256)), tilt, box, 1, 0.0), wide[..., 1])
    np.testing.assert_allclose(wide[..., 0], sample(block, box, tilt, box), atol=2e-4)
    np.testing.assert_allclose(
        wide[..., 1], sample(np.ascontiguousarray(block.transpose(0, 2, 1)), box, tilt, box), atol=2e-4
    )


@pytest.mark.parametrize("order", [1, 3])
def test_a_card_without_memory_is_given_halves(order: int, caplog: pytest.LogCaptureFixture) -> None:
    if ON != "cuda":
        pytest.skip("a CPU is not limited")
    block = voxels((128, 160, 160), "float32")
    box = Box.of(block.shape)
    tilt = Affine.from_parameters({"rx": 0.1, "rz": 0.2}, ndim=3, centre=(64, 80, 80)).matrix
    expected, out = sample(block, box, tilt, box, order=order), np.full(block.shape, 99, "float32")
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    try:
        allowed = 25e6 if order == 1 else 40e6  # a whole tile takes 13 MB, there and back, and its spline 60
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + allowed) / total)
        with caplog.at_level(logging.WARNING):
            pipeline = TilePipeline(torch.device(ON), tile_bytes=1 << 30)
            pipeline.put(Tile(block, box, tilt, box, order, 0.0), out)
            pipeline.finish()
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
    assert "half of the tile" in caplog.text
    np.testing.assert_allclose(out, expected, atol=2e-4)


# --- warp and write -------------------------------------------------------------------------


def drift(n: int) -> SliceAffines:
    rng = np.random.default_rng(0)
    return SliceAffines(
        np.stack(
            [
                Affine.from_parameters(theta=t, tx=x, ty=y, centre=(48, 60)).matrix
                for t, x, y in zip(rng.normal(0, 0.1, n), rng.normal(0, 4, n), rng.normal(0, 4, n), strict=True)
            ]
        )
    )


SHAPE = (13, 97, 120)
PULLS = {"drift": drift(13), "tilt": Affine.from_parameters({"rx": 0.15, "tz": 1.2}, ndim=3, centre=(6, 48, 60))}


@pytest.mark.parametrize("order", [0, 1, 3])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("pull", PULLS)
def test_warp(pull: str, dtype: str, order: int) -> None:
    values = voxels(SHAPE, dtype)
    found = [dr.warp(values, pull=PULLS[pull], order=order, fill=3, device=d) for d in ("cpu", ON)]
    close(np.asarray(found[1]), np.asarray(found[0]), order)


def test_warp_of_a_tensor_stays_where_it_is() -> None:
    values = torch.from_numpy(voxels((3, 40, 50), "float32")).to(ON).requires_grad_()
    found = dr.warp(values, pull=Affine(TURN), order=1)
    assert found.device.type == ON
    found.sum().backward()
    assert values.grad is not None
    expected = np.asarray(dr.warp(values.detach().cpu().numpy(), pull=Affine(TURN), device="cpu"))
    close(dr.warp(values.detach(), pull=Affine(TURN)).cpu().numpy(), expected, 1)
    np.testing.assert_allclose(found.detach().cpu(), expected, atol=1e-3)  # with a gradient, in float32


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    path = tmp_path / "in.zarr"
    values = (ndimage.gaussian_filter(np.random.default_rng(4).random(SHAPE), 1) * 60_000).astype(np.uint16)
    zarr.create_array(path, shape=SHAPE, chunks=(4, 32, 48), dtype="u2")[:] = values
    return path


def test_workers_with_a_gpu_write_what_cpus_write(tmp_path: Path, stored: Path) -> None:
    options: dict[str, Any] = {"chunks": (4, 32, 48), "progress": False}
    for name, pull in PULLS.items():
        dr.write(dr.warp(dr.open(stored), pull=pull, device="cpu"), tmp_path / f"{name}-cpu.zarr", **options)
        dr.write(dr.warp(dr.open(stored), pull=pull, device=ON), tmp_path / f"{name}-here.zarr", **options)
    for workers in (1, 2):
        with dr.connect(workers=workers, device=ON) as client:
            assert {d.partition(":")[0] for d in client.run(lambda: resolve("auto")).values()} == {ON}
            if ON == "cuda":
                seen = client.run(lambda: os.environ["CUDA_VISIBLE_DEVICES"])
                assert len(set(seen.values())) == 1
                found = client.scheduler_info(n_workers=-1)["workers"].values()
                assert all(w["resources"].get("GPU") == w["nthreads"] for w in found)
            for name, pull in PULLS.items():
                for device in (ON, "auto"):
                    path = tmp_path / f"{name}-{workers}-{device}.zarr"
                    dr.write(dr.warp(dr.open(stored), pull=pull, device=device), path, client=client, **options)
                    again = dr.write(dr.warp(dr.open(stored), pull=pull, device="cpu"), path, client=client, **options)
                    assert again.blocks == 0  # a device is no part of what a block is
                    cpu = zarr.open_array(tmp_path / f"{name}-cpu.zarr" / "0", mode="r")[:]
                    close(zarr.open_array(path / "0", mode="r")[:], cpu, 1)
    for name in PULLS:
        close(
            zarr.open_array(tmp_path / f"{name}-here.zarr" / "0", mode="r")[:],
            zarr.open_array(tmp_path / f"{name}-cpu.zarr" / "0", mode="r")[:],
            1,
        )


def test_a_gpu_that_is_not_there_is_named() -> None:
    if ON == "cuda":
        with pytest.raises(Exception, match="cuda:77"):
            dr.register(blobs((40, 44)), blobs((40, 44)), device="cuda:77")
        with pytest.raises(OptionError, match="cuda:77.*has .* CUDA devices"):
            dr.warp(blobs((40, 44)), pull=Affine.translation(x=0.5), device="cuda:77")


# --- registration ---------------------------------------------------------------------------


def pair(shape: tuple[int, ...], seed: int = 0, *, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray, Affine]:
    grid = Grid(shape)
    named = {"theta": 0.12, "tx": 5.0, "ty": -3.0} if len(shape) == 2 else {"rx": 0.08, "rz": -0.1, "tx": 3.0, "tz": 1}
    truth = Affine.from_parameters(
        {k: v * scale for k, v in named.items()} | {"sx": 1.03}, ndim=len(shape), centre=grid.centre
    )
    rng = np.random.default_rng(seed)
    texture = ndimage.gaussian_filter(rng.standard_normal(shape), 2.5)
    image = (blobs(shape, seed=seed, count=25) + 0.3 * texture / texture.std()).astype("f4")
    return image, np.asarray(dr.warp(image, push=truth, order=3, fill=np.nan, device="cpu")), truth


@pytest.mark.parametrize("model", ["translation", "rigid", "similarity", "affine"])
@pytest.mark.parametrize("shape", [(150, 181), (44, 60, 52)])
def test_register_as_on_the_cpu(shape: tuple[int, ...], model: str) -> None:
    fixed, moving, truth = pair(shape)
    fits = [dr.register(fixed, moving, model=model, device=d) for d in ("cpu", ON)]
    assert apart(fits[0].moving_from_fixed, fits[1].moving_from_fixed, Grid(shape)) < 0.02
    assert fits[0].status == fits[1].status
    np.testing.assert_allclose(fits[1].score, fits[0].score, atol=2e-3)
    np.testing.assert_allclose(np.diag(fits[1].covariance), np.diag(fits[0].covariance), rtol=0.1)
    if model == "affine":
        assert apart(fits[1].moving_from_fixed, truth, Grid(shape)) < 0.05


@pytest.mark.parametrize("metric", ["mse", "mae", "lncc", "mi"])
@pytest.mark.parametrize("shape", [(150, 181), (44, 60, 52)])
def test_other_metrics(shape: tuple[int, ...], metric: str) -> None:
    fixed, moving, truth = pair(shape)
    fit = dr.register(fixed, moving, metric=metric, device=ON)
    assert apart(fit.moving_from_fixed, truth, Grid(shape)) < 0.3
    assert fit.ok


@pytest.mark.parametrize("shape", [(150, 181), (44, 60, 52)])
def test_initial_poses_masks_and_fill(shape: tuple[int, ...]) -> None:
    fixed, moving, truth = pair(shape)
    filled = np.nan_to_num(moving)
    mask = np.ones(shape, bool)
    mask[..., :9] = False
    for options in ({"init": "search"}, {"init": "phase"}, {"init": "moments"}, {"fixed_mask": mask}):
        found = [dr.register(fixed, filled, device=d, **options) for d in ("cpu", ON)]
        assert apart(found[0].moving_from_fixed, found[1].moving_from_fixed, Grid(shape)) < 0.05, options
        assert apart(found[1].moving_from_fixed, truth, Grid(shape)) < 0.2, options


def test_noise_and_large_images() -> None:
    """Above 2**18 voxels a subset of them is solved first; noise is smoothed."""
    rng = np.random.default_rng(1)
    for shape in ((700, 640), (72, 90, 80)):
        fixed, moving, truth = pair(shape)
        fixed = fixed + 0.1 * rng.standard_normal(shape).astype("f4")
        moving = np.nan_to_num(moving) + 0.1 * rng.standard_normal(shape).astype("f4")
        fits = [dr.register(fixed, moving, device=d) for d in ("cpu", ON)]
        assert apart(fits[0].moving_from_fixed, fits[1].moving_from_fixed, Grid(shape)) < 0.05
        assert apart(fits[1].moving_from_fixed, truth, Grid(shape)) < 0.3


def test_optimizers_callables_and_the_inverse() -> None:
    fixed, moving, truth = pair((150, 181))

    def loss(f: torch.Tensor, w: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        assert f.device.type == w.device.type == weight.device.type == ON
        return ((f - w).square() * weight).sum() / weight.sum()

    for options in ({"optimizer": "adam"}, {"optimizer": "lbfgs"}, {"metric": loss}):
        fit = dr.register(fixed, moving, device=ON, **options)
        assert apart(fit.moving_from_fixed, truth, Grid(fixed.shape)) < 0.3, options
    both = dr.register(fixed, moving, device=ON, check_inverse=True)
    assert both.inverse_error < 0.05


def test_the_same_twice_and_what_a_fit_can_do() -> None:
    fixed, moving, _ = pair((44, 60, 52))
    tensors = [torch.from_numpy(v).to(ON) for v in (fixed, moving)]
    one, other = dr.register(fixed, moving, device=ON), dr.register(*tensors, device=ON)
    np.testing.assert_array_equal(one.moving_from_fixed.matrix, other.moving_from_fixed.matrix)
    assert pickle.loads(pickle.dumps(one)).parameters == one.parameters
    import matplotlib.pyplot as plt

    plt.close(one.plot())


def test_many_pairs() -> None:
    shape, grid = (90, 110), Grid((90, 110))
    some = [pair(shape, seed=k, scale=3.0 if k == 3 else 0.5) for k in range(9)]
    fixed, moving = np.stack([s[0] for s in some]), np.stack([s[1] for s in some])
    cpu, gpu = (dr.register_many(fixed, moving, device=d) for d in ("cpu", ON))
    for a, b, (_, _, truth) in zip(cpu, gpu, some, strict=True):
        assert b.ok
        assert apart(a.moving_from_fixed, b.moving_from_fixed, grid) < 0.02
        assert apart(b.moving_from_fixed, truth, grid) < 0.05


@pytest.mark.parametrize("reference", ["neighbors", "previous", "first", 3, "mean"])
def test_stacks(reference: str | int) -> None:
    shape, n = (96, 112), 10
    truth = random_walk(n, shape, step=1.5, turn=1.0, seed=1)
    base = blobs(shape, count=30) + 0.2 * ndimage.gaussian_filter(np.random.default_rng(0).normal(size=shape), 2)
    slices = [dr.warp(base.astype("f4"), pull=Affine(np.linalg.inv(m)), order=3, device="cpu") for m in truth]
    fit = dr.align_stack(np.stack([np.asarray(s) for s in slices]), reference=reference, device=ON)
    assert fit.ok
    assert residuals(fit.raw_from_aligned.matrices, truth, shape)["all"] < 0.05


def test_a_stack_by_workers_with_a_gpu(tmp_path: Path) -> None:
    shape, n = (96, 112), 12
    truth = random_walk(n, shape, step=1.5, turn=1.0, seed=1)
    base = blobs(shape, count=30)
    stack = np.stack([np.asarray(dr.warp(base, pull=Affine(np.linalg.inv(m)), order=3, device="cpu")) for m in truth])
    zarr.create_array(tmp_path / "s.zarr", shape=stack.shape, chunks=(4, 96, 112), dtype="f4")[:] = stack
    here = dr.align_stack(dr.open(tmp_path / "s.zarr"), device=ON)
    with dr.connect(workers=2, device=ON) as client:
        there = dr.align_stack(dr.open(tmp_path / "s.zarr"), device=ON, client=client)
    np.testing.assert_allclose(there.raw_from_aligned.matrices, here.raw_from_aligned.matrices, atol=5e-3)
    assert residuals(there.raw_from_aligned.matrices, truth, shape)["all"] < 0.05


# --- the parts of registration ---------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 37, 50), (2, 13, 41, 30), (1, 1, 70, 33), (2, 300, 257)], ids=str)
@pytest.mark.parametrize("masked", [False, True])
def test_filters_keep_their_digits(shape: tuple[int, ...], masked: bool) -> None:
    """Convolutions of a GPU have ten bits of mantissa unless told otherwise."""
    rng = np.random.default_rng(3)
    values = torch.from_numpy((5 + rng.standard_normal(shape)).astype("f4"))
    weight = torch.from_numpy(np.clip(rng.standard_normal(shape) + 0.7, 0, 1).astype("f4")) if masked else None
    there = values.to(ON), None if weight is None else weight.to(ON)
    factors = [1 if n == 1 else 2 for n in shape[1:]]
    sigmas = [0.0 if n == 1 else 0.7 + axis for axis, n in enumerate(shape[1:])]
    mean, variance = filters.mean_and_variance(values, weight)
    found = [
        (filters.mean_and_variance(v, w), filters.scaled(v, w, mean.to(v.device), variance.to(v.device)),
         filters.block_means(v, w, factors), filters.smoothed(v, w, sigmas), filters.mean_square_gradient(v, w, 2))
        for v, w in ((values, weight), there)
    ]  # fmt: skip
    for a, b in zip(*(list(flattened(f)) for f in found), strict=True):
        assert b.device.type == ON
        np.testing.assert_allclose(b.cpu(), a, rtol=1e-5, atol=1e-5)
    mask = values > 6.5
    assert torch.equal(filters.dilated(mask.to(ON), 2).cpu(), filters.dilated(mask, 2))


def flattened(parts: Any) -> Any:
    for part in parts:
        if isinstance(part, tuple):
            yield from flattened(part)
        elif part is not None:
            yield part


@pytest.mark.parametrize("shapes", [((40, 50), (44, 30)), ((10, 12, 14), (12, 9, 20)), ((70, 80, 90), (70, 80, 90))])
@pytest.mark.parametrize("masked", [False, True])
def test_sums_of_a_step(shapes: Any, masked: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    ndim = len(shapes[0])
    values = [torch.randn((3, *s), generator=generator) for s in shapes]
    masks = [torch.rand((3, *s), generator=generator) > 0.1 if masked else None for s in shapes]
    maps = torch.eye(ndim + 1, dtype=torch.float64)[:ndim].repeat(3, 1, 1)
    maps = maps + 0.05 * torch.randn(maps.shape, generator=generator, dtype=torch.float64)
    at = maps.numpy() @ scaling(shapes[0])
    found: list[Any] = []
    compiled = [(ON, NormalEquationsTriton)] if ON == "cuda" else []
    if compiled:
        assert equations_triton.ready(torch.device("cuda", 0))
    for device, normal in [("cpu", NormalEquationsNumba), (ON, NormalEquationsTorch), *compiled]:
        batches = [
            image_batch(v.to(device), Grid(v.shape[1:]), None if m is None else m.to(device))
            for v, m in zip(values, masks, strict=True)
        ]
        found.append(normal(PyramidLevel(*batches, 1.0)))
    for index in (np.arange(3), np.array([0, 2])):
        a, *others = (f.take(index)(at[index]) for f in found)
        for b in others:
            for name in ("scalars", "j", "jw", "jd", "jj"):
                x, y = getattr(a, name), getattr(b, name)
                np.testing.assert_allclose(y, x, atol=2e-4 * np.abs(x).max(), err_msg=name)
    a, *others = (f.subsampled(0.3)(at) for f in found[1:])
    for b in others:
        np.testing.assert_allclose(b.jj, a.jj, atol=2e-4 * np.abs(a.jj).max())
        np.testing.assert_allclose(b.scalars, a.scalars, atol=2e-4 * np.abs(a.scalars).max())
    if compiled:  # maps that are not numbers read nothing, and count nowhere
        lost = found[-1](np.full_like(at, np.nan))
        np.testing.assert_array_equal(lost.scalars[:, 0], 0)


def test_without_triton_torch_does_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    fixed, moving, truth = pair((150, 181))
    one = dr.register(fixed, moving, device=ON)
    monkeypatch.setattr(equations_triton, "ready", lambda device: False)
    other = dr.register(fixed, moving, device=ON)
    assert apart(one.moving_from_fixed, other.moving_from_fixed, Grid(fixed.shape)) < 0.01
    assert apart(other.moving_from_fixed, truth, Grid(fixed.shape)) < 0.05


@pytest.mark.parametrize("name", LOSSES)
def test_losses_and_their_gradients(name: str) -> None:
    generator = torch.Generator().manual_seed(4)
    fixed = torch.randn((2, 20, 24), generator=generator)
    warped = fixed + 0.5 * torch.randn(fixed.shape, generator=generator)
    weight = (torch.rand(fixed.shape, generator=generator) > 0.2).float()
    found = []
    for device in ("cpu", ON):
        w = warped.clone().to(device).requires_grad_()
        loss = LOSSES[name](fixed.to(device), w, weight.to(device))
        loss.sum().backward()
        found.append((loss.detach().cpu(), w.grad.cpu()))
    np.testing.assert_allclose(found[1][0], found[0][0], atol=1e-5)
    np.testing.assert_allclose(found[1][1], found[0][1], atol=1e-4 * float(found[0][1].abs().max()))


def test_phases() -> None:
    image = blobs((60, 70), count=30)
    moved = np.roll(image, (4, -6), (0, 1))
    there = [image_batch(torch.from_numpy(v)[None].to(ON), Grid(image.shape)) for v in (image, moved)]
    np.testing.assert_array_equal(phase_shifts(*there, 1)[0, 0], (4, -6))


# --- point clouds and the drop-in --------------------------------------------------------------


def test_nearest_points_are_the_trees() -> None:
    rng = np.random.default_rng(0)
    points, asked = rng.random((9000, 3)), rng.random((5000, 3))
    (a, i), (b, j) = (Cloud(points, d).nearest(asked) for d in ("cpu", ON))
    np.testing.assert_array_equal(i, j)
    np.testing.assert_allclose(a, b, atol=1e-14)


@pytest.mark.parametrize("surface", [False, True])
def test_icp(surface: bool) -> None:
    rng = np.random.default_rng(0)
    points = rng.random((3000, 3))
    if surface:
        points[:, 2] = 0.2 * np.sin(5 * points[:, 0]) * np.cos(4 * points[:, 1])
    turn = Affine.from_parameters({"rx": 0.2, "rz": 0.4}, ndim=3).linear
    moved = rng.permutation(points @ turn.T + [0.5, -0.2, 0.1] + 0.002 * rng.normal(size=points.shape))
    fits = [dr.icp(points, moved, device=d) for d in ("cpu", ON)]
    np.testing.assert_allclose(fits[1].rotation, fits[0].rotation, atol=1e-4)
    np.testing.assert_allclose(fits[1].translation, fits[0].translation, atol=1e-4)
    np.testing.assert_allclose(fits[1].rotation, turn.T, atol=0.01)


def test_a_soft_loss_of_clouds() -> None:
    rng = np.random.default_rng(0)
    target, moved = rng.random((500, 3)), rng.random((400, 3))
    found = []
    for device in ("cpu", ON):
        m = torch.from_numpy(moved).to(device).requires_grad_()
        loss = soft_correspondence_loss(torch.from_numpy(target).to(device), m, sigma=0.1, tile=128)
        loss.backward()
        found.append((loss.detach().cpu(), m.grad.cpu()))
    np.testing.assert_allclose(found[1][0], found[0][0], rtol=1e-12)
    np.testing.assert_allclose(found[1][1], found[0][1], atol=1e-12)


def test_the_drop_in() -> None:
    fixed, moving, _ = pair((150, 181))
    moving = np.nan_to_num(moving)
    tensor = reg.to_tensor2d(fixed)
    assert tensor.device.type == ON
    for ref, mov in ((fixed, moving), (tensor, reg.to_tensor2d(moving))):
        warped, found = reg.register_affine_2d(ref, mov, device=torch.device(ON))
        assert isinstance(warped, np.ndarray)
        assert np.corrcoef(warped[20:-20, 20:-20].ravel(), fixed[20:-20, 20:-20].ravel())[0, 1] > 0.99
    theta = reg.build_affine_matrix(
        *(torch.tensor(v, device=ON, requires_grad=True) for v in (0.2, 0.1, 0.0, 1.0, 1.1, 0.0, 0.0)),
        ON,
        torch.float32,
    )
    assert theta.device.type == ON
    theta.sum().backward()
    assert float(reg.NCC()(tensor, tensor)) < 1e-3
    volume = np.stack([fixed] * 3)
    found = reg.warp_volume_xy_batched(volume, reg.registering_matrix(found)[0].numpy(), device=torch.device(ON))
    np.testing.assert_allclose(found[1], found[0], atol=0)
    small = blobs((30, 36, 32), count=20)
    shifted = np.roll(small, 2, axis=2)
    _, motion = reg.register_affine_3d(small, shifted, order=("trans",), device=ON)
    assert motion["tx"] == pytest.approx(2 * 2 / 32, abs=0.01)
    a = np.random.default_rng(0).random((400, 3))
    _, rotation, _ = reg.icp_torch(torch.from_numpy(a).to(ON), torch.from_numpy(a[:, :] + 0.1).to(ON))
    np.testing.assert_allclose(rotation, np.eye(3), atol=1e-3)
