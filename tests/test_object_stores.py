"""Outputs in an object store: the files, the faults and the promises are those of a disk. S3 by moto, on loopback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from s3 import SECRET

import daskreg as dr
from daskreg.blocks.record import journals
from daskreg.blocks.record.journals import ENTRIES
from daskreg.blocks.record.ledger import Ledger
from daskreg.cli import run
from daskreg.errors import (
    DaskregWarning,
    OptionError,
    OutputBusyError,
    OutputExistsError,
    StorageFullError,
    StoreForbiddenError,
    UnsafeOutputError,
)
from daskreg.geometry import Box
from daskreg.sources.storage import object_bytes
from daskreg.sources.storage.access import remember_options
from daskreg.sources.storage.direct_chunks import direct_chunks
from daskreg.sources.storage.object_bytes import ObjectBytes
from daskreg.sources.storage.stores import open_store
from daskreg.writing import verify

pytestmark = pytest.mark.slow

OPTIONS: dict[str, Any] = {"chunks": (3, 16, 20), "shards": (6, 32, 40), "levels": 2, "progress": False}
PULL = dr.Affine.translation(y=1.5, x=-2.25)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A volume on a disk."""
    path = tmp_path_factory.mktemp("volume") / "in.zarr"
    pixels = np.random.default_rng(7).integers(0, 60_000, (11, 40, 50), dtype=np.uint16)
    dr.write(pixels, path, client=False, **OPTIONS)
    return path


