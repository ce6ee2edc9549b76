"""The drop-in for nDTomo's reg_torch: the tutorial's truth, torch and scikit-image as oracles."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from phantoms import blobs
from skimage.transform import AffineTransform
from skimage.transform import warp as skimage_warp
from torch.nn.functional import affine_grid, grid_sample

import daskreg.reg_torch as reg
from daskreg.errors import DaskregWarning, OptionError, ShapeMismatchError

pytestmark = pytest.mark.slow


def by_torch(image: np.ndarray, theta: torch.Tensor) -> np.ndarray:
    tensor = torch.from_numpy(image)[None, None]
    grid = affine_grid(theta, list(tensor.shape), align_corners=False)
    return grid_sample(tensor, grid, align_corners=False)[0, 0].numpy()


def motion_2d(**moved: float) -> torch.Tensor:
    values = {"theta": 0.0, "tx": 0.0, "ty": 0.0, "sx": 1.0, "sy": 1.0, "shx": 0.0, "shy": 0.0} | moved
    tensors = {name: torch.tensor(value) for name, value in values.items()}
    return reg.build_affine_matrix(**tensors, device="cpu", dtype=torch.float32)


def motion_3d(**moved: float) -> torch.Tensor:
    names = ("rx", "ry", "rz", "tx", "ty", "tz", "sx", "sy", "sz")
    values = {n: float(n.startswith("s")) for n in names} | moved
    tensors = {name: torch.tensor(value) for name, value in values.items()}
    return reg.build_affine_matrix_3d(**tensors, device="cpu", dtype=torch.float32)


@pytest.fixture(scope="module")
def phantom() -> np.ndarray:
    x, y = np.meshgrid(np.linspace(-1, 1, 256), np.linspace(-1, 1, 256))
    image = (x**2 + y**2 < 0.5).astype(np.float32)
    image[120:136, :] = 0
    image[:, 120:136] = 0
    return image


def test_the_tutorial_in_2d(phantom: np.ndarray) -> None:
    mov = by_torch(phantom, motion_2d(theta=np.radians(30.0), tx=0.2, ty=-0.1, shx=0.2))
    warped, found = reg.register_affine_2d(
        ref=phantom, mov=mov, order=["rot", "trans", "shear"], loss_type="ncc", iters=500, lr=0.02
    )
    assert abs(np.degrees(found["theta"]) - 30) < 0.1
    assert abs(found["tx"] - 0.2) < 0.002
    assert abs(found["ty"] + 0.1) < 0.002
    assert abs(found["shx"] - 0.2) < 0.005
    assert (found["sx"], found["sy"]) == (1, 1)
    assert isinstance(warped, np.ndarray)
    assert warped.shape == phantom.shape
    assert np.corrcoef(warped.ravel(), phantom.ravel())[0, 1] > 0.97
    again = by_torch(mov, reg.registering_matrix(found))
    np.testing.assert_allclose(again, warped, atol=2e-3)


def test_the_tutorial_in_3d() -> None:
    volume = np.zeros((64, 64, 64), np.float32)
    volume[20:44, 20:44, 20:44] = 1
    volume[20:44, 30:34, 20:44] = 0
    mov = by_torch(volume, motion_3d(rz=np.radians(15), ty=0.1))
    warped, found = reg.register_affine_3d(volume, mov, order=["rot", "trans"], loss_type="mse", iters=200, lr=0.01)
    assert abs(np.degrees(found["rz"]) - 15) < 0.1
    assert abs(found["ty"] - 0.1) < 0.002
    assert max(abs(found[n]) for n in ("rx", "ry", "tx", "tz")) < 0.002
    assert list(found) == ["rx", "ry", "rz", "tx", "ty", "tz", "sx", "sy", "sz"]
    np.testing.assert_allclose(by_torch(mov, reg.registering_matrix(found)), warped, atol=2e-3)


def test_the_tutorials_stack_equals_scikit_image(phantom: np.ndarray) -> None:
    stack = np.repeat(phantom[None], 50, axis=0)
    matrix = np.array([[1, 0, 20], [0, 1, 25], [0, 0, 1]])
    got = reg.warp_volume_xy_batched(stack, affine_matrix=matrix, is_pixel_space=True, batch_size=16)
    expected = skimage_warp(phantom, AffineTransform(matrix=matrix), order=1)
    assert (got.dtype, got.shape) == (np.float32, stack.shape)
    for image in got:
        np.testing.assert_array_equal(image, expected)


def test_a_general_pixel_matrix_on_a_non_square_stack() -> None:
    stack = np.random.default_rng(0).random((5, 61, 87)).astype(np.float32)
    matrix = AffineTransform(rotation=0.3, scale=(1.1, 0.9), shear=0.1, translation=(9, -4)).params
    got = reg.warp_volume_xy_batched(stack, matrix, is_pixel_space=True, batch_size=2)
    for image, original in zip(got, stack, strict=True):
        expected = skimage_warp(original.astype(np.float64), AffineTransform(matrix=matrix), order=1)
        np.testing.assert_allclose(image, expected, atol=1e-5)


@pytest.mark.parametrize("rows", [2, 3])
def test_a_normalised_theta_is_torchs(rows: int) -> None:
    stack = np.random.default_rng(1).random((3, 40, 56)).astype(np.float32)
    theta = motion_2d(theta=0.4, tx=0.1, sy=1.2)
    matrix = np.vstack([theta[0].numpy(), [0, 0, 1]])[:rows]
    got = reg.warp_volume_xy_batched(stack, matrix)
    for image, original in zip(got, stack, strict=True):
        np.testing.assert_allclose(image, by_torch(original, theta), atol=1e-4)


def test_normalised_pixel_matrices_pull_as_scikit_image_does() -> None:
    image = np.random.default_rng(2).random((50, 70)).astype(np.float32)
    matrix = AffineTransform(rotation=0.2, translation=(5, -3)).params
    theta = reg.normalize_affine_matrix(matrix, 50, 70)
    assert (theta.shape, theta.dtype) == ((1, 2, 3), torch.float32)
    expected = skimage_warp(image.astype(np.float64), AffineTransform(matrix=matrix), order=1)
    np.testing.assert_allclose(by_torch(image, theta), expected, atol=1e-4)


@pytest.mark.parametrize("shape", [(90, 130), (131, 80)])
def test_parameters_are_normalised_also_where_h_is_not_w(shape: tuple[int, int]) -> None:
    from scipy.ndimage import gaussian_filter

    image = gaussian_filter(np.random.default_rng(3).random(shape), 4).astype(np.float32)
    image = (image - image.min()) / np.ptp(image)
    mov = by_torch(image, motion_2d(theta=0.1, tx=0.06, ty=-0.04, sx=1.05))
    _, found = reg.register_affine_2d(image, mov)
    truth = {"theta": 0.1, "tx": 0.06, "ty": -0.04, "sx": 1.05, "sy": 1.0, "shx": 0.0, "shy": 0.0}
    assert list(found) == list(truth)
    for name, value in truth.items():
        assert abs(found[name] - value) < 2e-3, name


def test_parameters_of_a_volume_with_three_different_sides() -> None:
    volume = blobs((36, 48, 60), seed=4)
    truth = {"rx": 0.03, "ry": -0.05, "rz": 0.1, "tx": 0.05, "ty": -0.03, "tz": 0.04}
    mov = by_torch(volume, motion_3d(**truth))
    warped, found = reg.register_affine_3d(volume, mov, order=["rot", "trans"])
    assert (warped.shape, warped.dtype) == (volume.shape, np.float32)
    for name, value in truth.items():
        assert abs(found[name] - value) < 2e-3, name


def rotation_error(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.degrees(np.arccos(np.clip((np.trace(a.T @ b) - 1) / 2, -1, 1))))


@pytest.mark.parametrize("seed", range(20))
def test_the_tutorials_clouds_with_shuffled_rows(seed: int) -> None:
    rng = np.random.default_rng(seed)
    turn = np.radians(45)
    r_gt = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    t_gt = np.array([0.5, -0.2, 0.1])
    a = rng.random((1000, 3)).astype(np.float32)
    b = rng.permutation(a @ r_gt.T + t_gt + rng.normal(0, 0.01, a.shape))
    aligned, r, t = reg.icp_torch(a, b, max_iterations=1000)
    assert rotation_error(r, r_gt.T) < 0.5
    assert np.linalg.norm(t + r_gt.T @ t_gt) < 0.02
    assert np.linalg.det(r) == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(aligned, b @ r.T + t, atol=1e-5)


def test_icp_takes_tensors() -> None:
    a = torch.rand(200, 3, generator=torch.Generator().manual_seed(0))
    aligned, r, t = reg.icp_torch(a, a + 0.01)
    assert all(isinstance(v, np.ndarray) for v in (aligned, r, t))
    np.testing.assert_allclose(t, -0.01, atol=1e-3)


def test_matrices_are_differentiable_and_equal_the_product_of_motions() -> None:
    values = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.3, 0.1, -0.2, 1.1, 0.9, 0.2, 0.1)]
    theta = reg.build_affine_matrix(*values, "cpu", torch.float64)
    angle, tx, ty, sx, sy, shx, shy = (float(v.detach()) for v in values)
    c, s = np.cos(angle), np.sin(angle)
    t = np.array([[1, 0, tx], [0, 1, ty], [0, 0, 1]])
    r = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    sh = np.array([[1, shx, 0], [shy, 1, 0], [0, 0, 1]])
    expected = np.linalg.inv(t @ r @ sh @ np.diag([sx, sy, 1]))[:2]
    np.testing.assert_allclose(theta[0].detach().numpy(), expected, atol=1e-12)
    theta.square().sum().backward()
    assert all(v.grad is not None and float(v.grad.abs()) > 0 for v in values)
    solid = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.1, 0.2, 0.3, 1, 2, 3, 1.1, 0.9, 1.2)]
    assert torch.autograd.gradcheck(lambda *p: reg.build_affine_matrix_3d(*p, "cpu", torch.float64), solid)


def test_losses_and_tensors() -> None:
    x, y = torch.rand(2, 1, 1, 8, 9)
    assert float(reg.NCC()(x, 3 * x + 1)) == pytest.approx(0, abs=1e-5)
    assert float(reg.NCC()(x, -x)) == pytest.approx(2, abs=1e-5)
    assert float(reg.mse_loss(x, y)) == pytest.approx(float(((x - y) ** 2).mean()))
    assert float(reg.mae_loss(x, y)) == pytest.approx(float((x - y).abs().mean()))
    assert reg.to_tensor2d(np.zeros((4, 5))).shape == (1, 1, 4, 5)
    assert reg.to_tensor2d(torch.zeros(1, 1, 4, 5)).shape == (1, 1, 4, 5)
    assert reg.to_tensor3d(np.zeros((3, 4, 5))).shape == (1, 1, 3, 4, 5)
    assert reg.to_tensor3d(np.zeros((2, 3, 4, 5)), device="cpu", dtype=torch.float64).shape == (1, 2, 3, 4, 5)


def test_bad_arguments_are_named(phantom: np.ndarray) -> None:
    with pytest.raises(OptionError, match="loss_type='ssim'"):
        reg.register_affine_2d(phantom, phantom, loss_type="ssim")
    with pytest.raises(ShapeMismatchError):
        reg.register_affine_2d(np.zeros((3, 4, 5)), phantom)
    image, parameters = reg.register_affine_2d(phantom, phantom, order=[])
    assert parameters == {}
    np.testing.assert_array_equal(image, phantom)


def test_other_names_in_order_are_left_out_with_a_warning(phantom: np.ndarray) -> None:
    """As the original takes them: what is not a group of its has no effect."""
    mov = np.roll(phantom, 3, axis=1)
    with pytest.warns(DaskregWarning, match="'rotation', which is left out") as told:
        _, parameters = reg.register_affine_2d(phantom, mov, order=["rotation", "trans"])
    assert told[0].filename == __file__
    assert abs(parameters["tx"] - 3 * 2 / phantom.shape[1]) < 0.01
    with pytest.warns(DaskregWarning, match="3D has no shear"):
        image, parameters = reg.register_affine_3d(np.ones((4, 5, 6)), np.ones((4, 5, 6)), order=["shear"])
    assert parameters == {}
    assert image.shape == (4, 5, 6)


def test_verbose_prints(phantom: np.ndarray, capsys: pytest.CaptureFixture[str]) -> None:
    reg.register_affine_2d(phantom, np.roll(phantom, 2, axis=0), order=["trans"], verbose=True)
    assert "PairFit(converged" in capsys.readouterr().out
    points = np.random.default_rng(3).normal(size=(40, 3))
    reg.icp_torch(points, points + 0.01, verbose=True)
    assert "CloudFit(" in capsys.readouterr().out
    reg.register_affine_2d(phantom, phantom, order=["trans"])
    assert capsys.readouterr().out == ""


def test_ncc_loss_is_ncc() -> None:
    x, y = torch.rand(2, 1, 1, 9, 11, generator=torch.Generator().manual_seed(0))
    assert torch.equal(reg.ncc_loss(x, y), reg.NCC()(x, y))
    assert abs(float(reg.ncc_loss(x, y)) - (1 - np.corrcoef(x.ravel(), y.ravel())[0, 1])) < 1e-4
