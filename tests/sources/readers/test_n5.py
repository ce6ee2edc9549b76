"""N5 against z5 (a library in C++): every compression and type, blocks that are not stored, and where voxels lie."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import daskreg as dr
from daskreg.errors import ChunkReadError, NotAVolumeError, OptionError, OutsideError, UnitError
from daskreg.volumes import volume_of

z5py = pytest.importorskip("z5py")

pytestmark = pytest.mark.slow

RNG = np.random.default_rng(5)
VOLUME = RNG.integers(0, 200, (21, 18, 35)).astype(np.uint16)


def written(path: Path, values: Any = VOLUME, name: str = "a", chunks: Any = (8, 7, 16), **options: Any) -> Path:
    with z5py.File(str(path), "a", use_zarr_format=False) as file:
        data = file.create_dataset(name, shape=values.shape, chunks=chunks, dtype=values.dtype, **options)
        data[:] = values
    return path


def state(folder: Path, **attributes: Any) -> None:
    """Add to the attributes of a folder."""
    file = folder / "attributes.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({**known, **attributes}))


@pytest.mark.parametrize("compression", ["raw", "gzip", "bzip2", "xz", "blosc", "zstd"])
def test_compressions(tmp_path: Path, compression: str) -> None:
    try:
        path = written(tmp_path / "a.n5", compression=compression)
    except (RuntimeError, ValueError) as error:
        pytest.skip(f"z5 was built without {compression}: {error}")
    volume = dr.open(path / "a")
    np.testing.assert_array_equal(volume, VOLUME)
    np.testing.assert_array_equal(volume[3:20, 6, 15:33], VOLUME[3:20, 6, 15:33])
    assert volume_of(volume).source.kind == "n5"
    np.testing.assert_array_equal(dr.open(f"{path}::/a"), VOLUME)
    np.testing.assert_array_equal(dr.open(path, series="a"), VOLUME)


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"])
def test_types(tmp_path: Path, dtype: str) -> None:
    values = (VOLUME - 100.0 if dtype[0] in "if" else VOLUME).astype(dtype)
    volume = dr.open(written(tmp_path / "a.n5", values) / "a")
    assert volume.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(volume, values)


def test_axes_and_blocks_longer_than_them(tmp_path: Path) -> None:
    for values, dims in ((VOLUME[0], ("y", "x")), (VOLUME[None], ("c", "z", "y", "x"))):
        path = written(tmp_path / f"{values.ndim}.n5", values, chunks=(64,) * values.ndim)
        volume = dr.open(path / "a")
        assert volume.dims == dims
        np.testing.assert_array_equal(volume, values)


def test_blocks_that_are_not_stored(tmp_path: Path) -> None:
    path = written(tmp_path / "a.n5")
    (path / "a" / "1" / "2" / "0").unlink()  # x, y, z
    wanted = VOLUME.copy()
    wanted[:8, 14:18, 16:32] = 0
    np.testing.assert_array_equal(dr.open(path / "a"), wanted)
    with pytest.raises(ChunkReadError, match="chunk 1/2/0 .*missing"):
        dr.open(path / "a", missing="error").compute()


def pyramid(tmp_path: Path) -> Path:
    path = tmp_path / "a.n5"
    for level, factor in enumerate((1, 2, 4)):
        written(path, np.ascontiguousarray(VOLUME[::factor, ::factor, ::factor]), f"g/s{level}")
    return path / "g"


def test_a_pyramid_of_n5_viewer(tmp_path: Path) -> None:
    group = pyramid(tmp_path)
    state(group, resolution=[4, 5, 40], units=["nm", "nm", "nm"], scales=[[1, 1, 1], [2, 2, 2], [4, 4, 4]])
    for level, factor in enumerate((1, 2, 4)):
        volume = dr.open(group, level=level)
        np.testing.assert_array_equal(volume, VOLUME[::factor, ::factor, ::factor])
        spacing = np.array((40, 5, 4)) * factor
        assert dr.grid(volume) == dr.Grid(volume.shape, spacing, np.array((40, 5, 4)) * (factor - 1) / 2, unit="nm")
        for named in (group / f"s{level}", f"{tmp_path / 'a.n5'}::/g/s{level}"):
            assert dr.grid(dr.open(named)) == dr.grid(volume)
    assert dr.open(group, level=-1).shape == (6, 5, 9)
    with pytest.raises(OptionError, match="has 3"):
        dr.open(group, level=3)
    with pytest.raises(NotAVolumeError, match=r"no N5 array; .*a\.n5 holds g"):
        dr.open(tmp_path / "a.n5")
    with pytest.raises(NotAVolumeError, match="holds g"):
        dr.open(tmp_path / "a.n5", series="h")


def test_placements_of_single_arrays(tmp_path: Path) -> None:
    array = written(tmp_path / "a.n5") / "a"
    assert dr.grid(dr.open(array)) == dr.Grid(VOLUME.shape)
    state(array, resolution=[4, 5, 40], offset=[10, 20, 30])  # Paintera
    assert dr.grid(dr.open(array, unit="nm")) == dr.Grid(VOLUME.shape, (40, 5, 4), (30, 20, 10), unit="nm")
    state(array, pixelResolution={"unit": "um", "dimensions": [0.5, 0.5, 2]}, downsamplingFactors=[2, 2, 1])
    grid = dr.grid(dr.open(array))
    assert grid == dr.Grid(VOLUME.shape, (2, 1, 1), (30, 20.25, 10.25), unit="um")
    cosem = {"axes": ["z", "y", "x"], "scale": [8, 4, 4], "translate": [1, 2, 3], "units": ["nm", "nm", "nm"]}
    state(array, transform=cosem)
    assert dr.grid(dr.open(array)) == dr.Grid(VOLUME.shape, (8, 4, 4), (1, 2, 3), unit="nm")
    state(array, transform={**cosem, "units": ["um", "nm", "nm"]})
    assert dr.grid(dr.open(array)).spacing == (8000, 4, 4)
    for broken, error in ((["s", "nm", "nm"], UnitError), (["nm"], None)):
        state(array, transform={**cosem, "units": broken})
        if error:
            with pytest.raises(error):
                dr.open(array)
    state(array, transform={**cosem, "scale": [1, "x", 2]})
    with pytest.raises(NotAVolumeError, match="'scale'"):
        dr.open(array)


def test_real_metadata(data: Path, tmp_path: Path) -> None:
    """Neuroglancer's examples, whose second unit is one of time."""
    for name in ("n5_viewer_multiscale_modern", "n5_viewer_multiscale_deprecated"):
        source = data / "zarr" / "neuroglancer" / "datasource" / "n5" / name
        with pytest.raises(UnitError, match="second"):
            dr.open(source)
        shutil.copytree(source, tmp_path / name)
        state(tmp_path / name, units=["nm", "nm"])
        for level, shape in enumerate(((20, 10), (10, 5), (5, 3))):
            volume = dr.open(tmp_path / name, level=level)
            assert volume.shape == shape
            assert dr.grid(volume).spacing == (20 * 2**level, 10 * 2**level)
            assert not volume.values.any()  # no block is stored


