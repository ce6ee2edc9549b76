"""`StackFit`: what `align_stack` returns."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from daskreg.errors import InputError, InvalidTransformError, MissingExtraError, ShapeMismatchError
from daskreg.formats import transforms
from daskreg.geometry import SliceAffines, as_transform
from daskreg.geometry.lie import Algebra
from daskreg.geometry.parameters import parameter_names, parameters_from_matrix
from daskreg.registration.pose import Pose
from daskreg.reporting.fit import Fit
from daskreg.reporting.section import Section
from daskreg.reporting.words import duration
from daskreg.stacks import table
from daskreg.stacks.consistency import pair_consistency, worst_neighbors
from daskreg.stacks.pair_table import PairTable, SliceFeatures, packed, unpacked
from daskreg.stacks.verdict.stack_status import StackStatus

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False, repr=False)
class StackFit(Fit):
    """Where each slice of the aligned stack is found in the raw one.

    Args:
        raw_from_aligned: one map of world points for each slice:
            `warp(stack, pull=fit.raw_from_aligned)` aligns the stack, any channel, any level.
        centre: (D,) world point, array order, about which parameters are given.
        half_extent: (D,) world lengths from there to the centres of a slice's last voxels.
        status: how the estimate ended; its value names the remedy.
        scores: (N,) mean metric of the pairs with the nearest slices, NaN for slices without a fit.
        sigma: (N,) one standard deviation of each free parameter, NaN where unknown. It comes from the
            noise of the images and the disagreement of the pairs. It leaves out what changes slowly along
            the stack, which pairs cannot separate from drift. Relative to the mean slice, or to the
            reference or the anchors.
        kinds: outlier slices, and of which kind: "blank", "duplicated", "torn", "blurred", "swapped"
            (with the next one), "mirrored", "contradicted" (its pairs do not agree with each other), "unlike" its
            neighbours (see `outliers`).
        bridged: slices without a fit of their own, whose poses are interpolated from their neighbours.
        breaks: slices before which no fit was found and no motion was assumed.
        cycles: (N,) closure error, a world length, of the cycle from the slice before each to it, to the next
            one, and directly back; NaN where unknown.
        disagreement: factor, at least 1, by which pairs disagree more than the noise of the images
            explains; `sigma` includes it.
        seconds: the duration of the estimate.
        pairs, features: the results for pairs and the features of single slices (see `pair_table`), for
            `align_stack(..., previous=fit)`; None where slices were not fitted to each other.
        weights: (E,) robust weight of each pair in the end, 0..1.
        residuals: (E,) world length by which each pair disagrees with the result, NaN where not used.
        rival: (D,) shift, world, by which the aligned slices agree with their neighbours as well as they do unmoved, as
            periodic specimens do; None without one.
        slow: (D,) world lengths, by how much the slow part of the motion moves the slices along each axis, where the
            specimen changes along the stack too, so that this part may be that change: images cannot tell, and
            `trend="keep"` or `anchors=` keep it out. None where the specimen does not change, or little moves slowly.
        striped: stripes of the detector hid a part of the motion, so the means of its rows and columns were subtracted
            from each slice.
        bad_voxels: of a slice (reduced, if slices are large), hot, dead or gaps of the detector, which were masked.
        recipe: the Python that makes this fit again.
        channel: of the stack, the one that was aligned, and that pages show; None where none was named.
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
    features: SliceFeatures | None = None
    weights: Floats = field(default_factory=lambda: np.empty(0))
    residuals: Floats = field(default_factory=lambda: np.empty(0))
    rival: Floats | None = None
    slow: Floats | None = None
    striped: bool = False
    bad_voxels: int = 0
    recipe: str = ""
    channel: int | str | None = None

    @property
    def ok(self) -> bool:
        """Whether every slice has a pose from a fit, from its neighbours or from a table, without breaks."""
        return self.status in (StackStatus.CONVERGED, StackStatus.BRIDGED, StackStatus.EDITED)

    @property
    def outliers(self) -> tuple[int, ...]:
        """Slices that differ from their neighbours or have no fit; `kinds` says why, `bridged` which have no fit."""
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
        """Median closure error of the cycles a -> b -> c -> a, a world length; NaN without triangles."""
        known = self.cycles[np.isfinite(self.cycles)]
        return float(np.median(known)) if len(known) else float("nan")

    def consistency(self, truth: Any = None) -> dict[str, float]:
        """How well the pairs agree with each other, and with `truth`, how large their errors are.

        Lengths are in the world, at the root mean square distance of a slice's voxels from its centre. A
        chain of pairs has no cycles, so it cannot be checked without the truth. Pairs in triangles
        (neighbors of 2 or more) can, but an error that all pairs share appears only with the truth.

        Args:
            truth: raw_from_clean, a SliceAffines or (N, D+1, D+1) matrices.

        Returns: "triangles" (their number), "median" and "worst" of their closure errors, and with truth
            "pair_error", the median error of neighbouring pairs, and "cycle_error", that of triangles
            made of two pairs and the truth of the third.

        Raises: InputError where the fit has no pairs; ShapeMismatchError for a truth of another shape.
        """
        if self.pairs is None:
            raise InputError("this fit has no pairs: only fits to neighbours have cycles")
        true_poses = None if truth is None else as_transform(truth).to_matrices()
        shape = self.raw_from_aligned.matrices.shape
        if true_poses is not None and true_poses.shape != shape:
            raise ShapeMismatchError(f"truth has shape {true_poses.shape}, the fit {shape}")
        used = self.pairs.take(self.weights > 0)
        return pair_consistency(used, len(self.scores), self._algebra(self.pairs), true_poses)

    def facts(self) -> dict[str, Any]:
        kinds = {str(i): kind for i, kind in self.kinds.items()}
        return {name: getattr(self, name) for name in _FACTS} | {"outliers": self.outliers, "kinds": kinds}

    def rows(self) -> list[dict[str, Any]]:
        """One mapping for each slice: parameters (radians, world units), score, sigmas, cycle, outlier, kind."""
        free = _free_parameters(self.model, len(self.centre))
        trajectories = {name: values for name, values in self.parameters.items() if name in free}
        return [
            {
                "slice": i,
                **{name: float(values[i]) for name, values in trajectories.items()},
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
        """Write the rows as CSV, or as JSON by suffix, to be viewed, edited, and passed to `edited`.

        Headers say the units: radians, and the world's unit.
        """
        table.write(self.rows(), path, unit=self.raw_from_aligned.unit or "pixel")

    def edited(self, rows: Any) -> StackFit:
        """This fit with the poses of a table; see `table.poses`.

        Args:
            rows: path of a CSV or JSON file, a pandas table, or rows like those of `rows()`.
        """
        unit = self.raw_from_aligned.unit or "pixel"
        matrices, interpolated = table.poses(rows, self.raw_from_aligned.matrices.shape, self.centre, unit=unit)
        return replace(
            self,
            raw_from_aligned=SliceAffines(
                matrices, self.raw_from_aligned.axis, self.raw_from_aligned.axes, self.raw_from_aligned.unit
            ),
            status=StackStatus.EDITED,
            bridged=interpolated,
            slow=None,
        )

    def stored(self) -> dict[str, Any]:
        """The fit as JSON values, with the tables of its pairs where they are known, which `load` reads again."""
        if self.pairs is None or self.features is None:
            return self.to_dict()
        tables = {"pairs": packed(self.pairs), "looks": packed(self.features)}
        tables |= {name: base64.b64encode(getattr(self, name).tobytes()).decode() for name in ("weights", "residuals")}
        return self.to_dict() | {"tables": tables}

    @classmethod
    def load(cls, path: str | PathLike[str]) -> StackFit:
        """Read what `save` wrote as JSON.

        Raises: InvalidTransformError where the file is not that of a stack's fit.
        """
        return cls.from_dict(transforms.read_json(path), str(path))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], path: str) -> StackFit:
        """What `to_dict` gave, or `save` wrote to `path`.

        Raises: InvalidTransformError.
        """
        transform = transforms.transform_from_file(data, path)
        if not isinstance(transform, SliceAffines) or data.get("kind") != cls.kind:
            raise InvalidTransformError(f"{path} is not the fit of a stack")
        try:
            return cls(raw_from_aligned=transform, **_fields_from_json(data))
        except (KeyError, TypeError, ValueError, OSError) as error:
            raise InvalidTransformError(f"{path} is damaged, or of another version: {error!r}") from error

    def worst_pairs(self, most: int = 4) -> list[tuple[int, int, float]]:
        """Neighbouring slices that agree least: (slice, next slice, score), the worst first."""
        if self.pairs is None:
            return []
        return worst_neighbors(self.pairs.take(self.weights > 0), self.metric, most)

    def section(self, *, stack: Any = None, channel: int | str | None = None, truth: Any = None) -> Section:
        """What a page shows of this fit.

        Args:
            stack: the stack that was aligned: a slice and side views before and after, the worst slices and the worst
                pairs are shown too.
            channel: of the stack; by default that of the fit, where the stack has several.
            truth: raw_from_clean, drawn dashed.
        """
        from daskreg.reporting.stack_section import stack_section

        if stack is None:
            return stack_section(self, truth=truth)
        from daskreg.stacks.figures import stack_pictures

        pictures = stack_pictures(self, self, stack, channel=channel)
        return stack_section(self, comparisons=pictures.comparisons, thumbnails=pictures.thumbnails, truth=truth)

    def report(
        self,
        path: str | PathLike[str],
        *,
        stack: Any = None,
        channel: int | str | None = None,
        truth: Any = None,
        command: str = "",
    ) -> Path:
        """One HTML page, and the same facts as JSON beside it; see `section` for the options.

        The facts are written first: they are kept if a picture cannot be made.
        """
        from daskreg.reporting.page import report

        def own() -> Section:
            return self.section(stack=stack, channel=channel, truth=truth)

        return report(self, path, title=f"daskreg: {self.title}", sections=[own], command=command)

    def plot(self, *, truth: Any = None) -> Figure:
        """Shifts, angles, scores and cycles along the stack; `truth`: raw_from_clean, drawn dashed."""
        from daskreg.reporting import plots

        return plots.drift(self, truth=truth)

    def _algebra(self, pairs: PairTable) -> Algebra:
        """Of the model, on the axes that are aligned."""
        pose = Pose.of(self.model, pairs.matrices.shape[-1] - 1)
        corners = np.abs(self.half_extent)
        reach = float(np.sqrt(np.mean(corners**2)))
        keep = [k for k, half in enumerate(corners) if half > 0] if len(corners) > pose.ndim else slice(None)
        return Algebra.of(pose.groups, self.centre[keep], reach, common_scale=pose.common_scale)

    def __repr__(self) -> str:
        shift = np.abs(np.stack([c for n, c in self.parameters.items() if n in ("tx", "ty", "tz")])).max()
        score = f"{np.nanmedian(self.scores):.4g}" if np.isfinite(self.scores).any() else "unknown"
        unit = self.raw_from_aligned.unit or "pixel"
        groups = [f"{name} {_listed(slices)}" for name, slices in self._groups().items() if slices]
        ending = "" if self.ok else f"\n  {self.status.value}"
        if self.slow is not None:
            ending += (
                f"\n  slices move slowly by up to {self.slow.max():.3g} {unit}, and the specimen changes: images "
                'cannot tell drift from its shape, which trend="keep" or anchors= keep'
            )
        cycle = "" if np.isnan(self.cycle) else f", cycles close to {self.cycle:.3g} {unit}"
        return (
            f"StackFit({self.status.name.lower()}: {len(self.scores)} slices along {self.raw_from_aligned.axis!r}, "
            f"{self.model}, reference {self.reference!r}, median {self.metric} {score}, "
            f"shifts up to {shift:.4g} {unit}{cycle}, {duration(self.seconds)}"
            f"{''.join('; ' + g for g in groups)}){ending}"
        )

    def _groups(self) -> dict[str, list[int]]:
        """Slices by what the repr says of them."""
        by_kind: dict[str, list[int]] = {}
        for i in self.outliers:
            by_kind.setdefault(self.kinds.get(i, "bridged"), []).append(i)
        return {"outliers": list(self.outliers), **by_kind, "breaks": list(self.breaks)}


