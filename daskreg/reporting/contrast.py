"""Which values are drawn black and white: percentiles of what was measured. NaN marks voxels without data.

Fill must not count. A corner that the other image does not reach would change the contrast of one image only, and two
images that agree would be drawn in different greys.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

PERCENTILES = (0.5, 99.5)
"""A few hot or dead voxels do not decide the contrast of an image."""


@dataclass(frozen=True)
class Window:
    """The values that are drawn black (`low`) and white (`high`)."""

    low: float
    high: float

    @classmethod
    def of(cls, values: NDArray[np.generic], where: Bools | None = None) -> Window:
        """The window of the finite values, or of those among them `where` is true.

        Where hardly any of these vary, as in a dark image with a few bright spots, it spans all of them.
        """
        numbers = np.asarray(values, dtype=np.float64)
        counted = np.isfinite(numbers) if where is None else np.isfinite(numbers) & where
        if not counted.any():
            return cls.of(numbers) if where is not None else cls(0.0, 1.0)
        used = numbers[counted]
        low, high = (float(v) for v in np.percentile(used, PERCENTILES))
        if not high > low:
            low, high = float(used.min()), float(used.max())
        return cls(low, high if high > low else low + 1.0)

    def scaled(self, values: NDArray[np.generic]) -> Floats:
        """The values from 0 (black) to 1 (white), clipped; NaN stays."""
        numbers = np.asarray(values, dtype=np.float64)
        return np.asarray(np.clip((numbers - self.low) / (self.high - self.low), 0, 1))


def common_windows(first: NDArray[np.generic], second: NDArray[np.generic]) -> tuple[Window, Window]:
    """The windows of two images of one shape, each over the voxels where both have data."""
    both = np.isfinite(np.asarray(first, dtype=np.float64)) & np.isfinite(np.asarray(second, dtype=np.float64))
    return Window.of(first, both), Window.of(second, both)
