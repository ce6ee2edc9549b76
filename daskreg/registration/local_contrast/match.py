"""Gain and offset around each voxel, for layers with the metric "lncc".

Around each node of a grid, fixed = gain warped + offset + noise, by weighted least squares; the weights are the cubic
B-splines of the nodes, by which the results are interpolated, too. What is minimised is the mean of 1 - correlation^2
over these windows. So a voxel counts by the inverse of the variance of its window, and its gradient as far as both
images have it in common: where they share nothing, noise is no information.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
    gain, offset, precision and common are interpolated.
    """

    residual: Singles
    left: float
    misfit: float
    nodes: Singles
    windows: Windows

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
        return self.windows.at_voxels(self.nodes[0])

    @property
    def offset(self) -> Singles:
        """(*shape)."""
        return self.windows.at_voxels(self.nodes[1])

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
        return LocalMatch(self.residual[tuple(box)], self.left, self.misfit, self.nodes, self.windows.part(box))

    def shared(self, weight: Singles) -> tuple[Singles, Singles]:
        """(*shape) each: the residual of the whole gradient, for that part of it that both images share, and the weight
        of the gradient."""
        return self.windows.shared(self.residual, weight, self.nodes[2:])


def local_match(
    fixed: Singles, warped: Singles, weight: Singles, windows: Windows, *, repeats: int = _REPEATS
) -> LocalMatch:
    """weight: (*shape) 0 where a voxel does not count. repeats: of the fit to what is left of the residual."""
    n, f, w, ff, fw, sq = windows.moments(fixed, warped, weight)
    total = max(float(n.sum(dtype=np.float64)), 1e-9)
    count: Singles = np.asarray(np.maximum(n, 1e-3), np.float32)
    f, w = f / count, w / count
    ff, fw, sq = ff / count - f * f, fw / count - f * w, sq / count - w * w

    def mean(values: NDArray[Any]) -> float:
        return float((n * values).sum(dtype=np.float64)) / total

    # What is known without the voxels of a window: what all windows have in common.
    few = np.float32(_FEW) / (count + np.float32(_FEW))

    def steadied(values: Singles) -> Singles:
        return np.asarray(np.maximum(values, 0) * (1 - few) + few * max(mean(values), 1e-12), np.float32)

    ff, fw, sq = steadied(ff), steadied(fw), steadied(sq)
    gain = fw / sq
    left = np.maximum(ff - gain * fw, 0)
    common = np.sqrt(np.clip(1 - left / ff, 1e-4, 1))
    spread = ff + np.float32(_LEAST_VARIANCE * mean(ff))
    offset = f - gain * w
    for _ in range(repeats):  # means of windows, interpolated, are smoother than gain and offset are: add what is left
        r, rw = windows.residual_moments(fixed, warped, weight, np.stack([gain, offset])) / count
        more = (1 - few) * (rw - r * w) / sq
        gain, offset = gain + more, offset + (r - more * w)
    nodes = np.stack([gain, offset, 1 / spread, common])
    return LocalMatch.given((fixed, warped), weight, nodes, windows, min(mean(left / spread), 1.0))
