"""Levels of OME-Zarr by a path or a URL of their own, and those whose scale the metadata do not state."""

from __future__ import annotations

import uuid
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.storage import FsspecStore

import daskreg as dr
from daskreg.errors import MetadataWarning, NotAVolumeError
from daskreg.geometry import Grid

VALUES = np.random.default_rng(5).integers(0, 2**16, (5, 33, 46)).astype("u2")
SCALES = ([2.0, 0.5, 0.25], [2.0, 1.0, 0.5])


def write(store: Any, **multiscale: Any) -> None:
    group = zarr.open_group(store, mode="w", zarr_format=2)
    for path, data in (("0", VALUES), ("deep/1", VALUES[:, ::2, ::2])):
        group.create_array(path, data=data, chunks=(2, 16, 16))
    group.attrs["multiscales"] = [{"version": "0.4", **multiscale}]


def stated() -> dict[str, Any]:
    datasets = []
    for k, (path, scale) in enumerate(zip(("0", "deep/1"), SCALES, strict=True)):
        translation = [1.0, 0.0, k / 8]
        transforms = [{"type": "scale", "scale": scale}, {"type": "translation", "translation": translation}]
        datasets.append({"path": path, "coordinateTransformations": transforms})
    axes = [{"name": n, "type": "space", "unit": "micrometer"} for n in "zyx"]
    return {"axes": axes, "datasets": datasets}


def test_a_level_by_its_own_url(tmp_path: Path) -> None:
    url = f"memory://{uuid.uuid4().hex}/a.ome.zarr"
    write(FsspecStore.from_url(url), **stated())
    write(tmp_path / "a.ome.zarr", **stated())
    wanted = Grid((5, 17, 23), SCALES[1], (1, 0, 0.125), unit="um")
    for path in (f"{url}::/deep/1", f"{url}/deep/1", tmp_path / "a.ome.zarr" / "deep" / "1"):
        volume = dr.open(path)
        assert dr.grid(volume) == wanted, path
        np.testing.assert_array_equal(volume, VALUES[:, ::2, ::2])
    assert dr.grid(dr.open(f"{url}/0")) == Grid(VALUES.shape, SCALES[0], (1, 0, 0), unit="um")


def test_a_url_beside_nothing_is_a_plain_array() -> None:
    url = f"memory://{uuid.uuid4().hex}/plain.zarr"
    zarr.create_array(FsspecStore.from_url(url), data=VALUES, chunks=VALUES.shape)
    assert dr.grid(dr.open(url)) == Grid(VALUES.shape)


@pytest.mark.parametrize("version", ["0.1", "0.2", "0.3"])
def test_levels_without_a_scale_have_that_of_their_shapes(tmp_path: Path, version: str) -> None:
    axes = {"axes": ["z", "y", "x"]} if version == "0.3" else {}
    datasets = [{"path": "0"}, {"path": "deep/1"}]
    path = tmp_path / "a.zarr"
    group = zarr.open_group(path, mode="w", zarr_format=2)
    lead = () if axes else (1, 1)
    for name, data in (("0", VALUES), ("deep/1", VALUES[:, ::2, ::2])):
        group.create_array(name, data=data.reshape(*lead, *data.shape), chunks=(*lead, 2, 16, 16))
    group.attrs["multiscales"] = [{"version": version, "datasets": datasets, **axes}]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MetadataWarning)
        assert dr.grid(dr.open(path)) == Grid(VALUES.shape)
        for volume in (dr.open(path, level=1), dr.open(path, level=-1), dr.open(path / "deep" / "1")):
            assert dr.grid(volume) == Grid((5, 17, 23), (1, 2, 2))
        assert dr.grid(dr.open(path, level=1, recentre=True)).origin == (0, 0.5, 0.5)
    with pytest.warns(MetadataWarning, match="no translation"):
        dr.open(path, level=1)


@pytest.mark.filterwarnings("ignore::daskreg.errors.MetadataWarning")
def test_a_level_behind_one_that_is_not_stored(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
    for name, step in (("0", 1), ("2", 4)):
        group.create_array(name, data=VALUES[:, ::step, ::step])
    datasets = [{"path": name} for name in "012"]
    group.attrs["multiscales"] = [{"version": "0.3", "axes": ["z", "y", "x"], "datasets": datasets}]
    assert dr.grid(dr.open(tmp_path / "a.zarr", level=2)) == Grid((5, 9, 12), (1, 4, 4))
    with pytest.raises(NotAVolumeError):
        dr.open(tmp_path / "a.zarr", level=1)
