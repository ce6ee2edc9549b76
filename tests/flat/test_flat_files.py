"""`write` to single files: what other libraries read in them, what is refused, and how a run is taken up again."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import h5py
import mrcfile
import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import tifffile
import xarray as xr
from scipy import ndimage

import daskreg as dr
from daskreg.cli import run
from daskreg.errors import (
    GridError,
    LayoutMismatchError,
    MemoryBudgetError,
    OptionError,
    OutputExistsError,
    ShapeMismatchError,
    UnitError,
    UnsafeOutputError,
    UnsupportedDTypeError,
)
from daskreg.flat.formats import FORMATS
from daskreg.flat.slabs import slab_shape
from daskreg.volumes import to_dataarray
from daskreg.warping import make_job

QUIET: dict[str, Any] = {"progress": False}
SHAPE = (7, 19, 26)
TURNED = dr.Affine.rotation(rx=0.3, ry=-0.2, rz=0.5).linear
DIRECTIONS = {"straight": None, "flipped": np.diag([1, -1, -1]), "turned": TURNED, "swapped": np.eye(3)[[1, 0, 2]]}


def volume(direction: Any = None, *, dtype: Any = np.int16, unit: str = "mm", shape: tuple[int, ...] = SHAPE) -> Any:
    values = np.random.default_rng(1).integers(0, 120, shape).astype(dtype)
    spacing, origin = (2.5, 0.5, 0.75)[-len(shape) :], (-11.0, 7.0, 3.5)[-len(shape) :]
    return to_dataarray(values, dr.Grid(shape, spacing, origin, direction, unit), name="image")


@pytest.mark.parametrize("suffix", [".nii", ".nrrd", ".mha"])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_itk_reads_medical_files_as_they_are(tmp_path: Path, suffix: str, direction: str) -> None:
    source = volume(DIRECTIONS[direction])
    path = tmp_path / f"a{suffix}"
    dr.write(source, path, **QUIET)
    image = sitk.ReadImage(path)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), source.values)
    grid = dr.grid(source)
    tolerance = {".nii": 1e-5}.get(suffix, 1e-10)
    np.testing.assert_allclose(image.GetSpacing(), grid.spacing[::-1], rtol=tolerance)
    for index in ((0, 0, 0), (6, 18, 25), (3, 0, 20)):
        there = image.TransformIndexToPhysicalPoint(index[::-1])
        np.testing.assert_allclose(there, grid.world(index)[::-1], rtol=0, atol=50 * tolerance)
    assert dr.grid(dr.open(path)).same(grid, tolerance=1e-4)
    if suffix == ".nii":
        nifti = nibabel.load(path)
        np.testing.assert_array_equal(np.asarray(nifti.dataobj), source.values.T)
        ras = nifti.affine @ (25, 18, 6, 1)
        np.testing.assert_allclose(ras[:3] * (-1, -1, 1), grid.world((6, 18, 25))[::-1], atol=1e-4)
        np.testing.assert_allclose(nifti.get_qform(), nifti.get_sform(), atol=1e-4)


def test_images_and_series_of_medical_formats(tmp_path: Path) -> None:
    flat = volume(shape=(19, 26))
    for suffix in (".nii", ".nrrd", ".mha"):
        dr.write(flat, tmp_path / f"a{suffix}", **QUIET)
        np.testing.assert_array_equal(np.squeeze(sitk.GetArrayFromImage(sitk.ReadImage(tmp_path / f"a{suffix}"))), flat)
    series = xr.concat([volume(), volume() + 1], "t").assign_coords(t=("t", [0.0, 1.5], {"units": "s"}))
    dr.write(series, tmp_path / "t.nii", **QUIET)
    image = nibabel.load(tmp_path / "t.nii")
    assert image.header.get_zooms() == pytest.approx((0.75, 0.5, 2.5, 1.5))
    np.testing.assert_array_equal(np.asarray(image.dataobj), series.values.transpose(3, 2, 1, 0))


@pytest.mark.parametrize("suffix", [".tif", ".ome.tif", ".btf"])
def test_tifffile_reads_tiff_with_its_places(tmp_path: Path, suffix: str) -> None:
    values = np.random.default_rng(0).integers(0, 999, (2, 3, *SHAPE)).astype(np.uint16)
    grid = dr.Grid(SHAPE, (2, 0.5, 0.75), (-4, 6, 8), np.diag([-1, 1, 1]), "um")
    names = {"t": ("t", [0.0, 1.0]), "c": ["DAPI", "GFP", "RFP"]}
    source = to_dataarray(values, grid, lead=("t", "c"), lead_coords={"c": names["c"]})
    dr.write(source, tmp_path / f"a{suffix}", **QUIET)
    with tifffile.TiffFile(tmp_path / f"a{suffix}") as file:
        assert file.is_bigtiff
        assert file.series[0].axes == "TCZYX"
        np.testing.assert_array_equal(file.series[0].asarray(), values[:, :, ::-1])
        pixels = tifffile.xml2dict(file.ome_metadata)["OME"]["Image"]["Pixels"]
    assert (pixels["PhysicalSizeZ"], pixels["PhysicalSizeY"], pixels["PhysicalSizeX"]) == (2, 0.5, 0.75)
    assert pixels["PhysicalSizeXUnit"] == "µm"
    assert [c["Name"] for c in pixels["Channel"]] == ["DAPI", "GFP", "RFP"]
    opened = dr.open(tmp_path / f"a{suffix}")
    np.testing.assert_allclose(opened.z, np.sort(source.z))
    np.testing.assert_allclose(opened.x, source.x)
    np.testing.assert_array_equal(opened.sel(c="GFP").values, values[:, 1, ::-1])


def test_an_image_in_colour_stays_one(tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 255, (2, 31, 42, 3)).astype(np.uint8)
    for shown, axes in ((colours[0], "SYX"), (colours, "TSYX")):
        tifffile.imwrite(tmp_path / "a.tif", shown, photometric="rgb", metadata={"axes": axes.replace("SYX", "YXS")})
        image = dr.open(tmp_path / "a.tif", spacing=0.5, unit="um")
        dr.write(image, tmp_path / "b.tif", overwrite=True, **QUIET)
        with tifffile.TiffFile(tmp_path / "b.tif") as file:
            assert file.pages[0].photometric == tifffile.PHOTOMETRIC.RGB
            assert file.series[0].axes == axes
            np.testing.assert_array_equal(np.moveaxis(file.series[0].asarray(), -3, -1), shown)
        again = dr.open(tmp_path / "b.tif")
        assert again.identical(image.rename(again.name))
        assert again.c.values.tolist() == ["red", "green", "blue"]


def test_mrcfile_reads_mrc_in_angstrom(tmp_path: Path) -> None:
    for dtype in (np.int8, np.int16, np.uint16, np.float16, np.float32):
        source = volume(dtype=dtype, unit="nm")
        path = tmp_path / f"{np.dtype(dtype).name}.mrc"
        dr.write(source if dtype != np.float16 else source.astype(np.float32), path, **QUIET)
        with mrcfile.open(path) as file:
            np.testing.assert_array_equal(file.data, source.values)
            assert file.voxel_size.tolist() == pytest.approx((7.5, 5.0, 25.0))
            assert file.header.origin.tolist() == pytest.approx((35.0, 70.0, -110.0))
        assert dr.grid(dr.open(path)).unit == "angstrom"


def test_h5py_reads_hdf5_with_dimension_scales(tmp_path: Path) -> None:
    source = volume(np.diag([1, -1, 1]), dtype=np.float64, unit="um")
    dr.write(source, tmp_path / "a.h5", **QUIET)
    with h5py.File(tmp_path / "a.h5") as file:
        data = file["data"]
        np.testing.assert_array_equal(data[:], source.values[:, ::-1])
        assert [d.label for d in data.dims] == ["z", "y", "x"]
        np.testing.assert_allclose(data.dims[1][0][:], np.sort(source.y))
        assert data.dims[1][0].attrs["units"] == "micrometer"
    opened = dr.open(tmp_path / "a.h5")
    np.testing.assert_allclose(opened.z, source.z)
    dr.write(source > 50, tmp_path / "b.h5", **QUIET)
    with h5py.File(tmp_path / "b.h5") as file:
        assert file["data"].dtype == bool
        np.testing.assert_array_equal(file["data"][:], source.values[:, ::-1] > 50)


@pytest.mark.parametrize("suffix", [one.suffixes[0] for one in FORMATS])
def test_every_type_of_a_format_comes_back(tmp_path: Path, suffix: str) -> None:
    kind = next(one for one in FORMATS if suffix in one.suffixes)
    for name in kind.dtypes:
        source = volume(dtype=name)
        if name == "float16":
            continue  # is opened as float32
        dr.write(source, tmp_path / f"{name}{suffix}", **QUIET)
        opened = dr.open(tmp_path / f"{name}{suffix}")
        assert opened.dtype == name
        np.testing.assert_array_equal(opened.values, source.values)
    others = {"bool", "uint8", "float64", "int64"} - set(kind.dtypes)
    for name in others:
        with pytest.raises(UnsupportedDTypeError, match=name):
            dr.write(volume(dtype=name), tmp_path / f"other{suffix}", **QUIET)
    assert not (tmp_path / f"other{suffix}.partial").exists()


def warped(stored: Path) -> Any:
    return dr.warp(dr.open(stored), pull=dr.Affine.from_parameters(theta=0.1, tx=2, centre=(15, 15)))


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    values = ndimage.gaussian_filter(np.random.default_rng(0).random((40, 61, 70)), 1).astype(np.float32)
    dr.write(values, tmp_path / "in.zarr", chunks=16, **QUIET)
    return tmp_path / "in.zarr"


@pytest.mark.parametrize("suffix", [".tif", ".nii", ".h5"])
def test_an_interrupted_file_is_taken_up_again(tmp_path: Path, stored: Path, suffix: str) -> None:
    path, memory = tmp_path / f"a{suffix}", {"memory": "600 kiB"}
    source = warped(stored)

    def stop(done: int, total: int, nbytes: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dr.write(source, path, progress=stop, **memory)
    assert not path.exists()
    with pytest.raises(OutputExistsError, match="unfinished"):
        dr.write(source, path, resume=False, **memory, **QUIET)
    with pytest.raises(LayoutMismatchError, match="source and transform"):
        dr.write(dr.open(stored), path, **memory, **QUIET)
    with (tmp_path / f"a{suffix}.partial.slabs").open("a") as file:
        file.write("1")  # a line that a kill has torn
    result = dr.write(source, path, **memory, **QUIET)
    assert result.skipped == 3
    assert result.blocks > 3
    np.testing.assert_array_equal(dr.open(path).values, source.values)
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith("a")) == [f"a{suffix}"]
    with pytest.raises(OutputExistsError, match="overwrite=True"):
        dr.write(source, path, **QUIET)
    dr.write(source + 1, path, overwrite=True, **QUIET)
    np.testing.assert_array_equal(dr.open(path).values, source.values + 1)


def test_slabs_fit_the_memory_and_hold_whole_rows(stored: Path) -> None:
    spec = dr.volumes.volume_of(dr.open(stored)).source
    job = make_job(spec, None, spec.grid)
    for limit in (2**30, 2**22, 2**20, 2**18):
        slab = slab_shape(job, limit, 2)
        assert slab[-1] == 70
        assert math.prod(slab) * 4 <= limit // 2
    assert slab_shape(job, 2**30, 2) == (40, 61, 70)
    with pytest.raises(MemoryBudgetError, match="allow more"):
        slab_shape(job, 500, 2)


def test_slabs_are_cut_no_smaller_than_they_must_be(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    values = np.zeros((24, 51, 40), np.uint16)
    dr.write(values, tmp_path / "in.zarr", chunks=64, shards=None, levels=1, **QUIET)
    monkeypatch.setattr("daskreg.flat.slabs.SLAB_BYTES", values.nbytes // 2)
    for array, expected in ((values, (12, 51, 40)), (dr.open(tmp_path / "in.zarr"), (24, 25, 40))):
        spec = dr.volumes.volume_of(array).source
        assert slab_shape(make_job(spec, None, spec.grid), 2**30, 2) == expected


@pytest.mark.slow
@pytest.mark.usefixtures("forked_workers")
def test_workers_compute_what_this_process_writes(tmp_path: Path, stored: Path) -> None:
    source = warped(stored)
    with dr.connect(workers=1):
        for name, array in (("a.nrrd", source), ("b.nrrd", source * 2)):
            result = dr.write(array, tmp_path / name, memory="600 kiB", **QUIET)
            assert result.blocks > 1
            np.testing.assert_allclose(dr.open(tmp_path / name).values, array.values, rtol=1e-6)


def test_the_command_line_writes_the_format_of_the_suffix(tmp_path: Path, stored: Path) -> None:
    assert run(["convert", str(stored), str(tmp_path / "a.mha"), "-q"]) == 0
    np.testing.assert_array_equal(dr.open(tmp_path / "a.mha").values, dr.open(stored).values)
    dr.Affine.translation(x=1.5).save(tmp_path / "t.json")
    assert (
        run(["warp", str(tmp_path / "a.mha"), str(tmp_path / "b.tif"), "--pull", str(tmp_path / "t.json"), "-q"]) == 0
    )
    expected = dr.warp(dr.open(tmp_path / "a.mha"), pull=dr.Affine.translation(x=1.5)).values
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "b.tif"), expected)


@pytest.mark.parametrize("suffix", [one.suffixes[0] for one in FORMATS])
def test_the_plan_of_a_file_is_what_is_then_written(tmp_path: Path, stored: Path, suffix: str) -> None:
    source, memory = warped(stored), "900 kiB"
    made = dr.plan(source, tmp_path / f"a{suffix}", memory=memory, probe=True)
    assert not list(tmp_path.glob("a*"))
    assert made.seconds is not None
    assert made.seconds > 0
    assert made.memory <= made.memory_limit == 900 * 1024
    for words in (f"{made.block_count} slabs", f"one {made.title} file", str(tmp_path / f"a{suffix}"), "time"):
        assert words in repr(made)
    result = dr.write(source, tmp_path / f"a{suffix}", memory=memory, **QUIET)
    assert result.blocks == made.block_count > 1
    header = (tmp_path / f"a{suffix}").stat().st_size - made.bytes_written
    assert 0 < header < 2**17


def test_a_plan_refuses_what_writing_refuses(tmp_path: Path) -> None:
    for name, array, options, error, words in CASES:
        if not {"wait", "part", "version"} & set(options):
            with pytest.raises(error, match=words):
                dr.plan(array, tmp_path / name, **options)
    with pytest.raises(MemoryBudgetError):
        dr.plan(volume(), tmp_path / "a.nii", memory=100)
    dr.write(volume(), tmp_path / "a.nii", **QUIET)
    with pytest.raises(UnsafeOutputError):
        dr.plan(dr.open(tmp_path / "a.nii"), tmp_path / "a.nii")


def test_a_dry_run_prints_the_plan_of_a_file(tmp_path: Path, stored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["convert", str(stored), str(tmp_path / "a.mha"), "--dry-run", "-q"]) == 0
    assert "one MetaImage file" in capsys.readouterr().out
    assert not (tmp_path / "a.mha").exists()


@pytest.mark.parametrize(("unit", "suffix"), [("s", ".tif"), ("ms", ".btf"), ("minute", ".h5")])
def test_times_come_back(tmp_path: Path, unit: str, suffix: str) -> None:
    times = {"t": ("t", [0.0, 2.5, 5.0], {"units": unit})}
    source = xr.concat([volume(), volume(), volume()], "t").assign_coords(times)
    dr.write(source, tmp_path / f"a{suffix}", **QUIET)
    opened = dr.open(tmp_path / f"a{suffix}")
    np.testing.assert_allclose(opened.t, (0, 2.5, 5))
    dr.write(opened, tmp_path / "again.ome.zarr", **QUIET)
    axis = dr.open(tmp_path / "again.ome.zarr").t
    np.testing.assert_allclose(axis, (0, 2.5, 5))
    assert axis.attrs["units"] == {"s": "second", "ms": "millisecond", "minute": "minute"}[unit]


CASES: list[tuple[str, Any, dict[str, Any], type[Exception], str]] = [
    ("a.nii.gz", volume(), {}, OptionError, r"\.nii\.gz files are not written"),
    ("a.png", volume(), {}, OptionError, r"\.png files"),
    ("a.zarr.zip", volume(), {}, OptionError, "name a folder"),
    ("a.tif", volume(TURNED), {}, GridError, "cannot state that the axes are turned"),
    ("a.mrc", volume(TURNED), {}, GridError, "cannot state that the axes are turned"),
    ("a.nrrd", volume().expand_dims(c=2), {}, ShapeMismatchError, r"not \(c, z, y, x\)"),
    ("a.tif", volume().expand_dims(q=2), {}, ShapeMismatchError, "not"),
    ("a.nii", volume(), {"chunks": 32, "levels": 2}, OptionError, "chunks=, levels=: of OME-Zarr.*them out, or"),
    ("a.nii", volume(), {"version": "0.4"}, OptionError, "version"),
    (
        "a.nii",
        volume(),
        {"wait": False},
        OptionError,
        r"wait=: .*leave it out, or write to a name that ends in .ome.zarr",
    ),
    (
        "a.tif",
        volume(),
        {"part": (1, 2)},
        OptionError,
        r"part=: .*leave it out, or write to a name that ends in .ome.zarr",
    ),
    ("a.mrc", to_dataarray(np.zeros((9, 9), np.int16), dr.Grid((9, 9), 2.0)), {}, UnitError, "in pixels"),
]


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_what_cannot_be_written_is_refused_by_name(tmp_path: Path, case: Any) -> None:
    name, array, options, error, words = case
    with pytest.raises(error, match=words):
        dr.write(array, tmp_path / name, **options, **QUIET)
    assert [p for p in tmp_path.iterdir() if p.stat().st_size] == []


def test_a_file_is_not_written_over_its_source(tmp_path: Path) -> None:
    dr.write(volume(), tmp_path / "a.nii", **QUIET)
    with pytest.raises(UnsafeOutputError):
        dr.write(dr.open(tmp_path / "a.nii"), tmp_path / "a.nii", overwrite=True, **QUIET)
