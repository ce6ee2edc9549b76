"""Damaged heaps of HDF5 files are errors: libhdf5 itself does not end there."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import daskreg as dr
from daskreg.errors import ChunkReadError, InvalidTransformError, NotAVolumeError
from daskreg.geometry import Box
from daskreg.runtime.hdf5_heaps import HeapCheckedFile
from daskreg.sources.readers.hdf5.links import members
from daskreg.sources.readers.hdf5.stacked import StackedDatasets

h5py = pytest.importorskip("h5py")
# Without the check these would not end, not even by a signal.
pytestmark = pytest.mark.timeout(60, method="thread")
VALUES = np.arange(24, dtype="u2").reshape(2, 3, 4)


def write(path: Path, libver: str = "earliest") -> None:
    with h5py.File(path, "w", libver=libver) as file:
        file["entry/volume"] = VALUES
        file["entry"].attrs["signal"] = "volume"
        for k, (axis, count) in enumerate(zip("zyx", VALUES.shape, strict=True)):
            file[f"entry/{axis}"] = np.arange(count) * 0.5
            file[f"entry/{axis}"].attrs["units"] = "mm"
            file[f"entry/{axis}"].make_scale(axis)
            file["entry/volume"].dims[k].attach_scale(file[f"entry/{axis}"])


def damage(path: Path, index: int, length: int) -> int:
    """Set the length of the objects of an index in every heap. Returns: how many there were."""
    data, count = bytearray(path.read_bytes()), 0
    start = data.find(b"GCOL")
    while start >= 0:
        end, at = start + int.from_bytes(data[start + 8 : start + 16], "little"), start + 16
        while at + 16 <= end:
            found = int.from_bytes(data[at : at + 2], "little")
            size = int.from_bytes(data[at + 8 : at + 16], "little")
            if found == index:
                data[at + 8 : at + 16] = length.to_bytes(8, "little")
                count += 1
            at += 16 + -(-size // 8) * 8 if found else size
        start = data.find(b"GCOL", end)
    path.write_bytes(data)
    return count


@pytest.mark.parametrize("libver", ["earliest", "latest"])
def test_whole_heaps_are_read(tmp_path: Path, libver: str) -> None:
    write(tmp_path / "a.h5", libver)
    assert dr.grid(dr.open(tmp_path / "a.h5")).spacing[0] == 0.5
    with HeapCheckedFile(str(tmp_path / "a.h5")) as checked, h5py.File(checked, "r") as file:
        assert file["entry"].attrs["signal"] == "volume"


@pytest.mark.parametrize(("index", "length"), [(0, 0), (1, 2**64 - 16), (0, 2**63)])
def test_an_object_that_leads_nowhere_is_refused(tmp_path: Path, index: int, length: int) -> None:
    path = tmp_path / "a.h5"
    write(path)
    assert damage(path, index, length)
    with pytest.raises(NotAVolumeError, match="damaged"):
        dr.open(path)


def test_a_transform_with_such_a_heap_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.h5"
    dr.Affine.translation(x=1, y=2).save(path)
    assert damage(path, 0, 0)
    with pytest.raises(InvalidTransformError, match="damaged"):
        dr.load(path)


def loop_free_blocks(path: Path, width: int = 8, begin: int = 0) -> int:
    """Let the first free block of each heap of names lead to itself. Returns: how many there were."""
    data, count = bytearray(path.read_bytes()), 0
    start = data.find(b"HEAP")
    while start >= 0:
        size, free, at = np.frombuffer(data[start + 8 : start + 8 + 3 * width], f"<u{width}").tolist()
        if free < size:
            data[begin + at + free : begin + at + free + width] = free.to_bytes(width, "little")
            count += 1
        start = data.find(b"HEAP", start + 4)
    path.write_bytes(data)
    return count


def test_a_free_block_that_leads_to_itself_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write(path)
    assert loop_free_blocks(path)
    for place in (path, f"{path}::/entry/volume", f"{path}::/entry/x"):
        with pytest.raises(NotAVolumeError, match="endless chain"):
            dr.open(place)
    transform = tmp_path / "t.h5"
    dr.Affine.translation(x=1, y=2).save(transform)
    assert loop_free_blocks(transform)
    with pytest.raises(InvalidTransformError, match="endless chain"):
        dr.load(transform)


def test_a_heap_that_is_damaged_after_the_file_was_opened(tmp_path: Path) -> None:
    """Only the group of the second time, which no one looks into before its voxels are read."""
    path = tmp_path / "a.ims"
    with h5py.File(path, "w") as file:
        for t in range(2):
            file.create_dataset(
                f"DataSet/ResolutionLevel 0/TimePoint {t}/Channel 0/Data", data=VALUES, chunks=(1, 3, 4)
            )
        file.create_group("DataSetInfo/Image")
    volume = dr.open(path)
    assert volume.shape == (2, *VALUES.shape)
    assert loop_free_blocks(path)
    for _ in range(2):
        with pytest.raises(ChunkReadError, match="endless chain"):
            volume[1].compute()


def test_a_file_is_opened_once_to_look_up_many_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And closed, which pytest looks at."""
    opened: list[str] = []

    class Counted(HeapCheckedFile):
        def __init__(self, path: str) -> None:
            opened.append(path)
            super().__init__(path)

    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        for k in range(7):
            file[f"entry/{k}/data"] = VALUES + k
    monkeypatch.setattr("daskreg.sources.readers.hdf5.attributes.HeapCheckedFile", Counted)
    with h5py.File(path) as file:
        assert [name for name, _ in members(file["entry"])] == list("0123456")
        assert len(opened) == 1
        volume = StackedDatasets(file, lambda t, c: f"entry/{t}/data", (7, 1, *VALUES.shape), VALUES.dtype)
        for t in range(7):
            box = Box((t, 0, 0, 0, 0), (t + 1, 1, *VALUES.shape))
            np.testing.assert_array_equal(volume.read(box)[0, 0], VALUES + t)
        assert len(opened) == 2


