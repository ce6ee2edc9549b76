"""NIfTI: voxels as nibabel reads them, places as SimpleITK and nibabel put them."""

from __future__ import annotations

import gzip
import sys

import numpy as np
import pytest
from reading import agrees_with_itk, boxes_agree, corners, turned

import daskreg as dr
from daskreg.errors import (
    ChunkReadError,
    MetadataWarning,
    MissingExtraError,
    NotAVolumeError,
    OptionError,
    StorageFullError,
    UnsupportedDTypeError,
)
from daskreg.geometry import Affine, Grid
from daskreg.sources import handles
from daskreg.sources.readers import mapped
from daskreg.volumes import grid

nibabel = pytest.importorskip("nibabel")

RNG = np.random.default_rng(0)
VALUES = RNG.integers(-500, 500, (7, 6, 5)).astype("i2")  # x, y, z


def saved(path, values=VALUES, affine=None, *, unit="mm", time="sec", zooms=None, kind=None):
    image = (kind or nibabel.Nifti1Image)(values, turned() if affine is None else affine)
    image.header.set_xyzt_units(unit, time)
    if zooms is not None:
        image.header.set_zooms(zooms)
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nii.bz2", ".hdr", ".img.gz"])
def test_an_oblique_volume(tmp_path, suffix):
    kind = nibabel.Nifti1Pair if "nii" not in suffix else nibabel.Nifti1Image
    path = saved(tmp_path / f"a{suffix}", kind=kind)
    volume = dr.open(path)
    assert (volume.dims, volume.shape, volume.dtype, volume.name) == (("z", "y", "x"), (5, 6, 7), np.int16, "a")
    assert grid(volume).unit == "millimeter"
    boxes_agree(volume, VALUES.T)
    # RAS to LPS: x and y change sign; x, y, z to z, y, x.
    index = corners((5, 6, 7))
    ras = index[:, ::-1] @ turned()[:3, :3].T + turned()[:3, 3]
    np.testing.assert_allclose(grid(volume).world(index), (ras * [-1, -1, 1])[:, ::-1], atol=1e-5)
    if suffix != ".nii.bz2":
        agrees_with_itk(path, volume)
    # Coordinates run along the volume's own axes; cutting keeps voxels in place.
    assert len(volume.attrs["direction"]) == 9
    cut = volume[1:4, 2:, :3]
    np.testing.assert_allclose(grid(cut).world(0 * index), grid(volume).world(0 * index + [1, 2, 0]), atol=1e-5)


@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, -1, 1), (-1, 1, -1), (1, -1, -1)])
def test_coordinates_are_the_world_where_axes_are_flipped_only(tmp_path, signs):
    affine = np.diag([*np.multiply(signs, (0.5, 2.0, 3.0)), 1.0])
    affine[:3, 3] = (10, -20, 30)
    path = saved(tmp_path / "a.nii", affine=affine)
    volume = dr.open(path)
    assert "direction" not in volume.attrs
    agrees_with_itk(path, volume)
    steps = np.array([np.diff(volume[d].values)[0] for d in "xyz"])
    np.testing.assert_allclose(steps, np.multiply(signs, (-0.5, -2.0, 3.0)))
    np.testing.assert_allclose([volume[d].values[0] for d in "xyz"], (-10, 20, 30))
    flipped = volume[:, ::-1]
    np.testing.assert_allclose(grid(flipped).world((2, 0, 1)), grid(volume).world((2, 5, 1)))


def test_axes_in_another_order_are_a_direction(tmp_path):
    """A sagittal acquisition: stored x runs to the back, y to the head, z to the left."""
    affine = np.zeros((4, 4))
    affine[1, 0], affine[2, 1], affine[0, 2], affine[3, 3] = -1.0, 2.0, -3.0, 1.0
    path = saved(tmp_path / "a.nii", affine=affine)
    volume = dr.open(path)
    np.testing.assert_array_equal(grid(volume).direction_matrix, [[0, 1, 0], [0, 0, 1], [1, 0, 0]])
    agrees_with_itk(path, volume)


def test_the_header_decides(tmp_path):
    image = nibabel.Nifti1Image(VALUES, None)
    image.header.set_xyzt_units("mm")
    image.header.set_zooms((2, 3, 4))
    nibabel.save(image, tmp_path / "none.nii")
    image.set_qform(turned(angles=(0.1, 0.0, 0.0)), code=1)
    nibabel.save(image, tmp_path / "q.nii")
    agrees_with_itk(tmp_path / "q.nii", dr.open(tmp_path / "q.nii"))
    volume = dr.open(tmp_path / "none.nii")
    assert grid(volume) == Grid((5, 6, 7), (4, 3, 2), unit="mm")
    agrees_with_itk(tmp_path / "none.nii", volume)