_FACTS = (
    "centre", "half_extent", "status", "scores", "sigma", "bridged", "breaks", "model", "metric", "reference",
    "trend", "smooth", "neighbors", "cycles", "cycle", "disagreement", "common_line", "rival", "slow", "striped",
    "bad_voxels", "seconds", "recipe", "channel",
)  # fmt: skip


def _free_parameters(model: Any, ndim: int) -> set[str]:
    """Names of the free parameters of a model."""
    pose = Pose.of(model, ndim)
    return {name for group, names in parameter_names(ndim).items() if group in pose.groups for name in names}


def _listed(indices: ArrayLike, most: int = 8) -> str:
    """The first `most` indices, separated by commas, and how many there are if there are more."""
    values = np.asarray(indices).tolist()
    return ", ".join(map(str, values[:most])) + (f", ... ({len(values)} in all)" if len(values) > most else "")


def _fields_from_json(data: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a fit except its transform, from the JSON that `save` wrote."""

    def numbers(values: Any) -> Floats:
        return np.array([np.nan if v is None else v for v in values], dtype=np.float64)

    names = {f.name for f in fields(StackFit)}
    found = {name: value for name, value in data.items() if name in names}
    found["status"] = StackStatus[data["status"].upper()]
    found["model"] = tuple(data["model"]) if isinstance(data["model"], list) else data["model"]
    found["kinds"] = {int(i): str(kind) for i, kind in data["kinds"].items()}
    found |= {name: numbers(data[name]) for name in ("centre", "half_extent", "scores", "cycles")}
    found |= {n: None if data.get(n) is None else numbers(data[n]) for n in ("rival", "slow")}
    found["sigma"] = {name: numbers(values) for name, values in data["sigma"].items()}
    found |= {name: tuple(data[name]) for name in ("bridged", "breaks")}
    tables = data.get("tables")
    if tables:
        found |= {"pairs": unpacked(PairTable, tables["pairs"]), "features": unpacked(SliceFeatures, tables["looks"])}
        found |= {n: np.frombuffer(base64.b64decode(tables[n])).copy() for n in ("weights", "residuals")}
    return found
