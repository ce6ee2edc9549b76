"""Mutual information as a likelihood, for images of different modalities or stains.

The mutual information of two images is the gain of likelihood of one by the other, under the joint distribution of
their values (Roche et al. 2000): the mean of log p(fixed, warped) / (p(fixed) p(warped)). Its derivative by the value
of a voxel is a score, and the expected square of the score is Fisher's information of that value. They take the places
of the residual and the weight in the normal equations of a Gauss-Newton step, so a step, its noise and its prior are
those of a sum of squares. For jointly normal values both are the same.

The joint distribution is that of Mattes et al. (2003): a histogram with cubic B-splines as windows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from daskreg.registration import joint_histogram_numba
from daskreg.registration.metrics import bins_for

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]

_OUTSIDE = 1e-3
"""The share of values beyond each end of the bins, so that a few bright voxels do not widen all of them."""
_ENOUGH = 1 << 18
"""Values that are enough for a quantile."""
_LEAST = 0.01
"""Of the mean information: the least at a value, where few voxels would make it uncertain."""


@dataclass(frozen=True)
class Bins:
    """How the values of an image are divided. low, high: the ends; values beyond count as these."""

    low: float
    high: float

    @classmethod
    def of(cls, image: Singles, known: NDArray[np.bool_]) -> Bins:
        """known: (*shape), which voxels count."""
        values = image[known]
        values = values[:: max(1, values.size // _ENOUGH)]
        if not values.size:
            return cls(0.0, 1.0)
        low, high = np.quantile(values, (_OUTSIDE, 1 - _OUTSIDE)).tolist()
        return cls(low, high) if high > low else cls(float(values.min()), float(values.max()))

    def scale(self, bins: int) -> float:
        """Bins by a unit of the value; two are left free at both ends, so that the windows stay inside."""
        return (bins - 5) / max(self.high - self.low, 1e-12)

    def positions(self, image: Singles, bins: int) -> Singles:
        """(1, N) in bins, from 2 to bins - 3."""
        found = np.clip((image.reshape(1, -1) - self.low) * self.scale(bins) + 2, 2, bins - 3)
        return np.asarray(found, dtype=np.float32)


@dataclass(frozen=True)
class Dependence:
    """How two images depend on each other.

    nats: their mutual information. left: entropy of the fixed image that is left when the warped one is known.
    by_fixed, by_warped: (*shape) derivatives of the number of voxels times the mutual information, by the value of each
    voxel. information: (*shape) the expected square of `by_fixed`, given the fixed value. predicted: (*shape) the mean
    of the fixed values of voxels with the same warped value.
    """

    nats: float
    left: float
    by_fixed: Singles
    by_warped: Singles
    information: Singles
    predicted: Singles


def dependence(fixed: Singles, warped: Singles, weight: Singles, ends: tuple[Bins, Bins]) -> Dependence:
    """Of two images of one shape.

    Args:
        weight: 0 where a voxel does not count. ends: of the values of both.
    """
    bins = bins_for(fixed.size)
    at = ends[0].positions(fixed, bins), ends[1].positions(warped, bins)
    joint = joint_histogram_numba.joint(at[0], at[1], weight.reshape(1, -1), bins)[0]
    joint /= max(float(joint.sum()), 1e-30)
    of_fixed, of_warped = joint.sum(1), joint.sum(0)
    tiny = 1e-12
    gain = np.log((joint + tiny) / (of_fixed[:, None] * of_warped + tiny))
    nats = float((joint * gain).sum())
    ones = np.ones((1, fixed.size), np.float32)
    slopes = joint_histogram_numba.gradients(at[0], at[1], ones, gain[None])[:2]
    by_fixed, by_warped = (
        np.where((p > 2) & (p < bins - 3), slope * np.float32(end.scale(bins)), np.float32(0)).reshape(fixed.shape)
        for p, slope, end in zip(at, slopes, ends, strict=True)
    )
    return Dependence(
        nats=nats,
        left=-float((of_fixed * np.log(of_fixed + tiny)).sum()) - nats,
        by_fixed=by_fixed,
        by_warped=by_warped,
        information=_information(by_fixed, weight, at[0], bins).reshape(fixed.shape),
        predicted=_predicted(joint, at[1], ends[0], bins).reshape(fixed.shape),
    )


def _information(score: Singles, weight: Singles, positions: Singles, bins: int) -> Singles:
    """(1, N) the mean square of the score over voxels of about the same fixed value."""
    bin_ = np.rint(positions).astype(np.int64).ravel()
    count = np.bincount(bin_, weight.ravel(), bins)
    squares = np.bincount(bin_, (weight * score * score).ravel(), bins)
    mean = float(squares.sum()) / max(float(count.sum()), 1e-30)
    count, squares = (ndimage.gaussian_filter1d(one, 1.0, mode="nearest") for one in (count, squares))
    found = np.maximum(squares / np.maximum(count, 1e-9), _LEAST * mean + 1e-30)
    return found.astype(np.float32)[bin_][None]


def _predicted(joint: Floats, positions: Singles, end: Bins, bins: int) -> Singles:
    """(1, N) the mean fixed value at each warped value."""
    values = end.low + (np.arange(bins) - 2) / end.scale(bins)
    given = joint.sum(0)
    means = np.where(given > 1e-9, values @ joint / np.maximum(given, 1e-30), float(values @ joint.sum(1)))
    return np.interp(positions, np.arange(bins), means).astype(np.float32)