@pytest.mark.parametrize("angles", [(0.2, -0.3, 0.5), (np.pi - 1e-5, 0, 0), (0, 0, np.pi)])
def test_sform_and_qform_that_differ_are_named(tmp_path, angles):
    image = nibabel.Nifti1Image(VALUES, None)
    image.set_sform(turned(angles), code=2)
    image.set_qform(turned(angles), code=1)
    nibabel.save(image, tmp_path / "same.nii")
    same = grid(dr.open(tmp_path / "same.nii"))
    image.set_qform(turned(angles, origin=(-12.0, 30.0, 9.0)), code=1)
    nibabel.save(image, tmp_path / "other.nii")
    with pytest.warns(
        MetadataWarning, match=r"sform \(code 2\) and qform \(code 1\) differ by up to 1.5; the sform is used"
    ):
        assert grid(dr.open(tmp_path / "other.nii")).same(same)


def test_a_singular_matrix_is_left_out(tmp_path):
    path = saved(tmp_path / "a.nii")
    image = nibabel.load(path)
    image.set_qform(turned(), code=1)
    image.header["srow_y"] = 0
    with path.open("r+b") as file:
        image.header.write_to(file)
    with pytest.warns(MetadataWarning, match="sform is singular"):
        volume = dr.open(path)
    assert grid(volume).same(grid(dr.open(saved(tmp_path / "b.nii"))), tolerance=1e-4)


@pytest.mark.parametrize(("stated", "unit"), [("micron", "micrometer"), ("meter", "meter"), ("unknown", "millimeter")])
def test_units(tmp_path, stated, unit):
    path = saved(tmp_path / "a.nii", unit=stated)
    assert grid(dr.open(path)).unit == unit
    wanted = grid(dr.open(path, unit="um", spacing=2))
    assert (wanted.unit, wanted.spacing) == ("micrometer", (2.0, 2.0, 2.0))


def test_scaled_values(tmp_path):
    image = nibabel.Nifti1Image(VALUES, turned())
    image.header.set_slope_inter(0.25, -3)
    nibabel.save(image, tmp_path / "a.nii.gz")
    volume = dr.open(tmp_path / "a.nii.gz")
    assert volume.dtype == np.float32
    boxes_agree(volume, nibabel.load(tmp_path / "a.nii.gz").get_fdata().T, atol=1e-4)


def test_a_series_in_time_and_vectors(tmp_path):
    values = RNG.random((4, 5, 6, 3)).astype("f4")
    path = saved(tmp_path / "t.nii", values, zooms=(1, 1, 2, 1.5))
    volume = dr.open(path)
    assert volume.dims == ("t", "z", "y", "x")
    np.testing.assert_allclose(volume.t, [0, 1.5, 3])
    assert volume.t.attrs["units"] == "second"
    boxes_agree(volume, values.transpose(3, 2, 1, 0))
    one = dr.open(path, time=-1)
    boxes_agree(one, values[..., 2].T)
    vectors = RNG.random((4, 5, 6, 1, 3)).astype("f4")
    volume = dr.open(saved(tmp_path / "c.nii", vectors))
    assert volume.dims == ("c", "z", "y", "x")
    boxes_agree(volume, vectors[:, :, :, 0].transpose(3, 2, 1, 0))
    both = dr.open(saved(tmp_path / "tc.nii", RNG.random((4, 5, 6, 2, 3)).astype("f4")))
    assert both.dims == ("t", "c", "z", "y", "x")
    assert dr.open(saved(tmp_path / "o.nii", values[..., :1])).dims == ("z", "y", "x")
    with pytest.raises(NotAVolumeError, match="x, y, z, t, channel"):
        dr.open(saved(tmp_path / "6.nii", np.zeros((2, 2, 2, 1, 1, 2), "f4")))


