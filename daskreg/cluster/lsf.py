"""Workers as LSF jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from daskreg.cluster.batch import BatchConfig, BatchSystem, seconds
from daskreg.cluster.job_watch import BatchQueue, JobState, job_states
from daskreg.errors import OptionError

_PENDING = {"PEND", "PSUSP", "WAIT", "USUSP", "SSUSP"}
UNITS = ("kb", "mb", "gb", "tb")


@dataclass(frozen=True, kw_only=True)
class LsfConfig(BatchConfig):
    """Workers as LSF jobs.

    Args:
        queue: as for bsub; None: the default one.
        memory_units: LSF_UNIT_FOR_LIMITS of the cluster: kb, mb, gb or tb; None: as its lsf.conf says.
    """

    queue: str | None = None
    memory_units: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.memory_units not in (None, *UNITS):
            raise OptionError(f"memory_units: {self.memory_units!r} is not one of {', '.join(UNITS)}")


def _command(jobs: Sequence[str]) -> list[str]:
    return ["bjobs", "-noheader", "-o", "jobid stat pend_reason delimiter='|'", *jobs]


def _states(printed: str) -> dict[str, JobState]:
    return job_states((line.strip().split("|", 2) for line in printed.splitlines()), pending=_PENDING, running={"RUN"})


def _options(config: LsfConfig) -> Mapping[str, Any]:
    minutes = -(-seconds(config.walltime) // 60)
    return {
        "walltime": f"{minutes // 60:02}:{minutes % 60:02}",
        "project": config.account,
        "queue": config.queue,
        "ncpus": config.cores,
        "lsf_units": config.memory_units,
        "job_extra_directives": ["-rn", *(["-gpu num=1"] if config.gpu else []), *config.directives],
    }


LSF = BatchSystem("LSF", BatchQueue(_command, _states), _options)
