"""The page's section about a stack: its drift, what stands out, and a row for each slice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from daskreg.reporting import drift
from daskreg.reporting.chart import Line, chart
from daskreg.reporting.generic_section import plotted
from daskreg.reporting.section import Chart, Pairs, Row, Section, Table, Verdict, without_empty
from daskreg.reporting.views import Comparison
from daskreg.reporting.words import (
    METRIC_NAMES,
    agreement,
    count,
    duration,
    listed,
    number,
    percent,
    quantity,
    sentence_and_remedy,
    symbol,
    with_error,
)

MOST_ROWS = 1000
"""Rows of the table on the page; of more, those of outliers and then the first."""

_NO_STACK = "For pictures of the stack, pass it: fit.report(path, stack=stack)."

MUCH = 4.0
"""From this factor on, changes of areas are named in the verdict: twice the length along both axes."""

_SHOWN = {
    "fit.outliers": "the slices that are marked below",
    "fit.kinds": "the marks below",
    "fit.breaks": "the breaks below",
    "fit.cycles": "the cycle errors below",
    "fit.sigma": "the bands below",
    "fit.rival": "the shift below",
}


def stack_section(
    fit: Any,
    *,
    comparisons: Sequence[Comparison] = (),
    thumbnails: Sequence[tuple[str, tuple[Comparison, ...]]] = (),
    truth: Any = None,
) -> Section:
    """Of a StackFit.

    Args:
        comparisons: the stack before and after.
        thumbnails: what agrees least, by caption.
        truth: raw_from_clean, drawn dashed.
    """
    return Section(
        heading="A stack of slices",
        verdict=stack_verdict(fit),
        comparisons=tuple(comparisons),
        charts=drift_charts(fit, truth),
        thumbnails=tuple(thumbnails),
        numbers=stack_numbers(fit),
        settings=_settings(fit),
        calls=without_empty([("Python", getattr(fit, "recipe", ""))]),
        table=_table(fit),
        missing="" if comparisons else _NO_STACK,
    )


def elastic_section(
    fit: Any,
    *,
    comparisons: Sequence[Comparison] = (),
    thumbnails: Sequence[tuple[str, tuple[Comparison, ...]]] = (),
) -> Section:
    """Of an ElasticStackFit. comparisons, thumbnails: see `stack_section`."""
    pictures, missing = plotted(fit, f"The field of slice {fit.worst}, which changes areas the most")
    return Section(
        heading="A stack of slices, with deformation",
        verdict=elastic_verdict(fit),
        comparisons=tuple(comparisons),
        charts=_elastic_charts(fit),
        thumbnails=tuple(thumbnails),
        pictures=pictures,
        numbers=_elastic_numbers(fit),
        settings=_elastic_settings(fit),
        calls=without_empty([("Python", fit.recipe)]),
        table=_table(fit),
        missing=" ".join(part for part in (missing, "" if comparisons else _NO_STACK) if part),
    )


def _elastic_charts(fit: Any) -> tuple[Chart, ...]:
    """The drift of the poses, and how much each slice is stretched, shrunk and left out."""
    poses, unit = fit.affine, fit.raw_from_aligned.unit
    shown = SimpleNamespace(raw_from_aligned=poses.raw_from_aligned, centre=poses.centre, sigma=poses.sigma,
                            scores=fit.scores, metric=fit.metric, outliers=fit.outliers, kinds=fit.kinds,
                            bridged=fit.bridged, breaks=fit.breaks)  # fmt: skip
    axis, marked = str(poses.raw_from_aligned.axis), drift.marks(shown)
    lines = [("growth of areas", [("most", fit.jacobian[:, 2]), ("median", fit.jacobian[:, 1]),
                                  ("least", fit.jacobian[:, 0])])]  # fmt: skip
    known = [sigma[np.isfinite(sigma)] for sigma in np.asarray(fit.sigma)]  # nothing of slices that were bridged
    spread = np.array([np.sqrt(np.mean(one**2)) if one.size else np.nan for one in known])
    if np.isfinite(spread).any():
        lines.append((f"uncertainty of the field ({symbol(unit)})", [("σ of a displacement", spread)]))
    if np.any(fit.rejected):
        lines.append(("left out (%)", [("agrees with no neighbour", 100 * np.asarray(fit.rejected))]))
    fields = [
        Chart("", chart([Line(name, values) for name, values in named], label=label, along=f"slice along {axis}",
                        marks=marked, alt=f"{label} along the slices."))
        for label, named in lines
    ]  # fmt: skip
    return (*drift_charts(shown), *fields)


def _elastic_numbers(fit: Any) -> Pairs:
    known = fit.scores[np.isfinite(fit.scores)]
    words = METRIC_NAMES.get(fit.metric, fit.metric)
    rows: list[tuple[str, str | None]] = [("Slices", f"{len(fit.scores):,} along {fit.affine.raw_from_aligned.axis}")]
    if len(known):
        rows.append((f"Agreement of neighbours: {words}", f"{agreement(float(np.median(known)))} in the median, "
                     f"{agreement(float(known.min()))} to {agreement(float(known.max()))}"))  # fmt: skip
    least, most = float(np.min(fit.jacobian[:, 0])), float(np.max(fit.jacobian[:, 2]))
    rows += [
        ("Areas change by factors of", f"{number(least, 3)} to {number(most, 3)}"),
        ("Left out, most of one slice", percent(float(np.max(fit.rejected))) if np.any(fit.rejected) else ""),
        ("Coefficients that the images determine", f"{fit.determined:,.0f} of {fit.parameters:,}"),
    ]
    rows += [(f"Slices: {kind}", listed(slices, 20)) for kind, slices in drift.marks(fit).items()]
    if fit.bad_voxels:
        rows.append(("Voxels of the detector left out", f"{fit.bad_voxels:,} of a slice (hot, dead, or gaps)"))
    rows.append(("Time", f"{duration(fit.seconds)}, {count(fit.iterations, 'iteration')}"))
    return without_empty(rows)


def _elastic_settings(fit: Any) -> Pairs:
    apart = " × ".join(number(h) for h in fit.spacing)
    return (
        ("Model", f"{count(fit.layers, 'layer')} of cubic B-splines for each slice, after its pose"),
        ("Control points", f"{apart} {symbol(fit.raw_from_aligned.unit)} apart"),
        *_settings(fit)[1:],
    )


def stack_verdict(fit: Any) -> Verdict:
    """Whether to use the fit, and what to do."""
    total = count(len(fit.scores), "slice")
    said, remedy = sentence_and_remedy(fit.status.value)
    for name, words in _SHOWN.items():
        said, remedy = said.replace(name, words), remedy.replace(name, words)
    if not fit.ok:
        return Verdict(False, f"Do not use this result as it is. {said}", remedy)
    odd, bridged = set(map(int, fit.outliers)), list(fit.bridged)
    if fit.status.name == "EDITED":
        return Verdict(True, f"{said} ({total})")
    if bridged:
        return Verdict(
            True,
            f"{count(len(fit.scores) - len(bridged), 'slice')} of {len(fit.scores)} are aligned; "
            f"{count(len(bridged), 'slice')} could not be fitted and took the pose between the neighbours.",
            f"Look at slices {listed(sorted(odd))} below; leave out those that are no good.",
        )
    if odd:
        return Verdict(
            True,
            f"All {total} are aligned; {count(len(odd), 'slice stands', 'slices stand')} out from the neighbours.",
            f"Look at {listed(sorted(odd))} below, and leave out what is no good.",
        )
    return Verdict(True, f"All {total} are aligned, and no slice stands out.")


def elastic_verdict(fit: Any) -> Verdict:
    """`stack_verdict`, which also names slices whose fields change areas much: images may not determine them."""
    verdict = stack_verdict(fit)
    if not fit.ok:
        return verdict
    factors = np.maximum(fit.jacobian[:, 2], 1 / fit.jacobian[:, 0])
    strong = np.flatnonzero(factors >= MUCH)
    if not len(strong):
        return verdict
    which = f"the field{'s' if len(strong) > 1 else ''} of slice{'s' if len(strong) > 1 else ''} {listed(strong)}"
    return Verdict(
        True,
        f"{verdict.sentence} Areas change by up to {number(float(factors.max()), 2)} times.",
        f"{verdict.remedy} Look at {which}: specimens seldom stretch that much.".strip(),
    )


def drift_charts(fit: Any, truth: Any = None) -> tuple[Chart, ...]:
    """One drawing for each kind of parameter, with bands of one standard deviation and outliers marked by kind."""
    start, axis = int(getattr(fit.raw_from_aligned, "start", 0)), str(fit.raw_from_aligned.axis)
    marked = drift.marks(fit)
    charts = []
    for panel in drift.panels(fit, truth):
        banded = any(line.sigma is not None for line in panel.lines)
        alt = f"{panel.label} along the slices. " + " ".join(
            f"{line.name}: {number(float(np.nanmin(line.values)))} to {number(float(np.nanmax(line.values)))}."
            for line in panel.lines
        )
        svg = chart(panel.lines, label=panel.label, along=f"slice along {axis}", start=start, marks=marked, alt=alt)
        charts.append(Chart("The band is one standard deviation." if banded else "", svg))
    return tuple(charts)


def stack_numbers(fit: Any) -> Pairs:
    """How far slices were moved, how certain that is, and what stands out."""
    unit, found = fit.raw_from_aligned.unit, fit.parameters
    rows: list[tuple[str, str | None]] = [("Slices", f"{len(fit.scores):,} along {fit.raw_from_aligned.axis}")]
    rows += [
        (f"Largest shift along {name[1:]}", _largest(found[name], fit.sigma.get(name), 1.0, symbol(unit)))
        for name in found
        if name.startswith("t") and name != "theta"
    ]
    for name in [n for n in ("theta", "rx", "ry", "rz") if n in found and np.any(found[n])]:
        degrees = float(np.degrees(1))
        label = "Largest rotation" + ("" if name == "theta" else f" about {name[1]}")
        rows.append((label, _largest(found[name], fit.sigma.get(name), degrees, "°")))
    known = fit.scores[np.isfinite(fit.scores)]
    if len(known):
        words = METRIC_NAMES.get(fit.metric, fit.metric)
        rows.append((f"Agreement of neighbours: {words}", f"{agreement(float(np.median(known)))} in the median, "
                     f"{agreement(float(known.min()))} to {agreement(float(known.max()))}"))  # fmt: skip
    if np.isfinite(fit.cycle):
        rows.append(("Error of a closed cycle of pairs, median", quantity(fit.cycle, unit)))
    for kind, slices in drift.marks(fit).items():
        rows.append((f"Slices: {kind}", listed(slices, 20)))
    if fit.disagreement > 1.2:
        rows.append(("Pairs disagree more than noise explains", f"by a factor of {fit.disagreement:.2g}; the bands "
                     "include it"))  # fmt: skip
    if fit.rival is not None:
        shift = ", ".join(quantity(float(v), unit) for v in fit.rival)
        rows.append(("Shift by which slices agree as well", f"{shift} (array order)"))
    if fit.slow is not None:
        rows.append(("Slow motion", f"up to {quantity(float(np.max(fit.slow)), unit)}: drift, or the shape of the "
                     "specimen, which changes along the stack; images cannot tell"))  # fmt: skip
    if fit.bad_voxels:
        rows.append(("Voxels of the detector left out", f"{fit.bad_voxels:,} of a slice (hot, dead, or gaps)"))
    if fit.seconds:
        rows.append(("Time", duration(fit.seconds)))
    return without_empty(rows)


def _largest(values: Any, sigma: Any, factor: float, unit: str) -> str:
    """The value of largest magnitude with its standard deviation."""
    at = int(np.nanargmax(np.abs(values)))
    spread = None if sigma is None else float(sigma[at]) * factor
    space = "" if unit == "°" else " "
    return f"{with_error(float(values[at]) * factor, spread, space + unit)} (slice {at})"


def _settings(fit: Any) -> Pairs:
    model = fit.model if isinstance(fit.model, str) else ", ".join(fit.model)
    reference = str(fit.reference)
    if reference == "neighbors":
        reference = f"each slice against {fit.neighbors} on each side, all solved together"
    trend = "removed" if fit.trend == "remove" else f"kept (slower than {number(fit.smooth)} slices)"
    rows = [("Model", model), ("Metric", fit.metric), ("Reference", reference), ("Slow motion", trend)]
    channel = getattr(fit, "channel", None)
    rows.append(("Channel", "" if channel is None else str(channel)))
    return without_empty([*rows, ("From the common line along", getattr(fit, "common_line", None) or "")])


def _table(fit: Any) -> Table | None:
    rows: list[Mapping[str, Any]] = fit.rows()
    if not rows:
        return None
    names = [n for n in rows[0] if n not in ("outlier", "kind")]
    unit = symbol(fit.raw_from_aligned.unit)
    chosen = rows
    if len(rows) > MOST_ROWS:
        chosen = sorted(sorted(rows, key=lambda row: not row["outlier"])[:MOST_ROWS], key=lambda row: row["slice"])
    shown = tuple(Row((*(_cell(name, row[name]) for name in names), row["kind"]), _note(row)) for row in chosen)
    return Table("Every slice", (*(_header(name, unit) for name in names), "stands out as"), shown, len(rows))


def _note(row: Mapping[str, Any]) -> str:
    return (row["kind"] or "interpolated") if row["outlier"] else ""


def _header(name: str, unit: str) -> str:
    bare = name.removeprefix("sigma_")
    of = "σ of " if bare != name else ""
    if bare in ("theta", "rx", "ry", "rz"):
        return f"{of}{'rotation' if bare == 'theta' else 'rotation ' + bare[1]} (°)"
    if bare.startswith("t"):
        return f"{of}shift {bare[1:]} ({unit})"
    named = {"cycle": f"cycle ({unit})", "rejected": "left out (%)", "least_determinant": "areas, least",
             "greatest_determinant": "areas, most"}  # fmt: skip
    return named.get(bare, of + bare)


def _cell(name: str, value: Any) -> str:
    if name == "score" and np.isfinite(value):
        return agreement(value)
    if isinstance(value, float):
        angle = name.removeprefix("sigma_") in ("theta", "rx", "ry", "rz")
        shown = np.degrees(value) if angle else 100 * value if name == "rejected" else value
        return number(float(shown)) if np.isfinite(value) else "–"
    return str(value)
