"""Converters, each tested by warping an image with its tool.

Where a tool's border differs from ours (what lies up to one voxel outside is blended with
the fill), only the inside is compared: ITK keeps half a voxel around the image at the
value of its edge, and pystackreg mirrors.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.ndimage
import SimpleITK as sitk  # noqa: N813
import skimage.data
import skimage.transform
import torch
from hypothesis import given
from hypothesis import strategies as st
from phantoms import blobs, inside
from pystackreg import StackReg
from strategies import affines, grids, ndims

from daskreg import convert
from daskreg.errors import InvalidTransformError, OptionError, PixelUnitWarning, ShapeMismatchError, UnitError
from daskreg.geometry import Affine, Grid, SliceAffines, index_matrix
from daskreg.kernels import sample

Floats = np.ndarray[Any, np.dtype[np.float64]]
Image = np.ndarray[Any, np.dtype[np.float32]]


def camera() -> Image:
    """A photograph, not square, in [0, 1]."""
    return np.asarray(skimage.data.camera()[101:312, 150:457] / 255, np.float32)


def turned(ndim: int) -> Floats:
    named = {"theta": 0.15} if ndim == 2 else {"rx": 0.1, "ry": -0.2, "rz": 0.15}
    return np.array(Affine.from_parameters(named, ndim=ndim).linear)


def two_grids(ndim: int, *, oblique: bool = False) -> tuple[Grid, Grid]:
    """An output and an input grid that differ in everything; worlds overlap."""
    if ndim == 2:
        fixed = Grid((190, 260), (0.8, 0.6), (-7, 12), turned(2) if oblique else None, "mm")
        return fixed, Grid((211, 307), (0.7, 0.5), (3, -5), unit="mm")
    fixed = Grid((22, 34, 40), (2.4, 0.8, 0.9), (-2, 4, -7), turned(3) if oblique else None, "mm")
    return fixed, Grid((25, 36, 47), (2.0, 0.9, 0.8), (1, -2, 3), unit="mm")


def a_motion(fixed: Grid, moving: Grid) -> Affine:
    """A map with rotation, shear and scales that takes the middle of fixed to that of moving, nearly."""
    named = {"theta": 0.2, "sx": 1.1, "sy": 0.95, "shx": 0.08}
    if fixed.ndim == 3:
        named = {"rx": 0.1, "ry": 0.05, "rz": -0.2, "sx": 1.1, "sz": 0.95, "shxy": 0.08, "shyz": -0.05}
    a = Affine.from_parameters(named, ndim=fixed.ndim, centre=fixed.centre)
    shift = np.eye(fixed.ndim + 1)
    shift[:-1, -1] = moving.centre - fixed.centre + 0.37 * np.asarray(moving.spacing)
    return Affine(Affine(shift).matrix @ a.matrix, unit="mm")


def image_on(grid: Grid) -> Image:
    return camera() if grid.ndim == 2 else blobs(grid.shape, seed=2)


def ours(image: Image, pull: Affine, fixed: Grid, moving: Grid, order: int = 1) -> Image:
    matrix = index_matrix(pull.matrix, fixed, moving)
    return np.asarray(sample(image, moving.box, matrix, fixed.box, order=order))


# --- The tools ----------------------------------------------------------------------------


def warp_skimage(image: Image, m: Any, fixed: Grid, moving: Grid) -> Any:
    return skimage.transform.warp(image, m, output_shape=fixed.shape, order=1, mode="constant", cval=0)


def warp_scipy(image: Image, m: Any, fixed: Grid, moving: Grid) -> Any:
    matrix, offset = m if isinstance(m, tuple) else (m, 0.0)
    return scipy.ndimage.affine_transform(image, matrix, offset, fixed.shape, order=1, mode="grid-constant")


def warp_itk(image: Image, m: Any, fixed: Grid, moving: Grid) -> Any:
    source = sitk.GetImageFromArray(image)
    for grid, target in ((moving, source), (fixed, reference := sitk.Image(fixed.shape[::-1], sitk.sitkFloat32))):
        target.SetSpacing(grid.spacing[::-1])
        target.SetOrigin(grid.origin[::-1])
        target.SetDirection(grid.direction_matrix[::-1, ::-1].ravel().tolist())
    return sitk.GetArrayFromImage(sitk.Resample(source, reference, m, sitk.sitkLinear, 0.0))


def warp_torch(align_corners: bool) -> Callable[..., Any]:
    def warp(image: Image, m: Any, fixed: Grid, moving: Grid) -> Any:
        size = [1, 1, *fixed.shape]
        where = torch.nn.functional.affine_grid(m[None], size, align_corners=align_corners)
        tensor = torch.from_numpy(image)[None, None].double()
        return torch.nn.functional.grid_sample(tensor, where, align_corners=align_corners)[0, 0].numpy()

    return warp


def warp_pystackreg(image: Image, m: Any, fixed: Grid, moving: Grid) -> Any:
    return StackReg(StackReg.AFFINE).transform(image, m)


@dataclass(frozen=True)
class Tool:
    """`border`: whether what lies up to a voxel outside is blended with the fill, as we do."""

    to: Callable[..., Any]
    back: Callable[..., Any]
    warp: Callable[..., Any]
    ndims: tuple[int, ...] = (2, 3)
    border: bool = True
    order: int = 1
    options: tuple[tuple[str, Any], ...] = ()


TOOLS = {
    "skimage": Tool(convert.to_skimage, convert.from_skimage, warp_skimage, (2,)),
    "scipy": Tool(convert.to_scipy, convert.from_scipy, warp_scipy),
    "itk": Tool(convert.to_itk, convert.from_itk, warp_itk, border=False),
    "torch": Tool(convert.to_torch, convert.from_torch, warp_torch(False)),
    "torch-corners": Tool(convert.to_torch, convert.from_torch, warp_torch(True), options=(("align_corners", True),)),
    "pystackreg": Tool(convert.to_pystackreg, convert.from_pystackreg, warp_pystackreg, (2,), False, 3),
}
CASES = [(name, ndim, oblique) for name, tool in TOOLS.items() for ndim in tool.ndims for oblique in (False, True)]


def compare(theirs: Any, mine: Image, matrix: Floats, shape: tuple[int, ...], tool: Tool) -> None:
    """To 1e-3 of the range, everywhere or inside. `shape` is that of the image that was warped."""
    # A mirrored border reaches inwards through the spline.
    valid = inside(matrix, mine.shape, shape, margin=12 if tool.order == 3 else 0)
    assert valid.mean() > 0.3
    assert np.ptp(mine[valid]) > 0.5
    check = np.ones_like(valid) if tool.border else valid
    np.testing.assert_allclose(np.asarray(theirs)[check], mine[check], rtol=0, atol=1e-3)


def grids_for(tool: Tool, ndim: int, oblique: bool) -> tuple[Grid, Grid]:
    fixed, moving = two_grids(ndim, oblique=oblique)
    if tool.order == 3:  # pystackreg's output has its input's shape
        fixed = Grid(moving.shape, fixed.spacing, fixed.origin, fixed.direction, fixed.unit)
    return fixed, moving


@pytest.mark.parametrize(("name", "ndim", "oblique"), CASES)
def test_the_tool_warps_as_we_do(name: str, ndim: int, oblique: bool) -> None:
    """to_X of our transform, in the tool, gives our image."""
    tool = TOOLS[name]
    fixed, moving = grids_for(tool, ndim, oblique)
    pull, image = a_motion(fixed, moving), image_on(moving)
    theirs = tool.warp(image, tool.to(pull, fixed=fixed, moving=moving, **dict(tool.options)), fixed, moving)
    mine = ours(image, pull, fixed, moving, tool.order)
    compare(theirs, mine, index_matrix(pull.matrix, fixed, moving), image.shape, tool)


@pytest.mark.parametrize(("name", "ndim", "oblique"), CASES)
def test_round_trip(name: str, ndim: int, oblique: bool) -> None:
    tool = TOOLS[name]
    fixed, moving = grids_for(tool, ndim, oblique)
    pull = a_motion(fixed, moving)
    theirs = tool.to(pull, fixed=fixed, moving=moving, **dict(tool.options))
    back = tool.back(theirs, fixed=fixed, moving=moving, **dict(tool.options))
    np.testing.assert_allclose(back.matrix, pull.matrix, rtol=1e-12, atol=1e-12 * np.abs(pull.matrix).max())
    assert back.unit == "millimeter"


def pixel_matrix(ndim: int) -> Floats:
    """Array-order pixels, output to input, with rotation, scale, shear and shift."""
    if ndim == 2:
        return np.array([[0.95, 0.12, -4.3], [-0.15, 1.1, 21.7], [0, 0, 1]])
    return np.array([[0.95, 0.05, 0.1, -3.3], [-0.1, 0.97, 0.12, 4.6], [0.08, -0.15, 1.1, 1.4], [0, 0, 0, 1.0]])


def x_first(m: Floats) -> Floats:
    n = len(m) - 1
    order = [*reversed(range(n)), n]
    return m[order][:, order]


@pytest.mark.parametrize("given_grids", [False, True])
def test_we_warp_as_the_tool_does(given_grids: bool) -> None:
    """from_X of the tool's own matrix gives the tool's image; with Grids and without."""
    fixed, moving = two_grids(2, oblique=True)
    if not given_grids:
        fixed, moving = Grid(fixed.shape), Grid(moving.shape)
    options = {"fixed": fixed, "moving": moving} if given_grids else {}
    m, image = pixel_matrix(2), camera()
    tform = skimage.transform.AffineTransform(matrix=x_first(m))
    cases: list[tuple[str, Any, Any]] = [
        ("skimage", tform, convert.from_skimage(tform, **options)),
        ("skimage", x_first(m), convert.from_skimage(x_first(m), **options)),
        ("scipy", m, convert.from_scipy(m, **options)),
        ("scipy", (m[:2, :2], m[:2, 2]), convert.from_scipy((m[:2, :2], m[:2, 2]), **options)),
    ]
    for name, theirs, pull in cases:
        assert pull.unit == fixed.unit
        tool = TOOLS[name]
        compare(tool.warp(image, theirs, fixed, moving), ours(image, pull, fixed, moving), m, image.shape, tool)


def test_we_warp_a_volume_as_scipy_does() -> None:
    fixed, moving = two_grids(3, oblique=True)
    m, image = pixel_matrix(3), image_on(two_grids(3)[1])
    for theirs in (m, m[:3], (m[:3, :3], m[:3, 3])):
        pull = convert.from_scipy(theirs, fixed=fixed, moving=moving)
        mine = ours(image, pull, fixed, moving)
        compare(warp_scipy(image, m, fixed, moving), mine, m, image.shape, TOOLS["scipy"])


def test_scipy_diagonal_and_single_offset() -> None:
    image = camera()
    theirs = scipy.ndimage.affine_transform(image, [0.9, 1.2], 3.5, order=1, mode="grid-constant")
    grid = Grid(image.shape)
    np.testing.assert_allclose(ours(image, convert.from_scipy(([0.9, 1.2], 3.5)), grid, grid), theirs, atol=1e-5)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("ndim", [2, 3])
def test_we_warp_as_torch_does(ndim: int, align_corners: bool) -> None:
    fixed, moving = two_grids(ndim)
    theta = torch.as_tensor(x_first(pixel_matrix(ndim))[:-1] * ([1] * ndim + [0.01]))
    theta.requires_grad_()
    image = image_on(moving)
    pull = convert.from_torch(theta, fixed=fixed, moving=moving, align_corners=align_corners)
    assert isinstance(pull, Affine)
    tool = TOOLS["torch-corners" if align_corners else "torch"]
    matrix = index_matrix(pull.matrix, fixed, moving)
    compare(
        tool.warp(image, theta.detach(), fixed, moving), ours(image, pull, fixed, moving), matrix, image.shape, tool
    )
    batch = convert.from_torch(theta.detach().numpy()[None], fixed=fixed, moving=moving, align_corners=align_corners)
    assert isinstance(batch, SliceAffines)
    np.testing.assert_array_equal(batch.matrices[0], pull.matrix)
    again = convert.to_torch(batch, fixed=fixed, moving=moving, align_corners=align_corners)
    np.testing.assert_allclose(again[0], theta.detach(), atol=1e-12)


@pytest.mark.parametrize("ndim", [2, 3])
def test_we_warp_as_itk_does(ndim: int) -> None:
    """Transforms of several classes, and a composite, on images with spacing, origin and direction."""
    fixed, moving = two_grids(ndim, oblique=True)
    image = image_on(moving)
    centre = fixed.centre[::-1].tolist()
    shift = (moving.centre - fixed.centre)[::-1].tolist()
    if ndim == 2:
        turn: Any = sitk.Similarity2DTransform(1.1, 0.2, shift, centre)
    else:
        turn = sitk.Euler3DTransform(centre, 0.1, -0.2, 0.15, shift)
    scale = sitk.ScaleTransform(ndim, [1.1, 0.9, 1.05][:ndim])
    scale.SetCenter(centre)
    for theirs in (turn, sitk.CompositeTransform([turn, scale, sitk.TranslationTransform(ndim, [0.3] * ndim)])):
        pull = convert.from_itk(theirs, fixed=fixed, moving=moving)
        matrix = index_matrix(pull.matrix, fixed, moving)
        mine = ours(image, pull, fixed, moving)
        compare(warp_itk(image, theirs, fixed, moving), mine, matrix, image.shape, TOOLS["itk"])
        points = np.random.default_rng(0).uniform(-50, 50, (5, ndim))
        expected = [theirs.TransformPoint(p[::-1].tolist())[::-1] for p in points]
        np.testing.assert_allclose(pull(points), expected, atol=1e-11)


def test_pixels_of_one_tool_are_the_world_of_another() -> None:
    """scikit-image warps pixels, ITK knows spacing, origin and direction: the Grids connect them."""
    fixed, moving = two_grids(2, oblique=True)
    image, m = camera(), x_first(pixel_matrix(2))
    pull = convert.from_skimage(m, fixed=fixed, moving=moving)
    by_itk = warp_itk(image, convert.to_itk(pull, fixed=fixed, moving=moving), fixed, moving)
    by_skimage = warp_skimage(image, m, fixed, moving)
    valid = inside(x_first(m), fixed.shape, moving.shape)
    assert valid.mean() > 0.3
    np.testing.assert_allclose(by_itk[valid], by_skimage[valid], rtol=0, atol=1e-3)


def test_what_registered_in_pystackreg_registers_here(data: Path) -> None:
    """Real slices: StackReg's own result, applied by us, is StackReg's image."""
    folder = data / "images2d" / "itk_brain"
    fixed_image, image = (
        np.asarray(sitk.GetArrayFromImage(sitk.ReadImage(folder / name)), np.float32)
        for name in ("BrainProtonDensitySliceBorder20.png", "BrainProtonDensitySliceR10X13Y17.png")
    )
    fixed_image, image = (i[..., 0] if i.ndim == 3 else i for i in (fixed_image, image))
    tool = StackReg(StackReg.RIGID_BODY)
    m = tool.register(fixed_image, image)
    grid = Grid(image.shape, (0.9, 0.7), (5, -3), unit="mm")
    pull = convert.from_pystackreg(m, fixed=grid, moving=grid)
    assert isinstance(pull, Affine)
    np.testing.assert_allclose(convert.to_pystackreg(pull, fixed=grid, moving=grid), m, atol=1e-12)
    mine = ours(image, pull, grid, grid, order=3)
    valid = inside(index_matrix(pull.matrix, grid, grid), grid.shape, grid.shape, margin=12)
    np.testing.assert_allclose(tool.transform(image, m)[valid], mine[valid], rtol=0, atol=1e-3 * np.ptp(image))
    before, after = (np.corrcoef(fixed_image[valid], i[valid])[0, 1] for i in (image, mine))
    assert after > 0.95 > before + 0.1


def test_a_stack_of_pystackreg() -> None:
    rng = np.random.default_rng(1)
    stack = np.stack([camera()[i : i + 150, 2 * i : 2 * i + 200] for i in (0, 3, 5)])
    tool = StackReg(StackReg.TRANSLATION)
    m = tool.register_stack(stack + 0.01 * rng.standard_normal(stack.shape), reference="first")
    grid = Grid(stack.shape, (4, 0.5, 0.7), (0, 3, -2), unit="um")
    pull = convert.from_pystackreg(m, fixed=grid, moving=grid)
    assert isinstance(pull, SliceAffines)
    assert (len(pull), pull.axis, pull.unit) == (3, 0, "micrometer")
    np.testing.assert_allclose(pull[2].offset, (-5 * 0.5, -10 * 0.7), atol=0.02)
    np.testing.assert_allclose(convert.to_pystackreg(pull, fixed=grid, moving=grid), m, atol=1e-12)
    assert convert.from_pystackreg(m[1]) == convert.from_pystackreg(m)[1]  # type: ignore[index]


# --- NGFF -------------------------------------------------------------------------------------


def test_ngff_maps_forward_in_array_order() -> None:
    scale, shift = {"type": "scale", "scale": [4, 3, 2]}, {"type": "translation", "translation": [30, 20, 10]}
    for m in ([scale, shift], {"type": "sequence", "transformations": [{"type": "identity"}, scale, shift]}):
        np.testing.assert_allclose(convert.from_ngff(m)((1, 2, 3)), (34, 26, 16))
    affine = {"type": "affine", "affine": [[4, 0.8, 0.6, 30], [0.8, 3, 0.4, 20], [0.1, 0.3, 2, 10]]}
    np.testing.assert_allclose(convert.from_ngff(affine)((1, 0, 0)), (34, 20.8, 10.1))
    rotation = {"type": "rotation", "rotation": [[0, 0, 1], [1, 0, 0], [0, 1, 0]]}
    np.testing.assert_allclose(convert.from_ngff(rotation)((1, 2, 3)), (3, 1, 2))
    np.testing.assert_allclose(convert.from_ngff({"type": "mapAxis", "mapAxis": [2, 0, 1]})((1, 2, 3)), (3, 1, 2))


@given(ndims.flatmap(affines))
def test_ngff_round_trip(a: Affine) -> None:
    assert convert.from_ngff(json.loads(json.dumps(convert.to_ngff(a)))) == a


def test_ngff_takes_the_unit_of_the_grids() -> None:
    grid = Grid((4, 5), 0.5, unit="um")
    assert convert.from_ngff({"type": "identity"}, fixed=grid) == Affine.identity(2, unit="um")
    assert convert.from_ngff({"type": "scale", "scale": [2, 2]}).unit is None
    with pytest.raises(UnitError):
        convert.to_ngff(Affine.identity(2, unit="mm"), fixed=grid)


@pytest.mark.parametrize(
    ("m", "error", "message"),
    [
        ({"type": "identity"}, InvalidTransformError, "pass a Grid"),
        ([], InvalidTransformError, "pass a Grid"),
        ({"type": "displacements", "path": "d"}, InvalidTransformError, "'displacements' is none of"),
        ({}, InvalidTransformError, "None is none of"),
        ({"type": "affine", "path": "params"}, InvalidTransformError, "does not hold its numbers.*path"),
        ({"type": "affine", "affine": [[1, 0], [0]]}, InvalidTransformError, "damaged"),
        ({"type": "scale", "scale": 2}, InvalidTransformError, "damaged"),
        ({"type": "scale", "scale": [1, 0]}, InvalidTransformError, "singular"),
        ({"type": "rotation", "rotation": [1, 0]}, InvalidTransformError, "singular"),
        ({"type": "mapAxis", "mapAxis": [0, 5]}, InvalidTransformError, "damaged"),
        (
            [{"type": "scale", "scale": [1, 2]}, {"type": "scale", "scale": [1, 2, 3]}],
            ShapeMismatchError,
            r"\[2, 3\] dimensions",
        ),
    ],
)
def test_ngff_that_is_refused(m: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        convert.from_ngff(m)


def test_ngff_examples(data: Path) -> None:
    """Every transformation between systems in the RFC-5 examples is read, or refused by its name."""
    read, refused = 0, set()
    for path in sorted((data / "zarr" / "rfc5").rglob("zarr.json")):
        ome = json.loads(path.read_text()).get("attributes", {}).get("ome", {})
        for multiscale in ome.get("multiscales", []):
            axes = multiscale["coordinateSystems"][0]["axes"]
            grid = Grid((4,) * len(axes))
            lists = [d["coordinateTransformations"] for d in multiscale["datasets"]]
            for m in [*lists, *([t] for t in multiscale.get("coordinateTransformations", []))]:
                try:
                    convert.from_ngff(m, fixed=grid)
                    read += 1
                except InvalidTransformError:
                    refused.add((m[0]["type"], "path" in m[0]))
    assert read > 40
    assert {kind for kind, in_file in refused if not in_file} <= {"byDimension", "bijection"}


# --- All of them ------------------------------------------------------------------------------


@pytest.mark.slow
@given(ndims.flatmap(lambda n: st.tuples(affines(n), grids(n, unit="mm"), grids(n, unit="mm"))))
def test_round_trips_of_any_map_and_grids(case: tuple[Affine, Grid, Grid]) -> None:
    a, fixed, moving = case
    pull = Affine(a.matrix, unit="mm")
    # Origins and spacings of very different sizes lose digits in the products of matrices.
    scale = np.abs(moving.matrix).max() * np.abs(moving.inverse_matrix @ pull.matrix @ fixed.matrix).max()
    for name, tool in TOOLS.items():
        if pull.ndim not in tool.ndims or name.startswith("torch"):
            continue
        back = tool.back(tool.to(pull, fixed=fixed, moving=moving), fixed=fixed, moving=moving)
        np.testing.assert_allclose(back.matrix, pull.matrix, rtol=0, atol=1e-12 * max(1.0, scale))


def test_without_grids_they_are_pixels_of_spacing_one() -> None:
    a = Affine.translation(x=3, y=-2, unit="pixel")
    assert convert.from_skimage(convert.to_skimage(a)) == a
    assert convert.from_scipy(convert.to_scipy(a)) == a
    assert convert.from_pystackreg(convert.to_pystackreg(a)) == a
    np.testing.assert_array_equal(convert.to_skimage(a), [[1, 0, 3], [0, 1, -2], [0, 0, 1]])
    np.testing.assert_array_equal(convert.to_scipy(a), [[1, 0, -2], [0, 1, 3], [0, 0, 1]])
    assert convert.from_itk(convert.to_itk(a)).unit is None


def test_fits_are_taken_for_their_transforms() -> None:
    class Fit:
        transform = Affine.translation(x=3)

    class Stack:
        transform = SliceAffines([Fit.transform.matrix])

    np.testing.assert_array_equal(convert.to_scipy(Fit()), Fit.transform.matrix)
    np.testing.assert_array_equal(convert.to_pystackreg(Stack())[0], [[1, 0, 3], [0, 1, 0], [0, 0, 1]])
    assert convert.to_itk(Fit()).GetTranslation() == (3.0, 0.0)


def test_units_must_agree() -> None:
    mm, um = Grid((4, 5), unit="mm"), Grid((4, 5), unit="um")
    for function in (convert.from_skimage, convert.from_scipy, convert.from_pystackreg):
        with pytest.raises(UnitError):
            function(np.eye(3), fixed=mm, moving=um)
        with pytest.warns(PixelUnitWarning):
            assert function(np.eye(3), fixed=mm).unit == "millimeter"
    with pytest.raises(UnitError):
        convert.from_itk(sitk.AffineTransform(2), fixed=mm, moving=um)
    for to in (convert.to_skimage, convert.to_scipy, convert.to_pystackreg, convert.to_itk, convert.to_torch):
        with pytest.raises(UnitError):
            to(Affine.identity(2, unit="nm"), fixed=mm, moving=mm)


def test_bad_input() -> None:
    stack, solid, grid = SliceAffines(np.eye(3)[None]), Affine.identity(3), Grid((4, 5))
    with pytest.raises(InvalidTransformError, match="for 3D use from_scipy"):
        convert.from_skimage(np.eye(4))
    with pytest.raises(InvalidTransformError, match="projective"):
        convert.from_skimage(skimage.transform.ProjectiveTransform([[1, 0, 0], [0, 1, 0], [1e-3, 0, 1]]))
    with pytest.raises(InvalidTransformError, match="not SliceAffines"):
        convert.to_skimage(stack)
    with pytest.raises(InvalidTransformError, match="3D where 2D"):
        convert.to_skimage(solid)
    with pytest.raises(InvalidTransformError, match="do not fit"):
        convert.from_scipy((np.eye(2), [1, 2, 3]))
    with pytest.raises(InvalidTransformError, match=r"\(3, 3\) or \(N, 3, 3\)"):
        convert.from_pystackreg(np.eye(4))
    with pytest.raises(InvalidTransformError, match="2D slices"):
        convert.to_pystackreg(SliceAffines(np.eye(4)[None]))
    with pytest.raises(InvalidTransformError, match="not an affine transform of SimpleITK"):
        convert.from_itk(np.eye(3))
    with pytest.raises(InvalidTransformError, match="BSplineTransform is not an affine"):
        convert.from_itk(sitk.BSplineTransformInitializer(sitk.Image(8, 8, sitk.sitkFloat32), [2, 2]))
    with pytest.raises(OptionError, match=r"fixed must be a Grid, not ndarray"):
        convert.from_scipy(np.eye(3), fixed=np.zeros((4, 5)))  # type: ignore[arg-type]
    with pytest.raises(ShapeMismatchError, match="moving Grid is 2D, the transform 3D"):
        convert.from_scipy(np.eye(4), moving=grid)
    for function, value in ((convert.from_torch, np.eye(2, 3)), (convert.to_torch, Affine.identity(2))):
        with pytest.raises(OptionError, match="depend on the shape"):
            function(value)
