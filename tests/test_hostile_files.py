"""Files made to harm: those that point elsewhere, that unpack to gigabytes, and damaged ones of every format."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import zarr

import daskreg as dr
from daskreg.cli import run
from daskreg.errors import ChunkReadError, InputError, NotAVolumeError, OutsideError, UnsafeOutputError
from daskreg.sources import handles

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
VALUES = np.arange(5 * 6 * 7, dtype=np.uint8).reshape(5, 6, 7)
NRRD = "NRRD0004\ntype: uint8\ndimension: 3\nsizes: 7 6 5\nencoding: raw\ndata file: {}\n\n"
META = "ObjectType = Image\nNDims = 3\nDimSize = 7 6 5\nElementType = MET_UCHAR\nElementDataFile = {}\n"


def external_storage(path: Path, target: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        file.create_dataset("a", VALUES.shape, "u1", external=[(str(target), 0, VALUES.nbytes)])


def external_link(path: Path, target: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(target, "w") as file:
        file["b"] = VALUES
    with h5py.File(path, "w") as file:
        file["a"] = h5py.ExternalLink(str(target), "/b")


def virtual_dataset(path: Path, target: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(target, "w") as file:
        file["b"] = VALUES
    layout = h5py.VirtualLayout(VALUES.shape, "u1")
    layout[:] = h5py.VirtualSource(str(target), "b", VALUES.shape)
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("a", layout)


def virtual_dataset_of_external_storage(path: Path, target: Path) -> None:
    """The second file lies beside the first, and its voxels outside."""
    h5py = pytest.importorskip("h5py")
    external_storage(path.with_name("second.h5"), target)
    layout = h5py.VirtualLayout(VALUES.shape, "u1")
    layout[:] = h5py.VirtualSource("second.h5", "a", VALUES.shape)
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("a", layout)


def soft_link_to_external_link(path: Path, target: Path) -> None:
    h5py = pytest.importorskip("h5py")
    external_link(path, target)
    with h5py.File(path, "a") as file:
        file["away"] = file.get("a", getlink=True)
        del file["a"]
        file["a"] = h5py.SoftLink("/away")


def symbolic_link(path: Path, target: Path) -> None:
    path.with_name("inside.raw").symlink_to(target)
    path.write_text(META.format("inside.raw"))


def chunk(path: Path, target: Path, **options: Any) -> None:
    array = zarr.create_array(path, shape=VALUES.shape, chunks=VALUES.shape, dtype="u1", compressors=None, **options)
    array[:] = VALUES
    (stored,) = (p for p in path.rglob("*") if p.is_file() and p.stat().st_size == VALUES.nbytes)
    stored.unlink()
    stored.symlink_to(target)


def level(path: Path, target: Path) -> None:
    """A whole level of an image is elsewhere."""
    dr.write(VALUES, path, levels=1, progress=False)
    (path / "0").rename(target.with_name("0.zarr"))
    (path / "0").symlink_to(target.with_name("0.zarr"))


ELSEWHERE: dict[str, Callable[[Path, Path], None]] = {
    "storage.h5": external_storage,
    "link.h5": external_link,
    "virtual.h5": virtual_dataset,
    "nested.h5": virtual_dataset_of_external_storage,
    "soft.h5": soft_link_to_external_link,
    "absolute.mhd": lambda path, target: path.write_text(META.format(target)),
    "climbs.mhd": lambda path, target: path.write_text(META.format(os.path.relpath(target, path.parent))),
    "linked.mhd": symbolic_link,
    "list.mhd": lambda path, target: path.write_text(META.format("LIST") + f"{target}\n" * 5),
    "absolute.nhdr": lambda path, target: path.write_text(NRRD.format(target)),
    "climbs.nrrd": lambda path, target: path.write_text(NRRD.format(os.path.relpath(target, path.parent))),
    "v3.zarr": chunk,
    "v2, in Fortran's order.zarr": lambda path, target: chunk(path, target, zarr_format=2, order="F"),
    "ome.zarr": level,
}


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A file in another folder."""
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "secret.raw").write_bytes(VALUES.tobytes())
    (tmp_path / "inbox").mkdir()
    return tmp_path / "private" / "secret.raw"


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_file_elsewhere_is_read_only_when_it_is_allowed(name: str, elsewhere: Path) -> None:
    path = elsewhere.parents[1] / "inbox" / name
    ELSEWHERE[name](path, elsewhere)
    if name in ("v2, in Fortran's order.zarr", "v3.zarr"):
        assert dr.open(path).shape == VALUES.shape  # only metadata are read here
    with pytest.raises(OutsideError, match=r"outside its folder: pass allow_outside=True"):
        dr.open(path).compute()
    if name != "list.mhd":  # whose five files are slices of the wrong size
        values = dr.open(path, allow_outside=True).values
        np.testing.assert_array_equal(np.sort(values.ravel()), VALUES.ravel())  # one array is in Fortran's order
    handles.forget()
    with pytest.raises(OutsideError):  # the permission is that array's alone
        dr.open(path).compute()


