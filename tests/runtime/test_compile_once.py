"""Processes of one host compile a kernel once, and one that takes long says so, once."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from daskreg.runtime import compile_once
from daskreg.runtime.compiled import inner, jit

KERNEL = """
import numpy as np
from daskreg.runtime.compiled import inner, jit

@inner
def square(x):
    return x * x

@jit
def total(values):
    out = np.zeros((3, 5))
    for i in range(len(values)):
        out[i % 3, i % 5] += square(values[i])
    return out.sum()
"""
USE = """
import sys, numpy as np, kernel
sys.stdin.readline()
assert kernel.total(np.arange(4.0)) == 14
print(sum(kernel.total.stats.cache_misses.values()), sum(kernel.total.stats.cache_hits.values()))
"""


def start(folder: Path) -> subprocess.Popen[str]:
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{folder}:{root}", "NUMBA_CACHE_DIR": str(folder / "cache")}
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen([sys.executable, "-c", USE], env=environment, text=True, **pipes)


@pytest.mark.slow
def test_processes_that_start_together_compile_a_kernel_once(tmp_path: Path) -> None:
    (tmp_path / "kernel.py").write_text(KERNEL)
    processes = [start(tmp_path) for _ in range(4)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    told = sorted(process.communicate(timeout=120)[0].strip() for process in processes)
    assert told == ["0 1", "0 1", "0 1", "1 0"]


@pytest.mark.parametrize("place", ["NUMBA_CACHE_DIR", "beside the file", "of the user"])
def test_kernels_that_are_kept_are_seen_without_numba(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the folder that numba itself chooses."""
    from numba.core import caching, config

    source = tmp_path / "package" / "kernel.py"
    source.parent.mkdir()
    source.write_text(KERNEL)
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    locator = {"beside the file": caching.InTreeCacheLocator, "of the user": caching.UserWideCacheLocator}.get(place)
    if place == "NUMBA_CACHE_DIR":
        monkeypatch.setenv(place, str(tmp_path / "kept"))
        monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path / "kept"))
        locator = caching.UserProvidedCacheLocator
    elif place == "of the user":
        monkeypatch.setattr(os, "access", lambda path, mode: False)
    folder = Path(locator(start, str(source)).get_cache_path())
    assert not compile_once.seems_kept(source, "total")
    folder.mkdir(parents=True)
    (folder / "kernel.total-9.py311.nbi").touch()
    assert compile_once.seems_kept(source, "total")
    assert not compile_once.seems_kept(source, "totals")


def test_a_lock_that_is_never_given_back_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compile_once, "WAIT_AT_MOST", 0.05)
    with compile_once._lock_of_host("a test"), compile_once._lock_of_host("a test"):
        pass


def test_a_folder_that_another_user_could_write_to_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compile_once.tempfile, "gettempdir", lambda: str(tmp_path))
    folder = compile_once._own_folder()
    assert folder is not None
    folder.chmod(0o777)
    assert compile_once._own_folder() is None
    folder.rmdir()
    folder.symlink_to(tmp_path)
    assert compile_once._own_folder() is None


@pytest.mark.slow
def test_compiling_is_said_once_and_reading_what_was_compiled_is_not(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(compile_once, "SAY_AFTER", 0.0)
    monkeypatch.setattr(compile_once, "READ_WITHIN", 0.05)
    notice = compile_once._Notice()
    kernel = SimpleNamespace(stats=SimpleNamespace(cache_path="/some/folder", cache_misses={}))
    with caplog.at_level(logging.INFO, logger=compile_once.log.name):
        with notice.while_compiling(kernel):  # it was read
            compile_once.time.sleep(0.1)
        assert not caplog.records
        for signature in range(2):
            with notice.while_compiling(kernel):
                kernel.stats.cache_misses[signature] = 1
                compile_once.time.sleep(0.3)
    (record,) = caplog.records
    assert "kept in /some/folder for later runs" in record.getMessage()


def test_a_function_that_only_compiled_ones_call() -> None:
    @inner(fastmath={"contract"})
    def twice(x: Any) -> Any:
        return 2 * x

    @jit
    def add_up(values: Any) -> Any:
        total = 0.0
        for value in values:
            total += twice(value)
        return total

    assert add_up(np.arange(5.0)) == 20
