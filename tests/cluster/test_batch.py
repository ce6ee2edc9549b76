"""What is particular to each batch system: its job script, and how its queue is read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from daskreg.cluster.batch import BatchConfig, BatchSystem, clock, job_script
from daskreg.cluster.config import LsfConfig, PbsConfig, SgeConfig, SlurmConfig
from daskreg.cluster.lsf import LSF
from daskreg.cluster.pbs import PBS
from daskreg.cluster.preload import WARM_UP
from daskreg.cluster.run_folder import run_folder
from daskreg.cluster.sge import SGE
from daskreg.cluster.slurm import SLURM

EXTRA = ("--extra=7",)
SAME = {
    "cores": 4,
    "memory": "6 GiB",
    "walltime": "01:30:00",
    "account": "acc7",
    "gpu": True,
    "interface": "lo",
    "insecure": True,
    "dashboard_port": None,
}


@pytest.fixture
def warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WARM_UP, "register $warp")


def lines_of(system: BatchSystem, config: BatchConfig) -> list[str]:
    with pytest.warns(UserWarning, match="without TLS"):
        return job_script(system, config).splitlines()


@pytest.mark.usefixtures("warm_up")
@pytest.mark.parametrize(
    ("system", "kind", "own", "expected"),
    [
        (
            SLURM,
            SlurmConfig,
            {"partition": "fast", "directives": EXTRA},
            [
                "-p fast",
                "-A acc7",
                "--cpus-per-task=4",
                "--mem=6G",
                "-t 01:30:00",
                "--no-requeue",
                "--gres=gpu:1",
                *EXTRA,
            ],
        ),
        (
            PBS,
            PbsConfig,
            {"queue": "fast", "directives": EXTRA},
            ["-q fast", "-A acc7", "-l select=1:ncpus=4:mem=6144mb:ngpus=1", "-l walltime=01:30:00", "-r n", *EXTRA],
        ),
        (
            LSF,
            LsfConfig,
            {"queue": "fast", "memory_units": "mb"},
            ["-q fast", '-P "acc7"', "-n 4", '-R "span[hosts=1]"', "-M 6443", "-W 01:30", "-gpu num=1", "-rn"],
        ),
        (
            SGE,
            SgeConfig,
            {"queue": "fast.q", "resources": "h_vmem=2G"},
            ["-q fast.q", "-P acc7", "-l h_vmem=2G", "-l h_rt=01:30:00", "-pe smp 4", "-l gpu=1", "-r n"],
        ),
    ],
    ids=["slurm", "pbs", "lsf", "sge"],
)
def test_a_job_script_asks_for_what_the_config_says(
    tmp_path: Path,
    system: BatchSystem,
    kind: type[BatchConfig],
    own: dict[str, object],
    expected: list[str],
) -> None:
    script = lines_of(system, kind(**{**SAME, "shared": str(tmp_path), **own}))  # type: ignore[arg-type]
    prefix = {"SLURM": "#SBATCH", "PBS": "#PBS", "LSF": "#BSUB", "SGE": "#$"}[system.name]
    asked = [line.removeprefix(prefix).strip() for line in script if line.startswith(f"{prefix} ")]
    assert [line for line in expected if line not in asked] == []
    worker = script[-1]
    assert worker.startswith(f"{sys.executable} -m distributed.cli.dask_worker")
    assert "--preload daskreg.cluster.preload" in worker
    assert "export DASKREG_WARM_UP='register,$warp'" in script  # quoted for the shell
    assert "--lifetime 5100s" in worker  # an hour and a half, less five minutes
    assert list(tmp_path.iterdir()) == []


def test_a_short_job_works_for_most_of_its_time() -> None:
    assert SlurmConfig(**{**SAME, "walltime": "5"}).lifetime == 240  # type: ignore[arg-type]


def test_hours_go_beyond_a_day() -> None:
    assert clock(36 * 3600 + 61) == "36:01:01"


@pytest.mark.parametrize(
    ("system", "printed", "pending", "running"),
    [
        (
            SLURM,
            "11|PENDING|Resources\n12|RUNNING|None\n13|COMPLETED|None\n14|CONFIGURING|None\n",
            {"11": "PENDING: Resources", "14": "CONFIGURING: None"},
            ["12"],
        ),
        (
            PBS,
            "Job id            Name             User              Time Use S Queue\n"
            "----------------  ---------------- ----------------  -------- - -----\n"
            "11.server         dask-worker      someone           0        Q fast\n"
            "12.server         dask-worker      someone           00:10:01 R fast\n"
            "13.server         dask-worker      someone           00:10:01 F fast\n",
            {"11": "state Q"},
            ["12"],
        ),
        (
            LSF,
            "11|PEND|Job slot limit reached;\n12|RUN|\n13|EXIT|\n",
            {"11": "PEND: Job slot limit reached;"},
            ["12"],
        ),
        (
            SGE,
            "job-ID  prior   name       user         state submit/start at     queue                          slots\n"
            "-----------------------------------------------------------------------------------------------------\n"
            "     11 0.55500 dask-worke someone      qw    11/28/2026 10:00:00                                    4\n"
            "     12 0.55500 dask-worke someone      r     11/28/2026 10:00:00 fast.q@node1                       4\n"
            "     13 0.55500 dask-worke someone      Eqw   11/28/2026 10:00:00                                    4\n",
            {"11": "state qw"},
            ["12"],
        ),
    ],
    ids=["slurm", "pbs", "lsf", "sge"],
)
def test_a_queue_is_read(system: BatchSystem, printed: str, pending: dict[str, str], running: list[str]) -> None:
    states = system.queue.states(printed)
    assert {number: state.text for number, state in states.items() if state.pending} == pending
    assert [number for number, state in states.items() if not state.pending] == running


@pytest.mark.slow
def test_folders_of_killed_processes_are_removed_and_no_others(tmp_path: Path) -> None:
    # As if the machine were switched off: the watcher, which would remove the folder, ends first.
    code = (
        "import os, sys; from daskreg.cluster.run_folder import run_folder\n"
        "folder = run_folder(sys.argv[1]); folder.watcher.kill(); folder.watcher.wait()\n"
        "print(folder.path); sys.stdout.flush(); os.kill(os.getpid(), 9)"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    left = Path(killed.stdout.strip())
    assert left.is_dir()
    other = tmp_path / ".daskreg-run-of-another-machine"
    other.mkdir()
    (other / "owner.json").write_text(json.dumps({"host": "elsewhere", "pid": 1, "started": 0.0}))
    mine = run_folder(tmp_path)
    assert not left.exists()
    assert other.is_dir()
    assert oct(os.stat(mine.path).st_mode & 0o777) == "0o700"
    second = run_folder(tmp_path)
    assert mine.path.is_dir()
    for folder in (mine, second):
        folder.remove()
