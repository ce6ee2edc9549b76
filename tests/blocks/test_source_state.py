"""Of which stored voxels something was made: what stays the same, and what does not."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import tifffile
import xarray as xr
import zarr

import daskreg as dr
from daskreg.blocks.source_state import identity, states_along
from daskreg.errors import SourceLostError
from daskreg.sources.readers import zarr as zarr_reader
from daskreg.sources.storage import object_tags
from daskreg.sources.storage.object_bytes import ObjectBytes
from daskreg.volumes import volume_of

VALUES = np.random.default_rng(0).integers(1, 1000, (2, 12, 40, 34), dtype=np.uint16)


def source(array: Any) -> Any:
    return volume_of(array).source


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "a.zarr"
    zarr.create_array(str(found), data=VALUES, chunks=(1, 4, 20, 17), dimension_names=["c", "z", "y", "x"])
    return found


def write_again(path: Path, where: Any) -> None:
    zarr.open_array(str(path), mode="r+")[where] = VALUES[where]


def test_only_what_is_read_counts(path: Path) -> None:
    """Of a channel its own chunks, and of a row of chunks along an axis these."""
    one, both = source(dr.open(path, channel=1)), source(dr.open(path))
    before = identity(one), identity(both), states_along(one, 0)
    again = pickle.loads(pickle.dumps(source(dr.open(path, channel=1))))
    assert (identity(again), states_along(again, 0)) == (before[0], before[2])
    assert len(set(before[2])) == 3
    write_again(path, (0, slice(0, 1)))
    assert identity(one) == before[0]
    assert identity(both) != before[1]
    write_again(path, (1, slice(5, 6), slice(0, 3), slice(0, 3)))
    assert identity(one) != before[0]
    assert [a == b for a, b in zip(states_along(one, 0), before[2], strict=True)] == [True, False, True]
    there = identity(one)
    os.unlink(path / "c" / "1" / "0" / "0" / "0")
    assert identity(one) != there


@pytest.mark.slow
def test_what_lies_behind_a_graph_counts(path: Path) -> None:
    opened = dr.open(path, channel=1)
    shifted = dr.warp(opened, pull=dr.Affine.translation(x=2))
    raw = da.from_zarr(str(path))[1]
    lazily = xr.DataArray(raw, dims=("z", "y", "x"))
    kinds = {"sum": opened + 1, "warp": shifted, "dask": raw, "xarray": lazily, "cut": opened[2:]}
    before = {kind: identity(source(array)) for kind, array in kinds.items()}
    assert {kind: identity(source(array)) for kind, array in kinds.items()} == before
    write_again(path, (1, slice(5, 6)))
    same = [kind for kind, array in kinds.items() if identity(source(array)) == before[kind]]
    assert same == []


def test_other_sources_have_the_fingerprints_that_they_had(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", VALUES[0])
    in_memory = VALUES[0], da.from_array(VALUES[0], chunks=(4, 20, 17), name="some"), zarr.array(VALUES[0])
    for array in (*in_memory, dr.open(tmp_path / "a.tif")):
        one = source(array)
        assert identity(one) == one.fingerprint()
        assert states_along(one, 0) == ()


def test_a_file_that_was_replaced_since_it_was_opened_is_another_one(tmp_path: Path, path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", VALUES[0])
    opened = source(dr.open(tmp_path / "a.tif"))
    before = identity(opened)
    tifffile.imwrite(tmp_path / "a.tif", VALUES[0][::-1])
    os.utime(tmp_path / "a.tif", (1, 1))
    assert before != identity(opened) != identity(source(dr.open(tmp_path / "a.tif")))
    gone = source(dr.open(path))
    (path / "zarr.json").unlink()
    with pytest.raises(SourceLostError):
        identity(gone)


@pytest.mark.slow
def test_objects_are_listed_and_very_many_are_not_looked_up(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(object_tags, "MOST_ASKED", 8)
    monkeypatch.setattr(zarr_reader, "MOST_TAGS", 8)
    url = f"{s3.url}/a.ome.zarr"
    dr.write(VALUES[0], url, chunks=(4, 20, 17), shards=(4, 20, 17), levels=1, progress=False)
    opened = source(dr.open(url))
    before, began = identity(opened), len(s3.requests)
    assert identity(source(dr.open(url))) == before != opened.fingerprint()
    asked = [what for method, what in s3.requests[began:] if method == "HEAD"]
    assert len(asked) <= 8
    rows = states_along(opened, 0)
    assert len(rows) == 3
    ObjectBytes(f"{url}/0").put("c/1/0/0", [b"other"])
    assert identity(opened) != before
    assert [a == b for a, b in zip(states_along(opened, 0), rows, strict=True)] == [True, False, True]
    monkeypatch.setattr(zarr_reader, "MOST_LISTED", 8)
    assert identity(opened) == opened.fingerprint()
