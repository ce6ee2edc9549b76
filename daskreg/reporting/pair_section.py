"""The page's sections about pairs of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from daskreg.geometry import common_unit
from daskreg.reporting import views
from daskreg.reporting.generic_section import plotted
from daskreg.reporting.planes import PairPlane, pair_planes
from daskreg.reporting.section import Pairs, Section, Verdict, without_empty
from daskreg.reporting.words import (
    METRIC_NAMES,
    agreement,
    count,
    duration,
    number,
    parameter,
    percent,
    quantity,
    sentence_and_remedy,
    symbol,
)

_NO_FIELDS_IMAGES = "For pictures of the images: daskreg report FIT.json -o PAGE.html --fixed FIXED --moving MOVING."
_AFFINE = "by the affine map alone"
_JACOBIAN = ("least", "1 %", "median", "99 %", "greatest")
_NO_IMAGES = "For pictures of the images, pass them: fit.report(path, fixed=fixed, moving=moving)."


def pair_section(fit: Any, images: tuple[Any, Any] | None = None, grids: tuple[Any, Any] | None = None) -> Section:
    """Of a PairFit.

    Args:
        images, grids: fixed and moving, in memory or lazy, and where they lie; without them there are no pictures.
    """
    comparisons: tuple[views.Comparison, ...] = ()
    if images is not None and grids is not None:
        unit = common_unit(grids[0].unit, grids[1].unit, "fixed and moving")
        common_unit(fit.moving_from_fixed.unit, unit, "the fit and the images")
        planes = pair_planes(*images, fit.moving_from_fixed.matrix, *grids)
        comparisons = (views.overlays(planes), views.swiped(planes))
        if fit.metric in ("ncc", "mse", "mae", "lncc"):  # brightness of other modalities is not comparable
            comparisons += (views.differences(planes),)
    return Section(
        heading="A pair of images",
        verdict=pair_verdict(fit),
        comparisons=comparisons,
        numbers=pair_numbers(fit),
        settings=_settings(fit),
        calls=without_empty([("Python", getattr(fit, "recipe", ""))]),
        missing="" if images is not None else _NO_IMAGES,
    )


def deformable_section(fit: Any, planes: Sequence[PairPlane] = (), *, before: str = _AFFINE) -> Section:
    """Of a DeformableFit.

    Args:
        planes: the images before the layers of B-splines and after; without them there are no pictures of images.
        before: what the moving image before is called.
    """
    comparisons: tuple[views.Comparison, ...] = ()
    if planes:
        comparisons = (views.overlays(planes, before), views.swiped(planes))
        if fit.metric != "mi":  # brightness of other modalities is not comparable
            comparisons += (views.differences(planes, before),)
    pictures, missing = plotted(fit, "The displacements that follow the affine map")
    unit = symbol(fit.moving_from_fixed.unit)
    factors = ", ".join(f"{name} {number(value)}" for name, value in zip(_JACOBIAN, fit.jacobian, strict=True))
    spacing = " × ".join(number(h) for h in fit.spacing)
    numbers = [
        *score_rows(fit),
        ("Areas or volumes change by factors of", factors),
        ("Left out, as the images contradict each other there", percent(fit.rejected) if fit.rejected else ""),
        (
            "Contradicting, and not left out",
            "" if fit.rejected or not fit.contradicting else percent(fit.contradicting),
        ),
        *images_left_out(fit),
        ("Coefficients that the images determine", f"{fit.determined:,.0f} of {fit.parameters:,}"),
        ("Time", f"{duration(fit.seconds)}, {count(fit.iterations, 'iteration')}"),
    ]
    return Section(
        heading="A pair of images, with deformation",
        verdict=pair_verdict(fit),
        comparisons=comparisons,
        pictures=pictures,
        numbers=without_empty(numbers),
        settings=(
            ("Model", f"{count(fit.layers, 'layer')} of cubic B-splines after an affine map"),
            ("Control points", f"{spacing} {unit} apart".replace("  ", " ")),
            ("Metric", fit.metric),
        ),
        calls=without_empty([("Python", getattr(fit, "recipe", ""))]),
        missing=missing or ("" if planes else _NO_FIELDS_IMAGES),
    )


def pair_verdict(fit: Any) -> Verdict:
    """Whether to use the fit, and what to do."""
    if fit.ok:
        return Verdict(
            True,
            f"The moving image is registered: {_score(fit)} over {percent(fit.overlap)} of the image, and nothing "
            "speaks against this motion.",
        )
    said, remedy = sentence_and_remedy(fit.status.value)
    return Verdict(False, f"Do not use this result as it is. {said}", remedy)


def pair_numbers(fit: Any) -> Pairs:
    """The motion with its uncertainty, and how well the images agree."""
    unit, sigma = fit.moving_from_fixed.unit, dict(fit.sigma)
    rows = []
    for name, value in fit.parameters.items():
        free = name in fit.covariance_names or ("scale" in fit.covariance_names and name in ("sx", "sy", "sz"))
        if free:
            rows.append(parameter(name, value, sigma.get(name, sigma.get("scale") if name[:1] == "s" else None), unit))
    rows += [
        *score_rows(fit),
        ("Motions that the images do not determine", "; ".join(fit.free)),
        ("Other motions that fit as well", "; ".join(r.describe() for r in fit.rivals[:4])),
        ("There and back again", "" if fit.inverse_error is None else f"{number(fit.inverse_error)} px apart at most"),
        *images_left_out(fit),
        ("Time", f"{duration(fit.seconds)}, {count(fit.iterations, 'iteration')}"),
    ]
    return without_empty(rows)


def score_rows(fit: Any) -> Pairs:
    """How well the images agree, and over how much of them."""
    before, after = fit.score
    both = f"{agreement(before)} {_before(fit)}, {agreement(after)} after"
    return ((f"Agreement: {METRIC_NAMES.get(fit.metric, fit.metric)}", both), ("Overlap", percent(fit.overlap)))


def _before(fit: Any) -> str:
    """What the score before is of, in words."""
    return _AFFINE if fit.kind == "deformable" else "before"


def images_left_out(fit: Any) -> Pairs:
    """What of the images did not count; empty texts where all of it did."""
    masked = [f"{percent(m)} of {name}" for m, name in zip(fit.masked, ("fixed", "moving"), strict=True) if m > 0]
    reduced = [
        f"{name} as means of {' x '.join(map(str, factors))} voxels"
        for name, factors in zip(("fixed", "moving"), fit.reduced, strict=True)
        if max(factors) > 1
    ]
    return (
        ("Voxels that did not count", ", ".join(masked)),
        ("Voxels of the detector left out", _bad(fit.bad_voxels)),
        ("Read in part", "; ".join(reduced)),
    )


def _settings(fit: Any) -> Pairs:
    model = fit.model if isinstance(fit.model, str) else ", ".join(fit.model)
    names = fit.moving_from_fixed.axes or "zyx"[3 - len(fit.centre) :]
    unit = fit.moving_from_fixed.unit
    centre = ", ".join(f"{name} {quantity(float(c), unit)}" for name, c in zip(names, fit.centre, strict=True))
    return (("Model", model), ("Metric", fit.metric), ("Rotations are about", centre))


def _score(fit: Any) -> str:
    before, after = fit.score
    if fit.metric == "ncc":
        return f"the images correlate by {agreement(after)} ({_before(fit)}: {agreement(before)})"
    return f"the {METRIC_NAMES.get(fit.metric, fit.metric)} went from {number(before)} to {number(after)}"


def _bad(voxels: tuple[int, int]) -> str:
    return f"{voxels[0]:,} of fixed, {voxels[1]:,} of moving (hot, dead, or gaps)" if any(voxels) else ""