def test_lengths_of_four_bytes(tmp_path: Path) -> None:
    properties = h5py.h5p.create(h5py.h5p.FILE_CREATE)
    properties.set_sizes(4, 4)
    properties.set_userblock(1024)
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_libver_bounds(h5py.h5f.LIBVER_EARLIEST, h5py.h5f.LIBVER_LATEST)
    path = tmp_path / "small.h5"
    with h5py.File(h5py.h5f.create(str(path).encode(), h5py.h5f.ACC_TRUNC, properties, access)) as file:
        file["volume"] = VALUES
        for k in range(40):
            file["volume"].attrs[f"text {k}"] = "word " * k
    with HeapCheckedFile(str(path)) as checked, h5py.File(checked, "r") as file:
        assert file["volume"].attrs["text 39"] == "word " * 39
    assert loop_free_blocks(path, width=4, begin=1024)
    with pytest.raises(NotAVolumeError, match="endless chain"):
        dr.open(path)


@pytest.mark.parametrize("chain", [[48, 48], [0, 16, 32, 48, 64, 32], [16, 0, 48, 1], [*range(0, 1600, 16), 800]])
def test_free_blocks_of_a_heap_that_states_a_wrong_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chain: list[int]
) -> None:
    """A loop is found by its own length, not by that of the heap or file."""
    path, blocks = tmp_path / "heap", np.zeros(250, "<u8")
    for block, following in pairwise(chain):
        blocks[block // 8] = following
    fields = np.array([2**40, chain[0], 32], "<u8")
    path.write_bytes(b"HEAP\0\0\0\0" + fields.tobytes() + blocks.tobytes())
    os.truncate(path, 2**24)
    read: list[int] = []
    pread = os.pread
    with HeapCheckedFile(str(path)) as checked:
        monkeypatch.setattr(os, "pread", lambda *where: read.append(where[2]) or pread(*where))
        if chain[-1] == 1:
            assert checked.readinto(bytearray(32)) == 32
        else:
            with pytest.raises(OSError, match="endless chain"):
                checked.readinto(bytearray(32))
    assert len(read) <= 4 * len(chain)
