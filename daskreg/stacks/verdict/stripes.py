"""Whether stripes of the detector hide a part of the motion: a fit that they cannot influence contradicts the poses.

Offsets of the columns or the rows of a detector are constant along one axis, so that the mean of each line of voxels
along that axis contains them whole. Without the means of all rows and columns, a slice has lost the frequencies on the
axes of its spectrum: a small share of what a specimen has, and all that stripes have. So a few neighbouring slices are
fitted once more without these means. Where the poses are right, both fits differ by no more than
the less precise one errs (Hausman 1978, "Specification tests in econometrics"); stripes that hold slices in place
make them differ by many of its standard deviations.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from daskreg.geometry import Box, Grid
from daskreg.stacks.neighbor_registration import ImageSequence
from daskreg.stacks.pair_registration import PairOptions
from daskreg.stacks.slice_reader import without_line_means

Floats = NDArray[np.float64]
Pixels = NDArray[np.float32]

# Standard deviations, and voxels, by which the two fits of a pair differ when they contradict each other: with forty
# windows of an image, a standard deviation is known to a fifth. Smaller shifts are no reason to fit the stack again.
_CONTRADICTED, _SHORT = 5.0, 0.05
# Slices from which on pairs that share a slice count no more: one slice that is bad is in all of these.
_SEVERAL = 4


def stripes_hide_motion(images: Pixels, grid: Grid, poses: Floats, options: PairOptions, box: Box) -> bool:
    """Whether neighbours without the means of their lines move by other amounts than the poses say.

    Args:
        images: (N, *shape) slices as read, NaN where masked.
        poses: (N, D+1, D+1), raw_from_aligned.
        box: the part of the slices that is fitted.
    """
    part, within = without_line_means(images)[(slice(None), *box.slices)], grid.crop(box)
    flat = part.reshape(len(part), -1)
    known = np.isfinite(flat)
    blank = ~(np.where(known, flat, -np.inf).max(axis=1) > np.where(known, flat, np.inf).min(axis=1))
    used = np.flatnonzero(~blank)
    if len(used) < 2:
        return False
    edges = np.stack([used[:-1], used[1:]], axis=1)
    motions = poses[edges[:, 1]] @ np.linalg.inv(poses[edges[:, 0]])
    sequence = ImageSequence(torch.from_numpy(np.ascontiguousarray(part)), blank, within, options)
    apart, deviations = _differences(sequence, edges, motions)
    contradicted = (deviations > _CONTRADICTED) & (apart > _SHORT * min(grid.spacing))
    open_pairs = edges[contradicted]
    by_one_slice = len(used) >= _SEVERAL and any((open_pairs == i).any(axis=1).all() for i in used)
    return len(open_pairs) > 0 and not by_one_slice


def _differences(sequence: ImageSequence, edges: NDArray[np.intp], motions: Floats) -> tuple[Floats, Floats]:
    """(E,) by how much fits of the images move the middle otherwise than `motions`: as a length, and in sigmas."""
    problem, grid = sequence.problem, sequence.grid
    pairs = sequence.register(edges, start=problem.parameters_of(motions, grid))
    middle = np.append(grid.centre, 1)
    apart = ((pairs.matrices - motions) @ middle)[:, :-1]
    slopes = problem.pose.motions(problem.parameters_of(pairs.matrices, grid), problem.centre)[1] @ middle
    covariance = np.einsum("bpd,bpq,bqe->bde", slopes[..., :-1], pairs.covariance, slopes[..., :-1])
    known = np.isfinite(covariance).all(axis=(1, 2), keepdims=True)
    # Copies of each other differ by rounding only.
    covariance = np.where(known, covariance, 0) + (1e-3 * min(grid.spacing)) ** 2 * np.eye(grid.ndim)
    apart = np.where(known[..., 0], apart, 0)
    square = np.einsum("bd,bde,be->b", apart, np.linalg.inv(covariance), apart)
    return np.linalg.norm(apart, axis=1), np.sqrt(np.maximum(square, 0))
