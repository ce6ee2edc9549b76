"""Files of landmarks and annotations: what they hold, and that moved points lie where the warped image shows them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from scipy.ndimage import center_of_mass

import daskreg as dr
from daskreg.cli import run
from daskreg.errors import InputError, InvalidTransformError, OptionError, ShapeMismatchError
from daskreg.formats.point_tables import read_table
from daskreg.landmarks import move_points, read_pairs

Floats = np.ndarray[Any, np.dtype[np.float64]]

FIXED = np.array([[1.0, 22.5, 30.0], [4.0, 2.0, 33.0], [9.0, 17.0, -3.5], [2.0, 41.0, 8.0]])  # z, y, x
MOVING = FIXED + np.array([1.5, -2.0, 4.0])


def fcsv(points: Floats, *, system: str, labels: tuple[str, ...]) -> str:
    """Slicer's markups, written by hand from LPS points in z, y, x."""
    signs = {"LPS": (1, 1, 1), "RAS": (1, -1, -1), "0": (1, -1, -1)}[system]
    lines = ["# Markups fiducial file version = 4.11", f"# CoordinateSystem = {system}",
             "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID"]  # fmt: skip
    for number, (point, label) in enumerate(zip(points * signs, labels, strict=True)):
        x, y, z = point[::-1].tolist()
        lines.append(f"vtkMRMLMarkupsFiducialNode_{number},{x!r},{y!r},{z!r},0,0,0,1,1,1,0,{label},left lobe,")
    return "\n".join([*lines, ""])


def markups(points: Floats, *, system: str, labels: tuple[str, ...]) -> str:
    """The same as Slicer writes it now, with a point that was not placed."""
    signs = (1, 1, 1) if system == "LPS" else (1, -1, -1)
    placed = [{"id": str(k), "label": label, "position": place[::-1].tolist(), "positionStatus": "defined"}
              for k, (place, label) in enumerate(zip(points * signs, labels, strict=True))]  # fmt: skip
    waiting = {"id": "9", "label": "later", "position": [0, 0, 0], "positionStatus": "undefined"}
    whole = {
        "type": "Fiducial",
        "coordinateSystem": system,
        "controlPoints": [waiting, *placed],
        "display": {"color": [1]},
    }
    return json.dumps({"@schema": "markups-schema-v1.0.3.json#", "markups": [whole]})


# --- Pairs -------------------------------------------------------------------------------------


@pytest.mark.parametrize("ndim", [2, 3])
def test_bigwarp(ndim: int, tmp_path: Path) -> None:
    """Name, active, moving x y z, target x y z; the target is fixed. What is not active, or not set, is left out."""
    lines = []
    for number, (f, m) in enumerate(zip(FIXED[:, -ndim:], MOVING[:, -ndim:], strict=True)):
        words = [f"Pt-{number}", "true", *map(str, m[::-1]), *map(str, f[::-1])]
        lines.append(",".join(f'"{word}"' for word in words))
    lines.insert(1, ",".join(['"Pt-9"', '"false"', *['"1.0"'] * (2 * ndim)]))
    lines.insert(2, ",".join(['"Pt-8"', '"true"', *['"Infinity"'] * ndim, *['"1.0"'] * ndim]))
    (tmp_path / "landmarks.csv").write_text("\n".join(lines))
    found = read_pairs(tmp_path / "landmarks.csv")
    np.testing.assert_array_equal(found.fixed, FIXED[:, -ndim:])
    np.testing.assert_array_equal(found.moving, MOVING[:, -ndim:])
    assert found.names == ("Pt-0", "Pt-1", "Pt-2", "Pt-3")


