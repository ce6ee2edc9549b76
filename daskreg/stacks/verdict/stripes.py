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
    sequence = ImageSequence(torch.from_numpy(np.ascontiguousarray(part)), blank, within, options, levels=1)
    open_pairs = edges[_contradicted(sequence, edges, motions)]
    by_one_slice = len(used) >= _SEVERAL and any((open_pairs == i).any(axis=1).all() for i in used)
    return len(open_pairs) > 0 and not by_one_slice


def _contradicted(sequence: ImageSequence, edges: NDArray[np.intp], motions: Floats) -> NDArray[np.bool_]:
    """(E,) whether fits of the images move the middle otherwise than `motions`, by many standard deviations.

    The covariance takes several times as long as the fit, so it is computed only of fits that differ by enough.
    """
    problem, grid = sequence.problem, sequence.grid
    level = sequence.levels[-1]
    here = sequence.refined(level, edges, problem.parameters_of(motions, grid))
    middle = np.append(grid.centre, 1)
    matrices, slopes = problem.pose.motions(here.parameters, problem.centre)
    apart = ((matrices - motions) @ middle)[:, :-1]
    found = np.zeros(len(edges), bool)
    some = np.flatnonzero(np.linalg.norm(apart, axis=1) > _SHORT * min(grid.spacing))
    if len(some):
        covariance = sequence.covariance(level, edges[some], here.take(some))[0]
        moved = (slopes[some] @ middle)[..., :-1]
        found[some] = _deviations(apart[some], np.einsum("bpd,bpq,bqe->bde", moved, covariance, moved), grid)
    return found


def _deviations(apart: Floats, covariance: Floats, grid: Grid) -> NDArray[np.bool_]:
    """(E,) whether (E, D) differences are many standard deviations; not where these are unknown."""
    known = np.asarray(np.isfinite(covariance).all(axis=(1, 2)))
    # Copies of each other differ by rounding only.
    rounding = (1e-3 * min(grid.spacing)) ** 2 * np.eye(grid.ndim)
    covariance = np.where(known[:, None, None], covariance, 0) + rounding
    square = np.einsum("bd,bde,be->b", apart, np.linalg.inv(covariance), apart)
    return np.asarray(known & (square > _CONTRADICTED**2))
