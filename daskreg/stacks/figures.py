"""Figures of a fit: a slice and side views of the stack before and after, and its worst pairs, from small slices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from daskreg.geometry import Box, index_matrix
from daskreg.reporting import plots
from daskreg.sampling.sample import sample
from daskreg.stacks.inputs import source_along
from daskreg.stacks.slice_reader import SliceReader

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from daskreg.stacks.fit import StackFit

Singles = NDArray[np.float32]

MOST = 256
"""Voxels along each axis of the small stack that is shown, at most about twice as many."""


def stack_figures(fit: StackFit, stack: Any, *, channel: int | str | None = None) -> dict[str, Figure]:
    """Figures by caption; of the volumes of a series, the middle planes are shown."""
    source, position = source_along(stack, fit.raw_from_aligned.axis, channel)
    reader = SliceReader.of(source, position, most=MOST)
    step = max(1, -(-reader.count // MOST))
    images = [_raw_and_aligned(reader, fit, i) for i in range(0, reader.count, step)]
    before, after = (np.stack([_plane(image[k]) for image in images]) for k in (0, 1))
    grid = reader.grid
    aspect = grid.spacing[-2] / grid.spacing[-1]
    across = source.grid.spacing[position - len(source.lead)] if position >= len(source.lead) else grid.spacing[-1]
    figures = {
        "Before and after: a slice, and side views through the stack": plots.sides(
            before, after, spacing=(across * step, *grid.spacing[-2:])
        )
    }
    worst = []
    for a, b, score in fit.worst_pairs():
        (one, one_after), (other, other_after) = (_raw_and_aligned(reader, fit, i) for i in (a, b))
        name = f"{a} and {b} ({fit.metric} {score:.3f})"
        worst.append((name, _plane(one), _plane(other), _plane(one_after), _plane(other_after)))
    if worst:
        figures["The neighbours that agree least"] = plots.overlays(worst, aspect=aspect)
    return figures


def _raw_and_aligned(reader: SliceReader, fit: StackFit, index: int) -> tuple[Singles, Singles]:
    """A slice as read, and aligned."""
    image = reader.span(index, index + 1)[0]
    box = Box.of(reader.grid.shape)
    matrix = index_matrix(fit.raw_from_aligned.matrices[index], reader.grid, reader.grid)
    return image, np.asarray(sample(np.nan_to_num(image), box, matrix, box), dtype=np.float32)


def _plane(image: Singles) -> Singles:
    """The image, or the middle plane of a volume."""
    return image if image.ndim == 2 else image[len(image) // 2]