@pytest.mark.parametrize(
    ("attributes", "match"),
    [
        ({"dimensions": [1, 2]}, "blocks of"),
        ({"dimensions": [35, 18, 2**62]}, "dimensions"),
        ({"dimensions": [35, 18, True]}, "dimensions"),
        ({"blockSize": [16, 0, 8]}, "blockSize"),
        ({"blockSize": [2**20, 2**20, 8]}, "at most"),
        ({"blockSize": "all"}, "blockSize"),
        ({"dataType": "object"}, "object"),
        ({"compression": {"type": "lz4"}}, "lz4"),
        ({"compression": 7}, "None"),
        ({"dimensions": [35, 18, 2**40]}, "at most"),
    ],
)
def test_attributes_that_are_refused(tmp_path: Path, attributes: dict[str, Any], match: str) -> None:
    array = written(tmp_path / "a.n5") / "a"
    state(array, **attributes)
    with pytest.raises(NotAVolumeError, match=match):
        dr.open(array)


@pytest.mark.parametrize("change", ["cut", "empty", "axes", "larger", "packed"])
def test_blocks_that_are_damaged(tmp_path: Path, change: str) -> None:
    import gzip

    array = written(tmp_path / "a.n5", compression="gzip") / "a"
    block = array / "0" / "0" / "0"
    content = block.read_bytes()
    changed = {
        "cut": content[:-9],
        "empty": b"",
        "axes": b"\0\0\0\2" + content[4:],
        "larger": content[:4] + b"\0\0\1\0" + content[8:],
        "packed": content[:16] + gzip.compress(bytes(2**26)),  # 64 MiB in 64 kB
    }
    block.write_bytes(changed[change])
    with pytest.raises(ChunkReadError, match="cannot read"):
        dr.open(array).compute()
    values = dr.open(array, corrupt="fill").values
    np.testing.assert_array_equal(values[8:], VOLUME[8:])


def test_nothing_is_read_elsewhere(tmp_path: Path) -> None:
    path = written(tmp_path / "inbox" / "a.n5") if (tmp_path / "inbox").mkdir() is None else tmp_path
    block = path / "a" / "0" / "0" / "0"
    shutil.move(block, tmp_path / "private")
    block.symlink_to(tmp_path / "private")
    with pytest.raises(OutsideError):
        dr.open(path / "a").compute()
    np.testing.assert_array_equal(dr.open(path / "a", allow_outside=True), VOLUME)
    shutil.move(path / "a", tmp_path / "array")
    (path / "a").symlink_to(tmp_path / "array")
    with pytest.raises(OutsideError):
        dr.open(f"{path}::/a")
    with pytest.raises(NotAVolumeError, match="leads out"):
        dr.open(f"{path}::/../../array")
