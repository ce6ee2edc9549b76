"""Volumes that are spread over files: the stamp covers every file with voxels; HDF5 voxels that are nowhere count."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile

import daskreg as dr
from daskreg.errors import ChunkReadError, DaskregWarning, NotAVolumeError
from daskreg.geometry import Box
from daskreg.sources.storage.counters import count_events
from daskreg.sources.stored import StoredSource
from daskreg.volumes import volume_of

VALUES = np.random.default_rng(0).integers(1, 999, (6, 11, 13)).astype(np.uint16)
META = "ObjectType = Image\nNDims = 3\nDimSize = 13 11 6\nElementType = MET_USHORT\nElementByteOrderMSB = False\n"
NRRD = "NRRD0004\ntype: uint16\ndimension: 3\nsizes: 13 11 6\nendian: little\nencoding: raw\n"
OME = "http://www.openmicroscopy.org/Schemas/OME/2016-06"


def metaimage(folder: Path, data: str) -> Path:
    (folder / "head.mhd").write_text(f"{META}ElementDataFile = {data}\n")
    return folder / "head.mhd"


def metaimage_of_one(folder: Path) -> tuple[Path, Path]:
    VALUES.tofile(folder / "voxels.dat")
    return metaimage(folder, "voxels.dat"), folder / "voxels.dat"


def metaimage_of_a_list(folder: Path) -> tuple[Path, Path]:
    for k, plane in enumerate(VALUES):
        plane.tofile(folder / f"plane{k}")
    return metaimage(folder, "LIST\n" + "\n".join(f"plane{k}" for k in range(6))), folder / "plane4"


def metaimage_of_a_pattern(folder: Path) -> tuple[Path, Path]:
    for k, plane in enumerate(VALUES):
        plane.tofile(folder / f"p{k + 1:03}.raw")
    return metaimage(folder, "p%03d.raw 1 6 1"), folder / "p005.raw"


def nrrd(folder: Path) -> tuple[Path, Path]:
    VALUES.tofile(folder / "voxels.raw")
    (folder / "head.nhdr").write_text(NRRD + "data file: voxels.raw\n\n")
    return folder / "head.nhdr", folder / "voxels.raw"


def hdf5_external(folder: Path) -> tuple[Path, Path]:
    VALUES.tofile(folder / "frames.raw")
    with h5py.File(folder / "a.h5", "w") as file:
        file.create_dataset("data", VALUES.shape, VALUES.dtype, external=[(folder / "frames.raw", 0, VALUES.nbytes)])
    return folder / "a.h5", folder / "frames.raw"


def virtual(folder: Path, names: Callable[[int], str]) -> Path:
    layout = h5py.VirtualLayout(VALUES.shape, VALUES.dtype)
    for k in range(6):
        with h5py.File(folder / names(k), "w") as file:
            file["d"] = VALUES[k]
        layout[k] = h5py.VirtualSource(names(k), "d", VALUES.shape[1:])
    with h5py.File(folder / "v.h5", "w") as file:
        file.create_virtual_dataset("data", layout)
    return folder / "v.h5"


def hdf5_virtual(folder: Path) -> tuple[Path, Path]:
    return virtual(folder, lambda k: f"s{k}.h5"), folder / "s4.h5"


def hdf5_virtual_of_virtual(folder: Path) -> tuple[Path, Path]:
    path = virtual(folder, lambda k: f"s{k}.h5")
    layout = h5py.VirtualLayout(VALUES.shape, VALUES.dtype)
    layout[...] = h5py.VirtualSource(path.name, "data", VALUES.shape)
    with h5py.File(folder / "outer.h5", "w") as file:
        file.create_virtual_dataset("data", layout)
    return folder / "outer.h5", folder / "s4.h5"


def hdf5_link(folder: Path) -> tuple[Path, Path]:
    with h5py.File(folder / "linked.h5", "w") as file:
        file["d"] = VALUES
    with h5py.File(folder / "a.h5", "w") as file:
        file["data"] = h5py.ExternalLink("linked.h5", "/d")
    return folder / "a.h5", folder / "linked.h5"


def ome_tiffs(folder: Path) -> tuple[Path, Path]:
    uid = "0000000{}-6173-4988-9d1c-c1a1e0bb4f4f"
    parts = "".join(
        f'<TiffData FirstZ="{k}" IFD="0" PlaneCount="1"><UUID FileName="z{k}.ome.tif">urn:uuid:{uid.format(k)}</UUID>'
        "</TiffData>"
        for k in range(6)
    )
    for k in range(6):
        text = (
            f'<?xml version="1.0"?><OME xmlns="{OME}" UUID="urn:uuid:{uid.format(k)}"><Image ID="Image:0"><Pixels '
            'ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" SizeX="13" SizeY="11" SizeZ="6" SizeC="1" SizeT="1" '
            f'BigEndian="false">{parts}</Pixels></Image></OME>'
        )
        tifffile.imwrite(folder / f"z{k}.ome.tif", VALUES[k], description=text, metadata=None)
    return folder / "z0.ome.tif", folder / "z4.ome.tif"


SPREAD = [metaimage_of_one, metaimage_of_a_list, metaimage_of_a_pattern, nrrd, hdf5_external, hdf5_virtual,
          hdf5_virtual_of_virtual, hdf5_link, ome_tiffs]  # fmt: skip


def source(path: Path) -> StoredSource:
    found = volume_of(dr.open(path)).source
    assert isinstance(found, StoredSource)
    return found


@pytest.mark.parametrize("make", SPREAD)
def test_the_stamp_covers_every_file_that_holds_voxels(
    tmp_path: Path, make: Callable[[Path], tuple[Path, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    named, other = make(tmp_path)
    before = source(named)
    np.testing.assert_array_equal(before.read(before.readable), VALUES)
    assert source(named).stamp == before.stamp == before.current_stamp()
    os.utime(other, ns=(10**18, 10**18))
    assert source(named).stamp == before.current_stamp() != before.stamp
    assert source(named).fingerprint() != before.fingerprint()


@pytest.mark.parametrize("make", [hdf5_virtual, hdf5_virtual_of_virtual, ome_tiffs])
def test_a_file_of_a_set_that_comes_back_changes_the_stamp(
    tmp_path: Path, make: Callable[[Path], tuple[Path, Path]]
) -> None:
    named, other = make(tmp_path)
    other.rename(tmp_path / "away")
    lacking = source(named)
    (tmp_path / "away").rename(other)
    assert source(named).stamp != lacking.stamp


def absent(path: Path, box: Box) -> set[str]:
    with count_events() as events:
        source(path).read(box)
    return events.missing


@pytest.mark.parametrize("make", [hdf5_virtual, hdf5_virtual_of_virtual])
def test_virtual_sources_that_are_gone_are_counted(tmp_path: Path, make: Callable[[Path], tuple[Path, Path]]) -> None:
    path, other = make(tmp_path)
    assert absent(path, Box.of(VALUES.shape)) == set()
    other.unlink()
    (name,) = absent(path, Box.of(VALUES.shape))
    assert "s4.h5" in name
    assert absent(path, Box((0, 0, 0), (4, 11, 13))) == set()
    with pytest.raises(ChunkReadError, match=r"s4\.h5.*is missing"):
        dr.open(path, missing="error").compute()
    with pytest.warns(DaskregWarning, match="1 chunks of the source are not stored"):
        assert dr.write(dr.open(path), tmp_path / "o.zarr", levels=1, progress=False, client=False).missing == 1


def test_virtual_sources_far_below_are_found_and_counted(tmp_path: Path) -> None:
    hdf5_virtual(tmp_path)
    for level in range(8):
        layout = h5py.VirtualLayout(VALUES.shape, VALUES.dtype)
        below = ("v.h5", "data") if level == 0 else (f"level{level - 1}.h5", "a/b")
        layout[...] = h5py.VirtualSource(*below, VALUES.shape)
        with h5py.File(tmp_path / f"level{level}.h5", "w") as file:
            file.create_virtual_dataset("a/b", layout)
    path = tmp_path / "level7.h5"
    np.testing.assert_array_equal(dr.open(path), VALUES)
    stamp = source(path).stamp
    (tmp_path / "s2.h5").unlink()
    (name,) = absent(path, Box.of(VALUES.shape))
    assert "s2.h5" in name
    assert source(path).stamp != stamp


def test_virtual_sources_with_numbers_in_their_names_are_found(tmp_path: Path) -> None:
    for k in range(3):
        with h5py.File(tmp_path / f"part-{k}.h5", "w") as file:
            file["d"] = VALUES[2 * k : 2 * k + 2]
    space = h5py.h5s.create_simple((6, 11, 13), (h5py.h5s.UNLIMITED, 11, 13))
    space.select_hyperslab((0, 0, 0), (h5py.h5s.UNLIMITED, 1, 1), (2, 11, 13), (2, 11, 13))
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_virtual(space, b"part-%b.h5", b"d", h5py.h5s.create_simple((2, 11, 13)))
    whole = h5py.h5s.create_simple((6, 11, 13), (h5py.h5s.UNLIMITED, 11, 13))
    with h5py.File(tmp_path / "numbered.h5", "w") as file:
        h5py.h5d.create(file.id, b"data", h5py.h5t.NATIVE_UINT16, whole, plist)
    before = source(tmp_path / "numbered.h5")
    np.testing.assert_array_equal(before.read(before.readable), VALUES)
    os.utime(tmp_path / "part-1.h5", ns=(10**18, 10**18))
    assert source(tmp_path / "numbered.h5").stamp != before.stamp


def test_virtual_datasets_without_an_end_are_refused(tmp_path: Path) -> None:
    for own, other in (("a", "b"), ("b", "a")):
        layout = h5py.VirtualLayout(VALUES.shape, VALUES.dtype)
        for k in range(6):
            layout[k] = h5py.VirtualSource(f"{other}.h5", "data", VALUES.shape)[k]
        with h5py.File(tmp_path / f"{own}.h5", "w") as file:
            file.create_virtual_dataset("data", layout)
    with pytest.raises(NotAVolumeError, match="levels deep"):
        dr.open(tmp_path / "a.h5")


def test_chunks_that_were_never_written_are_counted(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "aborted.h5", "w") as file:
        file.create_dataset("data", VALUES.shape, "u2", chunks=(1, 5, 13))[:4] = VALUES[:4]
    with h5py.File(tmp_path / "never.h5", "w") as file:
        file.create_dataset("data", VALUES.shape, "u2")
    with h5py.File(tmp_path / "whole.h5", "w") as file:
        file.create_dataset("data", data=np.zeros_like(VALUES), chunks=(2, 5, 13), compression="gzip")
    box = Box((3, 0, 0), (6, 7, 13))
    assert absent(tmp_path / "aborted.h5", box) == {"4/0/0", "4/1/0", "5/0/0", "5/1/0"}
    assert absent(tmp_path / "never.h5", box) == {"voxels that were never written"}
    assert absent(tmp_path / "whole.h5", box) == set()


def test_parts_of_virtual_sources_that_are_nowhere_are_counted(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "s.h5", "w") as file:
        file.create_dataset("d", (4, 11, 13), "u2", chunks=(1, 11, 13))[:3] = VALUES[:3]
    layout = h5py.VirtualLayout(VALUES.shape, VALUES.dtype)
    layout[:4] = h5py.VirtualSource("s.h5", "d", (4, 11, 13))
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file.create_virtual_dataset("data", layout)
    assert absent(tmp_path / "v.h5", Box((0, 0, 0), (3, 11, 13))) == set()
    assert absent(tmp_path / "v.h5", Box((2, 0, 0), (4, 11, 13))) == {"3/0/0"}
    (name,) = absent(tmp_path / "v.h5", Box((4, 0, 0), (6, 11, 13)))
    assert "without a virtual source" in name


def test_a_raw_file_that_ends_early_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path, raw = hdf5_external(tmp_path)
    os.truncate(raw, VALUES[:4].nbytes)
    assert absent(path, Box((0, 0, 0), (4, 11, 13))) == set()
    assert absent(path, Box((3, 2, 0), (5, 7, 13))) != set()


def test_headers_without_their_voxels_are_named(tmp_path: Path) -> None:
    import nibabel
    from nibabel import cifti2

    nibabel.save(nibabel.Nifti1Pair(np.zeros((4, 5, 6), np.int16), np.eye(4)), tmp_path / "pair.hdr")
    (tmp_path / "pair.img").unlink()
    with pytest.raises(NotAVolumeError, match=r"pair\.img, which does not exist"):
        dr.open(tmp_path / "pair.hdr")
    axes = (cifti2.SeriesAxis(0, 1, 3), cifti2.BrainModelAxis.from_mask(np.ones(4), "putamen_left"))
    nibabel.save(cifti2.Cifti2Image(np.zeros((3, 4), np.float32), axes), tmp_path / "x.dtseries.nii")
    with pytest.raises(NotAVolumeError, match=r"x\.dtseries\.nii"):
        dr.open(tmp_path / "x.dtseries.nii")


def test_chunks_without_a_length_do_not_hang() -> None:
    from daskreg.sources.chunking import read_block_shape

    assert read_block_shape((900, 20, 3), (0, 20, 3), 1) == (900, 20, 3)
