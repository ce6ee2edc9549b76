"""The sums of one block for a step of layers of B-splines: what runs on a worker, or in a thread.

A block returns sums for the control points of its own cells alone, and sums of products of the images, from which the
gain and the offset of all voxels follow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.geometry import Box
from daskreg.registration.blockwise.layer_match import WINDOW_SUMS, LayerMatch
from daskreg.registration.blockwise.layer_pair import LayerPair
from daskreg.registration.blockwise.pair import tiles
from daskreg.registration.blockwise.slabs import slabs_of
from daskreg.registration.deformable.cell_sums import Residuals, add_part, cell_sums, no_square, nodes_of
from daskreg.registration.deformable.level_images import LevelImages, Match
from daskreg.registration.deformable.splines.control_grid import ControlGrid
from daskreg.runtime.device import library_threads, limit_threads
from daskreg.runtime.threads import use_threads

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]


@dataclass(frozen=True)
class LayerTask:
    """A block at the transform of a pass.

    coefficients: (D, *nodes) of the current layer, for the control points of the block. gain, offset: with which
    residuals are taken. with_square: also J^T J. around: gain and offset around each voxel, for "lncc". window_nodes:
    the nodes of its finest level for the block; none without it.
    """

    number: int
    pair: LayerPair
    inside: Box
    control: ControlGrid
    nodes: Box
    coefficients: Floats
    match: Match
    with_square: bool
    around: LayerMatch | None
    window_nodes: Box

    def carrying_little(self) -> LayerTask:
        """The same task with what it needs of arrays in memory, and no more."""
        around = None if self.around is None else self.around.restrict(self.inside)
        return replace(self, pair=self.pair.restrict(self.inside), around=around)


@dataclass(frozen=True)
class LayerSums:
    """The sums of a block.

    products: (maps, 6) total weight, and the sums of fixed, warped, fixed squared, fixed times warped, warped squared.
    With gain and offset around each voxel, squares of the residual times the precision take the place of fixed squared,
    and the sums beside that and the total weight are zero.
    windows: (8, *window_nodes) see `LayerMatch.sums`, for the nodes of the windows of the block; empty without these.
    square: J^T J, see `cell_sums`; empty where it was not asked for. linear: (1 or 3, D, *nodes) J^T of the residual;
    where gain and offset are free, also of the warped image and of one: what J^T of the residual changes with them.
    """

    number: int
    nodes: Box
    products: Floats
    square: Singles
    linear: Floats
    window_nodes: Box
    windows: Floats


def sum_layers(task: LayerTask) -> LayerSums:
    """Read a block of both images and sum it, tile by tile."""
    with limit_threads(), use_threads(library_threads()):
        return _summed(task)


def _summed(task: LayerTask) -> LayerSums:
    nodes = task.nodes
    sums = LayerSums(
        task.number,
        nodes,
        np.zeros((len(task.pair.maps), 6)),
        no_square(nodes.shape) if task.with_square else np.zeros((0,) * 6, np.float32),
        np.zeros((linear_sums(task.pair), nodes.ndim, *nodes.shape)),
        task.window_nodes,
        np.zeros((WINDOW_SUMS, *task.window_nodes.shape)),
    )
    slabs = slabs_of(task.inside)
    for slab, stored in zip(slabs, task.pair.read_slabs(slabs), strict=True):
        for tile in tiles(slab) if stored is not None else ():
            images = task.pair.images(stored, tile) if stored is not None else None
            if images is not None:
                _add_tile(task, images, tile, sums)
    return sums


def linear_sums(pair: LayerPair) -> int:
    """How many sums J^T v a block returns, see `LayerSums.linear`."""
    return 3 if pair.matched else 1


def _add_tile(task: LayerTask, images: LevelImages, tile: Box, sums: LayerSums) -> None:
    """Add the sums of a tile to those of the block."""
    level, control = task.pair.pair.fixed.grid, task.control
    voxels: list[Residuals] = []
    products = []
    for number in range(len(task.pair.maps)):
        (warped, weight), moments = images.known(task.pair.warp(images, tile, number))
        if task.around is not None:
            local = task.around.between(images.fixed, warped, weight, tile)
            products.append([moments[0], 0.0, 0.0, local.misfit * moments[0], 0.0, 0.0])
            voxels = voxels or [Residuals(images.gradient, *local.shared(weight))]
            if number == 0:
                around = task.around.sums(images.fixed, warped, weight, local.residual, tile)
                seen = task.around.level.nodes(tile).within(task.around.level.nodes(task.inside))
                sums.windows[(slice(None), *seen.slices)] += around
        else:
            products.append(moments)
            voxels = voxels or _by_one_match(images, warped, weight, task.match)
    held = nodes_of(control, level, tile)
    local_nodes = held.within(task.nodes)
    current = task.coefficients[(slice(None), *local_nodes.slices)]
    for k, values in enumerate(voxels[: len(sums.linear)]):
        found = cell_sums(
            values,
            control,
            level,
            tile,
            coefficients=current if np.any(task.coefficients) else None,
            with_square=task.with_square and k == 0,
            held=held,
        )
        sums.linear[k][(slice(None), *local_nodes.slices)] += found.linear
        if found.square.size:
            add_part(sums.square, task.nodes.shape, found.square, local_nodes)
    sums.products[:] += np.array(products)


def _by_one_match(images: LevelImages, warped: Singles, weight: Singles, match: Match) -> list[Residuals]:
    """The residual, and what it changes by with gain and offset."""
    residual = images.fixed - (np.float32(match.gain) * warped + np.float32(match.offset))
    return [Residuals(images.gradient, values, weight) for values in (residual, warped, np.ones_like(warped))]


@dataclass(frozen=True)
class LayerTotal:
    """The sums of blocks for all control points, to which those of one after another are added.

    products, linear, windows: see `LayerSums`. square: J^T J; None where it was not asked for.
    """

    products: Floats
    linear: Floats
    square: Singles | None
    windows: Floats

    @classmethod
    def of(
        cls, pair: LayerPair, shape: tuple[int, ...], window_nodes: tuple[int, ...], *, with_square: bool
    ) -> LayerTotal:
        """The sums over no voxel for so many control points, and nodes of windows."""
        linear, windows = np.zeros((linear_sums(pair), len(shape), *shape)), np.zeros((WINDOW_SUMS, *window_nodes))
        return cls(np.zeros((len(pair.maps), 6)), linear, no_square(shape) if with_square else None, windows)

    def add(self, part: LayerSums) -> None:
        """Add the sums of a block."""
        self.products[:] += part.products
        self.linear[(slice(None), slice(None), *part.nodes.slices)] += part.linear
        self.windows[(slice(None), *part.window_nodes.slices)] += part.windows
        if self.square is not None:
            add_part(self.square, self.linear.shape[2:], part.square, part.nodes)


def to_arrays(sums: LayerSums) -> Mapping[str, NDArray[Any]]:
    """The sums as named arrays, for a file."""
    nodes, window_nodes = (np.array([box.start, box.stop]) for box in (sums.nodes, sums.window_nodes))
    numbers = {name: getattr(sums, name) for name in ("products", "square", "linear", "windows")}
    return {"nodes": nodes, "window_nodes": window_nodes, **numbers}


def from_arrays(number: int, arrays: Mapping[str, NDArray[Any]]) -> LayerSums:
    """The sums that `to_arrays` was given.

    Raises: KeyError for other arrays.
    """
    nodes, window_nodes = (Box(*map(tuple, arrays[name].tolist())) for name in ("nodes", "window_nodes"))
    products, square, linear, windows = (arrays[name] for name in ("products", "square", "linear", "windows"))
    return LayerSums(number, nodes, products, square, linear, window_nodes, windows)
