"""What ITK reads: voxels and places as SimpleITK has them, boxes without reading the whole."""

from __future__ import annotations

import bz2
import locale
import sys

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from distributed import Client
from reading import agrees_with_itk, boxes_agree, turned

import daskreg as dr
from daskreg.errors import ChunkReadError, MemoryBudgetError, MissingExtraError, NotAVolumeError, PixelUnitWarning
from daskreg.geometry import Grid
from daskreg.sources import handles
from daskreg.sources.readers import itk, mapped
from daskreg.sources.readers.mapped import MappedArray
from daskreg.volumes import grid, volume_of

RNG = np.random.default_rng(1)
VALUES = RNG.integers(-999, 999, (5, 6, 7)).astype("i2")
VECTORS = RNG.random((5, 6, 7, 3)).astype("f4")


def written(path, values=VALUES, *, vectors=False, packed=False, oblique=True):
    image = sitk.GetImageFromArray(values, isVector=vectors)
    if image.GetDimension() == 3:
        matrix = turned()
        spacing = np.linalg.norm(matrix[:3, :3], axis=0)
        image.SetSpacing(spacing.tolist())
        image.SetOrigin(matrix[:3, 3].tolist())
        if oblique:
            image.SetDirection((matrix[:3, :3] / spacing).ravel().tolist())
    sitk.WriteImage(image, str(path), packed)
    return path


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("suffix", [".nrrd", ".nhdr", ".mha", ".mhd"])
def test_an_oblique_volume(tmp_path, suffix, packed):
    path = written(tmp_path / f"a{suffix}", packed=packed)
    volume = dr.open(path)
    assert (volume.dims, volume.dtype, volume.name) == (("z", "y", "x"), np.int16, "a")
    assert grid(volume).unit == "millimeter"
    agrees_with_itk(path, volume)
    boxes_agree(volume, VALUES)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".gipl"])
def test_a_volume_along_the_axes(tmp_path, suffix):
    values = VALUES if suffix != ".gipl" else VALUES.astype("u2")
    path = written(tmp_path / f"a{suffix}", values, oblique=False)
    volume = dr.open(path)
    assert "direction" not in volume.attrs
    agrees_with_itk(path, volume)
    boxes_agree(volume, values)
    np.testing.assert_allclose(volume.x.values, -12 + 0.7 * np.arange(7), atol=1e-6)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_vectors_are_channels(tmp_path, suffix, packed):
    path = written(tmp_path / f"a{suffix}", VECTORS, vectors=True, packed=packed)
    volume = dr.open(path)
    assert volume.dims == ("c", "z", "y", "x")
    agrees_with_itk(path, volume)
    boxes_agree(volume, VECTORS.transpose(3, 0, 1, 2))
    boxes_agree(dr.open(path, channel=1), VECTORS[..., 1])


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_a_fourth_dimension_is_time(tmp_path, suffix):
    values = RNG.random((3, 5, 6, 7)).astype("f4")
    image = sitk.GetImageFromArray(values, isVector=False)
    image.SetSpacing((1, 2, 3, 0.5))
    image.SetOrigin((4, 5, 6, 10))
    sitk.WriteImage(image, str(tmp_path / f"a{suffix}"))
    volume = dr.open(tmp_path / f"a{suffix}")
    assert volume.dims == ("t", "z", "y", "x")
    np.testing.assert_allclose(volume.t, [10, 10.5, 11])
    assert grid(volume) == Grid((5, 6, 7), (3, 2, 1), (6, 5, 4), unit="mm")
    boxes_agree(volume, values)
    boxes_agree(dr.open(tmp_path / f"a{suffix}", time=1), values[1])


def test_images(tmp_path):
    flat = RNG.integers(0, 255, (20, 30)).astype("u1")
    colours = RNG.integers(0, 255, (20, 30, 3)).astype("u1")
    image = dr.open(written(tmp_path / "flat.png", flat))
    assert grid(image) == Grid((20, 30))
    boxes_agree(image, flat)
    for suffix in (".png", ".bmp"):
        image = dr.open(written(tmp_path / f"rgb{suffix}", colours, vectors=True))
        assert image.dims == ("c", "y", "x")
        assert list(image.c.values) == ["red", "green", "blue"]
        boxes_agree(image, colours.transpose(2, 0, 1))


