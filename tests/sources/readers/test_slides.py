"""Whole slides as TIFF: pyramids with the pixel size as scanners state it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

import daskreg as dr
from daskreg.errors import MetadataWarning, OptionError

RNG = np.random.default_rng(4)
SCAN = RNG.integers(0, 255, (333, 451, 3)).astype(np.uint8)
APERIO = "Aperio Image Library v12\n451x333 [0,0 451x333] (64x64) JPEG/RGB Q=70|AppMag = 20|MPP = 0.4990|Left = 25.69"


def slide(path: Path, description: str, **options: Any) -> Path:
    """Pages as Aperio has them: the scan, a thumbnail, then the coarser levels."""
    tiled: dict[str, Any] = {"photometric": "rgb", "metadata": None} | options
    with tifffile.TiffWriter(path) as file:
        file.write(SCAN, tile=(64, 64), description=description, **tiled)
        file.write(SCAN[::8, ::8], description="Aperio Image Library v12\nthumbnail", **tiled)
        for step in (4, 16):
            file.write(SCAN[::step, ::step], tile=(64, 64), description="Aperio Image Library v12\nlevel", **tiled)
    return path


def test_levels_and_pixel_size_of_an_aperio_slide(tmp_path: Path) -> None:
    path = slide(tmp_path / "a.svs", APERIO)
    finest = dr.open(path)
    assert (finest.dims, finest.shape) == (("c", "y", "x"), (3, 333, 451))
    assert dr.grid(finest).spacing == (0.499, 0.499)
    assert dr.grid(finest).unit == "micrometer"
    np.testing.assert_array_equal(finest, SCAN.transpose(2, 0, 1))
    for level, step in ((1, 4), (2, 16), (-1, 16)):
        coarse = dr.open(path, level=level)
        np.testing.assert_array_equal(coarse, SCAN[::step, ::step].transpose(2, 0, 1))
        np.testing.assert_allclose(dr.grid(coarse).spacing, 0.499 * step)
        np.testing.assert_allclose(dr.grid(coarse).origin, 0.499 * (step - 1) / 2)
    with pytest.raises(OptionError, match="which has 3"):
        dr.open(path, level=3)


def test_the_thumbnail_is_a_series_without_a_pixel_size(tmp_path: Path) -> None:
    thumbnail = dr.open(slide(tmp_path / "a.svs", APERIO), series="Thumbnail")
    assert (thumbnail.shape, dr.grid(thumbnail).unit) == ((3, 42, 57), "pixel")


def test_a_slide_that_states_no_size_is_in_pixels(tmp_path: Path) -> None:
    volume = dr.open(slide(tmp_path / "a.svs", APERIO.replace("MPP", "PPM"), resolution=(72, 72)))
    assert (dr.grid(volume).spacing, dr.grid(volume).unit) == ((1, 1), "pixel")


def test_the_resolution_counts_in_files_of_hamamatsu(tmp_path: Path) -> None:
    for name, tags, expected in (
        ("a.tif", [(65420, "I", 1, 1, True), (271, "s", 0, "Hamamatsu", True)], (0.5, 0.25)),
        ("b.tif", [], (1, 1)),
    ):
        tifffile.imwrite(
            tmp_path / name,
            SCAN,
            resolution=(40_000, 20_000),
            resolutionunit="CENTIMETER",
            extratags=tags,
            metadata=None,
        )
        assert dr.grid(dr.open(tmp_path / name)).spacing == pytest.approx(expected)


def test_images_of_a_leica_slide(tmp_path: Path) -> None:
    """An overview, and a scan of two levels, as the XML in the first page lists them."""
    xml = "<?xml version='1.0'?><scn><collection>{}</collection></scn>"
    levels = '<dimension r="0" ifd="1"/><dimension r="1" ifd="2"/>'
    images = "".join(
        f'<image name="{name}"><pixels>{pages}</pixels></image>'
        for name, pages in (("overview", '<dimension r="0" ifd="0"/>'), ("scan", levels))
    )
    with tifffile.TiffWriter(tmp_path / "a.scn") as file:
        for image, per_cm, text in (
            (SCAN[::9, ::9], 500, xml.format(images)),
            (SCAN, 20_000, ""),
            (SCAN[::4, ::4], 5000, ""),
        ):
            file.write(
                image, tile=(64, 64), description=text, metadata=None, photometric="rgb",
                resolution=(per_cm, per_cm), resolutionunit="CENTIMETER",
            )  # fmt: skip
    with pytest.warns(MetadataWarning, match=r"0 \(overview\), 1 \(scan\)"):
        assert dr.grid(dr.open(tmp_path / "a.scn")).spacing == (20, 20)
    for level, step in ((0, 1), (1, 4)):
        scan = dr.open(tmp_path / "a.scn", series="scan", level=level)
        np.testing.assert_array_equal(scan, SCAN[::step, ::step].transpose(2, 0, 1))
        assert dr.grid(scan).spacing == (0.5 * step, 0.5 * step)


def test_a_real_slide(data: Path) -> None:
    """Of openslide-python's tests, a crop of 16 x 16 pixels."""
    path = data / "microscopy" / "small.svs"
    if not path.is_file():
        pytest.skip("no slide among the real data")
    volume = dr.open(path)
    with tifffile.TiffFile(path) as file:
        np.testing.assert_array_equal(volume, file.asarray().transpose(2, 0, 1))
        assert "MPP = 0.4990" in file.pages[0].description
    assert dr.grid(volume).spacing == (0.499, 0.499)
