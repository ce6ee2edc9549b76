"""Workers as jobs of PBS Pro, OpenPBS or Torque."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from daskreg.cluster.batch import BatchConfig, BatchSystem, clock, seconds
from daskreg.cluster.job_watch import BatchQueue, JobState, job_states
from daskreg.cluster.options import size_of


@dataclass(frozen=True, kw_only=True)
class PbsConfig(BatchConfig):
    """Workers as PBS jobs.

    Args:
        queue: as for qsub; None: the default one.
        resources: in place of "select=1:ncpus=...:mem=...", which are made of cores, memory and gpu.
    """

    queue: str | None = None
    resources: str | None = None


def _command(jobs: Sequence[str]) -> list[str]:
    return ["qstat", *jobs]


def _states(printed: str) -> dict[str, JobState]:
    """Of the table that qstat prints: number.server, name, user, time, state, queue."""
    table = (line.split() for line in printed.splitlines())
    rows = ((row[0].split(".")[0], row[4]) for row in table if len(row) >= 6 and row[0][:1].isdigit())
    return job_states(rows, pending={"Q", "H", "W", "T", "S"}, running={"R", "B"})


def _options(config: PbsConfig) -> Mapping[str, Any]:
    memory = -(-size_of("memory", config.memory) // 2**20)
    chosen = f"select=1:ncpus={config.cores}:mem={memory}mb" + (":ngpus=1" if config.gpu else "")
    return {
        "walltime": clock(seconds(config.walltime)),
        "account": config.account,
        "queue": config.queue,
        "resource_spec": config.resources or chosen,
        "job_extra_directives": ["-r n", *config.directives],
    }


PBS = BatchSystem("PBS", BatchQueue(_command, _states), _options)
