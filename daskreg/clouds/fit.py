"""The result of `icp`: the transform, its status, and how well it is determined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import Enum
from os import PathLike
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from daskreg.clouds.icp import generators, homogeneous
from daskreg.geometry import Affine
from daskreg.geometry.parameters import parameter_names
from daskreg.reporting.fit import Fit
from daskreg.reporting.saved import numbers, points_to_show, read_saved
from daskreg.reporting.section import Section
from daskreg.reporting.words import duration

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]


class CloudStatus(Enum):
    """How `icp` ended; the value says what to do."""

    CONVERGED = "the iteration converged, and the points determine the motion in every direction"
    UNSETTLED = "points still moved when the iterations ran out: raise max_iterations, or give an init that is nearer"
    UNDETERMINED = (
        "the shape, such as a line, plane, cylinder or sphere, does not determine all motions (fit.free names the free "
        "ones): "
        "add points with more structure, or take only the motion that is determined"
    )
    CHANCE = (
        "the nearest points are as far apart as in unrelated clouds: "
        "use init='global', or clouds in which the same points were measured"
    )
    MISFIT = (
        "the surfaces cross, or lie beside each other where they should meet, as in a wrong pose with near points: "
        "use init='global', give an init near enough, or cut the clouds to what they share"
    )
    AMBIGUOUS = (
        "another pose fits about as well (fit.rivals), and no init says which is meant: give an init, "
        "or clouds that show what breaks the symmetry"
    )
    LOW_OVERLAP = (
        "few source points have a target point near them: raise max_distance, use init='global', "
        "or cut the clouds to what they share"
    )


@dataclass(frozen=True, eq=False, repr=False)
class CloudFit(Fit):
    """The result of `icp`.

    Attributes:
        target_from_source: the motion; `fit.target_from_source(source)` lies on the target.
            It acts on the columns of the points in their order, which its `axes` name: x, y, z unless `icp` was told.
        status: how it ended; `ok` tells whether to trust it.
        rmse: root mean square distance of the inliers to their nearest target points.
        fitness: share of the source points that are inliers: within `max_distance`, or, without it,
            within the limit that the search for common points used, or within
            five times the lower quartile of all distances.
        centre: (D,) the centroid of the inliers, in the source's coordinates; its columns are those of the points.
        covariance: (P, P) of `covariance_names`: turns (radians) about the centroid of the
            inliers, shifts, and the logarithm of the scale if it was estimated.
        rivals: other poses that fit about as well, where poses were searched for: those that
            were compared last, so a body of many symmetries has more than are listed.
        free: motions that the clouds do not determine, in words.
        method, iterations, seconds: the method, its iterations on the last level, and the time of the whole call.
        recipe: the Python that makes this fit again.
    """

    kind: ClassVar[str] = "cloud"
    target_from_source: Affine
    status: CloudStatus
    rmse: float
    fitness: float
    centre: Floats
    covariance: Floats
    covariance_names: tuple[str, ...]
    rivals: tuple[Affine, ...]
    free: tuple[str, ...]
    method: str
    iterations: int
    seconds: float
    _target: Floats | None = field(repr=False)
    _source: Floats | None = field(repr=False)
    recipe: str = ""

    @classmethod
    def load(cls, path: str | PathLike[str]) -> CloudFit:
        """Read what `save` wrote as JSON, without the points.

        Raises: InvalidTransformError where the file is not that of two clouds.
        """
        return read_saved(path, cls.kind, "two clouds of points", cls._from_json)

    @classmethod
    def _from_json(cls, transform: Affine, data: Mapping[str, Any]) -> CloudFit:
        return cls(
            target_from_source=transform,
            status=CloudStatus[data["status"].upper()],
            rmse=float(numbers(data["rmse"])),
            fitness=float(data["fitness"]),
            centre=numbers(data["centre"]),
            covariance=numbers(data["covariance"], np.inf),
            covariance_names=tuple(data["covariance_names"]),
            rivals=tuple(Affine.from_dict(rival) for rival in data["rivals"]),
            free=tuple(data["free"]),
            method=str(data["method"]),
            iterations=int(data["iterations"]),
            seconds=float(data["seconds"]),
            _target=None,
            _source=None,
            recipe=str(data.get("recipe", "")),
        )

    @property
    def ok(self) -> bool:
        return self.status is CloudStatus.CONVERGED

    @property
    def scale(self) -> float:
        """The common scale, 1 without `with_scale`."""
        linear = self.target_from_source.linear
        return float(np.linalg.det(linear) ** (1 / len(linear)))

    @property
    def parameters(self) -> dict[str, float]:
        """The motion by name (radians, the points' unit): the turn, the shift of `centre`, the scale if estimated."""
        values = self.target_from_source.decompose(self.centre)
        groups = parameter_names(len(self.centre))
        named = {name: values[name] for name in (*groups["rotation"], *groups["translation"])}
        return {**named, "scale": self.scale} if "scale" in self.covariance_names else named

    @property
    def sigma(self) -> dict[str, float]:
        """The standard deviation of each of `parameters`."""
        names, ndim = list(self.parameters), len(self.centre)
        if not np.isfinite(self.covariance).all():
            return dict.fromkeys(names, float("inf"))
        turns = generators(ndim)[:-ndim, :, :-1]
        angles = parameter_names(ndim)["rotation"]
        jacobian = np.stack([self._angles_turned(turn, angles) for turn in turns], axis=1)
        about = self.covariance[: len(turns), : len(turns)]
        spread = [*np.einsum("ij,jk,ik->i", jacobian, about, jacobian), *np.diag(self.covariance)[len(turns) :]]
        shifts = [f"t{axis}" for axis in self.target_from_source.axes or ()]
        sigma = dict(zip([*angles, *shifts, "scale"], np.sqrt(spread).tolist(), strict=False))
        return {name: sigma[name] * (self.scale if name == "scale" else 1.0) for name in names}

    def _angles_turned(self, turn: Floats, angles: Sequence[str], step: float = 1e-6) -> Floats:
        """The derivatives of named angles by a further turn, a generator (D, D)."""
        linear, axes = self.target_from_source.linear, self.target_from_source.axes
        further = [
            Affine(homogeneous((np.eye(len(turn)) + sign * step * turn) @ linear, np.zeros(len(turn))), axes=axes)
            for sign in (1.0, -1.0)
        ]
        after, before = (np.array([m.decompose()[name] for name in angles]) for m in further)
        return np.asarray(np.angle(np.exp(1j * (after - before))) / (2 * step))

    @property
    def rotation(self) -> Floats:
        """(D, D) proper rotation."""
        return np.asarray(self.target_from_source.linear / self.scale)

    @property
    def translation(self) -> Floats:
        """(D,) such that target = scale * rotation @ source + translation."""
        return np.asarray(self.target_from_source.offset)

    @property
    def transform(self) -> Affine:
        return self.target_from_source

    @property
    def pull(self) -> Affine:
        return self.target_from_source.inverse()

    @property
    def push(self) -> Affine:
        return self.target_from_source

    def facts(self) -> dict[str, Any]:
        hidden = ("target_from_source",)
        names = [f.name for f in fields(self) if not f.name.startswith("_") and f.name not in hidden]
        return {
            "parameters": self.parameters,
            "sigma": self.sigma,
            "axes": self.target_from_source.axes,
            **{name: getattr(self, name) for name in names},
        }

    def plot(self, target: Any = None, source: Any = None) -> Figure:
        """Both clouds before and after, and the distances that are left.

        Args:
            target, source: (N, D) points, of a fit that was loaded, which does not hold them.

        Raises: OptionError without points.
        """
        from daskreg.reporting import plots

        return plots.cloud(self, *points_to_show({"target": target, "source": source}, (self._target, self._source)))

    def section(self) -> Section | None:
        """What a page shows of this fit; of one that was loaded, a table of its facts."""
        from daskreg.reporting.cloud_section import cloud_section

        if self._target is None or self._source is None:
            return None
        return cloud_section(self, self._target, self._source)

    def __repr__(self) -> str:
        ending = "" if self.ok else f"\n  {self.status.value}" + "".join(f"\n  free: {f}" for f in self.free)
        return (
            f"CloudFit({self.status.name.lower()}: rmse {self.rmse:.4g}, fitness {self.fitness:.0%}, {self.method}, "
            f"{self.iterations} iterations, {duration(self.seconds)}\n  {self.target_from_source.describe()}{ending})"
        )
