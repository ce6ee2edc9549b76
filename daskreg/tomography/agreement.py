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

from daskreg.tomography.matching import Linearised, smoothed

Floats = NDArray[np.float64]
Array = NDArray[Any]

_SIGMAS = 4.0
_WIDER = (2.0, 4.0)  # sigma in pixels, of a Gaussian filter


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


def agreement_of(at: Linearised, sigma: float, rng: np.random.Generator) -> Agreement:
    """The agreement at a solution, of projections with noise of `sigma` in a pixel.

    It is consistent where the projections are explained better than noise would be, and, in the pixels and in their
    means over larger regions, where noise hides less, what is left of the varying part is either noise, to within four
    standard errors over the projections, or, variances of noise taken off,
    - less than half of what varies, and
    - less than what a projection differs from that one turn of a pixel away (at the rim of what all projections see).
      A volume that explains a projection worse than its neighbour does has not connected them.
    """
    part = varying_part(at)
    white = smoothed(rng.normal(size=part.shape).astype(np.float32)) * at.weight
    images = [at.aligned, part, part - at.problem.reproject(part), white, white - at.problem.reproject(white)]
    scales = [_Scale.of(at, images, sigma)]
    # Means of the reprojections are the reprojections of means.
    scales += [_Scale.of(at, [smoothed(image, wider) for image in images], sigma) for wider in _WIDER]
    pixels = scales[0]
    whole = 1 - pixels.gain * _power(at.residual).mean() / max(float(_power(at.aligned).mean()), 1e-30)
    varying = 1 - pixels.gain * float(pixels.left.mean()) / max(float(pixels.part.mean()), 1e-30)
    return Agreement(float(whole), varying, bool(whole > 0.5 and all(scale.consistent for scale in scales)))


@dataclass(frozen=True)
class _Scale:
    """Mean squares of images that are smoothed alike.

    Args:
        part, left: (A,) of what varies with the angle, and of its residual.
        near: mean square difference of neighbours.
        noise: variance of the noise in the images.
        gain: of the variance of noise by its residual.
    """

    part: Floats
    left: Floats
    near: float
    noise: float
    gain: float

    @classmethod
    def of(cls, at: Linearised, images: list[Array], sigma: float) -> _Scale:
        """Of the aligned images, what varies of them, its residual, and noise of one per pixel with its residual."""
        aligned, part, left, white, left_of_white = images
        filtered, unexplained = (float((image**2).mean(dtype=np.float64)) for image in (white, left_of_white))
        return cls(
            _power(part),
            _power(left),
            _between_neighbours(at, aligned),
            filtered * sigma**2,
            filtered / max(unexplained, 1e-30),
        )

    @property
    def consistent(self) -> bool:
        excess = self.gain * self.left - self.noise
        signal = float(self.part.mean()) - self.noise
        return explained(excess, min(signal / 2, self.near - 2 * self.noise))


def explained(excess: Floats, most: float) -> bool:
    """Whether (A,) mean squares that are left, less those of noise, are zero within their errors, or less than `most`
    on average."""
    mean = float(excess.mean())
    return bool(mean <= _SIGMAS * float(excess.std()) / np.sqrt(len(excess)) or mean < most)


def varying_part(at: Linearised) -> Array:
    """(A, U, V) what varies with the angle."""
    mean = at.aligned.mean(axis=0)
    columns = np.arange(len(mean))
    mirrored = 2 * float(at.problem.level.middle[1]) - columns
    other = np.stack([np.interp(mirrored, columns, row) for row in mean.T], axis=1)
    return np.ascontiguousarray(at.aligned - ((mean + other) / 2).astype(np.float32))


def _between_neighbours(at: Linearised, images: Array) -> float:
    """Mean square difference of each projection and the nearest one that is a turn of a pixel or more away."""
    radians = at.problem.radians[at.problem.used]
    apart = np.abs((radians[:, None] - radians + np.pi) % (2 * np.pi) - np.pi)
    apart[apart < 2 / images.shape[1]] = np.inf
    return float(np.mean([_power(images[i : i + 1] - images[j])[0] for i, j in enumerate(apart.argmin(axis=1))]))


def _power(images: Array) -> Floats:
    return np.asarray((images**2).mean(axis=(1, 2), dtype=np.float64))
