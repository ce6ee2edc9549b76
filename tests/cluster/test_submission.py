"""What the script of a submitted command does when it is signalled, run by bash without a batch system."""

from __future__ import annotations

import os
import signal
import subprocess
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from daskreg.cluster.config import SlurmConfig
from daskreg.cluster.submission import Work, sized, submission_script

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
    config = SlurmConfig(
        cores=1, memory="1 GiB", walltime="01:00:00", interface="lo", tls="temporary", prologue=prologue,
        python=str(folder / "python"),
    )  # fmt: skip
    script = submission_script(sized(config, None), ["warp"], requeue=True)
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


LARGE = SlurmConfig(cores=16, memory="64 GiB", walltime="02:00:00", interface="lo", jobs=2, maximum_jobs=8)
HOUR, MIB = 3600, 2**20


@pytest.mark.parametrize(
    ("work", "options", "asked", "said"),
    [
        # Hours of work: all nodes; 16 workers of (400 + 240) MiB / 0.6, and one GiB.
        (Work(blocks=9600, memory=240 * MIB, seconds=90 * HOUR), {}, (8, 16, "18091 MiB", "02:00:00"), "8 nodes of"),
        # Five minutes of each of 48 threads; four times that, and a quarter of an hour.
        (
            Work(blocks=9600, memory=240 * MIB, seconds=4 * HOUR),
            {},
            (3, 16, "18091 MiB", "00:35:00"),
            "promises 300",
        ),
        (Work(blocks=9600, memory=240 * MIB, seconds=60), {}, (1, 16, "18091 MiB", "00:20:00"), "for 9,600 blocks"),
        # Never more workers than blocks.
        (Work(blocks=20, memory=240 * MIB, seconds=90 * HOUR), {}, (2, 16, "18091 MiB", "02:00:00"), "longer than"),
        (Work(blocks=3, memory=240 * MIB, seconds=60), {}, (1, 3, "4225 MiB", "00:20:00"), "1 node of 3 workers"),
        # The file limits memory, and so the number of workers.
        (Work(blocks=9600, memory=2**33, seconds=60), {}, (1, 4, "58304 MiB", "00:20:00"), "takes 8,192 MiB"),
        (Work(blocks=9600, memory=2**37, seconds=60), {}, (1, 1, "65536 MiB", "00:20:00"), "raise memory in the"),
        # What is named is kept.
        (Work(blocks=3, memory=240 * MIB, seconds=60), {"nodes": 5}, (5, 16, "18091 MiB", "00:20:00"), "5 nodes"),
        (Work(blocks=3, memory=240 * MIB, seconds=60), {"processes": 2}, (1, 16, "3158 MiB", "00:20:00"), "of 2 work"),
        (Work(blocks=9600, memory=MIB, seconds=60), {"gpu": True}, (1, 16, "64 GiB", "02:00:00"), "1 node of 1 worker"),
        (Work(blocks=40), {}, (2, 16, "64 GiB", "02:00:00"), "2 nodes of 16 workers for 40 blocks"),
        (Work(blocks=20, noun="slice", memory=300 * MIB, seconds=9), {}, (1, 16, "19691 MiB", "00:20:00"), "20 slices"),
        # Ten minutes of one worker, and one of all.
        (Work(blocks=20, memory=MIB, seconds=1200, alone=600), {}, (1, 16, "11718 MiB", "01:05:00"), "promises 12"),
        (Work(blocks=20, seconds=0, alone=60), {}, (1, 1, "64 GiB", "00:20:00"), "1 node of 1 worker"),
        (Work(blocks=15), {}, (1, 15, "64 GiB", "02:00:00"), "1 node of 15 workers for 15 blocks"),
        (None, {}, (2, 16, "64 GiB", "02:00:00"), "as the cluster file says"),
    ],
)
def test_a_job_asks_for_what_its_plan_is_worth(
    work: Work | None, options: dict[str, int], asked: tuple[int, int, str, str], said: str
) -> None:
    named = {name: value for name, value in options.items() if name != "nodes"}
    size = sized(replace(LARGE, **named), work, nodes=options.get("nodes"))
    assert (size.nodes, size.config.cores, size.config.memory, size.config.walltime) == asked, size.why
    assert said in size.why
    unlimited = sized(replace(LARGE, **named, walltime="0"), work, nodes=options.get("nodes"))
    assert "longer than" not in unlimited.why
    script = submission_script(size, ["warp"])
    assert f"# Written by `daskreg submit`: {size.why}" in script
    assert f"#SBATCH -t {asked[-1]}" in script
