"""`LayerPasses`: passes over all voxels of a pair for layers of B-splines, block by block."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from daskreg.geometry import Box
from daskreg.registration.blockwise import layer_noise, layer_sums
from daskreg.registration.blockwise.layer_match import LayerMatch
from daskreg.registration.blockwise.layer_noise import LayerNoise, LayerNoiseTask, noise_of_layers
from daskreg.registration.blockwise.layer_pair import LayerPair
from daskreg.registration.blockwise.layer_sums import LayerTask, LayerTotal, sum_layers
from daskreg.registration.blockwise.pair import LazyPair, blocks_for
from daskreg.registration.blockwise.work import Work
from daskreg.registration.deformable.cell_sums import Singles, nodes_of, square_bytes
from daskreg.registration.deformable.level_images import Match
from daskreg.registration.deformable.splines.layers import Layers

Floats = NDArray[np.float64]
Sigmas = tuple[tuple[float, ...], tuple[float, ...]]

BLOCK_BYTES = 512 << 20
"""Bytes of voxels, as stored, that a block reads of each image at most. Not all are in memory at once (`slabs`)."""
PASSES = 2
"""Passes over all blocks that an estimate takes as a rule."""
# Bytes of J^T J of a block.
_SQUARE_BYTES = 28 << 20


@dataclass(frozen=True)
class LayerPass:
    """What a pass found: sums over all voxels at some layers.

    match: of the images. around: gain and offset around each voxel, with which residuals were taken, for "lncc". next:
    those that the images at the layers have. mean_square: of the residual, total: of the weight. misfit: what is
    minimised. before: the score of the base alone.
    """

    match: Match
    around: LayerMatch | None
    next: LayerMatch | None
    total: float
    mean_square: float
    misfit: float
    linear: Floats
    square: Singles | None
    before: tuple[float, float] | None


@dataclass
class LayerPasses:
    """Passes over the blocks of a pair.

    matched: whether one gain and one offset are free. informative: the voxels whose noise is that of all, see
    `noise_model.informative_box`.
    """

    pair: LazyPair
    sigmas: Sigmas
    work: Work
    matched: bool
    informative: Box
    blocks: list[Box] = field(default_factory=list)
    count: int = 0

    def noise(self, layers: Layers, match: Match | None, around: LayerMatch | None) -> LayerNoise:
        """The noise of the informative voxels, at some layers."""
        task = LayerNoiseTask(self._pair((layers,)), self.informative, self.sigmas, match, around)
        name = self._name(task.pair, around, match, self.pair.fixed.sigmas, self.informative)
        [found] = self.work.run(
            f"noise-{name}",
            noise_of_layers,
            [task],
            label="noise",
            store=layer_noise.to_arrays,
            restore=layer_noise.from_arrays,
        )
        return found

    def divide(self, layers: Layers) -> None:
        """Choose the blocks, for layers near those of the passes."""
        control, level = layers.control, self.pair.fixed.grid
        needs = self._pair((layers,)).needs
        self.blocks = blocks_for(
            self.pair,
            needs,
            BLOCK_BYTES,
            lambda box: square_bytes(nodes_of(control, level, box).shape) <= _SQUARE_BYTES,
        )
        self.work.expected = self.work.done + PASSES * (len(self._overlapping(self._pair((layers,)))) + 1)

    def run(
        self, layers: Layers, match: Match, around: LayerMatch | None, *, with_square: bool, base: Layers | None
    ) -> LayerPass:
        """Sum over all voxels.

        Args:
            match, around: about those of the images at these layers. base: whose score is wanted, too.
        """
        self.count += 1
        control = layers.control
        pair = self._pair((layers,) if base is None else (layers, base))
        held = with_square * square_bytes((1,) * control.ndim)  # earlier versions held more sums
        # The same maps may be another layer after finished ones, whose J^T J is another one.
        facts = (held, self.matched, self.blocks, self.pair.fixed.sigmas, len(layers.finished))
        name = self._name(pair, around, match, facts)
        tasks, none = [], Box((0,) * control.ndim, (0,) * control.ndim)
        for number, box in self._overlapping(pair):
            nodes = nodes_of(control, self.pair.fixed.grid, box)
            current = layers.current[(slice(None), *nodes.slices)]
            seen = none if around is None else around.level.nodes(box)
            tasks.append(LayerTask(number, pair, box, control, nodes, current, match, with_square, around, seen))
        windows = (0,) * control.ndim if around is None else around.level.shape
        total = LayerTotal.of(pair, control.shape, windows, with_square=with_square)
        self.work.each(
            f"layers-{name}",
            sum_layers,
            tasks,
            take=total.add,
            label=f"pass {self.count}",
            store=layer_sums.to_arrays,
            restore=layer_sums.from_arrays,
        )
        products = total.products
        found, mean_square = _match(products[0], matched=self.matched)
        following, misfit = None, mean_square
        if around is not None:
            following, misfit = around.after(total.windows)
            found = replace(found, correlation=float(np.sqrt(1 - misfit)))
        # What J^T r is with the gain and the offset that follow from all voxels.
        linear, *others = total.linear
        for other, change in zip(others, (found.gain - match.gain, found.offset - match.offset), strict=False):
            linear = linear - change * other
        before = None
        if base is not None:
            one, least = _match(products[1], matched=self.matched)
            before = one.correlation, least
        weight = max(products[0, 0], 1e-9)
        return LayerPass(found, around, following, weight, mean_square, misfit, linear, total.square, before)

    def _overlapping(self, pair: LayerPair) -> list[tuple[int, Box]]:
        """The blocks where the images overlap, by number: the sums of the others are zero."""
        return [(number, box) for number, box in enumerate(self.blocks) if not pair.needs(box)[1].empty]

    def _name(self, pair: LayerPair, around: LayerMatch | None, *facts: object) -> str:
        """Of a pass in the checkpoint: it says all that the results depend on."""
        digest = hashlib.sha256(repr(facts).encode())
        for one in pair.maps:
            numbers, more = one.identity()
            digest.update(numbers)
            digest.update(repr(more).encode())
        if around is not None:
            digest.update(around.identity())
        return digest.hexdigest()[:16]

    def _pair(self, layers: Sequence[Layers]) -> LayerPair:
        return LayerPair.of(self.pair, [one.transform for one in layers], matched=self.matched)


def _match(products: Floats, *, matched: bool) -> tuple[Match, float]:
    """How the images match, and the mean square of the residual, from `LayerSums.products`."""
    f, w, ff, fw, ww = (products[1:] / max(products[0], 1e-9)).tolist()
    match = Match.of(f, w, ff, fw, ww, matched=matched)
    g, o = match.gain, match.offset
    return match, max(ff + g * g * ww + o * o - 2 * g * fw - 2 * o * f + 2 * g * o * w, 1e-12)
