"""A second process compiles kernels, only where this one compiles, and ends soon after it."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from processes import until

from daskreg.runtime import compile_ahead, compile_once

NAME = "kernels_of_a_test"


class Kernel:
    """What `share_compilation` needs of a kernel of numba."""

    def __init__(self, *, compiled: bool, folder: str | None = "a folder") -> None:
        self.stats = type("Stats", (), {"cache_misses": {}, "cache_path": folder})()
        self.py_func, self.compiled = until, compiled

    def compile(self, types: Any) -> None:
        if self.compiled:
            self.stats.cache_misses[types] = 1


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """The processes that would have been started."""
    found: list[tuple[str, int]] = []
    monkeypatch.setattr(compile_ahead, "start", lambda *given: found.append(given))
    monkeypatch.setattr(compile_ahead, "first_on_host", lambda name: True)
    for name in ("_begun", "_looked", "_shared", "_missed"):
        monkeypatch.setattr(compile_ahead, name, set())
    monkeypatch.setattr(compile_ahead, "cores", lambda: 2)
    monkeypatch.setattr(compile_ahead, "_compiles_first", threading.Event())
    monkeypatch.setattr(compile_once, "_WHEN_COMPILED", [])
    return found


def test_it_begins_once_and_only_when_a_kernel_was_compiled(begun: list[tuple[str, int]]) -> None:
    read, compiled = (compile_once.share_compilation(Kernel(compiled=which)) for which in (False, True))
    with compile_ahead.expected(NAME, 2):
        read.compile("types")
    compiled.compile("after the block")
    assert begun == []
    for types in ("types", "others"):
        with compile_ahead.expected(NAME, 2):
            compiled.compile(types)
    assert begun == [(NAME, 2)]


@pytest.mark.parametrize("kept", [False, True])
def test_it_begins_at_once_where_no_kernel_is_kept(
    begun: list[tuple[str, int]], kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And then this process compiles what the other one is not compiling."""
    if kept:
        (tmp_path / f"{until.__module__}.until-9.py311.nbi").touch()
    kernel = Kernel(compiled=True, folder=str(tmp_path))
    monkeypatch.setitem(sys.modules, NAME, SimpleNamespace(kernels=lambda ndim: [(kernel, "types")]))
    for _ in range(2):
        compile_ahead.begin(NAME, 2)
        compile_ahead.take_part(NAME, 2)
    assert begun == ([] if kept else [(NAME, 2)])
    assert kernel.stats.cache_misses == ({} if kept else {"types": 1})
    assert compile_ahead.missed(NAME, 2) != kept


def test_a_process_that_runs_in_order_to_compile_misses_nothing(begun: list[tuple[str, int]]) -> None:
    compile_ahead.compile_first()
    assert not compile_ahead.may_do_without()
    compile_ahead.begin("no module is looked at", 2)
    assert begun == []


def test_a_kernel_that_another_process_compiles_is_left_to_it(tmp_path: Path) -> None:
    kernel = Kernel(compiled=True)
    assert not compile_once.compiled_elsewhere(kernel)
    with compile_once._lock_of_host(compile_once._lock_name(kernel)):
        assert compile_once.compiled_elsewhere(kernel)
        assert not compile_once.compiled_elsewhere(Kernel(compiled=True, folder=str(tmp_path)))
    assert not compile_once.compiled_elsewhere(kernel)


@pytest.mark.parametrize(
    ("module", "name", "value"),
    [
        (compile_ahead, "cores", lambda: 1),
        (sys, "executable", "/opt/app/python-viewer"),
        (sys, "executable", ""),
        (compile_ahead, "first_on_host", lambda name: False),
    ],
)
def test_there_is_no_second_process(
    begun: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch, module: Any, name: str, value: Any
) -> None:
    monkeypatch.setattr(module, name, value)
    with compile_ahead.expected(NAME, 2):
        compile_once.share_compilation(Kernel(compiled=True)).compile("types")
    assert begun == []


def test_there_is_none_where_nothing_is_kept(begun: list[tuple[str, int]]) -> None:
    with compile_ahead.expected(NAME, 2):
        compile_once.share_compilation(Kernel(compiled=True, folder=None)).compile("types")
    assert begun == []


def test_a_process_that_cannot_be_started_is_not_missed(
    begun: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*given: Any) -> None:
        raise BlockingIOError("too many processes")

    monkeypatch.setattr(compile_ahead, "start", refused)
    with compile_ahead.expected(NAME, 2):
        compile_once.share_compilation(Kernel(compiled=True)).compile("types")


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of two kernels, which are compiled when there is a file `go`; files say that they are tried."""
    (tmp_path / f"{NAME}.py").write_text(
        "import pathlib, time, types\n"
        f"folder = pathlib.Path({str(tmp_path)!r})\n"
        "class Kernel:\n"
        "    py_func = pathlib.Path.touch\n"
        "    stats = types.SimpleNamespace(cache_path=str(folder))\n"
        "    def compile(self, types):\n"
        "        (folder / types).touch()\n"
        "        while not (folder / 'go').exists():\n"
        "            time.sleep(0.02)\n"
        "        (folder / f'{types} done').touch()\n"
        "def kernels(ndim):\n"
        "    return [(Kernel(), f'begun{ndim}'), (Kernel(), 'second')]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_it_goes_on_for_a_while_when_its_input_ends(module: Path) -> None:
    process = compile_ahead.start(NAME, 3, linger=60)
    assert process.stdin is not None
    until((module / "begun3").exists)
    process.stdin.close()
    (module / "go").touch()
    assert process.wait(60) == 0
    assert (module / "second done").exists()


def test_it_ends_in_the_midst_of_a_kernel_that_takes_long(module: Path) -> None:
    process = compile_ahead.start(NAME, 3, linger=0.1)
    assert process.stdin is not None
    until((module / "begun3").exists)
    process.stdin.close()
    assert process.wait(60) == -signal.SIGKILL


def test_it_ends_with_a_process_that_is_killed(module: Path) -> None:
    code = f"""
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
sys.path.insert(0, {str(module)!r})
from daskreg.runtime.compile_ahead import start
print(start({NAME!r}, 2, linger=0.1).pid, flush=True)
while not os.path.exists({str(module / "begun2")!r}):
    time.sleep(0.02)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    stat = Path("/proc", done.stdout.strip(), "stat")
    until(lambda: not stat.exists() or stat.read_text().rpartition(") ")[2][0] == "Z")


def test_the_input_of_a_process_that_has_ended_is_closed() -> None:
    """Python warns of open files that nothing refers to any more."""
    process = compile_ahead.start("no_such_module", 2)
    assert process.stdin is not None
    until(lambda: process.stdin.closed)
    assert process.returncode == 1
