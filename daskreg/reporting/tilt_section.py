"""The page's section about aligned projections: shifts and residuals by angle, the axis of rotation, and outliers."""

from __future__ import annotations

from typing import Any

import numpy as np

from daskreg.reporting import drift
from daskreg.reporting.chart import Line, chart
from daskreg.reporting.section import Chart, Pairs, Row, Section, Table, Verdict, without_empty
from daskreg.reporting.words import count, duration, listed, number, percent, sentence_and_remedy, symbol, with_error

MOST_ROWS = 2000
"""Projections in the table of the page."""


def tilt_section(fit: Any) -> Section:
    """Of a TiltFit."""
    return Section(
        heading="Projections of a tomogram",
        verdict=_verdict(fit),
        charts=_charts(fit),
        numbers=_numbers(fit),
        settings=without_empty(
            [
                ("Model", fit.model),
                ("Axis of rotation along", fit.rotation_axis),
                ("Columns that were averaged", str(fit.binning) if fit.binning > 1 else ""),
                ("Worked on in blocks of rows", str(fit.blocks) if fit.blocks else ""),
            ]
        ),
        calls=without_empty([("Python", fit.recipe)]),
        table=_table(fit),
    )


def _verdict(fit: Any) -> Verdict:
    if not fit.ok:
        said, remedy = sentence_and_remedy(fit.status.value)
        return Verdict(False, f"Do not use this result as it is. {said}", remedy)
    used = len(fit.angles) - len(fit.kinds)
    said = f"{used:,} of {count(len(fit.angles), 'projection')} are aligned, and the volume explains them"
    left = f"; {count(len(fit.kinds), 'projection was', 'projections were')} not used" if fit.kinds else ""
    return Verdict(True, f"{said}{left}.", "Look at what is marked below." if fit.kinds else "")


def _charts(fit: Any) -> tuple[Chart, ...]:
    """Shifts, turns and magnifications of each projection, and what the volume does not explain of it."""
    unit, marked = symbol(fit.projections_from_aligned.unit), drift.marks(fit)
    found, sigma = fit.parameters, {name: np.asarray(value) for name, value in fit.sigma.items() if np.ndim(value)}
    panels = [(f"shift, less its median ({unit})", [
        Line(f"along {name[1]}", found[name] - np.nanmedian(found[name]), sigma.get(name)) for name in ("tx", "ty")
    ])]  # fmt: skip
    if "theta" in sigma:
        turned = np.degrees(found["theta"])
        panels.append(("turn in the plane of the detector (°)", [Line("turn", turned, np.degrees(sigma["theta"]))]))
    if "scale" in sigma:
        panels.append(("magnification", [Line("magnification", found["sy"], sigma["scale"] * found["sy"])]))
    panels.append(("not explained by the volume (%)", [Line("residual", 100 * np.asarray(fit.residuals))]))
    return tuple(
        Chart("The band is one standard deviation." if any(line.sigma is not None for line in lines) else "",
              chart(lines, label=label, along="projection", marks=marked, alt=f"{label}, for each projection."))
        for label, lines in panels
    )  # fmt: skip


def _numbers(fit: Any) -> Pairs:
    degrees, axis, centre = np.degrees(fit.angles), float(np.degrees(fit.axis)), fit.sigma.get("centre")
    column = "column" if fit.rotation_axis == "y" else "row"
    rows: list[tuple[str, str | None]] = [
        ("Projections", f"{len(degrees):,}, at {number(float(degrees.min()))}° to {number(float(degrees.max()))}°"),
        (f"The axis of rotation is at {column}", with_error(fit.centre, centre)),
        ("Turn of the axis in the detector", with_error(axis, float(np.degrees(fit.sigma.get("axis", np.nan))), "°")),
        ("Not explained by the volume, median", percent(float(np.nanmedian(fit.residuals)))),
        ("Explained of what varies with the angle", percent(fit.agreement)),
    ]
    if fit.disagreement > 1.2:
        rows.append(("Residuals are larger than noise explains", f"by a factor of {fit.disagreement:.2g}; the bands "
                     "include it"))  # fmt: skip
    rows += [(f"Projections: {kind}", listed(numbers, 20)) for kind, numbers in drift.marks(fit).items()]
    rows.append(("Time", f"{duration(fit.seconds)}, {count(fit.steps, 'step')}"))
    return without_empty(rows)


def _table(fit: Any) -> Table:
    unit, sigma = symbol(fit.projections_from_aligned.unit), fit.sigma
    columns: list[tuple[str, str, float]] = [
        ("angle (°)", "angle", float(np.degrees(1))),
        (f"shift x ({unit})", "tx", 1.0),
        (f"shift y ({unit})", "ty", 1.0),
        ("turn (°)", "theta", float(np.degrees(1))),
    ]
    columns += [("magnification", "sy", 1.0)] if fit.model == "similarity" else []
    columns += [(f"σ of shift {name[1]} ({unit})", f"sigma_{name}", 1.0) for name in ("tx", "ty") if name in sigma]
    columns.append(("residual (%)", "residual", 100.0))
    every = fit.rows()
    shown = [
        Row(
            (str(row["projection"]), *(_cell(row[key] * factor) for _, key, factor in columns), row["kind"]),
            row["kind"],
        )
        for row in every[:MOST_ROWS]
    ]
    names = ("projection", *(name for name, _, _ in columns), "left out as")
    return Table("Every projection", names, tuple(shown), len(every))


def _cell(value: float) -> str:
    return number(value) if np.isfinite(value) else "–"
