"""What `register(model="bspline", resolution="full")` does with images that do not fit the memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from daskreg.blocks.memory import release_memory
from daskreg.geometry import Box
from daskreg.registration.blockwise.coarse import LAYER_VOXELS, coarse_images
from daskreg.registration.blockwise.estimate import lazy_pair, region_of
from daskreg.registration.blockwise.image import LazyImage, Region
from daskreg.registration.blockwise.inputs import lazy_images
from daskreg.registration.blockwise.layer_match import LayerMatch
from daskreg.registration.blockwise.layer_passes import BLOCK_BYTES
from daskreg.registration.blockwise.layers import estimate_layers_of_all_voxels, share_of_weight, without_voxels
from daskreg.registration.blockwise.register import HOPELESS, Place
from daskreg.registration.blockwise.work import Work
from daskreg.registration.deformable import judged
from daskreg.registration.deformable.affine_start import AffineStage, affine_of, checked_base
from daskreg.registration.deformable.coarse_to_fine import LEAST_TOLERANCE
from daskreg.registration.deformable.estimate import LayerEstimate, estimate_layers
from daskreg.registration.deformable.fit import DeformableFit
from daskreg.registration.deformable.level_images import LevelImages
from daskreg.registration.deformable.metric_choice import metric_of
from daskreg.registration.deformable.noise_model import informative_box
from daskreg.registration.deformable.register_bspline import (
    check_memory,
    control_spacing,
    fit_of,
    slides_of,
    verdict_of,
)
from daskreg.registration.deformable.splines.control_grid import ControlGrid, control_grids
from daskreg.registration.deformable.splines.layers import Layers
from daskreg.registration.images import Image, batch_of
from daskreg.registration.problem import SolverOptions
from daskreg.registration.pyramids.pyramid import FinestLevel, Pyramid, pyramid, standardised
from daskreg.registration.rejection import with_inliers
from daskreg.reporting.fit import Fit
from daskreg.runtime.device import library_threads, limit_threads
from daskreg.runtime.threads import use_threads

# Control points are estimated on the coarse images where a cell has so many voxels of these along each axis.
_CELL = 2.0


@dataclass(frozen=True)
class LayersRequest:
    """The options of `register` for layers between images that are read in blocks.

    affine_stage: registers the coarse images by an affine map. metric: None to let the coarse images say which.
    """

    affine_stage: AffineStage
    metric: str | None
    init: Any
    spacing: float | Sequence[float] | None
    options: SolverOptions
    place: Place

    def __call__(self, fixed: Any, moving: Any, *, masks: tuple[Any, Any], channel: int | str | None) -> DeformableFit:
        """Register one image to another, with their masks.

        The fit is at coarse resolution where that says that the images cannot be registered.
        """
        images = lazy_images(fixed, moving, masks=masks, channel=channel)
        grids = control_grids(images[0].grid, control_spacing(self.spacing, images[0].grid, images[1].grid))
        check_memory(grids[-1])
        options = replace(self.options, device="cpu")
        init = self.init.pull if isinstance(self.init, Fit) else self.init
        asked = ("bspline", self.metric, _identity(init, images), grids[-1].spacing, options, BLOCK_BYTES, LAYER_VOXELS)
        work = self.place.work(*images, asked)
        coarse = coarse_images(images, work, voxels=LAYER_VOXELS, metric=self.metric or "ncc", most_bytes=BLOCK_BYTES)
        with limit_threads(), use_threads(library_threads()):
            fit = self._fit(images, coarse, grids, work)
        work.finish()
        return fit

    def _fit(
        self,
        images: tuple[LazyImage, LazyImage],
        coarse: tuple[Image, Image],
        grids: Sequence[ControlGrid],
        work: Work,
    ) -> DeformableFit:
        named = isinstance(self.init, str)
        start = affine_of(coarse, self.affine_stage, self.metric) if named else self.init
        base = start.pull if isinstance(start, Fit) else start
        base = checked_base(base, images[0].grid, images[1].grid)
        levels, variance = self._levels(coarse)
        coarse_grids, most = _coarse_grids(grids, levels[-1].step), self.options.max_iterations
        metric = self.metric or metric_of(levels, coarse_grids, base, max_iterations=most)
        tolerance = max(self.options.tolerance, LEAST_TOLERANCE)
        found = estimate_layers(levels, coarse_grids, base, metric=metric, tolerance=tolerance, max_iterations=most)

        def fit_to(levels: Pyramid, found: LayerEstimate, slides: Callable[[], bool] | None) -> DeformableFit:
            verdict = verdict_of(found, levels, coarse[0].grid, metric)
            return fit_of(found, verdict, start, coarse, metric=metric, variance=variance, slides=slides)

        rough = fit_to(levels, found, None)
        if rough.status in HOPELESS:
            return rough
        finest = FinestLevel.of(images[0].grid, images[1].grid, self.options.smoothing)
        regions, covered = (_inliers(found, levels, coarse[0]), None), share_of_weight(found.images.weight)
        batches = batch_of(coarse[0]), batch_of(coarse[1])
        pair = lazy_pair(images, coarse, batches, regions, finest, metric=metric)
        around = None
        if metric == "lncc":
            images_here, there = _finest(levels, found, metric), found.state.layers.transform
            around = LayerMatch.of(images_here, there, pair.fixed.grid, grids[-1])
        informative = informative_box(found.state.found.weight, found.images.gradient, pair.shape)
        found = without_voxels(found)
        del rough, levels, batches  # the coarse images on all levels take as much memory as the blocks
        release_memory()
        found = estimate_layers_of_all_voxels(
            pair,
            found,
            base,
            work,
            grids=grids,
            sigmas=finest.sigmas,
            covered=covered,
            matched=metric == "ncc",
            around=around,
            informative=Box.from_slices(informative),
            tolerance=tolerance,
        )
        levels, _ = self._levels(coarse)
        current = found.state.layers
        coarsely = _finest(levels, found, metric)
        aligned = coarsely.evaluate(current.transform)
        shifts = judged.shifts_left(coarsely, aligned, current.control)
        found = replace(found, images=coarsely, shifts=shifts)
        if around is not None:
            # Windows of coarse voxels have other variances than all voxels: both scores are those of the coarse images.
            start = coarsely.evaluate(Layers.start(base, grids[0]).transform)
            found = replace(found, before=start.score, state=replace(found.state, found=aligned))
        slides = slides_of(
            found,
            levels,
            coarse_grids,
            start=start,
            metric=metric,
            tolerance=tolerance,
            max_iterations=most,
        )
        fit = fit_to(levels, found, slides)
        every = (1,) * images[0].grid.ndim
        return replace(fit, reduced=(every, every))

    def _levels(self, coarse: tuple[Image, Image]) -> tuple[Pyramid, float]:
        """The pyramid of the coarse images, and the variance of the fixed one."""
        f, m, variance = standardised(
            batch_of(coarse[0]), batch_of(coarse[1]), "mse" if self.metric == "mse" else "ncc"
        )
        return pyramid(f, m, levels=self.options.levels, smoothing=self.options.smoothing), float(variance[0])


def _finest(levels: Pyramid, found: LayerEstimate, metric: str) -> LevelImages:
    """The coarse images, without the voxels that were excluded."""
    return LevelImages.of(with_inliers(levels[-1], found.inliers), metric, found.state.layers.control.spacing)


def _identity(init: Any, images: tuple[LazyImage, LazyImage]) -> str:
    """What distinguishes an initial pose, or a transform that layers begin from, from others."""
    if isinstance(init, str):
        return init
    fixed, moving = (image.grid for image in images)
    numbers, facts = checked_base(init, fixed, moving).index_map(fixed, moving, moving.names).identity()
    return hashlib.sha256(numbers + repr(facts).encode()).hexdigest()


def _coarse_grids(grids: Sequence[ControlGrid], step: float) -> list[ControlGrid]:
    """Those of which a cell has enough coarse voxels; the coarsest one always."""
    return [grid for k, grid in enumerate(grids) if k == 0 or min(grid.spacing) >= _CELL * step]


def _inliers(found: LayerEstimate, levels: Pyramid, fixed: Image) -> Region | None:
    """Where the images do not contradict each other."""
    if found.inliers is None:
        return None
    shape = tuple(found.inliers.shape[1:])
    level = next(level for level in levels if level.fixed.grid.shape == shape)
    halved = np.rint(np.divide(level.fixed.grid.spacing, fixed.grid.spacing)).astype(int)
    return region_of(found.inliers, tuple((np.array(fixed.reduced) * halved).tolist()))
