"""What `register(resolution="full")` does with images that do not fit the memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from daskreg.blocks.tasks import client_for
from daskreg.geometry import shared_unit
from daskreg.registration.blockwise.checkpoint import Checkpoint
from daskreg.registration.blockwise.coarse import COARSE_VOXELS, coarse_images
from daskreg.registration.blockwise.estimate import BLOCK_BYTES, CoarsePair, estimate_all_voxels
from daskreg.registration.blockwise.image import LazyImage
from daskreg.registration.blockwise.inputs import key_of, lazy_images
from daskreg.registration.blockwise.work import Work
from daskreg.registration.fit import PairFit, pair_fit
from daskreg.registration.images import batch_of, masked_fraction
from daskreg.registration.initial_pose import BestCandidate
from daskreg.registration.pipeline import estimate
from daskreg.registration.pose import Pose
from daskreg.registration.problem import Problem, SolverOptions, check_overlap, start_of
from daskreg.registration.verdicts import FitStatus
from daskreg.runtime.device import library_threads, limit_threads
from daskreg.runtime.threads import use_threads

HOPELESS = (FitStatus.CHANCE, FitStatus.LOW_OVERLAP, FitStatus.NO_IMPROVEMENT)
"""Coarse estimates from which no pass over all voxels would find the pose."""


@dataclass(frozen=True)
class Place:
    """Where blocks are worked on, and what becomes of their results: see `register`."""

    checkpoint: str | os.PathLike[str] | None
    client: Any
    progress: Callable[[int, int], None] | None

    def work(self, fixed: LazyImage, moving: LazyImage, asked: tuple[Any, ...]) -> Work:
        """For a pair.

        Args:
            asked: options on which the results depend.

        Raises: see `Checkpoint`.
        """
        sources = [source for image in (fixed, moving) for source in (image.source, image.mask) if source is not None]
        client = client_for(self.client, *sources)
        file = None if self.checkpoint is None else Checkpoint(self.checkpoint, key_of(fixed, moving, asked))
        return Work(client, file, self.progress)


@dataclass(frozen=True)
class Request:
    """The options of `register` for images that are read in blocks."""

    model: str | Sequence[str]
    metric: str
    init: Any
    options: SolverOptions
    place: Place

    def __call__(self, fixed: Any, moving: Any, *, masks: tuple[Any, Any], channel: int | str | None) -> PairFit:
        """Register one image to another, with their masks.

        The fit is at coarse resolution where that says that the images cannot be registered.
        """
        f, m = lazy_images(fixed, moving, masks=masks, channel=channel)
        unit = shared_unit(f.grid.unit, m.grid.unit, "fixed and moving")
        pose = Pose.of(self.model, f.grid.ndim)
        init = self.init if isinstance(self.init, str) else start_of(self.init, f.grid.ndim, unit)
        if not isinstance(init, str) or init in ("auto", "identity"):
            check_overlap(f.grid, m.grid, np.eye(pose.ndim + 1) if isinstance(init, str) else init)
        problem = Problem(pose, f.grid.centre, self.metric)
        options = replace(self.options, device="cpu")
        asked = (pose.groups, pose.common_scale, self.metric, repr(init), options, BLOCK_BYTES, COARSE_VOXELS)
        work = self.place.work(f, m, asked)
        both = coarse_images((f, m), work, voxels=COARSE_VOXELS, metric=self.metric, most_bytes=BLOCK_BYTES)
        batches = batch_of(both[0]), batch_of(both[1])
        masked = masked_fraction(both[0]), masked_fraction(both[1])
        with limit_threads(), use_threads(library_threads()):
            found = estimate(problem, options, *batches, BestCandidate(init), judged=True)
        reduced = both[0].reduced, both[1].reduced
        if found.pair(0).status not in HOPELESS:
            found = estimate_all_voxels(problem, options, (f, m), CoarsePair(both, batches, found), work)
            if found.level is None:
                reduced = (1,) * f.grid.ndim, (1,) * m.grid.ndim
        work.finish()
        fit = pair_fit(
            problem,
            found.pair(0),
            both,
            model=self.model if isinstance(self.model, str) else pose.groups,
            metric=self.metric,
            unit=unit,
            masked=masked,
        )
        return replace(fit, reduced=reduced)
