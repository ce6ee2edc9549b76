"""Workers as jobs of PBS Pro, OpenPBS or Torque."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from daskreg.cluster.batch import BatchConfig, BatchSystem, clock, seconds
from daskreg.cluster.job_watch import BatchQueue, JobState


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
    states = {}
    for line in printed.splitlines():
        words = line.split()
        if len(words) >= 6 and words[0][:1].isdigit():
            number, state = words[0].split(".")[0], words[4]
            if state in {"Q", "H", "W", "T", "S"}:
                states[number] = JobState(True, f"state {state}")
            elif state in {"R", "B"}:
                states[number] = JobState(False, state)
    return states


def _options(config: PbsConfig) -> Mapping[str, Any]:
    from dask.utils import parse_bytes

    memory = -(-parse_bytes(config.memory) // 2**20)
    chosen = f"select=1:ncpus={config.cores}:mem={memory}mb" + (":ngpus=1" if config.gpu else "")
    return {
        "walltime": clock(seconds(config.walltime)),
        "account": config.account,
        "queue": config.queue,
        "resource_spec": config.resources or chosen,
        "job_extra_directives": ["-r n", *config.directives],
    }


PBS = BatchSystem("PBS", BatchQueue(_command, _states), _options)
