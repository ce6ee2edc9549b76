"""Workers as SLURM jobs, through dask-jobqueue."""

from __future__ import annotations

import shutil
import signal
import tempfile
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from daskreg.cluster.config import SlurmConfig, seconds
from daskreg.cluster.network import dashboard_options, in_files, network_options
from daskreg.errors import MissingExtraError
from daskreg.runtime.device import thread_environment


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
    security, folder = network_options(config).get("security"), None
    if config.tls == "temporary":
        folder = tempfile.mkdtemp(prefix=".daskreg-tls-", dir=config.shared or ".")
        security = in_files(security, Path(folder).resolve())
    cluster = SLURMCluster(
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
        job_extra_directives=[*(["--gres=gpu:1"] if config.gpu else []), *config.directives],
        job_script_prologue=[*(f"export {k}={v}" for k, v in environment.items()), *config.prologue],
        worker_extra_args=["--no-dashboard", "--lifetime", f"{lifetime}s", "--lifetime-stagger", "60s"]
        + (["--resources", f"GPU={threads}"] if config.gpu else []),
        scheduler_options=dashboard_options(config),
    )
    if folder:
        weakref.finalize(cluster, shutil.rmtree, folder, ignore_errors=True)
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
