"""Workers as jobs of a batch system, through dask-jobqueue: what SLURM, PBS, LSF and SGE have in common."""

from __future__ import annotations

import shlex
import signal
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daskreg.cluster.job_watch import BatchQueue, JobWatch
from daskreg.cluster.network import check_interface, for_machines, network_options, remote_environment
from daskreg.cluster.options import Network, positive, size_of
from daskreg.cluster.owned_cluster import give_up_workers_after, owning_client
from daskreg.cluster.pages import page_options, with_private_pages
from daskreg.cluster.preload import PRELOAD
from daskreg.cluster.run_folder import RunFolder, run_folder
from daskreg.errors import MissingExtraError, OptionError
from daskreg.runtime.device import tasks_at_once

if TYPE_CHECKING:
    from distributed import Client

LOST_WORKER_TIMEOUT = "15 s"


@dataclass(frozen=True, kw_only=True)
class BatchConfig(Network):
    """Workers as jobs of a batch system; the scheduler runs where `connect()` is called.

    Args:
        cores, memory, walltime: of one job, such as 16, "64 GiB", "02:00:00".
        jobs, maximum_jobs: kept running while there is work; jobs that end are replaced.
        processes: workers in one job; None: one for each core, or a single one with a GPU, of up to 8 threads.
        gpu: whether each job gets one GPU; for more GPUs, ask for more jobs.
        account: to which the jobs are charged.
        directives: further options of the batch system, such as "--constraint=skylake" for SLURM.
        prologue: shell lines before the worker starts, such as "module load python".
        python: interpreter on the nodes; None: the one that runs now.
        scratch: folder for temporary files on the node.
        logs: folder for the jobs' output; None: a temporary one, of which the end is shown where jobs fail.
        shared: folder that nodes and this machine share, for temporary certificates and output; None: the current one.
        wait: how long jobs may wait in the queue, such as "02:00:00"; None: as long as it takes.
        scheduler_interface: the network interface of this machine, where it has another name than on the nodes.
    """

    cores: int
    memory: str
    walltime: str
    jobs: int = 1
    maximum_jobs: int | None = None
    processes: int | None = None
    gpu: bool = False
    account: str | None = None
    directives: tuple[str, ...] = ()
    prologue: tuple[str, ...] = ()
    python: str | None = None
    scratch: str = "${TMPDIR:-/tmp}"
    logs: str | None = None
    shared: str | None = None
    wait: str | None = None
    scheduler_interface: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "cores", "jobs", "maximum_jobs", "processes")
        size_of("memory", self.memory)
        seconds(self.walltime)
        if self.wait is not None:
            seconds(self.wait, "wait")
        if not self.interface:
            raise OptionError("interface: name the network that jobs and this machine share, such as ib0 or eth0")

    @property
    def workers_per_job(self) -> int:
        return self.processes or (1 if self.gpu else self.cores)

    @property
    def threads_per_worker(self) -> int:
        return tasks_at_once(self.cores // self.workers_per_job, gpu=self.gpu)

    @property
    def grace(self) -> int:
        """Seconds before the end of the walltime at which work stops: five minutes, or a fifth of the walltime."""
        return min(300, seconds(self.walltime) // 5)

    @property
    def lifetime(self) -> int:
        """Seconds after which a worker leaves, before its job is ended, so that its blocks move on in time."""
        return max(1, seconds(self.walltime) - self.grace)


@dataclass(frozen=True)
class BatchSystem:
    """What is particular to one batch system.

    Args:
        name: of the class in dask_jobqueue, without "Cluster".
        queue: how its queue is asked for the states of jobs.
        options: of the class, from a config.
    """

    name: str
    queue: BatchQueue
    options: Callable[[Any], Mapping[str, Any]] = field(default=lambda config: {})


def seconds(walltime: str, name: str = "walltime") -> int:
    """Seconds of SLURM's minutes, hours:minutes:seconds or days-hours:minutes:seconds.

    Raises: OptionError.
    """
    days, _, rest = walltime.rpartition("-")
    parts = rest.split(":")
    if not all(p.isdigit() for p in parts) or len(parts) > 3 or (days and not days.isdigit()):
        raise OptionError(f"{name}: {walltime!r} is not like '02:00:00' or '1-12:00:00' (quote it in YAML)")
    numbers = [int(p) for p in parts]
    # With days, and in full, the largest unit comes first; one or two numbers start at minutes.
    hours_first = numbers if days or len(numbers) == 3 else [0, *numbers]
    hours, minutes, rest_seconds = [*hours_first, 0, 0][:3]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + rest_seconds


def clock(duration: int) -> str:
    """Seconds as hours:minutes:seconds, which all batch systems but LSF read."""
    return f"{duration // 3600:02}:{duration // 60 % 60:02}:{duration % 60:02}"


def start_batch(system: BatchSystem, config: BatchConfig) -> Client:
    """A client of a new scheduler in this process, whose workers are jobs; closing it cancels them.

    Raises: NoWorkersError with the words of the batch system where it refuses the first jobs.
    """
    import dask

    give_up_workers_after(LOST_WORKER_TIMEOUT)
    # The scheduler cannot tell jobs that wait in a queue from workers that never come; `JobWatch` can.
    dask.config.update_defaults({"distributed": {"scheduler": {"no-workers-timeout": None}}})
    folder = run_folder(config.shared or ".")
    cluster = batch_cluster(system, config, folder)
    wait = None if config.wait is None else seconds(config.wait, "wait")
    try:
        watch = JobWatch(cluster, system.queue, logs=Path(config.logs or folder.path), wait=wait)
        watch.submit(config.jobs)
        # Adaptive scaling replaces jobs that end at their walltime.
        cluster.adapt(minimum_jobs=config.jobs, maximum_jobs=max(config.jobs, config.maximum_jobs or 0))
        watch.start()
    except BaseException:
        cluster.close()
        folder.remove()
        raise
    return owning_client(cluster, 0, awaited=watch.awaited, ended=folder.remove)


def job_script(system: BatchSystem, config: BatchConfig) -> str:
    """The script of a job, with nothing submitted."""
    with batch_cluster(system, config, run_folder(config.shared or ".")) as cluster:
        return str(cluster.job_script())


def batch_cluster(system: BatchSystem, config: BatchConfig, folder: RunFolder) -> Any:
    """The cluster of dask_jobqueue of a config, with no job submitted yet.

    Args:
        folder: for temporary certificates and the output of the jobs; it is removed with the cluster.

    Raises: MissingExtraError; NoWorkersError where this machine lacks the network interface.
    """
    try:
        cluster = _made(system, config, folder)
    except BaseException:
        folder.remove()
        raise
    weakref.finalize(cluster, folder.remove)
    return cluster


def _made(system: BatchSystem, config: BatchConfig, folder: RunFolder) -> Any:
    try:
        with _own_signals():
            import dask_jobqueue
    except ImportError as error:
        raise MissingExtraError("dask-jobqueue", "cluster") from error
    network = network_options(config)
    scheduler = page_options(config)
    if config.scheduler_interface:
        scheduler["interface"] = config.scheduler_interface
    elsewhere = "; where the nodes have it, name the one of this machine by scheduler_interface:"
    check_interface(config.scheduler_interface or str(config.interface), elsewhere)
    threads = config.threads_per_worker
    environment = remote_environment(threads, config.cores // config.workers_per_job)
    security = for_machines(config, network.get("security"), folder.path)
    stagger = min(60, config.lifetime // 20)
    return with_private_pages(getattr(dask_jobqueue, f"{system.name}Cluster"))(
        cores=config.workers_per_job * threads,
        processes=config.workers_per_job,
        memory=config.memory,
        python=config.python,
        local_directory=config.scratch,
        log_directory=config.logs or str(folder.path),
        interface=config.interface,
        security=security,
        protocol=network.get("protocol"),
        job_script_prologue=[*(f"export {k}={shlex.quote(v)}" for k, v in environment.items()), *config.prologue],
        worker_extra_args=[
            "--no-dashboard",
            "--preload",
            PRELOAD,
            "--lifetime",
            f"{config.lifetime}s",
            "--lifetime-stagger",
            f"{stagger}s",
        ]
        + (["--resources", f"GPU={threads}"] if config.gpu else []),
        scheduler_options=scheduler,
        **system.options(config),
    )


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