def test_an_ome_tiff_that_names_a_file_elsewhere(elsewhere: Path) -> None:
    import tifffile

    path = elsewhere.parents[1] / "inbox" / "a.ome.tif"
    tifffile.imwrite(path, VALUES, metadata={"axes": "ZYX"})
    with tifffile.TiffFile(path) as tiff:
        text = tiff.ome_metadata
    assert text is not None
    uuid = 'UUID="urn:uuid:1"><UUID FileName="../private/secret.raw">urn:uuid:2</UUID'
    tifffile.imwrite(path, VALUES, description=text.replace("<TiffData", f"<TiffData {uuid}", 1)[:4000], metadata=None)
    with pytest.raises(InputError):
        dr.open(path)


def test_the_command_line_has_the_option(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = elsewhere.parents[1] / "inbox" / "a.nhdr"
    path.write_text(NRRD.format(elsewhere))
    assert run(["info", str(path)]) == 2
    assert "--allow-outside" in capsys.readouterr().err
    assert run(["info", str(path), "--allow-outside"]) == 0


@pytest.mark.parametrize("name", ["a.tif", "a.mhd", "a.nhdr", "a.h5", "a.zarr", "t.json"])
def test_a_pipe_is_not_waited_for(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    path = tmp_path / name
    if name == "a.mhd":
        path.write_text(META.format("pipe"))
    elif name == "a.nhdr":
        path.write_text(NRRD.format("pipe"))
    elif name == "a.h5":
        external_storage(path, tmp_path / "pipe")
    elif name == "a.zarr":
        chunk(path, tmp_path / "pipe")
    else:
        path.symlink_to(tmp_path / "pipe")
    with pytest.raises((InputError, ChunkReadError)):
        (dr.load if name == "t.json" else dr.open)(path).compute()  # type: ignore[operator]


ZEROS = bytes(2**26)
BOMBS: dict[str, tuple[Any, Callable[[], bytes]]] = {
    "zlib": (numcodecs.Zlib(), lambda: zlib.compress(ZEROS)),
    "gzip": (numcodecs.GZip(), lambda: gzip.compress(ZEROS)),
    "bz2": (numcodecs.BZ2(), lambda: bz2.compress(ZEROS)),
    "lzma": (numcodecs.LZMA(), lambda: lzma.compress(ZEROS, preset=0)),
    "lz4": (numcodecs.LZ4(), lambda: bytes(numcodecs.LZ4().encode(ZEROS))),
    "zstd": (numcodecs.Zstd(), lambda: bytes(numcodecs.Zstd().encode(ZEROS))),
    "blosc": (numcodecs.Blosc(), lambda: bytes(numcodecs.Blosc().encode(ZEROS))),
    "v3 gzip": (zarr.codecs.GzipCodec(), lambda: gzip.compress(ZEROS)),
    "v3 zstd": (zarr.codecs.ZstdCodec(), lambda: bytes(numcodecs.Zstd().encode(ZEROS))),
}


@pytest.mark.parametrize("filtered", [False, True])
@pytest.mark.parametrize("name", BOMBS)
def test_a_chunk_decodes_to_what_its_metadata_state(name: str, filtered: bool, tmp_path: Path) -> None:
    """64 MiB out of a chunk of 420 bytes; the filter makes zarr-python decode it."""
    codec, bomb = BOMBS[name]
    v3 = name.startswith("v3")
    if v3 and filtered:
        pytest.skip("zarr-python decodes gzip of v3 in any case")
    filters = {"filters": [numcodecs.Delta("u2")]} if filtered else {}
    array = zarr.create_array(
        tmp_path / "a.zarr", shape=VALUES.shape, chunks=VALUES.shape, dtype="u2", compressors=codec,
        zarr_format=3 if v3 else 2, **filters,
    )  # fmt: skip
    array[:] = VALUES
    np.testing.assert_array_equal(dr.open(tmp_path / "a.zarr").values, VALUES)
    (stored,) = (p for p in (tmp_path / "a.zarr").rglob("*") if p.is_file() and p.name in ("0.0.0", "0"))
    stored.write_bytes(bomb())
    handles.forget()
    tracemalloc.start()
    with pytest.raises(ChunkReadError, match=r"holds (more|\d+ bytes|another number)|Destination buffer|cut off"):
        dr.open(tmp_path / "a.zarr").compute()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < len(ZEROS) / 4


def test_a_packed_file_is_unpacked_up_to_the_size_in_its_header(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nibabel = pytest.importorskip("nibabel")
    from daskreg.sources.readers import mapped

    nibabel.save(nibabel.Nifti1Image(VALUES.T, np.eye(4)), tmp_path / "a.nii")
    plain = (tmp_path / "a.nii").read_bytes()
    (tmp_path / "long.nii.gz").write_bytes(gzip.compress(plain + ZEROS))
    unpacked: list[int] = []
    real = mapped.map_open_file
    monkeypatch.setattr(
        "daskreg.sources.readers.nifti.map_open_file",
        lambda file, *args, **options: unpacked.append(file.seek(0, 2)) or real(file, *args, **options),  # type: ignore[func-returns-value]
    )
    np.testing.assert_array_equal(dr.open(tmp_path / "long.nii.gz").values, VALUES)
    assert unpacked == [len(plain)]
    # A header that states more than any stream of that size can hold.
    header = bytearray(plain)
    header[42:48] = np.array([3000, 3000, 3000], "<i2").tobytes()
    (tmp_path / "large.nii.gz").write_bytes(gzip.compress(bytes(header)))
    with pytest.raises(NotAVolumeError, match="shorter than its header says"):
        dr.open(tmp_path / "large.nii.gz")


def test_json_and_yaml_that_grow(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_text('{"schema": "daskreg/transform", "transform": [' + "[],[],[]," * 900_000 + "[]]}")
    with pytest.raises(InputError, match="bytes of memory"):
        dr.load(path)
    aliases = "".join(f"k{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9))
    (tmp_path / "c.yaml").write_text(f"kind: local\nk0: &a0 [x]\n{aliases}")
    with pytest.raises(InputError, match="refers to itself"):
        dr.connect(tmp_path / "c.yaml")
    (tmp_path / "c.yaml").write_text("kind: local # " + "x" * 2**17)
    with pytest.raises(InputError, match="more than"):
        dr.connect(tmp_path / "c.yaml")


def test_errors_are_one_line_whatever_a_file_says(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    path.mkdir()
    evil = "\n\x1b[2Jdone\u202e" + "x" * 5000
    meta = {"zarr_format": 3, "node_type": "array", "shape": [4, 4], "data_type": evil}
    (path / "zarr.json").write_text(json.dumps(meta))
    with pytest.raises(InputError) as raised:
        dr.open(path)
    text = str(raised.value)
    assert text.isprintable()
    assert len(text) <= 1000


def test_damaged_files_of_every_format_give_typed_errors() -> None:
    """A short run of the benchmark, which anyone can run with thousands."""
    ended = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "mutations.py", "--count", "12"],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mha", ".nrrd"])
def test_a_field_with_fewer_vectors_than_its_header_states_is_refused(tmp_path: Path, suffix: str) -> None:
    vectors = np.random.default_rng(1).normal(size=(3, 3, 4, 5))
    path = tmp_path / f"field{suffix}"
    dr.DisplacementField(vectors, dr.Grid((3, 4, 5), 3.0)).save(path)
    dr.load(path)
    data = gzip.decompress(path.read_bytes()) if suffix == ".nii.gz" else path.read_bytes()
    if suffix.startswith(".nii"):
        data = data[:42] + np.array([30000, 30000, 3], "<i2").tobytes() + data[48:]
    else:
        data = data.replace(b"DimSize = 5 4 3", b"DimSize = 30000 30000 3").replace(b"5 4 3", b"30000 30000 3", 1)
    path.write_bytes(gzip.compress(data) if suffix == ".nii.gz" else data)
    with pytest.raises(dr.errors.NotAVolumeError, match="bytes|short|holds"):
        dr.load(path)


@pytest.mark.parametrize("make", [external_link, virtual_dataset, virtual_dataset_of_external_storage])
def test_no_file_of_a_source_is_overwritten(tmp_path: Path, make: Callable[[Path, Path], None]) -> None:
    target = tmp_path / "target.h5"
    if make is virtual_dataset_of_external_storage:
        target.write_bytes(VALUES.tobytes())
    make(tmp_path / "a.h5", target)
    volume, before = dr.open(tmp_path / "a.h5"), target.read_bytes()
    with pytest.raises(UnsafeOutputError, match=r"target\.h5"):
        dr.write(volume, target, overwrite=True, progress=False)
    assert target.read_bytes() == before


def test_directions_of_a_field_whose_products_are_infinite_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "field.mha"
    dr.DisplacementField(np.zeros((3, 3, 4, 5)), dr.Grid((3, 4, 5), 3.0)).save(path)
    path.write_bytes(path.read_bytes().replace(b"TransformMatrix = 1 0 0 0 1", b"TransformMatrix = 1 0 0 1e308 1"))
    with pytest.raises(NotAVolumeError, match="transformmatrix is"):
        dr.load(path)
