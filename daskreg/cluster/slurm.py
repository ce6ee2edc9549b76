"""Workers as SLURM jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from daskreg.cluster.batch import BatchConfig, BatchSystem
from daskreg.cluster.job_watch import BatchQueue, JobState, job_states

_PENDING = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "SUSPENDED", "RESV_DEL_HOLD"}
_RUNNING = {"RUNNING", "COMPLETING", "SIGNALING", "STAGE_OUT", "STOPPED", "RESIZING"}


@dataclass(frozen=True, kw_only=True)
class SlurmConfig(BatchConfig):
    """Workers as SLURM jobs.

    Args:
        partition: as for sbatch; None: the default one.
    """

    partition: str | None = None


def _command(jobs: Sequence[str]) -> list[str]:
    return ["squeue", "--noheader", "--format=%i|%T|%r", f"--jobs={','.join(jobs)}"]


def _states(printed: str) -> dict[str, JobState]:
    return job_states((line.strip().split("|", 2) for line in printed.splitlines()), pending=_PENDING, running=_RUNNING)


def _options(config: SlurmConfig) -> Mapping[str, Any]:
    return {
        "walltime": config.walltime,
        "account": config.account,
        "queue": config.partition,
        "job_cpu": config.cores,
        # A job that SLURM starts again would be a second worker of the same name.
        "job_extra_directives": ["--no-requeue", *(["--gres=gpu:1"] if config.gpu else []), *config.directives],
    }


SLURM = BatchSystem("SLURM", BatchQueue(_command, _states), _options)
