"""`warp(edge="clamp")`: the outermost voxels up to their faces, as in ITK; the oracle is SimpleITK, or SciPy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from scipy import ndimage

import daskreg as dr
from daskreg.cli import run
from daskreg.errors import OptionError
from daskreg.volumes import to_dataarray

pytestmark = pytest.mark.slow
SHAPES = [(37, 45), (9, 23, 31), (1, 23, 31)]


def turned(ndim: int) -> dr.Affine:
    if ndim == 2:
        return dr.Affine.from_parameters(theta=0.3, tx=2.25, ty=-1.5, sx=1.1, centre=(18, 20))
    return dr.Affine.from_parameters(rx=0.2, ry=-0.1, rz=0.3, tx=1.25, tz=0.3, centre=(4, 10, 12))


def volume(shape: tuple[int, ...], dtype: Any = np.float32) -> Any:
    values = np.random.default_rng(5).normal(100, 30, shape).astype(dtype)
    spacing, origin = ((1.5, 0.5, 0.8)[-len(shape) :], (-3.0, 2.0, 5.0)[-len(shape) :])
    return to_dataarray(values, dr.Grid(shape, spacing, origin, unit="mm"))


def itk_resampled(array: Any, pull: dr.Affine, out: dr.Grid, fill: float, nearest: bool = False) -> np.ndarray:
    def image(values: np.ndarray, grid: dr.Grid) -> Any:
        made = sitk.GetImageFromArray(values)
        made.SetSpacing(grid.spacing[::-1])
        made.SetOrigin(grid.origin[::-1])
        return made

    how = sitk.sitkNearestNeighbor if nearest else sitk.sitkLinear
    like = image(np.zeros(out.shape, np.float32), out)
    return sitk.GetArrayFromImage(
        sitk.Resample(image(array.values, dr.grid(array)), like, dr.convert.to_itk(pull), how, fill)
    )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("order", [0, 1])
def test_with_clamp_every_voxel_is_that_of_itk(shape: tuple[int, ...], order: int) -> None:
    array, pull = volume(shape), turned(len(shape))
    grid = dr.grid(array)
    wider = dr.Grid([n + 9 for n in shape], [0.83 * s for s in grid.spacing],
                    [o - 2.3 * s for o, s in zip(grid.origin, grid.spacing, strict=True)], unit="mm")  # fmt: skip
    expected = itk_resampled(array, pull, wider, -50, nearest=order == 0)
    found = dr.warp(array, pull=pull, like=wider, order=order, fill=-50, edge="clamp").values
    span = array.values.max() - array.values.min()
    assert np.abs(found - expected).max() <= 1e-5 * span
    if order == 1:  # the default mixes with the fill
        assert np.abs(dr.warp(array, pull=pull, like=wider, fill=-50).values - expected).max() > 0.1 * span
    tensor = dr.warp(torch.from_numpy(array.values), pull=dr.Affine.translation(x=0.4), order=order, edge="clamp")
    plain = dr.warp(array.values, pull=dr.Affine.translation(x=0.4), order=order, edge="clamp")
    np.testing.assert_array_equal(tensor.numpy(), plain)


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.int64])
def test_types_are_clamped_alike(dtype: Any) -> None:
    array, pull = volume(SHAPES[0], dtype), turned(2)
    wide = dr.warp(array.astype(np.float64), pull=pull, edge="clamp", fill=3).values
    found = dr.warp(array, pull=pull, edge="clamp", fill=3).values
    assert found.dtype == (np.float32 if dtype == np.float16 else dtype)
    np.testing.assert_allclose(found, wide if found.dtype.kind == "f" else np.rint(wide), rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize("order", [1, 3])
def test_any_chunking_is_bit_identical(order: int) -> None:
    array, pull = volume(SHAPES[1]).chunk(), turned(3)
    whole = dr.warp(array.values, pull=turned(3), order=order, edge="clamp")
    grid = dr.Grid(SHAPES[1])
    plain = to_dataarray(array.data, grid)
    for chunks in ((2, 7, 11), (9, 1, 31), 5):
        cut = dr.warp(plain, pull=pull, order=order, edge="clamp", chunks=chunks).values
        np.testing.assert_allclose(cut, whole, rtol=0, atol=0 if order == 1 else 1e-3)


def test_each_slice_by_its_own_map() -> None:
    array = volume((5, 23, 31))
    maps = [dr.Affine.from_parameters(theta=t, tx=2 * t, centre=(8, 14)) for t in np.linspace(-0.3, 0.4, 5)]
    found = dr.warp(array, pull=dr.SliceAffines(np.stack([m.matrix for m in maps])), edge="clamp", fill=7).values
    for k, pull in enumerate(maps):
        plane = to_dataarray(array.values[k], dr.grid(array).take((1, 2)))
        np.testing.assert_allclose(found[k], itk_resampled(plane, pull, dr.grid(plane), 7), atol=2e-3)


@pytest.mark.parametrize("order", [1, 3])
def test_displacement_fields_are_clamped_as_affine_maps_are(order: int) -> None:
    array = to_dataarray(volume(SHAPES[1]).values, dr.Grid(SHAPES[1]))
    shift = np.array([0.3, -1.4, 2.45])
    vectors = np.broadcast_to(shift[:, None, None, None], (3, 5, 5, 5)).copy()
    nodes = dr.Grid((5, 5, 5), (4.0, 10.0, 12.0), (-4, -8, -8))
    field = dr.DisplacementField(vectors, nodes)
    by_field = dr.warp(array, pull=field, order=order, edge="clamp", fill=-9).values
    by_matrix = dr.warp(array, pull=dr.Affine.translation(z=0.3, y=-1.4, x=2.45), order=order, edge="clamp", fill=-9)
    np.testing.assert_allclose(by_field, by_matrix.values, atol=1e-3)


def test_splines_continue_with_the_outermost_voxels_as_scipy_does() -> None:
    values = volume(SHAPES[0]).values.astype(np.float64)
    matrix = np.eye(3)
    matrix[:2, 2] = 0.4, -0.3
    found = dr.warp(values, pull=dr.Affine(matrix), order=3, fill=0, edge="clamp")
    expected = ndimage.affine_transform(values, matrix, order=3, mode="nearest")
    inside = np.s_[:36, 1:]  # the last row lies beyond the face by less than a half, the first column too
    np.testing.assert_allclose(found[inside], expected[inside], atol=1e-3)
    np.testing.assert_allclose(found[-1, 1:], expected[-1, 1:], atol=1e-3)


def test_tensors_on_their_own_path_are_the_same_and_have_gradients() -> None:
    """With a gradient, torch samples; without one, the compiled kernel."""
    values = torch.from_numpy(volume((3, 21, 26)).values).double()
    pull = dr.Affine.from_parameters(theta=0.2, tx=0.6, centre=(10, 12))
    for order in (1, 3):
        plain = dr.warp(values, pull=pull, order=order, fill=5, edge="clamp")
        wanted = values.clone().requires_grad_(True)
        found = dr.warp(wanted, pull=pull, order=order, fill=5, edge="clamp")
        torch.testing.assert_close(found.detach(), plain, rtol=1e-6, atol=1e-5)
        found.sum().backward()
        assert torch.isfinite(wanted.grad).all()


def test_nothing_but_the_outermost_voxels_reaches_out() -> None:
    """A voxel that is not finite stays where it is, and the fill is nowhere inside the faces."""
    values = np.arange(20.0).reshape(4, 5)
    values[1, 2] = np.nan
    found = dr.warp(values, pull=dr.Affine.translation(y=-0.4), edge="clamp", fill=-1)
    np.testing.assert_array_equal(found[0], values[0])
    assert np.isnan(found[1:3, 2]).all()
    assert np.isfinite(found[3]).all()
    assert (dr.warp(values, pull=dr.Affine.translation(y=-0.6), edge="clamp", fill=-1)[0] == -1).all()


def test_files_and_the_command_line(tmp_path: Path) -> None:
    array, pull = volume(SHAPES[0]), turned(2)
    dr.write(array, tmp_path / "in.zarr", progress=False)
    pull.save(tmp_path / "t.json")
    arguments = ["warp", str(tmp_path / "in.zarr"), str(tmp_path / "out.zarr"), "--pull", str(tmp_path / "t.json")]
    assert run([*arguments, "--edge", "clamp", "--chunks", "16", "-q"]) == 0
    expected = itk_resampled(array, pull, dr.grid(array), 0)
    np.testing.assert_allclose(dr.open(tmp_path / "out.zarr").values, expected, atol=2e-3)


def test_another_edge_is_refused() -> None:
    for values in (np.ones((4, 5)), torch.ones(4, 5)):
        with pytest.raises(OptionError, match="edge='mirror'"):
            dr.warp(values, pull=dr.Affine.translation(x=0.5), edge="mirror")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("order", [0, 1, 3])
def test_a_gpu_gives_the_same(order: int) -> None:
    for shape in SHAPES:
        array, pull = volume(shape), turned(len(shape))
        cpu = dr.warp(array, pull=pull, order=order, fill=3, edge="clamp", device="cpu").values
        gpu = dr.warp(array, pull=pull, order=order, fill=3, edge="clamp", device="cuda").values
        np.testing.assert_allclose(gpu, cpu, rtol=0, atol=0 if order < 3 else 1e-3)
