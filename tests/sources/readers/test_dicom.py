"""DICOM series, against SimpleITK's reader of series: real ones that pydicom brings along, and made ones."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import daskreg as dr
from daskreg.cli import run
from daskreg.errors import GridError, MetadataWarning, NotAVolumeError, OptionError

pydicom = pytest.importorskip("pydicom")
sitk = pytest.importorskip("SimpleITK")

pytestmark = pytest.mark.slow

REAL = Path(pydicom.__file__).parent / "data" / "test_files"
CT = REAL / "dicomdirtests" / "98892001" / "CT5N"
RNG = np.random.default_rng(3)
VOXELS = RNG.integers(0, 4096, (5, 8, 11)).astype(np.uint16)
UID = "1.2.826.0.1.3680043.8.498."


def agrees_with_itk(volume: Any, folder: Path, series: str = "") -> None:
    """Voxels, and where the corners lie."""
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder), series))
    image = reader.Execute()
    wanted = sitk.GetArrayFromImage(image)
    np.testing.assert_allclose(volume.values, wanted, rtol=1e-6, atol=1e-6)
    grid = dr.grid(volume)
    assert grid.unit == "millimeter"
    for index in np.ndindex(2, 2, 2):
        corner = tuple(int(k * (n - 1)) for k, n in zip(index, grid.shape, strict=True))
        expected = image.TransformContinuousIndexToPhysicalPoint([float(k) for k in corner[::-1]])
        np.testing.assert_allclose(grid.world(corner), expected[::-1], atol=2e-4)


def written(
    folder: Path,
    values: Any = VOXELS,
    *,
    direction: Any = None,
    positions: Any = None,
    series: str = "1",
    number: int = 1,
    **elements: Any,
) -> list[Path]:
    """Files of a series, numbered and named in the opposite order of their positions.

    Args:
        direction: (3, 3), columns are the directions of x, y and z.
        positions: of the slices along z, in mm.
    """
    folder.mkdir(exist_ok=True)
    turn = np.eye(3) if direction is None else np.asarray(direction)
    along = np.arange(len(values)) * 2.5 if positions is None else positions
    files = []
    for k, (plane, z) in enumerate(zip(values, along, strict=True)):
        data = pydicom.Dataset()
        data.file_meta = pydicom.dataset.FileMetaDataset()
        data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = pydicom.uid.CTImageStorage
        data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = f"{UID}{series}.{k}"
        data.SeriesInstanceUID, data.SeriesNumber, data.InstanceNumber = f"{UID}{series}", number, len(values) - k
        data.StudyInstanceUID, data.SeriesDescription, data.Modality = f"{UID}9", f"series {series}", "CT"
        data.Rows, data.Columns, data.SamplesPerPixel = *plane.shape, 1
        data.PhotometricInterpretation = "MONOCHROME2"
        data.BitsAllocated = data.BitsStored = 8 * plane.dtype.itemsize
        data.HighBit, data.PixelRepresentation = data.BitsStored - 1, int(plane.dtype.kind == "i")
        data.PixelSpacing = [0.75, 0.5]  # rows, columns
        data.ImageOrientationPatient = [*turn[:, 0], *turn[:, 1]]
        data.ImagePositionPatient = list(np.array([-10.0, 25.0, 100.0]) + turn[:, 2] * z)
        for name, value in elements.items():
            setattr(data, name, value[k] if isinstance(value, list) else value)
        data.PixelData = plane.tobytes()
        files.append(folder / f"{series}_{len(values) - k}.dcm")
        data.save_as(files[-1], enforce_file_format=True)
    return files


def rotation(axis: Any, angle: float) -> Any:
    from scipy.spatial.transform import Rotation

    return Rotation.from_rotvec(np.asarray(axis) / np.linalg.norm(axis) * angle).as_matrix()


def test_a_real_series() -> None:
    volume = dr.open(CT)
    assert volume.shape == (5, 16, 16)
    assert volume.dtype == np.int32  # as ITK has them: 16 bits less 1024
    assert float(volume.values.min()) < 0  # rescaled
    agrees_with_itk(volume, CT)
    np.testing.assert_array_equal(volume[3, 2:9, 5], volume.values[3, 2:9, 5])
    files = sorted(CT.iterdir(), reverse=True)
    np.testing.assert_array_equal(dr.open(files[1:4]), volume[1:4])


def test_a_real_pair_of_slices(tmp_path: Path) -> None:
    import nibabel

    for name in ("0.dcm", "1.dcm"):
        shutil.copy(Path(nibabel.__file__).parent / "tests" / "data" / name, tmp_path)
    with pytest.warns(MetadataWarning, match="shears the volume"):  # by 0.3 degrees
        volume = dr.open(tmp_path)
    header = dr.Affine(volume.attrs["header_from_world"], unit="mm")
    for k in (0, 1):
        stated = pydicom.dcmread(tmp_path / f"{k}.dcm")
        np.testing.assert_allclose(
            header(dr.grid(volume).world((k, 0, 0))), stated.ImagePositionPatient[::-1], atol=1e-6
        )
        np.testing.assert_array_equal(volume[k], stated.pixel_array)


@pytest.mark.parametrize(
    "direction",
    [
        np.eye(3),
        np.diag([-1, -1, 1]),
        rotation([1, 0, 0], np.pi / 2),
        rotation([1, 2, 3], 0.4),
        rotation([3, -1, 1], 2.2),
    ],
)
@pytest.mark.parametrize("dtype", ["u1", "i2", "u2"])
def test_directions(tmp_path: Path, direction: Any, dtype: str) -> None:
    values = (VOXELS - 100 if dtype == "i2" else VOXELS).astype(dtype)
    written(tmp_path / "ct", values, direction=np.round(direction, 12))
    volume = dr.open(tmp_path / "ct")
    np.testing.assert_array_equal(volume, values)
    np.testing.assert_allclose(dr.grid(volume).spacing, (2.5, 0.75, 0.5))
    agrees_with_itk(volume, tmp_path / "ct")


def test_files_without_suffix_among_others(tmp_path: Path) -> None:
    for k, file in enumerate(written(tmp_path)):
        file.rename(tmp_path / f"IM{(k * 2) % 5}")
    (tmp_path / "readme.txt").write_text("no image")
    shutil.copy(REAL / "rtplan.dcm", tmp_path / "plan")  # DICOM, and no image
    np.testing.assert_array_equal(dr.open(tmp_path), VOXELS)


@pytest.mark.parametrize(
    ("slope", "intercept", "dtype"),
    [
        ("1", "-1024", np.int32),
        ("2", "0", np.int32),
        ("0.5", "3", np.float32),
        (["1", "1", "2", "1", "3"], "0", np.int32),
    ],
)
def test_rescaled_values(tmp_path: Path, slope: Any, intercept: str, dtype: Any) -> None:
    written(tmp_path, RescaleSlope=slope, RescaleIntercept=intercept)
    volume = dr.open(tmp_path)
    slopes = np.array([float(s) for s in slope] if isinstance(slope, list) else [float(slope)] * 5)
    np.testing.assert_array_equal(volume, VOXELS * slopes[:, None, None] + float(intercept))
    assert volume.dtype == dtype
    if not isinstance(slope, list):  # ITK takes the first slice's for all
        agrees_with_itk(volume, tmp_path)


def test_bits_above_the_stored_ones_do_not_count(tmp_path: Path) -> None:
    written(tmp_path, VOXELS | 0x8000, BitsStored=12, HighBit=11, RescaleIntercept="-1024", RescaleSlope="1")
    volume = dr.open(tmp_path)
    assert volume.dtype == np.int16
    np.testing.assert_array_equal(volume, VOXELS.astype(int) - 1024)
    agrees_with_itk(volume, tmp_path)


def test_a_tilted_gantry_is_a_shear(tmp_path: Path) -> None:
    tilt = np.eye(3)
    tilt[:, 2] = (0, 0.3, 1)
    written(tmp_path, direction=tilt)
    with pytest.warns(MetadataWarning, match="shears the volume"):
        volume = dr.open(tmp_path)
    header = dr.Affine(volume.attrs["header_from_world"], unit="mm")
    corner = header(dr.grid(volume).world((4, 7, 10)))
    np.testing.assert_allclose(corner, (110, 25 + 0.75 * 7 + 3, -10 + 0.5 * 10), atol=1e-6)


@pytest.mark.parametrize(
    ("positions", "match"),
    [
        ([0, 2.5, 5, 12.5, 15], r"missing.*2 between 1_3\.dcm and 1_2\.dcm"),
        ([0, 5, 7.5, 10, 12.5], r"missing.*1 between 1_5\.dcm and 1_4\.dcm"),
        ([0, 2.5, 5, 7.5, 11], r"not evenly spaced: 1_2\.dcm and 1_1\.dcm are 3\.5 mm apart, most others 2\.5"),
        ([0, 2.5, 2.5, 5, 7.5], r"1_[34]\.dcm and 1_[34]\.dcm lie at the same position"),
        ([0, 0, 0, 0, 0], "same position"),
    ],
)
def test_slices_that_are_not_evenly_spaced(tmp_path: Path, positions: list[float], match: str) -> None:
    written(tmp_path, positions=positions)
    with pytest.raises(GridError, match=match):
        dr.open(tmp_path)
    assert dr.open(tmp_path, spacing={"z": 3}).shape == VOXELS.shape
    assert dr.grid(dr.open(tmp_path, spacing={"z": 3})).spacing == pytest.approx((3, 0.75, 0.5))


def test_positions_that_are_rounded(tmp_path: Path) -> None:
    written(tmp_path, positions=np.round(np.arange(5) * 0.625, 1))
    assert dr.grid(dr.open(tmp_path)).spacing[0] == pytest.approx(0.625)


def test_real_files_with_missing_slices() -> None:
    with pytest.raises(GridError, match="161 between 17106 and 17136"):
        dr.open(REAL / "dicomdirtests" / "77654033" / "CT2")


@pytest.mark.parametrize(("folder", "match"), [("98892001/CT2N", "another plane"), ("98892003/MR700", "another plane")])
def test_real_files_of_several_planes(folder: str, match: str) -> None:
    with pytest.raises(NotAVolumeError, match=match):
        dr.open(REAL / "dicomdirtests" / folder)


def test_several_series(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(tmp_path, series="7", number=3)
    written(tmp_path, VOXELS[:3] // 2, series="8", number=2)
    told = rf"2 DICOM series: 0 'series 8' of 3 files \({UID}8\); 1 'series 7' of 5 files .*series=1"
    with pytest.raises(NotAVolumeError, match=told):
        dr.open(tmp_path)
    for series in (1, f"{UID}7"):
        volume = dr.open(tmp_path, series=series)
        np.testing.assert_array_equal(volume, VOXELS)
        assert volume.name == "series 7"
        agrees_with_itk(volume, tmp_path, f"{UID}7")
    assert dr.open(f"{tmp_path}::/0").shape == (3, 8, 11)
    with pytest.raises(NotAVolumeError, match="no DICOM series '2'"):
        dr.open(tmp_path, series=2)
    assert run(["info", str(tmp_path), "--series", "0"]) == 0
    assert "dicom" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("elements", "error", "match"),
    [
        ({"Rows": [8, 8, 8, 8, 4]}, NotAVolumeError, r"1_1\.dcm has .*take it out"),
        ({"BitsStored": [16, 16, 12, 16, 16], "HighBit": [15, 15, 11, 15, 15]}, NotAVolumeError, r"1_3\.dcm has"),
        ({"ImagePositionPatient": None}, NotAVolumeError, "states no position"),
        ({"ImageOrientationPatient": [[1, 0, 0, 1, 0, 0]] * 5}, NotAVolumeError, "span no plane"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, NotAVolumeError, "table of colours"),
        ({"NumberOfFrames": 3}, NotAVolumeError, "3 frames"),
        ({"Rows": 60_000, "Columns": 60_000}, NotAVolumeError, "shorter"),
        ({"BitsAllocated": 1}, NotAVolumeError, "bits"),
        ({"PixelSpacing": [[0.0, 0.5]] * 5}, NotAVolumeError, "PixelSpacing is"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, elements: dict[str, Any], error: type[Exception], match: str) -> None:
    with warnings.catch_warnings(action="ignore"):
        written(tmp_path, **elements)
    with pytest.raises(error, match=match):
        dr.open(tmp_path)


def test_a_file_that_is_cut(tmp_path: Path) -> None:
    files = written(tmp_path)
    files[2].write_bytes(files[2].read_bytes()[:-20])
    volume = dr.open(tmp_path, chunks=(1, 8, 11))
    np.testing.assert_array_equal(volume[0], VOXELS[0])
    with pytest.raises(dr.errors.ChunkReadError):
        volume[2].compute()


def test_a_list_of_one_slice_and_options(tmp_path: Path) -> None:
    files = written(tmp_path, SliceThickness="1.25")
    assert dr.grid(dr.open([files[0]])).spacing == pytest.approx((1.25, 0.75, 0.5))
    with pytest.raises(OptionError, match="no levels"):
        dr.open(tmp_path, level=1)
    with pytest.raises(OptionError, match="raw"):
        dr.open(tmp_path, dtype="u1")


def test_colours(tmp_path: Path) -> None:
    file = tmp_path / "a.dcm"
    image = pydicom.dcmread(REAL / "SC_rgb_rle.dcm")
    image.ImagePositionPatient, image.ImageOrientationPatient = [0, 0, 0], [1, 0, 0, 0, 1, 0]
    image.save_as(file)
    volume = dr.open([file])
    assert volume.dims == ("c", "z", "y", "x")
    assert list(volume.c.values) == ["red", "green", "blue"]
    np.testing.assert_array_equal(volume[:, 0], image.pixel_array.transpose(2, 0, 1))


def test_a_compression_without_a_decoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(REAL / "MR_small_jpeg_ls_lossless.dcm", tmp_path / "a.dcm")
    with pytest.raises(NotAVolumeError, match="JPEG-LS.*needs a package: .*pyjpegls"):
        dr.open([tmp_path / "a.dcm"])
    shutil.copy(REAL / "MR_small_RLE.dcm", tmp_path / "a.dcm")
    np.testing.assert_array_equal(dr.open([tmp_path / "a.dcm"])[0], pydicom.dcmread(REAL / "MR_small.dcm").pixel_array)


def test_without_pydicom(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(dr.errors.MissingExtraError, match=r"pip install 'daskreg\[dicom\]'"):
        dr.open(CT)


@pytest.mark.parametrize("slope", ["0", "1e400"])
def test_a_slope_that_tells_nothing(tmp_path: Path, slope: str) -> None:
    written(tmp_path, RescaleSlope=slope, RescaleIntercept="2")
    if slope == "0":
        np.testing.assert_array_equal(dr.open(tmp_path), VOXELS + 2.0)
    else:
        with pytest.raises(NotAVolumeError, match="RescaleSlope is"):
            dr.open(tmp_path)
