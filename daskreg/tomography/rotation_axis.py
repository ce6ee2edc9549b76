"""The centre of rotation of tomographic projections."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from daskreg.errors import DaskregWarning, OptionError
from daskreg.tomography.angles import in_radians, opposite_pairs
from daskreg.tomography.opposite_pairs import LEAST_SCORE, MANY_PAIRS, MOST_PAIRS, AxisFit, fit_pairs
from daskreg.tomography.poses import spans_half_a_turn
from daskreg.tomography.projections import read_attenuation
from daskreg.tomography.sinogram import fit_sinogram

__all__ = ["center_of_rotation"]

METHODS = ("auto", "pairs", "sinogram")
_AGREEMENT = 0.01  # of the columns: two estimates that are closer support each other


def center_of_rotation(
    projections: Any,
    angles: ArrayLike | None = None,
    *,
    unit: str | None = None,
    method: str = "auto",
    flats: Any = None,
    darks: Any = None,
    rows: slice | None = None,
) -> float:
    """The column of the detector onto which the axis of rotation projects; the axis is parallel to the columns.

    Voxels that are not finite, pixels without beam and dead columns are interpolated along the row; stripes that
    stay at a column are subtracted. A warning says where the result is not certain: at an end of the columns that were
    searched, or where opposite projections do not match.

    Args:
        projections: (angles, rows, columns) or a sinogram (angles, columns); NumPy, dask or DataArray.
            Only the rows that are used are read.
        angles: (angles,) in radians, or in `unit`; by default evenly from 0 to a half turn, both included.
        unit: of the angles, "radians" or "degrees"; by default `angles.attrs["units"]` where a DataArray has it, else
            radians.
        method: "pairs": the shift between projections and the mirrored projections half a turn
            later, for axes over at least 3/4 of the columns, and over 11/12 where a whole turn has many pairs;
            "sinogram": the Fourier transform of a full turn, which is made of the sinogram and
            its mirror image, has an empty double wedge only at the right centre (Vo et al. 2014);
            "auto": pairs where there are pairs that correlate, else the sinogram.
        flats, darks: (K, rows, columns) or one image, without specimen and without beam. With flats, the
            negative logarithm of the transmission is used; without them, the projections as they are.
        rows: of the detector; by default up to 32 in its middle.

    Returns: the column as an index, 0 at the centre of the first pixel; its mirror is n - 1 minus it.

    Raises: OptionError for unknown methods or angles without pairs; UnitError for angles that span more than two turns
        of radians, and whose unit is not known; InputError for angles that are not finite; ShapeMismatchError;
        DegenerateImageError where the projections are constant or not finite.
    """
    if method not in METHODS:
        raise OptionError(f"method={method!r}: use {', '.join(METHODS)}")
    radians = in_radians(angles, projections.shape[0], unit)
    data, kept = read_attenuation(projections, flats, darks, rows)
    fit, certain = _fitted(data, radians[kept], method)
    if fit.at_end or not certain:
        _warn(fit)
    return fit.centre


def _fitted(data: NDArray[np.float64], radians: NDArray[np.float64], method: str) -> tuple[AxisFit, bool]:
    """The axis, and whether the projections support it."""
    opposite = opposite_pairs(radians, MOST_PAIRS)
    if method == "pairs" and not len(opposite):
        raise OptionError("no two projections are half a turn apart: use method='sinogram'")
    if method == "sinogram" or not len(opposite):
        return fit_sinogram(data, radians), True
    pairs = fit_pairs(data, opposite)
    certain = pairs.score >= LEAST_SCORE
    if method == "pairs" or certain or not spans_half_a_turn(radians):
        return pairs, certain
    sinogram = fit_sinogram(data, radians)
    agree = abs(sinogram.centre - pairs.centre) <= max(1.0, _AGREEMENT * data.shape[2])
    return (pairs if agree or len(opposite) >= MANY_PAIRS else sinogram), agree


def _warn(fit: AxisFit) -> None:
    first, last = fit.searched
    reason = (
        f"it is at an end of the columns that were searched, {first:.0f} to {last:.0f}; the axis may be outside"
        if fit.at_end
        else "projections half a turn apart do not match well there"
        + ("" if np.isnan(fit.score) else f" (correlation {fit.score:.2f})")
    )
    warnings.warn(f"the axis at column {fit.centre:.1f} is not certain: {reason}", DaskregWarning, stacklevel=3)
