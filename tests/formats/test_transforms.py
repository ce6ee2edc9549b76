"""Transform files: round trips, real files of other tools, and SimpleITK as the reference."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from hypothesis import given
from phantoms import blobs, inside
from strategies import affines, ndims, slice_affines

import daskreg as dr
from daskreg.errors import InputError, InvalidTransformError, MissingExtraError, OptionError
from daskreg.formats import transforms
from daskreg.geometry import Affine, Grid, SliceAffines, Transform, index_matrix
from daskreg.kernels import sample

Floats = np.ndarray[Any, np.dtype[np.float64]]

SOLID = Affine.from_parameters(rx=0.2, ry=-0.1, rz=0.4, tx=3, ty=-2, tz=1, sx=1.1, shxy=0.1, centre=(5, 6, 7))
FLAT = Affine.from_parameters(theta=0.3, tx=4.5, ty=-2.25, sx=1.2, sy=0.9, shx=0.1, centre=(20, 31))


def cloud(ndim: int) -> Floats:
    return np.random.default_rng(0).uniform(-80, 80, (9, ndim))


def through_itk(transform: sitk.Transform, points: Floats) -> Floats:
    """Points in array order through a transform of SimpleITK."""
    return np.array([transform.TransformPoint([float(v) for v in p[::-1]])[::-1] for p in points])


# --- JSON -----------------------------------------------------------------------------


@pytest.mark.slow
@given(ndims.flatmap(affines))
def test_json_round_trip_is_exact(a: Affine) -> None:
    entry = json.loads(json.dumps({"schema": "daskreg/transform", "version": 1, "transform": a.to_dict()}))
    assert transforms.transform_from_file(entry) == a


@pytest.mark.slow
@given(slice_affines(unit="nm"))
def test_json_round_trip_of_slices_is_exact(stack: SliceAffines) -> None:
    assert transforms.transform_from_dict(json.loads(json.dumps(stack.to_dict()))) == stack


@pytest.mark.parametrize(
    "transform",
    [
        Affine(FLAT.matrix, axes=("y", "x"), unit="um"),
        SOLID,
        SliceAffines([FLAT.matrix, np.eye(3)], axis="z", axes=("y", "x"), unit="nm", start=3),
    ],
    ids=("flat", "solid", "slices"),
)
def test_save_and_load(transform: Transform, tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    transform.save(path)
    assert dr.load(path) == dr.load(str(path)) == transform
    content = json.loads(path.read_text())
    assert (content["schema"], content["version"]) == ("daskreg/transform", 1)
    assert [p.name for p in tmp_path.iterdir()] == ["t.json"]  # no partial file stays


def test_save_replaces_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    SOLID.save(path)
    FLAT.save(path)
    assert dr.load(path) == FLAT


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.json"
    FLAT.save(path)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        SOLID.save(path)
    assert dr.load(path) == FLAT
    assert [p.name for p in tmp_path.iterdir()] == ["t.json"]


def test_a_fit_loads_as_its_transform(tmp_path: Path) -> None:
    path = tmp_path / "fit.json"
    transforms.write_json(
        {"schema": "daskreg/fit", "version": 1, "status": "converged", "transform": FLAT.to_dict()}, path
    )
    assert dr.load(path) == FLAT


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not a transform file.*elastix.*ITK"),
        ("{", "not JSON"),
        ("{" * 100_000, "not JSON"),
        ("[1, 2]", "not a transform file"),
        ("{}", "not a daskreg transform"),
        ('{"schema": "other"}', "not a daskreg transform"),
        ('{"schema": "daskreg/transform"}', "version None"),
        ('{"schema": "daskreg/transform", "version": 2}', "version 2.*upgrade"),
        ('{"schema": "daskreg/transform", "version": 1}', "type None"),
        ('{"schema": "daskreg/transform", "version": 1, "transform": {"type": "warp"}}', "type 'warp' is none of"),
        ('{"schema": "daskreg/transform", "version": 1, "transform": {"type": ["affine"]}}', "is none of"),
        ('{"schema": "daskreg/transform", "version": 1, "transform": {"type": "affine"}}', "damaged.*matrix"),
        (
            '{"schema": "daskreg/transform", "version": 1, "transform": {"type": "affine", "matrix": [[NaN, 0, 0], '
            "[0, 1, 0], [0, 0, 1]]}}",
            "NaN",
        ),
        (
            '{"schema": "daskreg/transform", "version": 1, "transform": {"type": "affine", "matrix": {"a": 1}}}',
            "numbers",
        ),
        ("\x80\x04\x95", "not a transform file"),
    ],
)
def test_damaged_files(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(InvalidTransformError, match=message):
        dr.load(path)


def test_a_file_that_is_missing_or_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"there is no file .*nowhere\.json"):
        dr.load(tmp_path / "nowhere.json")
    with pytest.raises(InputError, match="there is no file"):
        dr.load(tmp_path)
    path = tmp_path / "t.json"
    FLAT.save(path)
    monkeypatch.setattr(transforms.files, "SIZE_CAP", 10)
    with pytest.raises(InputError, match="a transform file has at most 10"):
        dr.load(path)


def test_json_refuses_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        transforms.write_json({"score": float("nan")}, tmp_path / "t.json")
    assert not list(tmp_path.iterdir())


# --- Writing for ITK --------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".tfm", ".txt", ".h5", ".TFM"])
@pytest.mark.parametrize("transform", [FLAT, SOLID], ids=("flat", "solid"))
def test_simpleitk_reads_what_is_saved(transform: Affine, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"t{suffix}"
    transform.save(path)
    points = cloud(transform.ndim)
    copy = tmp_path / f"t{suffix.lower()}"
    path.rename(copy)
    np.testing.assert_allclose(through_itk(sitk.ReadTransform(copy), points), transform(points), rtol=0, atol=1e-12)
    assert dr.load(copy) == Affine(transform.matrix)
    assert [p.name for p in tmp_path.iterdir()] == [copy.name]


@pytest.mark.parametrize("suffix", [".tfm", ".h5"])
def test_simpleitk_warps_with_what_is_saved(suffix: str, tmp_path: Path) -> None:
    """The motion that registration found is the one that `sitk.Resample` takes."""
    moving_from_fixed = Affine.from_parameters(theta=0.2, tx=3, ty=-5, sx=1.1, centre=(30, 40))
    fixed, moving = Grid((70, 90), (0.8, 0.7), (1, -2)), Grid((60, 101), (0.9, 0.6), (3, 4))
    image = blobs(moving.shape)
    moving_from_fixed.save(tmp_path / f"t{suffix}")
    itk_image = sitk.GetImageFromArray(image)
    itk_image.SetSpacing(moving.spacing[::-1])
    itk_image.SetOrigin(moving.origin[::-1])
    theirs = sitk.Resample(
        itk_image,
        fixed.shape[::-1],
        sitk.ReadTransform(tmp_path / f"t{suffix}"),
        sitk.sitkLinear,
        fixed.origin[::-1],
        fixed.spacing[::-1],
    )
    matrix = index_matrix(moving_from_fixed.matrix, fixed, moving)
    ours = sample(image, moving.box, matrix, fixed.box)
    valid = inside(matrix, fixed.shape, moving.shape)
    assert ours[valid].max() > 0.5
    np.testing.assert_allclose(ours[valid], sitk.GetArrayFromImage(theirs)[valid], rtol=0, atol=1e-3)


def test_suffixes_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"saved as \.json, or for .*ITK as \.tfm"):
        FLAT.save(tmp_path / "t.dat")
    with pytest.raises(OptionError, match=r"saved as \.json"):
        FLAT.save(tmp_path / "t")
    with pytest.raises(OptionError, match=r"a file of ANTs or FSL.*--to"):
        FLAT.save(tmp_path / "t.mat")
    with pytest.raises(OptionError, match=r"'spm' is unknown: use one of .*FreeSurfer"):
        FLAT.save(tmp_path / "t.mat", format="spm")
    assert not list(tmp_path.iterdir())


def test_hdf5_without_h5py_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FLAT.save(tmp_path / "t.h5")
    real = builtins.__import__

    def without(name: str, *args: Any, **options: Any) -> Any:
        if name == "h5py":
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"daskreg\[formats\]"):
        dr.load(tmp_path / "t.h5")
    with pytest.raises(MissingExtraError, match=r"daskreg\[formats\]"):
        FLAT.save(tmp_path / "new.h5")
    assert [p.name for p in tmp_path.iterdir()] == ["t.h5"]


# --- Reading ITK ------------------------------------------------------------------------

_V = "0.1 -0.2 0.15"  # a versor
_T3, _C3 = "4 -5 6", "1.5 2.5 -3.5"
ITK_TYPES = [
    ("IdentityTransform_double_3_3", "", ""),
    ("TranslationTransform_double_2_2", "3.5 -2", ""),
    ("TranslationTransform_double_3_3", _T3, ""),
    ("AffineTransform_double_2_2", "1.1 0.1 -0.2 0.9 4 -5", "10 20"),
    ("AffineTransform_double_3_3", f"1.1 0.1 -0.2 0.05 0.9 0.3 0 -0.1 1.2 {_T3}", _C3),
    ("AffineTransform_float_3_3", f"1.1 0.1 -0.2 0.05 0.9 0.3 0 -0.1 1.2 {_T3}", _C3),
    ("MatrixOffsetTransformBase_double_3_3", f"1.1 0.1 -0.2 0.05 0.9 0.3 0 -0.1 1.2 {_T3}", _C3),
    ("MatrixOffsetTransformBase_double_2_2", "1.1 0.1 -0.2 0.9 4 -5", "10 20"),
    ("CenteredAffineTransform_double_2_2", "1.1 0.1 -0.2 0.9 10 20 4 -5", "0 0"),
    ("ScaleTransform_double_2_2", "1.2 0.7", "3 4"),
    ("ScaleTransform_double_3_3", "1.2 0.7 1.1", _C3),
    ("ScaleLogarithmicTransform_double_3_3", "0.2 -0.1 0.05", _C3),
    ("Euler2DTransform_double_2_2", "0.3 4 -5", "10 20"),
    ("Rigid2DTransform_double_2_2", "0.3 4 -5", "10 20"),
    ("CenteredRigid2DTransform_double_2_2", "0.3 10 20 4 -5", ""),
    ("Similarity2DTransform_double_2_2", "1.2 0.3 4 -5", "10 20"),
    ("CenteredSimilarity2DTransform_double_2_2", "1.2 0.3 10 20 4 -5", ""),
    ("Euler3DTransform_double_3_3", f"0.1 0.2 -0.3 {_T3}", _C3),
    ("Euler3DTransform_double_3_3", f"0.1 0.2 -0.3 {_T3}", f"{_C3} 0"),
    ("Euler3DTransform_double_3_3", f"0.1 0.2 -0.3 {_T3}", f"{_C3} 1"),
    ("CenteredEuler3DTransform_double_3_3", f"0.1 0.2 -0.3 {_C3} {_T3}", "0 0 0"),
    ("QuaternionRigidTransform_double_3_3", f"0.1 -0.2 0.15 0.963068 {_T3}", _C3),
    ("VersorTransform_double_3_3", _V, _C3),
    ("VersorRigid3DTransform_double_3_3", f"{_V} {_T3}", _C3),
    ("Similarity3DTransform_double_3_3", f"{_V} {_T3} 1.3", _C3),
    ("ScaleVersor3DTransform_double_3_3", f"{_V} {_T3} 1.1 0.9 1.2", _C3),
    ("ScaleSkewVersor3DTransform_double_3_3", f"{_V} {_T3} 1.1 0.9 1.2 0.01 0.02 0.03 0.04 0.05 0.06", _C3),
    ("ComposeScaleSkewVersor3DTransform_double_3_3", f"{_V} {_T3} 1.1 0.9 1.2 0.1 0.2 0.3", _C3),
]


@pytest.mark.parametrize(("kind", "parameters", "fixed"), ITK_TYPES)
def test_every_type_means_what_itk_says(kind: str, parameters: str, fixed: str, tmp_path: Path) -> None:
    path = tmp_path / "t.tfm"
    path.write_text(
        f"#Insight Transform File V1.0\n#Transform 0\nTransform: {kind}\n"
        f"Parameters: {parameters}\nFixedParameters: {fixed}\n"
    )
    # Without the cast to SimpleITK's own class, which some of ITK's types lack.
    theirs = sitk.SimpleITK._SimpleITK.ReadTransform(str(path))
    ours = dr.load(path)
    assert isinstance(ours, Affine)
    assert ours.unit is None
    points = cloud(ours.ndim)
    np.testing.assert_allclose(
        ours(points), through_itk(theirs, points), rtol=0, atol=2e-5 if "float" in kind else 1e-9
    )


@pytest.mark.parametrize("suffix", [".tfm", ".h5"])
def test_composites_are_one_map(suffix: str, tmp_path: Path) -> None:
    parts = [sitk.Euler3DTransform((1, 2, 3), 0.1, 0.2, 0.3, (4, 5, 6)), sitk.AffineTransform(3)]
    parts[1].SetMatrix((1.1, 0.1, 0, 0, 0.9, 0.2, 0.1, 0, 1.0))
    parts[1].SetTranslation((-3, 2, 1))
    composite = sitk.CompositeTransform([*parts, sitk.TranslationTransform(3, (7, 8, 9))])
    path = tmp_path / f"t{suffix}"
    sitk.WriteTransform(composite, path)
    ours = dr.load(path)
    assert isinstance(ours, Affine)
    np.testing.assert_allclose(ours(cloud(3)), through_itk(composite, cloud(3)), rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", [sitk.Euler2DTransform(), sitk.VersorRigid3DTransform(), sitk.AffineTransform(2)])
@pytest.mark.parametrize("suffix", [".txt", ".h5"])
def test_files_of_simpleitk(kind: sitk.Transform, suffix: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    kind.SetParameters([p + 0.1 * float(rng.normal()) for p in kind.GetParameters()])
    kind.SetFixedParameters([float(10 * rng.normal()) for _ in range(kind.GetDimension())])
    sitk.WriteTransform(kind, tmp_path / f"t{suffix}")
    ours = dr.load(tmp_path / f"t{suffix}")
    assert isinstance(ours, Affine)
    points = cloud(kind.GetDimension())
    np.testing.assert_allclose(ours(points), through_itk(kind, points), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("", "holds no transform"),
        (
            "Transform: DisplacementFieldTransform_double_2_2\nParameters: 1 2 3\nFixedParameters: 1",
            "does not have 1 fixed parameters",
        ),
        ("Transform: BSplineTransform_double_3_3\nParameters: 1\nFixedParameters: 1", "1 fixed parameters"),
        ("Transform: Euler3DTransform_double_2_2\nParameters: 1\nFixedParameters:", "not a map that daskreg reads"),
        (
            "Transform: AffineTransform_double_2_2\nParameters: 1 0 0\nFixedParameters: 0 0",
            "does not have 3 parameters",
        ),
        ("Transform: ScaleTransform_double_2_2\nParameters: 2\nFixedParameters: 0 0", "does not have 1 parameters"),
        ("Transform: TranslationTransform_double_2_2\nParameters: a b\nFixedParameters:", "'a'"),
        ("Transform: TranslationTransform_double_3_2\nParameters: 1 2\nFixedParameters:", "onto itself"),
        ("Transform: Translation\nParameters: 1 2\nFixedParameters:", "not the name of an ITK transform"),
        ("Transform: ScaleTransform_double_2_2\nParameters: 0 1\nFixedParameters: 0 0", "singular"),
        (
            "Transform: TranslationTransform_double_2_2\nParameters: 1 2\nFixedParameters:\n"
            "Transform: TranslationTransform_double_3_3\nParameters: 1 2 3\nFixedParameters:",
            "different dimensions",
        ),
    ],
)
def test_itk_files_that_are_refused(lines: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "t.tfm"
    path.write_text(f"#Insight Transform File V1.0\n{lines}\n")
    with pytest.raises(InvalidTransformError, match=message):
        dr.load(path)


def test_hdf5_files_that_are_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.h5"
    with h5py.File(other, "w") as file:
        file["volume"] = np.zeros(3)
    with pytest.raises(InvalidTransformError, match="TransformGroup"):
        dr.load(other)
    FLAT.save(tmp_path / "t.h5")
    with h5py.File(tmp_path / "t.h5", "a") as file:
        del file["TransformGroup/0/TransformParameters"]
        file["TransformGroup/0/TransformParameters"] = np.zeros(5000)
    with pytest.raises(InvalidTransformError, match="5000 parameters are too many"):
        dr.load(tmp_path / "t.h5")
    cut = tmp_path / "cut.h5"
    cut.write_bytes((tmp_path / "t.h5").read_bytes()[:600])
    with pytest.raises(InvalidTransformError, match="not an HDF5 file of an ITK transform"):
        dr.load(cut)


# --- Reading elastix --------------------------------------------------------------------


def elastix(path: Path, kind: str, parameters: str, **more: str) -> Path:
    fields = {"Transform": f'"{kind}"', "TransformParameters": parameters} | more
    path.write_text("// A comment\n" + "".join(f"({k} {v})\n" for k, v in fields.items()))
    return path


CENTRE3 = {"CenterOfRotationPoint": _C3}


@pytest.mark.parametrize(
    ("kind", "parameters", "more", "same_as"),
    [
        ("TranslationTransform", "3 -2", {}, sitk.TranslationTransform(2, (3, -2))),
        ("EulerTransform", "0.3 4 -5", {"CenterOfRotationPoint": "10 20"}, ("Euler2DTransform_double_2_2", "10 20")),
        ("EulerTransform", f"0.1 0.2 -0.3 {_T3}", CENTRE3, ("Euler3DTransform_double_3_3", _C3)),
        (
            "EulerTransform",
            f"0.1 0.2 -0.3 {_T3}",
            CENTRE3 | {"ComputeZYX": '"true"'},
            ("Euler3DTransform_double_3_3", f"{_C3} 1"),
        ),
        (
            "SimilarityTransform",
            "1.2 0.3 4 -5",
            {"CenterOfRotationPoint": "10 20"},
            ("Similarity2DTransform_double_2_2", "10 20"),
        ),
        ("SimilarityTransform", f"{_V} {_T3} 1.3", CENTRE3, ("Similarity3DTransform_double_3_3", _C3)),
        (
            "AffineTransform",
            "1.1 0.1 -0.2 0.9 4 -5",
            {"CenterOfRotationPoint": "10 20"},
            ("AffineTransform_double_2_2", "10 20"),
        ),
        (
            "AffineTransform",
            f"1.1 0.1 -0.2 0.05 0.9 0.3 0 -0.1 1.2 {_T3}",
            CENTRE3,
            ("AffineTransform_double_3_3", _C3),
        ),
    ],
)
def test_elastix_means_what_itk_says(
    kind: str, parameters: str, more: dict[str, str], same_as: Any, tmp_path: Path
) -> None:
    ours = dr.load(elastix(tmp_path / "TransformParameters.0.txt", kind, parameters, **more))
    assert isinstance(ours, Affine)
    if isinstance(same_as, tuple):
        itk = tmp_path / "t.tfm"
        itk.write_text(
            f"#Insight Transform File V1.0\nTransform: {same_as[0]}\n"
            f"Parameters: {parameters}\nFixedParameters: {same_as[1]}\n"
        )
        same_as = sitk.ReadTransform(itk)
    points = cloud(ours.ndim)
    np.testing.assert_allclose(ours(points), through_itk(same_as, points), rtol=0, atol=1e-9)


def test_elastix_chains(tmp_path: Path) -> None:
    """The initial transform is applied first; its path is searched for beside the file."""
    elastix(tmp_path / "first.txt", "AffineTransform", "2 0 0 1 0 0")
    for name in ("first.txt", "/home/somebody/run/first.txt", "C:\\\\run\\\\first.txt"):
        path = elastix(
            tmp_path / "second.txt", "TranslationTransform", "10 0", InitialTransformParameterFileName=f'"{name}"'
        )
        ours = dr.load(path)
        np.testing.assert_allclose(ours((5, 3)), (5, 2 * 3 + 10))  # type: ignore[operator, arg-type]
    elastix(
        tmp_path / "second.txt",
        "TranslationTransform",
        "10 0",
        InitialTransformParameterFileName='"first.txt"',
        HowToCombineTransforms='"Add"',
    )
    np.testing.assert_allclose(dr.load(tmp_path / "second.txt")((5, 3)), (5, 2 * 3 + 10))  # type: ignore[operator, arg-type]


@pytest.mark.parametrize(
    ("kind", "parameters", "more", "message"),
    [
        ("BSplineTransform", "1 2", {}, "make no grid"),
        ("EulerTransform", "1 2", {}, "does not have 2 parameters"),
        ("TranslationTransform", "a b", {}, "'a'"),
        (
            "TranslationTransform",
            "1 2",
            {"UseDirectionCosines": '"false"', "Direction": "0 1 1 0"},
            "ignores the image's direction",
        ),
        ("TranslationTransform", "1 2", {"UseBinaryFormatForTransformationParameters": '"true"'}, "binary"),
        ("TranslationTransform", "1 2", {"InitialTransformParameterFileName": '"t.txt"'}, "refers to itself"),
    ],
)
def test_elastix_files_that_are_refused(
    kind: str, parameters: str, more: dict[str, str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidTransformError, match=message):
        dr.load(elastix(tmp_path / "t.txt", kind, parameters, **more))


def test_elastix_names_a_missing_file(tmp_path: Path) -> None:
    path = elastix(tmp_path / "t.txt", "TranslationTransform", "1 2", InitialTransformParameterFileName='"gone.txt"')
    with pytest.raises(InputError, match=r"there is no file .*gone\.txt"):
        dr.load(path)


# --- Real files -------------------------------------------------------------------------


def test_one_map_in_several_encodings(data: Path) -> None:
    """nitransforms' affine, stored for three orientations, by ITK and by FreeSurfer (RAS, forward)."""
    folder = data / "transforms" / "nitransforms" / "data"
    maps = [dr.load(folder / f"affine-{o}.itk.tfm") for o in ("RAS", "LPS", "LAS")]
    lines = (folder / "affine-RAS.fs.lta").read_text().splitlines()
    start = lines.index("1 4 4") + 1
    ras = np.array([[float(v) for v in line.split()] for line in lines[start : start + 4]])
    flip = np.diag([-1.0, -1, 1, 1])
    for found in maps:
        assert isinstance(found, Affine)
        assert found == maps[0]
        lps = found.matrix[[2, 1, 0, 3]][:, [2, 1, 0, 3]]
        np.testing.assert_allclose(flip @ lps @ flip, ras, rtol=0, atol=5e-6)
        np.testing.assert_allclose(
            found(cloud(3)), through_itk(sitk.ReadTransform(folder / "affine-RAS.itk.tfm"), cloud(3)), atol=2e-5
        )
    afni = [float(v) for v in (folder / "affine-RAS.afni").read_text().splitlines()[1].split()]
    np.testing.assert_allclose(maps[0].matrix[[2, 1, 0]][:, [2, 1, 0, 3]].ravel(), afni, atol=1e-9)


