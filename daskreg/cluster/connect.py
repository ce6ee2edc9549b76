"""`connect()`: one Dask client from nothing, an address, a scheduler file or a cluster file."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daskreg.cluster.config import AddressConfig, Config, LocalConfig, SlurmConfig, read_config
from daskreg.cluster.network import dashboard_options, network_options, security_of
from daskreg.cluster.slurm import slurm_cluster
from daskreg.errors import InputError, NoWorkersError, OptionError, RunError
from daskreg.runtime.device import cores, count_gpus, tasks_at_once, thread_environment

if TYPE_CHECKING:
    from distributed import Client, LocalCluster

GUARD = (
    "connect() starts worker processes, which import this script again: "
    "put what the script does under `if __name__ == '__main__':`"
)

# Taken where the user's own Dask configuration says nothing else.
DEFAULTS = {
    "distributed": {
        "scheduler": {"allowed-failures": 10, "worker-ttl": "60s", "no-workers-timeout": "60s"},
        "worker": {"multiprocessing-method": "spawn"},
        "comm": {"retry": {"count": 3}},
    }
}
# A local cluster drops a place for good whose worker is away for a moment 15 seconds after one has
# died there, and its nanny, which would start the next one. So it does not look.
LOST_LOCALLY, LOST = "1 day", "15 s"
CONNECT_SECONDS = 30


def connect(
    spec: str | PathLike[str] | Config | None = None, *, workers: int | None = None, device: str | None = None
) -> Client:
    """A Dask client, which `write` then uses because it is the current one.

    Args:
        spec: None for worker processes on this machine, reachable from this machine only;
            an address such as "tcp://10.0.0.5:8786"; a scheduler file (JSON); a cluster
            file (YAML, see the folder cluster/); or a config object.
        workers: number of local workers, in place of the config's.
        device: "auto", "cpu" or "cuda" for local workers, in place of the config's.

    Closing the client, or leaving its `with` block, also ends the cluster that was started
    for it; a scheduler that ran before goes on. A local worker has one thread and its share
    of the memory; torch, numba and codecs are held to its share of the cores. Scripts need
    `if __name__ == "__main__":`.

    Raises:
        InputError: a file that is missing or not understood (OptionError: one of its values).
        NoWorkersError: no scheduler answers, or a GPU was asked for where none is.
        MissingExtraError: dask-jobqueue is needed and not installed.
        RunError: local workers did not start.
    """
    import dask
    import distributed  # noqa: F401 (its defaults have to be there before ours)

    config = as_config(spec)
    given: dict[str, Any] = {k: v for k, v in {"workers": workers, "device": device}.items() if v is not None}
    if given and not isinstance(config, LocalConfig):
        raise OptionError(f"{' and '.join(given)} can be given for a local cluster only")
    dask.config.update_defaults(DEFAULTS)
    if isinstance(config, AddressConfig):
        return _to_scheduler(config)
    if isinstance(config, SlurmConfig):
        return _to_slurm(config)
    return _to_local(dataclasses.replace(config, **given))


def as_config(spec: str | PathLike[str] | Config | None) -> Config:
    """What `connect(spec)` means, without starting anything."""
    if spec is None:
        return LocalConfig()
    if isinstance(spec, LocalConfig | SlurmConfig | AddressConfig):
        return spec
    text = os.fspath(spec)
    if "://" in text or re.fullmatch(r"[\w.-]+:\d+", text):
        return AddressConfig(address=text)
    if Path(text).suffix == ".json":
        return AddressConfig(scheduler_file=text)
    if Path(text).suffix in (".yaml", ".yml"):
        return read_config(text)
    raise OptionError(
        f"{text!r} is not an address (tcp://host:port), a scheduler file (.json) or a cluster file (.yaml)"
    )


def _give_up_after(time: str) -> None:
    import dask

    dask.config.update_defaults({"distributed": {"deploy": {"lost-worker-timeout": time}}})


def _to_local(config: LocalConfig) -> Client:
    _refuse_reimport()
    import dask
    from dask.utils import parse_bytes
    from distributed.system import MEMORY_LIMIT

    _give_up_after(LOST_LOCALLY)
    gpus = 0 if config.device == "cpu" else count_gpus()
    if config.device == "cuda" and not gpus:
        raise NoWorkersError("device: cuda was asked for and torch sees no GPU on this machine")
    count = config.workers or gpus or max(1, cores() // (config.threads or 1))
    threads = config.threads or tasks_at_once(cores() // count, gpu=gpus > 0)
    try:
        memory = parse_bytes(config.memory) if config.memory else MEMORY_LIMIT // count
    except ValueError as error:
        raise OptionError(f"memory: {config.memory!r} is not like '4 GiB'") from error
    options = {
        "threads_per_worker": threads,
        "memory_limit": memory,
        "local_directory": config.scratch,
        "preload": [*dask.config.get("distributed.worker.preload"), "daskreg.cluster.preload"],
        "scheduler_kwargs": dashboard_options(config),
        **network_options(config),
        # Each thread may have a task on the GPU.
        **({"resources": {"GPU": threads}} if gpus else {}),
        # What was laid out for cores must not meet on a GPU by way of "auto".
        **({"env": {"CUDA_VISIBLE_DEVICES": ""}} if config.device == "cpu" else {}),
    }
    environment = thread_environment(threads, cores() // count)
    cluster = _start_local(count, gpus, environment, options)
    return _owning(cluster, count)


def _start_local(count: int, gpus: int, environment: dict[str, str], options: dict[str, Any]) -> LocalCluster:
    """A LocalCluster whose workers get `environment` before they load any library."""
    from distributed import LocalCluster

    class OneGpuEach(LocalCluster):
        """Worker i sees GPU i (modulo their number) as its first and only one."""

        def new_worker_spec(self) -> dict[Any, Any]:
            spec: dict[Any, Any] = super().new_worker_spec()
            visible = [v for v in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if v]
            for name, worker in spec.items():
                number = int(name) % gpus
                pin = {"CUDA_VISIBLE_DEVICES": visible[number] if visible else str(number)}
                spec[name] = {**worker, "options": {**worker["options"], "env": pin}}
            return spec

    with _worker_environment(environment):
        try:
            if gpus:
                cluster = OneGpuEach(n_workers=0, **options)
                cluster.scale(count)
                return cluster
            return LocalCluster(n_workers=count, **options)
        except RuntimeError as error:
            if "Nanny" not in str(error):
                raise RunError(f"the local cluster did not start: {error}") from error
            # distributed's chain of errors tells no more than its last line.
            raise RunError(
                f"the local workers did not start ({error.__cause__ or error}); in a script, {GUARD}"
            ) from None


def _to_slurm(config: SlurmConfig) -> Client:
    _give_up_after(LOST)
    cluster = slurm_cluster(config)
    # Adaptive scaling replaces jobs that end at their walltime.
    cluster.adapt(minimum_jobs=config.jobs, maximum_jobs=max(config.jobs, config.maximum_jobs or 0))
    return _owning(cluster, 0)


def _to_scheduler(config: AddressConfig) -> Client:
    from distributed import Client

    place = config.address or str(config.scheduler_file)
    if config.scheduler_file is not None:
        # distributed waits for ever for a file that is not there.
        try:
            json.loads(Path(config.scheduler_file).read_text(encoding="utf-8"))["address"]
        except OSError as error:
            raise InputError(f"scheduler file {place}: {error.strerror}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{place} is not a scheduler file (JSON with an address)") from error
    target = {"address": config.address} if config.address else {"scheduler_file": config.scheduler_file}
    try:
        return Client(**target, security=security_of(config.tls), timeout=CONNECT_SECONDS)
    except (OSError, TimeoutError) as error:
        raise NoWorkersError(f"no Dask scheduler answers at {place} within {CONNECT_SECONDS} s") from error
    except ValueError as error:
        raise OptionError(f"{place}: {error}") from error


def _owning(cluster: Any, workers: int) -> Client:
    """A client that ends its cluster when it is closed."""
    from distributed import Client

    class ClusterClient(Client):
        def close(self, *args: Any, **options: Any) -> None:
            owned, self._owned = getattr(self, "_owned", None), None
            super().close(*args, **options)
            if owned is not None:
                owned.close()

    try:
        client = ClusterClient(cluster)
        if workers:
            client.wait_for_workers(workers, timeout=CONNECT_SECONDS)
    except BaseException:
        cluster.close()
        raise
    client._owned = cluster
    return client


@contextmanager
def _worker_environment(values: dict[str, str]) -> Iterator[None]:
    """Have workers that start in here begin with `values`, and leave this process as it was.

    distributed sets them in this process before it spawns, and prefers what it finds here
    to its configuration, so both are set.
    """
    import dask

    values = {"MALLOC_TRIM_THRESHOLD_": "65536", **values}
    before = {name: os.environ.get(name) for name in (*values, "PYTHONHASHSEED")}
    config = {"distributed.nanny.pre-spawn-environ": values}
    try:
        os.environ.update(values)
        with dask.config.set(config):
            yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _refuse_reimport() -> None:
    """End a worker that imports an unguarded script, in one line instead of a chain of starts."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise SystemExit(f"daskreg: {GUARD}")
