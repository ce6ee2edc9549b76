"""`StackFit`: what `align_stack` returns."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from daskreg.errors import InputError, InvalidTransformError, MissingExtraError, ShapeMismatchError
from daskreg.formats import transforms
from daskreg.geometry import SliceAffines
from daskreg.geometry.parameters import parameter_names, parameters_from_matrix
from daskreg.registration.pose import Pose
from daskreg.reporting.fit import Fit
from daskreg.stacks.pair_table import Looks, PairTable, packed, unpacked
from daskreg.stacks.pose_graph import Graph, closures

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]


class StackStatus(Enum):
    """How an estimate ended; the value says what to do about it."""

    CONVERGED = "every slice was fitted"
    BRIDGED = "some slices could not be fitted and stand in line with their neighbours: look at fit.outliers"
    BROKEN = "at some places no fit leads from slice to slice, and no motion was assumed: look at fit.breaks"
    FAILED = "hardly any slice could be fitted: try another model or metric, masks, or a coarser level"
    EDITED = "slices stand where a table says"


@dataclass(frozen=True, eq=False, repr=False)
class StackFit(Fit):
    """Where each slice of the aligned stack is found in the raw one.

    Args:
        raw_from_aligned: one map of world points for each slice:
            `warp(stack, pull=fit.raw_from_aligned)` aligns the stack, any channel, any level.
        centre: (D,) world point, array order, about which parameters are given.
        half_extent: (D,) world lengths from there to the centres of a slice's last voxels.
        status: how it ended; its value names the remedy.
        scores: (N,) the metric of the pairs that placed each slice, NaN where none did.
        sigma: (N,) one standard deviation of each free parameter, NaN where unknown: of the noise
            of the images, and of how much pairs disagree, not of what changes slowly along the
            stack, which no pair tells from drift. Against the mean slice, or against the
            reference or the anchors.
        kinds: slices that stand out, and why: "blank", "duplicated", "torn", "blurred", "swapped"
            (with the next one), "unlike" its neighbours.
        bridged: slices without a fit of their own, which stand in line with their neighbours.
        breaks: slices before which no fit was found and no motion was assumed.
        cycles: (N,) world length by which going from the slice before each to it, on to the next
            and straight back does not close, NaN where unknown.
        disagreement: how much more pairs disagree than the noise of the images explains (a factor, at
            least 1); `sigma` has it in.
        seconds: what it took.
        pairs, looks: what is known of pairs and of single slices (see `kernels.pairtable`), for
            `align_stack(..., previous=fit)`; None where slices were not fitted to each other.
        weights: (E,) what each pair had to say in the end, 0..1.
        residuals: (E,) world length by which each pair disagrees with the result, NaN where not used.
    """

    kind: ClassVar[str] = "stack"
    raw_from_aligned: SliceAffines
    centre: Floats
    half_extent: Floats
    status: StackStatus
    scores: Floats
    sigma: Mapping[str, Floats]
    kinds: Mapping[int, str]
    bridged: tuple[int, ...]
    breaks: tuple[int, ...]
    model: str | tuple[str, ...]
    metric: str
    reference: str | int
    trend: str
    smooth: float
    neighbors: int
    cycles: Floats
    disagreement: float
    seconds: float
    common_line: str | None = None
    pairs: PairTable | None = None
    looks: Looks | None = None
    weights: Floats = field(default_factory=lambda: np.empty(0))
    residuals: Floats = field(default_factory=lambda: np.empty(0))

    @property
    def ok(self) -> bool:
        """Whether every slice has a place that a fit, or both its neighbours, vouch for."""
        return self.status in (StackStatus.CONVERGED, StackStatus.BRIDGED, StackStatus.EDITED)

    @property
    def outliers(self) -> tuple[int, ...]:
        """Slices that stand out; `kinds` says why, `bridged` which of them no fit places."""
        return tuple(sorted(set(self.kinds) | set(self.bridged)))

    @property
    def parameters(self) -> dict[str, Floats]:
        """(N,) of every parameter of `raw_from_aligned` by name, about `centre`; radians, world units."""
        rows = [parameters_from_matrix(m, self.centre) for m in self.raw_from_aligned.matrices]
        return {name: np.array([row[name] for row in rows]) for name in rows[0]}

    @property
    def transform(self) -> SliceAffines:
        return self.raw_from_aligned

    @property
    def cycle(self) -> float:
        """Median of `cycles`, a world length: how far a -> b -> c -> a misses its start; NaN without triangles."""
        known = self.cycles[np.isfinite(self.cycles)]
        return float(np.median(known)) if len(known) else float("nan")

    def consistency(self, truth: Any = None) -> dict[str, float]:
        """How well the pairs close on themselves, and with `truth` how far they are from it.

        Lengths in the world, at the root mean square distance of a slice's voxels from its
        centre. A chain closes nowhere and says nothing of itself; triangles (neighbors of 2 or
        more) do, but what all pairs get wrong alike only a truth tells.

        Args:
            truth: raw_from_clean, a SliceAffines or (N, D+1, D+1) matrices.

        Returns: "triangles" (their number), "median" and "worst" by which they miss, and with truth
            "pair_error", the median error of neighbouring pairs, and "cycle_error", that of triangles
            made of two pairs and the truth of the third.

        Raises: InputError where the fit has no pairs; ShapeMismatchError for another truth.
        """
        if self.pairs is None:
            raise InputError("this fit has no pairs: only those against neighbours close cycles")
        used = self.pairs.take(self.weights > 0)
        graph = self._graph(used)
        triangles, apart = closures(graph)
        found = {
            "triangles": float(len(apart)),
            "median": float(np.median(apart)) if len(apart) else float("nan"),
            "worst": float(apart.max()) if len(apart) else float("nan"),
        }
        if truth is None:
            return found
        known = np.asarray(getattr(truth, "matrices", truth), dtype=np.float64)
        if known.shape != self.raw_from_aligned.matrices.shape:
            raise ShapeMismatchError(f"truth has shape {known.shape}, the fit {self.raw_from_aligned.matrices.shape}")
        steps = known[used.edges[:, 1]] @ np.linalg.inv(known[used.edges[:, 0]])
        error = np.linalg.norm(graph.algebra.log(np.linalg.inv(steps) @ used.matrices), axis=1)
        span = np.diff(used.edges, axis=1)[:, 0]
        found["pair_error"] = float(np.median(error[span == span.min()]))
        if len(triangles):
            ab, bc, ac = triangles.T
            around = np.linalg.inv(steps[ac]) @ used.matrices[bc] @ used.matrices[ab]
            found["cycle_error"] = float(np.median(np.linalg.norm(graph.algebra.log(around), axis=1)))
        return found

    def facts(self) -> dict[str, Any]:
        kinds = {str(i): kind for i, kind in self.kinds.items()}
        return {name: getattr(self, name) for name in _FACTS} | {"outliers": self.outliers, "kinds": kinds}

    def rows(self) -> list[dict[str, Any]]:
        """One mapping for each slice: parameters (radians, world units), score, sigmas, cycle, outlier, kind."""
        names = moving(self.model, len(self.centre))
        courses = {name: course for name, course in self.parameters.items() if name in names}
        return [
            {
                "slice": i,
                **{name: float(course[i]) for name, course in courses.items()},
                "score": float(self.scores[i]),
                **{f"sigma_{name}": float(values[i]) for name, values in self.sigma.items()},
                "cycle": float(self.cycles[i]),
                "outlier": i in self.kinds or i in self.bridged,
                "kind": self.kinds.get(i, ""),
            }
            for i in range(len(self.raw_from_aligned))
        ]

    def to_dataframe(self) -> pd.DataFrame:
        """The rows as a pandas table, indexed by slice.

        Raises: MissingExtraError without pandas.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise MissingExtraError("pandas", "report") from error
        return pd.DataFrame(self.rows()).set_index("slice")

    def save_table(self, path: str | PathLike[str]) -> None:
        """Write the rows as CSV, or as JSON by suffix: to look at, edit, and give to `edited`."""
        from daskreg.stacks import table

        table.write(self.rows(), path)

    def edited(self, rows: Any) -> StackFit:
        """This fit with slices where a table says; see `stacking.table.poses`.

        Args:
            rows: path of a CSV or JSON file, a pandas table, or rows as of `rows()`.
        """
        from daskreg.stacks import table

        matrices, lines = table.poses(rows, self.raw_from_aligned.matrices.shape, self.centre)
        return replace(
            self,
            raw_from_aligned=SliceAffines(
                matrices, self.raw_from_aligned.axis, self.raw_from_aligned.axes, self.raw_from_aligned.unit
            ),
            status=StackStatus.EDITED,
            bridged=lines,
        )

    def save(self, path: str | PathLike[str]) -> None:
        """Write the fit as JSON, which `daskreg.load` reads as its transform and `StackFit.load` as the fit."""
        if Path(path).suffix.lower() != ".json" or self.pairs is None or self.looks is None:
            return super().save(path)
        more = {"pairs": packed(self.pairs), "looks": packed(self.looks)}
        more |= {name: base64.b64encode(getattr(self, name).tobytes()).decode() for name in ("weights", "residuals")}
        transforms.write_json(self.to_dict() | {"tables": more}, path)
        return None

    @classmethod
    def load(cls, path: str | PathLike[str]) -> StackFit:
        """Read what `save` wrote as JSON.

        Raises: InvalidTransformError where the file is not that of a stack's fit.
        """
        data = transforms.read_json(path)
        transform = transforms.transform_from_file(data, str(path))
        if not isinstance(transform, SliceAffines) or data.get("kind") != cls.kind:
            raise InvalidTransformError(f"{path} is not the fit of a stack")
        try:
            return cls(raw_from_aligned=transform, **_read(data))
        except (KeyError, TypeError, ValueError, OSError) as error:
            raise InvalidTransformError(f"{path} is damaged, or of another version: {error!r}") from error

    def worst_pairs(self, most: int = 4) -> list[tuple[int, int, float]]:
        """Neighbouring slices that agree least: (slice, next slice, score), the worst first."""
        if self.pairs is None:
            return []
        used = self.pairs.take(self.weights > 0)
        nearest: dict[int, tuple[int, int, float]] = {}
        for (a, b), score in zip(used.edges.tolist(), used.scores.tolist(), strict=True):
            if a not in nearest or b < nearest[a][1]:
                nearest[a] = (a, b, score)
        sign = 1 if self.metric == "ncc" else -1
        return sorted(nearest.values(), key=lambda pair: sign * pair[2])[:most]

    def report(self, path: str | PathLike[str], *, stack: Any = None, channel: int | str | None = None) -> Path:
        """One HTML page, and the same facts as JSON beside it.

        Args:
            stack: what was aligned: side views before and after, and the worst pairs, are shown too.
            channel: of the stack.
        """
        from daskreg.reporting.page import report

        if stack is None:
            return report(self, path)
        from daskreg.stacks import figures

        return report(self, path, figures=figures.of_stack(self, stack, channel=channel))

    def plot(self, *, truth: Any = None) -> Figure:
        """The course of shifts, angles, scores and cycles; `truth`: raw_from_clean, drawn dashed."""
        from daskreg.reporting import plots

        return plots.drift(self, truth=truth)

    def _graph(self, pairs: PairTable) -> Graph:
        from daskreg.geometry.lie import Algebra

        pose = Pose.of(self.model, pairs.matrices.shape[-1] - 1)
        corners = np.abs(self.half_extent)
        reach = float(np.sqrt(np.mean(corners**2)))
        keep = [k for k, half in enumerate(corners) if half > 0] if len(corners) > pose.ndim else slice(None)
        algebra = Algebra.of(pose.groups, self.centre[keep], reach, common_scale=pose.common_scale)
        none = np.empty((len(pairs), algebra.size, algebra.size))
        return Graph(len(self.scores), pairs.edges, pairs.matrices, none, algebra)

    def __repr__(self) -> str:
        shift = np.abs(np.stack([c for n, c in self.parameters.items() if n in ("tx", "ty", "tz")])).max()
        score = f"{np.nanmedian(self.scores):.4g}" if np.isfinite(self.scores).any() else "unknown"
        unit = self.raw_from_aligned.unit or "pixel"
        named = [f"{what} {listed(found)}" for what, found in self._stand_out().items() if found]
        ending = "" if self.ok else f"\n  {self.status.value}"
        cycle = "" if np.isnan(self.cycle) else f", cycles close to {self.cycle:.3g} {unit}"
        return (
            f"StackFit({self.status.name.lower()}: {len(self.scores)} slices along {self.raw_from_aligned.axis!r}, "
            f"{self.model} against {self.reference!r}, median {self.metric} {score}, "
            f"shifts up to {shift:.4g} {unit}{cycle}, {self.seconds:.2g} s"
            f"{''.join('; ' + n for n in named)}){ending}"
        )

    def _stand_out(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for i in self.outliers:
            found.setdefault(self.kinds.get(i, "bridged"), []).append(i)
        return {"outliers": list(self.outliers), **found, "breaks": list(self.breaks)}


_FACTS = (
    "centre", "half_extent", "status", "scores", "sigma", "bridged", "breaks", "model", "metric", "reference",
    "trend", "smooth", "neighbors", "cycles", "cycle", "disagreement", "common_line", "seconds",
)  # fmt: skip


def moving(model: Any, ndim: int) -> set[str]:
    """Names of the parameters that the model lets go."""
    pose = Pose.of(model, ndim)
    return {name for group, names in parameter_names(ndim).items() if group in pose.groups for name in names}


def listed(indices: ArrayLike, most: int = 8) -> str:
    values = np.asarray(indices).tolist()
    return ", ".join(map(str, values[:most])) + (f", ... ({len(values)} in all)" if len(values) > most else "")


def _read(data: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a fit but its transform, from JSON."""

    def numbers(values: Any) -> Floats:
        return np.array([np.nan if v is None else v for v in values], dtype=np.float64)

    known = {f.name for f in fields(StackFit)}
    found = {name: value for name, value in data.items() if name in known}
    found["status"] = StackStatus[data["status"].upper()]
    found["model"] = tuple(data["model"]) if isinstance(data["model"], list) else data["model"]
    found["kinds"] = {int(i): str(kind) for i, kind in data["kinds"].items()}
    found |= {name: numbers(data[name]) for name in ("centre", "half_extent", "scores", "cycles")}
    found["sigma"] = {name: numbers(values) for name, values in data["sigma"].items()}
    found |= {name: tuple(data[name]) for name in ("bridged", "breaks")}
    tables = data.get("tables")
    if tables:
        found |= {"pairs": unpacked(PairTable, tables["pairs"]), "looks": unpacked(Looks, tables["looks"])}
        found |= {n: np.frombuffer(base64.b64decode(tables[n])).copy() for n in ("weights", "residuals")}
    return found
