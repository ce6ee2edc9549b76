"""Writes that fail for good: the run ends after a few tries, says why, and resumes when the disk is well again."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from distributed import Client

import daskreg as dr
from daskreg.blocks.record.ledger import Ledger
from daskreg.errors import OutputError, RunError, StorageFullError
from daskreg.runtime.atomic import replace_file
from daskreg.sources.storage.retrying import ATTEMPTS
from daskreg.writing import verify

pytestmark = pytest.mark.slow

PIXELS = np.random.default_rng(0).integers(0, 60_000, (20, 60, 44), dtype=np.uint16)
BLOCKS = 20 * 3 * 2
WELL = 10
"""Blocks that are written before the disk fails."""
OPTIONS: dict[str, Any] = {"chunks": (1, 20, 22), "levels": 1, "progress": False, "memory": "1 MiB"}

FULL = "no space left.*make room and run the same command again"
BROKEN = "after several tries.*run the same command again"
FAULTS = {
    errno.EDQUOT: (StorageFullError, FULL, 1),
    errno.EIO: (OutputError, BROKEN, ATTEMPTS + 1),
    errno.ESTALE: (OutputError, BROKEN, ATTEMPTS + 1),
}


@pytest.fixture(scope="module")
def client(forked_workers: None) -> Iterator[Client]:
    with dr.connect(workers=1) as client:
        yield client


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    zarr.create_array(tmp_path / "in.zarr", data=PIXELS, chunks=(1, 20, 22))
    return tmp_path / "in.zarr"


@pytest.mark.parametrize("code", [errno.EDQUOT, errno.ESTALE], ids=["quota", "ESTALE"])
def test_writes_that_fail_on_workers_end_the_run(tmp_path: Path, stored: Path, client: Client, code: int) -> None:
    kind, told, tries = FAULTS[code]

    def install(folder: str) -> None:
        def fault(event: str, args: tuple[Any, ...]) -> None:
            if event == "open" and str(args[0]).startswith(f"{folder}/out.zarr/0/c") and ".partial" in str(args[0]):
                with open(f"{folder}/tries", "ab", buffering=0) as log:
                    log.write(b".")
                    if log.tell() > WELL and os.path.exists(f"{folder}/ill"):
                        raise OSError(code, os.strerror(code), args[0])

        sys.addaudithook(fault)

    client.run(install, str(tmp_path))
    (tmp_path / "ill").touch()
    with pytest.raises(kind, match=told):
        dr.write(dr.open(stored), tmp_path / "out.zarr", client=client, **OPTIONS)
    # The block that failed was tried four times (dask's retries), and a few others were on their way.
    assert tries <= (tmp_path / "tries").stat().st_size - WELL <= 6 * 4 * tries
    (tmp_path / "ill").unlink()
    resumes_and_is_whole(tmp_path, stored, client)


@pytest.mark.parametrize("code", [errno.EDQUOT, errno.EIO], ids=["quota", "EIO"])
def test_writes_that_fail_in_threads_end_the_run(
    tmp_path: Path, stored: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    kind, told, tries = FAULTS[code]
    calls = []

    def fault(path: Path, parts: Any, **options: Any) -> None:
        if "c" in path.parts:  # no metadata, and not the ledger
            calls.append(path)
            if len(calls) > WELL:
                raise OSError(code, os.strerror(code), str(path))
        replace_file(path, parts, **options)

    with monkeypatch.context() as patched:
        patched.setattr("daskreg.sources.storage.folder_bytes.replace_file", fault)
        with pytest.raises(kind, match=told):
            dr.write(dr.open(stored), tmp_path / "out.zarr", client=False, **OPTIONS)
    assert tries <= len(calls) - WELL <= 6 * tries
    resumes_and_is_whole(tmp_path, stored, False)


def test_an_error_of_what_makes_the_pixels_is_none_of_writing(tmp_path: Path) -> None:
    def fail(block: np.ndarray) -> np.ndarray:
        if block.size and block.min() == 3:
            raise OSError(errno.ENOSPC, "of a function of the user")
        return block

    volume = dr.open(np.repeat(np.arange(6, dtype="u2"), 400).reshape(6, 20, 20), chunks=(1, 20, 20))
    lazy = dr.open(volume.data.map_blocks(fail, dtype="u2"))
    with pytest.raises(RunError, match=r"1 blocks(.|\n)*of a function of the user"):
        dr.write(lazy, tmp_path / "out.zarr", client=False, **OPTIONS | {"chunks": (1, 20, 20)})
    assert len(Ledger(tmp_path / "out.zarr").entries()) == 5


def resumes_and_is_whole(folder: Path, stored: Path, client: Any) -> None:
    kept = len(Ledger(folder / "out.zarr").entries())
    assert 0 < kept <= WELL  # in a new folder, a file is opened twice
    again = dr.write(dr.open(stored), folder / "out.zarr", client=client, **OPTIONS)
    assert kept <= again.skipped <= kept + 4  # some were on their way
    assert again.skipped + again.blocks == BLOCKS
    assert verify(folder / "out.zarr") == []
    np.testing.assert_array_equal(dr.open(folder / "out.zarr").values, PIXELS)