def test_a_slice_of_dicom(tmp_path):
    path = written(tmp_path / "a.dcm", VALUES[:1].astype("u2"), oblique=False)
    volume = dr.open(path)
    assert volume.shape == (1, 6, 7)
    agrees_with_itk(path, volume)
    boxes_agree(volume, VALUES[:1].astype("u2"))


def test_the_locale_is_left_alone(tmp_path):
    """Some of ITK's readers set it for the whole process, and then no page in UTF-8 can be read."""
    before = locale.setlocale(locale.LC_ALL)
    for suffix in (".nrrd", ".nhdr", ".mha", ".mhd", ".gipl", ".dcm"):
        dr.open(written(tmp_path / f"a{suffix}", VALUES[:1].astype("u2"), packed=suffix == ".mha")).values  # noqa: B018
        assert locale.setlocale(locale.LC_ALL) == before, suffix


def test_the_unit_of_a_nrrd(tmp_path):
    path = written(tmp_path / "a.nrrd")
    path.write_bytes(path.read_bytes().replace(b"\nkinds:", b'\nspace units: "um" "um" "um"\nkinds:', 1))
    assert grid(dr.open(path)).unit == "micrometer"
    boxes_agree(dr.open(path), VALUES)
    assert grid(dr.open(path, unit="nm")).unit == "nanometer"


@pytest.mark.parametrize(
    ("units", "factors", "unit"),
    [('"mm" "mm" "um"', (1e-3, 1, 1), "mm"), ('"nm" "um" "um"', (1000, 1000, 1), "nm"),
     ('"um" "um" "um"', (1, 1, 1), "um")],
)  # fmt: skip
def test_a_unit_for_each_axis_of_a_nrrd(tmp_path, units, factors, unit):
    path = written(tmp_path / "a.nrrd", oblique=False)
    plain = grid(dr.open(path))
    path.write_bytes(path.read_bytes().replace(b"\nkinds:", f"\nspace units: {units}\nkinds:".encode(), 1))
    converted = grid(dr.open(path))
    assert converted.unit == Grid((1,), unit=unit).unit
    np.testing.assert_allclose(converted.spacing, np.multiply(plain.spacing, factors), rtol=1e-12)
    np.testing.assert_allclose(converted.origin, np.multiply(plain.origin, factors), rtol=1e-12)
    boxes_agree(dr.open(path), VALUES)


def test_a_unit_for_one_axis_of_a_nrrd(tmp_path):
    path = written(tmp_path / "a.nrrd")
    path.write_bytes(path.read_bytes().replace(b"\nkinds:", b'\nspace units: "um" "" ""\nkinds:', 1))
    with pytest.warns(PixelUnitWarning, match="pixels are taken as micrometer"):
        assert grid(dr.open(path)).unit == "micrometer"


def test_other_encodings_of_nrrd(tmp_path):
    """Big-endian and bzip2 are mapped, text is left to ITK."""
    raw = written(tmp_path / "a.nrrd").read_bytes()
    head, _, body = raw.partition(b"\n\n")
    big = tmp_path / "big.nrrd"
    big.write_bytes(head.replace(b"little", b"big") + b"\n\n" + VALUES.astype(">i2").tobytes())
    packed = tmp_path / "packed.nrrd"
    packed.write_bytes(head.replace(b"encoding: raw", b"encoding: bzip2") + b"\n\n" + bz2.compress(body))
    text = tmp_path / "text.nrrd"
    text.write_bytes(
        head.replace(b"encoding: raw", b"encoding: ascii") + b"\n\n" + " ".join(map(str, VALUES.ravel())).encode()
    )
    for path in (big, packed, text):
        boxes_agree(dr.open(path), VALUES)


def test_boxes_are_read_without_the_rest(tmp_path, monkeypatch):
    """Uncompressed files are never read whole, not even for the first box."""
    monkeypatch.setattr(itk, "moved_to_disk", None)
    for suffix in (".mha", ".mhd", ".nrrd", ".nhdr"):
        boxes_agree(dr.open(written(tmp_path / f"a{suffix}", oblique=False)), VALUES)


