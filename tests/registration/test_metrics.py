"""Metrics as losses: by their definitions, and differentiable."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from daskreg.errors import OptionError
from daskreg.registration import metrics
from daskreg.registration.metrics import LOSSES, loss_of, mi
from daskreg.runtime.threads import use_threads


def images(batch=2, shape=(12, 14), dtype=torch.float64):
    generator = torch.Generator().manual_seed(4)
    fixed = torch.randn((batch, *shape), generator=generator, dtype=dtype)
    warped = fixed + 0.5 * torch.randn((batch, *shape), generator=generator, dtype=dtype)
    weight = (torch.rand((batch, *shape), generator=generator, dtype=dtype) > 0.2).to(dtype)
    return fixed, warped, weight


def test_global_metrics_are_what_numpy_says():
    fixed, warped, weight = images()
    for k in range(len(fixed)):
        f, w = (t[k][weight[k] > 0].numpy() for t in (fixed, warped))
        one = [t[k : k + 1] for t in (fixed, warped, weight)]
        assert LOSSES["mse"](*one).item() == pytest.approx(np.mean((f - w) ** 2))
        assert LOSSES["mae"](*one).item() == pytest.approx(np.mean(np.abs(f - w)))
        assert LOSSES["ncc"](*one).item() == pytest.approx(1 - np.corrcoef(f, w)[0, 1])


@pytest.mark.parametrize("name", ["ncc", "lncc", "mi"])
def test_gain_and_offset_change_nothing(name):
    fixed, warped, weight = images()
    np.testing.assert_allclose(
        LOSSES[name](fixed, 3 * warped - 2, weight), LOSSES[name](fixed, warped, weight), rtol=1e-6
    )


def test_mutual_information_of_another_modality_and_of_noise():
    fixed, _, weight = images(1, (64, 64))
    other = fixed.square()  # no correlation, all the information
    noise = torch.randn(fixed.shape, generator=torch.Generator().manual_seed(9), dtype=fixed.dtype)
    assert abs(LOSSES["ncc"](fixed, other, weight).item() - 1) < 0.2
    assert mi(fixed, other, weight, bins=32).item() < -0.7
    assert LOSSES["mi"](fixed, other, weight).item() < -0.3
    assert LOSSES["mi"](fixed, noise, weight).item() > -0.1
    assert LOSSES["lncc"](fixed, fixed, weight).item() < 0.01


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("shape", [(7, 8), (4, 5, 6)])
def test_gradients(name, shape):
    fixed, warped, weight = images(1, shape)
    assert torch.autograd.gradcheck(lambda w: LOSSES[name](fixed, w, weight), warped.requires_grad_())


@pytest.mark.parametrize("name", LOSSES)
def test_what_is_masked_does_not_count(name):
    fixed, warped, weight = images(1, (24, 24))
    other = torch.where(weight > 0, warped, warped + 7)
    np.testing.assert_allclose(LOSSES[name](fixed, other, weight), LOSSES[name](fixed, warped, weight), atol=1e-9)


def test_names():
    assert loss_of(LOSSES["ncc"]) is LOSSES["ncc"]
    with pytest.raises(OptionError, match="lncc, mi"):
        loss_of("sharpness")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_compiled_joint_histogram_is_that_of_torch(dtype):
    generator = torch.Generator().manual_seed(2)
    fixed, warped = (1 + 18 * torch.rand((2, 70_000), generator=generator, dtype=dtype) for _ in range(2))
    weight = torch.rand((2, 70_000), generator=generator, dtype=dtype).clamp_min(0.3) - 0.3
    slope = torch.randn((2, 22, 22), generator=generator, dtype=dtype)
    found = []
    for joint in (metrics._joint, metrics._Joint.apply):
        leaves = [t.clone().requires_grad_() for t in (fixed, warped, weight)]
        table = joint(*leaves, 22)
        table.backward(slope)
        found.append([table.detach(), *(t.grad for t in leaves)])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3 if dtype == torch.float32 else 1e-9, atol=1e-4)


def test_threads_change_no_bit_of_mutual_information():
    generator = torch.Generator().manual_seed(2)
    fixed, warped, weight = (torch.rand((1, 300, 400), generator=generator) for _ in range(3))
    found = []
    for threads in (1, 2, 3):
        leaf = warped.clone().requires_grad_()
        with use_threads(threads):
            loss = mi(fixed, leaf, weight)
            loss.sum().backward()
        found.append((loss.detach(), leaf.grad))
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))
