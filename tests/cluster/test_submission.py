"""What the script of a submitted command does when it is signalled, run by bash without a batch system."""

from __future__ import annotations

import os
import signal
import subprocess
from functools import partial
from pathlib import Path

import pytest

from daskreg.cluster.config import SlurmConfig
from daskreg.cluster.submission import submission_script

SIGNAL = "kill -USR1 $$"
WAIT = "exec sleep 60"


def run(folder: Path, *, prologue: tuple[str, ...] = (), command: str) -> tuple[int, bool, bool]:
    """Run a script with stand-ins for the command and for scontrol.

    Returns: the exit code; whether the command was begun; whether the job was put into the queue again.
    """
    # Without a program: bash does not end by a signal that comes while it waits for one that ends well.
    for name, body in {"python": f": >{folder}/begun\n{command}", "scontrol": f'echo "$@" > {folder}/queue'}.items():
        (folder / name).write_text(f"#!/bin/bash\n{body}\n")
        (folder / name).chmod(0o700)
    script = submission_script(
        SlurmConfig(
            cores=1, memory="1 GiB", walltime="01:00:00", interface="lo", tls="temporary", prologue=prologue,
            python=str(folder / "python"),
        ),
        ["warp"],
        requeue=True,
    )  # fmt: skip
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "SLURM_JOB_ID": "17"}
    # A shell cannot catch what was ignored when it began, as in a command that is put into the background.
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    done = subprocess.run(
        ["bash"], input=script, text=True, env=environment, timeout=50, check=False, preexec_fn=heard
    )  # fmt: skip
    queue = folder / "queue"
    assert not queue.exists() or queue.read_text() == "requeue 17\n"
    return done.returncode, (folder / "begun").exists(), queue.exists()


@pytest.mark.parametrize(
    ("prologue", "command", "begun"),
    [
        ((SIGNAL,), WAIT, False),
        # Just before the script knows which process it has started.
        ((f"trap 'case $BASH_COMMAND in child=*) {SIGNAL};; esac' DEBUG",), WAIT, None),
        ((), f"kill -USR1 $PPID; {WAIT}", True),
        (("set -eu",), f"kill -USR1 $PPID; {WAIT}", True),
        ((), f"kill -TERM $PPID; {WAIT}", True),
    ],
    ids=["in the prologue", "as it starts", "soon after", "where errors end the script", "by SIGTERM"],
)
def test_a_signal_at_any_time_puts_the_job_into_the_queue_again(
    prologue: tuple[str, ...], command: str, begun: bool | None, tmp_path: Path
) -> None:
    code, was_begun, queued = run(tmp_path, prologue=prologue, command=command)
    assert (code, queued) == (75, True)
    assert begun is None or was_begun == begun


def test_a_command_that_ends_by_itself_gives_its_own_code(tmp_path: Path) -> None:
    assert run(tmp_path, command="exit 3") == (3, True, False)


def test_a_command_that_ends_well_in_spite_of_a_signal_is_done(tmp_path: Path) -> None:
    finishing = "trap 'exit 0' INT; kill -USR1 $PPID; while true; do sleep 0.05; done"
    assert run(tmp_path, command=finishing) == (0, True, False)
