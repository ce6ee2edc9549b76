"""Worker processes on this machine."""

from __future__ import annotations

import multiprocessing
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from daskreg.cluster.network import check_interface, network_options
from daskreg.cluster.options import Network, positive, size_of
from daskreg.cluster.owned_cluster import give_up_workers_after, owning_client
from daskreg.cluster.pages import NO_WORKER_PAGES, page_options, with_private_pages
from daskreg.cluster.preload import PRELOAD
from daskreg.errors import NoWorkersError, OptionError, RunError
from daskreg.runtime.device import cores, count_gpus, tasks_at_once, thread_environment
from daskreg.runtime.private_apis import memory_of_machine
from daskreg.runtime.worker_environment import nanny_type, worker_environment

if TYPE_CHECKING:
    from distributed import Client, LocalCluster

GUARD = (
    "connect() starts worker processes, which import this script again: "
    "put what the script does under `if __name__ == '__main__':`"
)

# When a worker dies, its nanny starts the next one. With the default (15 s), a local cluster gives up a worker
# permanently if it is away for a moment 15 seconds after another one has died there, and its nanny with it.
LOST_WORKER_TIMEOUT = "1 day"


@dataclass(frozen=True)
class LocalConfig(Network):
    """Worker processes on this machine.

    Args:
        workers: processes; None: one for each core, or one for each GPU.
        threads: tasks at once in each worker; None: one, or with a GPU one for each of the worker's cores, up to 8.
        memory: limit of each worker, such as "4 GiB"; None: the machine's, shared out.
        device: "auto", "cpu" or "cuda": whether workers are laid out for GPUs.
        scratch: folder for temporary files; None: the system's ($TMPDIR).
    """

    workers: int | None = None
    threads: int | None = None
    memory: str | None = None
    device: str = "auto"
    scratch: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "workers", "threads")
        if self.memory is not None:
            size_of("memory", self.memory)
        if self.device not in ("auto", "cpu", "cuda"):
            raise OptionError(f"device: {self.device!r} is not one of 'auto', 'cpu', 'cuda'")


def start_local(config: LocalConfig) -> Client:
    """A client of new workers; closing it ends them.

    Raises: NoWorkersError where a GPU is asked for and there is none; OptionError; RunError where they do not start.
    """
    _refuse_reimport()
    import dask

    if config.interface:
        check_interface(config.interface)
    give_up_workers_after(LOST_WORKER_TIMEOUT)
    gpus = 0 if config.device == "cpu" else count_gpus()
    if config.device == "cuda" and not gpus:
        raise NoWorkersError("device: cuda was asked for and torch sees no GPU on this machine")
    count = config.workers or gpus or max(1, cores() // (config.threads or 1))
    threads = config.threads or tasks_at_once(cores() // count, gpu=gpus > 0)
    memory = size_of("memory", config.memory) if config.memory else memory_of_machine() // count
    options = {
        "worker_class": nanny_type(),
        "threads_per_worker": threads,
        "memory_limit": memory,
        "local_directory": config.scratch,
        "preload": [*dask.config.get("distributed.worker.preload"), PRELOAD],
        "scheduler_kwargs": page_options(config),
        **network_options(config),
        # Each thread may have a task on the GPU.
        **({"resources": {"GPU": threads}} if gpus else {}),
        # Workers that are laid out for cores must not share a GPU, which the device "auto" would use.
        **({"env": {"CUDA_VISIBLE_DEVICES": ""}} if config.device == "cpu" else {}),
    }
    environment = thread_environment(threads, cores() // count)
    cluster = _start_local(count, gpus, environment, options)
    return owning_client(cluster, count, same_environment=True)


def _start_local(count: int, gpus: int, environment: dict[str, str], options: dict[str, Any]) -> LocalCluster:
    """A LocalCluster whose workers get `environment` before they load any library."""
    import dask
    from distributed import LocalCluster

    private: Any = with_private_pages(LocalCluster)

    class OneGpuEach(private):
        """Worker i sees GPU i (modulo their number) as its first and only one."""

        def new_worker_spec(self) -> dict[Any, Any]:
            spec: dict[Any, Any] = super().new_worker_spec()
            visible = [v for v in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if v]
            for name, worker in spec.items():
                number = int(name) % gpus
                pin = {"CUDA_VISIBLE_DEVICES": visible[number] if visible else str(number)}
                spec[name] = {**worker, "options": {**worker["options"], "env": pin}}
            return spec

    with worker_environment(environment), dask.config.set(NO_WORKER_PAGES):
        try:
            if gpus:
                cluster = OneGpuEach(n_workers=0, **options)
                cluster.scale(count)
                return cluster
            plain: LocalCluster = private(n_workers=count, **options)
            return plain
        except RuntimeError as error:
            if "Nanny" not in str(error):
                raise RunError(f"the local cluster did not start: {error}") from error
            # distributed's chain of errors tells no more than its last line.
            raise RunError(
                f"the local workers did not start ({error.__cause__ or error}); in a script, {GUARD}"
            ) from None


def _refuse_reimport() -> None:
    """End a worker that imports an unguarded script, in one line instead of a chain of starts."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise SystemExit(f"daskreg: {GUARD}")
