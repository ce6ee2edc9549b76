"""`DeformableFit`: what `register(model="bspline")` returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from os import PathLike
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from daskreg.errors import InvalidTransformError, OptionError
from daskreg.formats.transforms import read_json, transform_from_file
from daskreg.geometry import Transform
from daskreg.registration.deformable.posterior import FieldUncertainty
from daskreg.registration.fit import PairFit
from daskreg.registration.verdicts import FitStatus
from daskreg.reporting.fit import Fit
from daskreg.reporting.planes import PairPlane
from daskreg.reporting.section import Section
from daskreg.reporting.words import duration

Floats = NDArray[np.float64]

JACOBIAN = ("min", "1 %", "median", "99 %", "max")
"""What the numbers of `DeformableFit.jacobian` are."""


@dataclass(frozen=True, eq=False, repr=False)
class DeformableFit(Fit):
    """Where each point of the fixed image is found in the moving image: an affine map after layers of cubic B-splines.

    Args:
        moving_from_fixed: a Composite, on world points: `warp(moving, pull=fit.moving_from_fixed, like=fixed)`
            registers; `.inverse()` is the other way.
        affine: the fit of the affine map that the layers begin from, of means of blocks of voxels of large images;
            the one given as `init`, or None where that was a transform.
        status: how it ended; its value says what to do. UNCERTAIN where small windows of the aligned images fit better
            elsewhere.
        score: the metric before (affine alone) and after: correlation (ncc; lncc: of images with the same local
            contrast), the mean square in the images' units (mse), or the negative mutual information in nats (mi).
        overlap: share of the fixed voxels that count for which there is a moving one.
        losses: over the iterations of the finest level that was used: mean squares of the residual, as a share of the
            variance; for "mi", twice the entropy of the fixed image that the warped one leaves.
        jacobian: determinants of the derivative over the voxels of the fixed image, by how much volumes change: least,
            1 %, median, 99 %, greatest. All are positive: every layer is one to one.
        spacing: (D,) of the finest control points, world units, as whole cells fit the image.
        layers: how many layers were composed.
        parameters, determined: how many coefficients the last layer has, and how many of these the images determine
            (the effective degrees of freedom); the others are as smooth as the prior makes them.
        rejected: share of the fixed voxels that were left out, because the images contradict each other there.
        contradicting: share of the overlap where the aligned images contradict each other. Where it is more than a
            tenth, nothing is left out (`rejected` is 0), and the motion there may be wrong by more than `sigma_at`;
            where the images have nothing in common there, the status is INCONSISTENT.
        masked, reduced, bad_voxels, recipe: see PairFit.
        iterations, seconds: over all levels, with those of the affine map.
    """

    kind: ClassVar[str] = "deformable"
    moving_from_fixed: Transform
    affine: PairFit | None
    status: FitStatus
    score: tuple[float, float]
    overlap: float
    losses: Floats
    jacobian: tuple[float, float, float, float, float]
    spacing: tuple[float, ...]
    layers: int
    parameters: int
    determined: float
    rejected: float
    contradicting: float
    metric: str
    masked: tuple[float, float]
    reduced: tuple[tuple[int, ...], tuple[int, ...]]
    bad_voxels: tuple[int, int]
    iterations: int
    seconds: float = 0.0
    model: str = "bspline"
    recipe: str = ""
    _uncertainty: FieldUncertainty | None = field(default=None, repr=False)
    _planes: tuple[PairPlane, ...] = field(default=(), repr=False)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> DeformableFit:
        """Read what `save` wrote as JSON, without the images and the affine fit.

        Raises: InvalidTransformError where the file is not that of a deformable fit.
        """
        data = read_json(path)
        transform = transform_from_file(data, str(path))
        if not isinstance(data, dict) or data.get("kind") != cls.kind:
            raise InvalidTransformError(f"{path} is not the fit of a deformable registration")
        try:
            found = {name: data[name] for name in _FACTS}
            found |= {name: tuple(data[name]) for name in ("jacobian", "spacing", "masked", "bad_voxels")}
            found["score"] = tuple(np.nan if v is None else v for v in data["score"])
            found["losses"] = np.array(data["losses"], dtype=np.float64)
            found["status"] = FitStatus[data["status"].upper()]
            found["reduced"] = tuple(map(tuple, data["reduced"]))
            return cls(moving_from_fixed=transform, affine=None, **found)
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidTransformError(f"{path} is damaged, or of another version: {error!r}") from error

    @property
    def ok(self) -> bool:
        """Whether the estimate converged, the images agree by more than chance, and nothing folds."""
        return self.status is FitStatus.CONVERGED

    @property
    def resolution(self) -> str:
        """ "full" where every voxel of both images took part, "coarse" where means of blocks of voxels did."""
        return "full" if all(max(factors) == 1 for factors in self.reduced) else "coarse"

    @property
    def transform(self) -> Transform:
        return self.moving_from_fixed

    def sigma_at(self, points: ArrayLike) -> Floats:
        """(N, D) one standard deviation of `moving_from_fixed` at (N, D) world points, along each axis, world units.

        From the noise of the residual and the prior: small where both images show the same structure, large where
        they show none, or different ones, and where small windows fit better after a further shift.
        NaN outside the fixed image, and everywhere if displacements were searched or small steps made (metric "mi"),
        which know of no noise, or if `init` had a field, which the prior does not know. Each point takes the solution
        of D linear systems, of milliseconds (2D) to seconds; many points in images take no longer than a hundred.

        Raises: OptionError for a fit that was loaded from a file, which does not hold what this needs;
        ShapeMismatchError for points of another shape.
        """
        if self._uncertainty is None:
            raise OptionError("only the fit that register returned knows its error bars, not one without its images")
        return self._uncertainty.sigma_at(points)

    def facts(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _FACTS}

    def section(self) -> Section:
        """What a page shows of this fit."""
        from daskreg.reporting.pair_section import deformable_section

        return deformable_section(self, list(self._planes))

    def plot(self) -> Any:
        """A matplotlib figure of the transform: what it moves, and where it stretches.

        Over the fixed image; of a fit that was loaded and does not hold it, over the control points.
        """
        transform: Any = self.moving_from_fixed
        return transform.plot(None if self._uncertainty is None else self._uncertainty.grid)

    def __repr__(self) -> str:
        ending = "" if self.ok else f"\n  {self.status.value}"
        if self.rejected > 0:
            ending += f"\n  {self.rejected:.1%} of fixed was left out: the images contradict each other there"
        elif self.contradicting > 0:
            share = f"{self.contradicting:.0%} of the overlap"
            ending += f"\n  the images contradict each other in {share}: look at the motion there"
        if any(self.bad_voxels):
            ending += "\n  {} voxels of fixed and {} of moving are hot, dead or gaps: masked".format(*self.bad_voxels)
        for name, factors in zip(("fixed", "moving"), self.reduced, strict=True):
            if max(factors) > 1:
                ending += f"\n  {name} was read as means of {' x '.join(map(str, factors))} voxels"
        spacing, unit = " x ".join(f"{h:.4g}" for h in self.spacing), self.moving_from_fixed.unit or "pixel"
        return (
            f"DeformableFit({self.status.name.lower()}: {self.metric} {self.score[0]:.5g} -> {self.score[1]:.5g}, "
            f"overlap {self.overlap:.0%}, {self.iterations} iterations, {duration(self.seconds)}\n"
            f"  {self.layers} layers of cubic B-splines, control points {spacing} {unit} apart, "
            f"{self.determined:.0f} of {self.parameters} coefficients determined\n"
            f"  volumes change by factors of {self.jacobian[0]:.3g} to {self.jacobian[-1]:.3g}{ending})"
        )


_FACTS = (
    "status",
    "score",
    "overlap",
    "losses",
    "jacobian",
    "spacing",
    "layers",
    "parameters",
    "determined",
    "rejected",
    "contradicting",
    "model",
    "metric",
    "masked",
    "reduced",
    "bad_voxels",
    "iterations",
    "seconds",
    "recipe",
)
