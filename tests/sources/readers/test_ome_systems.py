"""OME-Zarr 0.6: every voxel lies where the transformations put it, in each coordinate system."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import daskreg as dr
from daskreg.errors import InvalidTransformError, MetadataWarning, NotAVolumeError, OptionError, ShapeMismatchError

Floats = np.ndarray[Any, np.dtype[np.float64]]


def system(name: str, axes: str, kind: str = "space") -> dict[str, Any]:
    types = {"t": "time", "c": "channel"}
    units = {} if kind == "array" else {"unit": "micrometer"}
    return {
        "name": name,
        "axes": [{"name": a, "type": types.get(a, kind)} | ({} if a in types else units) for a in axes],
    }


def write(path: Path, own: Any, edges: Any, systems: Any, shape: tuple[int, ...], *, levels: int = 1) -> Floats:
    """An image of version 0.6 whose voxels are numbered."""
    values = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    datasets = []
    for number in range(levels):
        name = f"s{number}"
        entry = own(number) if callable(own) else own
        datasets.append({"path": name, "coordinateTransformations": [{**entry, "input": name}]})
    image = {"name": "image", "coordinateSystems": systems, "datasets": datasets, "coordinateTransformations": edges}
    group = zarr.create_group(path, attributes={"ome": {"version": "0.6.dev3", "multiscales": [image]}})
    for number in range(levels):
        group.create_array(f"s{number}", data=values)
    return values


def places(volume: Any) -> tuple[Floats, Floats]:
    """For each voxel its number, and where it lies in the coordinate system (z, y, x), a shear included."""
    where = dr.grid(volume).world(np.moveaxis(np.indices(volume.shape), 0, -1)).reshape(-1, volume.ndim)
    if "header_from_world" in volume.attrs:
        where = dr.Affine(volume.attrs["header_from_world"])(where)
    return volume.values.ravel(), where


CASES: dict[str, tuple[Any, Any, Any, str, Callable[[Floats], Floats]]] = {
    # own transformation, edges, systems, chosen system; what it does to indices i, j, k (to z, y, x)
    "scale": ({"type": "scale", "scale": [4, 3, 2], "output": "w"}, [], [system("w", "zyx")], "w",
              lambda i: i * [4, 3, 2]),
    "sequence": ({"type": "sequence", "output": "w", "transformations": [
        {"type": "scale", "scale": [4, 3, 2]}, {"type": "translation", "translation": [10, 20, 30]}]}, [],
        [system("w", "zyx")], "w", lambda i: i * [4, 3, 2] + [10, 20, 30]),
    "mapAxis": ({"type": "identity", "output": "a"},
                [{"type": "mapAxis", "mapAxis": [2, 0, 1], "input": "a", "output": "w"}],
                [system("w", "zyx"), system("a", "ijk", "array")], "w", lambda i: i[:, [2, 0, 1]]),
    "byDimension, names": ({"type": "identity", "output": "a"}, [{
        "type": "byDimension", "input": "a", "output": "w", "transformations": [
            {"type": "scale", "scale": [3, 2], "input_axes": ["i", "j"], "output_axes": ["x", "y"]},
            {"type": "translation", "translation": [10], "input_axes": ["k"], "output_axes": ["z"]}]}],
        [system("w", "zyx"), system("a", "ijk", "array")], "w",
        lambda i: np.column_stack([i[:, 2] + 10, 2 * i[:, 1], 3 * i[:, 0]])),
    "byDimension, numbers": ({"type": "identity", "output": "a"}, [{
        "type": "byDimension", "input": "a", "output": "w", "transformations": [
            {"transformation": {"type": "rotation", "rotation": [[0, -1], [1, 0]]},
             "input_axes": [1, 2], "output_axes": [1, 2]},
            {"transformation": {"type": "scale", "scale": [5]}, "input_axes": [0], "output_axes": [0]}]}],
        [system("w", "zyx"), system("a", "ijk", "array")], "w",
        lambda i: np.column_stack([5 * i[:, 0], -i[:, 2], i[:, 1]])),
    "affine": ({"type": "scale", "scale": [2, 2, 2], "output": "p"}, [{
        "type": "affine", "input": "p", "output": "w",
        "affine": [[3, 0.4, 0, 30], [0.3, 2, 0.2, 20], [0, 0.1, 1, 10]]}],
        [system("w", "zyx"), system("p", "zyx")], "w",
        lambda i: 2 * i @ np.array([[3, 0.4, 0], [0.3, 2, 0.2], [0, 0.1, 1]]).T + [30, 20, 10]),
    "rotation": ({"type": "scale", "scale": [1, 2, 3], "output": "p"}, [{
        "type": "rotation", "input": "p", "output": "w",
        "rotation": [[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]]}], [system("w", "zyx"), system("p", "zyx")], "w",
        lambda i: (i * [1, 2, 3]) @ np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]]).T),
    "backwards": ({"type": "scale", "scale": [1, 2, 3], "output": "p"}, [{
        "type": "scale", "scale": [2, 4, 8], "input": "w", "output": "p"}], [system("w", "zyx"), system("p", "zyx")],
        "w", lambda i: i * [0.5, 0.5, 3 / 8]),
    "chain": ({"type": "identity", "output": "p"}, [
        {"type": "displacements", "path": "field", "input": "p", "output": "other"},
        {"type": "translation", "translation": [0, 0, 7], "input": "q", "output": "w"},
        {"type": "bijection", "forward": {"type": "scale", "scale": [2, 2, 2]}, "inverse": {}, "input": "p",
         "output": "q"}],
        [system(n, "zyx") for n in ("w", "p", "q", "other")], "w", lambda i: 2 * i + [0, 0, 7]),
    "axes x, y, z": ({"type": "scale", "scale": [2, 3, 4], "output": "w"}, [], [system("w", "xyz")], "w",
                     lambda i: (i * [2, 3, 4])[:, ::-1]),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*shears:daskreg.errors.MetadataWarning")
@pytest.mark.parametrize("case", CASES)
def test_every_voxel_is_in_its_place(case: str, tmp_path: Path) -> None:
    own, edges, systems, chosen, expected = CASES[case]
    values = write(tmp_path / "a.zarr", own, edges, systems, (3, 4, 5))
    volume = dr.open(tmp_path / "a.zarr", coordinate_system=chosen)
    assert volume.dims == ("z", "y", "x")
    assert dr.grid(volume).unit == "micrometer"
    number, where = places(volume)
    index = np.column_stack(np.unravel_index(number.astype(int), values.shape)).astype(float)
    np.testing.assert_allclose(where, expected(index), rtol=0, atol=1e-9)


def test_the_intrinsic_system_is_the_default(tmp_path: Path) -> None:
    own, edges, systems, *_ = CASES["affine"]
    write(tmp_path / "a.zarr", own, edges, systems, (3, 4, 5))
    volume = dr.open(tmp_path / "a.zarr")
    assert dr.grid(volume) == dr.Grid((3, 4, 5), spacing=2, unit="um")
    own, edges, systems, *_ = CASES["mapAxis"]
    write(tmp_path / "b.zarr", own, edges, systems, (3, 4, 5))
    assert dr.grid(dr.open(tmp_path / "b.zarr")) == dr.Grid((3, 4, 5))
    with pytest.raises(OptionError, match="'there' is none of w, p"):
        dr.open(tmp_path / "a.zarr", coordinate_system="there")


def test_levels_of_a_sheared_image_share_one_world(tmp_path: Path) -> None:
    """A place in the system is at one place of the world of the grids, whatever the level."""
    edges = CASES["affine"][1]
    write(
        tmp_path / "a.zarr",
        lambda k: {"type": "sequence", "output": "p", "transformations": [
            {"type": "scale", "scale": [2, 2 * 2**k, 2 * 2**k]},
            {"type": "translation", "translation": [0, 2**k - 1, 2**k - 1]}]},
        edges, [system("w", "zyx"), system("p", "zyx")], (3, 4, 5), levels=3,
    )  # fmt: skip
    linear, shift = np.array([[3, 0.4, 0], [0.3, 2, 0.2], [0, 0.1, 1]]), [30, 20, 10]
    maps = []
    for level in range(3):
        with pytest.warns(MetadataWarning, match="shears"):
            volume = dr.open(tmp_path / "a.zarr", level=level, coordinate_system="w")
        maps.append(volume.attrs["header_from_world"])
        number, where = places(volume)
        index = np.column_stack(np.unravel_index(number.astype(int), (3, 4, 5)))
        own = index * [2, 2 * 2**level, 2 * 2**level] + [0, 2**level - 1, 2**level - 1]
        np.testing.assert_allclose(where, own @ linear.T + shift, rtol=0, atol=1e-9)
    np.testing.assert_allclose(maps[1:], maps[:-1])


def test_levels_and_axes_that_are_refused(tmp_path: Path) -> None:
    def turned(number: int) -> Any:
        c, s = np.cos(0.1 * number), np.sin(0.1 * number)
        return {"type": "rotation", "rotation": [[1, 0, 0], [0, c, -s], [0, s, c]], "output": "w"}

    write(tmp_path / "a.zarr", turned, [], [system("w", "zyx")], (3, 4, 5), levels=2)
    with pytest.raises(NotAVolumeError, match="level 1 is turned against level 0"):
        dr.open(tmp_path / "a.zarr")
    same = system("w", "zyx")
    same["axes"][0]["name"] = "x"
    write(tmp_path / "b.zarr", {"type": "identity", "output": "w"}, [], [same], (3, 4, 5))
    with pytest.raises(NotAVolumeError, match="have the same name"):
        dr.open(tmp_path / "b.zarr")


def test_time_and_channels(tmp_path: Path) -> None:
    matrix = np.eye(5, 6)
    matrix[0, 0], matrix[0, 5] = 0.5, 10  # time
    matrix[2:, 2:5], matrix[2:, 5] = [[0.8 * 3, 0, -0.6 * 2], [0, 1, 0], [0.6 * 3, 0, 0.8 * 2]], [7, 8, 9]
    own = {"type": "affine", "affine": matrix.tolist(), "output": "w"}
    write(tmp_path / "a.zarr", own, [], [system("w", "tczyx")], (2, 3, 4, 5, 6))
    volume = dr.open(tmp_path / "a.zarr")
    assert volume.dims == ("t", "c", "z", "y", "x")
    np.testing.assert_allclose(volume.t, [10, 10.5])
    where = dr.grid(volume)
    np.testing.assert_allclose(where.spacing, (3, 1, 2))
    np.testing.assert_allclose(where.world((1, 2, 3)), matrix[2:, 2:5] @ [1, 2, 3] + [7, 8, 9], rtol=0, atol=1e-12)
    matrix[2, 0] = 0.1  # space that moves with time
    write(tmp_path / "b.zarr", {**own, "affine": matrix.tolist()}, [], [system("w", "tczyx")], (2, 3, 4, 5, 6))
    with pytest.raises(NotAVolumeError, match="mixes axes of space with others"):
        dr.open(tmp_path / "b.zarr")


def test_numbers_in_an_array(tmp_path: Path) -> None:
    """`path` names the array that holds the numbers."""
    edges = [{"type": "rotation", "path": "turn", "input": "p", "output": "w"}]
    systems = [system("w", "zyx"), system("p", "zyx")]
    write(tmp_path / "a.zarr", {"type": "identity", "output": "p"}, edges, systems, (3, 4, 5))
    with pytest.raises(NotAVolumeError, match="turn"):
        dr.open(tmp_path / "a.zarr", coordinate_system="w")
    turn = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]])
    zarr.open_group(tmp_path / "a.zarr").create_array("turn", data=turn)
    volume = dr.open(tmp_path / "a.zarr", coordinate_system="w")
    np.testing.assert_allclose(dr.grid(volume).world((1, 2, 3)), turn @ [1, 2, 3], rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("edge", "error", "message"),
    [
        ({"type": "displacements", "path": "f"}, NotAVolumeError, "'displacements' is none of"),
        ({"type": "affine", "affine": [[0, 0, 0, 0]] * 3}, NotAVolumeError, "singular"),
        ({"type": "scale"}, NotAVolumeError, "does not hold its numbers"),
        ({"type": "scale", "scale": [1, 2]}, NotAVolumeError, "does not lead to 3 axes"),
        ({"type": "byDimension", "transformations": [
            {"type": "scale", "scale": [1, 1], "input_axes": ["z", "y"], "output_axes": ["z", "y"]}]},
         NotAVolumeError, "each of 3 output axes once"),
        ({"type": "byDimension", "transformations": [
            {"type": "scale", "scale": [1, 1, 1], "input_axes": ["z", "y", "q"], "output_axes": ["z", "y", "x"]}]},
         NotAVolumeError, "names the axis 'q'"),
        ({"type": "sequence", "transformations": [{"type": "scale", "scale": [1, 2]},
                                                  {"type": "scale", "scale": [1, 2, 3]}]},
         ShapeMismatchError, "in one sequence"),
        ({"type": "identity", "output": "p"}, OptionError, "no transformation leads"),
    ],
)  # fmt: skip
def test_transformations_that_are_refused(edge: Any, error: type[Exception], message: str, tmp_path: Path) -> None:
    edges = [{"input": "p", "output": "w", **edge}]
    systems = [system("w", "zyx"), system("p", "zyx")]
    write(tmp_path / "a.zarr", {"type": "identity", "output": "p"}, edges, systems, (3, 4, 5))
    with pytest.raises(error, match=message):
        dr.open(tmp_path / "a.zarr", coordinate_system="w")
    assert dr.grid(dr.open(tmp_path / "a.zarr")).shape == (3, 4, 5)


@pytest.mark.slow
def test_the_examples_of_the_specification(data: Path) -> None:
    """All of them open in every system but those behind a field, or behind numbers that are not in the examples."""
    opened, refused = 0, []
    for path in sorted((data / "zarr" / "rfc5").glob("*d/*/*.zarr")):
        image = json.loads((path / "zarr.json").read_text())["attributes"]["ome"]["multiscales"][0]
        for name in [None, *(entry["name"] for entry in image["coordinateSystems"])]:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", MetadataWarning)
                    dr.open(path, coordinate_system=name)
                opened += 1
            except NotAVolumeError as error:
                refused.append((path.name, str(error)))
    assert opened > 50
    for name, message in refused:
        assert ("singular" in message) == name.endswith("Params.zarr")
        assert ("none of identity" in message) == (
            name in ("coordinates.zarr", "displacements.zarr", "invDisplacements.zarr")
        )


def test_by_dimension_in_memory() -> None:
    part = {"type": "scale", "scale": [2], "input_axes": [1], "output_axes": [0]}
    other = {"type": "translation", "translation": [5], "input_axes": [0], "output_axes": [1]}
    found = dr.convert.from_ngff({"type": "byDimension", "transformations": [part, other]})
    np.testing.assert_allclose(found([[1, 10]]), [[20, 6]])
    with pytest.raises(InvalidTransformError, match="each of 1 output axes once"):
        dr.convert.from_ngff({"type": "byDimension", "transformations": [other]})
