"""Files of other tools: what the other tool, or its documented formula, makes of what is saved, and the other way."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import nibabel
import numpy as np
import pytest
import scipy.io
import SimpleITK as sitk  # noqa: N813
from phantoms import blobs
from pystackreg import StackReg

import daskreg as dr
from daskreg.errors import InvalidTransformError, OptionError, UnitError
from daskreg.geometry import Affine, Grid, SliceAffines

Floats = np.ndarray[Any, np.dtype[np.float64]]

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
FIXED_SHAPE, MOVING_SHAPE = (31, 17, 23), (19, 29, 13)  # i, j, k


def oblique(angles: tuple[float, float, float], zooms: tuple[float, ...], origin: tuple[float, ...]) -> Floats:
    """(4, 4) RAS from i, j, k; a negative zoom mirrors an axis."""
    matrix = np.diag([*zooms, 1.0])
    for axis, angle in enumerate(angles):
        turn = np.eye(4)
        i, j = (k for k in range(3) if k != axis)
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        matrix = turn @ matrix
    matrix[:3, 3] = origin
    return matrix


# Positive and negative determinants, oblique and along the axes.
PAIRS = {
    "oblique": (oblique((0.2, -0.1, 0.3), (1.25, 2.0, 0.75), (-20, 31, 4)),
                oblique((-0.3, 0.2, 0.1), (0.8, 1.5, 3.0), (11, -7, 25))),
    "negative": (oblique((0.2, -0.1, 0.3), (-1.25, 2.0, 0.75), (60, 31, 4)),
                 oblique((0.1, 0.15, -0.2), (-0.8, 1.5, 3.0), (11, -7, 25))),
    "mixed": (oblique((0, 0, 0), (-1.25, 2.0, 0.75), (60, 31, 4)),
              oblique((0, 0, 0), (0.8, 1.5, 3.0), (11, -7, 25))),
    "permuted": (oblique((1.5, 0.1, 0.05), (1.25, -2.0, 0.75), (60, 31, 4)),
                 oblique((0.1, -1.45, 0.1), (0.8, 1.5, -3.0), (11, -7, 25))),
}  # fmt: skip

SOLID = Affine.from_parameters(rx=0.2, ry=-0.15, rz=0.4, tx=3, ty=-2, tz=5, sx=1.1, sz=0.9, shxy=0.1, unit="mm")
FLAT = Affine.from_parameters(theta=0.3, tx=4.5, ty=-2.25, sx=1.2, sy=0.9, shx=0.1, centre=(20, 31))


def ras_of(transform: Affine) -> Floats:
    """(4, 4) in RAS, x, y, z, written out by hand."""
    back = np.eye(4)[[2, 1, 0, 3]]
    return LPS @ back @ transform.matrix @ back @ LPS


@pytest.fixture(params=PAIRS, ids=str)
def images(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, Any, Grid, Grid]:
    """Fixed and moving images of nibabel, and the grids that daskreg opens."""
    found = []
    for name, shape, affine in zip(("fixed", "moving"), (FIXED_SHAPE, MOVING_SHAPE), PAIRS[request.param], strict=True):
        image = nibabel.Nifti1Image(np.zeros(shape, np.uint8), affine)
        image.header.set_xyzt_units("mm")
        nibabel.save(image, tmp_path / f"{name}.nii")
        found.append(nibabel.load(tmp_path / f"{name}.nii"))
    return *found, *(dr.grid(dr.open(tmp_path / f"{name}.nii")) for name in ("fixed", "moving"))


def points(number: int = 20, ndim: int = 3) -> Floats:
    return np.random.default_rng(0).uniform(-40, 60, (number, ndim))


def apply(matrix: Floats, where: Floats) -> Floats:
    return where @ matrix[:-1, :-1].T + matrix[:-1, -1]


# --- FSL ---------------------------------------------------------------------------------------


def fsl_coordinates(image: Any, where: Floats) -> Floats:
    """FSL's scaled millimetres of RAS points (FLIRT's documentation): voxels times their size, x from the other end in
    images of a positive determinant."""
    index = apply(np.linalg.inv(image.affine), where)
    if np.linalg.det(image.affine) > 0:
        index[:, 0] = image.shape[0] - 1 - index[:, 0]
    return np.asarray(index * image.header.get_zooms())


def test_fsl(images: tuple[Any, Any, Grid, Grid], tmp_path: Path) -> None:
    fixed_image, moving_image, fixed, moving = images
    path = tmp_path / "flirt.mat"
    SOLID.save(path, format="fsl", fixed=fixed, moving=moving)
    matrix = np.loadtxt(path)
    here = points()
    there = apply(ras_of(SOLID), here)
    np.testing.assert_allclose(
        apply(matrix, fsl_coordinates(moving_image, there)), fsl_coordinates(fixed_image, here), atol=1e-4
    )  # headers hold 32 bits
    found = dr.load(path, fixed=fixed, moving=moving)
    assert isinstance(found, Affine)
    np.testing.assert_allclose(found.matrix, SOLID.matrix, rtol=0, atol=1e-9)
    assert found.unit == "millimeter"


def test_fsl_by_nitransforms(images: tuple[Any, Any, Grid, Grid], tmp_path: Path) -> None:
    fsl = pytest.importorskip("nitransforms.io.fsl")
    fixed_image, moving_image, fixed, moving = images
    SOLID.save(tmp_path / "flirt.mat", format="FSL", fixed=fixed, moving=moving)
    theirs = fsl.FSLLinearTransform.from_string((tmp_path / "flirt.mat").read_text())
    np.testing.assert_allclose(theirs.to_ras(moving=moving_image, reference=fixed_image), ras_of(SOLID), atol=1e-4)


def test_fsl_names_the_grids_that_it_needs(tmp_path: Path) -> None:
    (tmp_path / "flirt.mat").write_text("1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n")
    with pytest.raises(OptionError, match=r"FSL counts.*give fixed= and moving="):
        dr.load(tmp_path / "flirt.mat")
    with pytest.raises(OptionError, match=r"give moving="):
        dr.load(tmp_path / "flirt.mat", fixed=Grid((3, 4, 5)))


# --- FreeSurfer --------------------------------------------------------------------------------


def lta_text(kind: int, matrix: Floats, images: tuple[Any, Any]) -> str:
    """An LTA file written by hand: `src` is the moving image, `cras` the RAS of voxel (size / 2)."""
    lines = [f"type      = {kind}", "nxforms   = 1", "mean      = 0 0 0", "sigma     = 1", "1 4 4"]
    lines += [" ".join(map(repr, row)) for row in matrix.tolist()]
    for name, image in zip(("src", "dst"), images, strict=True):
        zooms = np.linalg.norm(image.affine[:3, :3], axis=0)
        axes = (image.affine[:3, :3] / zooms).T.tolist()
        centre = apply(image.affine, np.array([image.shape]) / 2)[0].tolist()
        lines += [f"{name} volume info", "valid = 1  # volume info valid", "filename = x.mgz"]
        lines += [f"volume = {' '.join(map(str, image.shape))}", f"voxelsize = {' '.join(map(repr, zooms.tolist()))}"]
        lines += [f"{a}ras   = {' '.join(map(repr, row))}" for a, row in zip("xyz", axes, strict=True)]
        lines += [f"cras   = {' '.join(map(repr, centre))}"]
    return "\n".join([*lines, "subject fsaverage", "fscale 0.1", ""])


@pytest.mark.parametrize("kind", [0, 1])
def test_freesurfer_reads(images: tuple[Any, Any, Grid, Grid], kind: int, tmp_path: Path) -> None:
    fixed_image, moving_image, *_ = images
    fixed_from_moving = np.linalg.inv(ras_of(SOLID))
    if kind == 0:
        fixed_from_moving = np.linalg.inv(fixed_image.affine) @ fixed_from_moving @ moving_image.affine
    (tmp_path / "t.lta").write_text(lta_text(kind, fixed_from_moving, (moving_image, fixed_image)))
    found = dr.load(tmp_path / "t.lta")
    assert isinstance(found, Affine)
    np.testing.assert_allclose(found.matrix, SOLID.matrix, rtol=0, atol=1e-9)


def test_freesurfer_writes(images: tuple[Any, Any, Grid, Grid], tmp_path: Path) -> None:
    fixed_image, moving_image, fixed, moving = images
    SOLID.save(tmp_path / "t.lta", fixed=fixed, moving=moving)
    found = dr.load(tmp_path / "t.lta")
    assert isinstance(found, Affine)
    np.testing.assert_allclose(found.matrix, SOLID.matrix, rtol=0, atol=1e-9)
    lta = pytest.importorskip("nitransforms.io.lta")
    theirs = lta.FSLinearTransform.from_string((tmp_path / "t.lta").read_text())
    np.testing.assert_allclose(theirs["m_L"].reshape(4, 4), np.linalg.inv(ras_of(SOLID)), rtol=0, atol=1e-6)
    for name, image in (("src", moving_image), ("dst", fixed_image)):
        np.testing.assert_allclose(theirs[name].as_affine(), image.affine, rtol=0, atol=1e-4)
        np.testing.assert_array_equal(theirs[name]["volume"].ravel(), image.shape)


def test_freesurfer_bold_to_t1w(data: Path) -> None:
    """bbregister's file in both types is one map; what lies at the centre of one brain is in the other."""
    folder = data / "transforms" / "nitransforms" / "data"
    ras, voxels = (dr.load(folder / name) for name in ("bold-to-t1w.lta", "bold-to-t1w.v2v.lta"))
    assert isinstance(ras, Affine)
    assert isinstance(voxels, Affine)
    np.testing.assert_allclose(ras.matrix, voxels.matrix, rtol=0, atol=2e-4)  # the files hold 32 bits
    # src (moving) is the BOLD image, in whose RAS y is 9.9 mm lower: dst = M src.
    matrix = np.array(
        [[float(w) for w in line.split()] for line in (folder / "bold-to-t1w.lta").read_text().splitlines()[8:12]]
    )
    np.testing.assert_allclose(ras_of(ras), np.linalg.inv(matrix), rtol=0, atol=1e-9)