def test_colours(tmp_path):
    colours = np.zeros((4, 5, 6), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    for k, name in enumerate("RGB"):
        colours[name] = RNG.integers(0, 255, colours.shape) + 0 * k
    volume = dr.open(saved(tmp_path / "a.nii.gz", colours))
    assert volume.dims == ("c", "z", "y", "x")
    assert list(volume.c.values) == ["red", "green", "blue"]
    boxes_agree(volume, np.stack([colours[n].T for n in "RGB"]))


def test_an_image_in_its_plane(tmp_path):
    flat = saved(tmp_path / "flat.nii", VALUES[..., 0], affine=np.diag([-2.0, 3.0, -1.0, 1.0]))
    image = dr.open(flat)
    assert image.dims == ("y", "x")
    agrees_with_itk(flat, image)
    with pytest.warns(MetadataWarning, match="plane"):
        image = dr.open(saved(tmp_path / "turned.nii", VALUES[..., 0]))
    np.testing.assert_allclose(grid(image).spacing, (1.1, 0.7), rtol=1e-6)


def test_shear_becomes_a_transform(tmp_path):
    """The grid is ITK's; `header_from_world` leads from it to where the header puts the voxels."""
    affine = turned() @ np.array([[1, 0.2, 0, 0], [0, 1, 0, 0], [0, 0.1, 1, 0], [0, 0, 0, 1.0]])
    image = nibabel.Nifti1Image(VALUES, None)
    image.set_sform(affine, code=1)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, tmp_path / "a.nii")
    with pytest.warns(MetadataWarning, match="shears"):
        volume = dr.open(tmp_path / "a.nii")
    header_from_world = Affine(volume.attrs["header_from_world"])
    index = corners(volume.shape)
    lps = (index[:, ::-1] @ affine[:3, :3].T + affine[:3, 3]) * [-1, -1, 1]
    np.testing.assert_allclose(header_from_world(grid(volume).world(index)), lps[:, ::-1], atol=1e-5)
    cut = volume[2:, :, 1:]
    np.testing.assert_allclose(
        header_from_world(grid(cut).world(corners(cut.shape))),
        header_from_world(grid(volume).world(corners(cut.shape) + np.array([2, 0, 1]))),
        atol=1e-5,
    )
    # Warped into the header's world, a volume is no longer sheared.
    upright = dr.warp(volume, push=header_from_world, grid="union")
    assert "header_from_world" not in upright.attrs


def test_what_cannot_be_read(tmp_path, monkeypatch):
    (tmp_path / "a.nii").write_bytes(b"not NIfTI at all" * 40)
    with pytest.raises(NotAVolumeError, match=r"a\.nii cannot be read as NIfTI"):
        dr.open(tmp_path / "a.nii")
    with pytest.raises(UnsupportedDTypeError, match="complex64"):
        dr.open(saved(tmp_path / "c.nii", VALUES.astype("c8")))
    path = saved(tmp_path / "b.nii")
    with pytest.raises(OptionError, match="level=1"):
        dr.open(path, level=1)
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'daskreg\[formats\]'"):
        dr.open(path)


def test_damage_is_named(tmp_path):
    path = saved(tmp_path / "a.nii.gz", np.zeros((40, 41, 42), "i2") + RNG.integers(0, 99, (40, 41, 42)).astype("i2"))
    volume = dr.open(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    handles.forget()
    with pytest.raises(ChunkReadError, match=r"a\.nii\.gz is damaged"):
        volume.values  # noqa: B018
    short = tmp_path / "b.nii"
    short.write_bytes(gzip.decompress(whole)[:-100])
    with pytest.raises(NotAVolumeError, match=r"b\.nii is shorter than its header says"):
        dr.open(short)


def test_unpacking_needs_room_and_leaves_nothing(tmp_path, monkeypatch):
    path = saved(tmp_path / "a.nii.gz")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.setattr(mapped.tempfile, "tempdir", None)
    np.testing.assert_array_equal(dr.open(path).values, VALUES.T)
    assert not list(scratch.iterdir())
    handles.forget()
    full = mapped.shutil.disk_usage(scratch)._replace(free=100)
    monkeypatch.setattr(mapped.shutil, "disk_usage", lambda _: full)
    with pytest.raises(StorageFullError, match="TMPDIR"):
        dr.open(path).values  # noqa: B018


REAL = {
    "volumes3d/niivue/FLAIR.nii.gz": False,
    "volumes3d/niivue/chris_t1.nii.gz": True,
    "volumes3d/niivue/pcasl.nii.gz": False,
    "volumes3d/niivue/shear.nii.gz": False,
    "volumes3d/epi_anat/someones_anatomy.nii.gz": True,
    "volumes3d/epi_anat/someones_epi.nii.gz": False,
    "volumes3d/mni152/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz": True,
    "images2d/brain_r16_r64/r16slice.nii.gz": True,
    "images2d/brain_r16_r64/r16slice_rigid.nii.gz": True,
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::daskreg.errors.MetadataWarning")
@pytest.mark.parametrize("name", REAL)
def test_real_files(data, name):
    volume = dr.open(data / name)
    assert ("direction" not in volume.attrs) == REAL[name]
    agrees_with_itk(data / name, volume)
    expected = np.asarray(nibabel.load(data / name).dataobj).T
    boxes_agree(volume, expected, atol=1e-3 if volume.dtype.kind == "f" else 0)
    assert ("header_from_world" in volume.attrs) == ("shear" in name)
