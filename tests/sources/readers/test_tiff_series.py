"""TIFF: pyramids, several series, pages that do not fit, compressions, and where ImageJ and OME say pixels lie."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

import daskreg as dr
from daskreg.cli import run
from daskreg.errors import MetadataWarning, MissingExtraError, NotAVolumeError, OptionError
from daskreg.geometry import Grid
from daskreg.volumes import grid

RNG = np.random.default_rng(4)
IMAGE = RNG.integers(0, 2**16, (385, 514)).astype("u2")
STACK = RNG.integers(0, 2**16, (9, 23, 31)).astype("u2")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.tif"


def sub_ifds(path: Path, images: list[np.ndarray], **options: Any) -> None:
    with tifffile.TiffWriter(path) as writer:
        writer.write(images[0], subifds=len(images) - 1, tile=(64, 64), **options)
        for image in images[1:]:
            writer.write(image, subfiletype=1, tile=(64, 64), metadata=None)


def overviews(path: Path, images: list[np.ndarray], **options: Any) -> None:
    with tifffile.TiffWriter(path) as writer:
        for k, image in enumerate(images):
            writer.write(image, subfiletype=int(k > 0), **(options if k == 0 else {"metadata": None}))


@pytest.mark.parametrize("write", [sub_ifds, overviews])
@pytest.mark.parametrize("colours", [False, True])
def test_every_level_of_a_pyramid_is_read(path: Path, write: Any, colours: bool) -> None:
    image = np.stack([IMAGE, IMAGE // 2, IMAGE // 3], -1).astype("u1") if colours else IMAGE
    images = [image, image[::2, ::2], image[::4, ::4], image[::8, ::8]]
    write(path, images, metadata=None)
    for level, wanted in enumerate(images):
        volume = dr.open(path, level=level)
        np.testing.assert_array_equal(volume, wanted.transpose(2, 0, 1) if colours else wanted)
        factor = 2**level
        assert grid(volume) == Grid(wanted.shape[:2], factor, (factor - 1) / 2)
    assert dr.open(path, level=-1).shape[-1] == 65


def test_levels_of_ome_have_its_spacing(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    sizes = {"PhysicalSizeX": 0.25, "PhysicalSizeY": 0.5, "PhysicalSizeXUnit": "nm", "PhysicalSizeYUnit": "nm"}
    sub_ifds(path, [IMAGE, IMAGE[:384:2, ::2]], metadata={"axes": "YX", **sizes})
    np.testing.assert_array_equal(dr.open(path), IMAGE)
    assert grid(dr.open(path, level=1)) == Grid((192, 257), (1, 0.5), (0.25, 0.125), unit="nm")


def test_series_is_the_path_inside_the_file(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with tifffile.TiffWriter(path) as writer:
        writer.write(IMAGE)
        writer.write(STACK)
    for series in (0, 1, "1"):
        chosen = dr.open(path, series=series)
        assert chosen.identical(dr.open(f"{path}::/{series}"))
        np.testing.assert_array_equal(chosen, STACK if int(series) else IMAGE)
    for source, match in [(f"{path}::/1", "no path of a whole file"), ([path], "no path"), (STACK, "in memory")]:
        with pytest.raises(OptionError, match=match):
            dr.open(source, series=1)
    with pytest.raises(NotAVolumeError, match="no series '2'"):
        dr.open(path, series=2)
    assert run(["info", str(path), "--series", "1"]) == 0
    assert "9" in capsys.readouterr().out
    dr.write(STACK, path.with_name("a.zarr"), levels=2, progress=False)  # the path of a level
    np.testing.assert_array_equal(dr.open(path.with_name("a.zarr"), series=0), STACK)


def test_a_series_by_its_number(path: Path) -> None:
    with tifffile.TiffWriter(path) as writer:
        writer.write(STACK, photometric="minisblack")
        writer.write(IMAGE, photometric="minisblack")
    with pytest.warns(MetadataWarning, match=r"2 image series: 0, 1; the first is taken; .*a\.tif::/1 names another"):
        np.testing.assert_array_equal(dr.open(path), STACK)
    np.testing.assert_array_equal(dr.open(f"{path}::/0"), STACK)
    np.testing.assert_array_equal(dr.open(f"{path}::/1"), IMAGE)
    with pytest.raises(NotAVolumeError, match="no series 'x'; it holds 0, 1"):
        dr.open(f"{path}::/x")


def test_a_series_of_ome_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as writer:
        for k, name in enumerate(("overview", "detail")):
            sizes = {"PhysicalSizeX": 2.0 - k, "PhysicalSizeY": 2.0 - k}
            writer.write(
                STACK[k : k + 5 + k], photometric="minisblack", metadata={"axes": "ZYX", "Name": name, **sizes}
            )
    detail = dr.open(f"{path}::/detail", unit="um")
    np.testing.assert_array_equal(detail, STACK[1:7])
    assert grid(detail).spacing == (1, 1, 1)
    assert grid(dr.open(f"{path}::/overview", unit="um")).spacing == (1, 2, 2)


@pytest.mark.parametrize("odd", [1, 3, 5, 7])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_a_page_of_another_size_is_named(path: Path, odd: int, byteorder: str) -> None:
    with tifffile.TiffWriter(path, byteorder=byteorder, bigtiff=odd == 5) as writer:
        for k, page in enumerate(STACK):
            writer.write(page[:20] if k == odd else page, metadata=None)
    with pytest.raises(NotAVolumeError, match=rf"page {odd} of 9 has the shape \(20, 31\)"):
        dr.open(path)


def test_pages_that_were_appended_are_slices(path: Path) -> None:
    for page in STACK:
        tifffile.imwrite(path, page, append=True)
    volume = dr.open(path)
    np.testing.assert_array_equal(volume, STACK)
    np.testing.assert_array_equal(volume[4], STACK[4])


@pytest.mark.parametrize("options", [{"compression": "lzw"}, {"compression": "lzw", "predictor": True},
                                     {"compression": "zstd"}, {"compression": "jpeg2000"}])  # fmt: skip
def test_compressions_of_imagecodecs(path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("imagecodecs")
    tifffile.imwrite(path, STACK, photometric="minisblack", **options)
    np.testing.assert_array_equal(dr.open(path), STACK)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(tifffile.TIFF, "DECOMPRESSORS", {})
    with pytest.raises(MissingExtraError, match=r"imagecodecs.*daskreg\[formats\]"):
        dr.open(path)


def test_units_of_single_axes_of_imagej(path: Path) -> None:
    for unit, z in (("\\u03BCm", 0.04), ("nm", 40.0), ("\\u00C5", 400.0)):
        options = {"axes": "ZYX", "spacing": 40.0, "unit": unit, "zunit": "nm"}
        tifffile.imwrite(path, STACK, imagej=True, resolution=(4, 2), metadata=options)
        np.testing.assert_allclose(grid(dr.open(path)).spacing, (z, 0.5, 0.25), rtol=1e-12)


def test_the_origin_of_imagej(path: Path) -> None:
    options = {"axes": "ZYX", "spacing": 3.0, "unit": "um", "xorigin": 10.0, "yorigin": -4.0, "zorigin": 2.0}
    tifffile.imwrite(path, STACK, imagej=True, resolution=(4, 2), metadata=options)
    assert grid(dr.open(path)) == Grid(STACK.shape, (3, 0.5, 0.25), (-6, 2, -2.5), unit="um")
    tifffile.imwrite(path, STACK, imagej=True, resolution=(4, 2), metadata={**options, "spacing": -3.0})
    assert grid(dr.open(path)).spacing == (3, 0.5, 0.25)  # ImageJ takes it without its sign


def ome_with_planes(path: Path, positions: list[dict[str, Any]], **sizes: Any) -> Grid:
    planes: dict[str, list[Any]] = {}
    for position in positions:
        for key, value in position.items():
            planes.setdefault(key, []).append(value)
    metadata = {"axes": "ZYX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5, "Plane": planes, **sizes}
    tifffile.imwrite(path, STACK, photometric="minisblack", metadata=metadata)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dr.errors.PixelUnitWarning)
        return grid(dr.open(path))


def test_positions_of_planes_in_ome(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    lengths = {"PositionXUnit": "mm", "PositionYUnit": "µm", "PositionZUnit": "nm"}
    positions = [{"PositionX": 1.25, "PositionY": -30.0, "PositionZ": 200.0 + 400 * k, **lengths} for k in range(9)]
    placed = ome_with_planes(path, positions, PhysicalSizeZ=0.4)
    np.testing.assert_allclose(placed.origin, (0.2, -30, 1250), rtol=1e-12)
    assert placed.spacing == (0.4, 0.5, 0.5)
    # Without a size along z, the planes' positions say it.
    np.testing.assert_allclose(ome_with_planes(path, positions).spacing, (0.4, 0.5, 0.5), rtol=1e-12)
    down = [{**p, "PositionZ": 5000.0 - 400 * k} for k, p in enumerate(positions)]
    for sizes in ({"PhysicalSizeZ": 0.4}, {}):
        placed = ome_with_planes(path, down, **sizes)
        np.testing.assert_allclose(placed.world((8, 0, 0)), (1.8, -30, 1250), rtol=1e-9)
    with pytest.warns(MetadataWarning, match="PhysicalSizeZ is 3 µm, and the positions of planes are 0.4 µm apart"):
        assert ome_with_planes(path, positions, PhysicalSizeZ=3.0).spacing[0] == 3
    # Without a unit they are relative to the microscope's frame, whatever that is.
    loose = [{k: v for k, v in p.items() if not k.endswith("Unit")} for p in positions]
    assert ome_with_planes(path, loose, PhysicalSizeZ=0.4).origin == (0, 0, 0)
