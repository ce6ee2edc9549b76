"""Point clouds from files of the formats in use."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from daskreg.errors import InputError, MissingExtraError
from daskreg.formats.points import read_points

POINTS = np.array([[0.0, 1.5, -2.0], [3.0, 4.0, 5.25]])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.xyz", "0 1.5 -2\n3 4 5.25\n"),
        ("a.csv", "x,y,z,nx\n0 , 1.5,-2,9\n3,4 , 5.25 , 9\n"),
        ("a.txt", "# a comment\n\n  0;1.5;-2\n  3;4;5.25\n"),
        ("a.csv", "\ufeff0,1.5,-2,\n3,4,5.25,\n"),
        ("a.csv", "id,x,y,z\n7,0,1.5,-2\n8,3,4,5.25\n"),
        ("a.csv", ",X [µm],Y [µm],Z [µm],label\n0,0,1.5,-2,car\n1,3,4,5.25,a tree\n"),
        ("a.csv", '"time","Points:0","Points:1","Points:2"\n1,0,1.5,-2\n1,3,4,5.25\n'),
        ("a.csv", "0;1,5;-2\n3;4;5,25\n"),
        ("a.txt", "0\t1,5\t-2\n3\t4\t5,25\n"),
        ("a.pts", "2\n0 1.5 -2 255 0 0\n3 4 5.25 0 0 0\n"),
        ("a.ply", "ply\nformat ascii 1.0\ncomment créé\nelement camera 1\nproperty float f\nelement vertex 2\n"
         "property float x\nproperty float y\nproperty float z\nproperty list uchar int seen\nend_header\n"
         "35\n0 1.5 -2 1 4\n3 4 5.25 2 1 4\n"),
        ("a.ply", "ply\nformat ascii 1.0\nelement vertex 2\nproperty float x\nproperty float y\nproperty float z\n"
         "property uchar red\nelement face 1\nproperty list uchar uint vertex_indices\nend_header\n"
         "0 1.5 -2 7\n3 4 5.25 7\n3 0 1 2\n"),
    ],
)  # fmt: skip
def test_text(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    np.testing.assert_array_equal(read_points(tmp_path / name), POINTS)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("napari.csv", "index,axis-0,axis-1,axis-2\n0,-2,1.5,0\n1,5.25,4,3\n"),
        ("regionprops.csv", "label,area,centroid-0,centroid-1,centroid-2\n1,30,-2,1.5,0\n2,31,5.25,4,3\n"),
        ("spots.csv", "LABEL,ID,POSITION_X,POSITION_Y,POSITION_Z,FRAME\nLabel,Spot ID,X,Y,Z,Frame\n,,(um),(um),(um),\n"
                      "ID7,7,0,1.5,-2,0\nID8,8,3,4,5.25,0\n"),
        ("cells.csv", "ObjectNumber,Location_Center_X,Location_Center_Y,Location_Center_Z\n1,0,1.5,-2\n2,3,4,5.25\n"),
        ("shapes.csv", "n,AreaShape_Center_X,AreaShape_Center_Y,AreaShape_Center_Z\n1,0,1.5,-2\n2,3,4,5.25\n"),
        ("smap.csv", "frame,xnm,ynm,znm,photons\n1,0,1.5,-2,99\n1,3,4,5.25,98\n"),
        ("storm.csv", '"id","frame","x [nm]","y [nm]","z [nm]"\n1,1,0,1.5,-2\n2,1,3,4,5.25\n'),
        ("three.csv", "easting,northing,height\n0,1.5,-2\n3,4,5.25\n"),
        ("neuron.swc", "# id type x y z r parent\n1 2 0 1.5 -2 0.5 -1\n2 2 3 4 5.25 0.5 1\n"),
        ("elastix.pts", "point\n2\n0 1.5 -2\n3 4 5.25\n"),
        ("lps.fcsv", "# Markups fiducial file version = 4.11\n# CoordinateSystem = LPS\n# columns = id,x,y,z,ow,label\n"
                     "1,0,1.5,-2,0,F-1\n2,3,4,5.25,0,F-2\n"),
        ("ras.fcsv", "# Markups fiducial file version = 4.6\n# CoordinateSystem = 0\n# columns = id,x,y,z,ow,label\n"
                     "vtkMRML_0,0,-1.5,-2,0,F-1\nvtkMRML_1,-3,-4,5.25,0,F-2\n"),
    ],
)  # fmt: skip
def test_coordinates_as_other_programs_name_them(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    np.testing.assert_array_equal(read_points(tmp_path / name), POINTS)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("id,intensity,area,label\n1,2,3,4\n", "id, intensity, area, label name no x and y"),
        ('"Pt-0","true",1,2,3,4,5,6\n', "begin with 'Pt-0'"),  # pairs of BigWarp
        ("index\n2\n0 1 2\n3 4 5\n", "indices of voxels"),
        ("# Markups fiducial file version = 4.11\n# CoordinateSystem = IJK\n1,2,3,4\n", "IJK"),
    ],
)
def test_tables_whose_coordinates_are_not_known_are_refused(tmp_path: Path, text: str, match: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(InputError, match=match):
        read_points(tmp_path / "a.csv")


def test_named_columns_come_as_x_y_z(tmp_path: Path) -> None:
    """Wherever they are in the file, so that two files of one cloud are the same; `axes` asks for another order."""
    (tmp_path / "a.csv").write_text("time,z,y,x\n1,-2,1.5,0\n2,5.25,,3\n")
    wanted = np.array([[0, 1.5, -2], [3, np.nan, 5.25]])
    np.testing.assert_array_equal(read_points(tmp_path / "a.csv"), wanted)
    np.testing.assert_array_equal(read_points(tmp_path / "a.csv", axes="zyx"), wanted[:, ::-1])
    (tmp_path / "b.csv").write_text("-2,1.5,0\n5.25,,3\n")
    for axes in (None, "zyx", "xyz"):  # without names, columns stay as they are
        np.testing.assert_array_equal(read_points(tmp_path / "b.csv", axes=axes), wanted[:, ::-1])


@pytest.mark.parametrize("name", ["a.las", "a.laz"])
@pytest.mark.parametrize("version", [(0, "1.2"), (6, "1.4")])
def test_las(tmp_path: Path, name: str, version: tuple[int, str]) -> None:
    laspy = pytest.importorskip("laspy")
    header = laspy.LasHeader(point_format=version[0], version=version[1])
    header.offsets, header.scales = [1, 2, 3], [0.01, 0.001, 0.25]
    cloud = laspy.LasData(header)
    cloud.x, cloud.y, cloud.z = POINTS.T
    cloud.write(tmp_path / name)
    np.testing.assert_allclose(read_points(tmp_path / name), POINTS, atol=1e-9)
    content = bytearray((tmp_path / name).read_bytes())
    content[107:111] = (2**31).to_bytes(4, "little")  # points, in the header of 1.2; 1.4 has them at 247
    content[247:255] = (2**40).to_bytes(8, "little") if version[0] == 6 else content[247:255]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=name):
        read_points(tmp_path / name)
    (tmp_path / name).write_bytes(content[:120])
    with pytest.raises(InputError, match=name):
        read_points(tmp_path / name)


def packed_las(path: Path) -> bytearray:
    """A LAZ file whose points follow the header and one record."""
    laspy = pytest.importorskip("laspy")
    pytest.importorskip("lazrs")
    cloud = laspy.LasData(laspy.LasHeader(point_format=1, version="1.2"))
    cloud.x, cloud.y, cloud.z = np.random.default_rng(3).normal(size=(3, 70))
    cloud.write(path)
    return bytearray(path.read_bytes())


@pytest.mark.parametrize("points", [2**24, 2**31, 2**32 - 2, 0, 69])
def test_chunks_of_impossible_size_are_refused(tmp_path: Path, points: int) -> None:
    # The decoder makes room for a whole chunk, and ends the process where there is none.
    content = packed_las(tmp_path / "a.laz")
    record = content.index(b"laszip encoded") - 2 + 54
    assert content[record + 12 : record + 16] == (50_000).to_bytes(4, "little")
    content[record + 12 : record + 16] = points.to_bytes(4, "little")
    (tmp_path / "a.laz").write_bytes(content)
    with pytest.raises(InputError, match="chunks of"):
        read_points(tmp_path / "a.laz")


@pytest.mark.parametrize("chunks", [0, 2**31])
def test_a_table_of_an_impossible_number_of_chunks_is_refused(tmp_path: Path, chunks: int) -> None:
    content = packed_las(tmp_path / "a.laz")
    start = int.from_bytes(content[96:100], "little")
    table = int.from_bytes(content[start : start + 8], "little")
    content[table + 4 : table + 8] = chunks.to_bytes(4, "little")
    (tmp_path / "a.laz").write_bytes(content)
    with pytest.raises(InputError, match="chunks"):
        read_points(tmp_path / "a.laz")


def test_a_panic_of_the_decoder_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed_las(tmp_path / "a.laz")

    class PanicException(BaseException):
        """As pyo3 raises it."""

    def panics(*_: object) -> None:
        raise PanicException("range end index out of range")

    import laspy

    monkeypatch.setattr(laspy.LasReader, "read_points", panics)
    with pytest.raises(InputError, match="range end index"):
        read_points(tmp_path / "a.laz")


def test_las_without_laspy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.las").write_bytes(b"LASF" + bytes(400))
    monkeypatch.setitem(sys.modules, "laspy", None)
    with pytest.raises(MissingExtraError, match=r"daskreg\[las\]"):
        read_points(tmp_path / "a.las")


@pytest.mark.parametrize("order", ["<", ">"])
def test_binary_ply(tmp_path: Path, order: str) -> None:
    kind = "binary_little_endian" if order == "<" else "binary_big_endian"
    header = f"ply\nformat {kind} 1.0\nelement vertex 2\nproperty uchar i\nproperty float x\nproperty double y\n"
    records = np.zeros(2, dtype=[("i", "u1"), ("x", f"{order}f4"), ("y", f"{order}f8"), ("z", f"{order}f4")])
    records["x"], records["y"], records["z"] = POINTS.T
    (tmp_path / "a.ply").write_bytes((header + "property float z\nend_header\n").encode() + records.tobytes())
    np.testing.assert_array_equal(read_points(tmp_path / "a.ply"), POINTS)


HEADER = """# .PCD v0.7 - Point Cloud Data file format
VERSION 0.7
FIELDS intensity x y z _
SIZE 2 4 8 4 1
TYPE U F F F U
COUNT 1 1 1 1 3
WIDTH 2
HEIGHT 1
VIEWPOINT 0 0 0 1 0 0 0
POINTS 2
DATA """
LAYOUT = [("intensity", "<u2"), ("x", "<f4"), ("y", "<f8"), ("z", "<f4"), ("_", "u1", 3)]


def packed(content: bytes) -> bytes:
    """LZF with literals, and a copy where the rest repeats the bytes before it."""
    zeros = len(content) - len(content.rstrip(b"\0"))
    head = content[: len(content) - zeros + 1]
    out = b"".join(bytes([len(head[i : i + 32]) - 1]) + head[i : i + 32] for i in range(0, len(head), 32))
    left = zeros - 1
    return out + (bytes([(left - 2) << 5, 0]) if left < 9 else bytes([7 << 5, left - 9, 0]))


@pytest.mark.parametrize("encoding", ["ascii", "binary", "binary_compressed"])
def test_pcd(tmp_path: Path, encoding: str) -> None:
    records = np.zeros(2, dtype=LAYOUT)
    records["intensity"] = 7
    records["x"], records["y"], records["z"] = POINTS.T
    by_field = b"".join(np.ascontiguousarray(records[name]).tobytes() for name, *_ in LAYOUT)
    body = {
        "ascii": b"7 0 1.5 -2 0 0 0\n7 3 4 5.25 0 0 0\n",
        "binary": records.tobytes(),
        "binary_compressed": np.array([len(packed(by_field)), len(by_field)], "<u4").tobytes() + packed(by_field),
    }[encoding]
    (tmp_path / "a.pcd").write_bytes((HEADER + encoding + "\n").encode() + body)
    np.testing.assert_array_equal(read_points(tmp_path / "a.pcd"), POINTS)


@pytest.mark.parametrize(
    "body", [b"binary\n123", b"odd\n", b"binary_compressed\n\x02\0\0\0\x2a\0\0\0\x20\x05", b"ascii\n1 2\n"]
)
def test_broken_pcd(tmp_path: Path, body: bytes) -> None:
    (tmp_path / "a.pcd").write_bytes(HEADER.encode() + body)
    with pytest.raises(InputError, match="a.pcd"):
        read_points(tmp_path / "a.pcd")


def test_numpy(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", POINTS[:, :2])
    np.testing.assert_array_equal(read_points(tmp_path / "a.npy"), POINTS[:, :2])


def test_pickles_are_never_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{}, {}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="holds no points"):
        read_points(tmp_path / "a.npy")


@pytest.mark.parametrize("points", [np.eye(3) * 1j, np.zeros(3, [("x", "f4"), ("y", "f4")]), np.full((2, 3), "1")])
def test_arrays_that_hold_no_real_numbers(tmp_path: Path, points: NDArray[np.generic]) -> None:
    np.save(tmp_path / "a.npy", points)
    with pytest.raises(InputError, match="an array of"):
        read_points(tmp_path / "a.npy")


@pytest.mark.parametrize(
    "content",
    [
        b"", b"x,y,z\n", b"1 2 3\n4 5\n", b"hello\nworld\n", b"\xff\xfe\x00", b"1\n2\n",
        b"ply\n", b"ply\nformat ascii 1.0\n", b"ply\nformat ascii 1.0\nelement face 1\nend_header\n",
        b"ply\nformat ascii 1.0\nelement vertex 3\nproperty int x\nproperty int y\nend_header\n1 2\n3 4",
        b"ply\nformat ascii 1.0\nelement vertex -1\nproperty int x\nproperty int y\nend_header\n1 2\n3 4\n",
        b"ply\nformat ascii 1.0\nelement vertex 2\nproperty int y\nproperty int z\nend_header\n1 2\n3 4\n",
        b"VERSION .7\nFIELDS x y\nSIZE 4 4\nTYPE F F\nCOUNT 1 1\nPOINTS 3\nDATA ascii\n1 2\n3 4\n",
        b"VERSION .7\nFIELDS x y\nSIZE 4 4\nTYPE F F\nDATA ascii\n1 2\n3 4\n",
        b"1,2 3,4\n5,6 7,8\nx y\n",
        b"ply\nformat odd 1.0\nelement vertex 1\nproperty float x\nend_header\n",
    ],
)  # fmt: skip
def test_what_holds_no_points_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.dat").write_bytes(content)
    with pytest.raises(InputError, match="a.dat"):
        read_points(tmp_path / "a.dat")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no file"):
        read_points(tmp_path / "none.ply")


def test_real_clouds(data: Path) -> None:
    assert read_points(data / "points/lidar/data/source.ply").shape == (69792, 3)
    assert read_points(data / "points/mesh/suzanne.ply").shape == (1966, 3)
    assert read_points(data / "points/webots/webots1.xyz").shape[1] == 3
    assert read_points(data / "points/car/car_cloud400.csv").shape[1] == 3
    assert read_points(data / "points/itk_icp/IterativeClosestPointFixedPoints.txt").shape[1] == 2
