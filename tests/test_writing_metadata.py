"""`write`: what other readers find in the metadata: windows, colours, attributes, places, versions of OME-Zarr."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import ome_zarr_models.v04
import ome_zarr_models.v05
import pytest
import xarray as xr
import zarr

import daskreg as dr
from daskreg.blocks.record.ledger import Ledger
from daskreg.blocks.record.own_files import foreign_files, unit_counts
from daskreg.errors import MetadataWarning, OptionError
from daskreg.volumes import to_dataarray
from daskreg.writing import verify

pytestmark = pytest.mark.slow
QUIET: dict[str, Any] = {"progress": False}
FLIPS = [(-1, 1, 1), (1, -1, -1), (-1, -1, -1)]


def placed(path: Path, level: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Voxels, scale and translation of a level as a reader finds them that knows OME-Zarr 0.4 and 0.5 alone."""
    group = zarr.open_group(path, mode="r")
    attrs: Any = group.attrs.asdict()
    image = attrs.get("ome", attrs)["multiscales"][0]
    made = {t["type"]: t[t["type"]] for t in image["datasets"][level]["coordinateTransformations"]}
    return group[str(level)][:], np.array(made["scale"]), np.array(made["translation"])


def omero(path: Path) -> dict[str, Any]:
    attrs: Any = zarr.open_group(path, mode="r").attrs.asdict()
    return attrs.get("ome", attrs)["omero"]


@pytest.mark.parametrize("signs", FLIPS)
@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_readers_without_directions_find_voxels_of_nifti_where_nibabel_does(tmp_path, signs, version) -> None:
    """nibabel maps indices i, j, k to RAS; the world here is LPS in the order z, y, x."""
    voxels = np.random.default_rng(3).integers(0, 1000, (9, 14, 11)).astype(np.int16)
    affine = np.diag([*(np.array(signs) * (0.8, 1.5, 2.5)), 1.0])
    affine[:3, 3] = 12.5, -30, 71
    image = nibabel.Nifti1Image(voxels, affine)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, tmp_path / "a.nii")
    dr.write(dr.open(tmp_path / "a.nii"), tmp_path / "a.zarr", levels=2, chunks=4, version=version, **QUIET)
    stored, scale, translation = placed(tmp_path / "a.zarr")
    assert (scale > 0).all()
    assert stored.shape == voxels.shape[::-1]
    for index in np.random.default_rng(0).integers(0, voxels.shape, (40, 3)):
        lps = (affine @ [*index, 1])[:3] * (-1, -1, 1)
        there = (lps[::-1] - translation) / scale
        np.testing.assert_allclose(there, np.rint(there), atol=1e-4)
        assert stored[tuple(np.rint(there).astype(int))] == voxels[tuple(index)]
    again = dr.open(tmp_path / "a.zarr", level=1)
    np.testing.assert_allclose(dr.grid(again).extent[0], dr.grid(dr.open(tmp_path / "a.nii")).extent[0], atol=2.6)


def test_a_head_lies_where_nibabel_puts_it(tmp_path: Path, data: Path) -> None:
    path = data / "volumes3d" / "niivue" / "chris_t1.nii.gz"
    dr.write(dr.open(path), tmp_path / "a.zarr", **QUIET)
    stored, scale, translation = placed(tmp_path / "a.zarr")
    np.testing.assert_allclose(translation + scale * (0, 255, 187), (-77.12, 118.12, 83.12), atol=1e-4)
    voxels = np.asarray(nibabel.load(path).dataobj)
    np.testing.assert_array_equal(stored[:, ::-1, ::-1], voxels.T)


@pytest.mark.parametrize("options", [{"chunks": 5}, {"chunks": (3, 8, 8), "shards": (6, 16, 16)}, {"memory": "3 MiB"}])
def test_reversed_axes_are_the_same_in_any_blocks(tmp_path: Path, options: dict[str, Any]) -> None:
    """Copies, warps and computed volumes."""
    grid = dr.Grid((13, 37, 41), (2, 0.5, 0.5), (10, -3, 4), np.diag([-1, 1, -1]), "um")
    volume = to_dataarray(np.random.default_rng(1).normal(size=grid.shape).astype(np.float32), grid)
    pull = dr.Affine.from_parameters(theta=0.1, ty=1.5, centre=(6, 6))
    for name, array in (("copy", volume), ("warp", dr.warp(dr.open(volume), pull=pull)), ("sum", volume.chunk() + 1)):
        dr.write(array, tmp_path / name, levels=1, **options, **QUIET)
        np.testing.assert_array_equal(placed(tmp_path / name)[0], array.values[::-1, :, ::-1])
        assert dr.write(array, tmp_path / name, levels=1, **options, **QUIET).blocks == 0


