"""Bad input of `open`, `warp` and `write`: a typed error that names array, axis or value, and says what to do.

What concerns estimates alone is in the tests of registration, stacks and clouds.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr

import daskreg as dr
from daskreg.errors import (
    BlocksFailedError,
    ChunkReadError,
    DaskregWarning,
    EmptyArrayError,
    EmptyOutputError,
    GridError,
    InvalidSpacingError,
    InvalidTransformError,
    MemoryBudgetError,
    NotAVolumeError,
    OptionError,
    PixelUnitWarning,
    ShapeMismatchError,
    UnitError,
    UnsupportedDTypeError,
)
from daskreg.volumes import to_dataarray

SHAPE = (6, 20, 22)
VALUES = np.random.default_rng(0).random(SHAPE).astype(np.float32)
GRID = dr.Grid(SHAPE, (2, 0.5, 0.5), (1, 2, 3), unit="um")
VOLUME = to_dataarray(VALUES, GRID, name="vol")
SAME = dr.Affine.identity(3)
SHIFT = dr.Affine.translation(x=1)


def vol(**coords: Any) -> xr.DataArray:
    return xr.DataArray(VALUES, dims=("z", "y", "x"), coords=coords, name="vol")


def z(values: Any, units: str) -> tuple[str, Any, dict[str, str]]:
    return ("z", values, {"units": units})


ARRAYS: dict[str, tuple[Any, type[Exception], str]] = {
    "complex": (VALUES.astype("c8"), UnsupportedDTypeError, r"complex64.*take \.real"),
    "object": (VALUES.astype(object), UnsupportedDTypeError, r"object.*astype"),
    "text": (np.array([["a"]]), UnsupportedDTypeError, r"<U1.*astype"),
    "time": (VALUES.astype("M8[s]"), UnsupportedDTypeError, r"datetime64.*astype"),
    "longdouble": (VALUES.astype(np.longdouble), UnsupportedDTypeError, "astype"),
    "empty": (VALUES[:, :0], EmptyArrayError, "axis y .*length 0"),
    "empty dask": (da.zeros((0, 3)), EmptyArrayError, "axis y .*length 0"),
    "number": (3.0, NotAVolumeError, "single number"),
    "nothing": (None, NotAVolumeError, "NoneType is not a volume: give a path"),
    "ragged": ([[1, 2], [3]], NotAVolumeError, "list does not make one array"),
    "no such path": ("/nowhere/a.zarr", NotAVolumeError, r"/nowhere/a\.zarr does not exist"),
    "several variables": (xr.Dataset({"a": vol(), "b": vol()}), NotAVolumeError, r"'a', 'b'.*pass dataset\[name\]"),
    "irregular": (vol(z=[0, 1, 2, 3, 4, 9.0]), GridError, "'vol'.*axis z .*from index 4 to 5 the step is 5"),
    "NaN coordinate": (vol(z=[0, 1, np.nan, 3, 4, 5]), GridError, "axis z .*from index 1 to 2"),
    "constant coordinate": (vol(y=np.zeros(20)), GridError, "axis y .*step is 0"),
    "names as coordinates": (vol(z=list("abcdef")), GridError, r"axis z .*not numbers.*drop_vars\('z'\)"),
    "mixed units": (
        vol(z=z(np.arange(6.0), "degree"), y=("y", np.arange(20.0), {"units": "um"})),
        UnitError,
        "'vol'.*degree and micrometer.*convert",
    ),
    "unknown unit": (vol(z=z(np.arange(6.0), "furlong")), UnitError, "axis z of array 'vol'.*'furlong'.*unit='pixel'"),
}


@pytest.mark.filterwarnings("ignore::daskreg.errors.PixelUnitWarning")
@pytest.mark.parametrize(("array", "error", "words"), ARRAYS.values(), ids=ARRAYS)
def test_what_is_no_volume(tmp_path: Path, array: Any, error: type[Exception], words: str) -> None:
    flows: list[Callable[[], Any]] = [
        lambda: dr.open(array),
        lambda: dr.warp(array, pull=SHIFT),
        lambda: dr.plan(array, tmp_path / "out.zarr"),
        lambda: dr.write(array, tmp_path / "out.zarr", progress=False),
    ]
    for flow in flows:
        with pytest.raises(error, match=words):
            flow()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("spacing", [0, -1, np.nan, np.inf, (1, 0, 1), (1, 2), {"q": 1}])
def test_spacings_that_are_none(spacing: Any) -> None:
    with pytest.raises(InvalidSpacingError, match="spacing"):
        dr.open(VALUES, spacing=spacing)


@pytest.mark.parametrize("spacing", [0.0, -1.0, np.nan])
def test_a_grid_names_the_axis_of_a_bad_spacing(spacing: float) -> None:
    with pytest.raises(InvalidSpacingError, match=f"along y is {spacing}"):
        dr.Grid((3, 4, 5), (1, spacing, 1))


TRANSFORMS: dict[str, tuple[Any, type[Exception], str]] = {
    "zeros": (np.zeros((3, 4)), InvalidTransformError, "singular"),
    "flat": (np.diag([1, 0, 1, 1.0]), InvalidTransformError, "singular .condition number"),
    "NaN": (np.full((4, 4), np.nan), InvalidTransformError, "NaN or infinity"),
    "wrong shape": (np.zeros((2, 5)), InvalidTransformError, r"\(D\+1, D\+1\) is needed.*\(2, 5\)"),
    "4D": (np.eye(5), InvalidTransformError, r"4D .*axes \('z', 'y', 'x'\)"),
    "a path": ("fit.json", InvalidTransformError, r"'fit\.json' is no transform.*daskreg\.load"),
    "a function": (np.sin, InvalidTransformError, "is no transform"),
    "none in a list": ([None], InvalidTransformError, r"\(D\+1, D\+1\)"),
    "nothing in a list": ([], OptionError, "empty list"),
    "too few slices": (
        dr.SliceAffines(np.stack([np.eye(3)] * 5)),
        ShapeMismatchError,
        "5 slices, the source 6 along 'z'",
    ),
    "another unit": (dr.Affine.translation(x=1, unit="mm"), UnitError, "micrometer and millimeter.*convert"),
    "far away": (dr.Affine.translation(x=1e4), EmptyOutputError, r"no voxel of the source.*allow_empty=True"),
}


@pytest.mark.parametrize(("pull", "error", "words"), TRANSFORMS.values(), ids=TRANSFORMS)
def test_transforms_that_do_not_fit(pull: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        dr.warp(VOLUME, pull=pull)


OPTIONS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "both": ({"push": SAME}, OptionError, "exactly one"),
    "order": ({"order": 2}, OptionError, "order=2: use 0"),
    "order by name": ({"order": "linear"}, OptionError, "order='linear'"),
    "device": ({"device": "tpu"}, OptionError, "device='tpu'"),
    "no device": ({"device": None}, OptionError, "device=None"),
    "dtype": ({"dtype": "junk"}, UnsupportedDTypeError, "'junk'"),
    "complex dtype": ({"dtype": "c8"}, UnsupportedDTypeError, "complex64"),
    "fill": ({"fill": "x"}, OptionError, "fill='x'"),
    "fill of another type": ({"fill": np.nan, "dtype": "u1"}, OptionError, "fill=nan is not a value of uint8.*dtype="),
    "fill out of range": ({"fill": 300, "dtype": "u1"}, OptionError, "fill=300 is not a value of uint8"),
    "chunks": ({"chunks": "x"}, OptionError, "chunks='x'.*'z': 6"),
    "too many chunks": ({"chunks": (1, 2, 3, 4, 5)}, OptionError, "does not fit"),
    "no chunks": ({"chunks": 0}, OptionError, "chunks=0"),
    "chunks of no axis": ({"chunks": {"q": 3}}, OptionError, "'q'"),
    "like and grid": ({"like": VOLUME, "grid": GRID}, OptionError, "not both"),
    "grid by name": ({"grid": "all"}, OptionError, "'union' or 'intersection'"),
    "like of other axes": ({"like": VALUES[0]}, ShapeMismatchError, r"\('y', 'x'\)"),
}


@pytest.mark.parametrize(("options", "error", "words"), OPTIONS.values(), ids=OPTIONS)
def test_options_of_warp(options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        dr.warp(VOLUME, pull=SAME, **options)


@pytest.mark.parametrize(
    "options",
    [
        *({"chunks": c} for c in ("x", 0, -1, 1.5, True, None, (1, 2.5, 3), (1, 2, 3, 4), {"q": 2})),
        *({"shards": s, "chunks": 3} for s in ("x", 5, 0)),
        *({"levels": n} for n in (0, True, 1.5, None)),
        *({"downsample": d} for d in ("max", None)),
        *({"version": v} for v in ("0.3", 0.5)),
        {"resume": "x"},
        {"client": "tcp://127.0.0.1:1"},
        {"memory": "1 furlong"},
    ],
    ids=str,
)
def test_options_of_write(tmp_path: Path, options: dict[str, Any]) -> None:
    name = next(iter(options))
    with pytest.raises(OptionError, match=name):
        dr.write(VALUES, tmp_path / "out.zarr", progress=False, **options)
    assert list(tmp_path.iterdir()) == []


def test_shards_of_short_axes_and_sizes_by_name(tmp_path: Path) -> None:
    dr.write(VALUES, tmp_path / "a.zarr", chunks=16, shards=32, levels=1, progress=False)
    first = zarr.open_array(tmp_path / "a.zarr" / "0")
    assert (first.chunks, first.shards) == ((6, 16, 16), (6, 32, 32))
    dr.write(VALUES, tmp_path / "b.zarr", chunks={"z": 2, "x": 5}, levels=1, progress=False)
    assert zarr.open_array(tmp_path / "b.zarr" / "0").chunks == (2, 20, 5)
    assert dr.warp(VOLUME, pull=SAME, chunks={"z": 2}).chunks[0] == (2, 2, 2)


def test_a_fill_that_only_the_output_can_hold() -> None:
    image = np.full((3, 4), 200, np.uint8)
    moved = dr.warp(image, push=dr.Affine.translation(x=2), fill=300, dtype="u2")
    assert moved.tolist() == [[300, 300, 200, 200]] * 3


def test_pixels_meet_a_unit_with_a_warning() -> None:
    with pytest.warns(PixelUnitWarning, match="pixels are taken as micrometer"):
        dr.warp(VOLUME, pull=SAME, like=VALUES)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["?", ">u2", "<f2", "i1", "u8", ">f8"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (7, 1, 5), (1, 1, 1), (2, 3, 4, 5, 6)])
def test_odd_types_and_shapes_go_through(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    array = (np.random.default_rng(1).random(shape) * 99).astype(dtype)[..., ::-1]
    dr.write(dr.warp(dr.open(array), pull=dr.Affine.identity(2)), tmp_path / "a.zarr", progress=False)
    np.testing.assert_array_equal(dr.open(tmp_path / "a.zarr").values, array)


def test_nan_stays_where_it_is() -> None:
    array = VALUES.copy()
    array[2, 5, 7] = np.nan
    whole = dr.warp(array, push=SHIFT)
    assert np.argwhere(np.isnan(whole)).tolist() == [[2, 5, 8]]
    half = dr.warp(array, push=dr.Affine.translation(x=0.5))
    assert np.argwhere(np.isnan(half)).tolist() == [[2, 5, 7], [2, 5, 8]]


def test_casts_are_clamped_and_counted(tmp_path: Path) -> None:
    array = np.array([[-3, 0.5, 1.5, 255.4, 256, np.nan]])
    with pytest.warns(DaskregWarning, match="3 voxels did not fit uint8"):
        written = dr.write(dr.warp(dr.open(array), pull=dr.Affine.identity(2), dtype="u1"), tmp_path / "a.zarr")
    assert written.clipped == 3
    assert dr.open(tmp_path / "a.zarr").values.tolist() == [[0, 0, 2, 255, 255, 0]]


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    zarr.create_array(tmp_path / "in.zarr", shape=SHAPE, chunks=(1, 20, 22), dtype="f4", fill_value=7)[:] = VALUES
    return tmp_path / "in.zarr"


def test_a_missing_chunk_is_fill(tmp_path: Path, stored: Path) -> None:
    (stored / "c" / "2" / "0" / "0").unlink()
    with pytest.warns(DaskregWarning, match="1 chunks of the source are not stored"):
        dr.write(dr.open(stored), tmp_path / "out.zarr", progress=False)
    assert (dr.open(tmp_path / "out.zarr").values[2] == 7).all()


@pytest.mark.slow
@pytest.mark.parametrize("damage", [b"", b"garbage"])
def test_a_damaged_chunk_is_named(tmp_path: Path, stored: Path, damage: bytes) -> None:
    (stored / "c" / "2" / "0" / "0").write_bytes(damage)
    with pytest.raises(ChunkReadError, match=r"chunk c/2/0/0 of .*in\.zarr"):
        dr.open(stored).compute()
    with pytest.raises(BlocksFailedError, match=r"chunk c/2/0/0 of .*in\.zarr"):
        dr.write(dr.open(stored), tmp_path / "out.zarr", progress=False)


@pytest.mark.slow
def test_what_cannot_fit_says_what_would(tmp_path: Path, stored: Path) -> None:
    with pytest.raises(MemoryBudgetError, match=r"what would fit: memory='\d+ MiB'"):
        dr.write(dr.open(stored), tmp_path / "out.zarr", memory="1 kB", progress=False)
    assert not (tmp_path / "out.zarr").exists()


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"zarr_format": 3}', '{"zarr_format": 3, "node_type": "array"}'])
def test_broken_metadata_names_the_path(stored: Path, text: str) -> None:
    (stored / "zarr.json").write_text(text)
    with pytest.raises(NotAVolumeError, match=r"in\.zarr"):
        dr.open(stored)


def test_a_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daskreg.runtime.device.count_gpus", lambda: 0)
    with pytest.raises(OptionError, match="device='cuda:1': there is no CUDA device"):
        dr.warp(VALUES, pull=dr.Affine.translation(x=0.5), device="cuda:1")
