"""warm-up: each case runs, and the command says what it did."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from daskreg import warm_up
from daskreg.cli import run
from daskreg.errors import RunError

EVERY_CASE = """
import importlib, pkgutil
from numba.core.dispatcher import Dispatcher
import daskreg
from daskreg import warm_up
from daskreg.runtime.callees import Optimised

for group in warm_up.CASES.values():
    for work, arguments in group.values():
        work(*arguments)
for found in pkgutil.walk_packages(daskreg.__path__, "daskreg."):
    if found.name.endswith(("_numba", ".fpfh")):
        for name, kernel in vars(importlib.import_module(found.name)).items():
            is_kernel = isinstance(kernel, Dispatcher) and not issubclass(kernel._compiler.pipeline_class, Optimised)
            if is_kernel and not kernel.overloads and name != "table_row":  # called from Python by tests only
                print(found.name, name)
"""


@pytest.mark.slow
def test_the_cases_run_and_use_every_kernel() -> None:
    """Functions that only kernels call are compiled with them."""
    root = str(Path(__file__).parents[1])
    # numba cannot compile where the number of its threads is no longer that of its start.
    own = {name: value for name, value in os.environ.items() if not name.startswith(("NUMBA_", "OMP_"))}
    environment = {**own, "PYTHONPATH": root, "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", EVERY_CASE]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert (ended.stdout, ended.returncode) == ("", 0), ended.stderr


def test_the_command_runs_each_case_in_a_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = []

    def started(command: list[str], **options: object) -> SimpleNamespace:
        commands.append(command)
        return SimpleNamespace(returncode=int("3D" in command[-1]), stderr="line\nno compiler")

    monkeypatch.setattr(subprocess, "run", started)
    names = ["align", "mutual information"]
    assert run(["warm-up", *names]) == 0
    assert sorted(commands) == [
        [sys.executable, "-m", "daskreg.warm_up", name] for name in ("align", "mutual information")
    ]
    assert sorted(line.partition(":")[0] for line in capsys.readouterr().out.splitlines()) == [
        "align",
        "mutual information",
    ]
    with pytest.raises(RunError, match="warp 3D failed: no compiler"):
        list(warm_up.warm_up(["warp"]))


def test_an_unknown_case_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["warm-up", "wrap"]) == 2
    assert "wrap: not one of register, deformable, " in capsys.readouterr().err