def test_elastix_translation_in_its_encodings(data: Path) -> None:
    """All say (1, -2), as files, links to ITK's files and a chain; x first."""
    folder = data / "transforms" / "elastix" / "Translation(1,-2)"
    names = [
        "ITK-HDF5-Transform.h5",
        "ITK-Transform.tfm",
        "TransformParameters.txt",
        "TransformParameters-Size-5x6.txt",
        "TransformParameters-link-to-ITK-HDF5-file.txt",
        "TransformParameters-link-to-ITK-tfm-file.txt",
        "TransformParametersWithInitialTransformParameterFile.txt",
    ]
    for name in names:
        assert dr.load(folder / name) == Affine.translation(x=1, y=-2), name
    np.testing.assert_allclose(
        dr.load(data / "transforms" / "simpleitk_xforms" / "translation_-13x-17y.txt").matrix[:2, 2],  # type: ignore[union-attr]
        (-17, -13),
    )


def test_files_of_simpleitk_and_itk(data: Path) -> None:
    read = 0
    folders = [data / "transforms" / "simpleitk_xforms", data / "transforms" / "itk"]
    for path in sorted(p for folder in folders for p in (*folder.glob("*.txt"), *folder.glob("*.tfm"))):
        if not path.read_text().startswith("#Insight"):
            continue
        ours, theirs = dr.load(path), sitk.ReadTransform(path)
        assert isinstance(ours, Affine) != ("displacement" in path.name or "BSpline" in path.name)
        np.testing.assert_allclose(ours(cloud(ours.ndim)), through_itk(theirs, cloud(ours.ndim)), rtol=0, atol=1e-9)
        read += 1
    assert read == 11


