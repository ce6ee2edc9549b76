"""A drop-in for nDTomo's `reg_torch`: the same names, arguments, defaults and return types.

    import daskreg.reg_torch as reg

Each function is a few lines over daskreg. They register in a world where the grid spans
[-1, 1] along every axis (spacing 2/n, origin -1 + 1/n, centre 0), so that parameters are in
torch's normalised units, also where H is not W. Parameters are those of M = T . R . Sh . S in
x, y(, z) order. Results differ where the original is wrong:

- `register_affine_2d`, `register_affine_3d` return the parameters of the motion that made
  `mov` out of `ref`, so that they can be compared with the known motion. (The original optimised
  its inverse, which rotation and shear without scale cannot express.)
  `registering_matrix(parameters)` is the matrix that registers `mov`.
- `normalize_affine_matrix` uses voxel centres; the original is off by half a pixel
  times (M - I).
- `warp_volume_xy_batched` with a pixel matrix equals scikit-image's `warp`, slice by slice.
- `icp_torch` does not need corresponding rows, and never returns a reflection.

`lr`, which the original's optimiser needed, is accepted and not used.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from daskreg.clouds.register import icp
from daskreg.convert import from_skimage, from_torch, to_torch
from daskreg.errors import DaskregWarning, InvalidTransformError, OptionError, ShapeMismatchError
from daskreg.geometry import Affine, Grid
from daskreg.registration.pose import Pose
from daskreg.registration.register import register
from daskreg.volumes import to_dataarray
from daskreg.warping import warp

_GROUPS = {"rot": "rotation", "trans": "translation", "scale": "scale", "shear": "shear"}
_NAMES = {
    2: ("theta", "tx", "ty", "sx", "sy", "shx", "shy"),
    3: ("rx", "ry", "rz", "tx", "ty", "tz", "sx", "sy", "sz"),
}
_LOSSES = ("ncc", "mae", "mse")


def to_tensor2d(x: Any, device: Any = None, dtype: torch.dtype = torch.float32) -> Tensor:
    """An (H, W) array or tensor as a tensor (1, 1, H, W), on a GPU if there is one."""
    return _to_tensor(x, 2, device, dtype)


def to_tensor3d(x: Any, device: Any = None, dtype: torch.dtype = torch.float32) -> Tensor:
    """A (D, H, W) or (C, D, H, W) array or tensor as a tensor (1, C, D, H, W)."""
    return _to_tensor(x, 3, device, dtype)


class NCC(nn.Module):
    """1 - Pearson's correlation of two tensors of one shape, as a module."""

    def __init__(self, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """A scalar from 0 (the same but for brightness and contrast) to 2, that autograd can differentiate."""
        x, y = x - x.mean(), y - y.mean()
        norm = (x.square().sum() * y.square().sum() + self.eps).sqrt()
        return 1 - (x * y).sum() / (norm + self.eps)


def ncc_loss(x: Tensor, y: Tensor, eps: float = 1e-6) -> Tensor:
    """`NCC` as a function."""
    loss: Tensor = NCC(eps)(x, y)
    return loss


def mae_loss(x: Tensor, y: Tensor) -> Tensor:
    """Mean absolute difference."""
    return (x - y).abs().mean()


def mse_loss(x: Tensor, y: Tensor) -> Tensor:
    """Mean squared difference."""
    return (x - y).square().mean()


def normalize_affine_matrix(matrix_pixel: ArrayLike, height: int, width: int) -> Tensor:
    """The theta (1, 2, 3) of `affine_grid` (align_corners=False) that pulls as a pixel matrix does.

    Args:
        matrix_pixel: 3x3, x first, in pixels: scikit-image's or pystackreg's.
    """
    grid = Grid((height, width))
    theta: Tensor = to_torch(from_skimage(matrix_pixel), fixed=grid, moving=grid)
    return theta.to(torch.float32)[None]


def build_affine_matrix(  # noqa: PLR0917 (the original's order)
    theta: Any, tx: Any, ty: Any, sx: Any, sy: Any, shx: Any, shy: Any, device: Any, dtype: torch.dtype
) -> Tensor:
    """The *inverse* of T . R . Sh . S as theta (1, 2, 3): warping with it moves the content by the motion.

    Differentiable with respect to every parameter.
    """
    parameters = _stacked((theta, tx, ty, shx, shy), device)
    return _inverse_theta(Pose.of(("rotation", "translation", "shear"), 2), parameters, (sx, sy), dtype)


def build_affine_matrix_3d(  # noqa: PLR0917 (the original's order)
    rx: Any,
    ry: Any,
    rz: Any,
    tx: Any,
    ty: Any,
    tz: Any,
    sx: Any,
    sy: Any,
    sz: Any,
    device: Any,
    dtype: torch.dtype,
) -> Tensor:
    """The *inverse* of T . Rz . Ry . Rx . S as theta (1, 3, 4); differentiable."""
    parameters = _stacked((rx, ry, rz, tx, ty, tz), device)
    return _inverse_theta(Pose.of("rigid", 3), parameters, (sx, sy, sz), dtype)


def registering_matrix(params: dict[str, float]) -> Tensor:
    """Theta (1, D, D+1) with which `affine_grid` and `grid_sample` register `mov`: the motion itself.

    Args:
        params: what `register_affine_2d` or `register_affine_3d` returned.
    """
    ndim = 2 if "theta" in params else 3
    motion = Affine.from_parameters(params, ndim=ndim).matrix[:-1]
    x_first = np.concatenate([motion[::-1, :-1][:, ::-1], motion[::-1, -1:]], axis=1)
    return torch.tensor(x_first.copy(), dtype=torch.float32)[None]


def register_affine_2d(  # noqa: PLR0917 (the original's order)
    ref: Any,
    mov: Any,
    order: Sequence[str] = ("rot", "trans", "scale", "shear"),
    loss_type: str = "ncc",
    iters: int = 200,
    lr: float = 1e-2,
    verbose: bool = False,
    device: Any = None,
) -> tuple[NDArray[np.float32], dict[str, float]]:
    """Register two (H, W) images.

    Args:
        order: the free parameters, out of "rot", "trans", "scale", "shear"; the others stay those
            of the identity. With "shear" and without "scale", both shears are free. Other names are left out, with a
            warning.
        loss_type: "ncc", "mae" or "mse".
        iters: most iterations on each level of the pyramid; far fewer are needed.
        lr: not used.
        verbose: show a bar, and print the fit.

    Returns: `mov` registered to `ref`, and the motion that made `mov` out of `ref`: theta in
    radians, tx and ty in normalised units, sx, sy, shx, shy.
    """
    return _register(ref, mov, 2, order, loss_type=loss_type, iters=iters, verbose=verbose, device=device)


def register_affine_3d(  # noqa: PLR0917 (the original's order)
    ref: Any,
    mov: Any,
    order: Sequence[str] = ("rot", "trans", "scale"),
    loss_type: str = "ncc",
    iters: int = 200,
    lr: float = 1e-2,
    verbose: bool = False,
    device: Any = None,
) -> tuple[NDArray[np.float32], dict[str, float]]:
    """Register two (D, H, W) volumes; see `register_affine_2d`. There is no shear in 3D: "shear" is left out, with a
    warning.

    Returns: `mov` registered to `ref`, and the motion: rx, ry, rz in radians, tx, ty,
    tz in normalised units, sx, sy, sz.
    """
    return _register(ref, mov, 3, order, loss_type=loss_type, iters=iters, verbose=verbose, device=device)


def warp_volume_xy_batched(
    volume_np: NDArray[Any],
    affine_matrix: ArrayLike,
    is_pixel_space: bool = False,
    batch_size: int = 32,
    device: Any = None,
) -> NDArray[np.float32]:
    """Apply one 2D transform (a pull) to every slice of a (Z, H, W) volume.

    Args:
        affine_matrix: with `is_pixel_space` a 3x3 matrix of pixels, x first, and the result is
            `skimage.transform.warp(slice, AffineTransform(matrix=m), order=1)`; else the theta,
            2x3 or 3x3, of torch's `affine_grid`.
        batch_size: slices at a time.
    """
    volume = np.asarray(volume_np)
    if volume.ndim != 3:
        raise ShapeMismatchError(f"a volume (Z, H, W) is needed, not shape {volume.shape}")
    plane = Grid(volume.shape[1:])
    matrix = np.asarray(affine_matrix, dtype=np.float64)
    pull = from_skimage(matrix) if is_pixel_space else from_torch(matrix.reshape(-1, 3), fixed=plane, moving=plane)
    out = np.empty(volume.shape, np.float32)
    for start in range(0, len(volume), batch_size):
        part = volume[start : start + batch_size].astype(np.float32)
        out[start : start + batch_size] = warp(part, pull=pull, device=_device(device), allow_empty=True)
    return out


def icp_torch(  # noqa: PLR0917 (the original's order)
    A: Any,
    B: Any,
    max_iterations: int = 2000,
    lr: float = 0.01,
    tolerance: float = 1e-6,
    verbose: bool = False,
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Align the cloud B (M, 3) to A (N, 3): `B_aligned = B @ R.T + t` fits A.

    For B = A @ R_gt.T + t_gt the result is R = R_gt.T, t = -R_gt.T @ t_gt. Rows need not
    correspond, and the clouds may differ in size. `lr` and `tolerance` are not used.
    `verbose` shows a bar and prints the fit.

    Returns: B_aligned (M, 3), R (3, 3), a rotation, and t (3,).
    """
    target, source = (np.asarray(c.detach().cpu() if torch.is_tensor(c) else c) for c in (A, B))
    fit = icp(target, source, max_iterations=max_iterations, progress=verbose)
    if verbose:
        print(fit)  # noqa: T201 (as the original)
    dtype = np.result_type(source.dtype, np.float32)
    rotation, shift = (np.asarray(v).astype(dtype) for v in (fit.rotation, fit.translation))
    return (source @ fit.rotation.T + fit.translation).astype(dtype), rotation, shift


def _register(
    ref: Any, mov: Any, ndim: int, order: Sequence[str], *, loss_type: str, iters: int, verbose: bool, device: Any
) -> tuple[NDArray[np.float32], dict[str, float]]:
    if loss_type not in _LOSSES:
        raise OptionError(f"loss_type={loss_type!r}: use one of {', '.join(_LOSSES)}")
    fixed, moving = _normalised(ref, ndim), _normalised(mov, ndim)
    groups = _groups(order, ndim)
    if not groups:
        return np.asarray(moving.values), {}
    fit = register(
        fixed, moving, model=groups, metric=loss_type, max_iterations=iters, device=_device(device), progress=verbose
    )
    if not fit.ok:
        warnings.warn(f"the result is not reliable: {fit.status.value}", DaskregWarning, stacklevel=3)
    if verbose:
        print(fit)  # noqa: T201 (as the original)
    registered = warp(moving, pull=fit.moving_from_fixed, like=fixed, device=_device(device))
    return np.asarray(registered.values), {name: float(fit.parameters[name]) for name in _NAMES[ndim]}


def _groups(order: Sequence[str], ndim: int) -> tuple[str, ...]:
    """The groups of parameters that are named; others are left out with a warning, as the original does without."""
    known = [name for name in _GROUPS if not (ndim == 3 and name == "shear")]
    for name in order:
        if name not in known:
            reason = "3D has no shear here; daskreg.register(model='affine') has" if name == "shear" else "not known"
            warnings.warn(
                f"order names {name!r}, which is left out ({reason}): {', '.join(known)} are free parameters",
                DaskregWarning,
                stacklevel=4,
            )
    return tuple(_GROUPS[name] for name in dict.fromkeys(order) if name in known)


def _normalised(image: Any, ndim: int) -> Any:
    """A DataArray whose grid spans [-1, 1] along every axis."""
    pixels = np.asarray(image.detach().cpu() if torch.is_tensor(image) else image)
    while pixels.ndim > ndim and len(pixels) == 1:
        pixels = pixels[0]
    if pixels.ndim != ndim:
        raise ShapeMismatchError(f"an image of {ndim} dimensions is needed, not shape {pixels.shape}")
    n = np.array(pixels.shape)
    return to_dataarray(pixels.astype(np.float32), Grid(pixels.shape, spacing=2 / n, origin=1 / n - 1))


def _to_tensor(x: Any, ndim: int, device: Any, dtype: torch.dtype) -> Tensor:
    tensor = x if torch.is_tensor(x) else torch.from_numpy(np.ascontiguousarray(x))
    if tensor.ndim == ndim:
        tensor = tensor[None, None]
    elif tensor.ndim == ndim + 1 == 4:
        tensor = tensor[None]
    chosen = device if device is not None else ("cuda" if torch.cuda.is_available() else "cpu")
    return tensor.to(device=chosen, dtype=dtype)


def _device(device: Any) -> str:
    return "auto" if device is None else str(device)


def _stacked(values: Sequence[Any], device: Any) -> Tensor:
    """(1, P) float64, differentiable in the values."""
    return torch.stack([torch.as_tensor(v, device=device).to(torch.float64) for v in values])[None]


def _inverse_theta(pose: Pose, parameters: Tensor, scales: Sequence[Any], dtype: torch.dtype) -> Tensor:
    """Inverse of (pose . S), x first, without the last row."""
    n = pose.ndim
    scale = torch.cat([_stacked(scales, parameters.device)[0].flip(0), parameters.new_ones(1)])
    motion = pose.matrices(parameters, np.zeros(n)) @ torch.diag(scale)
    if not bool(torch.linalg.det(motion.detach()).abs() > 0):
        raise InvalidTransformError("a scale of zero cannot be inverted")
    x_first = [*range(n - 1, -1, -1), n]
    theta: Tensor = torch.linalg.inv(motion)[:, x_first][:, :, x_first][:, :n]
    return theta.to(dtype)