def test_what_must_be_read_whole_is_refused_where_it_does_not_fit(tmp_path, monkeypatch):
    volume = dr.open(written(tmp_path / "a.mha", packed=True))
    monkeypatch.setattr(mapped, "available_memory", lambda: 100)
    with pytest.raises(MemoryBudgetError, match=r"a\.mha is compressed .* OME-Zarr"):
        volume.values  # noqa: B018


@pytest.mark.slow
def test_a_worker_keeps_to_its_limit(tmp_path):
    """A process that Dask would kill is told before."""
    volume = dr.open(written(tmp_path / "a.mha", packed=True))
    options = {"processes": False, "n_workers": 1, "dashboard_address": ":0"}
    with Client(**options, memory_limit="10 MB") as client, pytest.raises(MemoryBudgetError, match="compressed"):
        client.compute(volume.data).result()
    handles.forget()
    with Client(**options) as client:
        np.testing.assert_array_equal(client.compute(volume.data).result(), VALUES)


def test_what_cannot_be_read(tmp_path, monkeypatch):
    (tmp_path / "a.mha").write_bytes(b"ObjectType = Nothing")
    with pytest.raises(NotAVolumeError, match=r"a\.mha is not a MetaImage file that can be read"):
        dr.open(tmp_path / "a.mha")
    path = written(tmp_path / "b.mhd")
    volume = dr.open(path)
    with (tmp_path / "b.raw").open("r+b") as file:
        file.truncate(100)
    handles.forget()
    with pytest.raises(ChunkReadError, match=r"b\.mhd"):
        volume.values  # noqa: B018
    cut = written(tmp_path / "c.nrrd")
    cut.write_bytes(cut.read_bytes()[:-10])
    with pytest.raises(ChunkReadError, match="shorter than its header"):
        dr.open(cut).values  # noqa: B018
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    with pytest.raises(MissingExtraError, match="SimpleITK is not installed"):
        dr.open(path)


def test_a_changed_raw_file_changes_the_fingerprint(tmp_path):
    path = written(tmp_path / "a.mhd")
    before = volume_of(dr.open(path)).source.fingerprint()
    (tmp_path / "a.raw").write_bytes(VALUES[::-1].tobytes() + b"x")
    assert volume_of(dr.open(path)).source.fingerprint() != before


REAL = (
    "volumes3d/niivue/FLAIR.nrrd",
    "volumes3d/lung_landmarks/3DCT_lung_baseline_small.mha",
    "images2d/ct_head/CT_2D_head_fixed.mha",
    "images2d/ct_head/CT_2D_head_fixed_mask.mha",
    "transforms/elastix/2D_2x2_square_object_at_(1,3).mhd",
    "transforms/simpleitk_xforms/bspline_ceoff0.mha",
)


@pytest.mark.parametrize("name", REAL)
def test_real_files(data, name):
    volume = dr.open(data / name)
    agrees_with_itk(data / name, volume)
    boxes_agree(volume, sitk.GetArrayFromImage(sitk.ReadImage(str(data / name))))


def test_one_volume_in_two_formats(data):
    """Compressed NRRD is mapped once unpacked; the same voxels at the same places as the NIfTI."""
    a, b = (dr.open(data / "volumes3d/niivue" / f"FLAIR.{s}") for s in ("nrrd", "nii.gz"))
    assert isinstance(handles.opened("itk", volume_of(a).source.path).handle, MappedArray)
    assert grid(a).same(grid(b), tolerance=1e-4)
    np.testing.assert_array_equal(a.values, b.values)


@pytest.mark.parametrize("kind", [b"sCAL", b"tEXt", b"IDAT"])
def test_a_png_whose_chunks_state_more_than_the_file_holds(tmp_path, kind):
    path = tmp_path / "a.png"
    sitk.WriteImage(sitk.GetImageFromArray(np.arange(35, dtype=np.uint8).reshape(5, 7)), path)
    whole = path.read_bytes()
    path.write_bytes(whole[:33] + (2**31 - 1).to_bytes(4, "big") + kind + whole[33:])
    with pytest.raises(NotAVolumeError, match=f"damaged: its b'{kind.decode()}' ends at byte"):
        dr.open(path)
    path.write_bytes(whole + b"what follows the end")
    assert dr.open(path).values[4, 6] == 34
