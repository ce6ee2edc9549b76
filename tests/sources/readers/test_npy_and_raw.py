"""`.npy` and `.raw`: arrays that lie in a file as they are."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import daskreg as dr
from daskreg.cli import run
from daskreg.errors import EmptyArrayError, NotAVolumeError, OptionError, OutsideError, UnsupportedDTypeError
from daskreg.volumes import volume_of

RNG = np.random.default_rng(0)
VOLUME = RNG.integers(0, 60_000, (7, 9, 11)).astype(np.uint16)


@pytest.mark.parametrize("dtype", ["<u2", ">u2", ">f4", "f8", "?", "i1", "f2"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy(tmp_path: Path, dtype: str, order: Any) -> None:
    values = np.asarray(VOLUME % 251, order=order).astype(dtype)
    np.save(tmp_path / "a.npy", values)
    volume = dr.open(tmp_path / "a.npy", spacing=(2, 0.5, 0.5), unit="um")
    assert volume.name == "a"
    assert volume_of(volume).source.kind == "npy"
    assert dr.grid(volume) == dr.Grid((7, 9, 11), (2, 0.5, 0.5), unit="um")
    assert volume.dtype == (np.float32 if dtype == "f2" else np.dtype(dtype).newbyteorder("="))
    np.testing.assert_array_equal(volume, values)
    np.testing.assert_array_equal(volume[2:5, 1:8, 3], values[2:5, 1:8, 3])


@pytest.mark.slow
def test_axes_are_those_of_an_array_in_memory(tmp_path: Path) -> None:
    for ndim in (2, 3, 4, 5):
        values = RNG.normal(size=range(2, 2 + ndim))
        np.save(tmp_path / "a.npy", values)
        opened = dr.open(tmp_path / "a.npy")
        assert opened.dims == dr.open(values).dims
        np.testing.assert_array_equal(opened, values)


@pytest.mark.slow
def test_blocks_are_read_on_their_own(tmp_path: Path) -> None:
    """What is not asked for is not read: the rest of the file is a hole of 64 GiB."""
    file = tmp_path / "large.raw"
    with file.open("wb") as out:
        out.truncate(2**36)
        out.seek(2**35)
        out.write(VOLUME.tobytes())
    volume = dr.open(file, shape=(2**15, 2**10, 2**10), dtype="uint16")
    np.testing.assert_array_equal(volume[2**14, 0, : VOLUME[0].size], VOLUME[0].ravel())


@pytest.mark.parametrize(
    ("content", "error", "match"),
    [
        (b"", NotAVolumeError, "no header"),
        (b"\x93NUMPY\x01\x00\x10\x00{'descr': __import__('os')", NotAVolumeError, "a.npy"),
        (np.array([[{}, {}]], dtype=object), UnsupportedDTypeError, "object"),
        (np.zeros((3, 4), [("a", "f4"), ("b", "i2")]), UnsupportedDTypeError, "a.npy"),
        (np.zeros((3, 4), complex), UnsupportedDTypeError, "complex"),
        (np.zeros(12), NotAVolumeError, "two axes"),
        (np.zeros((3, 0, 4)), EmptyArrayError, "axis y"),
    ],
)
def test_what_is_no_volume(tmp_path: Path, content: Any, error: type[Exception], match: str) -> None:
    if isinstance(content, bytes):
        (tmp_path / "a.npy").write_bytes(content)
    else:
        np.save(tmp_path / "a.npy", content, allow_pickle=True)
    with pytest.raises(error, match=match):
        dr.open(tmp_path / "a.npy")


def test_a_header_that_states_more_than_there_is(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", VOLUME)
    content = (tmp_path / "a.npy").read_bytes()
    for changed in (
        content.replace(b"(7, 9, 11), }", b"(7, 9, 9**9),}"),
        content.replace(b"(7, 9, 11)", b"(7, 9, 99)"),
    ):
        (tmp_path / "a.npy").write_bytes(changed)
        with pytest.raises(NotAVolumeError, match=r"a\.npy"):
            dr.open(tmp_path / "a.npy")


def test_raw_with_keywords(tmp_path: Path) -> None:
    VOLUME.astype(">u2").tofile(tmp_path / "a.raw")
    volume = dr.open(tmp_path / "a.raw", shape=VOLUME.shape, dtype=">u2", spacing=0.5, unit="um")
    np.testing.assert_array_equal(volume, VOLUME)
    assert (volume.name, volume.dtype) == ("a", np.uint16)
    assert dr.grid(volume) == dr.Grid((7, 9, 11), 0.5, unit="um")


def test_raw_with_a_json_file(tmp_path: Path) -> None:
    with (tmp_path / "a.raw").open("wb") as file:
        file.write(b"header")
        file.write(VOLUME.tobytes())
    stated = {"shape": [7, 9, 11], "dtype": "<u2", "offset": 6, "axes": "tyx", "spacing": [2, 0.5], "unit": "nm"}
    (tmp_path / "a.json").write_text(json.dumps(stated))
    volume = dr.open(tmp_path / "a.raw")
    assert volume.dims == ("t", "y", "x")
    assert dr.grid(volume) == dr.Grid((9, 11), (2, 0.5), unit="nm", axes=("y", "x"))
    np.testing.assert_array_equal(volume, VOLUME)
    assert dr.grid(dr.open(tmp_path / "a.raw", spacing=3, unit="um")).spacing == (3, 3)  # what is passed counts
    (tmp_path / "a.json").rename(tmp_path / "a.raw.json")
    np.testing.assert_array_equal(dr.open(tmp_path / "a.raw"), VOLUME)


@pytest.mark.parametrize(
    ("options", "stated", "error", "match"),
    [
        ({}, None, OptionError, "has no header: pass shape="),
        ({"shape": (7, 9, 11)}, None, OptionError, "has no header: pass shape="),
        ({"shape": (7, 9, 12), "dtype": "u2"}, None, NotAVolumeError, "shorter"),
        ({"shape": (7, 9, 10), "dtype": "u2"}, None, OptionError, "126 bytes more than"),
        ({"shape": (7, 99, 0), "dtype": "u2"}, None, EmptyArrayError, "axis x"),
        ({"shape": (7, 99, -2), "dtype": "u2"}, None, OptionError, "below 0"),
        ({"shape": (7, 9, 11), "dtype": "no type"}, None, OptionError, "no type"),
        ({"shape": (7, 9, 11), "dtype": "O"}, None, UnsupportedDTypeError, "object"),
        ({"shape": 693, "dtype": "u2"}, None, OptionError, "693"),
        ({"shape": (693,), "dtype": "u2"}, None, OptionError, "two or more"),
        ({}, '{"shape": [7, 9, 11]', NotAVolumeError, "cannot be read"),
        ({}, "[" * 100_000, NotAVolumeError, "cannot be read"),
        ({}, "[7, 9, 11]", NotAVolumeError, "no mapping"),
        ({}, '{"shape": [7, 9, 11], "dtype": "u2", "offset": 1e400}', OptionError, "does not describe"),
        ({}, '{"shape": [7, 9, 11], "dtype": "u2", "axes": ["z", "y", 1]}', OptionError, "no text"),
        ({}, '{"shape": [7, 9, 11], "dtype": "u2", "axes": "zyy"}', OptionError, "as many axes"),
    ],
)
def test_raw_that_is_not_described(
    tmp_path: Path, options: dict[str, Any], stated: str | None, error: type[Exception], match: str
) -> None:
    VOLUME.tofile(tmp_path / "a.raw")
    if stated is not None:
        (tmp_path / "a.raw.json").write_text(stated)
    with pytest.raises(error, match=match):
        dr.open(tmp_path / "a.raw", **options)


def test_a_json_file_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "inbox").mkdir()
    VOLUME.tofile(tmp_path / "inbox" / "a.raw")
    (tmp_path / "private.json").write_text('{"shape": [7, 9, 11], "dtype": "u2"}')
    (tmp_path / "inbox" / "a.raw.json").symlink_to(tmp_path / "private.json")
    with pytest.raises(OutsideError):
        dr.open(tmp_path / "inbox" / "a.raw")
    (tmp_path / "inbox" / "a.raw.json").unlink()
    os.mkfifo(tmp_path / "inbox" / "a.raw.json")  # is not waited for
    with pytest.raises(OptionError, match="has no header"):
        dr.open(tmp_path / "inbox" / "a.raw")


@pytest.mark.slow
def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    VOLUME.tofile(tmp_path / "a.raw")
    options = ["--raw-shape", "7,9,11", "--raw-dtype", "uint16", "--spacing", "0.5", "--unit", "um"]
    assert run(["info", str(tmp_path / "a.raw"), *options]) == 0
    assert "7" in capsys.readouterr().out
    assert run(["convert", str(tmp_path / "a.raw"), str(tmp_path / "a.zarr"), *options, "-q"]) == 0
    np.testing.assert_array_equal(dr.open(tmp_path / "a.zarr"), VOLUME)
    assert dr.grid(dr.open(tmp_path / "a.zarr")).spacing == (0.5, 0.5, 0.5)
    assert run(["info", str(tmp_path / "a.raw")]) == 2
    assert "--raw-shape" in capsys.readouterr().err


def test_shape_and_type_of_other_files_are_theirs(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", VOLUME)
    for options in ({"shape": (7, 9, 11)}, {"dtype": "u2"}):
        with pytest.raises(OptionError, match="raw"):
            dr.open(tmp_path / "a.npy", **options)
        with pytest.raises(OptionError, match="in memory"):
            dr.open(VOLUME, **options)


@pytest.mark.slow
def test_raw_voxels_beside_their_header_are_no_slices(tmp_path: Path) -> None:
    """A folder of .mhd files is a sequence, though their voxels are files of a format that is read, too."""
    import SimpleITK as sitk  # noqa: N813

    for k in range(3):
        sitk.WriteImage(sitk.GetImageFromArray(VOLUME[k]), tmp_path / f"{k}.mhd")
    np.testing.assert_array_equal(dr.open(tmp_path, spacing={"z": 2}), VOLUME[:3])


def test_a_shape_in_text_is_not_taken_apart(tmp_path: Path) -> None:
    (tmp_path / "a.raw").write_bytes(bytes(9**3))
    (tmp_path / "a.raw.json").write_text('{"shape": "999", "dtype": "u1"}')
    with pytest.raises(OptionError, match="a list of numbers"):
        dr.open(tmp_path / "a.raw")
