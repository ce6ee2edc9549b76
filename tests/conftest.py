"""Shared fixtures: where the real data is, and the count of tests that lacked it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

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


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    global _skipped_for_data  # noqa: PLW0603
    if report.skipped and NO_DATA in str(report.longrepr):
        _skipped_for_data += 1


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.write_line(f"{_skipped_for_data} tests were skipped for want of real data (DASKREG_DATA)")
