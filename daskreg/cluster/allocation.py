"""Workers on all nodes of the SLURM job that this process runs in, started by srun."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from daskreg.cluster.job_watch import last_words
from daskreg.cluster.network import check_interface, for_machines, network_options, remote_environment
from daskreg.cluster.options import Network, positive
from daskreg.cluster.owned_cluster import give_up_workers_after, owning_client
from daskreg.cluster.pages import page_options, with_private_pages
from daskreg.cluster.preload import PRELOAD
from daskreg.cluster.run_folder import RunFolder, run_folder
from daskreg.errors import NoWorkersError, OptionError
from daskreg.runtime.device import tasks_at_once

if TYPE_CHECKING:
    from distributed import Client

LOST_WORKER_TIMEOUT = "15 s"


@dataclass(frozen=True, kw_only=True)
class AllocationConfig(Network):
    """Workers on all nodes of the SLURM job that runs; the scheduler is in this process.

    Args:
        processes: workers on each node; None: one for each core, or a single one with a GPU, of up to 8 threads.
        gpu: whether the job has one GPU on each node.
        scratch: folder for temporary files on the node.
        shared: folder that the nodes share, for temporary certificates and output; None: the current one.
    """

    processes: int | None = None
    gpu: bool = False
    scratch: str | None = None
    shared: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "processes")
        if not self.interface:
            raise OptionError("interface: name the network that the nodes share, such as ib0 or eth0")


@dataclass(frozen=True)
class Allocation:
    """What SLURM says of the job that this process runs in.

    Args:
        nodes: how many it has.
        cores: of each.
        memory: bytes of each; 0: all of it.
    """

    nodes: int
    cores: int
    memory: int

    @classmethod
    def from_environment(cls) -> Allocation:
        """Raises: NoWorkersError outside a SLURM job."""
        if "SLURM_JOB_ID" not in os.environ:
            raise NoWorkersError(
                "kind: allocation starts workers on the nodes of a SLURM job, and this process is not in one: use "
                "`daskreg submit`, sbatch or salloc, or kind: slurm"
            )

        def number(name: str) -> int:
            digits = os.environ.get(name, "").split("(")[0]
            return int(digits) if digits.isdigit() else 0

        cores = number("SLURM_CPUS_PER_TASK") or number("SLURM_CPUS_ON_NODE") or 1
        memory = number("SLURM_MEM_PER_NODE") or number("SLURM_MEM_PER_CPU") * cores
        return cls(number("SLURM_JOB_NUM_NODES") or 1, cores, memory * 2**20)


def start_allocation(config: AllocationConfig) -> Client:
    """A client of a scheduler in this process and of workers on all nodes of the job; closing it ends them.

    Raises: NoWorkersError outside a SLURM job.
    """
    from distributed import LocalCluster

    given = Allocation.from_environment()
    check_interface(str(config.interface))
    give_up_workers_after(LOST_WORKER_TIMEOUT)
    folder = run_folder(config.shared or ".")
    cluster = workers = None
    try:
        network = network_options(config)
        cluster = with_private_pages(LocalCluster)(n_workers=0, scheduler_kwargs=page_options(config), **network)
        security = for_machines(config, network.get("security"), folder.path)
        processes = config.processes or (1 if config.gpu else given.cores)
        threads = tasks_at_once(given.cores // processes, gpu=config.gpu)
        shares = {"processes": processes, "threads": threads, "memory": given.memory}
        command = [*srun_command(given, folder), *worker_command(config, cluster.scheduler_address, security, **shares)]
        environment = {**os.environ, **remote_environment(threads, given.cores // processes)}
        workers = subprocess.Popen(command, env=environment, start_new_session=True)
    except BaseException:
        if cluster is not None:
            cluster.close()
        folder.remove()
        raise

    def awaited() -> str | None:
        if workers.poll() is not None:
            said = last_words(folder.path, "workers")
            raise NoWorkersError(f"srun could not start the workers of this job: {said or 'it says nothing'}")
        return f"srun starts workers on {given.nodes} nodes"

    def ended() -> None:
        try:
            workers.wait(timeout=20)  # they end with their scheduler
        except subprocess.TimeoutExpired:
            workers.terminate()
            workers.wait()
        folder.remove()

    return owning_client(cluster, 0, awaited=awaited, ended=ended)


def srun_command(given: Allocation, folder: RunFolder) -> list[str]:
    """The command that starts another one on each node of the job."""
    return [
        "srun",
        f"--nodes={given.nodes}",
        f"--ntasks={given.nodes}",
        "--ntasks-per-node=1",
        f"--cpus-per-task={given.cores}",
        "--cpu-bind=none",
        "--kill-on-bad-exit=0",
        "--wait=0",
        f"--output={folder.path}/workers-%N.err",
    ]


def worker_command(
    config: AllocationConfig, address: str, security: Any | None, *, processes: int, threads: int, memory: int
) -> list[str]:
    """The command that starts the workers of one node.

    Args:
        memory: bytes of the node; 0: all of it.
    """
    files = {} if security is None else security.get_tls_config_for_role("worker")
    tls = [
        part for key, value in files.items() if key != "ciphers" for part in (f"--tls-{key.replace('_', '-')}", value)
    ]
    limit = ["--memory-limit", str(memory // processes)] if memory else []
    scratch = ["--local-directory", config.scratch] if config.scratch else []
    return [
        *[sys.executable, "-m", "distributed.cli.dask_worker", address],
        *["--nworkers", str(processes), "--nthreads", str(threads), "--nanny", "--no-dashboard"],
        *["--death-timeout", "60", "--interface", str(config.interface), "--preload", PRELOAD],
        *limit,
        *scratch,
        *tls,
        *(["--resources", f"GPU={threads}"] if config.gpu else []),
    ]
