"""`TiltFit`: what `align_projections` returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import Enum
from os import PathLike
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import InvalidTransformError, MissingExtraError
from daskreg.formats import transforms
from daskreg.geometry import SliceAffines
from daskreg.reporting.figures import headline
from daskreg.reporting.fit import Fit
from daskreg.reporting.words import duration

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from daskreg.reporting.section import Section

Floats = NDArray[np.float64]


class TiltStatus(Enum):
    """How `align_projections` ended; the value says what to do."""

    CONVERGED = "the poses settled, and the reprojections of the volume agree with the projections"
    UNSETTLED = "the poses still moved when the steps ran out: raise max_steps, or use a coarser level"
    INCONSISTENT = (
        "the volume does not explain how the projections differ from each other: check the angles, their order "
        "and unit, the axis of rotation ('y' or 'x'), flats and darks"
    )
    UNDETERMINED = (
        "noise, or so few projections, leave the poses uncertain by more than two pixels (see fit.sigma): pass "
        "axis_angle= or centre= where they are known, or more projections"
    )


@dataclass(frozen=True, eq=False, repr=False)
class TiltFit(Fit):
    """Where each pixel of the aligned projections is found in the raw ones.

    In aligned projections the axis of rotation is the middle column (row, for `rotation_axis` "x") of the detector, and
    a point of the volume at (x, y) from it is seen at x cos(angle) + y sin(angle) from there. The volume may be
    anywhere: the row shifts have the mean 0, and the column shifts, less a constant, no part that goes with the cosine
    and the sine of the angle; magnifications have the geometric mean 1 (the gauge).

    Args:
        projections_from_aligned: one map of world points for each projection:
            `warp(projections, pull=fit.projections_from_aligned)` aligns them.
        angles: (A,) radians.
        rotation_axis: the axis of the detector along which the axis of rotation is, "y" or "x".
        axis: the turn of the axis of rotation in the plane of the detector, radians from x towards y;
            `theta` of the maps, of which it is the mean.
        centre: the column (row) of the axis in the middle row (column) of the detector, an index. Where projections
            move by themselves, this is the mean of where it is, less what belongs to the gauge.
        sigma: one standard deviation: (A,) of "ty", "tx", "theta", "scale" (the logarithm of the magnification), as far
            as the model has them, world units and radians, NaN for those that were not used; numbers for "axis"
            (radians) and "centre" (pixels). From the noise of the projections, by what
            the same estimate makes of noise, times `disagreement`; of the axis and the centre, what the residuals show
            where that is more.
        residuals: (A,) root mean square of each projection less the reprojection, as a share of the projection.
        kinds: outliers, and of which kind: "lost", "blank", "duplicated", "unlike" (the others contradict it).
        agreement: share of what varies with the angle in the projections, noise included, that the reprojections
            explain, beyond what they would of noise; up to 1.
        noise: standard deviation of a pixel of the level, in units of the projections.
        disagreement: factor, at least 1, by which the residuals are larger than noise explains.
        middle: (y, x) of the detector's middle, world units; `parameters` are about it.
        binning: columns of the detector that were averaged on the finest level.
        steps: of Gauss-Newton on that level.
        blocks: of rows, in which that level was worked on; 0: as a whole.
        recipe: the Python that makes this fit again.
    """

    kind: ClassVar[str] = "tilt"
    projections_from_aligned: SliceAffines
    angles: Floats
    rotation_axis: str
    axis: float
    centre: float
    sigma: Mapping[str, Any]
    residuals: Floats
    kinds: Mapping[int, str]
    status: TiltStatus
    agreement: float
    noise: float
    disagreement: float
    model: str
    middle: tuple[float, ...]
    binning: int
    steps: int
    seconds: float
    blocks: int = 0
    recipe: str = ""

    @property
    def ok(self) -> bool:
        return self.status is TiltStatus.CONVERGED

    @property
    def outliers(self) -> tuple[int, ...]:
        """Projections that were not used; `kinds` says why. Their poses are interpolated from their neighbours."""
        return tuple(sorted(self.kinds))

    @property
    def transform(self) -> SliceAffines:
        return self.projections_from_aligned

    @property
    def parameters(self) -> dict[str, Floats]:
        """(A,) of "ty", "tx" (world units), "theta", and "sy", the magnification, of each projection, about `middle`,
        that of the detector."""
        rows = [affine.decompose(self.middle) for affine in self.projections_from_aligned]
        return {name: np.array([row[name] for row in rows]) for name in rows[0]}

    def facts(self) -> dict[str, Any]:
        names = [f.name for f in fields(self) if f.name not in ("projections_from_aligned", "kinds")]
        return {name: getattr(self, name) for name in names} | {
            "outliers": self.outliers,
            "kinds": {str(i): kind for i, kind in self.kinds.items()},
        }

    def rows(self) -> list[dict[str, Any]]:
        """One mapping for each projection: angle (radians), `parameters`, the map's matrix (world, "m00" in
        row 0 and column 0 and so on), sigmas, residual, kind."""
        matrices = self.projections_from_aligned.matrices
        shown = ("ty", "tx", "theta", "sy") if self.model == "similarity" else ("ty", "tx", "theta")
        parameters = {name: values for name, values in self.parameters.items() if name in shown}
        arrays = {name: value for name, value in self.sigma.items() if np.ndim(value)}
        return [
            {
                "projection": i,
                "angle": float(self.angles[i]),
                **{name: float(values[i]) for name, values in parameters.items()},
                **{f"m{r}{c}": float(m[r, c]) for r in range(2) for c in range(3)},
                **{f"sigma_{name}": float(values[i]) for name, values in arrays.items()},
                "residual": float(self.residuals[i]),
                "outlier": i in self.kinds,
                "kind": self.kinds.get(i, ""),
            }
            for i, m in enumerate(matrices)
        ]

    @classmethod
    def load(cls, path: str | PathLike[str]) -> TiltFit:
        """Read what `save` wrote as JSON.

        Raises: InvalidTransformError where the file is not that of projections.
        """
        data = transforms.read_json(path)
        transform = transforms.transform_from_file(data, str(path))
        if not isinstance(transform, SliceAffines) or data.get("kind") != cls.kind:
            raise InvalidTransformError(f"{path} is not the fit of projections")
        try:
            data = {"blocks": 0, "recipe": ""} | data  # earlier versions had none
            found = {f.name: data[f.name] for f in fields(cls) if f.name != "projections_from_aligned"}
            found |= {name: _numbers(found[name]) for name in ("angles", "residuals")}
            found["middle"] = tuple(float(v) for v in found["middle"])
            found["status"] = TiltStatus[data["status"].upper()]
            found["kinds"] = {int(i): str(kind) for i, kind in data["kinds"].items()}
            found["sigma"] = {
                name: _numbers(v) if isinstance(v, list) else float("nan") if v is None else v
                for name, v in data["sigma"].items()
            }
            return cls(projections_from_aligned=transform, **found)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InvalidTransformError(f"{path} is damaged, or of another version: {error!r}") from error

    def section(self) -> Section:
        """What a page shows of this fit."""
        from daskreg.reporting.tilt_section import tilt_section

        return tilt_section(self)

    def plot(self) -> Figure:
        """The shifts and the residuals by angle, with one standard deviation."""
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise MissingExtraError("matplotlib", "report") from error
        figure = Figure(figsize=(9, 7), layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True)
        degrees = np.degrees(self.angles)
        matrices, unit = self.projections_from_aligned.matrices, self.projections_from_aligned.unit or "pixel"
        shifts = np.linalg.solve(matrices[:, :2, :2], matrices[:, :2, 2:])[..., 0]
        for k, name in enumerate(("ty", "tx")):
            values = shifts[:, k] - np.median(shifts[:, k])
            upper.errorbar(degrees, values, self.sigma.get(name), fmt=".-", label=f"{name} ({unit}), less its median")
        upper.legend()
        lower.plot(degrees, self.residuals, ".-")
        for i in self.outliers:
            lower.annotate(self.kinds[i], (float(degrees[i]), float(np.nan_to_num(self.residuals[i]))))
        lower.set_xlabel("angle (degrees)")
        lower.set_ylabel("residual (share of the projection)")
        figure.suptitle(f"{headline(self)}\naxis {np.degrees(self.axis):.3f}°, centre {self.centre:.2f}")
        return figure

    def __repr__(self) -> str:
        ending = "" if self.ok else f"\n  {self.status.value}"
        named = "".join(f"; {kind}: {i}" for i, kind in list(self.kinds.items())[:8])
        sigma = self.sigma
        return (
            f"TiltFit({self.status.name.lower()}: {len(self.angles)} projections, {self.model}, axis "
            f"{np.degrees(self.axis):.3f} +- {np.degrees(sigma['axis']):.2g} degrees, centre {self.centre:.2f} +- "
            f"{sigma['centre']:.2g}, residual {np.nanmedian(self.residuals):.2%}, {duration(self.seconds)}{named})"
            f"{ending}"
        )


def _numbers(values: Any) -> Floats:
    return np.array([np.nan if v is None else v for v in values], dtype=np.float64)
