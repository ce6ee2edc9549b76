"""The finest level by blocks of rows, where it does not fit the memory.

An untilted parallel beam reconstructs each row of aligned projections for itself, so that a block of rows needs the
same rows of all projections, and those around it from which shifts, turns and filters bring something in. The sums of a
step (`normal_equations.Sums`) add up over the blocks.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import OptionError
from daskreg.registration.blockwise.work import Work
from daskreg.tomography.agreement import explained, varying_part
from daskreg.tomography.descent import Descent, Evaluation, descend
from daskreg.tomography.estimate import LEAST_NOISE, Solution, Uncertainty, bridged, shifts_are_known
from daskreg.tomography.matching import Problem, linearised, smoothed_noise, without_images
from daskreg.tomography.normal_equations import SAMPLED_ROWS, Coupling, Sums
from daskreg.tomography.poses import Fixed, Level
from daskreg.tomography.row_file import RowFile
from daskreg.tomography.series import bytes_of_a_row, noise_of

Floats = NDArray[np.float64]
Array = NDArray[Any]
Bools = NDArray[np.bool_]

_FILTERS = 6  # rows: both Gaussian filters to three sigma, and a derivative
_SPLINES = 5  # rows, after which 0.1 % of the ends of a block shows in its splines
_HALO = _FILTERS + _SPLINES  # on either side, besides how far projections move
_USEFUL = 8  # rows of a block, for which the memory that is needed is told
_SUMS = 2  # another number where the sums of a block become others: those of a checkpoint are then not used
_AT_ONCE = 2  # blocks in memory: see `Work`


@dataclass(frozen=True)
class RowBlock:
    """One block of rows, to be summed.

    Args:
        rows: the first row, and the one after the last.
        read: those that are read for it.
        poses: (A, 3, 3) of all projections.
        means: (A,) of each projection, in the units of the problem.
        scale, background: the values are (file - background) / scale.
        sampled: rows of `Coupling`; 0: none is wanted, or other blocks are asked.
    """

    number: int
    file: RowFile
    level: Level
    rows: tuple[int, int]
    read: tuple[int, int]
    poses: Floats
    radians: Floats
    used: Bools
    names: tuple[str, ...]
    shared: tuple[str, ...]
    cut_off: bool
    means: Floats
    background: float
    scale: float
    sampled: int

    def carrying_little(self) -> RowBlock:
        return self


@dataclass(frozen=True)
class BlockSums:
    """What comes back of a block: noise is the variance of a pixel, shown how many pixels show the specimen, and signal
    the sum of the squares of what varies with the angle."""

    number: int
    sums: Sums
    coupling: Coupling | None
    noise: float
    shown: int
    signal: float


def sums_of(block: RowBlock) -> BlockSums:
    """The sums over the rows of a block."""
    values = block.file.read(*block.read)
    known = np.isfinite(values)
    data = np.where(known, (values - np.float32(block.background)) / np.float32(block.scale), np.float32(0))
    level = replace(block.level, rows=block.read)
    valid = None if known.all() else known
    problem = Problem(data, valid, block.radians, level, block.names, block.shared, block.used, block.cut_off)
    at = linearised(problem, block.poses)
    here = slice(block.rows[0] - block.read[0], block.rows[1] - block.read[0])
    inside = data[block.used][:, here]
    least = block.means[block.used]
    noise, shown = noise_of(inside, least), int((inside > least[:, None, None]).sum())
    at = replace(
        at, residual=at.residual[..., here], aligned=at.aligned[..., here], basis=at.basis[..., here],
        weight=at.weight[..., here],
    )  # fmt: skip
    signal = float((varying_part(at) ** 2).sum(dtype=np.float64))
    coupling = None
    if block.sampled:
        coupling = Coupling.of(at.basis, at.weight, len(block.names), block.sampled)
    return BlockSums(block.number, at.sums(-at.residual), coupling, noise**2, shown, signal)


def rows_of_a_block(level: Level, count: int, budget: int, moved: int = 0) -> int:
    """How many rows of so many projections can be summed at once, besides those around them; 0 where the memory is not
    enough for one.

    Args:
        budget: bytes.
        moved: rows, by which projections move at most.
    """
    rows_at_once = budget // (_AT_ONCE * bytes_of_a_row(count, level.binned_shape[1]))
    return max(rows_at_once - 2 * (moved + _HALO), 0)


def check_rows(level: Level, count: int, budget: int, moved: int = 0) -> None:
    """See `rows_of_a_block`.

    Raises: OptionError where the memory is not enough for a row.
    """
    if rows_of_a_block(level, count, budget, moved) < 1:
        rows, columns = level.binned_shape
        need = bytes_of_a_row(count, columns) * min(_AT_ONCE * (2 * (moved + _HALO) + _USEFUL), rows)
        why = f", since projections move by {moved} rows" if moved else ""
        raise OptionError(
            f"memory: means of {level.factors[1]} columns need {need / 2**20:.4g} MiB for a block of rows{why}: allow "
            "as much, or use a coarser level="
        )


@dataclass(frozen=True)
class RowLevel:
    """A level that is worked on by blocks of rows.

    Args:
        file, level, means, background, scale: see `RowBlock`.
        budget: bytes that may be used.
    """

    file: RowFile
    level: Level
    means: Floats
    background: float
    scale: float
    budget: int

    def blocks(self, poses: Floats, like: Problem, *, coupled: bool) -> list[RowBlock]:
        """The blocks at some poses, whose parameters and used projections are those of a coarser problem; none where
        projections move by more rows than the memory allows."""
        rows, count, _ = self.file.shape
        moved = self.reach(poses[like.used])
        most = rows_of_a_block(self.level, count, self.budget, moved)
        if most < 1:
            return []
        number = math.ceil(rows / most)
        ends = [rows * k // number for k in range(number + 1)]
        halo = moved + _HALO
        asked = min(number, SAMPLED_ROWS) if coupled else 0  # blocks, each for some of the rows of the coupling
        sampled = dict.fromkeys(
            (number * (2 * k + 1) // (2 * asked) for k in range(asked)), SAMPLED_ROWS // max(asked, 1)
        )
        return [
            RowBlock(
                k, self.file, self.level, (start, stop), (max(0, start - halo), min(rows, stop + halo)), poses,
                like.radians, like.used, like.names, like.shared, bool(like.cut_off), self.means, self.background,
                self.scale, sampled.get(k, 0),
            )
            for k, (start, stop) in enumerate(pairwise(ends))
        ]  # fmt: skip

    def reach(self, poses: Floats) -> int:
        """By how many rows of the level a pixel moves at most."""
        rows, columns = self.level.binned_shape
        corners = np.array([[v, u, 1.0] for v in (0, rows - 1) for u in (0, columns - 1)]).T
        return math.ceil(float(np.abs((self.level.binned(poses)[:, 0] @ corners) - corners[0]).max()))


@dataclass(frozen=True)
class Totals:
    """Of all blocks.

    Args:
        noise: its variance in a pixel.
        signal: mean square of what varies with the angle.
        blocks: their number.
    """

    sums: Sums
    noise: float
    signal: float
    blocks: int


@dataclass(frozen=True)
class RowSolution:
    """How steps over all rows ended."""

    descent: Descent[Totals]

    @property
    def totals(self) -> Totals:
        return self.descent.at

    def solution(self, coarse: Solution) -> Solution:
        """The solution of the coarser level, with these poses."""
        poses = bridged(self.descent.poses, coarse.problem.radians, coarse.problem.used)
        return replace(coarse, poses=poses, steps=self.descent.steps, settled=self.descent.settled)

    def uncertainty(self, coarse: Uncertainty, problem: Problem, factor: int) -> tuple[Uncertainty, Floats]:
        """Standard deviations, and the residuals (A,).

        The gain of noise is that of the level before, and so are the axis and the centre. It is consistent where the
        level before is, and this one explains its own projections; it is determined where both are.

        Args:
            factor: columns of the detector in a pixel.
        """
        sums, noise = self.totals.sums, max(float(np.sqrt(self.totals.noise)), LEAST_NOISE)
        scales = sums.scales()[0]
        left = float(sums.left.mean()) / sums.pixels
        disagreement = max(1.0, float(np.sqrt(left / coarse.left)) / noise)
        unit = np.array([factor if name in ("ty", "tx") else 1.0 for name in problem.names])
        own, residuals = np.full(coarse.own.shape, np.nan), np.full(len(coarse.own), np.nan)
        local = np.sqrt(np.einsum("aqp,aqp->ap", scales, scales))
        own[problem.used] = local * coarse.gain * noise * disagreement * unit
        residuals[problem.used] = np.sqrt(sums.left / np.maximum(sums.power, 1e-30))
        consistent = coarse.consistent and self._explains(coarse, problem)
        determined = coarse.determined and shifts_are_known(problem, own, factor)
        found = replace(
            coarse, own=own, noise=noise, disagreement=disagreement, consistent=consistent, determined=determined
        )
        return found, residuals

    def _explains(self, coarse: Uncertainty, problem: Problem) -> bool:
        """Whether less than half of the signal is left, or no more than noise; see `agreement`.

        What does not fit together may look like noise of these pixels, but then their means have less of it: noise is
        no more than white noise would be that is in the pixels of the level before as found there.
        """
        sums = self.totals.sums
        if not sums.own.any():  # steps into nowhere leave no pixel that could disagree
            return False
        means = sums.pixels / float(np.prod(problem.level.binned_shape))
        filtered = smoothed_noise(problem.level.whole_rows) ** 2
        noise = min(self.totals.noise, coarse.noise**2 * means) * filtered
        left = sums.left / sums.pixels * filtered / coarse.left
        return explained(left - noise, (self.totals.signal - noise) / 2)


def refined(level: RowLevel, start: Solution, fixed: Fixed, *, most: int, work: Work) -> RowSolution:
    """Steps over all rows from the solution of a coarser level, at most so many, until one is short.

    Poses at which blocks no longer fit the memory are taken for none that a step may lead to.

    Raises: OptionError where blocks do not fit from the start.
    """
    poses, like = start.poses, start.problem
    nothing = np.empty((len(poses), 0, level.file.shape[2]), np.float32)
    problem = replace(without_images(like), level=level.level, data=nothing)
    check_rows(level.level, len(poses), level.budget, level.reach(poses[like.used]))
    coupling: Coupling | None = None

    def evaluated(poses: Floats) -> Evaluation[Totals] | None:
        nonlocal coupling
        blocks = level.blocks(poses, like, coupled=coupling is None)
        if not blocks:
            return None
        found = _summed(blocks, work)
        if coupling is None:
            coupling = Coupling.together([f.coupling for f in found if f.coupling is not None], len(found))
        sums = found[0].sums
        for other in found[1:]:
            sums += other.sums
        noise = sum(f.shown * f.noise for f in found) / max(sum(f.shown for f in found), 1)
        signal = sum(f.signal for f in found) / (len(sums.left) * sums.pixels)
        return Evaluation(sums, coupling, Totals(sums, noise, signal, len(found)))

    return RowSolution(descend(problem, poses, fixed, most, evaluated))


def _summed(blocks: Sequence[RowBlock], work: Work) -> list[BlockSums]:
    first = blocks[0]
    asked = (_SUMS, np.round(first.poses, 5).tobytes(), first.used.tobytes(), [(b.rows, b.sampled) for b in blocks])
    name = hashlib.sha256(repr(asked).encode()).hexdigest()[:16]

    def store(result: BlockSums) -> Mapping[str, Array]:
        kept = {name: np.asarray(getattr(result.sums, name)) for name in result.sums.__dataclass_fields__}
        kept |= {
            "noise": np.asarray(result.noise),
            "shown": np.asarray(result.shown),
            "signal": np.asarray(result.signal),
        }
        if result.coupling is not None:
            kept |= {"coupling": result.coupling.basis, "coupled": result.coupling.weight}
        return kept

    def restore(number: int, arrays: Mapping[str, Array]) -> BlockSums:
        values: dict[str, Any] = {name: arrays[name] for name in Sums.__dataclass_fields__}
        sums = Sums(**values | {"weight": float(values["weight"]), "pixels": int(values["pixels"])})
        coupling = Coupling(arrays["coupling"], arrays["coupled"], len(first.names)) if "coupled" in arrays else None
        noise, shown, signal = float(arrays["noise"]), int(arrays["shown"]), float(arrays["signal"])
        return BlockSums(number, sums, coupling, noise, shown, signal)

    return work.run(name, sums_of, blocks, label="rows of projections", store=store, restore=restore)
