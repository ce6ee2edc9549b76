"""VTKHDF: what VTK reads of our files, what we read of VTK's, and files that h5py writes after the specification."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import daskreg as dr
from daskreg.errors import GridError, MetadataWarning, NotAVolumeError, OptionError
from daskreg.volumes import to_dataarray

VALUES = np.random.default_rng(1).integers(0, 120, (7, 19, 26)).astype(np.int16)
TURN = dr.Affine.rotation(rx=0.3, ry=-0.2, rz=0.5).linear
PLACES = {"spacing": (2.5, 0.5, 0.75), "origin": (-11, 7, 3.5), "unit": "mm"}


def image(path: Path, arrays: dict[str, Any], *, kind: str = "ImageData", **attributes: Any) -> Path:
    """x, y, z from 3, 0 and -2 on, with a direction that maps x to y."""
    with h5py.File(path, "w") as file:
        group = file.create_group("VTKHDF")
        group.attrs["Type"] = np.bytes_(kind)
        places = {"WholeExtent": (3, 28, 0, 18, -2, 4), "Spacing": (0.5, 1, 2), "Origin": (10, 20, 30)}
        stated = {"Version": (2, 0), "Direction": (0, -1, 0, 1, 0, 0, 0, 0, 1)} | places
        for name, value in (stated | attributes).items():
            if value is not None:
                group.attrs[name] = value
        for name, values in arrays.items():
            group.create_dataset(
                name, data=values, chunks=(3, 5, 7) if np.ndim(values) == 3 and len(values) > 2 else None
            )
    return path


@pytest.mark.parametrize("direction", [None, TURN], ids=["straight", "turned"])
def test_what_is_written_comes_back(tmp_path: Path, direction: Any) -> None:
    source = to_dataarray(VALUES, dr.Grid(VALUES.shape, direction=direction, **PLACES), name="a/b")
    dr.write(source, tmp_path / "a.vtkhdf", progress=False)
    opened = dr.open(tmp_path / "a.vtkhdf")
    np.testing.assert_array_equal(opened, VALUES)
    assert opened.name == "a_b"
    assert dr.grid(opened).same(dr.grid(source), tolerance=1e-9)
    flat = to_dataarray(VALUES[0], dr.Grid(VALUES.shape[1:], 0.5, (3, 4), unit="um"), name="flat")
    dr.write(flat, tmp_path / "flat.vtkhdf", progress=False)
    np.testing.assert_array_equal(dr.open(tmp_path / "flat.vtkhdf"), VALUES[0])
    assert dr.grid(dr.open(tmp_path / "flat.vtkhdf")).same(dr.grid(flat))


def test_vtk_agrees(tmp_path: Path) -> None:
    vtk = pytest.importorskip("vtk")
    from vtk.util.numpy_support import vtk_to_numpy

    source = to_dataarray(VALUES, dr.Grid(VALUES.shape, direction=TURN, **PLACES), name="a")
    dr.write(source, tmp_path / "a.vtkhdf", progress=False)
    reader = vtk.vtkHDFReader()
    reader.SetFileName(str(tmp_path / "a.vtkhdf"))
    reader.Update()
    read = reader.GetOutput()
    np.testing.assert_array_equal(vtk_to_numpy(read.GetPointData().GetArray("a")).reshape(VALUES.shape), VALUES)
    place = [0.0, 0.0, 0.0]
    read.TransformIndexToPhysicalPoint((25, 3, 4), place)
    np.testing.assert_allclose(place, dr.grid(source).world((4, 3, 25))[::-1], atol=1e-9)
    read.SetExtent(3, 28, 0, 18, -2, 4)
    writer = vtk.vtkHDFWriter()
    writer.SetInputData(read)
    writer.SetFileName(str(tmp_path / "b.vtkhdf"))
    writer.Write()
    opened = dr.open(tmp_path / "b.vtkhdf", unit="mm")
    np.testing.assert_array_equal(opened, VALUES)
    read.TransformIndexToPhysicalPoint((3 + 25, 3, -2 + 4), place)
    np.testing.assert_allclose(dr.grid(opened).world((4, 3, 25))[::-1], place, atol=1e-9)


def test_extent_direction_and_cells(tmp_path: Path) -> None:
    path = image(tmp_path / "a.vtkhdf", {"PointData/p": VALUES, "CellData/c": VALUES[1:, 1:, 1:]})
    with pytest.warns(MetadataWarning, match="2 arrays: PointData/p, CellData/c; PointData/p is taken"):
        points = dr.open(path)
    np.testing.assert_array_equal(points, VALUES)
    # Index (z, y, x) = (0, 0, 0) is that of the extent (3, 0, -2): x leads along the world's y.
    np.testing.assert_allclose(dr.grid(points).world((0, 0, 0)), (30 - 4, 20 + 1.5, 10))
    np.testing.assert_allclose(dr.grid(points).world((1, 2, 3)), (30 - 2, 20 + 3, 10 - 2))
    cells = dr.open(path, series="c")
    np.testing.assert_array_equal(cells, VALUES[1:, 1:, 1:])
    np.testing.assert_allclose(dr.grid(cells).world((0, 0, 0)), (30 - 3, 20 + 1.75, 10 - 0.5))
    vectors = image(tmp_path / "v.vtkhdf", {"PointData/v": np.stack([VALUES, -VALUES], -1)}, Direction=None)
    opened = dr.open(vectors, spacing=2, unit="um")
    assert (opened.dims, dr.grid(opened).spacing) == (("c", "z", "y", "x"), (2, 2, 2))
    np.testing.assert_array_equal(opened, (VALUES, -VALUES))


CASES: list[tuple[dict[str, Any], dict[str, Any], type[Exception], str]] = [
    ({"PointData/p": VALUES}, {"kind": "PolyData"}, NotAVolumeError, "holds PolyData of VTKHDF"),
    ({"PointData/p": VALUES[1:]}, {}, NotAVolumeError, "the extent is"),
    ({"PointData/p": VALUES}, {"WholeExtent": (0, 1)}, NotAVolumeError, "states no extent"),
    ({"PointData/p": VALUES}, {"Direction": np.zeros(9)}, dr.errors.InputError, "0"),
    ({"PointData/p": VALUES, "Steps/Values": [0.0, 1.0]}, {}, NotAVolumeError, "several times"),
    ({"FieldData/p": [1.0]}, {}, NotAVolumeError, "no array of an image"),
]


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_files_that_are_refused(tmp_path: Path, case: Any) -> None:
    arrays, attributes, error, words = case
    with pytest.raises(error, match=words):
        dr.open(image(tmp_path / "a.vtkhdf", arrays, **attributes))


def test_other_requests_that_are_refused(tmp_path: Path) -> None:
    path = image(tmp_path / "a.vtkhdf", {"PointData/p": VALUES})
    with pytest.raises(NotAVolumeError, match="no array 'q' of an image; it holds PointData/p"):
        dr.open(path, series="q")
    with pytest.raises(OptionError, match="no levels"):
        dr.open(path, level=1)
    h5py.File(tmp_path / "b.vtkhdf", "w").close()
    with pytest.raises(NotAVolumeError, match="holds nothing of VTKHDF"):
        dr.open(tmp_path / "b.vtkhdf")
    with pytest.raises(GridError, match="names of axes"):
        dr.write(dr.open(path).rename(z="w"), tmp_path / "c.vtkhdf", progress=False)


def test_cells_of_a_plane(tmp_path: Path) -> None:
    straight = {"WholeExtent": (0, 5, 0, 4, 0, 0), "Direction": None}
    path = image(tmp_path / "a.vtkhdf", {"CellData/c": VALUES[:1, :4, :5]}, **straight)
    opened = dr.open(path)
    np.testing.assert_array_equal(opened, VALUES[0, :4, :5])
    np.testing.assert_allclose(opened.y, 20 + 1.0 * (np.arange(4) + 0.5))
    np.testing.assert_allclose(opened.x, 10 + 0.5 * (np.arange(5) + 0.5))
