"""Poses: the numpy parameters are the oracle, autograd that of the derivatives."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from daskreg.errors import OptionError
from daskreg.geometry.parameters import matrix_from_parameters
from daskreg.registration.pose import Pose

MODELS = ["translation", "rigid", "similarity", "affine", ("rotation", "shear", "translation"), ("scale",), ("shear",)]
CENTRE = {2: [3.0, -7.0], 3: [3.0, -7.0, 11.0]}


def some(pose: Pose, batch: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return pose.identity(batch) + 0.2 * torch.randn((batch, len(pose.names)), generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("model", MODELS)
def test_matrices_are_those_of_the_named_parameters(model, ndim):
    pose = Pose.of(model, ndim)
    p = some(pose)
    expected = [matrix_from_parameters(values, ndim, CENTRE[ndim]) for values in pose.named(p)]
    np.testing.assert_allclose(pose.matrices(p, CENTRE[ndim]).numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("model", MODELS)
def test_derivatives_are_those_of_autograd(model, ndim):
    pose = Pose.of(model, ndim)
    p = some(pose, 1)
    expected = torch.autograd.functional.jacobian(lambda q: pose.matrices(q, CENTRE[ndim])[0], p)[:, :, 0]
    matrices, derivatives = pose.motions(p.numpy(), CENTRE[ndim])
    np.testing.assert_allclose(matrices, pose.matrices(p, CENTRE[ndim]), atol=1e-12)
    np.testing.assert_allclose(derivatives[0], expected.permute(2, 0, 1), atol=1e-12)
    assert torch.autograd.gradcheck(lambda q: pose.matrices(q, CENTRE[ndim]), p.requires_grad_())


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("model", [m for m in MODELS if m != ("shear",) and "shear" not in m])
def test_parameters_of_a_matrix_come_back(model, ndim):
    pose = Pose.of(model, ndim)
    p = some(pose)
    back = pose.from_matrices(pose.matrices(p, CENTRE[ndim]).numpy(), CENTRE[ndim], 50)
    np.testing.assert_allclose(back, p, atol=1e-7)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("model", MODELS)
def test_a_matrix_of_the_model_is_kept(model, ndim):
    pose = Pose.of(model, ndim)
    m = pose.matrices(some(pose), CENTRE[ndim]).numpy()
    back = pose.matrices(pose.from_matrices(m, CENTRE[ndim], 50), CENTRE[ndim])
    np.testing.assert_allclose(back, m, atol=1e-5)


def test_the_nearest_rigid_motion_is_the_polar_rotation():
    affine = Pose.of("affine", 3)
    m = affine.matrices(some(affine, 1), np.zeros(3)).numpy()
    rigid = Pose.of("rigid", 3)
    found = rigid.matrices(rigid.from_matrices(m, np.zeros(3)), np.zeros(3))[0].numpy()
    u, _, vt = np.linalg.svd(m[0, :3, :3])
    np.testing.assert_allclose(found[:3, :3], u @ vt, atol=1e-6)
    np.testing.assert_allclose(found[:3, 3], m[0, :3, 3], atol=1e-12)


def test_free_parameters_by_model():
    assert Pose.of("similarity", 2).names == ("theta", "tx", "ty", "scale")
    assert Pose.of("affine", 2).names == ("theta", "tx", "ty", "sx", "sy", "shx")
    assert len(Pose.of("affine", 3).names) == 12
    assert Pose.of(("shear", "rotation"), 2).names == ("theta", "shx", "shy")
    with pytest.raises(OptionError, match="perspective"):
        Pose.of("perspective", 2)
    with pytest.raises(OptionError, match="groups"):
        Pose.of((), 2)


@pytest.mark.parametrize("ndim", [2, 3])
def test_angles_are_named_within_half_a_turn(ndim: int) -> None:
    pose = Pose.of("rigid", ndim)
    values = pose.identity().numpy()
    name = pose.names[0]
    for given, wanted in ((182, -178), (-181, 179), (540 + 10, -170), (179, 179), (1e-9, 1e-9)):
        values[0, 0] = np.radians(given)
        assert pose.named(values)[0][name] == pytest.approx(np.radians(wanted), rel=1e-12)
