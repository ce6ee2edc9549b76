"""Gain and offset around each voxel, for layers with the metric "lncc".

Around each node of a grid, fixed = gain warped + offset + noise, by weighted least squares; the weights are the cubic
B-splines of the nodes, by which the results are interpolated, too. What is minimised is the mean of 1 - correlation^2
over these windows. So a voxel counts by the inverse of the variance of its window, and its gradient as far as both
images have it in common: where they share nothing, noise is no information.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.registration.local_contrast.windows import Windows

Singles = NDArray[np.float32]

_LEAST_VARIANCE = 0.02
"""By which the variance of windows is greater, as a share of the mean, so that flat ones do not count most."""
_FEW = 16.0
"""Voxels of a window that count as much as what is known without them."""
_REPEATS = 2


@dataclass(frozen=True)
class LocalMatch:
    """Of a pair at one transform.

    residual: (*shape) fixed - (gain warped + offset). left: the mean of 1 - correlation^2, of gain and offset that are
    the same in a window. misfit: the mean of the residual, squared, times the precision. nodes: (4, *nodes) from which
    gain, offset, precision and common are interpolated. known: what gain and offset are to be added to.
    """

    residual: Singles
    left: float
    misfit: float
    nodes: Singles
    windows: Windows
    known: LocalMatch | None = None

    @classmethod
    def given(
        cls,
        images: tuple[Singles, Singles],
        weight: Singles,
        nodes: Singles,
        windows: Windows,
        left: float | None = None,
    ) -> LocalMatch:
        """Of a fixed and a warped image, with gain, offset, precision and common of these nodes.

        Args:
            left: None where it is not known: the misfit is less, for its gain and offset vary in a window.
        """
        residual, square = windows.residual(*images, weight, nodes[:3])
        misfit = square / max(float(weight.sum(dtype=np.float64)), 1e-9)
        return cls(residual, min(misfit, 1.0) if left is None else left, misfit, nodes, windows)

    @property
    def gain(self) -> Singles:
        """(*shape)."""
        found = self.windows.at_voxels(self.nodes[0])
        return found if self.known is None else found + self.known.gain

    @property
    def offset(self) -> Singles:
        """(*shape)."""
        found = self.windows.at_voxels(self.nodes[1])
        return found if self.known is None else found + self.known.offset

    @property
    def precision(self) -> Singles:
        """(*shape) the inverse of the variance of the fixed image."""
        return self.windows.at_voxels(self.nodes[2])

    @property
    def common(self) -> Singles:
        """(*shape) the correlation, 0..1."""
        return self.windows.at_voxels(self.nodes[3])

    def part(self, box: Sequence[slice]) -> LocalMatch:
        """The same for the voxels of a box, given by slices with a start and a stop; left and misfit are of all."""
        known = None if self.known is None else self.known.part(box)
        return replace(self, residual=self.residual[tuple(box)], windows=self.windows.part(box), known=known)

    def shared(self, weight: Singles) -> tuple[Singles, Singles]:
        """(*shape) each: the residual of the whole gradient, for that part of it that both images share, and the weight
        of the gradient."""
        return self.windows.shared(self.residual, weight, self.nodes[2:])


def local_match(
    fixed: Singles, warped: Singles, weight: Singles, windows: Windows, *, repeats: int = _REPEATS
) -> LocalMatch:
    """weight: (*shape) 0 where a voxel does not count. repeats: of the fit to what is left of the residual."""
    around = _Around.of(windows.moments(fixed, warped, weight))
    gain = around.both / around.warped_variance
    offset = around.fixed - gain * around.warped
    for _ in range(repeats):  # means of windows, interpolated, are smoother than gain and offset are: add what is left
        left = windows.residual_moments(fixed, warped, weight, np.stack([gain, offset]))
        more, more_offset = around.fit(left)
        gain, offset = gain + more, offset + more_offset
    nodes = np.stack([gain, offset, around.precision, around.common])
    return LocalMatch.given((fixed, warped), weight, nodes, windows, around.left)


def window_fit(moments: NDArray[Any], left: NDArray[Any]) -> tuple[Singles, float]:
    """What `local_match` finds, from sums of windows alone, where gain and offset are known but for a little.

    Args:
        moments: (6, *nodes), see `Windows.moments`. left: (2, *nodes) sums of what the known gain and offset leave of
            the fixed image, and of that times the warped image.

    Returns: (4, *nodes) what is to be added to gain and offset, precision and common, see `LocalMatch`; and `left` of
        that.
    """
    around = _Around.of(moments)
    nodes = np.stack([*around.fit(left), around.precision, around.common]).astype(np.float32)
    return nodes, around.left


@dataclass(frozen=True)
class _Around:
    """Of the windows of nodes, each (*nodes).

    count: voxels. few: the part that is not known from these. fixed, warped: means. warped_variance, both: variance of
    the warped image, and covariance of both. precision, common, left: see `LocalMatch`.
    """

    count: NDArray[Any]
    few: NDArray[Any]
    fixed: NDArray[Any]
    warped: NDArray[Any]
    warped_variance: NDArray[Any]
    both: NDArray[Any]
    precision: NDArray[Any]
    common: NDArray[Any]
    left: float

    @classmethod
    def of(cls, moments: NDArray[Any]) -> _Around:
        n, f, w, ff, fw, sq = moments
        total, count = max(float(n.sum(dtype=np.float64)), 1e-9), np.maximum(n, 1e-3)
        f, w = f / count, w / count
        few = _FEW / (count + _FEW)

        def mean(values: NDArray[Any]) -> float:
            return float((n * values).sum(dtype=np.float64)) / total

        def steadied(values: NDArray[Any]) -> NDArray[Any]:
            """With what all windows have in common where there are few voxels."""
            return np.asarray(np.maximum(values, 0) * (1 - few) + few * max(mean(values), 1e-12))

        ff, fw, sq = (steadied(x) for x in (ff / count - f * f, fw / count - f * w, sq / count - w * w))
        left = np.maximum(ff - fw * (fw / sq), 0)
        spread = ff + _LEAST_VARIANCE * mean(ff)
        common = np.sqrt(np.clip(1 - left / ff, 1e-4, 1))
        return cls(count, few, f, w, sq, fw, 1 / spread, common, min(mean(left / spread), 1.0))

    def fit(self, left: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Gain and offset of a residual, from sums of it and of it times the warped image."""
        r, rw = left / self.count
        gain = (1 - self.few) * (rw - r * self.warped) / self.warped_variance
        return gain, r - gain * self.warped
