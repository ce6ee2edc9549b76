"""`ElasticStackFit`: what `align_stack(model="bspline")` returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import InvalidTransformError
from daskreg.fields.field import grid_dict
from daskreg.formats import transforms
from daskreg.geometry import Grid, Transform
from daskreg.reporting.fit import Fit
from daskreg.reporting.words import duration
from daskreg.stacks import table
from daskreg.stacks.fit import StackFit
from daskreg.stacks.verdict.stack_status import StackStatus

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from daskreg.reporting.section import Section

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False, repr=False)
class ElasticStackFit(Fit):
    """Where each point of each slice of the aligned stack is found in the raw one.

    Args:
        raw_from_aligned: a Composite of `SliceAffines @ SliceDisplacements ...`, on points of the aligned slices:
            `warp(stack, pull=fit.raw_from_aligned)` aligns the stack.
        affine: the fit of the poses that the fields begin from, those of `bridged` slices interpolated.
        status: how the estimate ended; its value says what to do.
        scores: (N,) mean correlation with the nearest slices, NaN for slices without a pair.
        sigma: (N, D, *nodes) one standard deviation of the displacement of each slice at each control point, world
            units, along the axes of the slices; from noise and smoothness. About the mean of the slices that
            are neither torn nor lost, or relative to anchors. NaN for bridged slices.
        kinds: outlier slices, and of which kind; see StackFit. "torn": a part of the slice agrees with none of its
            neighbours, and was left out. "unlike": all of it.
        bridged: slices whose pose and field are interpolated from their neighbours: blank, mirrored, or unlike these.
        breaks: slices before which no pair joins the stack.
        rejected: (N,) share of each slice that was left out, because it agrees with no neighbour.
        jacobian: (N, 3) least, median and greatest determinant of the derivative of each slice's map.
        nodes: grid of the control points of the last layer, to which `sigma` belongs.
        layers: how many layers of fields were composed.
        parameters, determined: how many coefficients the last layer has, and how many of these the images determine.
        spacing: (D,) of the finest control points, world units.
        trend, smooth, reference, neighbors, metric: as passed to `align_stack`.
        iterations, seconds: of the whole estimate.
        bad_voxels: of a slice, hot, dead or gaps of the detector, which were masked.
        recipe: the Python that makes this fit again.
    """

    kind: ClassVar[str] = "elastic-stack"
    raw_from_aligned: Transform
    affine: StackFit
    status: StackStatus
    scores: Floats
    sigma: Floats
    kinds: Mapping[int, str]
    bridged: tuple[int, ...]
    breaks: tuple[int, ...]
    rejected: Floats
    jacobian: Floats
    nodes: Grid
    layers: int
    parameters: int
    determined: float
    spacing: tuple[float, ...]
    reference: str | int
    trend: str
    smooth: float
    neighbors: int
    metric: str
    iterations: int
    seconds: float = 0.0
    model: str = "bspline"
    recipe: str = ""
    bad_voxels: int = 0
    _grid: Grid | None = field(default=None, repr=False)

    @property
    def ok(self) -> bool:
        """Whether every slice has a map from its own voxels or its neighbours, without breaks, and nothing folds."""
        return self.status in (StackStatus.CONVERGED, StackStatus.BRIDGED) and bool(np.all(self.jacobian[:, 0] > 0))

    @property
    def outliers(self) -> tuple[int, ...]:
        """Slices that differ from their neighbours; `kinds` says why."""
        return tuple(sorted(set(self.kinds) | set(self.bridged)))

    @property
    def transform(self) -> Transform:
        return self.raw_from_aligned

    def facts(self) -> dict[str, Any]:
        kinds = {str(i): kind for i, kind in self.kinds.items()}
        return {name: getattr(self, name) for name in _FACTS} | {"outliers": self.outliers, "kinds": kinds}

    def rows(self) -> list[dict[str, Any]]:
        """One mapping for each slice: the parameters of its affine map, its score and kind, what was left out, and by
        how much its field stretches it."""
        return [
            {
                **row,
                "score": float(self.scores[i]),
                "outlier": i in self.outliers,
                "kind": self.kinds.get(i, ""),
                "rejected": float(self.rejected[i]),
                "least_determinant": float(self.jacobian[i, 0]),
                "greatest_determinant": float(self.jacobian[i, 2]),
            }
            for i, row in enumerate(self.affine.rows())
        ]

    def save_table(self, path: str | PathLike[str]) -> None:
        """Write the rows as CSV, or as JSON by suffix; see `StackFit.save_table`."""
        table.write(self.rows(), path, unit=self.raw_from_aligned.unit or "pixel")

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "affine": self.affine.to_dict(), "nodes": grid_dict(self.nodes)}

    @classmethod
    def load(cls, path: str | PathLike[str]) -> ElasticStackFit:
        """Read what `save` wrote as JSON.

        Raises: InvalidTransformError where the file is not that of such a fit.
        """
        data = transforms.read_json(path)
        if data.get("kind") != cls.kind:
            raise InvalidTransformError(f"{path} is not the fit of a stack with fields")
        try:
            return cls(
                raw_from_aligned=transforms.transform_from_file(data, str(path)),
                affine=StackFit.from_dict(data["affine"], str(path)),
                nodes=Grid(**data["nodes"]),
                **_fields_from_json(data),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidTransformError(f"{path} is damaged, or of another version: {error!r}") from error

    @property
    def worst(self) -> int:
        """The slice whose field changes areas the most."""
        sizes = np.maximum(self.jacobian[:, 2], 1 / np.maximum(self.jacobian[:, 0], 1e-9))
        return int(np.argmax(sizes))

    def section(self, *, stack: Any = None, channel: int | str | None = None) -> Section:
        """What a page shows of this fit. stack, channel: see `StackFit.section`."""
        from daskreg.reporting.stack_section import elastic_section

        if stack is None:
            return elastic_section(self)
        from daskreg.stacks.figures import stack_pictures

        pictures = stack_pictures(self, self.affine, stack, channel=channel)
        return elastic_section(self, comparisons=pictures.comparisons, thumbnails=pictures.thumbnails)

    def report(
        self, path: str | PathLike[str], *, stack: Any = None, channel: int | str | None = None, command: str = ""
    ) -> Path:
        """One HTML page, and the same facts as JSON beside it; see `StackFit.report`."""
        from daskreg.reporting.page import report

        def own() -> Section:
            return self.section(stack=stack, channel=channel)

        return report(self, path, title=f"daskreg: {self.title}", sections=[own], command=command)

    def plot(self) -> Figure:
        """The field of the slice that it stretches most: a warped grid, arrows, and determinants of the derivative.

        Over the slice; of a fit that was loaded, over the control points.
        """
        transform: Any = self.raw_from_aligned
        figure: Figure = transform.plot(self._grid, slices=[self.worst])
        return figure

    @property
    def _score(self) -> str:
        known = self.scores[np.isfinite(self.scores)]
        return f"{np.median(known):.4g}" if len(known) else "unknown"

    def __repr__(self) -> str:
        ending = "" if self.ok else f"\n  {self.status.value}"
        by_kind: dict[str, list[int]] = {}
        for i in self.outliers:
            by_kind.setdefault(self.kinds.get(i, "bridged"), []).append(i)
        groups = "".join(f"; {kind} {', '.join(map(str, slices[:8]))}" for kind, slices in by_kind.items())
        unit = self.raw_from_aligned.unit or "pixel"
        spacing = " x ".join(f"{h:.4g}" for h in self.spacing)
        return (
            f"ElasticStackFit({self.status.name.lower()}: {len(self.scores)} slices, median {self.metric} "
            f"{self._score}, {duration(self.seconds)}{groups}\n"
            f"  {self.layers} layers of cubic B-splines, control points {spacing} {unit} apart, "
            f"{self.determined:.0f} of {self.parameters} coefficients determined\n"
            f"  areas change by factors of {self.jacobian[:, 0].min():.3g} to {self.jacobian[:, 2].max():.3g}{ending})"
        )


_FACTS = (
    "status", "scores", "sigma", "bridged", "breaks", "rejected", "jacobian", "layers", "parameters", "determined",
    "spacing", "reference", "trend", "smooth", "neighbors", "metric", "iterations", "seconds", "model", "recipe",
    "bad_voxels",
)  # fmt: skip


def load_fit(path: str | PathLike[str]) -> StackFit | ElasticStackFit:
    """The fit that `align_stack` saved, of whichever model."""
    kind = transforms.read_json(path).get("kind")
    return ElasticStackFit.load(path) if kind == ElasticStackFit.kind else StackFit.load(path)


def _fields_from_json(data: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of a fit, from the JSON that `save` wrote."""

    def numbers(name: str) -> Floats:
        return np.array(data[name], dtype=np.float64)

    found = {name: data[name] for name in _FACTS}
    found["status"] = StackStatus[data["status"].upper()]
    found["kinds"] = {int(i): str(kind) for i, kind in data["kinds"].items()}
    found |= {name: numbers(name) for name in ("scores", "sigma", "rejected", "jacobian")}
    return found | {name: tuple(data[name]) for name in ("bridged", "breaks", "spacing")}
