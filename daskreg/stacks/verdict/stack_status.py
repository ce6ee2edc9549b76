"""How the estimate of a stack ended."""

from __future__ import annotations

from enum import Enum


class StackStatus(Enum):
    """How an estimate ended; the value says what happened, and the remedy."""

    CONVERGED = "every slice was fitted"
    BRIDGED = "some slices could not be fitted and are interpolated from their neighbours: look at fit.outliers"
    BROKEN = "at some places no fit joins neighbouring slices, and no motion was assumed: look at fit.breaks"
    UNLIKE = "a third of the slices or more stand out: look at fit.kinds, and whether the slices are of one specimen"
    INCONSISTENT = (
        "pairs of slices contradict each other, so their agreement is chance, or the model too stiff: look at "
        "fit.cycles, and try another model, masks, or anchors"
    )
    AMBIGUOUS = (
        "the slices repeat themselves and agree as well when shifted by fit.rival; the smallest motions were taken: "
        "use anchors, or a mask of what does not repeat"
    )
    FIXED_PATTERN = (
        "something that stays with the detector agrees better than the specimen, which moves: divide by a flat field, "
        "subtract the mean of the slices, or mask it"
    )
    BRIGHTNESS = 'contrast differs from slice to slice, which metric="mse" takes for motion: use metric="ncc"'
    MAX_ITERATIONS = "the fields still changed when their steps ended: raise max_iterations, or take a greater spacing"
    UNCERTAIN = "the poses are known to a few voxels only: look at fit.sigma; use fewer parameters or larger slices"
    FAILED = "hardly any slice could be fitted: try another model or metric, masks, or a coarser level"
    EDITED = "the poses of the slices are those of a table"
