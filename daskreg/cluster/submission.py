"""A command as one SLURM job: scheduler, workers and client run on the nodes that it gets."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Sequence

from daskreg.cluster.allocation import AllocationConfig
from daskreg.cluster.slurm import SlurmConfig
from daskreg.errors import NoWorkersError, OptionError
from daskreg.runtime.typed_command import SUBMITTED, typed_command

STOPPED = 75
"""Exit code of a job that stopped before its walltime: the same command goes on (EX_TEMPFAIL)."""

_SCRIPT = """\
#!/bin/bash
{header}
# Written by `daskreg submit`.
stopped= child= told=
tell() {{ told=1; kill -INT "$child" 2>/dev/null || true; }}
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


def submission_script(
    config: SlurmConfig, command: Sequence[str], *, nodes: int | None = None, requeue: bool = False
) -> str:
    """The script of a job that runs a command of `daskreg` on all of its nodes.

    Before the walltime SLURM sends SIGUSR1. The command is then interrupted, which keeps finished blocks, and the job
    exits with STOPPED; the same job goes on where it stopped.

    Args:
        config: cores and memory are those of a node.
        command: such as ["warp", "in.zarr", "out.zarr", "--pull", "fit.json"].
        nodes: None: `config.jobs`.
        requeue: whether the job is put into the queue again when it was stopped.

    Raises: OptionError for options of the command that name another cluster.
    """
    from dask.utils import parse_bytes

    given = [word for word in command if word.split("=")[0] in {"--cluster", "--scheduler", "--workers"}]
    if given:
        raise OptionError(f"{given[0]} is what submit adds to the command: leave it out")
    asked = {
        "-J": "daskreg",
        "--nodes": nodes or config.jobs,
        "--ntasks-per-node": 1,
        "--cpus-per-task": config.cores,
        "--mem": f"{-(-parse_bytes(config.memory) // 2**20)}M",
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
