"""`PairFit`: what `register` returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import InvalidTransformError
from daskreg.formats.transforms import read_json, transform_from_file
from daskreg.geometry import Affine, Grid
from daskreg.registration.estimate import Estimate
from daskreg.registration.problem import Problem
from daskreg.registration.verdict.words import in_words
from daskreg.registration.verdicts import FitStatus
from daskreg.reporting.fit import Fit
from daskreg.reporting.section import Section
from daskreg.reporting.words import duration

if TYPE_CHECKING:
    from daskreg.registration.images import Image

Floats = NDArray[np.float64]

_ANGLES = ("theta", "rx", "ry", "rz")


@dataclass(frozen=True, eq=False, repr=False)
class PairFit(Fit):
    """Where each point of the fixed image is found in the moving image, and how certain that is.

    Args:
        moving_from_fixed: the motion, on world points: `warp(moving, pull=fit.moving_from_fixed,
            like=fixed)` registers.
        parameters: of M = T . R . Sh . S about `centre`, every one by name; radians, world units.
        centre: (D,) world point, array order: the centre of the fixed grid.
        status: how it ended; its value says what to do.
        score: the metric before and after, on the finest level (ncc: correlation, higher is
            better; the others: losses, lower is better; mse in the images' units squared).
        overlap: fraction of the smaller image that overlaps the other.
        losses: over the iterations of the finest level, lower is better.
        covariance: (P, P) of the estimated parameters `covariance_names`; None where the metric has no Gauss-Newton
            form.
        covariance_names: names of the parameters that were estimated.
        rivals: other motions that fit about as well, such as those a period of a texture away; the best first.
        free: motions that the images do not determine, in words.
        masked: fractions of the voxels of fixed and moving that did not count (mask, NaN).
        reduced: for fixed and moving, how many voxels of the source one voxel of the images is the mean of, along each
            axis: more than one where an image did not fit the memory.
        bad_voxels: of fixed and moving, hot, dead or gaps of the detector, which were masked.
        iterations, seconds: over all levels.
        inverse_error: voxels by which a corner of the fixed image is moved at most by the motion followed by the
            one of the inverse registration; None unless `check_inverse` was set.
        recipe: the Python that makes this fit again.
    """

    kind: ClassVar[str] = "pair"
    moving_from_fixed: Affine
    parameters: Mapping[str, float]
    centre: Floats
    status: FitStatus
    score: tuple[float, float]
    overlap: float
    losses: Floats
    covariance: Floats | None
    covariance_names: tuple[str, ...]
    rivals: tuple[Affine, ...]
    free: tuple[str, ...]
    model: str | tuple[str, ...]
    metric: str
    masked: tuple[float, float]
    reduced: tuple[tuple[int, ...], tuple[int, ...]]
    iterations: int
    seconds: float
    inverse_error: float | None = None
    bad_voxels: tuple[int, int] = (0, 0)
    recipe: str = ""
    _images: tuple[Image, Image] | None = field(default=None, repr=False)

    @property
    def ok(self) -> bool:
        """Whether the estimate converged, the images agree by more than chance, and nothing else fits as well."""
        return self.status is FitStatus.CONVERGED

    @property
    def resolution(self) -> str:
        """ "full" where every voxel of both images took part, "coarse" where means of blocks of voxels did."""
        return "full" if all(max(factors) == 1 for factors in self.reduced) else "coarse"

    @property
    def sigma(self) -> dict[str, float]:
        """One standard deviation of each free parameter, from the noise of the residual."""
        if self.covariance is None:
            return {}
        return dict(zip(self.covariance_names, np.sqrt(np.diag(self.covariance)).tolist(), strict=True))

    @property
    def transform(self) -> Affine:
        return self.moving_from_fixed

    @property
    def fixed_grid(self) -> Grid | None:
        """Where the voxels of the fixed image lie; None for a fit that does not hold its images."""
        return None if self._images is None else self._images[0].grid

    def facts(self) -> dict[str, Any]:
        return {"sigma": self.sigma, **{name: getattr(self, name) for name in _FACTS}}

    def plot(self, fixed: Any = None, moving: Any = None) -> Any:
        """A matplotlib figure: both images, overlaid before and after, a checkerboard, and the difference.

        Args:
            fixed, moving: of a fit that does not hold its images: paths, arrays or DataArrays, of one channel.

        Raises: OptionError without images; ChannelError; UnitError where they have another unit than the fit.
        """
        from daskreg.reporting import plots

        if self._images is None:
            if fixed is None or moving is None:
                return plots.pair(self)  # which says what is missing
            (still, still_grid), (other, other_grid) = _shown(fixed, "fixed"), _shown(moving, "moving")
            return plots.pair(self, still, other, fixed_grid=still_grid, moving_grid=other_grid)
        images = [image.values.cpu().numpy() for image in self._images]
        return plots.pair(self, *images, fixed_grid=self._images[0].grid, moving_grid=self._images[1].grid)

    def section(self, *, fixed: Any = None, moving: Any = None) -> Section:
        """What a page shows of this fit. fixed, moving: see `plot`."""
        from daskreg.reporting.pair_section import pair_section

        if self._images is None:
            if fixed is None or moving is None:
                return pair_section(self)
            (still, still_grid), (other, other_grid) = _shown(fixed, "fixed"), _shown(moving, "moving")
            return pair_section(self, (still, other), (still_grid, other_grid))
        fixed, moving = self._images
        values = fixed.values.cpu().numpy(), moving.values.cpu().numpy()
        return pair_section(self, values, (fixed.grid, moving.grid))

    def report(self, path: str | PathLike[str], *, fixed: Any = None, moving: Any = None, command: str = "") -> Path:
        """One HTML page, and the same facts as JSON beside it.

        Args:
            fixed, moving: of a fit that does not hold its images, to show them; see `plot`.
            command: the line of a terminal that made the fit.

        Raises: ChannelError; UnitError where the images have another unit than the fit.
        """
        from daskreg.reporting.page import report

        def own() -> Section:
            return self.section(fixed=fixed, moving=moving)

        return report(self, path, title=f"daskreg: {self.title}", sections=[own], command=command)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> PairFit:
        """Read what `save` wrote as JSON, without the images.

        Raises: InvalidTransformError where the file is not that of a pair's fit.
        """
        data = read_json(path)
        transform = transform_from_file(data, str(path))
        if not isinstance(transform, Affine) or data.get("kind") != cls.kind:
            raise InvalidTransformError(f"{path} is not the fit of a pair")
        try:
            return cls(moving_from_fixed=transform, **_from_json(data))
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidTransformError(f"{path} is damaged, or of another version: {error!r}") from error

    def __repr__(self) -> str:
        sigma, unit = self.sigma, self.moving_from_fixed.unit or "pixel"
        words = []
        for name, value in self.parameters.items():
            estimated = self.covariance_names
            if name not in estimated and not ("scale" in estimated and name in ("sx", "sy", "sz")):
                continue
            factor = np.degrees(1.0) if name in _ANGLES else 1.0
            deviation = sigma.get(name, sigma.get("scale") if name in ("sx", "sy", "sz") else None)
            spread = "" if deviation is None else f" +- {deviation * factor:.2g}"
            suffix = " deg" if name in _ANGLES else f" {unit}" if name.startswith("t") else ""
            words.append(f"{name} {value * factor:.6g}{spread}{suffix}")
        ending = "" if self.ok else f"\n  {self.status.value}" + "".join(f"\n  free: {f}" for f in self.free)
        if any(self.bad_voxels):
            ending += "\n  {} voxels of fixed and {} of moving are hot, dead or gaps: masked".format(*self.bad_voxels)
        for name, factors in zip(("fixed", "moving"), self.reduced, strict=True):
            if max(factors) > 1:
                ending += f"\n  {name} was read as means of {' x '.join(map(str, factors))} voxels"
        return (
            f"PairFit({self.status.name.lower()}: {self.metric} {self.score[0]:.5g} -> {self.score[1]:.5g}, "
            f"overlap {self.overlap:.0%}, {self.iterations} iterations, {duration(self.seconds)}\n"
            f"  moving from fixed, {self.model}: {', '.join(words)}{ending})"
        )


def _from_json(data: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a fit except its transform, from the JSON that `save` wrote."""
    found = {name: data[name] for name in _FACTS if name in data}
    arrays = ("centre", "losses", "covariance")
    tuples = ("score", "covariance_names", "free", "masked", "bad_voxels")
    found |= {name: None if data[name] is None else np.array(data[name], dtype=np.float64) for name in arrays}
    found |= {name: tuple(data[name]) for name in tuples}
    found["score"] = tuple(np.nan if v is None else v for v in data["score"])
    found["status"] = FitStatus[data["status"].upper()]
    found["rivals"] = tuple(Affine.from_dict(rival) for rival in data["rivals"])
    found["reduced"] = tuple(map(tuple, data["reduced"]))
    found["model"] = tuple(data["model"]) if isinstance(data["model"], list) else data["model"]
    return found


_FACTS = (
    "parameters",
    "centre",
    "status",
    "score",
    "overlap",
    "losses",
    "covariance",
    "covariance_names",
    "rivals",
    "free",
    "model",
    "metric",
    "masked",
    "reduced",
    "iterations",
    "seconds",
    "inverse_error",
    "bad_voxels",
    "recipe",
)


def _shown(value: Any, what: str) -> tuple[Any, Grid]:
    from daskreg.registration.images import one_image  # imports torch

    return one_image(value, None, what)


def pair_fit(
    problem: Problem,
    estimate: Estimate,
    images: tuple[Image, Image],
    *,
    model: str | tuple[str, ...],
    metric: str,
    unit: str | None,
    masked: tuple[float, float],
    seconds: float = 0.0,
) -> PairFit:
    """The fit of an estimate.

    Args:
        images: fixed and moving. masked: fractions of their voxels that did not count.
    """
    pose, p, verdict = problem.pose, estimate.parameters[None], estimate.verdict
    return PairFit(
        moving_from_fixed=Affine(pose.motions(p, problem.centre)[0][0], unit=unit),
        parameters=pose.named(p)[0],
        centre=problem.centre,
        status=estimate.status,
        score=estimate.score,
        overlap=estimate.overlap,
        losses=estimate.losses,
        covariance=estimate.covariance,
        covariance_names=pose.names,
        rivals=() if verdict is None else tuple(Affine(m, unit=unit) for m in verdict.rivals),
        free=() if verdict is None else tuple(in_words(d, pose.names, verdict.units) for d in verdict.free),
        model=model,
        metric=metric,
        masked=masked,
        reduced=(images[0].reduced, images[1].reduced),
        bad_voxels=(images[0].bad, images[1].bad),
        iterations=estimate.iterations,
        seconds=seconds,
        _images=images,
    )
