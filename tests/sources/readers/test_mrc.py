"""MRC: voxels and sizes as mrcfile has them, axes named by the header, old files with a warning."""

from __future__ import annotations

import sys
import warnings

import numpy as np
import pytest
from reading import boxes_agree

import daskreg as dr
from daskreg.errors import MetadataWarning, MissingExtraError, NotAVolumeError, UnsupportedDTypeError
from daskreg.geometry import Grid
from daskreg.volumes import grid

mrcfile = pytest.importorskip("mrcfile")
RNG = np.random.default_rng(2)
VALUES = RNG.integers(-999, 999, (5, 6, 7)).astype("i2")


def written(path, values=VALUES, *, voxel=(2.5, 3.5, 4.5), change=None, **options):
    with mrcfile.new(path, values, overwrite=True, **options) as file:
        file.voxel_size = voxel  # x, y, z
        if change:
            change(file)
    return path


@pytest.mark.parametrize("dtype", ["i1", "i2", "u2", "f4", "f2"])
def test_types(tmp_path, dtype):
    values = VALUES.astype(dtype)
    volume = dr.open(written(tmp_path / "a.mrc", values))
    assert volume.dtype == (np.float32 if dtype == "f2" else np.dtype(dtype))
    assert (volume.dims, volume.name) == (("z", "y", "x"), "a")
    assert grid(volume) == Grid((5, 6, 7), (4.5, 3.5, 2.5), unit="angstrom")
    boxes_agree(volume, values)


@pytest.mark.parametrize("options", [{"compression": "gzip"}, {"compression": "bzip2"}])
def test_packed_files(tmp_path, options):
    suffix = {"gzip": "gz", "bzip2": "bz2"}[options["compression"]]
    volume = dr.open(written(tmp_path / f"a.mrc.{suffix}", **options))
    assert volume.name == "a"
    boxes_agree(volume, VALUES)


def test_the_position_of_the_first_voxel(tmp_path):
    def by_origin(file):
        file.header.origin = (10, 20, 30)
        file.header.nxstart = 7

    def by_start(file):
        file.header.nxstart, file.header.nystart, file.header.nzstart = 2, 4, -6

    assert grid(dr.open(written(tmp_path / "a.mrc", change=by_origin))).origin == (30, 20, 10)
    assert grid(dr.open(written(tmp_path / "b.map", change=by_start))).origin == (-27, 14, 5)


@pytest.mark.parametrize("flags", [0, 1, 4, 5])
def test_files_of_imod(tmp_path, flags):
    """Bytes are unsigned unless flag 1 says otherwise; the origin has the other sign, unless flag 4 is there."""
    path = written(
        tmp_path / "a.mrc", VALUES.astype("i1"), change=lambda file: setattr(file.header, "origin", (1, 2, 3))
    )
    raw = bytearray(path.read_bytes())
    raw[152:160] = np.array([1146047817, flags], "<i4").tobytes()
    path.write_bytes(raw)
    volume = dr.open(path)
    dtype = "i1" if flags & 1 else "u1"
    assert volume.dtype == dtype
    boxes_agree(volume, VALUES.astype("i1").view(dtype))
    assert grid(volume).origin == ((3, 2, 1) if flags & 4 else (-3, -2, -1))


def test_bytes_whose_maximum_is_not_signed(tmp_path):
    values = np.arange(256, dtype="u1").reshape(4, 8, 8)
    path = written(tmp_path / "a.mrc", values.view("i1"), change=lambda file: setattr(file.header, "dmax", 255))
    boxes_agree(dr.open(path), values)


def test_a_cell_without_right_angles(tmp_path):
    def change(file):
        file.header.cellb = (90, 90, 120)

    with pytest.warns(MetadataWarning, match="120"):
        dr.open(written(tmp_path / "a.mrc", change=change))


def test_axes_in_another_order(tmp_path):
    """Columns are z, rows x, sections y: what is stored along an axis stays along it."""

    def change(file):
        file.header.mapc, file.header.mapr, file.header.maps = 3, 1, 2
        file.header.mx, file.header.my, file.header.mz = 6, 5, 7
        file.header.cella = (6 * 1.0, 5 * 2.0, 7 * 3.0)
        file.header.nxstart = 10

    volume = dr.open(written(tmp_path / "a.mrc", change=change))
    assert grid(volume) == Grid((7, 5, 6), (3, 2, 1), (30, 0, 0), unit="angstrom")
    boxes_agree(volume, VALUES.transpose(2, 0, 1))


def test_no_size_no_unit(tmp_path):
    def change(file):
        file.header.cella = 0

    volume = dr.open(written(tmp_path / "a.mrc", change=change))
    assert grid(volume) == Grid((5, 6, 7))
    assert grid(dr.open(tmp_path / "a.mrc", spacing=2, unit="nm")) == Grid((5, 6, 7), 2, unit="nm")


def test_big_endian_and_extended_headers(tmp_path):
    def change(file):
        file.set_extended_header(np.frombuffer(b"x" * 160, "V80"))

    boxes_agree(dr.open(written(tmp_path / "a.mrc", VALUES.astype(">i2"), change=change)), VALUES)


