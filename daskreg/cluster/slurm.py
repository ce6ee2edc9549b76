"""Workers as SLURM jobs, through dask-jobqueue."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from daskreg.cluster.network import in_files, network_options
from daskreg.cluster.options import Network, Tls, positive
from daskreg.cluster.owned_cluster import give_up_workers_after, owning_client
from daskreg.cluster.pages import page_options, with_private_pages
from daskreg.cluster.temporary_folder import TemporaryFolder
from daskreg.errors import MissingExtraError, OptionError
from daskreg.runtime.device import tasks_at_once, thread_environment

if TYPE_CHECKING:
    from distributed import Client

LOST_WORKER_TIMEOUT = "15 s"


@dataclass(frozen=True, kw_only=True)
class SlurmConfig(Network):
    """Workers as SLURM jobs; the scheduler runs where `connect()` is called.

    Args:
        cores, memory, walltime: of one job, such as 16, "64 GiB", "02:00:00".
        jobs, maximum_jobs: kept running while there is work; jobs that end are replaced.
        processes: workers in one job; None: one for each core, or a single one with a GPU, of up to 8 threads.
        gpu: whether each job gets one GPU; for more GPUs, ask for more jobs.
        account, partition: as for sbatch.
        directives: further #SBATCH options, such as "--constraint=skylake".
        prologue: shell lines before the worker starts, such as "module load python".
        python: interpreter on the nodes; None: the one that runs now.
        scratch: folder for temporary files on the node.
        logs: folder for the jobs' output.
        shared: folder that nodes and this machine share, for temporary certificates.
    """

    cores: int
    memory: str
    walltime: str
    jobs: int = 1
    maximum_jobs: int | None = None
    processes: int | None = None
    gpu: bool = False
    account: str | None = None
    partition: str | None = None
    directives: tuple[str, ...] = ()
    prologue: tuple[str, ...] = ()
    python: str | None = None
    scratch: str = "${TMPDIR:-/tmp}"
    logs: str | None = None
    shared: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "cores", "jobs", "maximum_jobs", "processes")
        seconds(self.walltime)
        if not self.interface:
            raise OptionError("interface: name the network that jobs and this machine share, such as ib0 or eth0")

    @property
    def workers_per_job(self) -> int:
        return self.processes or (1 if self.gpu else self.cores)

    @property
    def threads_per_worker(self) -> int:
        return tasks_at_once(self.cores // self.workers_per_job, gpu=self.gpu)


def seconds(walltime: str) -> int:
    """Seconds of SLURM's minutes, hours:minutes:seconds or days-hours:minutes:seconds.

    Raises: OptionError.
    """
    days, _, rest = walltime.rpartition("-")
    parts = rest.split(":")
    if not all(p.isdigit() for p in parts) or len(parts) > 3 or (days and not days.isdigit()):
        raise OptionError(f"walltime: {walltime!r} is not like '02:00:00' or '1-12:00:00' (quote it in YAML)")
    numbers = [int(p) for p in parts]
    # With days, and in full, the largest unit comes first; one or two numbers start at minutes.
    hours_first = numbers if days or len(numbers) == 3 else [0, *numbers]
    hours, minutes, rest_seconds = [*hours_first, 0, 0][:3]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + rest_seconds


def start_slurm(config: SlurmConfig) -> Client:
    """A client of a new scheduler in this process, whose workers are jobs; closing it cancels them."""
    give_up_workers_after(LOST_WORKER_TIMEOUT)
    cluster = slurm_cluster(config)
    # Adaptive scaling replaces jobs that end at their walltime.
    cluster.adapt(minimum_jobs=config.jobs, maximum_jobs=max(config.jobs, config.maximum_jobs or 0))
    return owning_client(cluster, 0)


def slurm_cluster(config: SlurmConfig) -> Any:
    """The `dask_jobqueue.SLURMCluster` of a config, with no job submitted yet."""
    try:
        with _own_signals():
            from dask_jobqueue.slurm import SLURMCluster
    except ImportError as error:
        raise MissingExtraError("dask-jobqueue", "cluster") from error
    threads = config.threads_per_worker
    environment = thread_environment(threads, max(1, config.cores // config.workers_per_job))
    environment["DASK_DISTRIBUTED__COMM__RETRY__COUNT"] = "3"
    # Workers leave before SLURM ends their job, so that their blocks move on in time.
    lifetime = max(60, seconds(config.walltime) - 300)
    environment["DASK_DISTRIBUTED__WORKER__HTTP__ROUTES"] = "[]"  # no pages
    network = network_options(config)
    security, folder = network.get("security"), None
    if security is not None and not isinstance(config.tls, Tls):
        folder = TemporaryFolder(config.shared or ".", ".daskreg-tls-")
        security = in_files(security, folder.path)
    cluster = with_private_pages(SLURMCluster)(
        cores=config.workers_per_job * threads,
        job_cpu=config.cores,
        processes=config.workers_per_job,
        memory=config.memory,
        walltime=config.walltime,
        account=config.account,
        queue=config.partition,
        python=config.python,
        local_directory=config.scratch,
        log_directory=config.logs,
        interface=config.interface,
        security=security,
        protocol=network.get("protocol"),
        job_extra_directives=[*(["--gres=gpu:1"] if config.gpu else []), *config.directives],
        job_script_prologue=[*(f"export {k}={v}" for k, v in environment.items()), *config.prologue],
        worker_extra_args=["--no-dashboard", "--lifetime", f"{lifetime}s", "--lifetime-stagger", "60s"]
        + (["--resources", f"GPU={threads}"] if config.gpu else []),
        scheduler_options=page_options(config),
    )
    if folder is not None:
        folder.remove_with(cluster)
    return cluster


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep what Ctrl-C does: importing dask-jobqueue turns it into a silent exit with code 0."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                if handler is not None:
                    signal.signal(number, handler)