@pytest.fixture(scope="module")
def expected(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It warped, on a disk."""
    path = tmp_path_factory.mktemp("expected") / "out.zarr"
    dr.write(dr.warp(dr.open(source), pull=PULL), path, client=False, **OPTIONS)
    return path


@pytest.fixture(autouse=True)
def _quick(s3: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Short pauses, and no options or credentials but those of the test."""
    monkeypatch.setattr(object_bytes, "FIRST_DELAY", 0.001)
    for name in s3.environment:
        monkeypatch.delenv(name, raising=False)
    yield
    remember_options(s3.url, {})


def objects(url: str) -> dict[str, bytes]:
    store = ObjectBytes(url)
    return {key: bytes(store.get(key) or b"") for key in store.listing()}


def upload(folder: Path, url: str, options: dict[str, Any]) -> None:
    remember_options(url, options)
    store = ObjectBytes(url)
    for file in folder.rglob("*"):
        if file.is_file():
            store.put(file.relative_to(folder).as_posix(), [file.read_bytes()])


def assert_same(url: str, folder: Path) -> None:
    """Every chunk has the bytes of the one on the disk. The metadata of the group have an id of the run."""
    there = objects(url)
    here = {f.relative_to(folder).as_posix(): f.read_bytes() for f in folder.rglob("*") if f.is_file()}
    assert there.keys() == here.keys()
    assert {key for key in here if there[key] != here[key]} == {"zarr.json"}


def test_an_output_is_that_of_a_disk_and_resumes(s3: Any, source: Path, expected: Path) -> None:
    upload(source, f"{s3.url}/in.zarr", s3.options)
    out = f"{s3.url}/out.zarr"
    volume = dr.open(f"{s3.url}/in.zarr")
    xrwarped = dr.warp(volume, pull=PULL)
    assert out in repr(dr.plan(xrwarped, out, **{k: v for k, v in OPTIONS.items() if k != "progress"}))
    written = dr.write(xrwarped, out, client=False, **OPTIONS)
    blocks = written.blocks
    assert (written.skipped, written.path) == (0, out)
    assert blocks > 2
    assert_same(out, expected)
    assert verify(out) == []
    np.testing.assert_array_equal(dr.open(f"{out}/1").values, dr.open(expected, level=1).values)
    before = len(s3.requests)
    again = dr.write(xrwarped, out, client=False, **OPTIONS)
    assert (again.blocks, again.skipped) == (0, blocks)
    # Records are listed; chunks are neither listed nor asked for.
    assert not any("out.zarr/0/c" in path for _, path in s3.requests[before:])
    with pytest.raises(OutputExistsError, match=r"resume='changed'"):
        dr.write(volume, out, client=False, **OPTIONS)
    redone = dr.write(volume, out, client=False, resume="changed", **OPTIONS)
    assert redone.changed == redone.blocks >= blocks
    np.testing.assert_array_equal(dr.open(out).values, dr.open(source).values)


def test_google_cloud_storage_by_its_client(s3: Any, source: Path) -> None:
    """The server is moto's, with the header of conditional puts renamed; the client is that of Google Cloud Storage."""
    out = f"{s3.url.replace('s3://', 'gs://')}/out.zarr"
    refused, plain = [], {**OPTIONS, "levels": 1}

    def progress(*_: Any) -> None:
        if not refused:
            with pytest.raises(OutputBusyError, match="another run is writing gs://"):
                dr.write(dr.open(source), out, client=False, **plain)
            refused.append(True)

    options = {**plain, "progress": progress}
    written = dr.write(dr.open(source), out, client=False, storage_options=s3.google_options, **options)
    assert refused
    assert verify(out) == []
    np.testing.assert_array_equal(dr.open(out).values, dr.open(source).values)
    assert dr.write(dr.open(source), out, client=False, **plain).skipped == written.blocks
    remember_options("gs://bucket", {})


def test_many_small_records_become_one(s3: Any, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journals, "MOST_OBJECTS", 4)
    out = f"{s3.url}/out.zarr"
    dr.write(dr.open(source), out, client=False, storage_options=s3.options, **OPTIONS)
    ledger = Ledger(out)
    assert len(ledger.entries()) == 9
    (one,) = ledger.records.listing(ENTRIES)
    assert one.startswith(f"{ENTRIES}many-")


def test_busy_stores_change_nothing(s3: Any, source: Path, expected: Path) -> None:
    upload(source, f"{s3.url}/in.zarr", s3.options)
    s3.fail_often(0.1)
    s3.lost = 0.1
    out = f"{s3.url}/out.zarr"
    written = dr.write(dr.warp(dr.open(f"{s3.url}/in.zarr"), pull=PULL), out, client=False, **OPTIONS)
    assert written.retries > 5
    s3.reset()
    assert_same(out, expected)


def test_what_daskreg_did_not_make_stays(s3: Any, source: Path) -> None:
    out = f"{s3.url}/out.zarr"
    volume = dr.open(source)
    dr.write(volume, out, client=False, storage_options=s3.options, **OPTIONS)
    with pytest.raises(OutputExistsError, match="resume=True"):
        dr.write(volume, out, client=False, resume=False, **OPTIONS)
    ObjectBytes(out).put("notes.txt", [b"mine"])
    with pytest.raises(OutputExistsError, match=r"notes\.txt.*nothing was removed"):
        dr.write(volume, out, client=False, overwrite=True, **OPTIONS)
    ObjectBytes(out).delete(["notes.txt"])
    written = dr.write(volume, out, client=False, overwrite=True, **{**OPTIONS, "levels": 1})
    assert (written.blocks, written.skipped) == (8, 0)
    assert "1/zarr.json" not in objects(out)
    ObjectBytes(f"{s3.url}/beside.zarr").put("x", [b"mine"])
    with pytest.raises(OutputExistsError, match="daskreg did not make it"):
        dr.write(volume, f"{s3.url}/beside.zarr", client=False, overwrite=True, **OPTIONS)
    ObjectBytes(f"{s3.url}/other.zarr.daskreg").put("x", [b"mine"])
    with pytest.raises(OutputExistsError, match="it holds x"):
        dr.write(volume, f"{s3.url}/other.zarr", client=False, **OPTIONS)
    with pytest.raises(UnsafeOutputError, match="is, contains or lies in"):
        dr.write(dr.open(out), f"{out}/copy.zarr", client=False, overwrite=True, **OPTIONS)
    for alias in (out.replace("s3://", "s3a://"), out.replace("s3://", "S3://")):
        with pytest.raises(UnsafeOutputError, match="is, contains or lies in"):
            dr.write(dr.open(out), alias, client=False, overwrite=True, **OPTIONS)
    for url in (f"{s3.url}/a..b/../c.zarr", "https://127.0.0.1/x.zarr", f"s3://me:{SECRET}@bucket/x.zarr"):
        with pytest.raises(OptionError) as raised:
            dr.write(volume, url, client=False, **OPTIONS)
        assert SECRET not in str(raised.value)


def test_an_overwrite_that_was_killed_is_not_taken_for_a_finished_output(
    s3: Any, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = f"{s3.url}/out.zarr"
    dr.write(dr.open(source), out, client=False, storage_options=s3.options, **OPTIONS)
    real = ObjectBytes.delete

    def killed(store: ObjectBytes, keys: Any) -> None:
        some = list(keys)
        if store.url == out and some:
            real(store, some[:5])
            raise KeyboardInterrupt
        real(store, some)

    with monkeypatch.context() as patched:
        patched.setattr(ObjectBytes, "delete", killed)
        with pytest.raises(KeyboardInterrupt):
            dr.write(dr.open(source), out, client=False, overwrite=True, **OPTIONS)
    again = dr.write(dr.open(source), out, client=False, **OPTIONS)
    assert (again.blocks, again.skipped) == (9, 0)
    assert verify(out) == []


def test_a_second_writer_is_refused(s3: Any, source: Path) -> None:
    refused = []

    def progress(*_: Any) -> None:
        if not refused:
            with pytest.raises(OutputBusyError, match="another run is writing s3://"):
                dr.write(dr.open(source), out, client=False, **OPTIONS)
            refused.append(True)

    out = f"{s3.url}/out.zarr"
    options = {**OPTIONS, "progress": progress}
    dr.write(dr.open(source), out, client=False, storage_options=s3.options, **options)
    assert refused
    assert verify(out) == []


@pytest.mark.parametrize(("status", "kind"), [(403, StoreForbiddenError), (507, StorageFullError)])
def test_a_store_that_is_full_or_forbids_ends_the_run_and_the_same_call_resumes(
    s3: Any, source: Path, status: int, kind: type[Exception]
) -> None:
    out, puts = f"{s3.url}/out.zarr", 0

    def fault(method: str, path: str) -> int | None:
        nonlocal puts
        puts += method == "PUT" and "/c/" in path
        return status if puts > 3 and method == "PUT" else None

    s3.fault = fault
    volume = dr.open(source)
    with pytest.raises(kind, match="resume") as raised:
        dr.write(volume, out, client=False, storage_options=s3.options, **OPTIONS)
    assert s3.url in str(raised.value)
    assert puts < 9
    s3.fault = None
    again = dr.write(volume, out, client=False, **OPTIONS)
    assert 1 <= again.skipped <= 3
    assert_same(out, source)


def test_verify_finds_objects_that_are_lost_or_other_ones(s3: Any, source: Path) -> None:
    out = f"{s3.url}/out.zarr"
    dr.write(dr.open(source), out, client=False, storage_options=s3.options, **OPTIONS)
    store = ObjectBytes(out)
    store.delete(["0/c/0/0/0"])
    one, two = store.get("0/c/1/1/1"), store.get("0/c/1/0/1")
    store.put("0/c/1/1/1", [bytes(two or b"")])
    store.put("0/c/1/0/1", [bytes(one or b"")[:-3]])
    assert sorted(line.split(": ")[0] for line in verify(out)) == ["0/c/0/0/0", "0/c/1/0/1", "0/c/1/1/1"]
    store.delete(["1/zarr.json"])
    assert "level 1: the array cannot be opened" in verify(out)
    dr.write(dr.open(source), out, client=False, **OPTIONS)  # writes the metadata again
    assert "1/zarr.json" in objects(out)


def test_chunks_of_the_source_that_change_or_are_missing(s3: Any, source: Path) -> None:
    given, out = f"{s3.url}/in.zarr", f"{s3.url}/out.zarr"
    upload(source, given, s3.options)
    store = ObjectBytes(given)
    kept = bytes(store.get("0/c/0/0/1") or b"")
    store.delete(["0/c/0/0/1"])
    with pytest.warns(DaskregWarning, match="chunks of the source are not stored"):
        written = dr.write(dr.open(given), out, client=False, **OPTIONS)
    assert written.missing > 0
    with pytest.raises(dr.errors.ChunkReadError, match="missing"):
        dr.open(given, missing="error")[:6].values  # noqa: B018
    store.put("0/c/0/0/1", [kept])
    again = dr.write(dr.open(given), out, client=False, **OPTIONS)
    assert (again.missing, again.blocks) == (0, 2)
    np.testing.assert_array_equal(dr.open(out).values, dr.open(source).values)
    store.put("0/c/1/1/1", [bytes(store.get("0/c/1/0/1") or b"")])
    assert dr.write(dr.open(given), out, client=False, **OPTIONS).blocks == 0
    redone = dr.write(dr.open(given), out, client=False, resume="changed", **OPTIONS)
    assert redone.changed == 2
    np.testing.assert_array_equal(dr.open(out).values, dr.open(given).values)


def test_a_web_server_is_read(s3: Any, source: Path) -> None:
    upload(source, f"{s3.url}/in.zarr", s3.options)
    url = f"{s3.endpoint}/{s3.url.removeprefix('s3://')}/in.zarr"
    np.testing.assert_array_equal(dr.open(url).values, dr.open(source).values)
    with pytest.raises(dr.errors.NotAVolumeError):
        dr.open(f"{s3.endpoint}/{s3.url.removeprefix('s3://')}/other.zarr")


def test_the_command_line_takes_urls(
    s3: Any, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    upload(source, f"{s3.url}/in.zarr", s3.options)
    remember_options(s3.url, {})
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    PULL.save(tmp_path / "t.json")
    out = f"{s3.url}/out.zarr"
    sizes = ["--chunks", "3,16,20", "--shards", "6,32,40", "--levels", "2"]
    assert run(["warp", f"{s3.url}/in.zarr", out, "--pull", str(tmp_path / "t.json"), *sizes]) == 0
    assert run(["verify", out]) == 0
    assert run(["info", out]) == 0
    np.testing.assert_array_equal(dr.open(out).values, dr.warp(dr.open(source), pull=PULL).values)
    assert SECRET not in "".join(capsys.readouterr())


def test_shards_are_on_by_default(s3: Any) -> None:
    remember_options(s3.url, s3.options)
    volume = np.zeros((64, 512, 512), np.uint16)
    options = {"chunks": (16, 128, 128), "client": False}
    layout = dr.plan(volume, f"{s3.url}/out.zarr", **options).levels[0].layout
    assert layout.shards is not None
    assert 2**21 <= np.prod(layout.shards) * 2 <= 2**22
    assert dr.plan(volume, "out.zarr", **options).levels[0].layout.shards is None


CLIENT = """
import sys
import daskreg as dr
from daskreg.sources.storage import object_bytes
object_bytes.FIRST_DELAY = 0.001
source, out = sys.argv[1:]
options = {"chunks": (3, 16, 20), "shards": (6, 32, 40), "levels": 2, "progress": False}
dr.write(dr.open(source), out, client=False, **options)
"""


def test_a_client_that_is_killed_resumes(s3: Any, source: Path) -> None:
    out = f"{s3.url}/out.zarr"
    s3.fault = lambda method, path: 0.3 if method == "PUT" and "/c/" in path else None
    environment = {**os.environ, **s3.environment}
    process = subprocess.Popen([sys.executable, "-c", CLIENT, str(source), out], env=environment)
    while s3.count(r"^PUT .*entries/") < 3:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    s3.fault = None
    again = dr.write(dr.open(source), out, client=False, storage_options=s3.options, **OPTIONS)
    assert 2 <= again.skipped < 9
    assert again.blocks + again.skipped == 9
    assert_same(out, source)


def test_an_object_is_made_while_the_one_before_is_put(s3: Any) -> None:
    out, asked = f"{s3.url}/behind.zarr", threading.Event()
    remember_options(s3.url, s3.options)
    dr.write(np.zeros((8, 4), np.uint8), out, chunks=4, shards=None, levels=1, client=False, progress=False)
    chunks = direct_chunks(zarr.open_array(open_store(out, mode="r+"), path="0", mode="r+"))
    assert chunks is not None

    def pixels() -> Iterator[np.ndarray]:
        yield np.full((4, 4), 1, np.uint8)
        asked.set()
        yield np.full((4, 4), 2, np.uint8)

    s3.fault = lambda method, path: None if "/0/c/" not in path or asked.wait(5) else 403
    try:
        written = chunks.write(Box((0, 0), (8, 4)), pixels())
    finally:
        s3.fault = None
    assert list(written) == ["c/0/0", "c/1/0"]
    np.testing.assert_array_equal(dr.open(out), np.repeat([[1], [2]], 4, 0) * np.ones(4))
