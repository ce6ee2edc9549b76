"""Whether a volume explains projections, as it does only where their angles and the axis are right.

Most of a projection is the same at all angles, and would be explained with any list of angles. So this is about what
varies: the aligned projections less their mean, made symmetric about the axis, which is the projection of a body that
looks alike from all sides. The volume is linear in the projections, so that the residual of that part is found alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.tomography.matching import Linearised

Floats = NDArray[np.float64]
Array = NDArray[Any]

_SIGMAS = 5.0


@dataclass(frozen=True)
class White:
    """White noise in aligned projections.

    Args:
        sigma: of a pixel.
        filtered, left: the variances, of noise of one per pixel, in aligned projections and in their residual.
    """

    sigma: float
    filtered: float
    left: float


@dataclass(frozen=True)
class Agreement:
    """How much the reprojections explain, beyond what they would of noise; up to 1.

    Args:
        whole: of the projections.
        varying: of what varies with the angle.
        consistent: see `agreement_of`.
    """

    whole: float
    varying: float
    consistent: bool


def agreement_of(at: Linearised, noise: White) -> Agreement:
    """The agreement at a solution.

    It is consistent where the projections are explained better than noise would be, and what is left of the varying
    part is either noise, to within five standard errors over the projections, or, variances of noise taken off,
    - less than half of what varies, and
    - less than what a projection differs from that one turn of a pixel away (at the rim of what all projections see).
      A volume that explains a projection worse than its neighbour does has not connected them.
    """
    gain = noise.filtered / max(noise.left, 1e-30)
    part, left = _varying(at)
    excess = gain * left - noise.filtered * noise.sigma**2
    signal = float(part.mean()) - noise.filtered * noise.sigma**2
    near = _between_neighbours(at) - 2 * noise.filtered * noise.sigma**2
    is_noise = float(excess.mean()) <= _SIGMAS * float(excess.std()) / np.sqrt(len(excess))
    explained = float(excess.mean()) < signal / 2 and float(excess.mean()) < near
    whole = 1 - gain * _power(at.residual).mean() / max(float(_power(at.aligned).mean()), 1e-30)
    varying = 1 - gain * float(left.mean()) / max(float(part.mean()), 1e-30)
    return Agreement(float(whole), varying, bool(whole > 0.5 and (is_noise or explained)))


def _varying(at: Linearised) -> tuple[Floats, Floats]:
    """(A,) mean squares of what varies with the angle, and of its residual."""
    mean = at.aligned.mean(axis=0)
    columns = np.arange(len(mean))
    mirrored = 2 * float(at.problem.level.middle[1]) - columns
    other = np.stack([np.interp(mirrored, columns, row) for row in mean.T], axis=1)
    part = np.ascontiguousarray(at.aligned - ((mean + other) / 2).astype(np.float32))
    return _power(part), _power(part - at.problem.reproject(part))


def _between_neighbours(at: Linearised) -> float:
    """Mean square difference of each projection and the nearest one that is a turn of a pixel or more away."""
    radians = at.problem.radians[at.problem.used]
    apart = np.abs((radians[:, None] - radians + np.pi) % (2 * np.pi) - np.pi)
    apart[apart < 2 / at.aligned.shape[1]] = np.inf
    return float(
        np.mean([_power(at.aligned[i : i + 1] - at.aligned[j])[0] for i, j in enumerate(apart.argmin(axis=1))])
    )


def _power(images: Array) -> Floats:
    return np.asarray((images**2).mean(axis=(1, 2), dtype=np.float64))
