"""Transforms of other tools, in memory: `from_X(m, fixed=, moving=)` and `to_X(t, fixed=, moving=)`.

X is the tool. The Grids are those of the output (`fixed`) and of the image that is sampled
(`moving`); without a Grid, pixels have spacing one.

    tool         stores                                          order     numbers are in
    skimage      (3, 3) for `transform.warp`: output -> input    x, y      pixels
    scipy        matrix, offset of `ndimage.affine_transform`    z, y, x   pixels
    pystackreg   (3, 3) or (N, 3, 3) of `StackReg`               x, y      pixels
    torch        theta of `affine_grid`: output -> input         x, y, z   [-1, 1] of each image
    itk          `SimpleITK.Transform`: fixed -> moving          x, y, z   the world
    ngff         coordinateTransformations: input -> output      z, y, x   the world

So every `from_X` returns `moving_from_fixed`, except `from_ngff`, which returns
`output_from_input`. Each `to_X` takes the same transform, or a fit that has it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from daskreg.errors import InvalidTransformError, MissingExtraError, OptionError, check_flags
from daskreg.formats.ngff import forward_matrix
from daskreg.formats.ngff_scene import write_scene
from daskreg.geometry import Affine, Grid, SliceAffines, as_affine, as_transform, common_unit
from daskreg.geometry.normalised import index_from_theta, theta_from_index
from daskreg.geometry.pixels import check_grids, from_index, plane, to_index, world_matrices
from daskreg.geometry.transform import checked_matrices, reversed_axes

Floats = NDArray[np.float64]

_FAR = 2.0**20  # distance of the points at which SimpleITK's transforms are evaluated


# --- scikit-image -------------------------------------------------------------------------


def from_skimage(m: Any, *, fixed: Grid | None = None, moving: Grid | None = None) -> Affine:
    """From the matrix M, or transform object, of `skimage.transform.warp(moving, M)`.

    Args:
        m: (3, 3), x first, from output pixels to input pixels; or an object with it as `.params`.
        fixed, moving: grids of the output and of the input image.

    Raises: InvalidTransformError for another shape (scikit-image's matrices are 2D).
    """
    params = np.asarray(getattr(m, "params", m))
    if params.shape != (3, 3):
        raise InvalidTransformError(f"scikit-image's matrix is (3, 3), not {params.shape}; for 3D use from_scipy")
    matrix, unit = world_matrices(reversed_axes(checked_matrices(params, 2)), fixed, moving)
    return Affine(matrix, unit=unit)


def to_skimage(t: Any, *, fixed: Grid | None = None, moving: Grid | None = None) -> Floats:
    """(3, 3) matrix M for `skimage.transform.warp(moving, M, output_shape=fixed.shape)`."""
    return reversed_axes(to_index(as_affine(t, 2, "what to_skimage takes"), fixed, moving))


# --- scipy --------------------------------------------------------------------------------


def from_scipy(m: Any, *, fixed: Grid | None = None, moving: Grid | None = None) -> Affine:
    """From the arguments of `scipy.ndimage.affine_transform(moving, ...)`.

    Args:
        m: a homogeneous (D+1, D+1) or (D, D+1) matrix, or a tuple `(matrix, offset)` with a
            matrix of (D, D) or its diagonal (D,), and one offset or D.
        fixed, moving: grids of the output and of the input image.
    """
    if isinstance(m, tuple) and len(m) == 2:
        linear = np.asarray(m[0], dtype=np.float64)
        linear = np.diag(linear) if linear.ndim == 1 else linear
        if linear.ndim != 2 or np.ndim(m[1]) > 1 or np.size(m[1]) not in (1, len(linear)):
            raise InvalidTransformError(f"matrix and offset of shapes {linear.shape} and {np.shape(m[1])} do not fit")
        offset = np.broadcast_to(np.asarray(m[1], dtype=np.float64), len(linear))
        m = np.concatenate([linear, offset[:, None]], axis=1)
    matrix, unit = world_matrices(checked_matrices(m, 2), fixed, moving)
    return Affine(matrix, unit=unit)


def to_scipy(t: Any, *, fixed: Grid | None = None, moving: Grid | None = None) -> Floats:
    """Homogeneous M for `scipy.ndimage.affine_transform(moving, M, output_shape=fixed.shape)`."""
    return to_index(as_affine(t, what="what to_scipy takes"), fixed, moving)


# --- pystackreg -----------------------------------------------------------------------------


def from_pystackreg(m: ArrayLike, *, fixed: Grid | None = None, moving: Grid | None = None) -> Affine | SliceAffines:
    """From the matrices of `StackReg`: those of `register`, or the stack of `register_stack`.

    Args:
        m: (3, 3), or (N, 3, 3) for the slices along the first axis.
        fixed, moving: grids of a slice, or of the stack.

    Returns: an Affine, or SliceAffines for a stack (`raw_from_aligned`).
    """
    stack = np.ndim(m) == 3
    matrices = checked_matrices(m, 3 if stack else 2)
    if matrices.shape[-1] != 3:
        raise InvalidTransformError(f"pystackreg's matrices are (3, 3) or (N, 3, 3), not {matrices.shape}")
    return from_index(reversed_axes(matrices), plane(fixed), plane(moving))


def to_pystackreg(t: Any, *, fixed: Grid | None = None, moving: Grid | None = None) -> Floats:
    """(3, 3), or (N, 3, 3) of SliceAffines, for `StackReg.transform` and `transform_stack`."""
    transform = as_transform(t)
    if transform.ndim != 2:
        raise InvalidTransformError(f"pystackreg moves 2D slices, not {transform.ndim}D volumes")
    return reversed_axes(to_index(transform, plane(fixed), plane(moving)))


# --- torch ----------------------------------------------------------------------------------


def from_torch(
    theta: Any, *, fixed: Grid | None = None, moving: Grid | None = None, align_corners: bool = False
) -> Affine | SliceAffines:
    """From theta of `torch.nn.functional.affine_grid(theta, size, align_corners)`.

    Args:
        theta: (D, D+1), or (N, D, D+1) for a batch; a tensor or an array.
        fixed, moving: grids of the output and of the input image. Theta depends on their
            shapes, so one of them is needed; the other then has the same shape, in pixels
            of spacing one.
        align_corners: the argument of `affine_grid` and `grid_sample`.

    Raises: OptionError without any Grid.
    """
    check_flags(align_corners=align_corners)
    values = theta.detach().cpu().numpy() if hasattr(theta, "detach") else theta
    matrices = checked_matrices(values, 3 if np.ndim(values) == 3 else 2)
    shapes = _shapes(fixed, moving, "from_torch")
    index = index_from_theta(matrices[..., :-1, :], *shapes, align_corners=align_corners)
    return from_index(index, fixed, moving)


def to_torch(t: Any, *, fixed: Grid | None = None, moving: Grid | None = None, align_corners: bool = False) -> Any:
    """Theta, a float64 tensor (D, D+1), for `affine_grid(theta[None], (1, 1, *fixed.shape))`.

    SliceAffines give (N, D, D+1). The arguments and errors are those of `from_torch`.
    """
    import torch

    check_flags(align_corners=align_corners)
    shapes = _shapes(fixed, moving, "to_torch")
    index = to_index(as_transform(t), fixed, moving)
    return torch.as_tensor(theta_from_index(index, *shapes, align_corners=align_corners))


# --- ITK --------------------------------------------------------------------------------------


def from_itk(m: Any, *, fixed: Grid | None = None, moving: Grid | None = None) -> Affine:
    """From an affine `SimpleITK.Transform` of any class, composites included.

    ITK's world (3D: LPS) is daskreg's, in the order x, y, z. So the Grids give only the unit.

    Raises: InvalidTransformError for a transform that is not affine.
    """
    if not hasattr(m, "TransformPoint") or not m.IsLinear():
        raise InvalidTransformError(f"{type(m).__name__} is not an affine transform of SimpleITK")
    ndim = m.GetDimension()
    origin = np.array(m.TransformPoint([0.0] * ndim))
    # At far points the offset costs the linear part no digits.
    ends = np.array([m.TransformPoint(p.tolist()) for p in _FAR * np.eye(ndim)])
    matrix = np.column_stack([((ends - origin) / _FAR).T, origin])
    return Affine(reversed_axes(checked_matrices(matrix, 2)), unit=_unit(fixed, moving))


def to_itk(t: Any, *, fixed: Grid | None = None, moving: Grid | None = None) -> Any:
    """A `SimpleITK.Transform`, for `SimpleITK.Resample(moving, fixed, transform)`.

    Affine maps give an AffineTransform, linear fields a DisplacementFieldTransform, cubic B-splines a
    BSplineTransform, and chains a CompositeTransform of these.

    Raises: MissingExtraError without SimpleITK; UnitError where Grids have another unit; InvalidTransformError for
        maps of single slices and for the inverse of a field, which ITK does not have.
    """
    try:
        import SimpleITK as sitk  # noqa: N813
    except ImportError as error:
        raise MissingExtraError("SimpleITK", "formats") from error
    # What reads vectors needs dask, which maps without fields do not.
    from daskreg.fields.itk import to_sitk
    from daskreg.fields.transform import FieldTransform

    transform = as_transform(t)
    if isinstance(transform, FieldTransform):
        check_grids(fixed, moving, transform.ndim)
        common_unit(transform.unit, _unit(fixed, moving), "transform and Grid")
        return to_sitk(transform)
    m = reversed_axes(_in_world(as_affine(t, what="what to_itk takes"), fixed, moving).matrix)
    result = sitk.AffineTransform(len(m) - 1)
    result.SetMatrix(m[:-1, :-1].ravel().tolist())
    result.SetTranslation(m[:-1, -1].tolist())
    return result


# --- OME-NGFF -----------------------------------------------------------------------------------


def from_ngff(
    m: Mapping[str, Any] | Sequence[Mapping[str, Any]], *, fixed: Grid | None = None, moving: Grid | None = None
) -> Affine:
    """From coordinateTransformations of OME-NGFF (versions 0.4 to 0.6).

    They map forward between coordinate systems, in array order, so the Grids give only the
    unit, and the dimension of an identity.

    Args:
        m: a transformation of type identity, scale, translation, affine, rotation, mapAxis
            or sequence; or a list of them, which are applied one after the other.

    Returns: `output_from_input`.
    Raises: InvalidTransformError for other types, or parameters in a file (`path`).
    """
    grid = moving if fixed is None else fixed
    matrix = forward_matrix(m, None if grid is None else grid.ndim)
    if matrix is None:
        raise InvalidTransformError("an identity does not say its dimension: pass a Grid")
    return Affine(matrix, unit=_unit(fixed, moving))


def to_ngff(t: Any, *, fixed: Grid | None = None, moving: Grid | None = None) -> dict[str, Any]:
    """The coordinateTransformation of type affine (OME-NGFF 0.6) that is `output_from_input`."""
    one = _in_world(as_affine(t, what="what to_ngff takes"), fixed, moving)
    return {"type": "affine", "affine": one.matrix[:-1].tolist()}


def to_ngff_scene(t: Any, path: str | PathLike[str], *, fixed: str, moving: str) -> None:
    """Write a fit as a scene (OME-NGFF 0.6) into the Zarr group that holds both images, at the paths `fixed`, `moving`.

    The images are written with `version="0.6"` before. `daskreg.open(image, coordinate_system="scene")` then opens
    either of them where the fit puts it, and so do other readers of scenes.

    Raises: NotAVolumeError for what is no image of version 0.6; InvalidTransformError where their axes and the
        transform differ; UnitError.
    """
    write_scene(path, as_affine(t, what="what to_ngff_scene takes"), fixed=fixed, moving=moving)


# --- Grids ----------------------------------------------------------------------------------------


def _in_world(t: Affine, fixed: Grid | None, moving: Grid | None) -> Affine:
    """The same map, once its unit and dimensions agree with the Grids."""
    check_grids(fixed, moving, t.ndim)
    common_unit(t.unit, _unit(fixed, moving), "transform and Grid")
    return t


def _unit(fixed: Grid | None, moving: Grid | None) -> str | None:
    a, b = (None if grid is None else grid.unit for grid in (fixed, moving))
    return common_unit(a, b, "fixed, moving")


def _shapes(fixed: Grid | None, moving: Grid | None, function: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(output shape, input shape)."""
    known = fixed if moving is None else moving
    if known is None:
        raise OptionError(f"{function} needs fixed= or moving=: normalised coordinates depend on the shape")
    check_grids(fixed, moving, known.ndim)
    return (known if fixed is None else fixed).shape, (known if moving is None else moving).shape
