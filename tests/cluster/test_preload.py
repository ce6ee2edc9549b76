"""What workers do as they start."""

from __future__ import annotations

import logging
import subprocess
import sys
from types import SimpleNamespace

import pytest

from daskreg.cluster import preload
from daskreg.cluster.network import remote_environment


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The cases of each warm-up."""
    cases: list[list[str]] = []

    def started(command: list[str], **options: object) -> SimpleNamespace:
        cases.append(command[3:])
        return SimpleNamespace(
            returncode=int("wrap" in command), stderr="Traceback\nOptionError: wrap: not one of warp"
        )

    monkeypatch.setattr(preload.subprocess, "run", started)
    monkeypatch.setattr("daskreg.runtime.compile_once.first_on_host", lambda name: True)
    return cases


@pytest.mark.parametrize(
    ("value", "cases"), [("warp", ["warp"]), ("register, icp", ["register", "icp"]), ("all", []), ("", None)]
)
def test_the_first_worker_compiles_what_the_variable_names(
    value: str, cases: list[str] | None, asked: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(preload.WARM_UP, value)
    thread = preload.start_warm_up()
    if thread is not None:
        thread.join()
    assert asked == ([] if cases is None else [cases])


def test_other_workers_leave_it_to_the_first(asked: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(preload.WARM_UP, "all")
    monkeypatch.setattr("daskreg.runtime.compile_once.first_on_host", lambda name: False)
    assert preload.start_warm_up() is None
    assert asked == []


def test_workers_on_other_machines_learn_what_to_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(preload.WARM_UP, "register warp")
    assert remote_environment(1, 2)[preload.WARM_UP] == "register,warp"
    monkeypatch.delenv(preload.WARM_UP)
    assert preload.WARM_UP not in remote_environment(1, 2)


def test_a_wrong_case_is_a_warning(
    asked: list[list[str]], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(preload.WARM_UP, "wrap")
    with caplog.at_level(logging.WARNING):
        thread = preload.start_warm_up()
        assert thread is not None
        thread.join()
    assert "DASKREG_WARM_UP: OptionError: wrap: not one of warp" in caplog.text


@pytest.mark.skipif(sys.platform == "win32", reason="there are no locks of this kind")
def test_one_process_of_a_host_is_the_first() -> None:
    code = "from daskreg.runtime.compile_once import first_on_host as f; print(f('test-preload'), flush=True); input()"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "True\n"
        second = subprocess.run([sys.executable, "-c", code], input="\n", capture_output=True, text=True, check=True)
        first.communicate("\n")
    third = subprocess.run([sys.executable, "-c", code], input="\n", capture_output=True, text=True, check=True)
    assert (second.stdout, third.stdout) == ("False\n", "True\n")
