"""Which processes of this machine run."""

from __future__ import annotations

import subprocess
import sys

import psutil

from daskreg.runs.place import ProcessId
from daskreg.runtime.machine import process_runs, this_machine


def test_a_process_that_has_ended_does_not_run_though_its_parent_has_not_noticed() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = psutil.Process(child.pid).create_time()
    assert process_runs(child.pid, started)
    assert not process_runs(child.pid, started + 1)
    child.kill()
    while psutil.Process(child.pid).status() != psutil.STATUS_ZOMBIE:
        pass
    assert not process_runs(child.pid, started)
    assert not ProcessId(this_machine(), child.pid, started).runs
    child.communicate()
    assert not process_runs(child.pid, started)