def test_freesurfer_types_that_are_refused(tmp_path: Path) -> None:
    text = "type = 14\nnxforms = 1\n1 4 4\n1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n"
    for content, message in ((text, "type 14"), (text.replace("14", "0"), "geometry of its src volume is not valid"),
                             (text.replace("nxforms = 1", "nxforms = 2"), "2 transforms")):  # fmt: skip
        (tmp_path / "t.lta").write_text(content)
        with pytest.raises(InvalidTransformError, match=message):
            dr.load(tmp_path / "t.lta")


# --- AFNI --------------------------------------------------------------------------------------


def test_afni_without_obliquity(tmp_path: Path) -> None:
    """Twelve numbers, base (fixed) to source (moving), in DICOM order: LPS."""
    SOLID.save(tmp_path / "t.aff12.1D")
    rows = np.loadtxt(tmp_path / "t.aff12.1D")
    lps = LPS @ ras_of(SOLID) @ LPS
    np.testing.assert_allclose(rows.reshape(3, 4), lps[:3], rtol=0, atol=1e-12)
    assert dr.load(tmp_path / "t.aff12.1D") == SOLID
    np.savetxt(tmp_path / "matrix.1D", lps[:3], fmt="%.17g")  # three rows of four, as cat_matvec prints them
    found = dr.load(tmp_path / "matrix.1D")
    assert isinstance(found, Affine)
    np.testing.assert_allclose(found.matrix, SOLID.matrix, rtol=0, atol=1e-12)