def test_slicer_pairs_by_label(tmp_path: Path) -> None:
    """RAS and LPS are one place; labels pair the points where both files have the same ones."""
    names = ("a", "b", "c", "d")
    order = [2, 0, 3, 1]
    (tmp_path / "f.fcsv").write_text(fcsv(FIXED, system="LPS", labels=names))
    (tmp_path / "m.fcsv").write_text(fcsv(MOVING[order], system="0", labels=tuple(names[k] for k in order)))
    found = read_pairs(tmp_path / "f.fcsv", tmp_path / "m.fcsv")
    np.testing.assert_array_equal(found.fixed, FIXED)
    np.testing.assert_array_equal(found.moving, MOVING)
    assert (found.names, found.unit) == (names, "millimeter")
    (tmp_path / "m.fcsv").write_text(fcsv(MOVING, system="RAS", labels=("M-1", "M-2", "M-3", "M-4")))
    np.testing.assert_array_equal(read_pairs(tmp_path / "f.fcsv", tmp_path / "m.fcsv").moving, MOVING)


def test_elastix_napari_and_columns(tmp_path: Path) -> None:
    for name, points in (("f", FIXED), ("m", MOVING)):
        rows = "\n".join(" ".join(map(str, p[::-1])) for p in points)
        (tmp_path / f"{name}.txt").write_text(f"point\n4\n{rows}\n")
        rows = "\n".join(f"{k},{','.join(map(str, p))}" for k, p in enumerate(points))
        (tmp_path / f"{name}.csv").write_text(f"index,axis-0,axis-1,axis-2\n{rows}\n")
        rows = "\n".join(f"cell;{x};{z};{y}" for z, y, x in points.tolist())
        (tmp_path / f"{name}_named.csv").write_text(f"kind;POSITION_X;Position Z (um);position_y\n{rows}\n")
    for first, second in (("f.txt", "m.txt"), ("f.csv", "m.csv"), ("f_named.csv", "m_named.csv"), ("f.txt", "m.csv")):
        found = read_pairs(tmp_path / first, tmp_path / second)
        np.testing.assert_array_equal(found.fixed, FIXED)
        np.testing.assert_array_equal(found.moving, MOVING)


@pytest.mark.parametrize(
    ("names", "order"),
    [
        ("fixed_x,fixed_y,fixed_z,moving_x,moving_y,moving_z", "xyz"),
        ("name,source z,source y,source x,target z,target y,target x", "zyx"),
        (None, "xyz"),
        (None, "zyx"),
    ],
)
def test_tables_of_pairs(names: str | None, order: str, tmp_path: Path) -> None:
    columns = ["zyx".index(axis) for axis in order]
    halves = (MOVING, FIXED) if names and "source" in names else (FIXED, MOVING)
    rows = [",".join(map(str, [*a[columns], *b[columns]])) for a, b in zip(*halves, strict=True)]
    if names and names.startswith("name"):
        rows = [f"P{k},{row}" for k, row in enumerate(rows)]
    (tmp_path / "pairs.csv").write_text("\n".join([*([names] if names else []), *rows]) + "\n")
    found = read_pairs(tmp_path / "pairs.csv", axes=None if names else order)
    np.testing.assert_array_equal(found.fixed, FIXED)
    np.testing.assert_array_equal(found.moving, MOVING)


def test_pairs_that_are_refused(tmp_path: Path) -> None:
    for text, error, message in (
        ("", InputError, "no rows"),
        ("a,b\n1,2\n", InputError, "none of its columns a, b"),
        ("1,2,3\n4,5,6\n", InputError, "begin with 3 numbers"),
        ("fixed_x,fixed_y,moving_x\n1,2,3\n", InputError, "no x and y"),
        ("fixed_x,fixed_x,fixed_y,moving_x,moving_y\n1,2,3,4,5\n", InputError, "both of x"),
        ("fixed_x,fixed_y,moving_x,moving_y\n1,2,3,b\n", InputError, "could not convert"),
        ('"P","false","1","2","3","4"\n', InputError, "none of its pairs"),
    ):
        (tmp_path / "pairs.csv").write_text(text)
        with pytest.raises(error, match=rf"pairs\.csv.*{message}"):
            read_pairs(tmp_path / "pairs.csv")
    with pytest.raises(InputError, match="there is no file"):
        read_pairs(tmp_path / "gone.csv")
    (tmp_path / "a.csv").write_text("x,y\n1,2\n3,4\n")
    (tmp_path / "b.csv").write_text("x,y\n1,2\n")
    with pytest.raises(ShapeMismatchError, match="do not pair"):
        read_pairs(tmp_path / "a.csv", tmp_path / "b.csv")
    (tmp_path / "c.txt").write_text("index\n2\n1 2\n3 4\n")
    with pytest.raises(InputError, match="voxel indices"):
        read_pairs(tmp_path / "a.csv", tmp_path / "c.txt")


