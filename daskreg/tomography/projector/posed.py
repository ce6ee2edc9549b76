"""A parallel-beam projector that torch differentiates: by the volume, and by the pose of each projection.

A parallel projection is an affine map from voxels to the detector, (2, 4): (row, column) = matrix @ (z, y, x, 1), in
indices. `projection_matrices` makes those of a scan. A ray is what such a map brings to one pixel; its sum is in units
of a voxel (Joseph's method, see `projector_numba`), outside of the volume there is nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from daskreg.errors import InvalidTransformError, ShapeMismatchError, UnsupportedDTypeError
from daskreg.runtime.threads import shares
from daskreg.tomography.projector import projector_numba as kernels

_MOST_POINTS = 1 << 24
"""Points of rays that are sampled at a time without the compiled loops."""


def projection_matrices(
    angles: Any,
    volume_shape: Sequence[int],
    detector_shape: Sequence[int],
    *,
    shifts: Any = 0.0,
    turn: Any = 0.0,
    magnification: Any = 1.0,
    tilt: Any = 0.0,
) -> torch.Tensor:
    """(A, 2, 4) maps from voxels to the detector, float64, differentiable by every argument that is a tensor.

    The middle of the volume is seen at the middle of the detector. At an angle, a voxel (z, y, x) from there is seen at
    the column x cos(angle) + y sin(angle) and the row z. Then the image is magnified, turned and shifted.

    Args:
        angles: (A,) radians.
        volume_shape, detector_shape: (Z, Y, X), and (rows, columns).
        shifts: (A, 2) rows and columns, by which a projection is shifted.
        turn: (A,) or one, radians in the plane of the detector, `theta` of a 2D transform.
        magnification: (A,) or one.
        tilt: laminography: the angle between the axis of rotation and the detector, radians; 0 in tomography.

    Raises: ShapeMismatchError for angles that are not (A,).
    """
    theta = torch.as_tensor(angles, dtype=torch.float64)
    if theta.ndim != 1:
        raise ShapeMismatchError(f"angles of shape {tuple(theta.shape)} are not (A,)")
    zero = torch.zeros_like(theta)

    def each(value: Any) -> torch.Tensor:
        return torch.as_tensor(value, dtype=torch.float64, device=theta.device) + zero

    turns, scales, tilts = each(turn), each(magnification), each(tilt)
    offsets = torch.as_tensor(shifts, dtype=torch.float64, device=theta.device) + zero[:, None].expand(-1, 2)
    rows = torch.stack([tilts.cos(), tilts.sin() * theta.cos(), -tilts.sin() * theta.sin()], dim=1)
    columns = torch.stack([zero, theta.sin(), theta.cos()], dim=1)
    c, s = (scales * turns.cos())[:, None], (scales * turns.sin())[:, None]
    linear = torch.stack([c * rows + s * columns, c * columns - s * rows], dim=1)
    middle, seen = (
        torch.tensor([(n - 1) / 2 for n in shape], dtype=torch.float64, device=theta.device)
        for shape in (volume_shape, detector_shape)
    )
    return torch.cat([linear, (seen + offsets - linear @ middle)[..., None]], dim=2)


def project(volume: torch.Tensor, matrices: Any, detector_shape: Sequence[int]) -> torch.Tensor:
    """(A, rows, columns) line integrals of a (Z, Y, X) volume, in units of a voxel.

    Args:
        volume: of a floating type; on a CPU, float32 and float64 use compiled loops.
        matrices: (A, 2, 4) from indices of voxels to those of the detector, such as `projection_matrices` makes.
        detector_shape: (rows, columns).

    Raises: ShapeMismatchError; UnsupportedDTypeError for a volume that is not a tensor of a floating type;
        InvalidTransformError for a matrix without rays.
    """
    _check(volume, matrices, "volume")
    shape = (int(detector_shape[0]), int(detector_shape[1]))
    return _by_axis(volume, matrices, lambda v, lines: _rays(v, lines, shape), shape)


def backproject(projections: torch.Tensor, matrices: Any, volume_shape: Sequence[int]) -> torch.Tensor:
    """(Z, Y, X): the adjoint of `project`, of which the arguments are: <project(v), p> = <v, backproject(p)>.

    Raises: as `project`.
    """
    _check(projections, matrices, "projections")
    if len(projections) != len(matrices):
        raise ShapeMismatchError(f"there are {len(projections)} projections and {len(matrices)} matrices")
    total = projections.new_zeros(tuple(volume_shape))
    for axis, chosen, lines, length in _lines(torch.as_tensor(matrices).to(projections.device)):
        part = projections[chosen] * length.to(projections.dtype)[:, None, None]
        planes = tuple(total.movedim(axis, 0).shape)
        total = total + _smear(part, lines, planes).movedim(0, axis)
    return total


def _check(array: torch.Tensor, matrices: Any, name: str) -> None:
    if not isinstance(array, torch.Tensor):
        raise UnsupportedDTypeError(
            f"{name} is a {type(array).__name__}: pass a torch.Tensor, as torch.from_numpy makes"
        )
    if not array.is_floating_point():
        raise UnsupportedDTypeError(f"{name} of {array.dtype} cannot be projected: use a floating type")
    if array.ndim != 3 or tuple(matrices.shape[1:]) != (2, 4):
        raise ShapeMismatchError(
            f"{name} of shape {tuple(array.shape)} and matrices of shape {tuple(matrices.shape)}: needed are three "
            "axes and (A, 2, 4)"
        )


def _by_axis(volume: torch.Tensor, matrices: Any, rays: Any, shape: tuple[int, int]) -> torch.Tensor:
    """The projections of the rays along each axis, put back into their order."""
    maps = torch.as_tensor(matrices).to(volume.device)
    parts, order = [], []
    for axis, chosen, lines, length in _lines(maps):
        sums = rays(volume.movedim(axis, 0), lines)
        parts.append(sums * length.to(volume.dtype)[:, None, None])
        order.append(chosen)
    if not parts:
        return volume.new_zeros((0, *shape))
    return torch.cat(parts)[torch.cat(order).argsort()]


def _lines(matrices: torch.Tensor) -> list[tuple[int, torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Projections by the axis that their rays follow most: the axis, which, (A, 2, 4) lines, lengths of a step.

    The lines give the place of a ray along the other two axes, from (row, column, step, 1).
    """
    maps = matrices.double()
    direction = torch.linalg.cross(maps[:, 0, :3], maps[:, 1, :3])
    follows = direction.detach().abs().argmax(dim=1)
    found = []
    for axis in range(3):
        chosen = torch.nonzero(follows == axis).flatten()
        if not len(chosen):
            continue
        others = [k for k in range(3) if k != axis]
        across, singular = torch.linalg.inv_ex(maps[chosen][:, :, others])
        if bool(singular.any()):
            raise InvalidTransformError(
                f"map {int(chosen[singular.nonzero()[0, 0]])} brings all voxels to a line or a point"
            )
        rest = -across @ maps[chosen][:, :, [axis, 3]]
        lines = torch.cat([across, rest], dim=2)
        found.append((axis, chosen, lines, (1 + (lines[:, :, 2] ** 2).sum(dim=1)).sqrt()))
    return found