def test_windows_come_from_the_voxels_and_leave_few_outside(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = np.stack([rng.normal(900, 60, (6, 50, 60)), rng.gamma(2, 40, (6, 50, 60))]).astype(np.uint16)
    values[:, 0, 0, 0] = 60_000
    volume = xr.DataArray(values, dims=tuple("czyx"), coords={"c": ["DAPI", "GFP"]})
    dr.write(volume, tmp_path / "a.zarr", levels=1, **QUIET)
    channels = omero(tmp_path / "a.zarr")["channels"]
    assert [c["label"] for c in channels] == ["DAPI", "GFP"]
    assert channels[0]["color"] != channels[1]["color"]
    for channel, plane in zip(channels, values, strict=True):
        window = channel["window"]
        outside = np.mean((plane < window["start"]) | (plane > window["end"]))
        assert 0.001 < outside < 0.006
        assert (window["min"], window["max"]) == (plane.min(), plane.max())
    ome_zarr_models.v05.Image.from_zarr(zarr.open_group(tmp_path / "a.zarr", mode="r"))
    assert "windows" not in zarr.open_group(tmp_path / "a.zarr").attrs["daskreg"]


def test_fill_does_not_count_in_a_window_and_zeros_of_the_source_do(tmp_path: Path) -> None:
    """Moved and at rest, an image has one contrast; also in a shift that reaches one side only, and as it is served."""
    values = np.random.default_rng(0).normal(30_000, 1000, (4, 50, 61)).astype(np.uint16)
    volume = xr.DataArray(values, dims=tuple("zyx"))
    moved = dr.warp(volume, push=dr.Affine.translation((0, 0, 13)))
    for name, one in {"raw": volume, "moved": moved}.items():
        dr.write(one, tmp_path / name, levels=1, **QUIET)
    raw, found = (omero(tmp_path / name)["channels"][0]["window"] for name in ("raw", "moved"))
    assert abs(found["start"] - raw["start"]) < 400
    assert (found["min"], raw["start"] > 20_000) == (0, True)
    with dr.serve({"raw": volume, "moved": moved}) as server:
        assert [round(image.window[0], -4) for image in server.images.values()] == [30_000, 30_000]
    drifting = dr.SliceAffines(np.stack([dr.Affine.translation(x=6.0 * k).matrix for k in range(4)]), axis="t")
    moved = dr.warp(volume.rename(z="t"), pull=drifting, fill=0.4)
    dr.write(moved, tmp_path / "drift", levels=1, **QUIET)
    assert abs(omero(tmp_path / "drift")["channels"][0]["window"]["start"] - raw["start"]) < 400


def test_background_of_the_source_counts_in_a_window(tmp_path: Path) -> None:
    """Also where a warp has as its fill the same value, and of labels."""
    rng = np.random.default_rng(0)
    spots = np.where(rng.random((4, 64, 64)) < 0.1, rng.gamma(2, 300, (4, 64, 64)), 0).astype(np.uint16)
    by_one = dr.Affine.translation((0, 0, 1))
    for name, values in {"spots": spots, "labels": rng.choice(np.uint8([0, 3, 7]), spots.shape)}.items():
        volume = xr.DataArray(values, dims=tuple("zyx"))
        for k, one in enumerate((volume, dr.warp(volume, push=by_one, order=0), volume.where(volume.x > 12, 0))):
            dr.write(one, tmp_path / f"{name}{k}", levels=1, **QUIET)
            window = omero(tmp_path / f"{name}{k}")["channels"][0]["window"]
            assert window["start"] == 0
            assert abs(window["end"] - np.percentile(values, 99.825)) < 150


@pytest.mark.parametrize("value", [0, 7, np.nan])
def test_an_image_of_one_value_has_a_window(tmp_path: Path, value: float) -> None:
    dr.write(np.full((20, 30), value, np.float32), tmp_path / "a.zarr", **QUIET)
    window = omero(tmp_path / "a.zarr")["channels"][0]["window"]
    assert window["start"] < window["end"]


def test_an_interrupted_image_gets_its_windows_when_it_is_resumed(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 4000, (60, 70)).astype(np.uint16)

    def stop(done: int, total: int, nbytes: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dr.write(values, tmp_path / "a.zarr", chunks=16, progress=stop)
    assert omero(tmp_path / "a.zarr")["channels"][0]["window"]["end"] == 65535
    dr.write(values, tmp_path / "a.zarr", chunks=16, **QUIET)
    assert omero(tmp_path / "a.zarr")["channels"][0]["window"]["end"] < 4000


def settings() -> dict[str, Any]:
    window = {"min": 0, "max": 4095, "start": 100, "end": 900}
    one = {"active": True, "color": "00FF00", "label": "GFP", "window": window, "family": "linear"}
    two = {"active": False, "color": "FF8000", "label": "mCherry", "coefficient": 1.5}
    return {"channels": [one, two], "rdefs": {"model": "color"}, "name": "cells"}


@pytest.mark.parametrize("version", ["0.4", "0.5", "0.6"])
def test_display_settings_and_attributes_of_the_source_are_kept(tmp_path: Path, version: str) -> None:
    values = np.random.default_rng(0).integers(0, 4000, (2, 5, 40, 50)).astype(np.uint16)
    dr.write(values, tmp_path / "in.zarr", levels=1, **QUIET)
    group = zarr.open_group(tmp_path / "in.zarr")
    group.attrs["ome"] = {**group.attrs["ome"], "omero": settings()}
    group.attrs["sample"] = {"name": "fly", "stages": [1, 2]}
    warped = dr.warp(dr.open(tmp_path / "in.zarr"), pull=dr.Affine.translation(x=3))
    dr.write(warped, tmp_path / "out.zarr", version=version, **QUIET)
    found, wanted = omero(tmp_path / "out.zarr"), settings()
    wanted["channels"][1]["window"] = found["channels"][1]["window"]
    assert found == wanted
    assert found["channels"][1]["window"]["end"] > 3000
    assert zarr.open_group(tmp_path / "out.zarr").attrs["sample"] == {"name": "fly", "stages": [1, 2]}
    assert dr.open(tmp_path / "out.zarr").c.values.tolist() == ["GFP", "mCherry"]
    for name, one in (("open", dr.open(tmp_path / "in.zarr", channel="mCherry")),
                      ("sel", dr.open(tmp_path / "in.zarr").sel(c="mCherry"))):  # fmt: skip
        dr.write(one, tmp_path / name, **QUIET)
        assert [c["color"] for c in omero(tmp_path / name)["channels"]] == ["FF8000"]


def test_labels_stay_labels_and_get_no_windows(tmp_path: Path) -> None:
    dr.write(np.arange(600).reshape(20, 30), tmp_path / "a.zarr", **QUIET)
    group = zarr.open_group(tmp_path / "a.zarr")
    group.attrs["ome"] = {**group.attrs["ome"], "image-label": {}}
    dr.write(dr.open(tmp_path / "a.zarr"), tmp_path / "b.zarr", **QUIET)
    ome = zarr.open_group(tmp_path / "b.zarr").attrs["ome"]
    assert ome["image-label"] == {}
    assert "omero" not in ome


@pytest.mark.parametrize("shape", [(40, 50), (3, 9, 40, 50)])
def test_version_04_is_zarr_v2_that_models_and_zarr_read(tmp_path: Path, shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).integers(0, 999, shape).astype(np.int32)
    path = tmp_path / "a.zarr"
    dr.write(values, path, chunks=16, levels=3, version="0.4", **QUIET)
    group = zarr.open_group(path, mode="r")
    assert group.metadata.zarr_format == 2
    ome_zarr_models.v04.Image.from_zarr(group)
    np.testing.assert_array_equal(group["0"][:], values)
    np.testing.assert_array_equal(dr.open(path).values, values)
    assert verify(path) == []
    ledger = Ledger(path)
    assert list(foreign_files(path, unit_counts(ledger.layout()["facts"]))) == []
    (path / "notes.txt").write_text("mine")
    assert list(foreign_files(path, unit_counts(ledger.layout()["facts"]))) == ["notes.txt"]
    (path / "notes.txt").unlink()
    (path / "1" / ".zarray").unlink()
    assert dr.write(values, path, chunks=16, levels=3, version="0.4", **QUIET).blocks == 0
    np.testing.assert_array_equal(group["1"][:], dr.open(path, level=1).values)
    dr.write(values[..., :20], path, version="0.4", overwrite=True, **QUIET)
    assert not (path / "2").exists()
    with pytest.raises(OptionError, match="has none"):
        dr.write(values, tmp_path / "b.zarr", version="0.4", shards=32, **QUIET)


@pytest.mark.parametrize("lead", [(), (2,)])
def test_version_06_states_the_direction_for_all(tmp_path: Path, lead: tuple[int, ...]) -> None:
    """The oracle follows the matrices of the metadata by hand."""
    turned = dr.Affine.rotation(rx=0.3, ry=-0.2, rz=0.5).linear
    grid = dr.Grid((8, 12, 16), (2, 0.5, 0.5), (10, -3, 4), turned, "um")
    values = np.random.default_rng(0).normal(size=lead + grid.shape)
    path = tmp_path / "a.zarr"
    dr.write(to_dataarray(values, grid, lead=("c",) * len(lead)), path, levels=2, version="0.6", **QUIET)
    ome: Any = zarr.open_group(path, mode="r").attrs["ome"]
    image = ome["multiscales"][0]
    for level in range(2):
        [whole] = image["datasets"][level]["coordinateTransformations"]
        scale, translation = (np.array(t[t["type"]]) for t in whole["transformations"])
        [affine] = image["coordinateTransformations"]
        assert (affine["input"], affine["output"]) == (whole["output"], {"name": "world"})
        matrix = np.array(affine["affine"])
        index = np.array([*([1] * len(lead)), 3, 2, 1])
        world = matrix[:, :-1] @ (translation + scale * index) + matrix[:, -1]
        opened = dr.open(path, level=level)
        np.testing.assert_allclose(world[len(lead) :], dr.grid(opened).world(index[len(lead) :]), atol=1e-9)
        assert not dr.grid(dr.open(path, level=level, coordinate_system="intrinsic")).same(dr.grid(opened))
    assert dr.grid(dr.open(path)).same(grid)
    with pytest.warns(MetadataWarning, match="version='0.6' stores it"):
        dr.write(to_dataarray(values, grid, lead=("c",) * len(lead)), tmp_path / "b.zarr", **QUIET)


def test_thousands_of_chunks_are_gathered_in_shards(tmp_path: Path) -> None:
    layout = dr.plan(np.zeros((72, 72, 72), np.uint8), tmp_path / "a.zarr", chunks=4, levels=1).levels[0].layout
    assert layout.files <= 4096 < 18**3
    assert layout.shards is not None
    few = dr.plan(np.zeros((32, 32, 32), np.uint8), tmp_path / "a.zarr", chunks=4, levels=1).levels[0].layout
    assert few.shards is None


def test_metadata_are_json_whatever_the_attributes_are(tmp_path: Path) -> None:
    attrs = {"a": np.float32(1.5), "b": np.arange(3), "when": object(), "c": float("nan"), "ome": {}, "d": "text"}
    volume = xr.DataArray(np.zeros((20, 30)), dims=("y", "x"), attrs=attrs)
    dr.write(volume, tmp_path / "a.zarr", **QUIET)
    stored = json.loads((tmp_path / "a.zarr" / "zarr.json").read_text())["attributes"]
    assert {k: v for k, v in stored.items() if k not in ("ome", "daskreg")} == {"a": 1.5, "b": [0, 1, 2], "d": "text"}
    assert "multiscales" in stored["ome"]


def test_numbers_that_json_has_not_do_not_get_into_metadata(tmp_path: Path) -> None:
    array = xr.DataArray(np.ones((8, 9), np.float32), dims=("y", "x"))
    array.attrs["a"] = json.dumps([[float("nan"), 1.0]])
    array.attrs["omero"] = '{"channels": [{"label": "a", "gain": NaN}]}'
    dr.write(array, tmp_path / "a.zarr", levels=1, progress=False)

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    for file in tmp_path.rglob("zarr.json"):
        json.loads(file.read_text(), parse_constant=refuse)