def test_real_pairs(data: Path, tmp_path: Path) -> None:
    """BIRL's landmarks of an image and its rigid copy."""
    folder = data / "images2d" / "histology" / "landmarks"
    found = read_pairs(folder / "artificial_reference.csv", folder / "artificial_moving-rigid.csv")
    fit = dr.fit_points(found.fixed, found.moving)
    assert fit.ok
    assert fit.rmse < 2  # whole pixels


# --- Moving points with an image ---------------------------------------------------------------

SPOT = np.array([[7.0, 14.0, 33.0]])  # voxels


def spot_of(volume: Any) -> Floats:
    """World position of the only bright spot of a volume."""
    return dr.grid(volume).world(center_of_mass(np.asarray(volume)))


def volume_with_spot(direction: Floats | None = None) -> Any:
    grid = dr.Grid((15, 30, 50), spacing=(3, 1.5, 0.5), origin=(20, -5, 9), unit="um")
    values = np.zeros(grid.shape, np.float32)
    z, y, x = np.indices(grid.shape)
    values += np.exp(-((z - 7) ** 2 / 2 + (y - 14) ** 2 / 6 + (x - 33) ** 2 / 18))
    opened = dr.open(values, spacing=grid.spacing, unit="um")
    return opened.assign_coords({a: opened[a] + o for a, o in zip("zyx", grid.origin, strict=True)})


TURN = dr.Affine.from_parameters(rx=0.05, ry=-0.03, rz=0.15, tx=1, ty=-2, tz=1.5, centre=(41, 16, 22), unit="um")


def bend_of(grid: dr.Grid) -> dr.DisplacementField:
    """Up to 4 um along x, which changes slowly along y."""
    nodes = dr.Grid((6, 8, 10), 9.0, np.subtract(grid.origin, 12), unit="um")
    vectors = np.zeros((3, *nodes.shape))
    vectors[2] = 4 * np.sin(np.arange(8) / 3)[:, None]
    return dr.DisplacementField(vectors, nodes)


@pytest.mark.parametrize("way", ["pull", "push"])
@pytest.mark.parametrize("kind", ["solid", "flat", "slices", "field", "fields of slices"])
def test_a_moved_point_lies_on_the_moved_spot(way: str, kind: str) -> None:
    volume = volume_with_spot()
    flat = dr.Affine.from_parameters(theta=0.2, tx=1.5, ty=-2, centre=(16, 22), unit="um")
    slices = dr.SliceAffines(np.stack([flat.matrix] * 5 + [np.linalg.inv(flat.matrix)] * 10), unit="um")
    vectors = np.zeros((2, 8, 10))
    vectors[1] = 2 * np.sin(np.arange(8) / 3)[:, None]
    nodes = dr.Grid((8, 10), 9.0, np.subtract(dr.grid(volume).origin[1:], 12), unit="um")
    bent = dr.SliceDisplacements(np.stack([vectors] * 5 + [-vectors] * 10), nodes)
    transform: Any = {
        "solid": TURN,
        "flat": flat,
        "slices": slices,
        "fields of slices": slices @ bent,
        "field": bend_of(dr.grid(volume)) @ TURN,
    }[kind]
    warped = dr.warp(volume, **{way: transform})
    grid = dr.grid(volume)
    moved = move_points(grid.world(SPOT), **{way: transform}, source=grid)
    np.testing.assert_allclose(moved[0], spot_of(warped), rtol=0, atol=0.1)
    assert np.abs(moved - grid.world(SPOT)).max() > 1
    voxels = move_points(SPOT, **{way: transform}, source=grid, like=dr.grid(warped), pixels=True)
    np.testing.assert_allclose(dr.grid(warped).world(voxels), moved, rtol=0, atol=1e-9)


