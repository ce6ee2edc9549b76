"""Measures and other tools' results that the tests compare with. It does not use daskreg.

Matrices are homogeneous, in array order, from output indices to input indices (a pull),
as `scipy.ndimage.affine_transform` takes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.linalg
import scipy.ndimage
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def pull(
    image: NDArray[Any], matrix: Floats, *, shape: Sequence[int] | None = None, order: int = 1
) -> tuple[Floats, NDArray[np.bool_]]:
    """`image` sampled through an index matrix, and where that fell inside the image."""
    out_shape = tuple(shape or image.shape)
    warped = scipy.ndimage.affine_transform(
        np.asarray(image, np.float64),
        matrix[:-1, :-1],
        matrix[:-1, -1],
        output_shape=out_shape,
        order=order,
        mode="grid-constant",
    )
    points = np.tensordot(matrix[:-1, :-1], np.indices(out_shape), 1)
    points += matrix[:-1, -1].reshape(-1, *(1,) * image.ndim)
    last = np.asarray(image.shape).reshape(-1, *(1,) * image.ndim) - 1
    return warped, np.asarray(np.all((points >= -1e-9) & (points <= last + 1e-9), axis=0))


def pull_stack(stack: NDArray[Any], matrices: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Each slice along the first axis through its own matrix (order 1), and the valid masks."""
    pairs = [pull(s, m) for s, m in zip(stack, matrices, strict=True)]
    return np.stack([p[0] for p in pairs]), np.stack([p[1] for p in pairs])


def pearson(a: NDArray[Any], b: NDArray[Any], mask: NDArray[np.bool_] | None = None) -> float:
    """Pearson's correlation of two images over a mask; NaN where it is not defined."""
    where = np.ones(a.shape, bool) if mask is None else mask
    x, y = np.asarray(a, np.float64)[where], np.asarray(b, np.float64)[where]
    if x.size < 2:
        return float("nan")
    x, y = x - x.mean(), y - y.mean()
    norm = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / norm if norm > 0 else float("nan")


def neighbour_correlation(stack: NDArray[Any], masks: NDArray[np.bool_] | None = None) -> Floats:
    """Pearson's correlation of each slice with the next, over both valid masks. Take its mean."""
    valid = np.ones(stack.shape, bool) if masks is None else masks
    return np.array([pearson(stack[i], stack[i + 1], valid[i] & valid[i + 1]) for i in range(len(stack) - 1)])


def aligned_correlation(stack: NDArray[Any], matrices: Floats) -> Floats:
    """Neighbour correlation after each slice went through its index matrix."""
    return neighbour_correlation(*pull_stack(stack, matrices))


def reversed_axes(matrices: ArrayLike) -> Floats:
    """x-first homogeneous matrices in array order, or back."""
    m = np.array(matrices, np.float64)
    m[..., :-1, :] = m[..., -2::-1, :]
    m[..., :, :-1] = m[..., :, -2::-1]
    return m


def pystackreg_stack(stack: NDArray[Any], model: str = "rigid", reference: str = "previous") -> Floats:
    """pystackreg's matrices for a stack, in array order: (N, 3, 3), a pull."""
    from pystackreg import StackReg

    modes = {"translation": StackReg.TRANSLATION, "rigid": StackReg.RIGID_BODY, "affine": StackReg.AFFINE}
    found = StackReg(modes[model]).register_stack(np.asarray(stack, np.float64), reference=reference)
    return reversed_axes(found)


def rigid_2d(theta: float, ty: float, tx: float, centre: Sequence[float]) -> Floats:
    """A rotation of +x towards +y by `theta` radians about `centre` (y, x), then a shift."""
    c, s = np.cos(theta), np.sin(theta)
    m = np.eye(3)
    m[:2, :2] = [[c, s], [-s, c]]
    middle = np.asarray(centre, np.float64)
    m[:2, 2] = middle - m[:2, :2] @ middle + [ty, tx]
    return m


def random_walk(n: int, shape: Sequence[int], *, step: float, turn: float, seed: int) -> Floats:
    """Rigid drift of `n` slices: `step` pixels and `turn` degrees from each to the next."""
    rng = np.random.default_rng(seed)
    steps = rng.normal(size=(n, 3)) * [np.radians(turn), step, step]
    steps[0] = 0
    centre = (np.asarray(shape) - 1) / 2
    return np.stack([rigid_2d(*row, centre) for row in np.cumsum(steps, axis=0)])


def low_pass(values: Floats, period: float) -> Floats:
    """The part of `values` (N, ...) slower than `period`: half amplitude there, straight lines unchanged.

    Whittaker's smoother with second differences, by a dense solve.
    """
    n = len(values)
    d = np.diff(np.eye(n), n=2, axis=0)
    weight = (2 - 2 * np.cos(2 * np.pi / period)) ** -2
    smooth = scipy.linalg.solve(np.eye(n) + weight * d.T @ d, np.asarray(values).reshape(n, -1))
    return np.asarray(smooth).reshape(values.shape)


def residuals(found: Floats, truth: Floats, shape: Sequence[int], *, period: float = 15) -> dict[str, float]:
    """How far the slices still are from one another, in pixels, over the image.

    `found` is raw_from_aligned, `truth` raw_from_clean. What all slices share (the gauge) is
    taken out. "all": mean length; "fast" and "slow": of the parts faster and slower than
    `period` slices, along the stack.
    """
    grid = np.stack(np.meshgrid(*[np.linspace(0, n - 1, 9) for n in shape], indexing="ij"), -1).reshape(-1, len(shape))
    clean_from_aligned = np.linalg.inv(truth) @ found
    points = np.einsum("nij,pj->npi", clean_from_aligned[:, :-1, :-1], grid) + clean_from_aligned[:, None, :-1, -1]
    # The residual may be measured in any aligned frame (the gauge). Subtracting the mean
    # measures it in the clean one.
    error = points - points.mean(axis=0)
    slow = low_pass(error, period)
    parts = {"all": error, "fast": error - slow, "slow": slow}
    return {name: float(np.linalg.norm(e, axis=-1).mean()) for name, e in parts.items()}
