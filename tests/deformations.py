"""Displacement fields for tests, and the same of ITK."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk  # noqa: N813
from scipy.ndimage import gaussian_filter

import daskreg as dr

RNG = np.random.default_rng(4)


def turned(ndim: int, angle: float) -> np.ndarray:
    if ndim == 2:
        return dr.Affine.rotation(angle).linear
    return dr.Affine.rotation(rx=angle, ry=0.7 * angle, rz=-0.5 * angle).linear


def oblique_nodes(ndim: int) -> dr.Grid:
    shape, spacing, origin = (8, 9, 10)[-ndim:], (14.0, 9.0, 12.0)[-ndim:], (2.0, -9.0, -3.0)[-ndim:]
    return dr.Grid(shape, spacing, origin, turned(ndim, 0.1), unit="mm")


def smooth_vectors(grid: dr.Grid, largest: float, *lead: int) -> np.ndarray:
    raw = RNG.normal(size=(*lead, grid.ndim, *grid.shape))
    smooth = gaussian_filter(raw, (*(0 for _ in lead), 0, *(1.0 for _ in grid.shape)))
    return smooth * largest / np.abs(smooth).max()


def itk_image(array: np.ndarray, grid: dr.Grid, *, vector: bool = False) -> sitk.Image:
    image = sitk.GetImageFromArray(np.ascontiguousarray(array), isVector=vector)
    image.SetSpacing(grid.spacing[::-1])
    image.SetOrigin(grid.origin[::-1])
    image.SetDirection(grid.direction_matrix[::-1, ::-1].ravel().tolist())
    return image


def itk_field(vectors: np.ndarray, grid: dr.Grid, order: int) -> sitk.Transform:
    if order == 1:
        return sitk.DisplacementFieldTransform(itk_image(np.moveaxis(vectors[::-1], 0, -1), grid, vector=True))
    return sitk.BSplineTransform([itk_image(v, grid) for v in vectors[::-1]], 3)


def itk_affine(affine: dr.Affine) -> sitk.Transform:
    made = sitk.AffineTransform(affine.ndim)
    made.SetMatrix(affine.linear[::-1, ::-1].ravel().tolist())
    made.SetTranslation(affine.offset[::-1].tolist())
    return made


def itk_points(transform: sitk.Transform, points: np.ndarray) -> np.ndarray:
    return np.array([transform.TransformPoint(p[::-1].tolist())[::-1] for p in points])


def affine_of(ndim: int) -> dr.Affine:
    if ndim == 2:
        return dr.Affine.from_parameters(theta=0.04, tx=-2, sy=1.03, centre=(30, 50), unit="mm")
    return dr.Affine.from_parameters(ndim=3, rx=0.05, ty=1.5, tx=-2, sx=1.02, centre=(40, 30, 50), unit="mm")
