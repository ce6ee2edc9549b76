"""Sequences of files: a folder, a pattern or a list, in natural order, as slices or as times."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from reading import boxes_agree

import daskreg as dr
from daskreg.errors import DaskregError, MetadataWarning, NotAVolumeError
from daskreg.geometry import Grid
from daskreg.sources.sequences import natural_key
from daskreg.volumes import volume_of

VALUES = np.random.default_rng(6).integers(0, 2**16, (13, 21, 34)).astype("u2")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "scan"
    path.mkdir()
    for k, image in enumerate(VALUES):  # s0 ... s12: not in the order of the alphabet
        tifffile.imwrite(path / f"s{k}.tif", image)
    (path / "notes.txt").write_text("not an image")
    (path / ".hidden.tif").write_text("neither is this")
    return path


def test_natural_order() -> None:
    names = ["b10.tif", "b2.tif", "a.tif", "b2a.tif", "10", "9", "b02c"]
    assert sorted(names, key=natural_key) == ["9", "10", "a.tif", "b2.tif", "b2a.tif", "b02c", "b10.tif"]


@pytest.mark.slow
def test_a_folder_a_pattern_and_a_list(folder: Path) -> None:
    for source in (folder, str(folder), f"{folder}/*.tif", folder / "s*.tif"):
        volume = dr.open(source)
        assert dr.grid(volume) == Grid(VALUES.shape)
        boxes_agree(volume, VALUES)
    assert volume_of(volume).source.chunks == (1, 21, 34)
    np.testing.assert_array_equal(dr.open(f"{folder}/s1?.tif"), VALUES[10:])
    listed = [folder / "s3.tif", str(folder / "s1.tif"), folder / "s12.tif"]
    boxes_agree(dr.open(listed), VALUES[[3, 1, 12]])
    boxes_agree(dr.open(listed[:1]), VALUES[3:4])
    assert dr.grid(dr.open(folder, spacing=(3, 0.5, 0.5), unit="um")) == Grid(VALUES.shape, (3, 0.5, 0.5), unit="um")


def test_a_sequence_is_written_and_warped(folder: Path, tmp_path: Path) -> None:
    dr.write(dr.open(folder), tmp_path / "a.zarr", levels=1, progress=False, client=False)
    np.testing.assert_array_equal(dr.open(tmp_path / "a.zarr"), VALUES)
    warped = dr.warp(dr.open(folder), pull=dr.Affine.translation(z=2, y=0, x=5))
    np.testing.assert_array_equal(warped[:11, :, :29], VALUES[2:, :, 5:])


@pytest.mark.slow
def test_an_image_that_changes_redoes_its_blocks(folder: Path, tmp_path: Path) -> None:
    options = {"levels": 1, "progress": False, "client": False}
    dr.write(dr.open(folder), tmp_path / "a.zarr", **options)
    tifffile.imwrite(folder / "s7.tif", VALUES[8])
    with pytest.raises(DaskregError, match="changed"):
        dr.write(dr.open(folder), tmp_path / "a.zarr", **options)
    dr.write(dr.open(folder), tmp_path / "a.zarr", resume="changed", **options)
    np.testing.assert_array_equal(dr.open(tmp_path / "a.zarr")[7], VALUES[8])


def test_the_image_that_differs_is_named(folder: Path) -> None:
    tifffile.imwrite(folder / "s4.tif", VALUES[4, :20])
    with pytest.raises(NotAVolumeError, match=r"s4\.tif has {'y': 20, 'x': 34} of uint16.*the others.*'y': 21"):
        dr.open(folder)
    tifffile.imwrite(folder / "s4.tif", VALUES[4].astype("f4"))
    with pytest.raises(NotAVolumeError, match=r"s4\.tif .*float32"):
        dr.open(folder)


def test_an_image_that_vanishes_is_named(folder: Path) -> None:
    volume = dr.open(folder)
    (folder / "s12.tif").unlink()
    with pytest.raises(DaskregError):
        volume[12].compute()


def test_colours_and_volumes(tmp_path: Path) -> None:
    sitk = pytest.importorskip("SimpleITK")
    colours = np.random.default_rng(7).integers(0, 255, (3, 9, 11, 3)).astype("u1")
    for k, image in enumerate(colours):
        sitk.WriteImage(sitk.GetImageFromArray(image, isVector=True), str(tmp_path / f"c{k}.png"))
    volume = dr.open(tmp_path / "c*.png")
    assert volume.dims == ("c", "z", "y", "x")
    boxes_agree(volume, colours.transpose(3, 0, 1, 2))
    for k in range(4):
        image = sitk.GetImageFromArray(VALUES[k : k + 5])
        image.SetSpacing((0.5, 0.25, 2.0))
        sitk.WriteImage(image, str(tmp_path / f"t{k}.nrrd"))
    times = dr.open(tmp_path / "t*.nrrd")
    assert times.dims == ("t", "z", "y", "x")
    assert dr.grid(times).spacing == (2, 0.25, 0.5)
    boxes_agree(times, np.stack([VALUES[k : k + 5] for k in range(4)]))
    with pytest.raises(NotAVolumeError, match=r"several kinds \(4 \.nrrd, 3 \.png\): name one kind, such as"):
        dr.open(tmp_path)


def test_the_distance_of_slices_is_asked_for(tmp_path: Path) -> None:
    for k in range(3):
        metadata = {"unit": "um"}
        tifffile.imwrite(tmp_path / f"{k}.tif", VALUES[k], imagej=True, resolution=(4, 2), metadata=metadata)
    with pytest.warns(MetadataWarning, match="distance of the slices is not stated: 1 micrometer is taken"):
        assert dr.grid(dr.open(tmp_path)).spacing == (1, 0.5, 0.25)
    assert dr.grid(dr.open(tmp_path, spacing={"z": 40})).spacing == (40, 0.5, 0.25)


def test_what_is_no_sequence(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(NotAVolumeError, match="no files"):
        dr.open(folder / "*.png")
    with pytest.raises(NotAVolumeError, match="no files .* that can be read: .*No such file"):
        dr.open(tmp_path / "nowhere" / "*.png")
    with pytest.raises(NotAVolumeError, match="not a Zarr array or group"):
        dr.open(tmp_path)
    (tmp_path / "other").mkdir()
    tifffile.imwrite(tmp_path / "other" / "a.tif", VALUES[0])
    with pytest.raises(NotAVolumeError, match="in one folder"):
        dr.open([folder / "s1.tif", tmp_path / "other" / "a.tif"])
    with pytest.raises(NotAVolumeError, match="last part"):
        dr.open(tmp_path / "sc*" / "*.tif")