def _compiled(array: torch.Tensor) -> bool:
    return array.device.type == "cpu" and array.dtype in (torch.float32, torch.float64)


def _rays(planes: torch.Tensor, lines: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    if _compiled(planes):
        return torch.as_tensor(_Rays.apply(planes, lines, shape))
    return _rays_in_torch(planes, lines, shape)


def _smear(sums: torch.Tensor, lines: torch.Tensor, planes: tuple[int, ...]) -> torch.Tensor:
    if _compiled(sums):
        return torch.as_tensor(_Smear.apply(sums, lines, planes))
    # The adjoint of what torch can differentiate is a vector-Jacobian product.
    zeros = sums.new_zeros(planes)
    _, pulled, *_ = torch.func.vjp(lambda v: _rays_in_torch(v, lines, (sums.shape[1], sums.shape[2])), zeros)
    return torch.as_tensor(pulled(sums)[0])


class _Rays(torch.autograd.Function):
    """Sums along rays, compiled; see `project_rays`."""

    @staticmethod
    def forward(ctx: Any, planes: torch.Tensor, lines: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
        ctx.save_for_backward(planes, lines)
        return _project(planes, lines, shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        planes, lines = ctx.saved_tensors
        by_planes = _smear(gradients[0], lines, tuple(planes.shape)) if ctx.needs_input_grad[0] else None
        by_lines = _gradient(planes, lines, gradients[0]) if ctx.needs_input_grad[1] else None
        return by_planes, by_lines, None


class _Smear(torch.autograd.Function):
    """The adjoint of `_Rays`."""

    @staticmethod
    def forward(ctx: Any, sums: torch.Tensor, lines: torch.Tensor, planes: tuple[int, ...]) -> torch.Tensor:
        ctx.save_for_backward(sums, lines)
        return _backproject(sums, lines, planes)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        sums, lines = ctx.saved_tensors
        by_sums = _rays(gradients[0], lines, tuple(sums.shape[1:])) if ctx.needs_input_grad[0] else None
        by_lines = _gradient(gradients[0], lines, sums) if ctx.needs_input_grad[1] else None
        return by_sums, by_lines, None


def _numpy(tensor: torch.Tensor) -> Any:
    return np.ascontiguousarray(tensor.detach().numpy())


def _project(planes: torch.Tensor, lines: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    m = _numpy(lines)
    sums = np.zeros((len(m), *shape), _numpy(planes[:0]).dtype)
    by_slices = _same_in_slices(m, planes.shape[1])
    if by_slices is None:
        voxels = _numpy(planes)
        shares(partial(kernels.project_rays, voxels, m, sums), len(m))
        return torch.from_numpy(sums)
    slices = _numpy(planes.movedim(1, 2))
    columns = np.zeros((len(m), shape[1], slices.shape[2]), sums.dtype)
    shares(partial(kernels.project_slices, slices, by_slices, columns), len(m))
    for a, (slope, start) in enumerate(m[:, 0, [0, 3]]):
        sums[a] = _row_weights(slope, start, shape[0], slices.shape[2], sums.dtype) @ columns[a].T
    return torch.from_numpy(sums)


def _backproject(sums: torch.Tensor, lines: torch.Tensor, planes: tuple[int, ...]) -> torch.Tensor:
    m, values = _numpy(lines), _numpy(sums)
    by_slices = _same_in_slices(m, planes[1])
    if by_slices is None:
        total = np.zeros(planes, values.dtype)
        shares(partial(kernels.backproject_rays, values, m, total), len(total))
        return torch.from_numpy(total)
    columns = np.zeros((len(m), values.shape[2], planes[1]), values.dtype)
    for a, (slope, start) in enumerate(m[:, 0, [0, 3]]):
        columns[a] = values[a].T @ _row_weights(slope, start, values.shape[1], planes[1], values.dtype)
    slices = np.zeros((planes[0], planes[2], planes[1]), values.dtype)
    shares(partial(kernels.backproject_slices, columns, by_slices, slices), len(slices))
    return torch.from_numpy(np.ascontiguousarray(slices.swapaxes(1, 2)))


def _same_in_slices(lines: Any, rows: int) -> Any:
    """(A, 3) lines within a slice where the row of a pixel alone decides on its slices, else None."""
    if rows < 2 or np.any(lines[:, 0, 1:3] != 0) or np.any(lines[:, 1, 0] != 0):
        return None
    return np.ascontiguousarray(lines[:, 1, 1:])


def _row_weights(slope: float, start: float, rows: int, slices: int, dtype: Any) -> Any:
    """(rows, slices) weights of linear interpolation at slices slope * row + start; sparse."""
    from scipy.sparse import csr_array

    place = slope * np.arange(rows) + start
    low = np.floor(place).astype(np.int64)
    row, column = np.tile(np.arange(rows), 2), np.concatenate([low, low + 1])
    weight = np.concatenate([1 - (place - low), place - low]).astype(dtype)
    inside = (column >= 0) & (column < slices)
    return csr_array((weight[inside], (row[inside], column[inside])), shape=(rows, slices))


def _gradient(planes: torch.Tensor, lines: torch.Tensor, sums: torch.Tensor) -> torch.Tensor:
    voxels, m, values = _numpy(planes), _numpy(lines), _numpy(sums)
    gradient = np.zeros_like(m)
    shares(partial(kernels.lines_gradient, voxels, m, values, gradient), len(m))
    return torch.from_numpy(gradient)


def _rays_in_torch(planes: torch.Tensor, lines: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """`project_rays` of torch's own operations: any device and floating type."""
    padded = torch.nn.functional.pad(planes, (1, 2, 1, 2))
    height, width = padded.shape[1:]
    row, column = (torch.arange(n, device=planes.device, dtype=torch.float64) for n in shape)
    at_once = max(1, _MOST_POINTS // (shape[0] * shape[1]))
    sums = []
    for line in lines:
        plane = line[:, 0, None, None] * row[:, None] + line[:, 1, None, None] * column + line[:, 3, None, None]
        total = planes.new_zeros(shape)
        for first in range(0, len(planes), at_once):
            steps = torch.arange(first, min(first + at_once, len(planes)), device=planes.device)
            places = plane[:, None] + (line[:, 2, None] * steps)[:, :, None, None] + 1
            p, q = places[0], places[1]
            p, q = p.clamp(0, height - 2), q.clamp(0, width - 2)
            i, j = p.detach().floor(), q.detach().floor()
            f, g = (p - i).to(planes.dtype), (q - j).to(planes.dtype)
            flat = padded[first : first + len(steps)].flatten(1)
            at = (i * width + j).long().flatten(1)
            a00, a01, a10, a11 = (flat.gather(1, at + o).view(f.shape) for o in (0, 1, width, width + 1))
            total = total + ((1 - f) * ((1 - g) * a00 + g * a01) + f * ((1 - g) * a10 + g * a11)).sum(dim=0)
        sums.append(total)
    return torch.stack(sums)
