"""Fields of OME-NGFF as other tools may write them: axes, units, multiscales, and what changes in the store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from deformations import RNG, affine_of, smooth_vectors

import daskreg as dr
from daskreg.errors import ChunkReadError, InvalidTransformError, OptionError, UnitError

NODES = dr.Grid((5, 7, 6), (9.0, 7.0, 8.0), (-4.0, 3.0, 1.5), unit="um")


def points_in(nodes: dr.Grid) -> np.ndarray:
    return nodes.world(RNG.uniform(0.1, np.asarray(nodes.shape) - 1.1, (50, nodes.ndim)))


def write(
    path: Path,
    vectors: np.ndarray,
    nodes: dr.Grid,
    *,
    names: str = "zyx",
    units: tuple[str | None, ...] = ("micrometer",) * 3,
    kind: str = "displacements",
    before: dict[str, Any] | None = None,
    change: Callable[[dict[str, Any]], object] = lambda scale: None,
    dimension_names: list[str] | None = None,
    systems: list[dict[str, Any]] | None = None,
) -> None:
    """By zarr alone: a field with the axes `names` in the order of `nodes`, after a transformation `before`."""
    group = zarr.open_group(path, mode="w")
    field = group.create_group("field")
    chunks = (nodes.ndim, *(3,) * nodes.ndim)
    field.create_array("0", data=vectors, chunks=chunks, dimension_names=dimension_names)
    space = [{"name": n, "type": "space"} | ({"unit": u} if u else {}) for n, u in zip(names, units, strict=False)]
    steps = [
        {"type": "scale", "scale": [1.0, *nodes.spacing]},
        {"type": "translation", "translation": [0.0, *nodes.origin]},
    ]
    scale: dict[str, Any] = {
        "axes": [{"name": "c", "type": kind.removesuffix("s")}, *space],
        "datasets": [{"path": "0", "coordinateTransformations": steps}],
    }
    change(scale)
    field.attrs["ome"] = {"version": "0.6", "multiscales": [scale]}
    parts = ([] if before is None else [before]) + [{"type": kind, "path": "field"}]
    whole: Any = {"type": "sequence", "input": "in", "output": "out", "transformations": parts}
    group.attrs["ome"] = {
        "version": "0.6",
        "coordinateSystems": systems or [],
        "coordinateTransformations": [whole],
    }


@pytest.mark.parametrize("kind", ["displacements", "coordinates"])
@pytest.mark.parametrize("names", ["xyz", "yzx"])
def test_axes_in_another_order_are_brought_into_that_of_arrays(tmp_path: Path, names: str, kind: str) -> None:
    order = ["zyx".index(n) for n in names]
    vectors, affine, points = smooth_vectors(NODES, 2), affine_of(3), points_in(NODES)
    nodes = dr.Grid(*([t[k] for k in order] for t in (NODES.shape, NODES.spacing, NODES.origin)), unit="um")
    moved = vectors[order].transpose(0, *(k + 1 for k in order))
    if kind == "coordinates":
        moved = moved + np.moveaxis(nodes.world(np.moveaxis(np.indices(nodes.shape), 0, -1)), -1, 0)
    rows = affine.matrix[:-1][order][:, [*order, 3]]
    before = {"type": "affine", "affine": rows.tolist()}
    write(tmp_path / "field.zarr", moved, nodes, names=names, kind=kind, before=before)
    loaded = dr.load(tmp_path / "field.zarr")
    expected = dr.DisplacementField(vectors, NODES)(affine(points))
    assert np.abs(loaded(points) - expected).max() < 1e-9
    loaded.save(tmp_path / "again.ngff.zarr")
    assert np.abs(dr.load(tmp_path / "again.ngff.zarr")(points) - expected).max() < 1e-9


def test_names_of_axes_that_are_not_known_are_refused(tmp_path: Path) -> None:
    vectors = smooth_vectors(NODES, 2)
    for names in ("abc", "zyt", "zyy"):
        write(tmp_path / "field.zarr", vectors, NODES, names=names)
        with pytest.raises(InvalidTransformError, match=f"axes {', '.join(names)}: only z, y and x"):
            dr.load(tmp_path / "field.zarr")
    space = [{"name": n, "type": "space"} for n in "xyz"]
    write(tmp_path / "field.zarr", vectors, NODES, systems=[{"name": "out", "axes": space}])
    with pytest.raises(InvalidTransformError, match=r"different orders \(z, y, x and x, y, z\)"):
        dr.load(tmp_path / "field.zarr")
    nodes = dr.Grid(NODES.shape, NODES.spacing, axes=("x", "y", "z"))
    with pytest.raises(InvalidTransformError, match=r"not x, y, z: save it as \.zarr"):
        dr.DisplacementField(vectors, nodes).save(tmp_path / "xyz.ngff.zarr")


def test_names_of_the_array_itself_do_not_matter(tmp_path: Path) -> None:
    vectors, points = smooth_vectors(NODES, 2), points_in(NODES)
    write(tmp_path / "field.zarr", vectors, NODES, dimension_names=["y", "c", "x", "z"])
    assert np.array_equal(dr.load(tmp_path / "field.zarr")(points), dr.DisplacementField(vectors, NODES)(points))


@pytest.mark.parametrize("units", [("micrometer", "millimeter", "micrometer"), ("micrometer", None, None)])
def test_axes_of_different_units_are_refused(tmp_path: Path, units: tuple[str | None, ...]) -> None:
    write(tmp_path / "field.zarr", smooth_vectors(NODES, 2), NODES, units=units)
    with pytest.raises(UnitError, match=f"z in micrometer, y in {units[1] or 'pixel'}"):
        dr.load(tmp_path / "field.zarr")


def test_one_unit_may_be_spelled_in_several_ways(tmp_path: Path) -> None:
    write(tmp_path / "field.zarr", smooth_vectors(NODES, 2), NODES, units=("um", "micrometer", "µm"))
    assert dr.load(tmp_path / "field.zarr").unit == "micrometer"


def test_transformations_of_the_multiscale_follow_those_of_the_level(tmp_path: Path) -> None:
    vectors, points = smooth_vectors(NODES, 2), points_in(NODES)
    steps: list[dict[str, Any]] = [
        {"type": "scale", "scale": [1.0, 2.0, 0.5, 1.0]},
        {"type": "translation", "translation": [0.0, 3.0, 0.0, -2.0]},
    ]
    factors, shift = np.array([2.0, 0.5, 1.0]), np.array([3.0, 0.0, -2.0])
    nodes = dr.Grid(NODES.shape, NODES.spacing / factors, (NODES.origin - shift) / factors)

    write(tmp_path / "field.zarr", vectors, nodes, change=lambda scale: scale.update(coordinateTransformations=steps))
    assert np.abs(dr.load(tmp_path / "field.zarr")(points) - dr.DisplacementField(vectors, NODES)(points)).max() < 1e-9

    def of_systems(scale: dict[str, Any]) -> None:
        scale["coordinateSystems"] = [{"name": "a", "axes": scale.pop("axes")}]
        scale["coordinateTransformations"] = steps[1:]

    write(tmp_path / "field.zarr", vectors, nodes, change=of_systems)
    with pytest.raises(InvalidTransformError, match="translation transformation of its multiscale"):
        dr.load(tmp_path / "field.zarr")
    steps[1] = {"type": "identity", "input": "a", "output": "b"}
    write(tmp_path / "field.zarr", vectors, NODES, change=of_systems)
    assert np.abs(dr.load(tmp_path / "field.zarr")(points) - dr.DisplacementField(vectors, NODES)(points)).max() < 1e-9


@pytest.mark.parametrize("part", [0, 1])
def test_a_scale_or_translation_of_the_vectors_is_refused(tmp_path: Path, part: int) -> None:
    def stretched(scale: dict[str, Any]) -> None:
        step = scale["datasets"][0]["coordinateTransformations"][part]
        step[step["type"]][0] = 2.5

    write(tmp_path / "field.zarr", smooth_vectors(NODES, 4), NODES, change=stretched)
    with pytest.raises(InvalidTransformError, match=r"along its axis of vectors.*2\.5"):
        dr.load(tmp_path / "field.zarr")


@pytest.mark.parametrize("kind", ["displacements", "coordinates"])
def test_a_field_that_changes_in_the_store_is_applied_anew(tmp_path: Path, kind: str) -> None:
    nodes, image = dr.Grid((7, 9), 8.0), RNG.normal(size=(50, 66)).astype(np.float32)
    places = np.moveaxis(nodes.world(np.moveaxis(np.indices(nodes.shape), 0, -1)), -1, 0) * (kind == "coordinates")
    path, out = tmp_path / "field.zarr", tmp_path / "out.ome.zarr"
    write(path, smooth_vectors(nodes, 2) + places, nodes, names="yx", units=(None, None), kind=kind)

    def warped() -> Any:
        return dr.warp(dr.open(tmp_path / "image.npy"), pull=dr.load(path))

    np.save(tmp_path / "image.npy", image)
    dr.write(warped(), out, chunks=(16, 16), progress=False)
    stored = zarr.open_array(path / "field" / "0", mode="r+")
    stored[...] = places + 1.5
    expected = warped().values
    dr.write(warped(), out, chunks=(16, 16), progress=False, resume="changed")
    assert np.array_equal(dr.open(out).values, expected)


def test_vectors_that_cannot_be_copied_leave_nothing(tmp_path: Path) -> None:
    vectors = zarr.create_array(tmp_path / "vectors", data=smooth_vectors(NODES, 2), chunks=(3, 2, 2, 2))
    field = dr.DisplacementField(vectors, NODES)
    next(p for p in (tmp_path / "vectors" / "c").rglob("*") if p.is_file()).write_bytes(b"damaged")
    for name in ("field.ngff.zarr", "field.zarr"):
        with pytest.raises(ChunkReadError):
            field.save(tmp_path / name)
    assert [p.name for p in tmp_path.iterdir()] == ["vectors"]


def test_pixels_are_no_unit_of_ngff(tmp_path: Path) -> None:
    field, points = dr.DisplacementField(smooth_vectors(NODES, 2), dr.Grid(NODES.shape, 8.0)), points_in(NODES)
    field.save(tmp_path / "field.ngff.zarr")
    assert not [p for p in tmp_path.rglob("zarr.json") if "pixel" in p.read_text()]
    loaded = dr.load(tmp_path / "field.ngff.zarr")
    assert loaded.unit is None
    assert np.array_equal(loaded(points), field(points))


@pytest.mark.parametrize("name", ["motion.zarr", "motion.ngff.zarr"])
def test_an_affine_map_in_a_group(tmp_path: Path, name: str) -> None:
    motion = affine_of(3)
    motion.save(tmp_path / name, format="NGFF")
    ome: Any = zarr.open_group(tmp_path / name, mode="r").attrs["ome"]
    assert ome["version"] == "0.6"
    (entry,) = ome["coordinateTransformations"]
    np.testing.assert_allclose(entry["affine"], motion.matrix[:-1], rtol=0, atol=1e-15)
    names = {system["name"]: [axis["name"] for axis in system["axes"]] for system in ome["coordinateSystems"]}
    assert names == {entry[end]["name"]: ["z", "y", "x"] for end in ("input", "output")}
    loaded = dr.load(tmp_path / name)
    assert isinstance(loaded, dr.Affine)
    np.testing.assert_allclose(loaded.matrix, motion.matrix, rtol=0, atol=1e-15)


def test_a_text_gets_no_name_of_a_folder_or_binary_file(tmp_path: Path) -> None:
    motion = dr.Affine.translation(x=1, y=2)
    motion.save(tmp_path / "a.json", format="NGFF")
    motion.save(tmp_path / "a.h5", format="ITK")
    assert (tmp_path / "a.h5").read_bytes()[:4] == b"\x89HDF"
    for name, tool in (
        ("a.zarr", "ITK"),
        ("b.nii.gz", "ITK"),
        ("b.h5", "NGFF"),
        ("b.zarr", "MultiStackReg"),
        ("b.npy", "text"),
    ):
        with pytest.raises(OptionError, match=f"is no suffix of {tool}'s files: name it .*\\.|holds one linear field"):
            motion.save(tmp_path / name, format=tool)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.h5", "a.json"]
    xy = dr.Affine.translation(x=1, y=2).matrix
    with pytest.raises(InvalidTransformError, match="not x, y: save it as"):
        dr.Affine(xy, axes=("x", "y")).save(tmp_path / "xy.ngff.zarr")
