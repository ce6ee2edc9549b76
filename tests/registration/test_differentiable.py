"""The public pieces together: pose to matrix, sample, metric; gradients by finite differences."""

from __future__ import annotations

import pytest
import torch

from daskreg import kernels
from daskreg.geometry import Box
from daskreg.kernels import Pose, lncc, mae, mi, mse, ncc, sample

pytestmark = pytest.mark.slow

METRICS = {"ncc": ncc, "mse": mse, "mae": mae, "lncc": lncc, "mi": mi}
SHAPES = {2: (9, 11), 3: (6, 7, 8)}
MODELS = ("translation", "rigid", "similarity", "affine", ("rotation", "translation", "shear"))


def images(ndim: int, *, batch: int = 1, seed: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Fixed and moving (B, *shape) that are related, and a weight with a hole, float64."""
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, *SHAPES[ndim])
    fixed = torch.randn(shape, generator=generator, dtype=torch.float64)
    moving = fixed + 0.4 * torch.randn(shape, generator=generator, dtype=torch.float64)
    weight = 0.5 + 0.5 * torch.rand(shape, generator=generator, dtype=torch.float64)
    weight[..., 2:4, 1:3] = 0
    return fixed, moving, weight


def start(pose: Pose, *, batch: int = 1) -> torch.Tensor:
    """Parameters off identity, and off the voxel grid, where linear interpolation has its kinks."""
    generator = torch.Generator().manual_seed(7)
    p = pose.identity(batch)
    return (p + 0.037 + 0.02 * torch.rand(p.shape, generator=generator, dtype=torch.float64)).requires_grad_()


def centre(ndim: int) -> list[float]:
    return [(n - 1) / 2 for n in SHAPES[ndim]]


def test_the_pieces_are_public() -> None:
    for name in ("Pose", "sample", *METRICS):
        assert name in kernels.__all__
        assert getattr(kernels, name).__doc__


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("ndim", [2, 3])
def test_metrics_in_everything_they_take(name: str, ndim: int) -> None:
    fixed, moving, weight = images(ndim, batch=2)
    assert torch.autograd.gradcheck(
        lambda f, m: METRICS[name](f, m, weight), (fixed.requires_grad_(), moving.requires_grad_()), fast_mode=True
    )
    shown = weight.clamp_min(0.1).requires_grad_()  # where a weight is zero, mi's range ends
    assert torch.autograd.gradcheck(lambda w: METRICS[name](fixed, moving, w).sum(), shown, fast_mode=True)


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("order", [1, 3])
def test_from_parameters_to_the_loss(name: str, ndim: int, order: int) -> None:
    fixed, moving, weight = images(ndim)
    pose, box = Pose.of("affine", ndim), Box.of(SHAPES[ndim])

    def loss(p: torch.Tensor, voxels: torch.Tensor) -> torch.Tensor:
        matrix = pose.matrices(p, centre(ndim))
        return METRICS[name](fixed, sample(voxels, box, matrix, box, order=order), weight)

    # In one step of a difference no voxel may enter the range of mi, whose ends are not smooth.
    assert torch.autograd.gradcheck(loss, (start(pose), moving.requires_grad_()), fast_mode=True, atol=2e-5)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("model", MODELS, ids=str)
def test_models(model: str | tuple[str, ...], ndim: int) -> None:
    """Every model's parameters, for a batch of pairs with a matrix each."""
    fixed, moving, weight = images(ndim, batch=2)
    pose, box = Pose.of(model, ndim), Box.of(SHAPES[ndim])

    def loss(p: torch.Tensor) -> torch.Tensor:
        return ncc(fixed, sample(moving, box, pose.matrices(p, centre(ndim)), box), weight)

    assert torch.autograd.gradcheck(loss, start(pose, batch=2))


@pytest.mark.parametrize("ndim", [2, 3])
def test_second_derivatives_of_poses(ndim: int) -> None:
    pose = Pose.of("affine", ndim)
    assert torch.autograd.gradgradcheck(lambda p: pose.matrices(p, centre(ndim)), start(pose), fast_mode=True)
