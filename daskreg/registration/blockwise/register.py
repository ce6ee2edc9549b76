"""What `register(resolution="full")` does with images that do not fit the memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from daskreg.blocks.tasks import client_for
from daskreg.errors import ShapeMismatchError
from daskreg.geometry import shared_unit
from daskreg.registration.blockwise.checkpoint import Checkpoint
from daskreg.registration.blockwise.coarse import COARSE_VOXELS, coarse_image
from daskreg.registration.blockwise.estimate import BLOCK_BYTES, CoarsePair, estimate_all_voxels
from daskreg.registration.blockwise.image import LazyImage
from daskreg.registration.blockwise.inputs import key_of, lazy_image
from daskreg.registration.blockwise.slabs import SLAB_BYTES
from daskreg.registration.blockwise.work import Work
from daskreg.registration.fit import PairFit, pair_fit
from daskreg.registration.images import at_level, batch_of, masked_fraction, without_bad_voxels
from daskreg.registration.initial_pose import BestCandidate
from daskreg.registration.pipeline import estimate
from daskreg.registration.pose import Pose
from daskreg.registration.problem import Problem, SolverOptions, check_overlap, start_of
from daskreg.registration.verdicts import FitStatus
from daskreg.runtime.device import library_threads, limit_threads
from daskreg.runtime.threads import use_threads

_HOPELESS = (FitStatus.CHANCE, FitStatus.LOW_OVERLAP, FitStatus.NO_IMPROVEMENT)
"""Coarse estimates from which no pass over all voxels would find the pose."""


@dataclass(frozen=True)
class Request:
    """The options of `register` for images that are read in blocks."""

    model: str | Sequence[str]
    metric: str
    init: Any
    options: SolverOptions
    checkpoint: str | os.PathLike[str] | None
    client: Any
    progress: Callable[[int, int], None] | None

    def __call__(self, fixed: Any, moving: Any, *, masks: tuple[Any, Any], channel: int | str | None) -> PairFit:
        """Register one image to another, with their masks.

        The fit is at coarse resolution where that says that the images cannot be registered.
        """
        names = ("fixed", "moving")
        pairs = zip((fixed, moving), names, masks, strict=True)
        f, m = (lazy_image(value, what=what, mask=mask, channel=channel) for value, what, mask in pairs)
        if f.grid.ndim != m.grid.ndim:
            raise ShapeMismatchError(f"fixed is {f.grid.ndim}D and moving {m.grid.ndim}D")
        unit = shared_unit(f.grid.unit, m.grid.unit, "fixed and moving")
        pose = Pose.of(self.model, f.grid.ndim)
        init = self.init if isinstance(self.init, str) else start_of(self.init, f.grid.ndim, unit)
        if not isinstance(init, str) or init in ("auto", "identity"):
            check_overlap(f.grid, m.grid, np.eye(pose.ndim + 1) if isinstance(init, str) else init)
        problem = Problem(pose, f.grid.centre, self.metric)
        options = replace(self.options, device="cpu")
        work = self._work(f, m, (pose.groups, pose.common_scale, self.metric, repr(init), options))
        images = [coarse_image(image, work, what=what, most_bytes=min(BLOCK_BYTES, SLAB_BYTES))
                  for image, what in zip((f, m), names, strict=True)]  # fmt: skip
        [images[0]], [images[1]] = without_bad_voxels(images[:1], images[1:])
        if self.metric == "mse":
            images[1] = at_level(images[1], images[0].offset)
        both, batches = (images[0], images[1]), (batch_of(images[0]), batch_of(images[1]))
        masked = masked_fraction(images[0]), masked_fraction(images[1])
        with limit_threads(), use_threads(library_threads()):
            found = estimate(problem, options, *batches, BestCandidate(init), judged=True)
        reduced = images[0].reduced, images[1].reduced
        if found.pair(0).status not in _HOPELESS:
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

    def _work(self, fixed: LazyImage, moving: LazyImage, options: tuple[Any, ...]) -> Work:
        sources = [source for image in (fixed, moving) for source in (image.source, image.mask) if source is not None]
        client = client_for(self.client, *sources)
        file = None
        if self.checkpoint is not None:
            file = Checkpoint(self.checkpoint, key_of(fixed, moving, (*options, BLOCK_BYTES, COARSE_VOXELS)))
        return Work(client, file, self.progress)
