"""Files of displacement fields: what ITK reads and writes, Zarr groups, and what is damaged."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import zarr
from deformations import RNG, affine_of, itk_affine, itk_field, itk_image, itk_points, oblique_nodes, smooth_vectors

import daskreg as dr
from daskreg.errors import DaskregError, InvalidTransformError, OutputExistsError


def points_of(ndim: int) -> np.ndarray:
    nodes = oblique_nodes(ndim)
    return nodes.world(RNG.uniform(-1, np.asarray(nodes.shape), (60, ndim)))


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("suffix", [".nii.gz", ".mha", ".nrrd"])
def test_images_of_vectors_go_both_ways(tmp_path: Path, ndim: int, suffix: str) -> None:
    nodes = oblique_nodes(ndim)
    vectors = smooth_vectors(nodes, 4)
    theirs = tmp_path / f"theirs{suffix}"
    image = itk_image(np.moveaxis(vectors[::-1], 0, -1), nodes, vector=True)
    if suffix == ".nii.gz":
        image.SetMetaData("intent_code", "1007")
    sitk.WriteImage(image, str(theirs))
    points = points_of(ndim)
    expected = itk_points(
        sitk.DisplacementFieldTransform(sitk.Cast(sitk.ReadImage(str(theirs)), image.GetPixelID())), points
    )
    # NIfTI keeps directions as 32-bit numbers.
    assert np.abs(dr.load(theirs)(points) - expected).max() < 1e-4
    ours = tmp_path / f"ours{suffix}"
    dr.load(theirs).save(ours)
    again = sitk.DisplacementFieldTransform(sitk.ReadImage(str(ours), sitk.sitkVectorFloat64))
    assert np.abs(itk_points(again, points) - expected).max() < 1e-4


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize("suffix", [".h5", ".tfm"])
def test_chains_go_both_ways(tmp_path: Path, ndim: int, order: int, suffix: str) -> None:
    nodes, points = oblique_nodes(ndim), points_of(ndim)
    vectors = smooth_vectors(nodes, 4)
    chain = sitk.CompositeTransform(ndim)
    for part in (itk_affine(affine_of(ndim)), itk_field(vectors, nodes, order)):
        chain.AddTransform(part)
    sitk.WriteTransform(chain, str(tmp_path / f"theirs{suffix}"))
    expected = itk_points(chain, points)
    loaded = dr.load(tmp_path / f"theirs{suffix}")
    assert isinstance(loaded, dr.Composite)
    assert np.abs(loaded(points) - expected).max() < 1e-9
    loaded.save(tmp_path / f"ours{suffix}")
    assert np.abs(itk_points(sitk.ReadTransform(str(tmp_path / f"ours{suffix}")), points) - expected).max() < 1e-9


def test_elastix_splines_follow_their_affine(tmp_path: Path) -> None:
    nodes, points = oblique_nodes(3), points_of(3)
    vectors = smooth_vectors(nodes, 4)
    direction = nodes.direction_matrix[::-1, ::-1]

    def text(values: object) -> str:
        return " ".join(repr(float(v)) for v in np.ravel(values))

    affine = affine_of(3)
    rows = [*affine.linear[::-1, ::-1].ravel(), *affine.offset[::-1]]
    (tmp_path / "TransformParameters.0.txt").write_text(
        f'(Transform "AffineTransform")\n(TransformParameters {text(rows)})\n(CenterOfRotationPoint 0 0 0)\n'
        '(InitialTransformParametersFileName "NoInitialTransform")\n'
    )
    (tmp_path / "TransformParameters.1.txt").write_text(
        f'(Transform "BSplineTransform")\n(TransformParameters {text(vectors[::-1])})\n'
        '(InitialTransformParametersFileName "TransformParameters.0.txt")\n(HowToCombineTransforms "Compose")\n'
        f"(GridSize {' '.join(map(str, nodes.shape[::-1]))})\n(GridOrigin {text(nodes.origin[::-1])})\n"
        f"(GridSpacing {text(nodes.spacing[::-1])})\n(GridDirection {text(direction.T)})\n"
        "(BSplineTransformSplineOrder 3)\n"
    )
    loaded = dr.load(tmp_path / "TransformParameters.1.txt")
    chain = sitk.CompositeTransform(3)
    for part in (itk_field(vectors, nodes, 3), itk_affine(affine)):
        chain.AddTransform(part)
    assert np.abs(loaded(points) - itk_points(chain, points)).max() < 1e-9
    folder = tmp_path / "ours"
    folder.mkdir()
    loaded.save(folder / "TransformParameters.1.txt", fixed=nodes)
    assert sorted(file.name for file in folder.iterdir()) == [
        "TransformParameters.1-0.txt",
        "TransformParameters.1.txt",
    ]
    assert np.abs(dr.load(folder / "TransformParameters.1.txt")(points) - loaded(points)).max() < 1e-12
    with pytest.raises(dr.errors.InvalidTransformError, match="order=3"):
        dr.DisplacementField(vectors, nodes).save(folder / "TransformParameters.2.txt", fixed=nodes)
    with pytest.raises(dr.errors.OptionError, match="fixed"):
        loaded.save(folder / "TransformParameters.2.txt")


@pytest.mark.parametrize("suffix", [".zarr", ".json"])
def test_own_files_keep_everything(tmp_path: Path, suffix: str) -> None:
    nodes = oblique_nodes(3)
    field = dr.DisplacementField(smooth_vectors(nodes, 4).astype(np.float32), nodes, order=3)
    chain = field.inverse() @ affine_of(3) @ dr.DisplacementField(smooth_vectors(nodes, 2), nodes)
    chain.save(tmp_path / f"chain{suffix}")
    loaded = dr.load(tmp_path / f"chain{suffix}")
    points = points_of(3)
    assert np.array_equal(loaded(points), chain(points))
    assert loaded.unit == "millimeter"
    chain.save(tmp_path / f"chain{suffix}")  # replaces its own

    slices = dr.SliceDisplacements(smooth_vectors(oblique_nodes(2), 2, 4), oblique_nodes(2), axis="z", unit="any")
    slices.save(tmp_path / f"slices{suffix}")
    again = dr.load(tmp_path / f"slices{suffix}")
    assert (again.axis, again.slices, again.unit) == ("z", 4, None)
    index = np.arange(60) % 4
    assert np.array_equal(again(points[:, 1:], index), slices(points[:, 1:], index))


def test_vectors_of_a_loaded_store_stay_there(tmp_path: Path) -> None:
    nodes = oblique_nodes(2)
    dr.DisplacementField(smooth_vectors(nodes, 4), nodes).save(tmp_path / "field.zarr")
    assert not dr.load(tmp_path / "field.zarr").vectors.in_memory


def test_foreign_folders_and_damaged_files_are_refused(tmp_path: Path) -> None:
    nodes = oblique_nodes(2)
    field = dr.DisplacementField(smooth_vectors(nodes, 4), nodes)
    zarr.create_array(tmp_path / "image.zarr", data=np.zeros((3, 4)))
    with pytest.raises(OutputExistsError, match=r"image\.zarr exists and holds no transform"):
        field.save(tmp_path / "image.zarr")
    slices = dr.SliceAffines([np.eye(3)] * 3)
    with pytest.raises(InvalidTransformError, match="no maps of single slices"):
        (field @ slices).save(tmp_path / "slices.h5")
    with pytest.raises(InvalidTransformError, match="linear field"):
        field.inverse().save(tmp_path / "inverse.nii.gz")
    with pytest.raises(InvalidTransformError, match=r"save it as \.zarr"):
        field.inverse().save(tmp_path / "inverse.h5")
    field.save(tmp_path / "field.tfm")
    text = (tmp_path / "field.tfm").read_text()
    (tmp_path / "short.tfm").write_text(text.replace("Parameters: ", "Parameters: 1 ", 1))
    with pytest.raises(InvalidTransformError, match="parameters do not fit"):
        dr.load(tmp_path / "short.tfm")
    sitk.WriteImage(sitk.Image([4, 5], sitk.sitkVectorFloat32, 3), str(tmp_path / "rgb.mha"))
    with pytest.raises(InvalidTransformError, match="3 components in 2D"):
        dr.load(tmp_path / "rgb.mha")
    with pytest.raises(InvalidTransformError, match="too large for a JSON file"):
        dr.DisplacementField(np.zeros((2, 800, 800)), dr.Grid((800, 800))).save(tmp_path / "large.json")


def test_a_field_of_no_unit_takes_that_of_the_volume(tmp_path: Path) -> None:
    nodes = oblique_nodes(2)
    dr.DisplacementField(smooth_vectors(nodes, 4), nodes).save(tmp_path / "field.mha")
    volume = dr.open(RNG.normal(size=(40, 60)), spacing=2, unit="um")
    assert dr.warp(volume, pull=dr.load(tmp_path / "field.mha") @ dr.Affine.translation(x=1)).shape == (40, 60)


@pytest.mark.parametrize("suffix", [".mha", ".nrrd", ".nii.gz", ".nii", ".h5", ".tfm", ".zarr"])
def test_truncated_files_of_fields_are_named(tmp_path: Path, suffix: str) -> None:
    nodes = oblique_nodes(3)
    path = tmp_path / f"field{suffix}"
    dr.DisplacementField(smooth_vectors(nodes, 4), nodes).save(path)
    file = next(p for p in path.rglob("*") if p.is_file() and p.name != "zarr.json") if path.is_dir() else path
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * 0.6)])
    with pytest.raises(DaskregError, match="field"):
        dr.warp(dr.open(np.zeros((60, 60, 60)), spacing=1, unit="mm"), pull=dr.load(path)).compute()


def test_a_packed_file_is_unpacked_once_and_its_damage_named(tmp_path: Path) -> None:
    nodes = oblique_nodes(3)
    path, points = tmp_path / "field.nii.gz", points_of(3)
    dr.DisplacementField(smooth_vectors(nodes, 4), nodes).save(path)
    whole, expected = path.read_bytes(), dr.load(path)(points)
    plain = gzip.decompress(whole)
    path.write_bytes(gzip.compress(plain[:5000]) + gzip.compress(plain[5000:]))  # as bgzip writes it
    assert np.array_equal(dr.load(path)(points), expected)
    path.write_bytes(whole[:-8] + bytes([whole[-8] ^ 1]) + whole[-7:])  # its checksum
    with pytest.raises(DaskregError, match=r"field\.nii\.gz"):
        dr.load(path)
    path.write_bytes(gzip.compress(plain + bytes(10**7)))
    with pytest.raises(InvalidTransformError, match="holds more than its header states"):
        dr.load(path)
    path.write_bytes(gzip.compress(plain[:-300]))
    with pytest.raises(DaskregError, match=r"field\.nii\.gz"):
        dr.load(path)


@pytest.mark.parametrize("name", ["a.mha", "a.h5", "a.tfm", "a.zarr", "a.json", "a.ngff.zarr", "a_1Warp.nii.gz"])
def test_vectors_that_are_not_finite_are_not_saved(tmp_path: Path, name: str) -> None:
    """Those of a store, which are not looked at before."""
    vectors = zarr.create_array(tmp_path / "v.zarr", shape=(2, 4, 5), dtype="f4")
    vectors[1, 2, 3] = np.inf
    with pytest.raises(InvalidTransformError, match=r"v\.zarr hold NaN or infinity, first at index \(1, 2, 3\)"):
        dr.DisplacementField(vectors, dr.Grid((4, 5))).save(tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["v.zarr"]


@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9])
def test_a_parameter_file_of_elastix_that_is_cut_short_is_named(tmp_path: Path, kept: float) -> None:
    path = tmp_path / "TransformParameters.0.txt"
    dr.Affine.translation(z=1, y=2, x=3).save(path, fixed=dr.Grid((4, 5, 6)))
    text = path.read_text()
    cut = text.index("\n", int(len(text) * kept)) - 2
    path.write_text(text[:cut])
    with pytest.raises(InvalidTransformError, match=r"TransformParameters\.0\.txt.*cut short"):
        dr.load(path)