@pytest.mark.slow
def test_what_cannot_be_read(tmp_path, monkeypatch):
    with pytest.raises(UnsupportedDTypeError, match="complex64"):
        dr.open(written(tmp_path / "c.mrc", VALUES.astype("c8")))
    short = written(tmp_path / "s.mrc")
    short.write_bytes(short.read_bytes()[:-10])
    with pytest.raises(NotAVolumeError, match="shorter than its header says"):
        dr.open(short)
    (tmp_path / "n.mrc").write_bytes(b"no" * 1000)
    with pytest.raises(NotAVolumeError, match=r"n\.mrc"):
        dr.open(tmp_path / "n.mrc")
    (tmp_path / "t.mrc").write_bytes(b"no")
    with pytest.raises(NotAVolumeError, match=r"t\.mrc cannot be read as MRC"):
        dr.open(tmp_path / "t.mrc")
    path = written(tmp_path / "a.mrc")
    monkeypatch.setitem(sys.modules, "mrcfile", None)
    with pytest.raises(MissingExtraError, match="mrcfile is not installed"):
        dr.open(path)


@pytest.mark.slow
def test_a_tilt_series_without_the_map_id(data):
    path = data / "tomography/haadf/HAADF.mrc"
    with pytest.warns(MetadataWarning, match="Map ID"):
        volume = dr.open(path)
    assert volume.shape == (77, 256, 256)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = mrcfile.mmap(path, permissive=True).data
    boxes_agree(volume, expected)


def fei_stack(path, kind, *, pixel=2.5e-9, tilts=(-50.0, -25.0, 0.0, 20.0, 40.0), voxel=1.0, order="<", last=None):
    """A stack with the extended header of a microscope, put behind the header of one without."""
    written(path, VALUES.astype(VALUES.dtype.newbyteorder(order)), voxel=(voxel,) * 3)
    data = path.read_bytes()
    header = np.frombuffer(data[:1024], mrcfile.dtypes.HEADER_DTYPE.newbyteorder(order)).copy()
    if kind:
        dtype = mrcfile.dtypes.get_ext_header_dtype(kind, order)
        records = np.zeros(5, dtype)
        records["Metadata size"], records["Alpha tilt"] = dtype.itemsize, tilts
        records["Pixel size X"] = records["Pixel size Y"] = pixel
    else:
        records = np.zeros((1024, 32), f"{order}f4")
        records[:5, 0], records[:5, 11] = tilts, pixel
        if last is not None:
            records[4, 11] = last
    header["exttyp"], header["nsymbt"] = kind, records.nbytes
    path.write_bytes(header.tobytes() + records.tobytes() + data[1024:])
    return path


@pytest.mark.parametrize("kind", [b"", b"FEI1", b"FEI2"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_the_pixel_size_and_tilts_of_a_microscope(tmp_path, kind, order):
    volume = dr.open(fei_stack(tmp_path / "a.mrc", kind, order=order))
    assert grid(volume).unit == "angstrom"
    np.testing.assert_allclose(grid(volume).spacing, 25, rtol=1e-6)
    assert volume.attrs["tilt_angles"] == [-50, -25, 0, 20, 40]
    boxes_agree(volume, VALUES)


def test_a_voxel_size_in_the_header_itself_counts_more(tmp_path):
    volume = dr.open(fei_stack(tmp_path / "a.mrc", b"FEI1", voxel=13.0))
    assert grid(volume).spacing == (13, 13, 13)
    assert len(volume.attrs["tilt_angles"]) == 5


def test_other_bytes_behind_the_header_are_not_taken_for_a_microscope(tmp_path):
    for name, options in (("a", {"pixel": 7.0}), ("b", {"tilts": (1e30, 0, 0, 0, 0)}), ("c", {"last": 2.6e-9})):
        volume = dr.open(fei_stack(tmp_path / f"{name}.mrc", b"", **options))
        assert grid(volume).spacing == (1, 1, 1)
        assert "tilt_angles" not in volume.attrs


@pytest.mark.parametrize(("lacking", "spacing"), [("z", (2.5, 3.5, 2.5)), ("x", (4.5, 3.5, 3.5))])
def test_one_cell_length_of_zero(tmp_path, lacking, spacing):
    def without(file):
        file.header.cella[lacking] = 0

    path = written(tmp_path / "a.mrc", change=without)
    with pytest.warns(MetadataWarning, match=f"no voxel size along {lacking}"):
        assert grid(dr.open(path)) == Grid((5, 6, 7), spacing, unit="angstrom")


def test_a_real_tilt_series(data):
    path = data / "tomography" / "haadf" / "HAADF.mrc"
    with pytest.warns(MetadataWarning, match="Map ID"):
        volume = dr.open(path)
    np.testing.assert_allclose(grid(volume).spacing, 33.6, rtol=1e-6)
    np.testing.assert_allclose(volume.attrs["tilt_angles"], np.loadtxt(path.with_suffix(".rawtlt")))
