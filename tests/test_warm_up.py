"""warm-up: each case runs, and the command says what it did."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest

from daskreg import warm_up
from daskreg.cli import run
from daskreg.errors import RunError


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for group in warm_up.CASES.values() for name in group])
def test_each_case_runs(name: str) -> None:
    for group in warm_up.CASES.values():
        if name in group:
            work, arguments = group[name]
            work(*arguments)


def test_the_command_runs_each_case_in_a_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = []

    def started(command: list[str], **options: object) -> SimpleNamespace:
        commands.append(command)
        return SimpleNamespace(returncode=int("3D" in command[-1]), stderr="line\nno compiler")

    monkeypatch.setattr(subprocess, "run", started)
    assert run(["warm-up", "align", "icp"]) == 0
    assert sorted(commands) == [[sys.executable, "-m", "daskreg.warm_up", name] for name in ("align", "icp")]
    assert sorted(line.partition(":")[0] for line in capsys.readouterr().out.splitlines()) == ["align", "icp"]
    with pytest.raises(RunError, match="warp 3D failed: no compiler"):
        list(warm_up.warm_up(["warp"]))


def test_an_unknown_case_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["warm-up", "wrap"]) == 2
    assert "wrap: not one of register, warp, align, icp" in capsys.readouterr().err
