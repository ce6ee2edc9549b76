"""Two images of one shape as one in colours: overlay, checkerboard, difference. NaN marks voxels without data.

Where only one image has data, nothing can be compared: it is drawn dim and grey. The colours are distinguished with
red-green colour blindness, too.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from daskreg.reporting.contrast import Floats, Window, common_windows

Image = NDArray[np.generic]

DIM = 0.35
"""Brightness of what is drawn where the other image has no data."""

FULL_DIFFERENCE = 0.5
"""Difference, as a fraction of the contrast of the images, that is drawn in full colour."""

_LESS, _SAME, _MORE = (np.array(c) / 255 for c in ((0, 90, 181), (247, 247, 247), (220, 100, 0)))


def grey(image: Image, window: Window | None = None) -> Floats:
    """(H, W, 3) from 0 to 1; black where there is no data."""
    scaled = (window or Window.of(image)).scaled(image)
    return np.repeat(np.nan_to_num(scaled)[..., None], 3, axis=-1)


def overlay(fixed: Image, moving: Image) -> Floats:
    """Fixed in green and moving in magenta: grey where they agree. (H, W, 3), 0 to 1."""
    a, b = (w.scaled(i) for w, i in zip(common_windows(fixed, moving), (fixed, moving), strict=True))
    return _with_dim(np.stack([b, a, b], axis=-1), a, b)


def checkerboard(fixed: Image, moving: Image, fields: int = 8) -> Floats:
    """Fields of both images in turn, about `fields` of them along the longer side. (H, W, 3), 0 to 1."""
    a, b = (w.scaled(i) for w, i in zip(common_windows(fixed, moving), (fixed, moving), strict=True))
    side = max(1, -(-max(a.shape) // fields))
    rows, columns = (np.arange(n) // side for n in a.shape)
    board = np.where((rows[:, None] + columns) % 2 == 0, a, b)
    return _with_dim(np.repeat(board[..., None], 3, axis=-1), a, b)


def difference(fixed: Image, moving: Image) -> Floats:
    """Moving minus fixed, each in its own contrast: blue is less, orange more, white the same. (H, W, 3), 0 to 1."""
    a, b = (w.scaled(i) for w, i in zip(common_windows(fixed, moving), (fixed, moving), strict=True))
    amount = np.clip((np.nan_to_num(b) - np.nan_to_num(a)) / FULL_DIFFERENCE, -1, 1)[..., None]
    coloured = _SAME + np.abs(amount) * (np.where(amount < 0, _LESS, _MORE) - _SAME)
    return _with_dim(coloured, a, b)


def _with_dim(coloured: Floats, a: Floats, b: Floats) -> Floats:
    """The colours where both have data; elsewhere what there is, dim."""
    one = DIM * np.nan_to_num(np.where(np.isfinite(a), a, b))
    both = (np.isfinite(a) & np.isfinite(b))[..., None]
    return np.asarray(np.where(both, coloured, one[..., None]))
