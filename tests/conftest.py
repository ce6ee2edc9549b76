"""Shared fixtures: where the real data is, and the count of tests that lacked it."""

from __future__ import annotations

import os
import re
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import pytest

from daskreg.runtime.compile_ahead import compile_first

sys.path.insert(0, str(Path(__file__).parent))

NO_DATA = "DASKREG_DATA is not set to a folder with the real data"
_skipped_for_data = 0


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real data; tests that need it are skipped where it is not set."""
    path = os.environ.get("DASKREG_DATA")
    if not path or not Path(path).is_dir():
        pytest.skip(NO_DATA)
    return Path(path)


@pytest.fixture(scope="session", autouse=True)
def _compiled_code() -> None:
    """Small images are sampled and registered by compiled code, also where nothing is compiled yet."""
    compile_first()


@pytest.fixture(scope="module")
def forked_workers() -> Iterator[None]:
    """Workers of this process are forked from one that has imported what they need (`processes.fork_server`).

    By default each is spawned and imports it anew, as tests of how workers start have to have it.
    """
    from processes import fork_server

    fork_server()
    with dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}):
        yield


@pytest.fixture(scope="session")
def s3_server() -> Iterator[Any]:
    """S3 on loopback, for the whole session."""
    pytest.importorskip("moto", reason="moto is not installed")
    pytest.importorskip("obstore", reason="obstore is not installed")
    from s3 import S3Server

    server = S3Server()
    yield server
    server.stop()


@pytest.fixture
def s3(s3_server: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    """S3 without faults; `s3.url` is below its bucket and not used by another test."""
    s3_server.reset()
    s3_server.url = f"s3://bucket/{re.sub(r'[^a-z0-9]+', '-', request.node.name.lower())}-{uuid.uuid4().hex[:6]}"
    yield s3_server
    s3_server.reset()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    global _skipped_for_data  # noqa: PLW0603
    if report.skipped and NO_DATA in str(report.longrepr):
        _skipped_for_data += 1


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.write_line(f"{_skipped_for_data} tests were skipped for want of real data (DASKREG_DATA)")