def test_slices_by_number_and_what_is_refused() -> None:
    stack = dr.SliceAffines(np.stack([dr.Affine.translation(x=float(k)).matrix for k in range(4)]))
    np.testing.assert_allclose(move_points([[2, 5, 5]], push=stack), [[2, 5, 7]])
    np.testing.assert_allclose(move_points([[2, 5, 5]], pull=stack), [[2, 5, 3]])
    for points, options, error, message in (
        ([[2.5, 5, 5]], {"push": stack}, OptionError, "z does not count slices"),
        ([[7, 5, 5]], {"push": stack}, ShapeMismatchError, r"slices 7\.\.7"),
        ([[5, 5]], {"push": stack}, InvalidTransformError, "2D points"),
        ([[5, 5]], {"push": TURN}, InvalidTransformError, "3D transform.*2D points"),
        ([[5, 5]], {}, OptionError, "either pull= or push="),
        ([5, 5], {"push": TURN}, ShapeMismatchError, r"\(N, 2\)"),
        ([[5, 5, 5]], {"push": TURN, "pixels": True}, OptionError, "--source"),
    ):
        with pytest.raises(error, match=message):
            move_points(points, **options)  # type: ignore[arg-type]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    dr.Affine.from_parameters(rz=0.3, tx=5, ty=-2, tz=1).save("t.json")
    return tmp_path


def test_points_through_the_fields_of_slices_on_the_command_line(here: Path) -> None:
    """Without --source, z is the number of the slice."""
    vectors = np.stack([np.full((2, 3, 3), k) for k in range(4)]).astype(float)
    dr.SliceDisplacements(vectors, dr.Grid((3, 3), 20.0)).save("fields.zarr")
    Path("in.csv").write_text("x,y,z\n10,12,2\n10,12,3\n")
    assert run(["transform", "points", "fields.zarr", "in.csv", "out.csv", "--push"]) == 0
    np.testing.assert_allclose(read_table("out.csv").points, [[2, 14, 12], [3, 15, 13]], atol=1e-6)
    Path("in.csv").write_text("x,y,z\n10,12,7\n")
    assert run(["transform", "points", "fields.zarr", "in.csv", "out.csv", "--push"]) == 2


