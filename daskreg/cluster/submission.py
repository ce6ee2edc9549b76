"""A command as one SLURM job: scheduler, workers and client run on the nodes that it gets."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

from daskreg.cluster.allocation import AllocationConfig
from daskreg.cluster.batch import clock, seconds
from daskreg.cluster.options import size_of
from daskreg.cluster.slurm import SlurmConfig
from daskreg.errors import NoWorkersError, OptionError
from daskreg.runtime.typed_command import SUBMITTED, typed_command

STOPPED = 75
"""Exit code of a job that stopped before its walltime: the same command goes on (EX_TEMPFAIL)."""

WORTH_A_NODE = 300
"""Seconds of work of each thread for which another node is asked for: more nodes wait longer in the queue."""

MARGIN, SPARE = 4, 900
"""The walltime is so many times what is estimated, and so many seconds: the estimate knows neither the disks that nodes
share nor how long workers take to start, and work stops up to 300 s before the walltime."""

IDLE, FILLED, FIRST = 400 * 2**20, 0.6, 2**30
"""Bytes of a worker that does nothing; the share of its limit up to which Dask lets it work undisturbed; and bytes of
the scheduler and the client, which are on the first node."""

_SCRIPT = """\
#!/bin/bash
{header}
# Written by `daskreg submit`: {why}
stopped= child= told=
tell() {{
  told=1
  # Until the child runs the command it is a copy of this shell, in which the signal would be lost.
  while cmp -s "/proc/$$/cmdline" "/proc/$child/cmdline" 2>/dev/null; do sleep 0.05; done
  kill -INT "$child" 2>/dev/null || true
}}
stop() {{ stopped=1; [ -z "$child" ] || tell; }}
trap stop USR1 TERM
{prologue}
set -m
cluster=$(mktemp --suffix=.yaml)
trap 'rm -f "$cluster"' EXIT
cat >"$cluster" <<'END'
{cluster}
END
code=0
if [ -z "$stopped" ]; then
  {command} --cluster "$cluster" &
  child=$!
  # The signal may have come after the line above began and before it ended.
  if [ -n "$stopped" ] && [ -z "$told" ]; then tell; fi
  # `|| code=$?`, since the prologue may have said `set -e`.
  wait "$child" || code=$?
  while kill -0 "$child" 2>/dev/null; do code=0; wait "$child" || code=$?; done
fi
if [ -n "$stopped" ] && {{ [ -z "$child" ] || [ "$code" -ne 0 ]; }}; then{requeue}
  exit {stopped_code}
fi
exit "$code"
"""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What the plan of a command says of it.

    Args:
        blocks: that can be made at the same time; or slices, of a stack that is aligned.
        noun: "block" or "slice".
        memory: bytes of a worker process above idle; None: not known.
        seconds: of one thread that makes them all; None: not known.
        alone: seconds of what one worker does besides, while the others wait.
    """

    blocks: int
    noun: str = "block"
    memory: int | None = None
    seconds: float | None = None
    alone: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Size:
    """What a job asks for.

    Args:
        config: with the cores, the memory and the walltime of a node.
        why: a line for people.
    """

    config: SlurmConfig
    nodes: int
    why: str


