"""Fields of ANTs and OME-NGFF, chains in memory for SimpleITK, and the commands that read and write them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import zarr
from deformations import RNG, affine_of, itk_affine, itk_field, itk_image, itk_points, oblique_nodes, smooth_vectors

import daskreg as dr
from daskreg.cli import run as cli
from daskreg.errors import InvalidTransformError, OutputExistsError, UnitError

STRAIGHT = dr.Grid((7, 9, 8), (11.0, 7.0, 9.0), (-4.0, 3.0, 1.5), unit="mm")


def points_in(nodes: dr.Grid) -> np.ndarray:
    return nodes.world(RNG.uniform(0.1, np.asarray(nodes.shape) - 1.1, (50, nodes.ndim)))


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("order", [1, 3])
def test_simpleitk_gets_the_whole_chain(ndim: int, order: int) -> None:
    nodes = oblique_nodes(ndim)
    field = dr.DisplacementField(smooth_vectors(nodes, 4), nodes, order=order)
    points = nodes.world(RNG.uniform(-2, 11, (200, ndim)))
    assert np.abs(itk_points(dr.convert.to_itk(field), points) - field(points)).max() < 1e-6
    chain = affine_of(ndim) @ field @ affine_of(ndim)
    made = dr.convert.to_itk(chain, fixed=nodes)
    assert isinstance(made, sitk.CompositeTransform)
    assert np.abs(itk_points(made, points) - chain(points)).max() < 1e-6
    with pytest.raises(UnitError):
        dr.convert.to_itk(chain, fixed=dr.Grid(nodes.shape, unit="um"))
    with pytest.raises(InvalidTransformError, match="inverse"):
        dr.convert.to_itk(field.inverse())


def test_files_of_ants_are_a_chain_by_their_prefix(tmp_path: Path) -> None:
    nodes, affine = oblique_nodes(3), affine_of(3)
    warp, back = smooth_vectors(nodes, 4), smooth_vectors(nodes, 3)
    for name, vectors in (("1Warp", warp), ("1InverseWarp", back)):
        image = itk_image(np.moveaxis(vectors[::-1], 0, -1), nodes, vector=True)
        sitk.WriteImage(image, str(tmp_path / f"out_{name}.nii.gz"))
    affine.save(tmp_path / "out_0GenericAffine.mat")
    chain = sitk.CompositeTransform(3)  # of antsApplyTransforms -t out_1Warp.nii.gz -t out_0GenericAffine.mat
    chain.AddTransform(itk_affine(affine))
    chain.AddTransform(itk_field(warp, nodes, 1))
    points = points_in(nodes)
    loaded = dr.load(tmp_path / "out_")
    assert np.abs(loaded(points) - itk_points(chain, points)).max() < 1e-4  # NIfTI keeps directions in 32 bits
    other = dr.load(tmp_path / "out_1InverseWarp.nii.gz") @ dr.load(tmp_path / "out_0GenericAffine.mat").inverse()
    inverse = affine.inverse()(points)
    assert np.abs(other(points) - itk_points(itk_field(back, nodes, 1), inverse)).max() < 1e-4
    loaded.save(tmp_path / "again_1Warp.nii.gz")
    assert np.abs(dr.load(tmp_path / "again_")(points) - loaded(points)).max() < 1e-4
    loaded.save(tmp_path / "third_", format="ANTs")
    assert sorted(p.name for p in tmp_path.glob("third_*")) == ["third_0GenericAffine.mat", "third_1Warp.nii.gz"]
    with pytest.raises(InvalidTransformError, match="affine map after a linear field"):
        (loaded @ affine).save(tmp_path / "more_", format="ANTs")


def test_names_of_the_files_of_ants(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nodes, affine = oblique_nodes(3), affine_of(3)
    field, points = dr.DisplacementField(smooth_vectors(nodes, 4), nodes), points_in(nodes)
    field.save(tmp_path / "one_", format="ANTs")
    assert (
        cli(["transform", "convert", str(tmp_path / "one_1Warp.nii.gz"), str(tmp_path / "two_"), "--to", "ANTs"]) == 0
    )
    assert "saved to" in capsys.readouterr().out
    field.save(tmp_path / "three.nii", format="ANTs")
    for name in ("one_1Warp.nii.gz", "two_1Warp.nii.gz", "three.nii"):
        assert np.abs(dr.load(tmp_path / name)(points) - field(points)).max() < 1e-4
    chain = affine @ field
    for name in ("small_1warp.nii.gz", "LARGE_1WARP.NII.GZ"):
        chain.save(tmp_path / name)
        assert np.abs(dr.load(tmp_path / name[:6])(points) - chain(points)).max() < 1e-4
    affine.save(tmp_path / "small_.tfm")
    (tmp_path / "small_.tfm").rename(tmp_path / "small_")  # a file is what its name says, whatever lies beside it
    assert isinstance(dr.load(tmp_path / "small_"), dr.Affine)


def write_ngff(path: Path, vectors: np.ndarray, kind: str, *, last: bool) -> None:
    """A sequence of a translation and a field, as the specification has it, by zarr alone."""
    group = zarr.open_group(path, mode="w")
    field = group.create_group("field")
    field.create_array("0", data=np.moveaxis(vectors, 0, -1) if last else vectors, chunks=(3,) * 4)
    vector = {"name": "c", "type": kind.removesuffix("s"), "discrete": True}
    space = [{"name": name, "type": "space", "unit": "millimeter"} for name in "zyx"]
    scale, shift = list(STRAIGHT.spacing), list(STRAIGHT.origin)
    axes = [*space, vector] if last else [vector, *space]
    steps = [
        {"type": "scale", "scale": [*scale, 1.0] if last else [1.0, *scale]},
        {"type": "translation", "translation": [*shift, 0.0] if last else [0.0, *shift]},
    ]
    level = {"path": "0", "coordinateTransformations": steps}
    field.attrs["ome"] = {"version": "0.6", "multiscales": [{"axes": axes, "datasets": [level]}]}
    parts = [{"type": "translation", "translation": [1.0, -2.0, 0.5]}, {"type": kind, "path": "field"}]
    whole = {"type": "sequence", "name": "moving", "transformations": parts}
    group.attrs["ome"] = {"version": "0.6", "coordinateTransformations": [whole]}


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("kind", ["displacements", "coordinates"])
def test_fields_of_ngff_are_read_and_stay_in_the_store(tmp_path: Path, kind: str, last: bool) -> None:
    vectors = smooth_vectors(STRAIGHT, 2)
    stored = vectors
    if kind == "coordinates":
        stored = vectors + np.moveaxis(STRAIGHT.world(np.moveaxis(np.indices(STRAIGHT.shape), 0, -1)), -1, 0)
    write_ngff(tmp_path / "theirs.zarr", stored, kind, last=last)
    loaded = dr.load(tmp_path / "theirs.zarr")
    points = points_in(STRAIGHT)
    expected = dr.DisplacementField(vectors, STRAIGHT)(points + np.array([1.0, -2.0, 0.5]))
    assert np.abs(loaded(points) - expected).max() < 1e-9
    assert loaded.unit == "millimeter"
    assert not loaded.parts[0].vectors.in_memory


def test_ngff_goes_both_ways(tmp_path: Path) -> None:
    field, affine = dr.DisplacementField(smooth_vectors(STRAIGHT, 2), STRAIGHT), affine_of(3)
    chain = affine @ field @ affine @ field
    chain.save(tmp_path / "chain.ngff.zarr")
    points = points_in(STRAIGHT)
    assert np.array_equal(dr.load(tmp_path / "chain.ngff.zarr")(points), chain(points))
    with pytest.raises(OutputExistsError):
        chain.save(tmp_path / "chain.ngff.zarr")
    oblique = oblique_nodes(3)
    for part in (field.inverse(), dr.DisplacementField(smooth_vectors(oblique, 2), oblique)):
        with pytest.raises(InvalidTransformError, match=r"along the axes.*save it as \.zarr"):
            part.save(tmp_path / "other.ngff.zarr")
    assert not (tmp_path / "other.ngff.zarr").exists()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ({"path": "elsewhere"}, "lacks the field 'elsewhere'"),
        ({"interpolation": "cubic"}, "only linear"),
    ],
)
def test_damaged_fields_of_ngff_are_named(tmp_path: Path, damage: dict[str, str], words: str) -> None:
    write_ngff(tmp_path / "theirs.zarr", smooth_vectors(STRAIGHT, 2), "displacements", last=False)
    group = zarr.open_group(tmp_path / "theirs.zarr", mode="r+")
    ome = dict(group.attrs["ome"])
    ome["coordinateTransformations"][0]["transformations"][1] |= damage
    group.attrs["ome"] = ome
    with pytest.raises(InvalidTransformError, match=words):
        dr.load(tmp_path / "theirs.zarr")


def test_commands_know_fields(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    field, affine = dr.DisplacementField(smooth_vectors(STRAIGHT, 2), STRAIGHT), affine_of(3)
    field.save(tmp_path / "field.mha")
    affine.save(tmp_path / "affine.tfm")
    chain, points = affine @ field, points_in(STRAIGHT)

    def run(*words: object) -> str:
        assert cli(["transform", *map(str, words)]) == 0
        return capsys.readouterr().out

    run("compose", tmp_path / "affine.tfm", tmp_path / "field.mha", "--out", tmp_path / "chain.zarr")
    assert "Composite" in run("show", tmp_path / "chain.zarr")
    run("convert", tmp_path / "chain.zarr", tmp_path / "chain.h5")
    assert np.abs(itk_points(sitk.ReadTransform(str(tmp_path / "chain.h5")), points) - chain(points)).max() < 1e-9
    run("convert", tmp_path / "chain.zarr", tmp_path / "out_1Warp.nii.gz", "--to", "ants")
    run("invert", tmp_path / "out_", "--out", tmp_path / "back.zarr")
    volume = np.zeros((9, 10, 11), np.float32)
    dr.write(volume, tmp_path / "in.zarr", progress=False)
    for name in ("chain.zarr", "out_"):
        plan = ["warp", tmp_path / "in.zarr", tmp_path / "out.zarr", "--pull", tmp_path / name, "--dry-run"]
        assert cli([*map(str, plan)]) == 0
    moved = chain(points)
    near = np.linalg.norm(dr.load(tmp_path / "back.zarr")(moved) - points, axis=1)
    assert np.median(near) < 1e-4