def test_csv_on_the_command_line(here: Path) -> None:
    """The other columns stay, in their order; the points go through the inverse, as the content of a pulled image."""
    rows = [["track", "X", "y", "note", "z"], ["1", "30.0", "22.5", "a, b", "1.0"], ["2", "33.0", "2.0", "", "4.0"]]
    with Path("in.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    assert run(["transform", "points", "t.json", "in.csv", "out.csv"]) == 0
    with Path("out.csv").open() as file:
        found = list(csv.reader(file))
    assert [[row[0], row[3]] for row in found] == [[row[0], row[3]] for row in rows]
    assert found[0] == rows[0]
    back = dr.load("t.json")
    moved = np.array([[float(row[k]) for k in (4, 2, 1)] for row in found[1:]])
    np.testing.assert_allclose(back(moved), FIXED[:2], rtol=0, atol=1e-9)
    assert run(["transform", "points", "t.json", "out.csv", "again.csv", "--push"]) == 0
    np.testing.assert_allclose(read_table("again.csv").points, FIXED[:2], rtol=0, atol=1e-9)


def test_landmarks_of_bigwarp_on_the_command_line(here: Path) -> None:
    """The moving points go where the image goes, to their targets; what was not set stays."""
    back = dr.load("t.json")
    rows = [[f"Pt-{k}", "true", *back(f)[::-1], *f[::-1]] for k, f in enumerate(FIXED)]
    rows.insert(1, ["Pt-9", "false", *["Infinity"] * 3, 1.0, 2.0, 3.0])
    with Path("landmarks.csv").open("w", newline="") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows(rows)
    assert run(["transform", "points", "t.json", "landmarks.csv", "out.csv"]) == 0
    assert (
        Path("out.csv").read_text().splitlines()[1]
        == '"Pt-9","false","Infinity","Infinity","Infinity","1.0","2.0","3.0"'
    )
    found = read_pairs("out.csv")
    np.testing.assert_allclose(found.moving, FIXED, rtol=0, atol=1e-9)
    np.testing.assert_array_equal(found.fixed, FIXED)


def test_lines_of_units_and_empty_cells_stay(here: Path) -> None:
    """TrackMate writes names, long names and units above the spots; a point without a place keeps none."""
    text = "LABEL,POSITION_X,POSITION_Y,POSITION_Z\nLabel,X,Y,Z\n,(micron),(micron),(micron)\nID1,30,22.5,1\nID2,,,\n"
    Path("in.csv").write_text(text)
    assert run(["transform", "points", "t.json", "in.csv", "out.csv", "--push"]) == 0
    lines = Path("out.csv").read_text().splitlines()
    assert lines[:3] == text.splitlines()[:3]
    z, y, x = dr.load("t.json")([[1, 22.5, 30]])[0]
    np.testing.assert_allclose([float(word) for word in lines[3].split(",")[1:]], [x, y, z], rtol=0, atol=1e-9)
    assert lines[4] == "ID2,,,"


@pytest.mark.parametrize("system", ["LPS", "RAS"])
def test_fcsv_on_the_command_line(here: Path, system: str) -> None:
    Path("in.fcsv").write_text(fcsv(FIXED, system=system, labels=("a", "b", "c", "d")))
    assert run(["transform", "points", "t.json", "in.fcsv", "out.fcsv", "--push"]) == 0
    table = read_table("out.fcsv")
    np.testing.assert_allclose(table.points, dr.load("t.json")(FIXED), rtol=0, atol=1e-9)
    assert table.labels == ("a", "b", "c", "d")
    before, after = (Path(name).read_text().splitlines() for name in ("in.fcsv", "out.fcsv"))
    assert before[:3] == after[:3]
    assert [line.split(",")[4:] for line in before[3:]] == [line.split(",")[4:] for line in after[3:]]


@pytest.mark.parametrize("system", ["LPS", "RAS"])
def test_markups_of_slicer(here: Path, system: str) -> None:
    text = markups(FIXED, system=system, labels=("a", "b", "c", "d"))
    Path("in.mrk.json").write_text(text)
    assert run(["transform", "points", "t.json", "in.mrk.json", "out.mrk.json", "--push"]) == 0
    table = read_table("out.mrk.json")
    moved = dr.load("t.json")(FIXED)
    np.testing.assert_allclose(table.points, moved, rtol=0, atol=1e-9)
    assert (table.labels, table.unit) == (("a", "b", "c", "d"), "millimeter")
    expected = markups(table.points, system=system, labels=table.labels)
    assert json.loads(Path("out.mrk.json").read_text()) == json.loads(expected)


@pytest.mark.parametrize("unit", ["um", ["um", "UCUM", "micrometer"]])
def test_markups_in_another_unit_are_read_in_millimetres(tmp_path: Path, unit: Any) -> None:
    whole = json.loads(markups(FIXED * 1000, system="RAS", labels=("a", "b", "c", "d")))
    whole["markups"][0]["coordinateUnits"] = unit
    (tmp_path / "a.mrk.json").write_text(json.dumps(whole))
    table = read_table(tmp_path / "a.mrk.json")
    np.testing.assert_allclose(table.points, FIXED, rtol=1e-12)
    (tmp_path / "b.mrk.json").write_text(table.replaced(table.points + 0.5))
    np.testing.assert_allclose(read_table(tmp_path / "b.mrk.json").points, FIXED + 0.5, rtol=1e-12)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"position": [1]}, r"control point b is \[1\], not three"),
        ({"position": "123"}, "is 123, not three"),
        ({"position": [1, 2, "3"]}, "not three"),
        ({"position": [1, 2, float("inf")]}, "not three"),
        ({"position": None}, "is None, not three"),
        ({"coordinateUnits": "parrots"}, "are 'parrots', no known length"),
        ({"coordinateUnits": ["s", "UCUM", "second"]}, "are 's', no known length"),
        ({"coordinateSystem": "IJK"}, "IJK, not RAS or LPS"),
        ({"controlPoints": []}, "none of its control points"),
        ({"controlPoints": 3}, "no points that can be read"),
    ],
)
def test_damaged_markups_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    whole = json.loads(markups(FIXED, system="LPS", labels=("a", "b", "c", "d")))
    markup = whole["markups"][0]
    (markup["controlPoints"][2] if "position" in changes else markup).update(changes)
    (tmp_path / "a.mrk.json").write_text(json.dumps(whole))
    with pytest.raises(InputError, match=rf"a\.mrk\.json.*{message}"):
        read_table(tmp_path / "a.mrk.json")