def test_ants_composite(data: Path) -> None:
    path = data / "transforms" / "nitransforms" / "data" / "affine-antsComposite.h5"
    ours = dr.load(path)
    assert isinstance(ours, Affine)
    np.testing.assert_allclose(ours(cloud(3)), through_itk(sitk.ReadTransform(path), cloud(3)), rtol=0, atol=1e-9)


def test_a_series_in_one_file(data: Path) -> None:
    """Several transforms without a composite are those of the volumes of a series, as nitransforms reads them."""
    path = data / "transforms" / "nitransforms" / "data" / "itktflist.tfm"
    found = dr.load(path)
    assert isinstance(found, SliceAffines)
    assert (found.axis, len(found)) == ("t", 9)
    for number, part in enumerate(path.read_text().split("#Transform ")[1:]):
        alone = sitk.AffineTransform(3)
        lines = dict(line.split(": ") for line in part.splitlines() if ": " in line)
        alone.SetParameters([float(v) for v in lines["Parameters"].split()])
        alone.SetFixedParameters([float(v) for v in lines["FixedParameters"].split()])
        np.testing.assert_allclose(found[number](cloud(3)), through_itk(alone, cloud(3)), rtol=0, atol=1e-9)


@pytest.mark.parametrize("suffix", [".tfm", ".h5", ".mat"])
def test_a_series_round_trip(suffix: str, tmp_path: Path) -> None:
    volumes = SliceAffines(np.stack([SOLID.matrix, SOLID.inverse().matrix, np.eye(4)]), axis="t")
    slices = SliceAffines(np.stack([FLAT.matrix, FLAT.inverse().matrix]))
    for number, saved in enumerate((volumes, slices)):
        path = tmp_path / f"{number}{suffix}"
        saved.save(path, format="ANTs" if suffix == ".mat" else None)
        assert dr.load(path) == saved


