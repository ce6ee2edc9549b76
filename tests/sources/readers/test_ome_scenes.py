"""Scenes of OME-Zarr 0.6, which place several images in one coordinate system; ends of transformations as mappings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import daskreg as dr
from daskreg.errors import InvalidTransformError, MetadataWarning, NotAVolumeError, OptionError, UnitError

VALUES = np.random.default_rng(5).integers(0, 999, (5, 8, 9)).astype(np.uint16)
TURN = [[1.0, 0, 0], [0, 0.8, -0.6], [0, 0.6, 0.8]]


def system(name: str) -> dict[str, Any]:
    return {"name": name, "axes": [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "zyx"]}


def image(path: Path, spacing: float, *, edges: Any = (), systems: Any = ("physical",)) -> None:
    scale = {"type": "scale", "scale": [spacing] * 3, "input": {"path": "0"}, "output": {"name": "physical"}}
    entry = {
        "name": "image",
        "coordinateSystems": [system(name) for name in systems],
        "datasets": [{"path": "0", "coordinateTransformations": [scale]}],
        "coordinateTransformations": list(edges),
    }
    group = zarr.open_group(path, mode="a")
    group.attrs["ome"] = {"version": "0.6", "multiscales": [entry]}
    group.create_array("0", data=VALUES)


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """Image `a` in the world by a rotation; `b` in `a` by an affine map, and so behind it."""
    path = tmp_path / "scene.zarr"
    affine = [[1, 0, 0, 10], [0, 1.25, 0, 20], [0, 0, 1, 30]]
    edges = [
        {"type": "rotation", "rotation": TURN, "input": {"path": "a", "name": "physical"}, "output": {"name": "world"}},
        {"type": "affine", "affine": affine, "input": {"path": "more/b", "name": "physical"},
         "output": {"path": "a", "name": "physical"}},
    ]  # fmt: skip
    group = zarr.create_group(path)
    group.attrs["ome"] = {
        "version": "0.6",
        "scene": {"coordinateSystems": [system("world")], "coordinateTransformations": edges},
    }
    image(path / "a", 0.5)
    zarr.create_group(path / "more")
    image(path / "more" / "b", 2.0)
    return path


def test_images_lie_in_the_world_of_their_scene(scene: Path) -> None:
    own = dr.open(scene / "a")
    assert (dr.grid(own).spacing, dr.grid(own).direction) == ((0.5, 0.5, 0.5), None)
    index = np.asarray((3, 2, 7))
    for path in (scene / "a", f"{scene}::/a"):
        placed = dr.open(path, coordinate_system="world")
        np.testing.assert_array_equal(placed, VALUES)
        np.testing.assert_allclose(dr.grid(placed).world(index), np.asarray(TURN) @ (0.5 * index), atol=1e-12)
    behind = dr.open(scene / "more" / "b", coordinate_system="world")
    expected = np.asarray(TURN) @ (2.0 * index * (1, 1.25, 1) + (10, 20, 30))
    where = dr.grid(behind).world(index)
    if "header_from_world" in behind.attrs:
        where = dr.Affine(behind.attrs["header_from_world"])(where)
    np.testing.assert_allclose(where, expected, atol=1e-9)
    in_a = dr.open(scene / "more" / "b", coordinate_system="a/physical")
    np.testing.assert_allclose(dr.grid(in_a).world(index), 2.0 * index * (1, 1.25, 1) + (10, 20, 30))


def test_names_that_an_image_has_too(scene: Path) -> None:
    shift = {
        "type": "translation",
        "translation": [7, 7, 7],
        "input": {"name": "physical"},
        "output": {"name": "world"},
    }
    for name in ("a/zarr.json", "a/0"):
        assert (scene / name).exists()
    group = zarr.open_group(scene / "a")
    entry: Any = group.attrs["ome"]
    entry["multiscales"][0]["coordinateSystems"].append(system("world"))
    entry["multiscales"][0]["coordinateTransformations"] = [shift]
    group.attrs["ome"] = entry
    np.testing.assert_allclose(dr.grid(dr.open(scene / "a", coordinate_system="world")).origin, (7, 7, 7))
    placed = dr.grid(dr.open(scene / "a", coordinate_system="scene/world"))
    np.testing.assert_allclose(placed.world((0, 0, 4)), np.asarray(TURN) @ (0, 0, 2), atol=1e-12)


def test_what_is_refused(scene: Path) -> None:
    with pytest.raises(NotAVolumeError, match=r"a scene of the images a: name one, .*coordinate_system='world'"):
        dr.open(scene)
    with pytest.raises(OptionError, match="'elsewhere' is none of physical, world"):
        dr.open(scene / "a", coordinate_system="elsewhere")
    group = zarr.open_group(scene)
    for damaged in ({"coordinateSystems": [3]}, {"coordinateTransformations": [{"type": "affine"}]}):
        group.attrs["ome"] = {"version": "0.6", "scene": damaged}
        assert dr.open(scene / "a").shape == VALUES.shape
        with pytest.raises((NotAVolumeError, OptionError)):
            dr.open(scene / "a", coordinate_system="world")


def test_what_daskreg_writes_has_mappings_as_ends(tmp_path: Path) -> None:
    turned = dr.Grid(VALUES.shape, (2, 1, 1), (1, 2, 3), np.asarray(TURN), "um")
    dr.write(dr.volumes.to_dataarray(VALUES, turned), tmp_path / "a.zarr", version="0.6", progress=False)
    entry: Any = zarr.open_group(tmp_path / "a.zarr").attrs["ome"]
    (whole,) = entry["multiscales"][0]["datasets"][0]["coordinateTransformations"]
    assert (whole["input"], whole["output"]) == ({"path": "0"}, {"name": "intrinsic"})
    assert dr.grid(dr.open(tmp_path / "a.zarr")).same(turned, tolerance=1e-9)


@pytest.mark.parametrize("lead", [(), (2,)])
def test_a_fit_as_a_scene(tmp_path: Path, lead: tuple[int, ...]) -> None:
    path = tmp_path / "pair.zarr"
    zarr.create_group(path)
    motion = dr.Affine.from_parameters(ndim=3, rx=0.2, ty=1.5, tx=-2, sx=1.1, unit="um")  # moving_from_fixed
    grids = {
        "fixed": dr.Grid(VALUES.shape, (2, 1, 1), (1, 2, 3), unit="um"),
        "moving": dr.Grid(VALUES.shape, (1, 0.5, 0.5), (3, 2, 1), np.asarray(TURN), "um"),
    }
    for name, grid in grids.items():
        values = np.broadcast_to(VALUES, lead + VALUES.shape)
        volume = dr.volumes.to_dataarray(values, grid, lead=("c",) * len(lead))
        dr.write(volume, path / name, version="0.6", progress=False)
    dr.convert.to_ngff_scene(motion, path, fixed="fixed", moving="moving")
    index = np.asarray((3, 2, 7))
    with pytest.warns(MetadataWarning, match="shears"):
        placed = dr.open(path / "moving", coordinate_system="scene")
    where = dr.Affine(placed.attrs["header_from_world"])(dr.grid(placed).world(index))
    np.testing.assert_allclose(where, motion.inverse()(grids["moving"].world(index)), atol=1e-9)
    assert dr.grid(dr.open(path / "fixed", coordinate_system="scene")).same(grids["fixed"])
    with pytest.raises(NotAVolumeError, match="write it with version='0.6'"):
        dr.convert.to_ngff_scene(motion, path, fixed="fixed", moving="neither")
    with pytest.raises(InvalidTransformError, match="3 axes of space, and the transform 2"):
        dr.convert.to_ngff_scene(dr.Affine.identity(2), path, fixed="fixed", moving="moving")
    with pytest.raises(UnitError):
        dr.convert.to_ngff_scene(dr.Affine.identity(3, unit="mm"), path, fixed="fixed", moving="moving")