@pytest.mark.parametrize("key", ["center", "orientation"])
def test_a_markup_with_a_centre_is_read_but_not_moved(tmp_path: Path, key: str) -> None:
    whole = json.loads(markups(FIXED, system="LPS", labels=("a", "b", "c", "d")))
    whole["markups"][0].update({"type": "ROI", key: [0, 0, 0]})
    (tmp_path / "a.mrk.json").write_text(json.dumps(whole))
    table = read_table(tmp_path / "a.mrk.json")
    np.testing.assert_array_equal(table.points, FIXED)
    with pytest.raises(InputError, match="the type ROI .* point list"):
        table.replaced(FIXED)


def test_geojson_with_a_property_named_as_the_points_of_slicer(tmp_path: Path) -> None:
    feature = {"type": "Feature", "properties": {"controlPoints": 4}}
    (tmp_path / "a.geojson").write_text(json.dumps(feature | {"geometry": {"type": "Point", "coordinates": [3, 4]}}))
    np.testing.assert_array_equal(read_table(tmp_path / "a.geojson").points, [[4, 3]])


def test_geojson_on_the_command_line(here: Path) -> None:
    """Nested positions of QuPath's annotations, and everything else as it was."""
    dr.Affine.from_parameters(theta=0.3, tx=5, ty=-2).save("flat.json")
    ring = [[1.0, 2.0], [5.0, 2.0], [5.0, 7.5], [1.0, 2.0]]
    whole = {"type": "FeatureCollection", "features": [
        {"type": "Feature", "id": "a", "properties": {"coordinates": "left", "classification": {"color": [1, 2, 3]}},
         "geometry": {"type": "Polygon", "coordinates": [ring]}},
        {"type": "Feature", "properties": {}, "geometry": {"type": "GeometryCollection", "geometries": [
            {"type": "Point", "coordinates": [3, 4]}]}}]}  # fmt: skip
    Path("in.geojson").write_text(json.dumps(whole))
    assert run(["transform", "points", "flat.json", "in.geojson", "out.geojson", "--push"]) == 0
    found = json.loads(Path("out.geojson").read_text())
    motion = dr.load("flat.json")
    polygon, point = (feature["geometry"] for feature in found["features"])
    moved = [*polygon["coordinates"][0], point["geometries"][0]["coordinates"]]
    for (x, y), (a, b) in zip([*ring, [3, 4]], moved, strict=True):
        np.testing.assert_allclose([b, a], motion([y, x]), rtol=0, atol=1e-9)
    found["features"][0]["geometry"]["coordinates"] = [ring]
    found["features"][1]["geometry"]["geometries"][0]["coordinates"] = [3, 4]
    assert found == whole


