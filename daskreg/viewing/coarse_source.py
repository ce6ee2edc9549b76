"""`sampled_levels`: coarse levels of a warp, sampled from the coarse levels of its source.

A chunk of a coarse level takes as many voxels of level 0 as it stands for, thousands of times its own. Where the
source has a pyramid of its own, the same warp of a coarse level of that shows about the same in the time of one chunk.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import count

import numpy as np

from daskreg.blocks.job import Job
from daskreg.errors import DaskregError
from daskreg.geometry import Grid
from daskreg.geometry.index_map import AffineIndexMap
from daskreg.sources.source import Source
from daskreg.volumes import open as open_volume
from daskreg.volumes import volume_of

SAME = 1e-3
"""Of a voxel: by how much places may differ that are taken as the same."""


def sampled_levels(job: Job, grids: Sequence[Grid], wanted: Sequence[int]) -> Mapping[int, Job]:
    """The warp of a coarse level of the source, for those of the wanted levels where there is one that fits.

    Args:
        job: level 0, an affine map or one for each slice; for others there is none.
        grids: of all levels.
    """
    if not wanted or not isinstance(job.mapping, AffineIndexMap):
        return {}
    sources = _levels_of(job.source)
    found = {}
    for level in wanted:
        for source in reversed(sources):  # the coarsest one that is not coarser than the level
            made = _on_level(job, grids[level], source)
            if made is not None:
                found[level] = made
                break
    return found


def _levels_of(source: Source) -> list[Source]:
    """The coarser levels of the image that a source is level 0 of, with the same axes; none where it is no image."""
    group, name = os.path.split(source.path)
    if name != "0" or source.in_memory or source.start:
        return []
    found: list[Source] = []
    # The warnings were given when level 0 was opened; the number of levels is known when there is no further one.
    with suppress(DaskregError), warnings.catch_warnings(action="ignore"):
        for level in count():
            one = volume_of(open_volume(group, level=level)).source
            for dim, entry in reversed([*zip(one.dims, source.selection, strict=False)]):
                if isinstance(entry, int):
                    one = one.pick(dim, entry)
            same = (one.path, one.dims, one.shape) == (source.path, source.dims, source.shape)
            if level == 0 and not (same and one.grid.same(source.grid)):  # the grid of the file may be overruled
                return []
            if one.dims == source.dims:
                found.append(one.with_policy(**dict(zip(("missing", "corrupt"), source.policy, strict=False))))
    return found[1:]


def _on_level(job: Job, grid: Grid, source: Source) -> Job | None:
    """The same warp between coarser grids; None where the source is too coarse, or its slices are others."""
    mapping = job.mapping
    assert isinstance(mapping, AffineIndexMap)  # noqa: S101 (as the caller has seen)
    lead = len(job.dims) - grid.ndim
    fine_out, fine_source = (coarse_to_fine(*grids) for grids in ((grid, job.grid), (source.grid, job.source.grid)))
    offsets = list(mapping.offsets)
    for axis in range(lead, len(job.dims)):
        (out, out_start), (read, read_start) = fine_out[axis - lead], fine_source[axis - lead]
        if axis in mapping.sampled:
            if read > out * (1 + SAME):
                return None
            continue
        offset = (out_start + mapping.offsets[axis] - read_start) / read
        if abs(out - read) > SAME or abs(offset - round(offset)) > SAME:
            return None
        offsets[axis] = round(offset)
    sampled = [k - lead for k in mapping.sampled]
    if min(sampled, default=0) < 0:
        return None
    matrices = mapping.matrices
    if mapping.stack is not None:
        step, first = fine_out[mapping.stack - lead] if mapping.stack >= lead else (1.0, 0.0)
        slices = (*job.lead_shape, *grid.shape)[mapping.stack]
        middles = np.rint(step * np.arange(slices) + first + 1e-6).astype(int) - mapping.start
        matrices = matrices[np.clip(middles, 0, len(matrices) - 1)]
    to_fine, from_fine = _diagonal([fine_out[k] for k in sampled]), _diagonal([fine_source[k] for k in sampled])
    moved = replace(mapping, matrices=np.linalg.inv(from_fine) @ matrices @ to_fine, offsets=tuple(offsets), start=0)
    return replace(job, source=source, mapping=moved, grid=grid)


def coarse_to_fine(coarse: Grid, fine: Grid) -> list[tuple[float, float]]:
    """For each axis (step, start): index `step * i + start` of a fine grid is index i of a coarse one along it."""
    both = fine.inverse_matrix @ coarse.matrix
    return [(float(both[k, k]), float(both[k, -1])) for k in range(coarse.ndim)]


def _diagonal(steps: Sequence[tuple[float, float]]) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    matrix = np.eye(len(steps) + 1)
    for k, (step, start) in enumerate(steps):
        matrix[k, k], matrix[k, -1] = step, start
    return matrix