def test_afni_drops_the_obliquity(images: tuple[Any, Any, Grid, Grid], tmp_path: Path) -> None:
    """By hand: AFNI puts voxels along the nearest axes, from the same first voxel, and maps between such worlds."""
    fixed_image, moving_image, fixed, moving = images
    SOLID.save(tmp_path / "t.aff12.1D", fixed=fixed, moving=moving)
    matrix = np.eye(4)
    matrix[:3] = np.loadtxt(tmp_path / "t.aff12.1D").reshape(3, 4)

    def cardinal(image: Any) -> Floats:
        affine, found = LPS @ image.affine, np.eye(4)
        found[:3, :3] = 0
        for k, zoom in enumerate(np.linalg.norm(affine[:3, :3], axis=0)):
            row = np.abs(affine[:3, k]).argmax()
            found[row, k] = np.sign(affine[row, k]) * zoom
        found[:3, 3] = affine[:3, 3]
        return found

    voxels = points()
    by_afni = apply(np.linalg.inv(cardinal(moving_image)) @ matrix @ cardinal(fixed_image), voxels)
    truth = apply(np.linalg.inv(moving_image.affine) @ ras_of(SOLID) @ fixed_image.affine, voxels)
    np.testing.assert_allclose(by_afni, truth, rtol=0, atol=1e-4)
    found = dr.load(tmp_path / "t.aff12.1D", fixed=fixed, moving=moving)
    assert isinstance(found, Affine)
    np.testing.assert_allclose(found.matrix, SOLID.matrix, rtol=0, atol=1e-9)
    afni = pytest.importorskip("nitransforms.io.afni")
    theirs = afni.AFNILinearTransform.from_string((tmp_path / "t.aff12.1D").read_text())
    np.testing.assert_allclose(theirs.to_ras(moving=moving_image, reference=fixed_image), ras_of(SOLID), atol=1e-4)


def test_afni_series(data: Path, tmp_path: Path) -> None:
    folder = data / "transforms" / "nitransforms" / "data"
    found = dr.load(folder / "affine-RAS.afni-array")
    assert isinstance(found, SliceAffines)
    assert (found.axis, len(found), found.unit) == ("t", 2, "millimeter")
    one = dr.load(folder / "affine-RAS.afni")
    assert found[1] == one
    volumes = SliceAffines(np.stack([SOLID.matrix, SOLID.inverse().matrix]), axis="t", unit="mm")
    volumes.save(tmp_path / "t.aff12.1D")
    assert dr.load(tmp_path / "t.aff12.1D") == volumes