def test_voxels_and_elastix_on_the_command_line(here: Path) -> None:
    """An elastix file of indices counts voxels of the image."""
    affine = np.diag([0.5, 1.5, 3.0, 1.0])
    nibabel.save(nibabel.Nifti1Image(np.zeros((50, 30, 15), np.uint8), affine), "image.nii")
    grid = dr.grid(dr.open("image.nii"))
    Path("in.txt").write_text("index\n1\n33 14 7\n")
    assert run(["transform", "points", "t.json", "in.txt", "out.txt"]) == 2
    assert run(["transform", "points", "t.json", "in.txt", "out.txt", "--source", "image.nii"]) == 0
    found = read_table("out.txt")
    assert found.in_voxels
    np.testing.assert_allclose(dr.load("t.json")(grid.world(found.points)), grid.world(SPOT), rtol=0, atol=1e-9)
    np.savetxt("in.csv", SPOT, delimiter=",")
    command = [
        "transform",
        "points",
        "t.json",
        "in.csv",
        "out.csv",
        "--voxels",
        "--axes",
        "zyx",
        "--source",
        "image.nii",
    ]
    assert run(command) == 0
    np.testing.assert_allclose(np.loadtxt("out.csv", delimiter=","), found.points[0], rtol=0, atol=1e-9)


@pytest.mark.slow
def test_landmarks_on_the_command_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    fixed = rng.uniform(0, 100, (9, 2))
    moving = dr.Affine.from_parameters(theta=0.2, tx=4)(fixed) + rng.normal(0, 0.2, (9, 2))
    moving[4] += 30
    names = "fixed_y,fixed_x,moving_y,moving_x"
    np.savetxt("pairs.csv", np.hstack([fixed, moving]), delimiter=",", header=names, comments="")
    assert run(["landmarks", "pairs.csv", "--out", "fit.json"]) == 1
    assert "outliers: 4" in capsys.readouterr().out
    assert not Path("fit.json").exists()
    assert (
        run(["landmarks", "pairs.csv", "--out", "fit.json", "--ransac", "2", "--unit", "um", "--plot", "fit.png"]) == 0
    )
    fit = json.loads(Path("fit.json").read_text())
    assert fit["parameters"]["theta"] == pytest.approx(0.2, abs=0.01)
    assert (fit["status"].lower().split(".")[-1], fit["outliers"]) == ("determined", [4])
    assert dr.load("fit.json").unit == "micrometer"
    assert run(["landmarks", "pairs.csv", "--out", "fit.json", "--ransac", "some"]) == 2


@pytest.mark.slow
def test_convert_names_the_grids(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, zooms in (("fixed", (0.5, 1.5, 3.0)), ("moving", (-1.0, 1.0, 2.0))):
        nibabel.save(nibabel.Nifti1Image(np.zeros((20, 30, 15), np.uint8), np.diag([*zooms, 1.0])), f"{name}.nii")
    assert run(["transform", "convert", "t.json", "t.lta"]) == 2
    told = capsys.readouterr().err
    assert "FreeSurfer counts in the voxels of its images: give --fixed and --moving (a Grid of each, or, on" in told
    grids = ["--fixed", "fixed.nii", "--moving", "moving.nii"]
    for name in ("t.lta", "t.fsl", "t.1D", "t.xml", "t.matrix.txt", "t.ngff.json", "tGenericAffine.mat"):
        assert run(["transform", "convert", "t.json", name, *grids]) == 0
        view = ["--view", "1"] if name.endswith("xml") else []
        assert run(["transform", "convert", name, "back.json", *grids, *view]) == 0
        np.testing.assert_allclose(dr.load("back.json").to_matrices(), dr.load("t.json").to_matrices(), atol=1e-9)
    assert run(["transform", "convert", "t.json", "t.mat", *grids]) == 2
    assert "ANTs or FSL: say which" in capsys.readouterr().err
    assert run(["transform", "convert", "t.json", "t.mat", "--to", "fsl", *grids]) == 0
    assert run(["transform", "show", "t.mat", *grids]) == 0
