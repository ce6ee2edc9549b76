"""`PointsFit`: what `fit_points` returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from os import PathLike
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from daskreg.geometry import Affine
from daskreg.landmarks.certainty import parameters_of
from daskreg.reporting.fit import Fit
from daskreg.reporting.saved import numbers, points_to_show, read_saved
from daskreg.reporting.section import Section

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]

_ANGLES = ("theta", "rx", "ry", "rz")
_MOST_ROWS = 8


class PointsStatus(Enum):
    """How `fit_points` ended; the value says what to do."""

    DETERMINED = "the pairs determine the motion, and none of them contradicts it"
    UNCHECKED = (
        "the pairs are just enough for the model, so that no residual could show a wrong one: "
        "add pairs, or take a model with fewer parameters"
    )
    UNDETERMINED = (
        "the points, such as too few or those on a line, do not determine all motions (fit.free names the free ones, "
        "which stay as they are): add pairs elsewhere, or take a model with fewer parameters"
    )
    MIRRORED = "a mirror image fits better: one axis of one set of points points the other way"
    CHANCE = (
        "the pairs fit no better than points that are paired at random: check their order, "
        "and that the columns of both are in the same order"
    )
    OUTLIERS = "some pairs contradict all others (fit.outliers): correct them, or pass ransac='auto'"


@dataclass(frozen=True, eq=False, repr=False)
class PointsFit(Fit):
    """Where each fixed landmark is found in the moving image, and how certain that is.

    Attributes:
        moving_from_fixed: the motion, on world points in array order.
        status: how it ended; `ok` tells whether to trust it.
        residuals: (N, D), array order: the moving points minus where the motion brings the fixed points.
        inliers: (N,) pairs that the motion was estimated from; with `ransac` those that agree.
        outliers: rows of the pairs that contradict the others; with `ransac` those that were left out.
        rmse: root mean square length of the residuals of the inliers.
        centre: (D,) the weighted centroid of the fixed inliers, about which the parameters are.
        covariance: (P, P) of `covariance_names` (radians, the points' unit); large for free motions, infinite where no
            residual is left to tell the errors of the points.
        free: motions that the points do not determine, in words.
        limit: the largest residual of an inlier with `ransac`, else None.
        recipe: the Python that makes this fit again.
    """

    kind: ClassVar[str] = "points"
    moving_from_fixed: Affine
    status: PointsStatus
    residuals: Floats
    inliers: NDArray[np.bool_]
    outliers: NDArray[np.intp]
    rmse: float
    centre: Floats
    covariance: Floats
    covariance_names: tuple[str, ...]
    free: tuple[str, ...]
    model: str
    limit: float | None
    _fixed: Floats | None = field(repr=False)
    _moving: Floats | None = field(repr=False)
    recipe: str = ""

    @classmethod
    def load(cls, path: str | PathLike[str]) -> PointsFit:
        """Read what `save` wrote as JSON, without the points.

        Raises: InvalidTransformError where the file is not that of landmarks.
        """
        return read_saved(path, cls.kind, "landmarks", cls._from_json)

    @classmethod
    def _from_json(cls, transform: Affine, data: Mapping[str, Any]) -> PointsFit:
        return cls(
            moving_from_fixed=transform,
            status=PointsStatus[data["status"].upper()],
            residuals=numbers(data["residuals"]),
            inliers=np.array(data["inliers"], dtype=bool),
            outliers=np.array(data["outliers"], dtype=np.intp),
            rmse=float(numbers(data["rmse"])),
            centre=numbers(data["centre"]),
            covariance=numbers(data["covariance"], np.inf),
            covariance_names=tuple(data["covariance_names"]),
            free=tuple(data["free"]),
            model=str(data["model"]),
            limit=None if data["limit"] is None else float(data["limit"]),
            _fixed=None,
            _moving=None,
            recipe=str(data.get("recipe", "")),
        )

    @property
    def ok(self) -> bool:
        """Whether the pairs determine the motion, and nothing in them speaks against it."""
        return self.status is PointsStatus.DETERMINED

    @property
    def parameters(self) -> dict[str, float]:
        """The parameters of the model by name, about `centre` (radians, the points' unit)."""
        return parameters_of(self.moving_from_fixed.matrix, self.covariance_names, self.centre)

    @property
    def sigma(self) -> dict[str, float]:
        """One standard deviation of each of `parameters`."""
        return dict(zip(self.covariance_names, np.sqrt(np.diag(self.covariance)).tolist(), strict=True))

    @property
    def transform(self) -> Affine:
        return self.moving_from_fixed

    def facts(self) -> dict[str, Any]:
        names = [f.name for f in fields(self) if not f.name.startswith("_") and f.name != "moving_from_fixed"]
        return {"parameters": self.parameters, "sigma": self.sigma, **{name: getattr(self, name) for name in names}}

    def plot(self, fixed: Any = None, moving: Any = None) -> Figure:
        """The pairs before and after, and the length of each residual.

        Args:
            fixed, moving: (N, D) points, of a fit that was loaded, which does not hold them.

        Raises: OptionError without points.
        """
        from daskreg.reporting import plots

        return plots.landmarks(self, *points_to_show({"fixed": fixed, "moving": moving}, (self._fixed, self._moving)))

    def section(self) -> Section | None:
        """What a page shows of this fit; of one that was loaded, a table of its facts."""
        from daskreg.reporting.cloud_section import points_section

        if self._fixed is None or self._moving is None:
            return None
        return points_section(self, self._fixed, self._moving)

    def __repr__(self) -> str:
        unit, words, sigma = self.moving_from_fixed.unit or "pixel", [], self.sigma
        for name, value in self.parameters.items():
            factor = np.degrees(1.0) if name in _ANGLES else 1.0
            suffix = " deg" if name in _ANGLES else f" {unit}" if name.startswith("t") else ""
            spread = f" +- {sigma[name] * factor:.2g}" if np.isfinite(sigma[name]) else ""
            words.append(f"{name} {value * factor:.6g}{spread}{suffix}")
        ending = "" if self.ok else f"\n  {self.status.value}" + "".join(f"\n  free: {f}" for f in self.free)
        if len(self.outliers):
            rows = ", ".join(map(str, self.outliers[:_MOST_ROWS].tolist()))
            ending += f"\n  outliers: {rows}{', ...' if len(self.outliers) > _MOST_ROWS else ''}"
        return (
            f"PointsFit({self.status.name.lower()}: {np.count_nonzero(self.inliers)} of {len(self.inliers)} pairs, "
            f"rmse {self.rmse:.4g} {unit}\n  moving from fixed, {self.model}: {', '.join(words)}{ending})"
        )