def test_one_map_in_the_encodings_of_nitransforms(data: Path) -> None:
    """ITK, AFNI and FSL files of one affine. (Its FreeSurfer files hold the inverse of what FreeSurfer means.)"""
    folder = data / "transforms" / "nitransforms" / "data"
    # nitransforms' someones_anatomy.nii.gz in three orientations, of which the LTA files have the geometry.
    shape, zooms = (57, 67, 56), (2.75, 2.75, 2.75)
    for name, flips, centre in (("RAS", (1, 1, 1), (0.375, 1.125, -14)), ("LAS", (-1, 1, 1), (-2.375, 1.125, -14)),
                                ("LPS", (-1, -1, 1), (-2.375, -1.625, -14))):  # fmt: skip
        affine = np.diag([*(np.array(zooms) * flips), 1.0])
        affine[:3, 3] = np.array(centre) - affine[:3, :3] @ (np.array(shape) / 2)
        lps = LPS @ affine
        grid = Grid(shape[::-1], zooms, lps[:3, 3][::-1], np.diag(np.sign(np.diag(lps)[:3]))[::-1, ::-1], "mm")
        itk = dr.load(folder / f"affine-{name}.itk.tfm")
        assert isinstance(itk, Affine)
        for other, tolerance in (("afni", 2e-6), ("fsl", 5e-4)):  # six digits
            found = dr.load(folder / f"affine-{name}.{other}", fixed=grid, moving=grid)
            assert isinstance(found, Affine)
            np.testing.assert_allclose(found.matrix, itk.matrix, rtol=0, atol=tolerance)
        wrong = dr.load(folder / f"affine-{name}.fs.lta")
        np.testing.assert_allclose(wrong.inverse().to_matrices(), itk.matrix, rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", PAIRS)
def test_nitransforms_resamples_as_daskreg(name: str, tmp_path: Path) -> None:
    """With each of the files, it puts the same voxels on the fixed image as `warp` does."""
    linear = pytest.importorskip("nitransforms.linear")
    resampling = pytest.importorskip("nitransforms.resampling")
    volume = blobs(MOVING_SHAPE[::-1], seed=3).astype(np.float32)
    found = []
    for values, affine, where in zip((np.zeros(FIXED_SHAPE, np.float32), volume.T), PAIRS[name], "fm", strict=True):
        nibabel.save(nibabel.Nifti1Image(values, affine), tmp_path / f"{where}.nii")
        found.append((dr.open(tmp_path / f"{where}.nii"), nibabel.load(tmp_path / f"{where}.nii")))
    (fixed, fixed_image), (moving, moving_image) = found
    grids = {"fixed": dr.grid(fixed), "moving": dr.grid(moving)}
    a, b = (grid.centre for grid in grids.values())
    there = dr.Affine.translation(**dict(zip("zyx", b - a, strict=True)))
    pull = there @ Affine.from_parameters(rx=0.2, ry=-0.1, rz=0.3, sx=1.1, shxy=0.1, centre=a)
    ours = dr.warp(moving, pull=pull, like=fixed).values
    index = grids["moving"].index(pull(grids["fixed"].world(np.moveaxis(np.indices(fixed.shape), 0, -1))))
    inside = np.all((index >= 0) & (index <= np.array(moving.shape) - 1), axis=-1)
    assert inside.mean() > 0.3
    for tool, file in (("fsl", "t.fsl"), ("afni", "t.1D"), ("itk", "t.tfm")):
        pull.save(tmp_path / file, **grids)
        loaded = linear.load(tmp_path / file, fmt=tool, reference=fixed_image, moving=moving_image)
        theirs = resampling.apply(loaded, moving_image, reference=fixed_image, order=1)
        np.testing.assert_allclose(ours[inside], np.asarray(theirs.dataobj).T[inside], rtol=0, atol=1e-5 * volume.max())


def test_formats_in_millimetres(tmp_path: Path) -> None:
    microns = Affine(SOLID.matrix, unit="um")
    grid = Grid((3, 4, 5), unit="um")
    for name, tool in (("t.lta", None), ("t.mat", "FSL"), ("t.1D", None)):
        with pytest.raises(UnitError, match=r"millimetres.*micrometer"):
            microns.save(tmp_path / name, format=tool, fixed=grid, moving=grid)
        with pytest.raises(InvalidTransformError, match="2D"):
            FLAT.save(tmp_path / name, format=tool, fixed=grid, moving=grid)


# --- ANTs, elastix -----------------------------------------------------------------------------


@pytest.mark.parametrize("transform", [FLAT, SOLID], ids=("flat", "solid"))
def test_ants(transform: Affine, tmp_path: Path) -> None:
    path = tmp_path / "out0GenericAffine.mat"
    transform.save(path)
    theirs = sitk.ReadTransform(path)
    where = points(ndim=transform.ndim)
    expected = np.array([theirs.TransformPoint(p[::-1].tolist())[::-1] for p in where])
    np.testing.assert_allclose(transform(where), expected, rtol=0, atol=1e-9)
    variables = scipy.io.loadmat(path)
    assert variables["fixed"].shape == (transform.ndim, 1)
    assert dr.load(path) == Affine(transform.matrix)


@pytest.mark.parametrize("kind", ["AffineTransform", "Euler3DTransform", "float"])
def test_ants_files_of_itk(kind: str, tmp_path: Path) -> None:
    """With a centre, of another type, and in single precision and big-endian order."""
    path = tmp_path / "t.mat"
    theirs = sitk.Euler3DTransform((5, -3, 8), 0.2, -0.1, 0.3, (1, 2, 3))
    if kind != "Euler3DTransform":
        matrix, shift = theirs.GetMatrix(), theirs.GetTranslation()
        theirs = sitk.AffineTransform(matrix, shift, (5, -3, 8))
    if kind == "float":
        content = b""
        for name, values in (("AffineTransform_float_3_3", theirs.GetParameters()),
                             ("fixed", theirs.GetFixedParameters())):  # fmt: skip
            head = np.array([1010, len(values), 1, 0, len(name) + 1], ">i4").tobytes()
            content += head + name.encode() + b"\0" + np.array(values, ">f4").tobytes()
        path.write_bytes(content)
    else:
        sitk.WriteTransform(theirs, path)
    found, where = dr.load(path), points()
    expected = np.array([theirs.TransformPoint(p[::-1].tolist())[::-1] for p in where])
    np.testing.assert_allclose(found(where), expected, rtol=0, atol=1e-4 if kind == "float" else 1e-9)


def test_elastix_parameters(images: tuple[Any, Any, Grid, Grid], tmp_path: Path) -> None:
    """The grid that transformix resamples on: x, y, z, and the direction column by column."""
    _, _, fixed, moving = images
    path = tmp_path / "TransformParameters.0.txt"
    SOLID.save(path, fixed=fixed)
    found = dr.load(path)
    assert isinstance(found, Affine)
    np.testing.assert_allclose(found.matrix, SOLID.matrix, rtol=0, atol=1e-12)
    fields = dict(line[1:-1].split(" ", 1) for line in path.read_text().splitlines())
    assert fields["Size"] == " ".join(map(str, FIXED_SHAPE))
    columns = np.array(fields["Direction"].split(), float).reshape(3, 3)
    reference = sitk.ReadImage(str(tmp_path / "fixed.nii"))
    np.testing.assert_allclose(columns.T.ravel(), reference.GetDirection(), rtol=0, atol=1e-6)
    with pytest.raises(OptionError, match=r"elastix.*give fixed="):
        SOLID.save(path, moving=moving)


def test_transformix_resamples_as_daskreg(tmp_path: Path) -> None:
    itk = pytest.importorskip("itk")
    affine = PAIRS["negative"]
    volume = blobs(MOVING_SHAPE[::-1], seed=3).astype(np.float32)
    for name, values, where in (
        ("fixed", np.zeros(FIXED_SHAPE[::-1], np.float32), affine[0]),
        ("moving", volume, affine[1]),
    ):
        nibabel.save(nibabel.Nifti1Image(values.T, where), tmp_path / f"{name}.nii")
    fixed, moving = (dr.open(tmp_path / f"{name}.nii") for name in ("fixed", "moving"))
    a, b = (dr.grid(image).centre for image in (fixed, moving))
    there = Affine.translation(**dict(zip("zyx", b - a, strict=True)))
    overlapping = there @ Affine.from_parameters(rx=0.2, ry=-0.1, rz=0.3, sx=1.1, shxy=0.1, centre=a)
    overlapping.save(tmp_path / "TransformParameters.0.txt", fixed=dr.grid(fixed))
    parameters = itk.ParameterObject.New()
    parameters.ReadParameterFile(str(tmp_path / "TransformParameters.0.txt"))
    image = itk.imread(str(tmp_path / "moving.nii"), itk.F)
    theirs = itk.array_from_image(itk.transformix_filter(image, parameters))
    ours = dr.warp(moving, pull=overlapping, like=fixed).values
    indices = np.moveaxis(np.indices(fixed.shape), 0, -1)
    there_index = dr.grid(moving).index(overlapping(dr.grid(fixed).world(indices)))
    inside = np.all((there_index >= 0) & (there_index <= np.array(moving.shape) - 1), axis=-1)
    assert inside.mean() > 0.2
    np.testing.assert_allclose(ours[inside], theirs[inside], rtol=0, atol=1e-4 * volume.max())


# --- Slices ------------------------------------------------------------------------------------

STACK = Grid((4, 37, 53), spacing=(5, 2, 0.5), origin=(0, 3, -7), unit="nm")
RAW = Grid((4, 41, 60), spacing=(5, 2, 0.5), origin=(0, -4, 1), unit="nm")
SLICES = SliceAffines(
    np.stack([Affine.from_parameters(theta=t, tx=3 * t, ty=-t, sx=1 + t / 10).matrix for t in (0.0, 0.2, -0.3, 0.5)]),
    unit="nm",
)


def test_imod(tmp_path: Path) -> None:
    """By IMOD's manual: x' = A (x - xci) + d + xco, from the raw section to the aligned one."""
    path = tmp_path / "stack.xf"
    SLICES.save(path, fixed=STACK, moving=RAW)
    rows = np.loadtxt(path)
    where = points(ndim=2)  # y, x of an aligned section, in pixels
    for number, (a11, a12, a21, a22, dx, dy) in enumerate(rows):
        world = STACK.take((1, 2)).world(where)
        raw = RAW.take((1, 2)).index(SLICES(world, np.full(len(where), number)))
        y, x = (raw - (np.array(RAW.shape[1:]) - 1) / 2).T
        aligned = np.column_stack([a21 * x + a22 * y + dy, a11 * x + a12 * y + dx])
        np.testing.assert_allclose(aligned + (np.array(STACK.shape[1:]) - 1) / 2, where, rtol=0, atol=1e-9)
    found = dr.load(path, fixed=STACK, moving=RAW)
    assert isinstance(found, SliceAffines)
    np.testing.assert_allclose(found.matrices, SLICES.matrices, rtol=0, atol=1e-9)
    assert found.unit == "nanometer"
    (tmp_path / "one.xf").write_text("0.9986295 0.0523360 -0.0523360 0.9986295 4.500 -2.250\n")
    one = dr.load(tmp_path / "one.xf", moving=Grid((11, 21)))
    assert isinstance(one, Affine)
    # The centre of the aligned image comes from a point that is moved by (4.5, -2.25).
    np.testing.assert_allclose(one.inverse()([[5.0, 10.0]]), [[5 - 2.25, 10 + 4.5]], rtol=0, atol=1e-9)
    with pytest.raises(OptionError, match=r"IMOD.*give moving="):
        dr.load(path)


def test_pystackreg_npy(tmp_path: Path) -> None:
    """pystackreg moves a stack with the saved matrices as daskreg does."""
    stack = np.stack([blobs((41, 60), seed=3)] * 4).astype(np.float64)
    pixels = SliceAffines(
        np.stack(
            [Affine.from_parameters(theta=t, tx=9 * t, ty=-4 * t, centre=(20, 29)).matrix for t in (0, 0.1, -0.2, 0.3)]
        )
    )
    pixels.save(tmp_path / "t.npy")
    theirs = StackReg(StackReg.AFFINE).transform_stack(stack, tmats=np.load(tmp_path / "t.npy"))
    ours = dr.warp(stack, pull=pixels, order=3)
    inside = np.s_[:, 12:-12, 12:-12]
    assert np.abs(ours - theirs)[inside].max() < 0.02 * np.ptp(stack)
    assert np.abs(stack - theirs)[inside].max() > 0.2 * np.ptp(stack)
    again = dr.load(tmp_path / "t.npy")
    assert isinstance(again, SliceAffines)
    np.testing.assert_allclose(again.matrices, pixels.matrices, rtol=0, atol=1e-12)
    SLICES.save(tmp_path / "t.npy", fixed=STACK, moving=RAW)
    found = dr.load(tmp_path / "t.npy", fixed=STACK, moving=RAW)
    np.testing.assert_allclose(found.to_matrices(), SLICES.matrices, rtol=0, atol=1e-9)


LANDMARKS = np.array([[30.0, 20.0], [30.0, 10.0], [30.0, 30.0]])  # x, y: centre, above, below


def multistackreg(blocks: list[tuple[str, int, int, Floats, Floats]], *, alone: bool) -> str:
    lines = ["MultiStackReg Transformation File", "File Version 1.0", str(int(alone))]
    for model, source, target, *landmarks in blocks:
        lines += [model, f"Source img: {source} Target img: {target}"]
        for some in landmarks:
            lines += [*(f"{x!r}\t{y!r}" for x, y in some.tolist()), ""]
    return "\n".join([*lines, ""])


def test_multistackreg_of_one_stack(tmp_path: Path) -> None:
    """Each block is about neighbours, so the plugin multiplies: global(s) = local(s) global(neighbour nearer to 2)."""
    rng = np.random.default_rng(1)
    local: dict[int, Floats] = {}
    blocks = []
    for number in (1, 3, 4, 5):  # the anchor is slice 2; the plugin goes down first, then up
        angle, shift = rng.uniform(-0.3, 0.3), rng.uniform(-5, 5, 2)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        source = (LANDMARKS - LANDMARKS[0]) @ turn.T + LANDMARKS[0] + shift
        local[number] = np.eye(3)
        local[number][:2, :2], local[number][:2, 2] = turn, LANDMARKS[0] + shift - turn @ LANDMARKS[0]
        blocks.append(("RIGID_BODY", number, 2, source, LANDMARKS))
    path = tmp_path / "TransformationMatrices.txt"
    path.write_text(multistackreg(blocks, alone=False))
    found = dr.load(path)
    assert isinstance(found, SliceAffines)
    whole = {1: local[1], 2: np.eye(3), 3: local[3]}
    for before, number in pairwise((3, 4, 5)):
        whole[number] = local[number] @ whole[before]
    where = points(ndim=2)
    for number, matrix in whole.items():
        np.testing.assert_allclose(found[number - 1](where[:, ::-1]), apply(matrix, where)[:, ::-1], rtol=0, atol=1e-9)


def test_multistackreg_is_written_slice_by_slice(tmp_path: Path) -> None:
    path = tmp_path / "TransformationMatrices.txt"
    SLICES.save(path, fixed=STACK, moving=RAW)
    found = dr.load(path, fixed=STACK, moving=RAW)
    np.testing.assert_allclose(found.to_matrices(), SLICES.matrices, rtol=0, atol=1e-9)
    lines = path.read_text().splitlines()
    assert lines[:5] == [
        "MultiStackReg Transformation File",
        "File Version 1.0",
        "1",
        "AFFINE",
        "Source img: 1 Target img: 1",
    ]
    assert [line for line in lines if line.startswith("Source")][-1] == "Source img: 4 Target img: 1"
    # A landmark of the target in slice 2, through the world, is the one of the source.
    source, target = (np.array([[float(w) for w in line.split()] for line in lines[a : a + 3]]) for a in (15, 19))
    world = STACK.take((1, 2)).world(target[:, ::-1])
    np.testing.assert_allclose(RAW.take((1, 2)).index(SLICES[1](world))[:, ::-1], source, rtol=0, atol=1e-9)


def turboreg(model: str, source: Floats, target: Floats) -> str:
    lines = ["Transformation", model, "", "Source size", "60\t41", "", "Target size", "53\t37", ""]
    lines += ["Refined source landmarks", *(f"{x!r}\t{y!r}" for x, y in source.tolist()), ""]
    return "\n".join([*lines, "Target landmarks", *(f"{x!r}\t{y!r}" for x, y in target.tolist()), ""])


@pytest.mark.parametrize(
    ("model", "used"), [("TRANSLATION", 1), ("RIGID_BODY", 3), ("SCALED_ROTATION", 2), ("AFFINE", 3)]
)
def test_turboreg(model: str, used: int, tmp_path: Path) -> None:
    turn = {"TRANSLATION": np.eye(2), "RIGID_BODY": [[0.6, -0.8], [0.8, 0.6]]}.get(
        model, np.array([[0.9, -1.2], [1.2, 0.9]])
    )
    turn = np.array([[1.1, 0.2], [-0.3, 0.8]]) if model == "AFFINE" else np.asarray(turn)
    target = np.array([[30.0, 20.0], [12.0, 10.0], [45.0, 33.0]])[:used]
    source = target @ turn.T + [4.0, -7.5]
    (tmp_path / "landmarks.txt").write_text(turboreg(model, source, target))
    found = dr.load(tmp_path / "landmarks.txt")
    where = points(ndim=2)
    np.testing.assert_allclose(found(where[:, ::-1])[:, ::-1], where @ turn.T + [4.0, -7.5], rtol=0, atol=1e-9)


def test_stackreg_texts_that_are_refused(tmp_path: Path) -> None:
    block = ("RIGID_BODY", 3, 1, LANDMARKS, LANDMARKS)
    for text, message in (
        (turboreg("BILINEAR", LANDMARKS, LANDMARKS), "'BILINEAR' is not one of"),
        (multistackreg([block], alone=False), r"slices \[3\] are not linked to slice 1"),
        (multistackreg([block], alone=False)[:-20], "damaged"),
        (multistackreg([], alone=False), "holds no transform"),
        (multistackreg([block], alone=True), "1 slices, numbered 3 to 3"),
    ):
        (tmp_path / "t.txt").write_text(text)
        with pytest.raises(InvalidTransformError, match=message):
            dr.load(tmp_path / "t.txt")


# --- BigDataViewer, NGFF, text -----------------------------------------------------------------


def bdv(views: dict[tuple[int, int], list[Floats]]) -> str:
    text = '<?xml version="1.0" encoding="UTF-8"?>\n<SpimData version="0.2"><ViewRegistrations>'
    for (time, setup), transforms in views.items():
        text += f'<ViewRegistration timepoint="{time}" setup="{setup}">'
        for m in transforms:
            numbers = " ".join(map(repr, m[:3].ravel().tolist()))
            text += f'<ViewTransform type="affine"><Name>n</Name><affine>{numbers}</affine></ViewTransform>'
        text += "</ViewRegistration>"
    return text + "</ViewRegistrations></SpimData>"


def test_bigdataviewer(tmp_path: Path) -> None:
    """A stitched view: calibration first, which is listed last; then the place in the world."""
    moving = Grid((19, 29, 13), spacing=(3, 1.5, 0.5), unit="um")
    calibration, place = np.diag([1.0, 3, 6, 1]), np.eye(4)
    place[:3] = [[0.9, 0.1, 0, 40], [-0.1, 1.1, 0.05, -3], [0, 0.2, 1, 7]]
    (tmp_path / "dataset.xml").write_text(bdv({(0, 0): [np.eye(4)], (0, 4): [place, calibration]}))
    found = dr.load(tmp_path / "dataset.xml", moving=moving, view=4)
    assert isinstance(found, Affine)
    assert found.unit == "micrometer"
    voxels = points()  # x, y, z
    world = apply(place, voxels * [1, 3, 6])
    np.testing.assert_allclose(moving.index(found(world[:, ::-1]))[:, ::-1], voxels, rtol=0, atol=1e-9)
    assert dr.load(tmp_path / "dataset.xml", moving=moving, view=(0, 4)) == found
    with pytest.raises(OptionError, match=r"2 views.*\(0, 0\), \(0, 4\)"):
        dr.load(tmp_path / "dataset.xml", moving=moving)
    with pytest.raises(OptionError, match=r"BigDataViewer.*give moving="):
        dr.load(tmp_path / "dataset.xml", view=4)


def test_bigdataviewer_is_written(images: tuple[Any, Any, Grid, Grid], tmp_path: Path) -> None:
    """Voxels of both views that show one point of the fixed world are brought to one point."""
    _, _, fixed, moving = images
    SOLID.save(tmp_path / "pair.xml", fixed=fixed, moving=moving)
    root = ElementTree.parse(tmp_path / "pair.xml").getroot()
    where = points()
    for setup, index in ((0, fixed.index(where)), (1, moving.index(SOLID(where)))):
        view = root.find(f"ViewRegistrations/ViewRegistration[@setup='{setup}']")
        assert view is not None
        matrix = np.eye(4)
        matrix[:3] = np.array((view.findtext("ViewTransform/affine") or "").split(), float).reshape(3, 4)
        np.testing.assert_allclose(apply(matrix, index[:, ::-1])[:, ::-1], where, rtol=0, atol=1e-9)
    assert root.findtext("SequenceDescription/ViewSetups/ViewSetup[2]/size") == " ".join(map(str, MOVING_SHAPE))
    found = dr.load(tmp_path / "pair.xml", moving=moving, view=1)
    np.testing.assert_allclose(found.to_matrices(), SOLID.matrix, rtol=0, atol=1e-9)


def test_bigdataviewer_files_that_are_refused(tmp_path: Path) -> None:
    grid = Grid((3, 4, 5))
    for text, message in (
        ("<SpimData><ViewRegistrations></SpimData>", "not XML"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><SpimData/>', "XML entities"),
        (bdv({(0, 0): [np.eye(4)]}).replace("1.0 0.0", "", 1), "12 numbers"),
    ):
        (tmp_path / "t.xml").write_text(text)
        with pytest.raises(InvalidTransformError, match=message):
            dr.load(tmp_path / "t.xml", moving=grid)


def test_ngff_json(tmp_path: Path) -> None:
    SOLID.save(tmp_path / "t.ngff.json")
    found = dr.load(tmp_path / "t.ngff.json")
    assert found == Affine(SOLID.matrix)
    (tmp_path / "t.json").write_text(
        '{"type": "sequence", "transformations": [{"type": "scale", "scale": [2, 3]}, '
        '{"type": "translation", "translation": [10, 20]}]}'
    )
    np.testing.assert_allclose(dr.load(tmp_path / "t.json")([[1, 1]]), [[12, 23]])
    (tmp_path / "t.json").write_text('[{"type": "rotation", "rotation": [[0, -1], [1, 0]]}]')
    np.testing.assert_allclose(dr.load(tmp_path / "t.json")([[1, 2]]), [[-2, 1]])


def test_plain_text(tmp_path: Path) -> None:
    """What numpy writes and reads, in array order, or x, y, z where a comment says so."""
    for transform in (FLAT, SOLID):
        transform.save(tmp_path / "t.matrix.txt")
        np.testing.assert_array_equal(np.loadtxt(tmp_path / "t.matrix.txt"), transform.matrix)
        assert dr.load(tmp_path / "t.matrix.txt") == transform
    backwards = SOLID.matrix[[2, 1, 0, 3]][:, [2, 1, 0, 3]]
    np.savetxt(tmp_path / "t.txt", backwards, fmt="%.17g", header="axes x y z")
    assert dr.load(tmp_path / "t.txt") == Affine(SOLID.matrix)
    np.savetxt(tmp_path / "t.txt", SOLID.matrix[:3], fmt="%.17g", delimiter=",")
    assert dr.load(tmp_path / "t.txt") == Affine(SOLID.matrix)
    FLAT.save(tmp_path / "anything.dat", format="text")
    assert dr.load(tmp_path / "anything.dat") == FLAT


def test_a_format_that_is_named(tmp_path: Path) -> None:
    np.savetxt(tmp_path / "t.txt", np.eye(4))
    grid = Grid((3, 4, 5), spacing=(3, 2, 1), unit="mm")
    np.testing.assert_allclose(
        dr.load(tmp_path / "t.txt", format="FSL", fixed=grid, moving=grid).to_matrices(), np.eye(4)
    )
    with pytest.raises(OptionError, match=r"'spm' is unknown"):
        dr.load(tmp_path / "t.txt", format="spm")
    with pytest.raises(OptionError, match="fixed must be a Grid"):
        dr.load(tmp_path / "t.txt", fixed=np.zeros(3))  # type: ignore[arg-type]