def sized(config: SlurmConfig, work: Work | None, *, nodes: int | None = None) -> Size:
    """The nodes, cores, memory and walltime that work is worth; never more than a cluster file has.

    What names a number itself is not changed: `nodes`, the `processes` of a config, and its `directives`. With a GPU,
    whose speed and memory no plan knows, memory and walltime are those of the config.

    Args:
        work: None: all that the config has.
        nodes: None: up to the `maximum_jobs` of the config (else its `jobs`), as many as have five minutes of work;
            where the time is not known, its `jobs`.
    """
    if work is None:
        return Size(config=config, nodes=nodes or config.jobs, why="as the cluster file says")
    threads = config.threads_per_worker
    each = None if work.memory is None or config.gpu else round((IDLE + work.memory) / FILLED)
    if each is not None and config.processes is None:
        fitting = (_mebibytes(config) * 2**20 - FIRST) // each
        config = replace(config, cores=max(1, min(config.cores, fitting)))
    at_once = config.workers_per_job * threads
    most = config.jobs if work.seconds is None else max(config.jobs, config.maximum_jobs or 0)
    count = nodes or _worth(work, at_once, most)
    if count == 1 and config.processes is None and not config.gpu:
        shared = work.seconds is None or work.seconds > 0
        at_once = min(at_once, max(1, work.blocks)) if shared else 1
        config = replace(config, cores=at_once)
    workers = config.workers_per_job
    said = [f"{_of(count, 'node')} of {_of(workers, 'worker')} for {_of(work.blocks, work.noun)}"]
    if each is not None and work.memory is not None:
        asked = -(-(workers * each + FIRST) // 2**20)
        missing = f" ({asked:,} MiB would be needed: raise memory in the cluster file)"
        missing = missing if asked > _mebibytes(config) else ""
        config = replace(config, memory=f"{min(asked, _mebibytes(config))} MiB")
        takes = f"as a worker takes {work.memory / 2**20:,.0f} MiB for its {work.noun}s"
        said.append(f"{config.memory} a node, {takes}{missing}")
    if work.seconds is not None and not config.gpu:
        from dask.utils import format_time

        waves = -(-work.blocks // (at_once * count))
        expected = work.alone + work.seconds / max(1, work.blocks) * waves
        wanted = -(-round(SPARE + MARGIN * expected) // 300) * 300
        limit = seconds(config.walltime) or wanted  # 0 is no limit
        enough = expected < limit - config.grace
        short = "" if enough else " (longer than the job may run: submit it again, or use --requeue)"
        config = replace(config, walltime=clock(min(wanted, limit)))
        said.append(f"{config.walltime}, as a trial promises {format_time(expected)}{short}")
    return Size(config=config, nodes=count, why=", ".join(said))


def _worth(work: Work, at_once: int, most: int) -> int:
    """How many nodes, each of which works on `at_once` blocks at a time, have enough to do."""
    useful = -(-work.blocks // at_once)
    if work.seconds is not None:
        useful = min(useful, round(work.seconds / (at_once * WORTH_A_NODE)))
    return max(1, min(useful, most))


def _mebibytes(config: SlurmConfig) -> int:
    """Memory of a node."""
    return -(-size_of("memory", config.memory) // 2**20)


def _of(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' if count > 1 else ''}"


def check_command(command: Sequence[str]) -> None:
    """Raises: OptionError for options of a command that name another cluster, or that have it do nothing."""
    given = [word for word in command if word.split("=")[0] in {"--cluster", "--scheduler", "--workers"}]
    if given:
        raise OptionError(f"{given[0]} is what submit adds to the command: leave it out")
    if "--dry-run" in command:
        raise OptionError("--dry-run in the command would submit a job that only prints its plan: put it before `--`")


def submission_script(size: Size, command: Sequence[str], *, requeue: bool = False) -> str:
    """The script of a job that runs a command of `daskreg` on all of its nodes.

    Before the walltime SLURM sends SIGUSR1. The command is then interrupted, which keeps finished blocks, and the job
    exits with STOPPED; the same job goes on where it stopped.

    Args:
        command: such as ["warp", "in.zarr", "out.zarr", "--pull", "fit.json"].
        requeue: whether the job is put into the queue again when it was stopped.

    Raises: OptionError for options of the command that name another cluster.
    """
    check_command(command)
    config = size.config
    asked = {
        "-J": "daskreg",
        "--nodes": size.nodes,
        "--ntasks-per-node": 1,
        "--cpus-per-task": config.cores,
        "--mem": f"{_mebibytes(config)}M",
        "-t": config.walltime,
        "-p": config.partition,
        "-A": config.account,
        "--gres": "gpu:1" if config.gpu else None,
        "--signal": f"B:USR1@{config.grace}",
        "--output": f"{config.logs}/daskreg-%j.out" if config.logs else None,
        "--open-mode": "append",
    }
    header = [
        f"#SBATCH {name}{' ' if len(name) == 2 else '='}{value}" for name, value in asked.items() if value is not None
    ]
    header += ["#SBATCH --requeue" if requeue else "#SBATCH --no-requeue", *(f"#SBATCH {d}" for d in config.directives)]
    python = config.python or sys.executable
    begun = shlex.join([python, "-c", "from daskreg.cli import main; main()", *command])
    typed = typed_command()
    return _SCRIPT.format(
        header="\n".join(header),
        why=size.why,
        prologue="\n".join(config.prologue),
        cluster=_cluster_file(config),
        command=f"{SUBMITTED}={shlex.quote(typed)} {begun}" if typed else begun,
        requeue='\n  scontrol requeue "$SLURM_JOB_ID"' if requeue else "",
        stopped_code=STOPPED,
    )


def submit(script: str) -> str:
    """Hand a script to sbatch.

    Returns: the number of the job.
    Raises: NoWorkersError with the words of sbatch.
    """
    try:
        done = subprocess.run(
            ["sbatch", "--parsable"], input=script, capture_output=True, text=True, timeout=60, check=False
        )
    except FileNotFoundError as error:
        raise NoWorkersError("there is no sbatch here: submit on a login node of a SLURM cluster") from error
    except subprocess.TimeoutExpired as error:
        raise NoWorkersError("sbatch does not answer within 60 s: is the SLURM controller reachable?") from error
    if done.returncode:
        raise NoWorkersError(f"SLURM refused the job: {' '.join(done.stderr.split())}")
    return done.stdout.strip().split(";")[0]


def _cluster_file(config: SlurmConfig) -> str:
    import yaml

    tls = config.tls if config.tls is None or isinstance(config.tls, str) else vars(config.tls)
    kept = AllocationConfig(
        interface=config.interface,
        tls=config.tls,
        insecure=config.insecure,
        dashboard_port=config.dashboard_port,
        processes=config.processes,
        gpu=config.gpu,
        shared=config.shared,
    )
    return str(yaml.safe_dump({"kind": "allocation", **vars(kept), "tls": tls}, sort_keys=False)).rstrip()