def test_elastix_affine_registers_real_landmarks(data: Path) -> None:
    """An affine that elastix found on images brings 34 mm to 9: fixed points go to the moving image."""
    folder = data / "volumes3d" / "lung_landmarks"
    found = dr.load(folder / "transformparameters.3DCT_lung.affine.txt")
    assert isinstance(found, Affine)
    fixed, moving = (
        np.loadtxt(folder / f"CT_3D_lung_{name}_point_set.txt", skiprows=2)[:, ::-1] for name in ("fixed", "moving")
    )
    before = np.linalg.norm(fixed - moving, axis=1).mean()
    after = np.linalg.norm(found(fixed) - moving, axis=1).mean()
    assert before > 30
    assert after < 10
    assert np.linalg.norm(found.inverse()(fixed) - moving, axis=1).mean() > before


def test_an_hdf5_type_of_gigabytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.h5"
    Affine.translation(x=1, y=2, z=3).save(path)
    with h5py.File(path) as file:
        where = file["TransformGroup/0/TransformType"].id.get_offset()
    data = bytearray(path.read_bytes())
    data[where : where + 4] = b"\xff" * 4  # the length of the text
    path.write_bytes(bytes(data))
    with pytest.raises(InvalidTransformError, match="4294967295 characters"):
        dr.load(path)
