"""Workers as jobs of Grid Engine (SGE, UGE, Son of Grid Engine)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from daskreg.cluster.batch import BatchConfig, BatchSystem, clock, seconds
from daskreg.cluster.job_watch import BatchQueue, JobState


@dataclass(frozen=True, kw_only=True)
class SgeConfig(BatchConfig):
    """Workers as Grid Engine jobs.

    Args:
        queue: as for qsub; None: the default one.
        parallel_environment: that gives several cores of one node; `qconf -spl` lists them.
        resources: such as "h_vmem=4G": memory has no common name on these clusters.
    """

    queue: str | None = None
    parallel_environment: str = "smp"
    resources: str | None = None


def _command(jobs: Sequence[str]) -> list[str]:
    return ["qstat"]


def _states(printed: str) -> dict[str, JobState]:
    """Of the table that qstat prints: number, priority, name, user, state."""
    states = {}
    for line in printed.splitlines():
        words = line.split()
        if len(words) >= 5 and words[0].isdigit():
            state = words[4]
            if "E" in state:
                continue  # it could not be started, and stays in the queue for ever
            if "w" in state or "h" in state:
                states[words[0]] = JobState(True, f"state {state}")
            elif state[:1] in {"r", "t", "d", "R", "s", "S"}:
                states[words[0]] = JobState(False, state)
    return states


def _options(config: SgeConfig) -> Mapping[str, Any]:
    cores = [f"-pe {config.parallel_environment} {config.cores}"] if config.cores > 1 else []
    return {
        "walltime": clock(seconds(config.walltime)),
        "project": config.account,
        "queue": config.queue,
        "resource_spec": config.resources,
        "job_extra_directives": ["-r n", *cores, *(["-l gpu=1"] if config.gpu else []), *config.directives],
    }


SGE = BatchSystem("SGE", BatchQueue(_command, _states), _options)
